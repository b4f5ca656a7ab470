/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The verdict on the current task's system call, from its own call number and argument registers. */
#ifndef HF_SYSCALL_H
#define HF_SYSCALL_H

#include "tell.h"
#include "process.h"
#include "hooks.h"
#include "regs.h"

#define HF_EPERM 1
#define HF_SIGKILL 9

HF_HASH(syscalls, BPF_MAP_TYPE_HASH, struct hf_syscall_key, struct hf_syscall, 262144, BPF_F_NO_PREALLOC);
HF_HASH(clauses, BPF_MAP_TYPE_HASH, struct hf_clause_key, struct hf_clause, 524288, BPF_F_NO_PREALLOC);

/* --- clauses ----------------------------------------------------------------------------------------------------- */

/* What follows has no branches: the verifier walks every way through a clause's six conditions, on old kernels for each of
 * 64 clauses. */
HF_INLINE __u64 hf_greatest(__u64 a, __u64 b)
{
	return a ^ (a ^ b) * hf_less(a, b);
}

HF_INLINE __u64 hf_holds(const struct hf_condition *condition, __u64 argument)
{
	__u64 a = (argument & condition->keep) ^ condition->sign;
	__u64 b = condition->value ^ condition->sign;
	__u64 less = hf_less(a, b), differs = hf_differs(a, b);
	__u64 how = less * HF_CMP_LESS + (1 - differs) * HF_CMP_EQUAL + (differs - less) * HF_CMP_GREATER;

	return hf_differs(how & condition->accept, 0);
}

/* An answer that can be compared: the stricter is the greater, and among equally strict ones the first rule's is. 0 = no
 * rule speaks of this call. */
#define HF_ANSWER(action, rule) ((__u64)(action) << 16 | (0xffff - (rule)))
#define HF_ANSWER_ACTION(answer) ((answer) >> 16)
#define HF_ANSWER_RULE(answer) ((__u16)(0xffff - ((answer) & 0xffff)))
#define HF_NOBODY 0x10000

struct hf_evaluation {
	struct hf_clause_key key;
	__u64 argument[HF_ARGUMENTS];
	__u64 answered; /* the policy that has given its answer, at first HF_NOBODY */
	__u64 so_far;	/* whether the clauses that this one continues hold, at first 1 */
	__u64 enforced; /* the answer of the policies in mode Enforce */
	__u64 audited;	/* of those in mode Audit, apart */
};

/* Clauses come in the order of their policies. Returns 1 at one that is missing: nothing after it is sure. */
static __attribute__((noinline)) long hf_next_clause(__u32 index, struct hf_evaluation *e)
{
	const struct hf_clause *clause;
	__u64 ends, answers, answer, audit;

	e->key.index = index;
	clause = bpf_map_lookup_elem(&clauses, &e->key);
	if (!clause)
		return 1;
	e->so_far &= hf_holds(&clause->condition[0], e->argument[0]);
	e->so_far &= hf_holds(&clause->condition[1], e->argument[1]);
	e->so_far &= hf_holds(&clause->condition[2], e->argument[2]);
	e->so_far &= hf_holds(&clause->condition[3], e->argument[3]);
	e->so_far &= hf_holds(&clause->condition[4], e->argument[4]);
	e->so_far &= hf_holds(&clause->condition[5], e->argument[5]);
	ends = 1 - hf_differs(clause->flags & HF_CL_AND_NEXT, 0);
	answers = e->so_far & ends & hf_differs(clause->policy, e->answered);
	e->answered ^= (e->answered ^ clause->policy) * answers;
	answer = HF_ANSWER(clause->action, clause->rule) * answers;
	audit = hf_differs(clause->flags & HF_CL_AUDIT_MODE, 0);
	e->audited = hf_greatest(e->audited, answer * audit);
	e->enforced = hf_greatest(e->enforced, answer * (1 - audit));
	e->so_far |= ends;
	return 0;
}

HF_INLINE void hf_evaluate(struct hf_evaluation *e, __u32 count, __u16 program)
{
#ifdef HF_OLD
	__u32 i;
#endif

	e->answered = HF_NOBODY;
	e->so_far = 1;
	/* Kernels before 5.17 refuse programs that name bpf_loop, in whatever branch: for them the object is compiled once more
	 * without it (HF_OLD), and their verifier walks every round. */
#ifdef HF_OLD
	for (i = 0; i < HF_MAX_CLAUSES; i++) {
		if (i >= count || hf_next_clause(i, e))
			break;
	}
#else
	bpf_loop(count, hf_next_clause, e, 0);
#endif
	/* An agent that counts a clause which is not there has made a mistake; what was found is right all the same. */
	if (e->key.index != count - 1)
		hf_helper_failed(program, HF_HELPER_CLAUSE);
}

/* What the clauses of a set answer to the current call: those of policies in mode Enforce in the lower half, those
 * of policies in mode Audit in the upper. A global function of numbers: the verifier walks it once, whoever calls. */
__attribute__((noinline)) __u64 hf_answers(__u64 abi_set, __u64 clauses_nr, __u32 program)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct hf_evaluation e = {};
	long failed;

	e.key.set = abi_set;
	e.key.abi = abi_set >> 32;
	e.key.nr = clauses_nr;
	failed = hf_read_arguments(hf_regs(task), e.key.abi, e.argument);
	hf_evaluate(&e, clauses_nr >> 32, program);
	/* Last, or the verifier would walk all clauses once more. */
	if (failed)
		hf_helper_failed(program, HF_HELPER_PROBE_READ);
	return e.enforced | e.audited << 32;
}

/* --- the current call -------------------------------------------------------------------------------------------- */

struct hf_call {
	const struct hf_workload *wl;
	__u32 index; /* of the workload */
	const struct hf_syscall *entry;
	__u32 set;
	__u32 abi;
	__u32 nr;
	__u32 enforced; /* the answer of the policies in mode Enforce */
	__u32 audited;	/* of those in mode Audit, apart */
};

/* Does a rule of the current task's workload speak of its call? The cheapest questions first: nearly every task ends at
 * the first or second. */
HF_INLINE int hf_find(struct hf_call *call)
{
	struct hf_syscall_key key = {};
	struct task_struct *task;
	__u32 flags;

	call->wl = hf_workload_in(bpf_get_current_cgroup_id(), &call->index);
	if (!call->wl || !call->wl->sys_set)
		return 0;
	task = (struct task_struct *)bpf_get_current_task();
	flags = BPF_CORE_READ(task, flags);
	if (flags & HF_PF_KTHREAD)
		return 0;
	key.set = call->wl->sys_set;
	hf_read_number(task, hf_regs(task), &key.abi, &key.nr);
	if (flags & HF_PF_IO_WORKER) {
		/* Its registers are a copy of some other thread's. */
		key.abi = HF_ABI_NATIVE;
		key.nr = HF_NR_IO_URING_ENTER;
	}
	call->entry = bpf_map_lookup_elem(&syscalls, &key);
#if defined(__TARGET_ARCH_arm64)
	if (!call->entry && key.abi == HF_ABI_COMPAT) {
		key.nr = HF_NR_ANY;
		call->entry = bpf_map_lookup_elem(&syscalls, &key);
	}
#endif
	call->set = key.set;
	call->abi = key.abi;
	call->nr = key.nr;
	return call->entry != NULL;
}

/* After hf_find found no row for the call: what an allow-list says of calls that it does not name, whatever their number. */
HF_INLINE int hf_find_others(struct hf_call *call)
{
	struct hf_syscall_key key = {};

	/* The same set, abi and task as in hf_find, which leaves no set where there is nothing to ask. */
	if (!call->set)
		return 0;
	key.set = call->set;
	key.abi = call->abi;
	key.nr = HF_NR_ANY;
	call->entry = bpf_map_lookup_elem(&syscalls, &key);
	return call->entry != NULL;
}

/* The answers to the call; none where it is too early to speak to this process. */
HF_INLINE void hf_answer(struct hf_call *call, __u16 program)
{
	__u64 answers = hf_answers(call->set | (__u64)call->abi << 32,
				   call->nr | (__u64)call->entry->clauses << 32, program);

	call->enforced = answers;
	call->audited = answers >> 32;
	if (HF_ANSWER_ACTION(call->enforced | call->audited) && hf_is_exempt(call->wl)) {
		call->enforced = 0;
		call->audited = 0;
	}
}

/* What is to be told of a call, once the stack that it was judged on is free again: at most two answers, 0 = none. */
struct hf_said {
	__u64 who;
	__u64 what;
	__u64 also;
	__u32 abi;
	__u32 nr;
};

HF_INLINE void hf_tell(const struct hf_said *said)
{
	if (said->what)
		hf_tell_call(said->who, said->what, HF_CALL(said->abi, said->nr), 0, 0);
	if (said->also)
		hf_tell_call(said->who, said->also, HF_CALL(said->abi, said->nr), 0, 0);
}

HF_INLINE __u64 hf_count_call(const struct hf_call *call, __u64 answer, __u8 given, __u16 program, __u32 hook)
{
	__u16 rule = HF_ANSWER_RULE(answer);

	hf_count(program, call->index, call->wl->sys_set, rule, HF_KIND_SYSCALL, given);
	return HF_WHAT(rule, HF_KIND_SYSCALL, given, program, hook);
}

/* Where the call goes ahead: what is watched, and what policies in mode Audit would have made stricter. */
HF_INLINE void hf_count_audits(const struct hf_call *call, __u16 program, __u32 hook, struct hf_said *said)
{
	__u64 enforced = HF_ANSWER_ACTION(call->enforced);

	if (enforced == HF_A_AUDIT)
		said->what = hf_count_call(call, call->enforced, HF_GIVEN_AUDIT, program, hook);
	if (HF_ANSWER_ACTION(call->audited) > enforced)
		said->also = hf_count_call(call, call->audited, HF_GIVEN_AUDIT, program, hook);
}

HF_INLINE void hf_begin_saying(struct hf_said *said, const struct hf_call *call)
{
	said->who = HF_WHO(call->index, call->wl->sys_set);
	said->abi = call->abi;
	said->nr = call->nr;
}

/* On a hook: is the current call to be refused here? Counts what it answers. */
static __attribute__((noinline)) int hf_refused(__u32 hook, struct hf_said *said)
{
	struct hf_call call = {};
	__u8 given = HF_GIVEN_DENY;

	if (!hf_find(&call))
		return 0;
	hf_begin_saying(said, &call);
	if (!(call.entry->hooks >> (hook & 63) & 1))
		return 0;
	hf_answer(&call, HF_PROG_SYSCALL);
	if (HF_ANSWER_ACTION(call.enforced) < HF_A_DENY) {
		hf_count_audits(&call, HF_PROG_SYSCALL, hook, said);
		return 0;
	}
	if (hf_glass_is_broken()) {
		hf_count_call(&call, call.enforced, HF_GIVEN_AUDIT, HF_PROG_SYSCALL, hook);
		return 0;
	}
	if (HF_ANSWER_ACTION(call.enforced) == HF_A_KILL) {
		/* The hook's error keeps the call from happening; the signal ends the process after it. */
		if (bpf_send_signal(HF_SIGKILL))
			hf_helper_failed(HF_PROG_SYSCALL, HF_HELPER_SEND_SIGNAL);
		else
			given = HF_GIVEN_DENY_AND_KILL;
	}
	said->what = hf_count_call(&call, call.enforced, given, HF_PROG_SYSCALL, hook);
	return 1;
}

#endif
