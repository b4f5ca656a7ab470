/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tells of what the current task did in a call: who, by which call, and to which file where there is one. */
#ifndef HF_TELL_H
#define HF_TELL_H

#include "events.h"
#include "path.h"
#include "regs.h"

#define HF_NR_IO_URING_ENTER 426 /* the same on all architectures */

/* ABI and number of a call, and operations on a file beside what HF_WHAT holds, as numbers for the global function. */
#define HF_CALL(abi, nr) ((__u64)(abi) << 32 | (__u32)(nr))
#define HF_WHAT_DOES(does) ((__u64)(__u8)(does) << 48)

/* The path of what it was done to; of what has none, its name. Not inline, so that the object's BTF has the record's type. */
static __attribute__((noinline)) int hf_name_object(struct hf_object *object, __u64 dentry, __u64 mnt)
{
	struct hf_path *path = hf_path_scratch();
	__u32 flags, at;
	__u64 size;

	if (!path)
		return 0;
	flags = hf_read_path(dentry, mnt);
	if (!(flags & (HF_PATH_DETACHED | HF_PATH_BROKEN)))
		object->origin = hf_origin((struct dentry *)dentry, flags);
	if (flags & HF_PATH_NONE) {
		long got = bpf_probe_read_kernel_str(object->path, HF_NAME_MAX + 1,
						     BPF_CORE_READ((struct dentry *)dentry, d_name.name));

		object->path_size = got > 0 ? got - 1 : 0;
		return 0;
	}
	object->flags = HF_OBJECT_ROOTED | (flags & (HF_PATH_DETACHED | HF_PATH_BROKEN) ? HF_OBJECT_PARTIAL : 0);
	at = path->at;
	size = HF_PATH_MAX - at;
	if (size > HF_OBJECT_PATH) {
		object->flags |= HF_OBJECT_PATH_CUT;
		size = HF_OBJECT_PATH;
		at = HF_PATH_MAX - HF_OBJECT_PATH;
	}
	HF_OPAQUE(size);
	if (size > HF_OBJECT_PATH)
		return 0;
	if (bpf_probe_read_kernel(object->path, size, &path->bytes[at & (HF_PATH_MAX - 1)]))
		hf_helper_failed(HF_PROG_ACCESS, HF_HELPER_PROBE_READ);
	else
		object->path_size = size;
	return 0;
}

/* `what` holds operations too (HF_WHAT_DOES); `dentry` is 0 where it was done to no file. A thread of io_uring has somebody
 * else's registers: no arguments. A global function of numbers: the verifier walks it once, whoever calls. */
__attribute__((noinline)) int hf_tell_call(__u64 who, __u64 what, __u64 call, __u64 dentry, __u64 mnt)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct hf_counter_key key = hf_key(who, what);
	struct hf_bucket *bucket = hf_take_token(&key);
	struct hf_object_event *whole;

	if (!bucket)
		return 0;
	whole = hf_reserve(&key, sizeof(*whole));
	if (!whole)
		return 0;
	hf_begin(&whole->event, &key, bucket->suppressed, HF_E_CALL | HF_E_TASK);
	whole->event.cgroup = bpf_get_current_cgroup_id();
	whole->event.abi = call >> 32;
	whole->event.nr = call;
	whole->event.program = what >> 32;
	whole->event.hook = what >> 40;
	if (BPF_CORE_READ(task, flags) & HF_PF_IO_WORKER) {
		whole->event.abi = HF_ABI_NATIVE;
		whole->event.nr = HF_NR_IO_URING_ENTER;
	} else {
		__u64 argument[HF_ARGUMENTS];

		if (hf_read_arguments(hf_regs(task), call >> 32, argument)) {
			hf_helper_failed(HF_PROG_SYSCALL, HF_HELPER_PROBE_READ);
		} else {
			__builtin_memcpy(whole->event.argument, argument, sizeof(argument));
			whole->event.flags |= HF_E_ARGUMENTS;
		}
	}
	whole->object.does = (__u8)(what >> 48);
	whole->object.origin = HF_ORIGIN_UNKNOWN;
	whole->object.pad = 0;
	whole->object.flags = 0;
	whole->object.path_size = 0;
	if (dentry) {
		whole->event.flags |= HF_E_OBJECT;
		hf_name_object(&whole->object, dentry, mnt);
	}
	hf_describe(&whole->task, task);
	bpf_ringbuf_submit(whole, 0);
	return 0;
}

#endif
