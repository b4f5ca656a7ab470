// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* System calls refused in security hooks, and watched at their entry.
 *
 * Each hook has one program, which is loaded as an LSM program or, where those are not called, as fmod_ret on the
 * kernel function that runs the hook. Both kinds run before what they guard, end the chain with their first error, and
 * with 0 leave the answer to whatever follows: so there is no earlier answer to pass on, and hooks whose neutral answer
 * is not 0 are left alone. */
#include "syscall.h"
#include "at_hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define HF_AF_PACKET 17
#define HF_AF_XDP 44

/* Packet and XDP sockets send and receive beside the cgroup's packet programs: isolated workloads with a network of
 * their own do not get any. A kernel's own socket has `kern` set. */
HF_INLINE int hf_socket_bypasses(int family, int kern)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	const struct hf_workload *wl;
	__u32 index, direction, abi, nr;
	__u8 given;

	if (kern || (family != HF_AF_PACKET && family != HF_AF_XDP))
		return 0;
	wl = hf_workload_in(bpf_get_current_cgroup_id(), &index);
	if (!wl || (wl->flags & (HF_WL_HOST_PART | HF_WL_WHOLE_HOST)))
		return 0;
	if (wl->flags & HF_WL_ISOLATED(HF_EGRESS))
		direction = HF_EGRESS;
	else if (wl->flags & HF_WL_ISOLATED(HF_INGRESS))
		direction = HF_INGRESS;
	else
		return 0;
	given = hf_glass_is_broken() ? HF_GIVEN_AUDIT : HF_GIVEN_DENY;
	hf_count(HF_PROG_SYSCALL, index, wl->net_set, wl->default_rule[direction], direction, given);
	hf_read_number(task, hf_regs(task), &abi, &nr);
	hf_tell_call(HF_WHO(index, wl->net_set),
		     HF_WHAT(wl->default_rule[direction], direction, given, HF_PROG_SYSCALL, HF_HOOK_socket_create),
		     HF_CALL(abi, nr), 0, 0);
	return given == HF_GIVEN_DENY;
}

#define HF_HOOK_PROGRAM(name)                                                                      \
	SEC("lsm/" #name)                                                                          \
	int hf_##name(unsigned long long *ctx)                                                     \
	{                                                                                          \
		struct hf_said said = {};                                                          \
		int refused;                                                                       \
                                                                                                   \
		if (HF_HOOK_##name == HF_HOOK_socket_create && hf_socket_bypasses(ctx[0], ctx[3]))  \
			return -HF_EPERM;                                                          \
		if (hf_access_refused(HF_HOOK_##name, ctx))                                         \
			return -HF_EPERM;                                                          \
		if (HF_HOOK_##name >= HF_HOOK_OF_NO_CALL)                                           \
			return 0;                                                                  \
		refused = hf_refused(HF_HOOK_##name, &said);                                       \
		hf_tell(&said);                                                                    \
		return refused ? -HF_EPERM : 0;                                                    \
	}
HF_HOOKS(HF_HOOK_PROGRAM)

/* For calls that no hook serves. Nothing is prevented here: a signal ends the process, but the call goes ahead first.
 * Attached only while some set on the node needs it, as it costs every call of every process. */
static __attribute__((noinline)) int hf_at_entry(struct hf_said *said)
{
	struct hf_call call = {};
	int others = !hf_find(&call);

	if (others && !hf_find_others(&call))
		return 0;
	hf_begin_saying(said, &call);
	if (others)
		call.nr = HF_NR_ANY;
	if (!(call.entry->flags & HF_SYS_AT_ENTRY))
		return 0;
	hf_answer(&call, HF_PROG_SYS_ENTER);
	if (HF_ANSWER_ACTION(call.enforced) < HF_A_KILL) {
		hf_count_audits(&call, HF_PROG_SYS_ENTER, HF_NO_HOOK, said);
		return 0;
	}
	if (hf_glass_is_broken())
		hf_count_call(&call, call.enforced, HF_GIVEN_AUDIT, HF_PROG_SYS_ENTER, HF_NO_HOOK);
	else if (bpf_send_signal(HF_SIGKILL))
		hf_helper_failed(HF_PROG_SYS_ENTER, HF_HELPER_SEND_SIGNAL);
	else
		said->what = hf_count_call(&call, call.enforced, HF_GIVEN_KILL_AFTER_EFFECT, HF_PROG_SYS_ENTER,
					   HF_NO_HOOK);
	return 0;
}

SEC("tp_btf/sys_enter")
int hf_sys_enter(unsigned long long *ctx)
{
	struct hf_said said = {};

	hf_at_entry(&said);
	hf_tell(&said);
	return 0;
}
