// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which connections are refused by now. The agent reads this iterator after a change: it looks at every socket that the
 * packet programs have stored a flow with, and judges it as they would judge its next packet, by the same functions and
 * maps. Where that cannot be told without a packet, nothing is said: the packet programs refuse all the same. */
#include "net.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* include/net/tcp_states.h */
#define HF_TCP_ESTABLISHED 1
#define HF_TCP_FIN_WAIT1 4
#define HF_TCP_FIN_WAIT2 5
#define HF_TCP_CLOSE_WAIT 8

/* struct bpf_iter__bpf_sk_storage_map */
struct hf_iteration {
	struct bpf_iter_meta *meta;
	void *map;
	struct sock *sk;
	struct hf_tcp_flow *flow;
};

/* The cgroup of whoever made a socket; 0 = none. */
HF_INLINE __u64 hf_cgroup_of(struct sock *sk)
{
	struct cgroup *cgroup = NULL;

	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup)) {
		cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	} else {
		struct sock_cgroup_data___before_5_15 *data = (void *)&sk->sk_cgrp_data;
		__u64 val = BPF_CORE_READ(data, val);

		if (!(val & 3))
			cgroup = (struct cgroup *)val;
	}
	return cgroup ? BPF_CORE_READ(cgroup, kn, id) : 0;
}

/* Whether its packets go by way of the loopback device; -1 = they have no way at present. */
HF_INLINE int hf_loops(struct sock *sk, const struct hf_addr *local, const struct hf_addr *remote)
{
	__u32 differs = (local->w[0] ^ remote->w[0]) | (local->w[1] ^ remote->w[1]) | (local->w[2] ^ remote->w[2]) |
			(local->w[3] ^ remote->w[3]);
	struct dst_entry *dst;

	if (hf_is_loopback(remote) || !differs)
		return 1;
	dst = BPF_CORE_READ(sk, sk_dst_cache);
	if (!dst)
		return -1;
	return BPF_CORE_READ(dst, dev, ifindex) == HF_LOOPBACK_IFINDEX;
}

/* As hf_tcp does it. */
HF_INLINE int hf_is_refused(struct sock *sk, const struct hf_workload *wl, const struct hf_tcp_flow *flow,
			    const struct hf_addr *local, const struct hf_addr *remote, const struct hf_socket *row)
{
	struct hf_decision fresh = {};
	struct hf_question q = {};
	int loops;

	if (!(flow->flags & HF_F_DIRECTION_KNOWN))
		return 0;
	if ((flow->flags & HF_F_PEER_KNOWN) && hf_current(&flow->decision, wl))
		return flow->decision.flags & HF_D_DENIED;
	loops = hf_loops(sk, local, remote);
	if (loops < 0)
		return 0;
	q.proto = HF_TCP;
	q.loopback = loops;
	q.direction = flow->direction & 1;
	q.peer = *remote;
	q.port = q.direction == HF_EGRESS ? row->remote_port : row->local_port;
	if (flow->flags & HF_F_PEER_KNOWN) {
		q.peer = flow->peer;
		q.port = flow->port;
	} else if (q.direction == HF_EGRESS && (wl->flags & HF_WL_HOST_PART)) {
		/* What stands behind a Service's address shows in a packet only. */
		struct hf_address *known = bpf_map_lookup_elem(&addresses, &q.peer);

		if (known && (known->flags & HF_ADDR_SERVICE))
			return 0;
	}
	q.v6 = !hf_is_v4_mapped(&q.peer);
	if (q.direction == HF_INGRESS) {
		if (flow->flags & HF_F_NODE)
			q.node_flow = 1;
		else if (!(wl->flags & HF_WL_HOST_PART))
			q.node_flow =
				hf_is_node_flow(remote, row->remote_port, local, row->local_port, HF_TCP);
	}
	hf_decide(wl, &q, &fresh);
	return fresh.flags & HF_D_DENIED;
}

/* Not inline, so that the object's BTF has the row's type. */
static __attribute__((noinline)) long hf_hand_over(struct seq_file *to, const struct hf_socket *row)
{
	return bpf_seq_write(to, row, sizeof(*row));
}

SEC("iter/bpf_sk_storage_map")
int hf_refused_sockets(struct hf_iteration *ctx)
{
	struct hf_addr local = {}, remote = {};
	struct hf_socket row = {};
	const struct hf_workload *wl;
	struct hf_tcp_flow flow;
	struct sock *sk = ctx->sk;
	__u32 *index;
	__u8 state;

	if (!sk || !ctx->flow)
		return 0;
	flow = *ctx->flow;
	if (BPF_CORE_READ(sk, sk_protocol) != HF_TCP || BPF_CORE_READ(sk, sk_type) != HF_SOCK_STREAM)
		return 0;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (state != HF_TCP_ESTABLISHED && state != HF_TCP_FIN_WAIT1 && state != HF_TCP_FIN_WAIT2 &&
	    state != HF_TCP_CLOSE_WAIT)
		return 0;
	row.cgroup = hf_cgroup_of(sk);
	index = bpf_map_lookup_elem(&cgroups, &row.cgroup);
	if (!index)
		return 0;
	wl = bpf_map_lookup_elem(&workloads, index);
	if (!wl || !(wl->flags & HF_WL_NET) || hf_glass_is_broken())
		return 0;
	row.family = BPF_CORE_READ(sk, __sk_common.skc_family);
	row.proto = HF_TCP;
	row.local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	row.remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (row.family == HF_AF_INET6) {
		BPF_CORE_READ_INTO(&local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&remote, sk, __sk_common.skc_v6_daddr);
		row.local = local;
		row.remote = remote;
	} else if (row.family == HF_AF_INET) {
		row.local.w[0] = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		row.remote.w[0] = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		hf_v4(&local, row.local.w[0]);
		hf_v4(&remote, row.remote.w[0]);
	} else {
		return 0;
	}
	if (!hf_is_refused(sk, wl, &flow, &local, &remote, &row))
		return 0;
#ifdef HF_OLD
	row.cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
#else
	/* Makes one where there is none; iterators may ask for it since 5.12. */
	row.cookie = bpf_get_socket_cookie(sk);
#endif
	row.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	row.device = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	hf_hand_over(ctx->meta->seq, &row);
	return 0;
}
