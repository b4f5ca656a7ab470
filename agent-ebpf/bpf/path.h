/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The path of a file as its mount namespace has it, and the walk of an automaton along it.
 *
 * By hand, as bpf_d_path is allowed in other hooks on each kernel, and on no LSM hook of 5.10. It goes up to the root of
 * the mount namespace, not to the task's: chroot(2) changes no path. Names are read without locks: a rename at the very
 * moment gives the old path or the new one, or, of several names, some of each; who may rename a protected name at all is
 * decided apart. */
#ifndef HF_PATH_H
#define HF_PATH_H

#include "common.h"

/* PATH_MAX and NAME_MAX, include/uapi/linux/limits.h */
#define HF_PATH_MAX 4096
#define HF_NAME_MAX 255
/* include/uapi/linux/magic.h */
#define HF_OVERLAYFS 0x794c7630
#define HF_TMPFS 0x01021994
/* Names and mounts on the way up; how many at once, and how many bytes at once on the way down. Loops are in global functions
 * of numbers, one within the other: the verifier walks each once, which takes it seconds less than all steps of a path, and
 * no kernel needs bpf_loop for them. What they hand on is in the scratch area. */
#define HF_PATH_STEPS 256
#define HF_STEPS_AT_ONCE 16
#define HF_BYTES_AT_ONCE 64

/* What a path is like. */
#define HF_PATH_NONE 1	   /* of no mount that anybody can see: memfd, pipes */
#define HF_PATH_DETACHED 2 /* in a tree that is mounted nowhere, or no longer: the path is not whole */
#define HF_PATH_BROKEN 4   /* too long, or it could not be read */
#define HF_PATH_ON_ROOT 8  /* on the mount that is the root of its namespace */
#define HF_PATH_ROOT_OVERLAY 16 /* and that is an overlayfs */

/* Where a path is put together, from its end, and walked. Another task may come in between on the same processor where the
 * kernel preempts: it would write its own number to `owner`, which is looked at again in the end. */
struct hf_path {
	__u64 owner;
	struct dentry *dentry;
	struct mount *mount;
	struct mount *below; /* the last mount before this one */
	__u32 flags;
	__u32 at; /* where the path begins in `bytes`; it ends at HF_PATH_MAX */
	__u32 next; /* where the walk is */
	__u32 state; /* and the automaton */
	char bytes[HF_PATH_MAX + HF_NAME_MAX + 1];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hf_path);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} path_scratch SEC(".maps");

HF_INLINE struct hf_path *hf_path_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&path_scratch, &zero);
}

HF_INLINE struct mount *hf_mount_of(struct vfsmount *mnt)
{
	return (struct mount *)((char *)mnt - bpf_core_field_offset(struct mount, mnt));
}

/* Is the namespace one that no process is in: made by open_tree(2) or fsmount(2)? */
HF_INLINE int hf_is_anonymous(struct mnt_namespace *ns)
{
	if (bpf_core_field_exists(((struct mnt_namespace *)0)->seq))
		return BPF_CORE_READ(ns, seq) == 0;
	return BPF_CORE_READ(ns, ns.ns_id) == 0;
}

/* At the topmost mount: whose is it? */
HF_INLINE __u32 hf_top(struct mount *mount)
{
	struct mnt_namespace *ns = BPF_CORE_READ(mount, mnt_ns);

	if (!ns)
		return HF_PATH_DETACHED;
	/* MNT_NS_INTERNAL, an error pointer: fs/mount.h */
	if ((__u64)ns >= (__u64)-4095)
		return HF_PATH_NONE;
	return hf_is_anonymous(ns) ? HF_PATH_DETACHED : 0;
}

/* One step up: a name, or over the edge of a mount. Returns 1 at the end. */
HF_INLINE int hf_climb_step(struct hf_path *path)
{
	struct dentry *dentry = path->dentry, *parent;
	struct mount *mount = path->mount, *above;
	struct qstr name;
	__u32 len, at;

	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
		above = BPF_CORE_READ(mount, mnt_parent);
		if (above == mount) {
			path->flags |= hf_top(mount);
			return 1;
		}
		path->below = mount;
		path->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		path->mount = above;
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry) {
		/* The root of its file system, though not of the mount: a file without any name, as memfd makes them; or opened
		 * by a handle, or the mount's root was moved. */
		path->flags |= hf_top(mount) & HF_PATH_NONE ? HF_PATH_NONE : HF_PATH_DETACHED;
		return 1;
	}
	if (bpf_core_read(&name, sizeof(name), &dentry->d_name))
		goto broken;
	len = name.hash_len >> 32;
	at = path->at;
	if (len > HF_NAME_MAX || at < len + 1)
		goto broken;
	at -= len;
	if (bpf_probe_read_kernel(&path->bytes[at & (HF_PATH_MAX - 1)], len & HF_NAME_MAX, name.name))
		goto broken;
	/* So a file is called that was opened without a name (O_TMPFILE), where its file system gives it no other, as FUSE does:
	 * no pattern would match a second slash. */
	if (path->bytes[at & (HF_PATH_MAX - 1)] == '/')
		path->bytes[at & (HF_PATH_MAX - 1)] = '#';
	at -= 1;
	path->bytes[at & (HF_PATH_MAX - 1)] = '/';
	path->at = at;
	path->dentry = parent;
	return 0;
broken:
	path->flags |= HF_PATH_BROKEN;
	return 1;
}

/* Some steps up. Returns 1 at the end. */
__attribute__((noinline)) __u32 hf_climb_on(void)
{
	struct hf_path *path = hf_path_scratch();

	if (!path)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < HF_STEPS_AT_ONCE; i++) {
		if (hf_climb_step(path))
			return 1;
	}
	return 0;
}

/* Puts the path of a dentry in a mount into the scratch area, for the current task. Returns flags. */
__attribute__((noinline)) __u32 hf_read_path(__u64 of, __u64 in)
{
	struct vfsmount *mnt = (struct vfsmount *)in;
	struct hf_path *path = hf_path_scratch();
	struct mount *root, *below;
	__u32 done = 0, flags;

	if (!path)
		return HF_PATH_BROKEN;
	path->owner = bpf_get_current_pid_tgid();
	path->dentry = (struct dentry *)of;
	path->mount = hf_mount_of(mnt);
	path->below = NULL;
	path->flags = 0;
	path->at = HF_PATH_MAX;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < HF_PATH_STEPS / HF_STEPS_AT_ONCE; i++) {
		done = hf_climb_on();
		if (done)
			break;
	}
	flags = path->flags;
	if (!done)
		return HF_PATH_BROKEN;
	/* The topmost mount is the kernel's first one, empty, with the root mounted over it; or the root itself. */
	root = path->mount;
	below = path->below;
	if (below && BPF_CORE_READ(below, mnt_mountpoint) == BPF_CORE_READ(root, mnt.mnt_root))
		root = below;
	if (root == hf_mount_of(mnt))
		flags |= HF_PATH_ON_ROOT;
	if (BPF_CORE_READ(root, mnt.mnt_root, d_sb, s_magic) == HF_OVERLAYFS)
		flags |= HF_PATH_ROOT_OVERLAY;
	return flags;
}

/* Where a file is, by the flags of its path. Below the root of an overlay it tells the layers apart. */
HF_INLINE enum hf_origin hf_origin(struct dentry *dentry, __u32 flags)
{
	struct dentry *upper = NULL;
	struct inode *inode;

	if (flags & HF_PATH_NONE)
		return HF_ORIGIN_MEMORY;
	if (!(flags & HF_PATH_ROOT_OVERLAY))
		return HF_ORIGIN_UNKNOWN;
	if (!(flags & HF_PATH_ON_ROOT))
		return BPF_CORE_READ(dentry, d_sb, s_magic) == HF_TMPFS ? HF_ORIGIN_TMPFS : HF_ORIGIN_VOLUME;
	inode = BPF_CORE_READ(dentry, d_inode);
	/* struct ovl_inode: the upper dentry follows the inode (fs/overlayfs/ovl_entry.h). No type of the module's is asked
	 * for, as modules have none on 5.10. */
	if (!inode || bpf_probe_read_kernel(&upper, sizeof(upper), (char *)inode + bpf_core_type_size(struct inode)))
		return HF_ORIGIN_WRITTEN;
	return upper ? HF_ORIGIN_WRITTEN : HF_ORIGIN_IMAGE;
}

/* --- the automaton ----------------------------------------------------------------------------------------------- */

/* The rows of all automata, each a few elements; state n of one begins at base + n * elements. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HF_PATH_ROWS);
	__type(key, __u32);
	__type(value, struct hf_path_row);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} path_rows SEC(".maps");

/* A cell of a state's row. */
HF_INLINE __u32 hf_cell(const struct hf_automaton *automaton, __u32 state, __u32 column)
{
	__u32 element = automaton->base + state * automaton->elements + column / HF_ROW_CELLS;
	const struct hf_path_row *row = bpf_map_lookup_elem(&path_rows, &element);

	return row ? row->cell[column % HF_ROW_CELLS] : 0;
}

#endif
