/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The verdict on one packet: who the peer is, what the policy set says of it, and what the flow was told before. */
#ifndef HF_NET_H
#define HF_NET_H

#include "events.h"
#include "packet.h"

#define HF_AF_INET 2
#define HF_AF_INET6 10
#define HF_SOCK_STREAM 1
#define HF_SOCK_DGRAM 2
#define HF_SOCK_RAW 3
/* include/net/sock.h */
#define HF_SOCK_BINDPORT_LOCK 8
#define HF_LOOPBACK_IFINDEX 1
/* include/net/tcp_states.h */
#define HF_TCP_SYN_SENT 2
#define HF_TCP_SYN_RECV 3
#define HF_TCP_LISTEN 10
#define HF_TCP_NEW_SYN_RECV 12
/* A UDP flow without packets for this long is over: a later packet of the peer is a new flow. The time is that of the
 * kernel's own connection tracking for a stream of UDP packets (nf_conntrack_udp_timeout_stream was 180 s before 5.1,
 * 120 s since). */
#define HF_FLOW_IDLE_NS (120ull * 1000 * 1000 * 1000)
/* What a socket of the node sends arrives at a pod of the node at once. Later packets with the same addresses and ports
 * may be somebody else's, whom masquerading gave the node's address. */
#define HF_NODE_FLOW_NS (5ull * 1000 * 1000 * 1000)
#define HF_FLOW_TOUCH_NS (1000ull * 1000 * 1000)

HF_HASH(addresses, BPF_MAP_TYPE_HASH, struct hf_addr, struct hf_address, 262144, BPF_F_NO_PREALLOC);
HF_HASH(classes, BPF_MAP_TYPE_HASH, struct hf_class_key, __u32, 131072, BPF_F_NO_PREALLOC);
HF_HASH(cidrs, BPF_MAP_TYPE_LPM_TRIE, struct hf_cidr_key, __u32, 65536, BPF_F_NO_PREALLOC);
HF_HASH(verdicts, BPF_MAP_TYPE_LPM_TRIE, struct hf_verdict_key, struct hf_verdict, 1048576, BPF_F_NO_PREALLOC);
HF_HASH(flows, BPF_MAP_TYPE_LRU_HASH, struct hf_flow_key, struct hf_flow, 65536, 0);
HF_HASH(node_flows, BPF_MAP_TYPE_LRU_HASH, struct hf_node_flow_key, __u64, 16384, 0);
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct hf_tcp_flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tcp_flows SEC(".maps");

/* What is asked: may this workload, in this direction, with this peer? */
struct hf_question {
	struct hf_addr peer;
	__u16 port; /* the server's: the peer's at egress, our own at ingress */
	__u8 proto;
	__u8 v6;
	__u8 fragment;
	__u8 loopback;	/* 0 or 1, as are */
	__u8 node_flow; /* this and `v6` */
	__u8 direction;
};

/* The look-ups are global functions that take and return numbers: the verifier walks each once, alone, and knows nothing
 * of what comes back, so that no way through one is followed on in its callers. */
__attribute__((noinline)) __u32 hf_class_of(__u32 view, __u32 identity, __u32 flags)
{
	struct hf_class_key key = { .view = view, .identity = identity, .flags = flags };
	__u32 *class = bpf_map_lookup_elem(&classes, &key);

	return class ? *class : HF_CLASS_NONE;
}

/* `high` and `low` are the address, as it lies in memory. */
__attribute__((noinline)) __u32 hf_cidr_class_of(__u32 view, __u32 v6, __u64 high, __u64 low)
{
	struct hf_cidr_key key = {};
	__u32 *class;

	key.space_be = bpf_htonl(view << 1 | (v6 & 1));
	if (v6 & 1) {
		key.prefixlen = HF_CIDR_BITS;
		__builtin_memcpy(&key.addr.w[0], &high, sizeof(high));
		__builtin_memcpy(&key.addr.w[2], &low, sizeof(low));
	} else {
		__u32 last[2];

		__builtin_memcpy(last, &low, sizeof(low));
		key.prefixlen = 32 + 32;
		key.addr.w[0] = last[1];
	}
	class = bpf_map_lookup_elem(&cidrs, &key);
	return class ? *class : HF_CLASS_NONE;
}

/* A row of the verdicts in one number. */
#define HF_ROW(flags, deny_rule, would_rule)                                                       \
	((__u64)(flags) | (__u64)(deny_rule) << 16 | (__u64)(would_rule) << 32)
/* What it is looked up by, but for set and class. */
#define HF_HOW(prefixlen, direction, proto, port)                                                  \
	((__u64)(port) | (__u64)(proto) << 16 | (__u64)(direction) << 24 | (__u64)(prefixlen) << 32)

/* What the set says of a class; rows without a deny rule hold HF_NO_RULE. */
__attribute__((noinline)) __u64 hf_row(__u32 set, __u32 class, __u64 how)
{
	struct hf_verdict_key key = {};
	struct hf_verdict *row = NULL;

	key.prefixlen = how >> 32;
	key.set_be = bpf_htonl(set);
	key.class_be = bpf_htonl(class);
	key.direction = how >> 24;
	key.proto = how >> 16;
	key.port_be = bpf_htons((__u16)how);
	if (class != HF_CLASS_NONE)
		row = bpf_map_lookup_elem(&verdicts, &key);
	if (!row)
		return HF_ROW(0, HF_NO_RULE, HF_NO_RULE);
	return HF_ROW(row->flags, row->deny_rule, row->would_rule);
}

HF_INLINE __u64 hf_how(const struct hf_question *q)
{
	if (!hf_has_ports(q->proto))
		return HF_HOW(HF_VERDICT_BITS_PORT, q->direction, HF_PROTO_OTHER, 0);
	if (q->fragment)
		return HF_HOW(HF_VERDICT_BITS_PROTO, q->direction, q->proto, 0);
	return HF_HOW(HF_VERDICT_BITS_PORT, q->direction, q->proto, q->port);
}

/* What several classes of the peer say together. Rules are numbered in the order of their policies' names: the least is
 * the one to name, and HF_NO_RULE is greater than all. */
struct hf_answer {
	__u32 flags;
	__u32 deny_rule;
	__u32 would_rule;
};
HF_INLINE void hf_join(struct hf_answer *v, __u64 row)
{
	__u32 flags = row & 0xff, rule = (row >> 16) & 0xffff, first = hf_less(rule, v->deny_rule);

	v->deny_rule ^= (v->deny_rule ^ rule) * first;
	v->flags ^= ((v->flags ^ flags) & HF_V_REJECT) * first;
	rule = (row >> 32) & 0xffff;
	first = hf_less(rule, v->would_rule);
	v->would_rule ^= (v->would_rule ^ rule) * first;
	v->flags |= flags & ~HF_V_REJECT;
}

/* What else is asked, above what a row is looked up by. The first three are flags of the workload in this direction, as
 * far from each other as HF_WL_ISOLATED, HF_WL_WOULD_ISOLATE and HF_WL_REJECT are. */
#define HF_ASK_HOW ((1ull << 48) - 1)
#define HF_ASK_DIRECTION 48
#define HF_ASK_ISOLATED (1ull << 48)
#define HF_ASK_WOULD_ISOLATE (1ull << 50)
#define HF_ASK_REJECT (1ull << 52)
#define HF_ASK_HOST_PART (1ull << 53)
#define HF_ASK_LOOPBACK (1ull << 54)
#define HF_ASK_NODE_FLOW (1ull << 55)
#define HF_ASK_V6 (1ull << 56)

/* The verdict, of numbers alone as the look-ups that it makes. `who` holds set and view, `mine` the workload's pod and its
 * rules of the default, `high` and `low` the peer's address as it lies in memory. Returns flags and rules as HF_ROW does. */
__attribute__((noinline)) __u64 hf_verdict(__u64 who, __u64 mine, __u64 high, __u64 low, __u64 asked)
{
	struct hf_answer v = { .deny_rule = HF_NO_RULE, .would_rule = HF_NO_RULE };
	__u32 set = who, view = who >> 32, pod = mine, host_part = !!(asked & HF_ASK_HOST_PART);
	__u32 first = HF_CLASS_ANY, second = HF_CLASS_NONE, third = HF_CLASS_NONE;
	__u32 identity = 0, flags = HF_ENT_WORLD, service = 0;
	__u64 how = asked & HF_ASK_HOW;
	struct hf_address *known;
	struct hf_addr peer;

	if ((asked & HF_ASK_LOOPBACK) && !host_part)
		return HF_ROW(0, HF_NO_RULE, HF_NO_RULE);
	__builtin_memcpy(&peer.w[0], &high, sizeof(high));
	__builtin_memcpy(&peer.w[2], &low, sizeof(low));
	known = bpf_map_lookup_elem(&addresses, &peer);
	if (known && known->pod && known->pod == pod && !host_part)
		return HF_ROW(0, HF_NO_RULE, HF_NO_RULE); /* itself */
	if (known) {
		identity = known->identity;
		flags = known->flags;
	}
	if ((asked & HF_ASK_LOOPBACK) && !(flags & HF_ENT_HOST)) {
		identity = 0;
		flags = HF_ENT_HOST;
	}
	if (asked & HF_ASK_NODE_FLOW) {
		first = HF_CLASS_NODE_FLOW;
		asked &= ~(HF_ASK_ISOLATED | HF_ASK_WOULD_ISOLATE);
	} else if ((flags & HF_ADDR_SERVICE) && (how >> 24 & 1) == HF_EGRESS && !host_part) {
		first = hf_class_of(view, identity, flags);
		service = HF_D_SERVICE;
	} else {
		if (flags & HF_ADDR_SERVICE) {
			identity = 0;
			flags = HF_ENT_WORLD;
		}
		second = hf_class_of(view, identity, flags);
		third = hf_cidr_class_of(view, !!(asked & HF_ASK_V6), high, low);
	}
	hf_join(&v, hf_row(set, first, how));
	hf_join(&v, hf_row(set, second, how));
	hf_join(&v, hf_row(set, third, how));

	if (v.flags & HF_V_DENY)
		return HF_ROW(service | HF_D_DENIED | (v.flags & HF_V_REJECT ? HF_D_REJECT : 0), v.deny_rule,
			      HF_NO_RULE);
	if ((asked & HF_ASK_ISOLATED) && !(v.flags & HF_V_ALLOW))
		return HF_ROW(service | HF_D_DENIED | (asked & HF_ASK_REJECT ? HF_D_REJECT : 0),
			      mine >> 32 & 0xffff, HF_NO_RULE);
	if (v.flags & HF_V_WOULD_DENY)
		return HF_ROW(service | HF_D_WOULD_DENY, HF_NO_RULE, v.would_rule);
	if ((asked & HF_ASK_WOULD_ISOLATE) && !(v.flags & (HF_V_ALLOW | HF_V_WOULD_ALLOW)))
		return HF_ROW(service | HF_D_WOULD_DENY, HF_NO_RULE, mine >> 48);
	return HF_ROW(service, HF_NO_RULE, HF_NO_RULE);
}

HF_INLINE void hf_decide(const struct hf_workload *wl, const struct hf_question *q, struct hf_decision *d)
{
	struct hf_control *c = hf_control();
	__u32 dir = q->direction & 1;
	__u64 asked = hf_how(q), high, low, row;

	/* Without a branch: see hf_less. */
	asked |= (__u64)(wl->flags >> dir & (HF_WL_ISOLATED(0) | HF_WL_WOULD_ISOLATE(0) | HF_WL_REJECT(0)))
		 << HF_ASK_DIRECTION;
	asked |= (__u64)(wl->flags / HF_WL_HOST_PART & 1) * HF_ASK_HOST_PART;
	asked |= (__u64)q->loopback * HF_ASK_LOOPBACK + (__u64)q->node_flow * HF_ASK_NODE_FLOW +
		 (__u64)q->v6 * HF_ASK_V6;
	__builtin_memcpy(&high, &q->peer.w[0], sizeof(high));
	__builtin_memcpy(&low, &q->peer.w[2], sizeof(low));
	/* Before the verdict, so that one that is made of older rules is not taken for one of newer. */
	d->gen = wl->gen;
	d->epoch = c ? c->epoch : 0;
	row = hf_verdict(wl->net_set | (__u64)wl->view << 32,
			 wl->pod | (__u64)wl->default_rule[dir] << 32 |
				 (__u64)wl->would_default_rule[dir] << 48,
			 high, low, asked);
	d->flags = row;
	d->rule = row >> 16;
	d->would_rule = row >> 32;
}

HF_INLINE int hf_current(const struct hf_decision *d, const struct hf_workload *wl)
{
	struct hf_control *c = hf_control();

	if (d->gen != wl->gen || !c)
		return 0;
	return d->epoch == c->epoch || (d->flags & (HF_D_SERVICE | HF_D_DENIED)) == HF_D_SERVICE;
}

/* What is to be said of a packet: the bits of HF_WHAT without program and hook, and these. */
#define HF_SAY_REFUSED (1ull << 62)
#define HF_SAY_REPORT (1ull << 63)

HF_INLINE __u64 hf_say(const struct hf_decision *d, __u8 direction)
{
	if (d->flags & HF_D_DENIED)
		return HF_SAY_REFUSED | HF_SAY_REPORT | HF_WHAT(d->rule, direction, HF_GIVEN_DROP, 0, 0);
	if (d->flags & HF_D_WOULD_DENY)
		return HF_SAY_REPORT | HF_WHAT(d->would_rule, direction, HF_GIVEN_AUDIT, 0, 0);
	return 0;
}

/* The same, where the node refuses nothing for a while. */
HF_INLINE __u64 hf_say_now(__u64 said)
{
	if (!(said & HF_SAY_REFUSED) || !hf_glass_is_broken())
		return said;
	return HF_SAY_REPORT | (said & 0xffffff) | HF_WHAT(0, 0, HF_GIVEN_AUDIT, 0, 0);
}

/* The packet's headers once more: what is told is the rare case, and so costs the others nothing. */
HF_INLINE void hf_note_headers(struct __sk_buff *skb, struct hf_event *event)
{
	__u32 transport = hf_transport(skb), offset = transport & HF_T_OFFSET;
	struct hf_ports ports;

	if (skb->protocol == bpf_htons(0x0800)) {
		hf_v4(&event->from, 0);
		hf_v4(&event->to, 0);
		hf_load(skb, __builtin_offsetof(struct hf_ip4, src), &event->from.w[3], 4);
		hf_load(skb, __builtin_offsetof(struct hf_ip4, dst), &event->to.w[3], 4);
	} else {
		hf_load(skb, __builtin_offsetof(struct hf_ip6, src), &event->from, sizeof(event->from));
		hf_load(skb, __builtin_offsetof(struct hf_ip6, dst), &event->to, sizeof(event->to));
	}
	event->proto = transport >> HF_T_PROTO_SHIFT;
	if (transport & (HF_T_BROKEN | HF_T_FRAGMENT) || !hf_has_ports(event->proto))
		return;
	if (hf_load(skb, offset, &ports, sizeof(ports)))
		return;
	event->from_port = bpf_ntohs(ports.src);
	event->to_port = bpf_ntohs(ports.dst);
	event->flags |= HF_E_PORTS;
}

HF_INLINE void hf_fill_packet(struct __sk_buff *skb, struct hf_event *event, const struct hf_counter_key *key,
			      __u64 suppressed, __u64 what, __u32 flags)
{
	hf_begin(event, key, suppressed, flags | HF_E_PACKET | HF_E_FROM);
	event->cgroup = bpf_skb_cgroup_id(skb);
	event->program = what >> 32;
	hf_note_headers(skb, event);
}

/* Without a task. */
HF_INLINE int hf_tell_bare_packet(struct __sk_buff *skb, const struct hf_counter_key *key, __u64 suppressed, __u64 what)
{
	struct hf_event *event = hf_reserve(key, sizeof(*event));

	if (!event)
		return 0;
	hf_fill_packet(skb, event, key, suppressed, what, 0);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Tells of a packet: refused, or one that would have been. */
__attribute__((noinline)) int hf_tell_packet(struct __sk_buff *skb, __u64 who, __u64 what)
{
	struct hf_counter_key key = hf_key(who, what);
	struct hf_bucket *bucket = hf_take_token(&key);

	return bucket ? hf_tell_bare_packet(skb, &key, bucket->suppressed, what) : 0;
}

/* Of one that leaves its socket: in its user's context, but for those that timers and answers send. Apart from the above,
 * as describing a task is most of what the verifier walks. */
__attribute__((noinline)) int hf_tell_sent_packet(struct __sk_buff *skb, __u64 who, __u64 what)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct hf_counter_key key = hf_key(who, what);
	struct hf_bucket *bucket = hf_take_token(&key);
	struct hf_task_event *whole;

	if (!bucket)
		return 0;
	if (!hf_is_current(task))
		return hf_tell_bare_packet(skb, &key, bucket->suppressed, what);
	whole = hf_reserve(&key, sizeof(*whole));
	if (!whole)
		return 0;
	hf_fill_packet(skb, &whole->event, &key, bucket->suppressed, what, HF_E_TASK);
	hf_describe(&whole->task, task);
	bpf_ringbuf_submit(whole, 0);
	return 0;
}

/* Tells of a call that would connect or send; `high` and `low` are the address as it lies in memory. */
__attribute__((noinline)) int hf_tell_connect(__u64 who, __u64 what, __u64 high, __u64 low, __u32 port_proto)
{
	struct hf_counter_key key = hf_key(who, what);
	struct hf_bucket *bucket = hf_take_token(&key);
	struct hf_task_event *whole;
	__u32 flags = HF_E_PACKET | HF_E_TASK;
	__u8 proto = port_proto >> 16;

	if (!bucket)
		return 0;
	whole = hf_reserve(&key, sizeof(*whole));
	if (!whole)
		return 0;
	if (hf_has_ports(proto))
		flags |= HF_E_PORTS;
	hf_begin(&whole->event, &key, bucket->suppressed, flags);
	whole->event.cgroup = bpf_get_current_cgroup_id();
	__builtin_memcpy(&whole->event.to.w[0], &high, sizeof(high));
	__builtin_memcpy(&whole->event.to.w[2], &low, sizeof(low));
	whole->event.to_port = port_proto;
	whole->event.proto = proto;
	whole->event.program = what >> 32;
	hf_describe(&whole->task, (struct task_struct *)bpf_get_current_task());
	bpf_ringbuf_submit(whole, 0);
	return 0;
}

/* Counts and tells what is to be said of a packet. */
HF_INLINE void hf_report(struct __sk_buff *skb, __u16 program, __u32 index, __u32 set, __u64 said)
{
	__u64 what = (said & 0xffffffff) | HF_WHAT(0, 0, 0, program, HF_NO_HOOK);

	hf_count(program, index, set, said, said >> 16, said >> 24);
	if (program == HF_PROG_EGRESS)
		hf_tell_sent_packet(skb, HF_WHO(index, set), what);
	else
		hf_tell_packet(skb, HF_WHO(index, set), what);
}

/* Was this flow opened by a socket of the host's own network namespace on this node? */
HF_INLINE int hf_is_node_flow(const struct hf_addr *from, __u16 from_port, const struct hf_addr *to, __u16 to_port,
			      __u8 proto)
{
	struct hf_node_flow_key key = {
		.from = *from, .to = *to, .from_port = from_port, .to_port = to_port, .proto = proto,
	};
	__u64 *sent = bpf_map_lookup_elem(&node_flows, &key);

	return sent && bpf_ktime_get_ns() - *sent < HF_NODE_FLOW_NS;
}

#endif
