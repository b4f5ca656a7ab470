// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Network isolation: both ends of a socket's traffic at the root of the cgroup v2 hierarchy, connect and sendmsg for
 * policies that refuse with an error, and the mark on accepted sockets. */
#include "net.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define HF_PASS 1
#define HF_REFUSE 0
/* Of an egress program: dropped, and the sender is told of congestion, which neither TCP nor a plain UDP sender passes
 * on as an error (include/linux/bpf-cgroup-defs.h, BPF_RET_*; net/core/filter.c). */
#define HF_DROP_SILENTLY 2

/* TCP that has a socket of its own. Who opened the connection decides which direction's rules speak, for all of its
 * packets: the state of the socket tells, never the packet's addresses, which NAT may have changed. */
HF_INLINE __u64 hf_tcp(struct __sk_buff *skb, struct bpf_sock *sk, const struct hf_workload *wl,
		       const struct hf_packet *p, int egress, __u16 program)
{
	struct hf_decision fresh = {};
	struct hf_question q = {};
	struct hf_tcp_flow *flow = NULL;
	const struct hf_addr *local = egress ? &p->src : &p->dst;
	const struct hf_addr *remote = egress ? &p->dst : &p->src;
	__u16 local_port = egress ? p->sport : p->dport;
	__u16 remote_port = egress ? p->dport : p->sport;
	__u32 state = sk->state;
	__u8 direction;
	int listening = state == HF_TCP_LISTEN;

	q.proto = HF_TCP;
	q.v6 = p->v6;
	q.loopback = skb->ifindex == HF_LOOPBACK_IFINDEX;
	if (!listening) {
		flow = bpf_sk_storage_get(&tcp_flows, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!flow)
			hf_helper_failed(program, HF_HELPER_STORAGE);
	}
	/* A SYN opens a connection, whatever its socket was before: one that was accepted or connected can be dissolved
	 * (connect to AF_UNSPEC) and connected anew. */
	if (flow && egress && state == HF_TCP_SYN_SENT)
		flow->flags = 0;
	if (flow && (flow->flags & HF_F_PEER_KNOWN) && hf_current(&flow->decision, wl))
		return hf_say(&flow->decision, flow->direction & 1);

	/* SYN, SYN-ACK and the last ACK of the handshake are seen on the listener. */
	if (listening || state == HF_TCP_SYN_RECV || state == HF_TCP_NEW_SYN_RECV) {
		direction = HF_INGRESS;
	} else if (flow && (flow->flags & HF_F_DIRECTION_KNOWN)) {
		direction = flow->direction & 1;
	} else if (state == HF_TCP_SYN_SENT) {
		direction = HF_EGRESS;
	} else {
		/* Older than these programs. Whoever listens on the local port was called; else it called. */
		struct bpf_sock_tuple tuple = {};
		struct bpf_sock *listener;

		if (p->v6) {
			__builtin_memcpy(tuple.ipv6.saddr, remote, 16);
			__builtin_memcpy(tuple.ipv6.daddr, local, 16);
			tuple.ipv6.dport = bpf_htons(local_port);
			listener = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
		} else {
			tuple.ipv4.saddr = remote->w[3];
			tuple.ipv4.daddr = local->w[3];
			tuple.ipv4.dport = bpf_htons(local_port);
			listener = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
		}
		direction = HF_EGRESS;
		if (listener) {
			if (listener->state == HF_TCP_LISTEN)
				direction = HF_INGRESS;
			bpf_sk_release(listener);
		}
	}

	q.direction = direction;
	q.peer = *remote;
	q.port = direction == HF_EGRESS ? remote_port : local_port;
	if (flow && (flow->flags & HF_F_PEER_KNOWN)) {
		q.peer = flow->peer;
		q.port = flow->port;
		q.v6 = !hf_is_v4_mapped(&flow->peer);
	}
	if (direction == HF_INGRESS) {
		if (flow && (flow->flags & HF_F_NODE))
			q.node_flow = 1;
		else if (!(wl->flags & HF_WL_HOST_PART))
			q.node_flow = hf_is_node_flow(remote, remote_port, local, local_port, HF_TCP);
	}
	hf_decide(wl, &q, &fresh);
	if (flow) {
		flow->direction = direction;
		flow->flags |= HF_F_DIRECTION_KNOWN | (q.node_flow ? HF_F_NODE : 0);
		/* The address that a host's own socket meets at its first incoming packet may be a Service's; what it
		 * sends to is the backend's. */
		if (egress || direction == HF_INGRESS) {
			flow->peer = q.peer;
			flow->port = q.port;
			flow->flags |= HF_F_PEER_KNOWN;
		}
		flow->decision = fresh;
	}
	return hf_say(&fresh, direction);
}

/* In the host's own network namespace a datagram goes to the backend and its answer comes from the Service's address,
 * so that its flow is not found by its addresses: a socket that has sent is one that may be answered. */
HF_INLINE int hf_is_service_reply(struct bpf_sock *sk, const struct hf_workload *wl, const struct hf_addr *peer)
{
	struct hf_tcp_flow *sent;
	struct hf_address *known;

	if (!sk || !(wl->flags & HF_WL_HOST_PART))
		return 0;
	known = bpf_map_lookup_elem(&addresses, peer);
	if (!known || !(known->flags & HF_ADDR_SERVICE))
		return 0;
	sent = bpf_sk_storage_get(&tcp_flows, sk, NULL, 0);
	return sent && (sent->flags & HF_F_SENT);
}

/* Has this datagram socket a port that it asked for? One whose port the kernel chose has called others: what arrives
 * for it is no call that it may answer, but an answer to something that was sent before these programs looked. */
HF_INLINE int hf_is_called(struct bpf_sock *sk)
{
	struct sock *raw = NULL;

	if (!sk || sk->type != HF_SOCK_DGRAM)
		return 0;
	/* The verifier lets nobody read this by way of a socket pointer; see hf_note_node_flow. */
	if (bpf_probe_read_kernel(&raw, sizeof(raw), &sk)) {
		hf_helper_failed(HF_PROG_INGRESS, HF_HELPER_PROBE_READ);
		return 0;
	}
	return BPF_CORE_READ_BITFIELD_PROBED(raw, sk_userlocks) & HF_SOCK_BINDPORT_LOCK;
}

/* Everything but TCP: a reply is a packet against the direction in which an allowed one went.
 *
 * Of SCTP an INIT alone opens an association, so that its flow can be remembered for as long as there is room, and what
 * else is sent has no direction of its own. A packet that belongs to no flow known here (its association is older than
 * the workload's rules, or has added an address) goes on where it could have been opened from either side: the cgroup
 * hooks see no SCTP socket connect or accept, and nobody lets these programs look for who listens. */
HF_INLINE __u64 hf_datagram(struct __sk_buff *skb, struct bpf_sock *sk, const struct hf_workload *wl,
			    const struct hf_packet *p, int egress, __u16 program)
{
	struct hf_flow_key key = {};
	struct hf_flow *flow, made = {};
	struct hf_question q = {};
	struct hf_decision d = {};
	__u64 now = bpf_ktime_get_ns();
	__u8 direction = egress ? HF_EGRESS : HF_INGRESS;
	int alive, association = p->proto == HF_SCTP && !p->fragment;

	key.pod = wl->pod;
	key.peer = egress ? p->dst : p->src;
	key.peer_port = egress ? p->dport : p->sport;
	key.local_port = egress ? p->sport : p->dport;
	key.proto = p->proto;
	q.peer = key.peer;
	q.proto = p->proto;
	q.v6 = p->v6;
	q.fragment = p->fragment;
	q.loopback = skb->ifindex == HF_LOOPBACK_IFINDEX;

	flow = bpf_map_lookup_elem(&flows, &key);
	alive = flow && !p->init && (association || now - flow->seen_ns < HF_FLOW_IDLE_NS);
	if (alive) {
		if (hf_current(&flow->decision, wl)) {
			d = flow->decision;
		} else {
			q.direction = flow->direction & 1;
			q.port = q.direction == HF_EGRESS ? key.peer_port : key.local_port;
			q.node_flow = !!(flow->flags & HF_F_NODE);
			hf_decide(wl, &q, &d);
		}
		if (!(d.flags & HF_D_DENIED)) {
			if (now - flow->seen_ns > HF_FLOW_TOUCH_NS)
				flow->seen_ns = now;
			flow->decision = d;
			return hf_say(&d, flow->direction & 1);
		}
		if (association)
			return hf_say(&d, flow->direction & 1);
		if ((flow->direction & 1) == direction) {
			bpf_map_delete_elem(&flows, &key);
			return hf_say(&d, direction);
		}
		/* The flow that it could be a reply to is refused by now; it may still open one of its own. */
	}
	q.direction = direction;
	q.port = egress ? key.peer_port : key.local_port;
	q.node_flow = 0;
	if (!egress && !(wl->flags & HF_WL_HOST_PART))
		q.node_flow = hf_is_node_flow(&p->src, p->sport, &p->dst, p->dport, p->proto);
	hf_decide(wl, &q, &d);
	if ((d.flags & HF_D_DENIED) && !egress && !p->init && hf_is_service_reply(sk, wl, &q.peer))
		return 0;
	if ((d.flags & HF_D_DENIED) || p->fragment || (!egress && !association && !hf_is_called(sk)))
		return hf_say(&d, direction);
	if (association && !p->init) {
		q.direction = egress ? HF_INGRESS : HF_EGRESS;
		q.port = egress ? key.local_port : key.peer_port;
		q.node_flow = 0;
		if (egress && !(wl->flags & HF_WL_HOST_PART))
			q.node_flow = hf_is_node_flow(&p->dst, p->dport, &p->src, p->sport, p->proto);
		hf_decide(wl, &q, &made.decision);
		if (made.decision.flags & (HF_D_DENIED | HF_D_WOULD_DENY))
			return hf_say(&made.decision, q.direction);
		return hf_say(&d, direction);
	}
	if (egress && sk && (wl->flags & HF_WL_HOST_PART)) {
		struct hf_tcp_flow *sent = bpf_sk_storage_get(&tcp_flows, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

		if (sent)
			sent->flags |= HF_F_SENT;
		else
			hf_helper_failed(program, HF_HELPER_STORAGE);
	}
	made.decision = d;
	made.seen_ns = now;
	made.direction = direction;
	made.flags = q.node_flow ? HF_F_NODE : 0;
	if (bpf_map_update_elem(&flows, &key, &made, BPF_ANY))
		hf_helper_failed(program, HF_HELPER_MAP_UPDATE);
	return hf_say(&d, direction);
}

/* A packet of a workload: what is to be said of it. Not inline, so that its stack is free again when it is said. */
static __attribute__((noinline)) __u64 hf_workload_packet(struct __sk_buff *skb, const struct hf_workload *wl,
							  int egress, __u16 program)
{
	struct hf_packet p = {};
	struct bpf_sock *sk;
	int direction = egress ? HF_EGRESS : HF_INGRESS;

	hf_parse(skb, &p);
	if (p.broken) {
		/* What cannot be read cannot be permitted. */
		if (!(wl->flags & HF_WL_ISOLATED(direction)))
			return 0;
		hf_helper_failed(program, HF_HELPER_SKB_LOAD);
		return HF_SAY_REFUSED | HF_SAY_REPORT |
		       HF_WHAT(wl->default_rule[direction & 1], direction, HF_GIVEN_DROP, 0, 0);
	}
	/* Where the workload's own process made the network namespace, or is the host, the kernel's own sockets count as
	 * its own, and without these no IPv6 address is found. A pod's namespace is its runtime's. */
	if (p.upkeep && !(wl->flags & HF_WL_CONTAINER))
		return 0;
	sk = skb->sk;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk && p.proto == HF_TCP && !p.fragment && sk->type == HF_SOCK_STREAM)
		return hf_tcp(skb, sk, wl, &p, egress, program);
	return hf_datagram(skb, sk, wl, &p, egress, program);
}

HF_INLINE const struct hf_workload *hf_workload_of(__u64 cgroup, __u32 *index)
{
	__u32 *found = bpf_map_lookup_elem(&cgroups, &cgroup);

	if (!found)
		return NULL;
	*index = *found;
	return bpf_map_lookup_elem(&workloads, found);
}

/* Remember what the host's own sockets send to pods of this node: the kubelet's probes, and what an administrator does
 * on the node. The sender's network namespace tells, not its address, which masquerading gives to outsiders too. */
__attribute__((noinline)) int hf_note_node_flow(struct __sk_buff *skb)
{
	struct hf_control *c = hf_control();
	struct hf_node_flow_key key = {};
	struct hf_packet p = {};
	struct hf_address *known;
	struct bpf_sock *sk;
	struct sock *raw = NULL;
	struct net *net = NULL;
	__u32 inum = 0;
	__u64 now;

	if (!c || !(c->flags & HF_C_NODE_FLOWS) || skb->ifindex == HF_LOOPBACK_IFINDEX)
		return 0;
	sk = skb->sk;
	if (!sk)
		return 0;
	/* The verifier lets nobody add to a socket pointer; a copy of its bits, read from the stack, is a plain number. */
	if (bpf_probe_read_kernel(&raw, sizeof(raw), &sk) ||
	    bpf_core_read(&net, sizeof(net), &raw->__sk_common.skc_net.net) ||
	    bpf_core_read(&inum, sizeof(inum), &net->ns.inum)) {
		hf_helper_failed(HF_PROG_EGRESS, HF_HELPER_PROBE_READ);
		return 0;
	}
	if (inum != c->host_netns)
		return 0;
	hf_parse(skb, &p);
	if (p.broken || p.fragment)
		return 0;
	known = bpf_map_lookup_elem(&addresses, &p.dst);
	if (!known || !known->pod)
		return 0;
	key.from = p.src;
	key.to = p.dst;
	key.from_port = p.sport;
	key.to_port = p.dport;
	key.proto = p.proto;
	now = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&node_flows, &key, &now, BPF_ANY))
		hf_helper_failed(HF_PROG_EGRESS, HF_HELPER_MAP_UPDATE);
	return 0;
}

SEC("cgroup_skb/egress")
int hf_egress(struct __sk_buff *skb)
{
	const struct hf_workload *wl;
	__u32 index = 0;
	__u64 said;

	wl = hf_workload_of(bpf_skb_cgroup_id(skb), &index);
	if (!wl || !(wl->flags & HF_WL_NET)) {
		hf_note_node_flow(skb);
		return HF_PASS;
	}
	if (wl->flags & HF_WL_HOST_PART)
		hf_note_node_flow(skb);
	said = hf_say_now(hf_workload_packet(skb, wl, 1, HF_PROG_EGRESS));
	if (said & HF_SAY_REPORT)
		hf_report(skb, HF_PROG_EGRESS, index, wl->net_set, said);
	return said & HF_SAY_REFUSED ? HF_DROP_SILENTLY : HF_PASS;
}

SEC("cgroup_skb/ingress")
int hf_ingress(struct __sk_buff *skb)
{
	const struct hf_workload *wl;
	__u32 index = 0;
	__u64 said;

	wl = hf_workload_of(bpf_skb_cgroup_id(skb), &index);
	if (!wl || !(wl->flags & HF_WL_NET))
		return HF_PASS;
	said = hf_say_now(hf_workload_packet(skb, wl, 0, HF_PROG_INGRESS));
	if (said & HF_SAY_REPORT)
		hf_report(skb, HF_PROG_INGRESS, index, wl->net_set, said);
	return said & HF_SAY_REFUSED ? HF_REFUSE : HF_PASS;
}

/* connect and sendmsg: only policies with onDeny: Reject refuse here; the packet programs enforce all others, and
 * these too wherever a socket does not come by here. */
HF_INLINE int hf_sock_addr(struct bpf_sock_addr *ctx, int v6, __u16 program)
{
	const struct hf_workload *wl;
	struct hf_question q = {};
	struct hf_decision d = {};
	__u32 index = 0;
	__u64 high, low;

	wl = hf_workload_of(bpf_get_current_cgroup_id(), &index);
	if (!wl || !(wl->flags & HF_WL_NET) || !(wl->flags & HF_WL_ANY_REJECT))
		return HF_PASS;
	if (v6) {
		q.peer.w[0] = ctx->user_ip6[0];
		q.peer.w[1] = ctx->user_ip6[1];
		q.peer.w[2] = ctx->user_ip6[2];
		q.peer.w[3] = ctx->user_ip6[3];
		q.v6 = !hf_is_v4_mapped(&q.peer);
	} else {
		hf_v4(&q.peer, ctx->user_ip4);
	}
	q.port = bpf_ntohs((__u16)ctx->user_port);
	q.proto = ctx->protocol;
	q.direction = HF_EGRESS;
	q.loopback = hf_is_loopback(&q.peer);
	if (wl->flags & HF_WL_HOST_PART) {
		/* What stands behind the address of a Service, or behind a port of the node, shows in the packet only. */
		struct hf_address *known = bpf_map_lookup_elem(&addresses, &q.peer);

		if (q.loopback || (known && (known->flags & (HF_ADDR_SERVICE | HF_ENT_HOST))))
			return HF_PASS;
	}
	if (q.proto != HF_TCP) {
		/* A datagram to somebody who asked first is a reply, and the packet programs know those. */
		struct hf_flow_key key = { .pod = wl->pod, .peer = q.peer, .peer_port = q.port, .proto = q.proto };
		struct hf_flow *flow;

		key.local_port = ctx->sk ? ctx->sk->src_port : 0;
		flow = bpf_map_lookup_elem(&flows, &key);
		if (flow && (flow->direction & 1) == HF_INGRESS)
			return HF_PASS;
	}
	hf_decide(wl, &q, &d);
	/* Where the glass is broken, the packet programs count what goes ahead. */
	if (!(d.flags & HF_D_REJECT) || hf_glass_is_broken())
		return HF_PASS;
	hf_count(program, index, wl->net_set, d.rule, HF_EGRESS, HF_GIVEN_REJECT);
	__builtin_memcpy(&high, &q.peer.w[0], sizeof(high));
	__builtin_memcpy(&low, &q.peer.w[2], sizeof(low));
	hf_tell_connect(HF_WHO(index, wl->net_set),
			HF_WHAT(d.rule, HF_EGRESS, HF_GIVEN_REJECT, program, HF_NO_HOOK), high, low,
			q.port | (__u32)q.proto << 16);
	return HF_REFUSE;
}

SEC("cgroup/connect4")
int hf_connect4(struct bpf_sock_addr *ctx)
{
	return hf_sock_addr(ctx, 0, HF_PROG_CONNECT);
}

SEC("cgroup/connect6")
int hf_connect6(struct bpf_sock_addr *ctx)
{
	return hf_sock_addr(ctx, 1, HF_PROG_CONNECT);
}

SEC("cgroup/sendmsg4")
int hf_sendmsg4(struct bpf_sock_addr *ctx)
{
	return hf_sock_addr(ctx, 0, HF_PROG_SENDMSG);
}

SEC("cgroup/sendmsg6")
int hf_sendmsg6(struct bpf_sock_addr *ctx)
{
	return hf_sock_addr(ctx, 1, HF_PROG_SENDMSG);
}

/* Was the accepted socket called by the node? Known now, and perhaps no more when it first sends. */
HF_INLINE int hf_accepted_from_node(struct bpf_sock_ops *ctx)
{
	struct hf_addr from, to;

	if (ctx->family == HF_AF_INET6) {
		from.w[0] = ctx->remote_ip6[0];
		from.w[1] = ctx->remote_ip6[1];
		from.w[2] = ctx->remote_ip6[2];
		from.w[3] = ctx->remote_ip6[3];
		to.w[0] = ctx->local_ip6[0];
		to.w[1] = ctx->local_ip6[1];
		to.w[2] = ctx->local_ip6[2];
		to.w[3] = ctx->local_ip6[3];
		/* The verifier wants a context read at its own offset; the compiler would join the last of these with
		 * one of the other branch, and add the offset up. */
		asm volatile("" : : "r"(from.w[3]), "r"(to.w[3]));
	} else {
		hf_v4(&from, ctx->remote_ip4);
		hf_v4(&to, ctx->local_ip4);
	}
	return hf_is_node_flow(&from, bpf_ntohl(ctx->remote_port), &to, ctx->local_port, HF_TCP);
}

/* An accepted socket says itself that it was called, however soon its listener goes away. */
SEC("sockops")
int hf_sockops(struct bpf_sock_ops *ctx)
{
	struct hf_tcp_flow *flow;
	struct bpf_sock *sk;

	if (ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	flow = bpf_sk_storage_get(&tcp_flows, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!flow) {
		hf_helper_failed(HF_PROG_SOCKOPS, HF_HELPER_STORAGE);
		return 1;
	}
	/* A new connection, also where no SYN goes out (TCP_REPAIR). */
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		flow->flags = 0;
	flow->direction = ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB ? HF_INGRESS : HF_EGRESS;
	flow->flags |= HF_F_DIRECTION_KNOWN;
	if (flow->direction == HF_INGRESS && hf_accepted_from_node(ctx))
		flow->flags |= HF_F_NODE;
	return 1;
}
