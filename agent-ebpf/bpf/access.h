/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the current task's workload may execute, do to files, and which capabilities it may use.
 *
 * Paths are read and matched first; the program that the task runs is looked at only where some rule speaks of the file.
 * What cannot be matched, because its path cannot be told, is refused where any rule refuses paths at all: a tree that is
 * mounted nowhere, and mounting, would otherwise be a way round every path. */
#ifndef HF_ACCESS_H
#define HF_ACCESS_H

#include "hooks.h"
#include "path.h"
#include "process.h"

/* include/uapi/linux/stat.h */
#define HF_S_IFMT 0170000
#define HF_S_IFDIR 0040000
/* include/linux/security.h: the kernel asks by itself, and takes a no for an answer */
#define HF_CAP_OPT_NOAUDIT 2

HF_HASH(access_sets, BPF_MAP_TYPE_HASH, __u32, struct hf_access, 4096, BPF_F_NO_PREALLOC);
HF_HASH(access_rows, BPF_MAP_TYPE_HASH, struct hf_access_key, struct hf_access_row, 262144, BPF_F_NO_PREALLOC);

/* Workloads whose image could not be told: their root is no overlayfs. The agent reports what this means for rules. */
HF_HASH(other_roots, BPF_MAP_TYPE_HASH, __u32, __u32, 16384, BPF_F_NO_PREALLOC);

struct hf_asker {
	const struct hf_workload *wl;
	const struct hf_access *access;
	__u32 index; /* of the workload */
	__u32 set;
};

/* Does an access set speak of the current task? Nearly every task ends at the first or second question. */
HF_INLINE int hf_asks(struct hf_asker *asker, __u32 about)
{
	asker->wl = hf_workload_in(bpf_get_current_cgroup_id(), &asker->index);
	if (!asker->wl || !asker->wl->access_set)
		return 0;
	asker->set = asker->wl->access_set;
	asker->access = bpf_map_lookup_elem(&access_sets, &asker->set);
	if (!asker->access) {
		hf_helper_failed(HF_PROG_ACCESS, HF_HELPER_ACCESS);
		return 0;
	}
	return asker->access->flags & about;
}

/* What was decided: what is to be told of it (HF_WHAT without a hook; 0 = nothing), and whether to refuse. */
#define HF_REFUSES (1ull << 63)

HF_INLINE __u64 hf_count_access(const struct hf_asker *asker, __u16 rule, __u8 kind, __u8 given)
{
	hf_count(HF_PROG_ACCESS, asker->index, asker->set, rule, kind, given);
	return HF_WHAT(rule, kind, given, HF_PROG_ACCESS, 0);
}

/* Counts an answer and carries it out. */
HF_INLINE __u64 hf_carry_out(const struct hf_asker *asker, const struct hf_access_answer *answer, __u8 kind)
{
	__u8 given = HF_GIVEN_DENY;
	__u64 what = 0;

	if (answer->action < HF_A_DENY) {
		if (answer->action == HF_A_AUDIT)
			what = hf_count_access(asker, answer->rule, kind, HF_GIVEN_AUDIT);
		if (answer->would_action > answer->action)
			what = hf_count_access(asker, answer->would_rule, kind, HF_GIVEN_AUDIT);
		return what;
	}
	if (hf_glass_is_broken())
		return hf_count_access(asker, answer->rule, kind, HF_GIVEN_AUDIT);
	if (answer->action == HF_A_KILL) {
		if (bpf_send_signal(HF_SIGKILL))
			hf_helper_failed(HF_PROG_ACCESS, HF_HELPER_SEND_SIGNAL);
		else
			given = HF_GIVEN_DENY_AND_KILL;
	}
	return hf_count_access(asker, answer->rule, kind, given) | HF_REFUSES;
}

/* For what cannot be told. */
HF_INLINE __u64 hf_refuse_unknown(const struct hf_asker *asker, __u8 kind)
{
	struct hf_access_answer answer = { .rule = asker->access->unknown_rule, .action = HF_A_DENY };

	if (!(asker->access->flags & HF_ACCESS_REFUSES))
		return 0;
	return hf_carry_out(asker, &answer, kind);
}

/* Where a path leads: flags, state, outcome and reach, 16 bits each. HF_PATH_BROKEN also where another task used the
 * scratch area meanwhile. A global function of numbers: the verifier walks it once, whoever calls. */
#define HF_FOUND_FLAGS(found) ((__u16)(found))
#define HF_FOUND_STATE(found) ((__u16)((found) >> 16))
#define HF_FOUND_OUTCOME(found) ((__u16)((found) >> 32))
#define HF_FOUND_REACH(found) ((__u16)((found) >> 48))
#define HF_UNKNOWN (HF_PATH_DETACHED | HF_PATH_BROKEN)

enum hf_which { HF_EXECUTABLES, HF_FILES, HF_FILES_BELOW };

HF_INLINE const struct hf_automaton *hf_automaton(const struct hf_access *access, __u32 which)
{
	return which == HF_EXECUTABLES ? &access->executables : &access->files;
}

/* Some bytes along the path. Returns 1 at its end, or where nothing can follow. */
__attribute__((noinline)) __u32 hf_walk_on(__u32 set, __u32 which)
{
	const struct hf_access *access = bpf_map_lookup_elem(&access_sets, &set);
	struct hf_path *path = hf_path_scratch();
	const struct hf_automaton *automaton;
	__u32 at, state;

	if (!path || !access)
		return 0;
	automaton = hf_automaton(access, which);
	at = path->next;
	state = path->state;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < HF_BYTES_AT_ONCE && at < HF_PATH_MAX && state != HF_STATE_DEAD; i++) {
		__u32 place = at;

		/* The compiler knows that `at` is small enough; the verifier of 5.10 does not. */
		HF_OPAQUE(place);
		state = hf_cell(automaton, state, automaton->column[(__u8)path->bytes[place & (HF_PATH_MAX - 1)]]);
		at++;
	}
	path->next = at;
	path->state = state;
	return at >= HF_PATH_MAX || state == HF_STATE_DEAD;
}

__attribute__((noinline)) __u64 hf_find_path(__u32 set, __u32 which, __u64 dentry, __u64 mnt)
{
	const struct hf_access *access = bpf_map_lookup_elem(&access_sets, &set);
	struct hf_path *path = hf_path_scratch();
	__u64 owner = bpf_get_current_pid_tgid(), state = HF_STATE_DEAD, outcome = 0, reach = 0;
	const struct hf_automaton *automaton;
	__u32 flags, done = 0;

	if (!path || !access)
		return HF_PATH_BROKEN;
	automaton = hf_automaton(access, which);
	flags = hf_read_path(dentry, mnt);
	if (automaton->base && !(flags & (HF_PATH_NONE | HF_PATH_BROKEN))) {
		path->next = path->at;
		path->state = HF_STATE_START;
#pragma clang loop unroll(disable)
		for (__u32 i = 0; i < HF_PATH_MAX / HF_BYTES_AT_ONCE && !done; i++)
			done = hf_walk_on(set, which);
		/* Not where the set is gone by now. */
		if (!done)
			flags |= HF_PATH_BROKEN;
		state = path->state;
		if (which == HF_FILES_BELOW)
			state = hf_cell(automaton, state, automaton->column['/']);
		outcome = hf_cell(automaton, state, HF_CELL_OUTCOME);
		reach = hf_cell(automaton, state, HF_CELL_REACH);
	}
	if (path->owner != owner) {
		hf_helper_failed(HF_PROG_ACCESS, HF_HELPER_PATH);
		flags |= HF_PATH_BROKEN;
	}
	return flags | state << 16 | outcome << 32 | reach << 48;
}

/* The outcome of the program that the current task runs. */
HF_INLINE __u32 hf_running(const struct hf_asker *asker)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct file *file;
	__u64 found;

	if (!asker->access->executables.base)
		return 0;
	file = BPF_CORE_READ(task, mm, exe_file);
	if (!file)
		return 0;
	found = hf_find_path(asker->set, HF_EXECUTABLES, (__u64)BPF_CORE_READ(file, f_path.dentry),
			     (__u64)BPF_CORE_READ(file, f_path.mnt));
	return HF_FOUND_FLAGS(found) & (HF_PATH_NONE | HF_UNKNOWN) ? 0 : HF_FOUND_OUTCOME(found);
}

HF_INLINE const struct hf_access_row *hf_row(const struct hf_asker *asker, __u32 kind, __u32 a, __u32 b)
{
	struct hf_access_key key = { .set = asker->set, .kind = kind, .a = a, .b = b };

	return bpf_map_lookup_elem(&access_rows, &key);
}

/* Of several operations at once (an open for reading and writing) the strictest answer. */
HF_INLINE void hf_stricter(struct hf_access_answer *answer, const struct hf_access_answer *other)
{
	if (other->action > answer->action) {
		answer->action = other->action;
		answer->rule = other->rule;
	}
	if (other->would_action > answer->would_action) {
		answer->would_action = other->would_action;
		answer->would_rule = other->would_rule;
	}
}

#define HF_DOES(operation) (1u << (operation))

/* Is this to be refused? A global function of numbers: the verifier walks it once, whoever calls. */
__attribute__((noinline)) __u64 hf_file_refused(__u64 dentry, __u64 mnt, __u32 does)
{
	const struct hf_access_row *row;
	struct hf_access_answer answer = {};
	struct hf_asker asker;
	__u64 found;

	if (!hf_asks(&asker, HF_ACCESS_FILES) || hf_is_exempt(asker.wl))
		return 0;
	found = hf_find_path(asker.set, HF_FILES, dentry, mnt);
	if (HF_FOUND_FLAGS(found) & HF_PATH_NONE)
		return 0;
	if (HF_FOUND_FLAGS(found) & HF_UNKNOWN)
		return hf_refuse_unknown(&asker, HF_KIND_FILE);
	if (!HF_FOUND_OUTCOME(found))
		return 0;
	row = hf_row(&asker, HF_ACCESS_FILE, HF_FOUND_OUTCOME(found), hf_running(&asker));
	if (!row)
		return 0;
#pragma unroll
	for (int operation = 0; operation < HF_OPERATIONS; operation++) {
		if (does & HF_DOES(operation))
			hf_stricter(&answer, &row->answer[operation]);
	}
	return hf_carry_out(&asker, &answer, HF_KIND_FILE);
}

/* Would what is at one name, or below it, lose that name's protection at the other? */
__attribute__((noinline)) __u64 hf_move_refused(__u64 from, __u64 from_mnt, __u64 to, __u64 to_mnt)
{
	const struct hf_access_row *row;
	__u32 which = HF_FILES;
	struct hf_asker asker;
	struct inode *inode;
	__u64 old, new;

	if (!hf_asks(&asker, HF_ACCESS_FILES) || hf_is_exempt(asker.wl))
		return 0;
	inode = BPF_CORE_READ((struct dentry *)from, d_inode);
	if (inode && (BPF_CORE_READ(inode, i_mode) & HF_S_IFMT) == HF_S_IFDIR)
		which = HF_FILES_BELOW;
	old = hf_find_path(asker.set, which, from, from_mnt);
	if (HF_FOUND_FLAGS(old) & HF_UNKNOWN)
		return hf_refuse_unknown(&asker, HF_KIND_FILE);
	if (!HF_FOUND_REACH(old))
		return 0;
	new = hf_find_path(asker.set, which, to, to_mnt);
	if (HF_FOUND_FLAGS(new) & HF_UNKNOWN)
		return hf_refuse_unknown(&asker, HF_KIND_FILE);
	if (HF_FOUND_STATE(new) == HF_FOUND_STATE(old))
		return 0;
	row = hf_row(&asker, HF_ACCESS_MOVE, HF_FOUND_REACH(old), hf_running(&asker));
	return row ? hf_carry_out(&asker, &row->answer[0], HF_KIND_FILE) : 0;
}

/* What is mounted elsewhere has another path there. */
__attribute__((noinline)) __u64 hf_mount_refused(void)
{
	struct hf_asker asker;

	if (!hf_asks(&asker, HF_ACCESS_REFUSES) || hf_is_exempt(asker.wl))
		return 0;
	return hf_refuse_unknown(&asker, asker.access->flags & HF_ACCESS_FILES ? HF_KIND_FILE : HF_KIND_PROCESS);
}

/* Was the file in the container's image? 1 also where that cannot be told, as the image is no lower layer of an overlay:
 * the agent reports this. */
HF_INLINE int hf_in_image(struct dentry *dentry, __u32 flags)
{
	enum hf_origin origin = hf_origin(dentry, flags);

	return origin == HF_ORIGIN_IMAGE || origin == HF_ORIGIN_UNKNOWN;
}

/* An exempt process that executes something is on its way into the workload: what it executes there is judged, unless it
 * is the runtime's own, which executes itself before it has the container's mounts. */
HF_INLINE int hf_is_runtime(const struct hf_workload *wl)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	const struct hf_process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return process && process->state == HF_P_EXEMPT && (wl->flags & HF_WL_CONTAINER) && process->mnt_ns &&
	       process->mnt_ns == BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
}

/* Notes once that the image of a workload cannot be told, where an answer hangs on it. */
HF_INLINE void hf_note_root(const struct hf_asker *asker, const struct hf_access_row *row)
{
	const struct hf_access_answer *in = &row->answer[0], *out = &row->answer[1];
	__u32 one = 1;

	if (in->action == out->action && in->would_action == out->would_action && in->rule == out->rule)
		return;
	if (!bpf_map_lookup_elem(&other_roots, &asker->index) &&
	    bpf_map_update_elem(&other_roots, &asker->index, &one, BPF_ANY))
		hf_helper_failed(HF_PROG_ACCESS, HF_HELPER_MAP_UPDATE);
}

HF_INLINE __u64 hf_judge_executable(const struct hf_asker *asker, __u64 dentry, __u64 mnt)
{
	const struct hf_access_row *row;
	__u64 found = hf_find_path(asker->set, HF_EXECUTABLES, dentry, mnt);

	if (HF_FOUND_FLAGS(found) & HF_UNKNOWN)
		return hf_refuse_unknown(asker, HF_KIND_PROCESS);
	row = hf_row(asker, HF_ACCESS_EXECUTABLE, HF_FOUND_OUTCOME(found), 0);
	if (!row)
		return 0;
	if (!(HF_FOUND_FLAGS(found) & (HF_PATH_NONE | HF_PATH_ROOT_OVERLAY)))
		hf_note_root(asker, row);
	if (hf_in_image((struct dentry *)dentry, HF_FOUND_FLAGS(found)))
		return hf_carry_out(asker, &row->answer[0], HF_KIND_PROCESS);
	return hf_carry_out(asker, &row->answer[1], HF_KIND_PROCESS);
}

__attribute__((noinline)) __u64 hf_executable_refused(__u64 dentry, __u64 mnt)
{
	struct hf_asker asker;

	if (!hf_asks(&asker, HF_ACCESS_PROCESSES) || hf_is_runtime(asker.wl))
		return 0;
	return hf_judge_executable(&asker, dentry, mnt);
}

/* A program that is given to the dynamic loader, run by hand, is mapped and never executed: it is judged as if it were. */
__attribute__((noinline)) __u64 hf_mapping_refused(__u64 dentry, __u64 mnt)
{
	const struct hf_access_row *row;
	struct hf_asker asker;

	if (!hf_asks(&asker, HF_ACCESS_PROCESSES) || hf_is_exempt(asker.wl))
		return 0;
	row = hf_row(&asker, HF_ACCESS_LOADER, hf_running(&asker), 0);
	return row ? hf_judge_executable(&asker, dentry, mnt) : 0;
}

/* Are these not the task's own credentials? Overlayfs looks into its layers with those of whoever mounted it, in the middle
 * of any call, and to refuse it that would show files that are not there. But io_uring takes on credentials that the task
 * itself has left with it: those count. */
HF_INLINE int hf_is_borrowed(__u64 cred)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u32 abi, nr;

	if (cred == (__u64)BPF_CORE_READ(task, real_cred) || BPF_CORE_READ(task, flags) & HF_PF_IO_WORKER)
		return 0;
	hf_read_number(task, hf_regs(task), &abi, &nr);
	return nr != HF_NR_IO_URING_ENTER;
}

/* A capability that the task has: without it, whatever was asked fails by itself. */
__attribute__((noinline)) __u64 hf_capability_refused(__u64 cred, __u32 capability, __u32 options)
{
	const struct hf_access_row *row;
	struct hf_asker asker;
	__u64 effective = 0;

	if (!hf_asks(&asker, HF_ACCESS_CAPABILITIES))
		return 0;
	if (!(asker.access->capabilities >> (capability & 63) & 1) || hf_is_exempt(asker.wl) || hf_is_borrowed(cred))
		return 0;
	/* One word of 64 bits since 6.3, two of 32 before: the same bytes on little-endian machines. */
	if (bpf_core_read(&effective, sizeof(effective), &((struct cred *)cred)->cap_effective))
		hf_helper_failed(HF_PROG_ACCESS, HF_HELPER_PROBE_READ);
	else if (!(effective >> (capability & 63) & 1))
		return 0;
	row = hf_row(&asker, HF_ACCESS_CAPABILITY, capability, 0);
	if (!row)
		return 0;
	if (options & HF_CAP_OPT_NOAUDIT)
		return row->answer[0].action >= HF_A_DENY && !hf_glass_is_broken() ? HF_REFUSES : 0;
	return hf_carry_out(&asker, &row->answer[0], HF_KIND_CAPABILITY);
}

/* Tells what was decided. Returns 1 to refuse. */
HF_INLINE int hf_finish(enum hf_hook hook, __u64 decided, __u64 dentry, __u64 mnt, __u32 does)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u64 what = decided & ~HF_REFUSES;
	const struct hf_workload *wl;
	__u32 index, abi, nr;

	if (!what)
		return decided >> 63;
	wl = hf_workload_in(bpf_get_current_cgroup_id(), &index);
	if (wl) {
		hf_read_number(task, hf_regs(task), &abi, &nr);
		hf_tell_call(HF_WHO(index, wl->access_set), what | (__u64)hook << 40 | HF_WHAT_DOES(does), HF_CALL(abi, nr),
			     dentry, mnt);
	}
	return decided >> 63;
}

#endif
