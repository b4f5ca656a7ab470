/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which processes the system call rules do not speak to yet.
 *
 * A container runtime joins the container's cgroup long before it runs the container's program. So a process that
 * entered from outside is exempt until it executes a program. A process that moves, or is moved, by somebody of its own
 * pod has not entered: a container that may write its own tree of cgroups cannot exempt itself. */
#ifndef HF_PROCESS_H
#define HF_PROCESS_H

#include "common.h"

/* Only processes of workloads, and those on their way into one, have an entry. Made in full beforehand, as tracepoints
 * with a lock held write to it. */
HF_HASH(processes, BPF_MAP_TYPE_HASH, __u32, struct hf_process, 32768, 0);

HF_INLINE const struct hf_workload *hf_workload_in(__u64 cgroup, __u32 *index)
{
	__u32 *found = bpf_map_lookup_elem(&cgroups, &cgroup);

	if (!found)
		return NULL;
	*index = *found;
	return bpf_map_lookup_elem(&workloads, found);
}

/* The pod of a cgroup, 0 where there is none. */
HF_INLINE __u32 hf_pod_in(__u64 cgroup)
{
	const struct hf_workload *wl;
	__u32 index;

	wl = hf_workload_in(cgroup, &index);
	return wl ? wl->pod : 0;
}

/* Is the current process still exempt from the rules of this workload? What was not known when it entered (its cgroup
 * may have been enrolled a moment later) is judged now. */
HF_INLINE int hf_is_exempt(const struct hf_workload *wl)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	const struct hf_process *process;
	__u32 from;

	process = bpf_map_lookup_elem(&processes, &tgid);
	if (!process || process->state != HF_P_EXEMPT)
		return 0;
	from = process->pod ? process->pod : hf_pod_in(process->cgroup);
	return !from || from != wl->pod;
}

#endif
