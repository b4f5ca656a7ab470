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

/* include/linux/fs.h */
#define HF_FMODE_READ 0x1
#define HF_FMODE_WRITE 0x2
#define HF_FMODE_NOACCOUNT 0x20000000
/* __FMODE_EXEC of include/linux/fs.h, among the flags; no call takes it from outside. */
#define HF_O_EXEC 0x20
/* include/uapi/linux/fs.h */
#define HF_RENAME_EXCHANGE 2
/* include/uapi/asm-generic/mman-common.h */
#define HF_PROT_EXEC 4
/* include/uapi/linux/mount.h: what changes a mount in its place */
#define HF_MS_IN_PLACE (32 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20)
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

/* --- the hooks ---------------------------------------------------------------------------------------------------- */

#define HF_PTR(argument) ((void *)(argument))

/* An argument of the hook as a number, which global functions take; the verifier knows it as a pointer to a structure. */
HF_INLINE __u64 hf_argument(unsigned long long *ctx, int place)
{
	__u64 argument = 0;

	if (bpf_probe_read_kernel(&argument, sizeof(argument), ctx + place))
		hf_helper_failed(HF_PROG_ACCESS, HF_HELPER_PROBE_READ);
	return argument;
}

HF_INLINE int hf_on_file(enum hf_hook hook, __u64 dentry, __u64 mnt, __u32 does)
{
	return hf_finish(hook, hf_file_refused(dentry, mnt, does), dentry, mnt, does);
}

HF_INLINE int hf_on_move(enum hf_hook hook, __u64 from, __u64 from_mnt, __u64 to, __u64 to_mnt, __u32 does)
{
	return hf_finish(hook, hf_move_refused(from, from_mnt, to, to_mnt), from, from_mnt, does);
}

HF_INLINE int hf_on_mount(enum hf_hook hook)
{
	return hf_finish(hook, hf_mount_refused(), 0, 0, 0);
}

HF_INLINE int hf_on_name(enum hf_hook hook, __u64 dir, __u64 dentry, __u32 does)
{
	return hf_on_file(hook, dentry, (__u64)BPF_CORE_READ((struct path *)dir, mnt), does);
}

HF_INLINE int hf_on_opened(enum hf_hook hook, __u64 file, __u32 does)
{
	struct file *opened = HF_PTR(file);

	return hf_on_file(hook, (__u64)BPF_CORE_READ(opened, f_path.dentry), (__u64)BPF_CORE_READ(opened, f_path.mnt), does);
}

HF_INLINE __u32 hf_open_does(__u64 file)
{
	__u32 mode = BPF_CORE_READ((struct file *)HF_PTR(file), f_mode), does = 0;

	/* Overlayfs opens the file of a layer for itself; an executable is not read by who executes it. */
	if (mode & HF_FMODE_NOACCOUNT || BPF_CORE_READ((struct file *)HF_PTR(file), f_flags) & HF_O_EXEC)
		return 0;
	if (mode & HF_FMODE_READ)
		does |= HF_DOES(HF_OP_READ);
	if (mode & HF_FMODE_WRITE)
		does |= HF_DOES(HF_OP_WRITE);
	return does;
}

HF_INLINE int hf_on_open(enum hf_hook hook, __u64 file)
{
	__u32 does = hf_open_does(file);

	return does ? hf_on_opened(hook, file, does) : 0;
}

HF_INLINE int hf_on_path(enum hf_hook hook, __u64 path, __u32 does)
{
	struct path *at = HF_PTR(path);

	return hf_on_file(hook, (__u64)BPF_CORE_READ(at, dentry), (__u64)BPF_CORE_READ(at, mnt), does);
}

HF_INLINE int hf_on_link(enum hf_hook hook, unsigned long long *ctx)
{
	__u64 old = hf_argument(ctx, 0), new = hf_argument(ctx, 2);
	__u64 mnt = (__u64)BPF_CORE_READ((struct path *)HF_PTR(hf_argument(ctx, 1)), mnt);

	/* Both names are of one mount: link(2) refuses others. */
	return hf_on_file(hook, old, mnt, HF_DOES(HF_OP_LINK)) ||
	       hf_on_file(hook, new, mnt, HF_DOES(HF_OP_LINK) | HF_DOES(HF_OP_CREATE)) ||
	       hf_on_move(hook, old, mnt, new, mnt, HF_DOES(HF_OP_LINK));
}

HF_INLINE int hf_on_rename(enum hf_hook hook, unsigned long long *ctx)
{
	__u64 old = hf_argument(ctx, 1), new = hf_argument(ctx, 3);
	__u64 from = (__u64)BPF_CORE_READ((struct path *)HF_PTR(hf_argument(ctx, 0)), mnt);
	__u64 to = (__u64)BPF_CORE_READ((struct path *)HF_PTR(hf_argument(ctx, 2)), mnt);
	int exists = BPF_CORE_READ((struct dentry *)HF_PTR(new), d_inode) != NULL;
	/* Before 5.19 the hook has no flags, and is asked once more with the names the other way round: what is read here is
	 * the answer so far, which is 0. */
	int exchanged = exists && (hf_argument(ctx, 4) & HF_RENAME_EXCHANGE);

	return hf_on_file(hook, old, from, HF_DOES(HF_OP_RENAME)) ||
	       hf_on_file(hook, new, to, HF_DOES(HF_OP_RENAME) | HF_DOES(exists ? HF_OP_DELETE : HF_OP_CREATE)) ||
	       hf_on_move(hook, old, from, new, to, HF_DOES(HF_OP_RENAME)) ||
	       (exchanged && hf_on_move(hook, new, to, old, from, HF_DOES(HF_OP_RENAME)));
}

HF_INLINE int hf_on_execute(enum hf_hook hook, __u64 file)
{
	__u64 dentry = (__u64)BPF_CORE_READ((struct file *)HF_PTR(file), f_path.dentry);
	__u64 mnt = (__u64)BPF_CORE_READ((struct file *)HF_PTR(file), f_path.mnt);

	return hf_finish(hook, hf_executable_refused(dentry, mnt), dentry, mnt, 0);
}

/* Mapped as code. What overlayfs maps is the file of a layer, which since 6.8 has the layer's path and keeps the other
 * beside it; nothing else that is not accounted for is ever mapped. */
HF_INLINE int hf_on_code(enum hf_hook hook, __u64 file)
{
	struct file *mapped = HF_PTR(file);
	__u64 dentry, mnt;

	if (!file)
		return 0;
	dentry = (__u64)BPF_CORE_READ(mapped, f_path.dentry);
	mnt = (__u64)BPF_CORE_READ(mapped, f_path.mnt);
	if (bpf_core_field_exists(((struct backing_file *)0)->user_path) && BPF_CORE_READ(mapped, f_mode) & HF_FMODE_NOACCOUNT) {
		dentry = (__u64)BPF_CORE_READ((struct backing_file *)HF_PTR(file), user_path.dentry);
		mnt = (__u64)BPF_CORE_READ((struct backing_file *)HF_PTR(file), user_path.mnt);
	}
	return hf_on_file(hook, dentry, mnt, HF_DOES(HF_OP_EXECUTE_MAP)) ||
	       hf_finish(hook, hf_mapping_refused(dentry, mnt), dentry, mnt, 0);
}

/* A socket in the file system is opened by connecting or sending to it: no open(2) ever shows it. One without a name, or
 * with an abstract one, is no file. */
HF_INLINE int hf_on_unix_socket(enum hf_hook hook, struct unix_sock *other)
{
	if (!BPF_CORE_READ(other, path.dentry))
		return 0;
	return hf_on_path(hook, (__u64)&other->path, HF_DOES(HF_OP_READ) | HF_DOES(HF_OP_WRITE));
}

/* Is it mapped as code? The hook is given (file, asked, protection, flags), the function that calls it (file, asked, flags):
 * what is third is protection here and flags there, of which none that mmap(2) takes is the bit of PROT_EXEC. */
HF_INLINE int hf_maps_code(unsigned long long *ctx)
{
	return (hf_argument(ctx, 1) | hf_argument(ctx, 2)) & HF_PROT_EXEC;
}

/* Is there anything to ask? What follows costs more than this. */
HF_INLINE int hf_is_concerned(void)
{
	const struct hf_workload *wl;
	__u32 index;

	wl = hf_workload_in(bpf_get_current_cgroup_id(), &index);
	return wl && wl->access_set;
}

/* Can the first (or second) name of a path that some rule on files speaks of begin like this one? By its first two bytes, of
 * which the second is 0 where there is none. */
HF_INLINE int hf_may_be(const __u64 *beginnings, struct dentry *dentry)
{
	struct dentry___since_6_14 *newer = (void *)dentry;
	/* Length and hash are one number, with the length above (include/linux/stringhash.h). */
	int is_short = dentry->d_name.hash_len >> 32 < sizeof(dentry->d_iname);
	__u32 one, other, bit;

	/* A name that is shorter than what a dentry has room for is nowhere else (fs/dcache.c, __d_alloc), and is read
	 * without a call. The compiler is kept from joining the loads of several ways to one, whose pointers the verifier
	 * could not tell apart. */
	if (is_short && bpf_core_field_exists(dentry->d_iname)) {
		one = dentry->d_iname[0];
		other = dentry->d_iname[1];
		HF_OPAQUE(one);
		HF_OPAQUE(other);
	} else if (is_short && bpf_core_field_exists(newer->d_shortname)) {
		one = newer->d_shortname.string[0];
		other = newer->d_shortname.string[1];
		HF_OPAQUE(one);
		HF_OPAQUE(other);
	} else {
		__u8 bytes[2] = {};

		if (bpf_probe_read_kernel(bytes, sizeof(bytes), dentry->d_name.name))
			return 1;
		one = bytes[0];
		other = bytes[1];
	}
	bit = HF_BEGINNING(one, other);
	return beginnings[bit / 64] >> (bit % 64) & 1;
}

/* Is a file that is opened where no rule speaks of any? So it is with most: on the mount that is the root of the task's own
 * mount namespace, below names there that no pattern can begin with. The way up to them is made of plain loads here, each of
 * which costs a small part of what it takes to read a name. 0 where that cannot be said. Kernels before 5.17 (HF_OLD) may
 * lack bpf_get_current_task_btf, which is of 5.11. */
HF_INLINE int hf_is_elsewhere(const struct hf_asker *asker, struct file *file)
{
#ifdef HF_OLD
	return 0;
#else
	struct mount *root = bpf_get_current_task_btf()->nsproxy->mnt_ns->root;
	struct vfsmount *mnt = file->f_path.mnt;
	struct dentry *at = file->f_path.dentry, *end = mnt->mnt_root, *first = NULL, *second = NULL;
	struct {
		struct mount *mount;
		struct dentry *at;
	} over;
	__u32 names = 0;

	/* Both are read at once. */
	if (bpf_core_field_offset(struct mount, mnt_mountpoint) != bpf_core_field_offset(struct mount, mnt_parent) + 8)
		return 0;
#pragma clang loop unroll(disable)
	for (; names < HF_STEPS_AT_ONCE && at != end; names++) {
		second = first;
		first = at;
		at = at->d_parent;
	}
	if (at != end || !first)
		return 0;
	/* The root of a namespace is its first mount, or mounted over that one's root: see hf_read_path. */
	if (bpf_core_read(&over, sizeof(over), &hf_mount_of(mnt)->mnt_parent) || over.mount != root ||
	    over.at != root->mnt.mnt_root)
		return 0;
	if (!hf_may_be(asker->access->first, first))
		return 1;
	return second && !hf_may_be(asker->access->second, second);
#endif
}

HF_INLINE int hf_on_opening(enum hf_hook hook, unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];
	struct hf_asker asker;

	/* An overlayfs opens a file of a layer for each of its own. */
	if (file->f_mode & HF_FMODE_NOACCOUNT || !hf_asks(&asker, HF_ACCESS_FILES) || hf_is_elsewhere(&asker, file))
		return 0;
	return hf_on_open(hook, hf_argument(ctx, 0));
}

/* Which of these belong to a hook: decided when the program is compiled. */
HF_INLINE int hf_access_refused(enum hf_hook hook, unsigned long long *ctx)
{
	if (hook == HF_HOOK_file_open)
		return hf_on_opening(hook, ctx);
	if (!hf_is_concerned())
		return 0;
	switch (hook) {
	/* Handed over by another process. */
	case HF_HOOK_file_receive:
		return hf_on_open(hook, hf_argument(ctx, 0));
	case HF_HOOK_file_truncate:
		return hf_on_opened(hook, hf_argument(ctx, 0), HF_DOES(HF_OP_WRITE));
	case HF_HOOK_path_truncate:
		return hf_on_path(hook, hf_argument(ctx, 0), HF_DOES(HF_OP_WRITE));
	case HF_HOOK_path_chmod:
	case HF_HOOK_path_chown:
		return hf_on_path(hook, hf_argument(ctx, 0), HF_DOES(HF_OP_CHMOD));
	case HF_HOOK_path_mknod:
	case HF_HOOK_path_mkdir:
	case HF_HOOK_path_symlink:
		return hf_on_name(hook, hf_argument(ctx, 0), hf_argument(ctx, 1), HF_DOES(HF_OP_CREATE));
	case HF_HOOK_path_unlink:
	case HF_HOOK_path_rmdir:
		return hf_on_name(hook, hf_argument(ctx, 0), hf_argument(ctx, 1), HF_DOES(HF_OP_DELETE));
	case HF_HOOK_path_link:
		return hf_on_link(hook, ctx);
	case HF_HOOK_path_rename:
		return hf_on_rename(hook, ctx);
	case HF_HOOK_mmap_file:
		return hf_maps_code(ctx) ? hf_on_code(hook, hf_argument(ctx, 0)) : 0;
	case HF_HOOK_file_mprotect:
		if (!(hf_argument(ctx, 2) & HF_PROT_EXEC))
			return 0;
		return hf_on_code(hook, (__u64)BPF_CORE_READ((struct vm_area_struct *)HF_PTR(hf_argument(ctx, 0)), vm_file));
	case HF_HOOK_bprm_check_security:
		return hf_on_execute(hook, (__u64)BPF_CORE_READ((struct linux_binprm *)HF_PTR(hf_argument(ctx, 0)), file));
	case HF_HOOK_sb_mount:
		return hf_argument(ctx, 3) & HF_MS_IN_PLACE ? 0 : hf_on_mount(hook);
	case HF_HOOK_move_mount:
	case HF_HOOK_sb_pivotroot:
		return hf_on_mount(hook);
	case HF_HOOK_unix_stream_connect:
		return hf_on_unix_socket(hook, HF_PTR(hf_argument(ctx, 1)));
	case HF_HOOK_unix_may_send:
		return hf_on_unix_socket(hook, (struct unix_sock *)BPF_CORE_READ((struct socket *)HF_PTR(hf_argument(ctx, 1)), sk));
	case HF_HOOK_capable:
		return hf_finish(hook, hf_capability_refused(hf_argument(ctx, 0), hf_argument(ctx, 2), hf_argument(ctx, 3)), 0, 0,
				 0);
	default:
		return 0;
	}
}

#endif
