/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is told of each denial and audit, beside counting it. Nothing here runs for what is allowed.
 *
 * Each count is one of three: a record in a ring buffer, one more in `suppressed` of its key, or one more in `event_lost`
 * of the buffer. The next record carries both totals, so that whoever reads adds up to the counters. */
#ifndef HF_EVENTS_H
#define HF_EVENTS_H

#include "common.h"

/* include/linux/sched.h */
#define HF_PF_IO_WORKER 0x00000010
#define HF_PF_KTHREAD 0x00200000
/* The least that any kernel gives to a task on both architectures: a smaller number than the real one only means that
 * less is claimed. */
#define HF_STACK_SIZE (16 * 1024)
/* Names and mounts on the way from an executable to its root. */
#define HF_EXECUTABLE_STEPS 40

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} denials SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} audits SEC(".maps");
HF_HASH(event_buckets, BPF_MAP_TYPE_HASH, struct hf_counter_key, struct hf_bucket, 65536, BPF_F_NO_PREALLOC);
HF_HASH(event_lost, BPF_MAP_TYPE_ARRAY, __u32, __u64, HF_LOST_MAX, 0);
/* Of `suppressed`, what the agent has told: its own, kept here as it outlives the agent. */
HF_HASH(event_told, BPF_MAP_TYPE_HASH, struct hf_counter_key, __u64, 65536, BPF_F_NO_PREALLOC);

HF_INLINE __u64 *hf_lost(const struct hf_counter_key *key)
{
	__u32 which = key->given == HF_GIVEN_AUDIT ? HF_LOST_AUDITS : HF_LOST_DENIALS;

	return bpf_map_lookup_elem(&event_lost, &which);
}

HF_INLINE void hf_lose(const struct hf_counter_key *key)
{
	__u64 *lost = hf_lost(key);

	if (lost)
		__sync_fetch_and_add(lost, 1);
}

/* Is there a record for this one? Processors that meet here may let one more through each; what is suppressed is counted
 * exactly. */
HF_INLINE struct hf_bucket *hf_take_token(const struct hf_counter_key *key)
{
	struct hf_bucket *bucket = bpf_map_lookup_elem(&event_buckets, key);
	__u64 now, full;

	if ((key->workload & ~7u) == HF_CANARY)
		return NULL;
	if (!bucket) {
		struct hf_bucket made = {};

		/* Whoever loses the race finds the other's. */
		bpf_map_update_elem(&event_buckets, key, &made, BPF_NOEXIST);
		bucket = bpf_map_lookup_elem(&event_buckets, key);
		if (!bucket) {
			hf_lose(key);
			return NULL;
		}
	}
	now = bpf_ktime_get_boot_ns();
	full = bucket->full_ns;
	if (full < now)
		full = now;
	if (full - now > (HF_EVENT_BURST - 1) * HF_EVENT_EVERY_NS) {
		__sync_fetch_and_add(&bucket->suppressed, 1);
		return NULL;
	}
	bucket->full_ns = full + HF_EVENT_EVERY_NS;
	return bucket;
}

/* A record of `size` bytes, which is a constant; without room the loss is counted. */
HF_INLINE void *hf_reserve(const struct hf_counter_key *key, __u64 size)
{
	void *record;

	if (key->given == HF_GIVEN_AUDIT)
		record = bpf_ringbuf_reserve(&audits, size, 0);
	else
		record = bpf_ringbuf_reserve(&denials, size, 0);
	if (!record)
		hf_lose(key);
	return record;
}

/* Not inline, like hf_walk, so that the object's BTF has the record's type. */
static __attribute__((noinline)) int hf_begin(struct hf_event *event, const struct hf_counter_key *key,
					      __u64 suppressed, __u32 flags)
{
	__u64 *lost = hf_lost(key);

	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_boot_ns();
	event->key = *key;
	event->flags = flags;
	event->suppressed = suppressed;
	event->lost = lost ? *lost : 0;
	event->hook = HF_NO_HOOK;
	return 0;
}

/* Does this run for the current task, and not in an interrupt that borrowed it? Interrupts and softirqs have stacks of
 * their own on both architectures, but where softirqs are threaded (PREEMPT_RT): there nothing is claimed. */
HF_INLINE int hf_is_current(struct task_struct *task)
{
	__u64 here = 0;
	void *frame = &here;

	if (bpf_core_field_exists(task->softirq_disable_cnt))
		return 0;
	if (BPF_CORE_READ(task, flags) & HF_PF_KTHREAD || !BPF_CORE_READ(task, mm))
		return 0;
	/* The verifier keeps pointers and numbers apart; the bits of one, read from the stack, are a number. */
	if (bpf_probe_read_kernel(&here, sizeof(here), &frame))
		return 0;
	return here - (__u64)BPF_CORE_READ(task, stack) < HF_STACK_SIZE;
}

#define HF_WALK_SIZE 0xffffu
#define HF_WALK_ROOTED (1u << 16)
#define HF_WALK_CUT (1u << 17)

HF_INLINE __u64 hf_same(__u64 a, __u64 b)
{
	__u64 same = 1 - hf_differs(a, b);

	HF_OPAQUE(same);
	return same;
}

/* The path of a task's executable, as the task itself would be told: up from name to parent, over the mounts, to its
 * root. Returns the bytes written and HF_WALK_*. One step is one way through for the verifier, whatever it meets: what
 * is over is walked on without effect. */
static __attribute__((noinline)) __u32 hf_walk(struct hf_task *record, __u32 size, struct task_struct *task)
{
	char *to = size == HF_TASK_PATH ? record->path : record->parent_path;
	__u64 mnt_at = bpf_core_field_offset(struct mount, mnt);
	__u64 dentry, mnt, root_dentry, root_mnt;
	__u64 at = 0, rooted = 0, cut = 0, over = 0;
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	int i;

	if (!exe)
		return 0;
	dentry = (__u64)BPF_CORE_READ(exe, f_path.dentry);
	mnt = (__u64)BPF_CORE_READ(exe, f_path.mnt);
	root_dentry = (__u64)BPF_CORE_READ(task, fs, root.dentry);
	root_mnt = (__u64)BPF_CORE_READ(task, fs, root.mnt);
	for (i = 0; i < HF_EXECUTABLE_STEPS; i++) {
		struct mount *mount = (struct mount *)(mnt - mnt_at);
		__u64 mnt_root = (__u64)BPF_CORE_READ((struct vfsmount *)mnt, mnt_root);
		__u64 above = (__u64)BPF_CORE_READ(mount, mnt_parent);
		__u64 below = (__u64)BPF_CORE_READ(mount, mnt_mountpoint);
		__u64 parent = (__u64)BPF_CORE_READ((struct dentry *)dentry, d_parent);
		const unsigned char *name = BPF_CORE_READ((struct dentry *)dentry, d_name.name);
		__u64 crosses = hf_same(dentry, mnt_root), full = hf_less(size - 1, at), take, named, got, failed;

		named = (hf_same(dentry, root_dentry) & hf_same(mnt, root_mnt)) |
			(crosses & hf_same(above, (__u64)mount));
		rooted |= named & (1 - over);
		over |= named;
		/* A name, where this is no root of a mount. */
		named = (1 - over) & (1 - crosses);
		HF_OPAQUE(full);
		take = named & (1 - full);
		HF_OPAQUE(take);
		got = bpf_probe_read_kernel_str(to + (at & (size - 1)), HF_NAME_SIZE * take, name);
		failed = got >> 63;
		HF_OPAQUE(failed);
		got *= 1 - failed;
		at += got;
		failed = named & hf_same(got, 0);
		cut |= failed;
		/* A root that is mounted nowhere: of a memfd, which is its only name. */
		over |= failed | (named & hf_same(parent, dentry));
		dentry = parent ^ (parent ^ below) * crosses;
		mnt ^= (mnt ^ (above + mnt_at)) * crosses;
	}
	cut |= 1 - over;
	return (at & HF_WALK_SIZE) | rooted * HF_WALK_ROOTED | cut * HF_WALK_CUT;
}

HF_INLINE void hf_describe(struct hf_task *to, struct task_struct *task)
{
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	unsigned long from = 0, size = 0;
	__u32 walked;

	to->start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
	to->tgid = BPF_CORE_READ(task, tgid);
	to->pid = BPF_CORE_READ(task, pid);
	to->parent = BPF_CORE_READ(parent, tgid);
	/* A failure leaves zeroes. */
	bpf_core_read(to->name, sizeof(to->name), &task->comm);
	walked = hf_walk(to, HF_TASK_PATH, task);
	to->path_size = walked & HF_WALK_SIZE;
	/* Without a branch, as the verifier would walk the parent's path again behind each way. */
	to->flags = walked / HF_WALK_ROOTED % 2 * HF_TASK_ROOTED | walked / HF_WALK_CUT % 2 * HF_TASK_PATH_CUT;
	walked = hf_walk(to, HF_TASK_PARENT_PATH, parent);
	to->parent_path_size = walked & HF_WALK_SIZE;
	to->flags |= walked / HF_WALK_ROOTED % 2 * HF_TASK_PARENT_ROOTED |
		     walked / HF_WALK_CUT % 2 * HF_TASK_PARENT_PATH_CUT;
	to->arguments_size = 0;
	if (mm) {
		from = BPF_CORE_READ(mm, arg_start);
		size = BPF_CORE_READ(mm, arg_end) - from;
	}
	if (from && size && size < (1ul << 31)) {
		__u32 part = size > HF_TASK_ARGUMENTS ? HF_TASK_ARGUMENTS : size;

		asm volatile("" : "+r"(part));
		if (part > HF_TASK_ARGUMENTS)
			part = HF_TASK_ARGUMENTS;
		if (!bpf_probe_read_user(to->arguments, part, (const void *)from))
			to->arguments_size = size;
	}
}

/* What is told is passed to global functions as numbers, so that the verifier walks them once: see net.h. */
#define HF_WHO(index, set) ((__u64)(index) | (__u64)(set) << 32)
#define HF_WHAT(rule, kind, given, program, hook)                                                  \
	((__u64)(__u16)(rule) | (__u64)(kind) << 16 | (__u64)(given) << 24 | (__u64)(program) << 32 | (__u64)(hook) << 40)

HF_INLINE struct hf_counter_key hf_key(__u64 who, __u64 what)
{
	struct hf_counter_key key = {
		.workload = who, .set = who >> 32, .rule = what, .kind = what >> 16, .given = what >> 24,
	};

	return key;
}

#endif
