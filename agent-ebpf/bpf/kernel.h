/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The few kernel structures that are read, by name only: clang records the accesses and the loader relocates them to
 * the running kernel (CO-RE), so members stand here in any order and without their neighbours. */
#ifndef HF_KERNEL_H
#define HF_KERNEL_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
	__u64 ns_id; /* 0 = as seq of mnt_namespace; since 6.18 */
};
struct net {
	struct ns_common ns;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
};
typedef struct {
	__s64 counter;
} atomic64_t;
struct sock_common {
	possible_net_t skc_net;
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	unsigned char skc_state;
	int skc_bound_dev_if;
	atomic64_t skc_cookie;
};
struct cgroup;
struct sock_cgroup_data {
	struct cgroup *cgroup; /* since 5.15 */
};
struct sock_cgroup_data___before_5_15 {
	__u64 val; /* a pointer to a cgroup, where its lowest bits are zero */
};
struct net_device {
	int ifindex;
};
struct dst_entry {
	struct net_device *dev;
};
struct sock {
	struct sock_common __sk_common;
	__u8 sk_userlocks : 4; /* a whole byte since 6.16 */
	__u16 sk_type;
	__u16 sk_protocol;
	struct dst_entry *sk_dst_cache;
	struct sock_cgroup_data sk_cgrp_data;
};
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};

struct kernfs_node {
	__u64 id;
};
struct cgroup_root {
	int hierarchy_id;
};
struct cgroup;
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
struct css_set {
	struct cgroup *dfl_cgrp;
};
struct cgroup_namespace {
	struct css_set *root_cset;
};
struct mount;
struct mnt_namespace {
	struct ns_common ns;
	struct mount *root;
	__u64 seq; /* 0 = of a tree that is mounted nowhere; until 6.17 */
};
struct super_block {
	unsigned long s_magic;
};
struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
};
struct qstr {
	union {
		struct {
			__u32 hash;
			__u32 len;
		};
		__u64 hash_len;
	};
	const unsigned char *name;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
	unsigned char d_iname[32]; /* where a short name is; longer in some kernels */
};
struct dentry___since_6_14 {
	union {
		unsigned char string[32];
	} d_shortname;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct socket {
	struct sock *sk;
};
struct vm_area_struct {
	struct file *vm_file;
};
struct unix_sock {
	struct path path; /* of the file that it is bound to */
};
struct file {
	unsigned int f_mode;
	unsigned int f_flags;
	struct path f_path;
	struct inode *f_inode;
};
struct backing_file {
	struct path user_path; /* since 6.8 */
};
struct linux_binprm {
	struct file *file;
};
typedef struct {
	__u64 val; /* since 6.3; an array of two words before */
} kernel_cap_t;
struct user_namespace;
struct cred {
	kernel_cap_t cap_effective;
};
struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct cgroup_namespace *cgroup_ns;
};
typedef struct {
	int counter;
} atomic_t;
struct signal_struct {
	atomic_t live;
};
struct thread_info {
	unsigned long flags;
	unsigned int status; /* x86 */
};
struct fs_struct {
	struct path root;
};
struct mm_struct {
	struct file *exe_file;
	unsigned long arg_start;
	unsigned long arg_end;
};
struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int pid;
	int tgid;
	struct css_set *cgroups;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	void *stack;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	const struct cred *real_cred;
	__u64 start_boottime;
	char comm[16];
	int softirq_disable_cnt; /* PREEMPT_RT */
};
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long di, si, dx, r10, r8, r9; /* the arguments of a 64-bit call, in order */
	unsigned long bx, cx, bp;	       /* with dx, si and di those of a 32-bit call */
	unsigned long orig_ax;
};
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long long regs[31];
	unsigned long long orig_x0;
	int syscallno;
};
#endif

#pragma clang attribute pop

#endif
