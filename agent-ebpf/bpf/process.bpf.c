// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Who is exempt: kept up to date where processes come, move, execute and go. Rules are not looked at here.
 *
 * All four are tracepoints with a stable place: fork fires in the parent before the child first runs, exec once the new
 * program is in place and before its first instruction, attach_task after the move, in the context of whoever moved. */
#include "process.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define HF_NO_CGROUP 0

HF_INLINE __u64 hf_cgroup_of(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

HF_INLINE __u32 hf_mnt_ns_of(struct task_struct *task)
{
	/* Exiting tasks have no namespaces; those come by here as parents or movers only, never exiting. */
	return BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
}

HF_INLINE void hf_put(__u32 tgid, __u64 cgroup, __u32 pod, __u32 state, __u32 mnt_ns)
{
	struct hf_process process = { .cgroup = cgroup, .pod = pod, .state = state, .mnt_ns = mnt_ns };

	if (bpf_map_update_elem(&processes, &tgid, &process, BPF_ANY))
		hf_helper_failed(HF_PROG_PROCESS, HF_HELPER_MAP_UPDATE);
}

/* A process without an entry got into `to` by the doing of somebody in `from`. */
HF_INLINE void hf_enter(__u32 tgid, __u64 to, __u64 from, int from_is_exempt, __u32 mnt_ns)
{
	__u32 to_pod = hf_pod_in(to);
	__u32 from_pod = 0;

	if (from_is_exempt)
		from = HF_NO_CGROUP;
	else
		from_pod = hf_pod_in(from);
	if (to_pod && to_pod == from_pod)
		hf_put(tgid, to, to_pod, HF_P_INSIDE, 0);
	else
		hf_put(tgid, from, from_pod, HF_P_EXEMPT, mnt_ns);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(hf_process_fork, struct task_struct *parent, struct task_struct *child)
{
	struct hf_process *process;
	__u32 tgid = child->tgid, parent_tgid = parent->tgid;
	const struct hf_workload *wl;
	__u32 index;
	__u64 to;

	if (child->pid != child->tgid)
		return 0;
	to = hf_cgroup_of(child);
	process = bpf_map_lookup_elem(&processes, &parent_tgid);
	if (to != hf_cgroup_of(parent)) {
		/* CLONE_INTO_CGROUP */
		hf_enter(tgid, to, hf_cgroup_of(parent), process && process->state == HF_P_EXEMPT, hf_mnt_ns_of(parent));
		return 0;
	}
	if (process) {
		struct hf_process copy = *process;

		if (bpf_map_update_elem(&processes, &tgid, &copy, BPF_ANY))
			hf_helper_failed(HF_PROG_PROCESS, HF_HELPER_MAP_UPDATE);
		return 0;
	}
	wl = hf_workload_in(to, &index);
	if (wl)
		hf_put(tgid, to, wl->pod, HF_P_INSIDE, 0);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(hf_process_exec, struct task_struct *task)
{
	__u32 tgid = task->tgid;
	struct hf_process *process = bpf_map_lookup_elem(&processes, &tgid);
	const struct hf_workload *wl;
	__u32 index;
	__u64 here;

	if (!process || process->state != HF_P_EXEMPT)
		return 0;
	here = hf_cgroup_of(task);
	wl = hf_workload_in(here, &index);
	if (!wl) {
		bpf_map_delete_elem(&processes, &tgid);
		return 0;
	}
	/* A runtime that starts its helper right in the container's cgroup executes itself there first. The container's
	 * own program runs in the container's own mount namespace. */
	if ((wl->flags & HF_WL_CONTAINER) && process->mnt_ns && process->mnt_ns == hf_mnt_ns_of(task))
		return 0;
	hf_put(tgid, here, wl->pod, HF_P_INSIDE, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(hf_process_exit, struct task_struct *task)
{
	__u32 tgid = task->tgid;

	/* do_exit has counted this thread off already. */
	if (task->signal->live.counter)
		return 0;
	if (bpf_map_lookup_elem(&processes, &tgid))
		bpf_map_delete_elem(&processes, &tgid);
	return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(hf_cgroup_attach_task, struct cgroup *to_cgroup, const char *path, struct task_struct *task)
{
	__u32 tgid = task->tgid, mover = bpf_get_current_pid_tgid() >> 32;
	struct hf_process *process;
	__u64 to, from;

	/* Cgroup v1 hierarchies fire the same tracepoint. */
	if (to_cgroup->root->hierarchy_id != 0)
		return 0;
	to = to_cgroup->kn->id;
	process = bpf_map_lookup_elem(&processes, &tgid);
	if (process) {
		__u32 to_pod, from_pod;

		if (process->state == HF_P_EXEMPT)
			return 0;
		to_pod = hf_pod_in(to);
		from_pod = process->pod ? process->pod : hf_pod_in(process->cgroup);
		if (to_pod && to_pod == from_pod)
			hf_put(tgid, to, to_pod, HF_P_INSIDE, 0);
		else
			hf_put(tgid, process->cgroup, from_pod, HF_P_EXEMPT, 0);
		return 0;
	}
	if (mover == tgid) {
		/* Where it came from is not to be seen any more, but a container's processes can come from nowhere but
		 * their cgroup namespace. */
		from = BPF_CORE_READ(task, nsproxy, cgroup_ns, root_cset, dfl_cgrp, kn, id);
		hf_enter(tgid, to, from, 0, 0);
		return 0;
	}
	process = bpf_map_lookup_elem(&processes, &mover);
	hf_enter(tgid, to, bpf_get_current_cgroup_id(), process && process->state == HF_P_EXEMPT,
		 BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), nsproxy, mnt_ns, ns.inum));
	return 0;
}
