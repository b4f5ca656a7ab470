/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The current task's system call, as its registers have it. */
#ifndef HF_REGS_H
#define HF_REGS_H

#include "common.h"

#if defined(__TARGET_ARCH_x86)
/* arch/x86/include/asm/thread_info.h; set from the 32-bit entries (int 0x80, sysenter) until the way out. */
#define HF_TS_COMPAT 0x0002
#define HF_X32_BIT 0x40000000
#define HF_THREAD_SIZE (16 * 1024)
#define HF_PT_REGS_SIZE (21 * 8)

HF_INLINE const struct pt_regs *hf_regs(struct task_struct *task)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return (const struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	/* Before 5.15 by hand: all those kernels have the registers at the very end of the stack (padding came with
	 * FRED, in 6.9). */
	return (const struct pt_regs *)(BPF_CORE_READ(task, stack) + HF_THREAD_SIZE - HF_PT_REGS_SIZE);
}

HF_INLINE void hf_read_number(struct task_struct *task, const struct pt_regs *regs, __u32 *abi, __u32 *nr)
{
	__u32 raw = (__u32)BPF_CORE_READ(regs, orig_ax);
	__u32 compat = BPF_CORE_READ(task, thread_info.status) / HF_TS_COMPAT & 1;

	/* Without the x32 bit, unless the whole is negative: no call at all. */
	*nr = raw & ~(HF_X32_BIT & ~(raw >> 1) & (compat - 1));
	*abi = compat; /* HF_ABI_COMPAT or HF_ABI_NATIVE */
}

/* One register: by the 64-bit or the 32-bit convention. Its place is computed, not chosen by a branch, so that the
 * verifier walks what follows once. */
#define HF_ARGUMENT(regs, compat, to, by_64, by_32)                                                             \
	do {                                                                                                    \
		__u64 at_64 = bpf_core_field_offset(struct pt_regs, by_64);                                     \
		__u64 at_32 = bpf_core_field_offset(struct pt_regs, by_32);                                     \
		__u64 at = at_64 ^ (at_64 ^ at_32) * (compat);                                               \
                                                                                                                \
		failed |= bpf_probe_read_kernel(to, 8, (const char *)(regs) + at);                              \
		*(to) &= ~0ull >> ((compat) * 32);                                                              \
	} while (0)

/* Returns 0 or what a helper returned. */
HF_INLINE long hf_read_arguments(const struct pt_regs *regs, __u32 abi, __u64 argument[HF_ARGUMENTS])
{
	__u64 compat = abi & 1;
	long failed = 0;

	HF_ARGUMENT(regs, compat, &argument[0], di, bx);
	HF_ARGUMENT(regs, compat, &argument[1], si, cx);
	HF_ARGUMENT(regs, compat, &argument[2], dx, dx);
	HF_ARGUMENT(regs, compat, &argument[3], r10, si);
	HF_ARGUMENT(regs, compat, &argument[4], r8, di);
	HF_ARGUMENT(regs, compat, &argument[5], r9, bp);
	return failed;
}

#elif defined(__TARGET_ARCH_arm64)
#define HF_TIF_32BIT 22

HF_INLINE const struct pt_regs *hf_regs(struct task_struct *task)
{
	/* Trampolines came to arm64 in 6.4, so whatever loads these programs has the helper. */
	return (const struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

HF_INLINE void hf_read_number(struct task_struct *task, const struct pt_regs *regs, __u32 *abi, __u32 *nr)
{
	*nr = (__u32)BPF_CORE_READ(regs, syscallno);
	*abi = (BPF_CORE_READ(task, thread_info.flags) >> HF_TIF_32BIT) & 1 ? HF_ABI_COMPAT : HF_ABI_NATIVE;
}

/* Returns 0 or what a helper returned. */
HF_INLINE long hf_read_arguments(const struct pt_regs *regs, __u32 abi, __u64 argument[HF_ARGUMENTS])
{
	/* The first is overwritten by the result on the way out. */
	return bpf_core_read(&argument[0], 8, &regs->orig_x0) | bpf_core_read(&argument[1], 5 * 8, &regs->regs[1]);
}
#endif

#endif
