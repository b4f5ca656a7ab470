/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The structures that kernel programs and the agent share. src/abi.rs mirrors them; a test compares both layouts from
 * BTF. Padding is explicit, there is no bool, ports are in host byte order unless a name ends in _be. */
#ifndef HF_ABI_H
#define HF_ABI_H

/* The version of the layout of every pinned map but the flow state, and of the flow state. */
#define HF_LAYOUT 1
#define HF_FLOW_LAYOUT 1

enum hf_direction { HF_INGRESS = 0, HF_EGRESS = 1 };

/* IPv6 in network order; IPv4 as ::ffff:a.b.c.d. */
struct hf_addr {
	__u32 w[4];
};

/* hf_workload.flags; the two-bit fields are indexed by direction. */
#define HF_WL_ISOLATED(dir) (1u << (dir))	 /* by the Enforce policies */
#define HF_WL_WOULD_ISOLATE(dir) (4u << (dir))	 /* by Enforce and Audit policies together */
#define HF_WL_REJECT(dir) (16u << (dir))	 /* the default refusal is onDeny: Reject */
#define HF_WL_NET (1u << 6)			 /* some policy has network rules for it */
#define HF_WL_HOST_PART (1u << 7)		 /* a part of the host's own network namespace */
#define HF_WL_ANY_REJECT (1u << 8)		 /* some refusal may be Reject: look at connect */
#define HF_WL_WHOLE_HOST (1u << 9)		 /* a whole host: its loopback is itself */
#define HF_WL_CONTAINER (1u << 10)		 /* has a mount namespace of its own, which its runtime makes */
#define HF_WL_FILES (1u << 11)			 /* its access set has rules on files */

/* Beginnings of names: a bit for the first two bytes. */
#define HF_BEGINNING_WORDS 8
#define HF_BEGINNING(a, b) (((a) * 37u + (b)) % (64 * HF_BEGINNING_WORDS))

/* Of which paths no rule on files speaks: a bit for each beginning that the first (second) name of no path has of which some
 * rule does. One bit, of either name, is enough. Zeros say nothing. */
struct hf_elsewhere {
	__u64 first[HF_BEGINNING_WORDS];
	__u64 second[HF_BEGINNING_WORDS];
};

#define HF_NO_RULE 0xffff

/* What a workload index stands for. One update flips a workload from one policy set to another. */
struct hf_workload {
	__u32 view;
	__u32 net_set;
	__u32 sys_set; /* 0 = no system call rules */
	__u32 access_set; /* 0 = no process, file or capability rules */
	__u32 pod;     /* one number for all cgroups of a pod, never used again */
	__u32 gen;     /* differs with every change of any workload */
	__u32 flags;
	__u16 default_rule[2];	     /* by direction */
	__u16 would_default_rule[2]; /* by direction */
	__u32 pad;
	struct hf_elsewhere elsewhere; /* of the access set, here as most files that are opened need no more of it */
};

/* Entities of an address, and what else is known of it. */
#define HF_ENT_HOST 1u
#define HF_ENT_CLUSTER 2u
#define HF_ENT_WORLD 4u
#define HF_ENT_KUBE_APISERVER 8u
#define HF_ENT_MASK 0xffu
#define HF_ADDR_SERVICE (1u << 8) /* a virtual address: decided by its backends */

struct hf_address {
	__u32 identity; /* of a pod or external workload; of a service its own number; else 0 */
	__u32 flags;
	__u32 pod; /* the pod number where the address is of a pod on this node, else 0 */
};

/* The first of eight workload indexes that only the agent's canary has: it is refused and counted, and not told of. */
#define HF_CANARY 0xfffffff0u

/* Classes that every view has. */
#define HF_CLASS_NONE 0
#define HF_CLASS_ANY 1
#define HF_CLASS_NODE_FLOW 2

struct hf_class_key {
	__u32 view;
	__u32 identity;
	__u32 flags; /* hf_address.flags */
};

#define HF_CIDR_BITS (32 + 128)
struct hf_cidr_key {
	__u32 prefixlen; /* 32 + the length of the prefix */
	__u32 space_be;	 /* view << 1 | is IPv6, in network order as tries compare bytes */
	struct hf_addr addr; /* IPv4: the address in w[0], the rest zero */
};

/* Protocols as verdicts name them. */
#define HF_PROTO_OTHER 255

#define HF_VERDICT_BITS_PORT 96
#define HF_VERDICT_BITS_PROTO 80
#define HF_VERDICT_BITS_CLASS 72
struct hf_verdict_key {
	__u32 prefixlen;
	__u32 set_be;
	__u32 class_be;
	__u8 direction;
	__u8 proto;
	__u16 port_be;
};

#define HF_V_ALLOW 1
#define HF_V_DENY 2
#define HF_V_REJECT 4 /* the refusal that deny_rule names is Reject */
#define HF_V_WOULD_ALLOW 8
#define HF_V_WOULD_DENY 16
struct hf_verdict {
	__u8 flags;
	__u8 pad;
	__u16 deny_rule;
	__u16 would_rule;
	__u16 pad2;
};

/* What was decided for a flow. */
#define HF_D_DENIED 1
#define HF_D_REJECT 2
#define HF_D_WOULD_DENY 4
#define HF_D_SERVICE 8 /* of a Service's address: a change of its backends decides new flows only */
struct hf_decision {
	__u32 gen;
	__u32 epoch;
	__u16 rule;	  /* of HF_D_DENIED */
	__u16 would_rule; /* of HF_D_WOULD_DENY */
	__u8 flags;
	__u8 pad[3];
};

/* TCP: stored with the socket. */
#define HF_F_DIRECTION_KNOWN 1
#define HF_F_PEER_KNOWN 2
#define HF_F_SENT 8 /* this datagram socket has sent something that was allowed */
#define HF_F_NODE 4 /* opened by a socket of the host's own network namespace */
struct hf_tcp_flow {
	struct hf_decision decision;
	struct hf_addr peer;
	__u16 port; /* the server's */
	__u8 direction;
	__u8 flags;
};

/* Everything else: found by its addresses. */
struct hf_flow_key {
	__u32 pod;
	struct hf_addr peer;
	__u16 peer_port;
	__u16 local_port;
	__u8 proto;
	__u8 pad[3];
};
struct hf_flow {
	struct hf_decision decision;
	__u64 seen_ns;
	__u8 direction;
	__u8 flags;
	__u8 pad[6];
};

/* Flows that this node's own sockets opened to its pods. */
struct hf_node_flow_key {
	struct hf_addr from;
	struct hf_addr to;
	__u16 from_port;
	__u16 to_port;
	__u8 proto;
	__u8 pad[3];
};

enum hf_kind {
	HF_KIND_INGRESS = 0,
	HF_KIND_EGRESS = 1,
	HF_KIND_SYSCALL = 2,
	HF_KIND_PROCESS = 3,
	HF_KIND_FILE = 4,
	HF_KIND_CAPABILITY = 5,
};
struct hf_counter_key {
	__u32 workload;
	__u32 set;
	__u16 rule;
	__u8 kind;
	__u8 given; /* enum hf_given */
};
enum hf_given {
	HF_GIVEN_DROP = 0,
	HF_GIVEN_REJECT = 1,
	HF_GIVEN_DENY = 2,
	HF_GIVEN_DENY_AND_KILL = 3,
	HF_GIVEN_KILL_AFTER_EFFECT = 4,
	HF_GIVEN_AUDIT = 5,
};

/* One element: what holds for the whole node. */
#define HF_C_NODE_FLOWS 1u /* some pod here is isolated at ingress: record the node's own flows */
struct hf_control {
	__u32 epoch; /* moves when addresses or classes change */
	__u32 host_netns; /* inode number of the host's network namespace */
	__u32 flags;
	__u32 highest; /* number that any agent gave out */
	struct hf_elsewhere elsewhere; /* for every workload */
};

/* A cgroup of the v2 hierarchy came or went. */
#define HF_CGROUP_PATH 512
enum hf_cgroup_event_kind { HF_CGROUP_MADE = 1, HF_CGROUP_GONE = 2 };
struct hf_cgroup_event {
	__u64 id;
	__u64 parent;
	__u32 kind;
	__u32 path_len; /* with the final zero; 0 = the path did not fit or could not be read */
	char path[HF_CGROUP_PATH];
};

/* Processes by thread group id: may the system call and file rules speak to it yet? One without an entry is inside: it
 * was there before the agent, or has never been where a workload is. */
#define HF_P_EXEMPT 1 /* entered its workload from outside and has not executed a program since */
#define HF_P_INSIDE 2
struct hf_process {
	__u64 cgroup; /* inside: where it was when this was written; exempt: where whoever moved it was, 0 = not known */
	__u32 pod;    /* of that cgroup; 0 = none, or not known then */
	__u32 state;
	__u32 mnt_ns; /* exempt: mount namespace of whoever moved it, 0 = it moved itself */
	__u32 pad;
};

/* System calls: (set, abi, number) -> how many clauses, and by which hooks. The x32 entry (bit 30) is looked up as
 * native under the number without that bit. Threads of io_uring count as calls of io_uring_enter. */
enum hf_abi { HF_ABI_NATIVE = 0, HF_ABI_COMPAT = 1 };
#define HF_NR_ANY 0xffffffff /* allow-lists: every call without a row; arm64, compat: every call of a 32-bit program */
struct hf_syscall_key {
	__u32 set;
	__u32 abi;
	__u32 nr;
};
#define HF_MAX_CLAUSES 64
struct hf_syscall {
	__u64 hooks; /* bits of hooks.h: where this call may be refused on this node */
	__u32 clauses;
	__u32 flags;
};
#define HF_SYS_AT_ENTRY 1 /* evaluated at sys_enter, as no hook serves */

enum hf_action { HF_A_ALLOW = 0, HF_A_AUDIT = 1, HF_A_DENY = 2, HF_A_KILL = 3 };
/* How an argument may stand to a condition's value; a comparison is the set of those that it takes. */
#define HF_CMP_LESS 1
#define HF_CMP_EQUAL 2
#define HF_CMP_GREATER 4
#define HF_CMP_ANY 7
/* (argument & keep) ^ sign, compared with value ^ sign, both as unsigned numbers. */
struct hf_condition {
	__u64 value;
	__u64 keep; /* the bits of the argument that are compared: those of the width, and of the mask if there is one */
	__u64 sign; /* the sign bit of that width where the order of signed numbers is meant, else 0 */
	__u8 accept; /* of HF_CMP_*; HF_CMP_ANY where there is no condition */
	__u8 pad[7];
};
#define HF_ARGUMENTS 6
struct hf_clause_key {
	__u32 set;
	__u32 abi;
	__u32 nr;
	__u32 index;
};
#define HF_CL_AUDIT_MODE 1 /* of a policy in mode Audit */
#define HF_CL_AND_NEXT 2   /* holds only if the next clause does too, which then decides */
struct hf_clause {
	__u16 policy; /* ordinal in the set; the first matching clause of each policy decides */
	__u16 rule;
	__u8 action;
	__u8 flags;
	__u8 pad[2];
	struct hf_condition condition[HF_ARGUMENTS]; /* by argument register */
};

/* --- events ------------------------------------------------------------------------------------------------------ */

/* One record of the ring buffers `denials` and `audits`: what was counted under a key, and how. Where the task that did
 * it is known, an hf_task follows (hf_task_event). */
#define HF_E_PACKET 1  /* from, to, ports and proto say something */
#define HF_E_FROM 2    /* `from` and its port are known too */
#define HF_E_PORTS 4   /* ports are known */
#define HF_E_CALL 8    /* abi and nr say something */
#define HF_E_ARGUMENTS 16
#define HF_E_TASK 32   /* an hf_task follows */
#define HF_E_OBJECT 64 /* and an hf_object after it */
#define HF_NO_HOOK 0xff
struct hf_event {
	__u64 time_ns; /* CLOCK_BOOTTIME */
	struct hf_counter_key key;
	__u32 flags;
	__u64 suppressed; /* under this key, ever: those without a record as they came too fast */
	__u64 lost;	  /* of this ring buffer, ever: those that found no room */
	__u64 cgroup;	  /* of the task; of a packet: of the socket's creator; 0 = not known */
	__u64 argument[HF_ARGUMENTS];
	struct hf_addr from;
	struct hf_addr to;
	__u16 from_port;
	__u16 to_port;
	__u32 nr;
	__u8 abi; /* enum hf_abi */
	__u8 proto;
	__u8 program; /* enum hf_program */
	__u8 hook;    /* enum hf_hook of hooks.h, or HF_NO_HOOK */
	__u32 pad;
};

/* A path: the names from the last to the first, each with a final zero. Names may begin in the first part, a power of two;
 * the rest holds the end of the last. */
#define HF_TASK_PATH 1024
#define HF_TASK_PARENT_PATH 256
#define HF_NAME_SIZE 256
#define HF_TASK_ARGUMENTS 512
#define HF_TASK_NAME 16
#define HF_TASK_ROOTED 1	      /* the path begins at the task's root; else at a root that is mounted nowhere */
#define HF_TASK_PATH_CUT 2	      /* its beginning is missing */
#define HF_TASK_PARENT_ROOTED 4  /* the same of the parent's */
#define HF_TASK_PARENT_PATH_CUT 8
struct hf_task {
	__u64 start_ns; /* of the process, CLOCK_BOOTTIME */
	__u32 tgid;
	__u32 pid;
	__u32 parent;	      /* thread group */
	__u32 arguments_size; /* as the process has them; what is here is at most HF_TASK_ARGUMENTS of it, 0 = not read */
	__u32 flags;
	__u16 path_size;
	__u16 parent_path_size;
	char name[HF_TASK_NAME];
	char path[HF_TASK_PATH + HF_NAME_SIZE];
	char parent_path[HF_TASK_PARENT_PATH + HF_NAME_SIZE];
	char arguments[HF_TASK_ARGUMENTS]; /* each with a final zero */
};
struct hf_task_event {
	struct hf_event event;
	struct hf_task task;
};

/* What it was done to: a file, or a program that was to be executed. */
#define HF_OBJECT_PATH 1024
#define HF_OBJECT_ROOTED 1   /* a path of its mount namespace; else only the name of what is mounted nowhere */
#define HF_OBJECT_PATH_CUT 2 /* its beginning is missing */
#define HF_OBJECT_PARTIAL 4  /* it is of a tree that is mounted nowhere, or could not be read to its end */
/* Where a file is, as far as its mounts tell. */
enum hf_origin {
	HF_ORIGIN_UNKNOWN = 0, /* the root of its mount namespace is no overlayfs, or the path could not be read */
	HF_ORIGIN_IMAGE,       /* in a lower layer of the overlay that is the root */
	HF_ORIGIN_WRITTEN,     /* in its upper layer: written or changed since the container was made */
	HF_ORIGIN_MEMORY,      /* mounted nowhere: memfd */
	HF_ORIGIN_TMPFS,       /* on a tmpfs that is mounted below the root */
	HF_ORIGIN_VOLUME,      /* on something else that is */
};
struct hf_object {
	__u16 does; /* a bit for each hf_operation; 0 = it was to be executed */
	__u8 origin; /* enum hf_origin */
	__u8 pad;
	__u16 flags;
	__u16 path_size;
	char path[HF_OBJECT_PATH];
};
struct hf_object_event {
	struct hf_event event;
	struct hf_task task;
	struct hf_object object;
};

/* A token bucket for each key of a counter. */
#define HF_EVENT_BURST 10
#define HF_EVENT_EVERY_NS (500ull * 1000 * 1000)
struct hf_bucket {
	__u64 full_ns; /* when it is full again, CLOCK_BOOTTIME */
	__u64 suppressed;
};

/* The array `event_lost`: by ring buffer, and what the agent has told of each. */
enum hf_lost { HF_LOST_DENIALS = 0, HF_LOST_AUDITS = 1, HF_TOLD_DENIALS = 2, HF_TOLD_AUDITS = 3, HF_LOST_MAX };

/* Paths: many patterns as one automaton. A state's row is in the map of rows: what the state stands for, then the next
 * state for each column of bytes. */
#define HF_PATH_ROWS 131072
#define HF_ROW_CELLS 32
#define HF_STATE_DEAD 0 /* nothing can match any more */
#define HF_STATE_START 1
#define HF_CELL_OUTCOME 0 /* which patterns match a path that ends here; 0 = none */
#define HF_CELL_REACH 1	  /* which outcomes can still come; 0 = none */
#define HF_CELL_NEXT 2	  /* columns from here on */
struct hf_path_row {
	__u16 cell[HF_ROW_CELLS];
};
struct hf_automaton {
	__u32 base;	/* 0 = no patterns */
	__u32 elements; /* of a row */
	__u32 size;	/* elements of all rows */
	__u8 column[256]; /* by byte: the cell that says which state is next */
};

/* An access set: what decides executables, files and capabilities. */
#define HF_ACCESS_PROCESSES 1
#define HF_ACCESS_FILES 2
#define HF_ACCESS_CAPABILITIES 4
#define HF_ACCESS_REFUSES 8 /* some rule on paths, of an Enforce policy, refuses */
struct hf_access {
	__u64 capabilities; /* a bit for each that some policy denies */
	__u32 flags;
	__u16 unknown_rule; /* of HF_ACCESS_REFUSES: the first such rule, which counts what cannot be told */
	__u16 pad;
	struct hf_automaton executables;
	struct hf_automaton files;
};

enum hf_operation {
	HF_OP_READ = 0,
	HF_OP_WRITE,
	HF_OP_CREATE,
	HF_OP_DELETE,
	HF_OP_RENAME,
	HF_OP_LINK,
	HF_OP_CHMOD,
	HF_OP_EXECUTE_MAP,
	HF_OPERATIONS,
};
enum hf_access_kind {
	HF_ACCESS_EXECUTABLE = 0, /* a = outcome of the executable; answers: in the image, not in it */
	HF_ACCESS_FILE = 1,	  /* a = outcome of the file, b = of the executable; answers by operation */
	HF_ACCESS_MOVE = 2,	  /* a = reach, b = outcome of the executable; one answer */
	HF_ACCESS_CAPABILITY = 3, /* a = number; one answer */
	HF_ACCESS_LOADER = 4,	  /* a = outcome of an executable that is a dynamic loader: there is a row */
};
struct hf_access_key {
	__u32 set;
	__u16 a;
	__u16 b;
	__u32 kind;
};
struct hf_access_answer {
	__u16 rule;
	__u16 would_rule;
	__u8 action; /* enum hf_action, of the Enforce policies */
	__u8 would_action; /* of the Audit policies, where stricter still */
	__u8 pad[2];
};
struct hf_access_row {
	struct hf_access_answer answer[HF_OPERATIONS];
};

/* A socket whose connection is refused by now, with what it takes to find it again. */
struct hf_socket {
	__u64 cookie; /* 0 = it has none yet */
	__u64 cgroup; /* of its creator */
	struct hf_addr local; /* as the socket has it: of AF_INET in w[0] */
	struct hf_addr remote;
	__u32 netns; /* inode number of its network namespace */
	__u32 device; /* that it is bound to, or 0 */
	__u16 local_port;
	__u16 remote_port;
	__u8 family;
	__u8 proto;
	__u8 pad[2];
};

/* A helper failed: by program and helper. */
enum hf_program {
	HF_PROG_EGRESS = 1,
	HF_PROG_INGRESS,
	HF_PROG_CONNECT,
	HF_PROG_SENDMSG,
	HF_PROG_SOCKOPS,
	HF_PROG_CGROUP,
	HF_PROG_PROCESS,
	HF_PROG_SYSCALL,
	HF_PROG_SYS_ENTER,
	HF_PROG_ACCESS,
};
enum hf_helper {
	HF_HELPER_MAP_UPDATE = 1,
	HF_HELPER_STORAGE,
	HF_HELPER_PROBE_READ,
	HF_HELPER_RINGBUF,
	HF_HELPER_SKB_LOAD,
	HF_HELPER_SEND_SIGNAL,
	HF_HELPER_COUNTER,
	HF_HELPER_CLAUSE, /* a clause that its call's entry counts is not there */
	HF_HELPER_PATH,	  /* a path that could not be read, or was in use by another task */
	HF_HELPER_ACCESS, /* an access set, or a row of one, that is not there */
};
struct hf_error_key {
	__u16 program;
	__u16 helper;
};

#endif
