// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The tree of cgroups: a child belongs to its parent's workload before anything can run in it, and the agent is told of
 * every cgroup that comes and goes. */
#include "common.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 << 10); /* of which each record takes about half a KiB */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} cgroup_events SEC(".maps");

/* Cgroup v1 hierarchies fire the same tracepoints; the v2 hierarchy is number 0 (kernel/cgroup/cgroup.c, cgrp_dfl_root). */
HF_INLINE int hf_is_v2(struct cgroup *cgrp)
{
	return BPF_CORE_READ(cgrp, root, hierarchy_id) == 0;
}

HF_INLINE void hf_tell(__u32 kind, __u64 id, __u64 parent, const char *path)
{
	struct hf_cgroup_event *event = bpf_ringbuf_reserve(&cgroup_events, sizeof(*event), 0);
	long len;

	if (!event) {
		/* The agent compares this count with what it saw, and walks the tree when something was lost. */
		hf_helper_failed(HF_PROG_CGROUP, HF_HELPER_RINGBUF);
		return;
	}
	event->id = id;
	event->parent = parent;
	event->kind = kind;
	len = bpf_probe_read_kernel_str(event->path, sizeof(event->path), path);
	event->path_len = len > 0 && len < HF_CGROUP_PATH ? len : 0;
	bpf_ringbuf_submit(event, 0);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(hf_cgroup_mkdir, struct cgroup *cgrp, const char *path)
{
	struct cgroup_subsys_state *parent;
	__u64 id, parent_id = 0;
	__u32 *index;

	if (!hf_is_v2(cgrp))
		return 0;
	id = BPF_CORE_READ(cgrp, kn, id);
	/* Not kn->parent: that member was renamed in 6.15. */
	parent = BPF_CORE_READ(cgrp, self.parent);
	if (parent)
		parent_id = BPF_CORE_READ(parent, cgroup, kn, id);
	index = bpf_map_lookup_elem(&cgroups, &parent_id);
	if (index) {
		__u32 copy = *index;

		if (bpf_map_update_elem(&cgroups, &id, &copy, BPF_ANY))
			hf_helper_failed(HF_PROG_CGROUP, HF_HELPER_MAP_UPDATE);
	}
	hf_tell(HF_CGROUP_MADE, id, parent_id, path);
	return 0;
}

SEC("tp_btf/cgroup_release")
int BPF_PROG(hf_cgroup_release, struct cgroup *cgrp, const char *path)
{
	__u64 id;

	if (!hf_is_v2(cgrp))
		return 0;
	id = BPF_CORE_READ(cgrp, kn, id);
	/* Sockets can outlive their cgroup's directory (a dying cgroup): cgroup_release comes when the last reference is
	 * gone, cgroup_rmdir would be too early. */
	bpf_map_delete_elem(&cgroups, &id);
	hf_tell(HF_CGROUP_GONE, id, 0, path);
	return 0;
}
