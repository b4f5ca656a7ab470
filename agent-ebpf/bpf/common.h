/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every program needs: the maps that say which workload a cgroup is, the counters, and a count of helpers that
 * failed. A failing helper is never silent. */
#ifndef HF_COMMON_H
#define HF_COMMON_H

#include "kernel.h"
#include "abi.h"

#define HF_INLINE static __attribute__((always_inline)) inline

#define HF_HASH(name_, type_, key_, value_, max_, flags_)                                          \
	struct {                                                                                   \
		__uint(type, type_);                                                               \
		__uint(max_entries, max_);                                                         \
		__uint(map_flags, flags_);                                                         \
		__type(key, key_);                                                                 \
		__type(value, value_);                                                             \
		__uint(pinning, LIBBPF_PIN_BY_NAME);                                               \
	} name_ SEC(".maps")

/* cgroup id (the inode of its directory) -> workload index. */
HF_HASH(cgroups, BPF_MAP_TYPE_HASH, __u64, __u32, 65536, 0);
HF_HASH(workloads, BPF_MAP_TYPE_HASH, __u32, struct hf_workload, 16384, BPF_F_NO_PREALLOC);
HF_HASH(control, BPF_MAP_TYPE_ARRAY, __u32, struct hf_control, 1, 0);
/* One element: until when this node refuses nothing, in nanoseconds since the machine was started. Written by the command
 * `break-glass` alone, so that the agent's own writes cannot undo it, nor its absence prolong it. */
HF_HASH(break_glass, BPF_MAP_TYPE_ARRAY, __u32, __u64, 1, 0);
/* Denied and would-have-denied, for each workload and rule: exact, whatever becomes of events. */
HF_HASH(counters, BPF_MAP_TYPE_PERCPU_HASH, struct hf_counter_key, __u64, 65536, BPF_F_NO_PREALLOC);
HF_HASH(helper_errors, BPF_MAP_TYPE_PERCPU_HASH, struct hf_error_key, __u64, 256, 0);

HF_INLINE void hf_helper_failed(__u16 program, __u16 helper)
{
	struct hf_error_key key = { .program = program, .helper = helper };
	__u64 one = 1;
	__u64 *count = bpf_map_lookup_elem(&helper_errors, &key);

	/* Atomic, as a softirq may count on the same processor between the read and the write. */
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&helper_errors, &key, &one, BPF_NOEXIST);
}

HF_INLINE void hf_count(__u16 program, __u32 workload, __u32 set, __u16 rule, __u8 kind, __u8 given)
{
	struct hf_counter_key key = {
		.workload = workload, .set = set, .rule = rule, .kind = kind, .given = given,
	};
	__u64 one = 1;
	__u64 *count = bpf_map_lookup_elem(&counters, &key);

	if (!count) {
		/* Two processors may meet here for the first time: the one that lost adds to what the other made. */
		if (!bpf_map_update_elem(&counters, &key, &one, BPF_NOEXIST))
			return;
		count = bpf_map_lookup_elem(&counters, &key);
		if (!count) {
			hf_helper_failed(program, HF_HELPER_COUNTER);
			return;
		}
	}
	__sync_fetch_and_add(count, 1);
}

/* Comparisons without branches, for what the verifier would else walk both ways: it hides values from a compiler that would
 * put branches back. What they choose is multiplied by them: newer verifiers walk both ways behind an AND with a number
 * that is 0 or -1 too. */
#define HF_OPAQUE(x) asm volatile("" : "+r"(x))

/* 1 where the numbers differ, else 0. */
HF_INLINE __u64 hf_differs(__u64 a, __u64 b)
{
	__u64 x = a ^ b, minus = -x;

	HF_OPAQUE(minus);
	x = (x | minus) >> 63;
	HF_OPAQUE(x);
	return x;
}

/* 1 where a < b, else 0: the borrow of a - b. */
HF_INLINE __u64 hf_less(__u64 a, __u64 b)
{
	__u64 x = (~a & b) | (~(a ^ b) & (a - b));

	x >>= 63;
	HF_OPAQUE(x);
	return x;
}

HF_INLINE struct hf_control *hf_control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

/* Asked only where something would be refused: it is then counted and told as an audit, and goes ahead. */
HF_INLINE int hf_glass_is_broken(void)
{
	__u32 zero = 0;
	__u64 *until = bpf_map_lookup_elem(&break_glass, &zero);

	return until && bpf_ktime_get_boot_ns() < *until;
}

#endif
