/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each hook is given, put as a question to access.h: which file, by which operation. */
#ifndef HF_AT_HOOK_H
#define HF_AT_HOOK_H

#include "access.h"

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

/* The first two names of a path; NULL where there is none. */
struct hf_names {
	struct dentry *first;
	struct dentry *second;
};

/* bpf_rdonly_cast of the kernel (since 6.2): the object as a pointer of a type that plain loads go through. The agent puts the
 * call of it, and the number of the type, here when it loads the program, or 0 where the kernel has none: hooks/object.rs. */
#define HF_CALL_CAST 0x7fff0001
#define HF_TYPE_OF_MOUNT 0x7fff0002
static void *(*const hf_cast)(const void *object, __u32 type) = (void *)HF_CALL_CAST;

/* Any file's names, by way of all mounts above it. 0 where they cannot be told: it is mounted nowhere, or too far down. */
HF_INLINE int hf_names_by_mounts(struct hf_names *names, struct mount *mount, struct dentry *at, struct mount *root)
{
	struct dentry *end = mount->mnt.mnt_root, *top = root->mnt.mnt_root, *first = NULL, *second = NULL;

#pragma clang loop unroll(disable)
	for (__u32 steps = 0; steps < HF_STEPS_AT_ONCE; steps++) {
		struct mount *above;

		if (at != end) {
			second = first;
			first = at;
			at = at->d_parent;
			continue;
		}
		/* A mount that is taken away gets its parent first, then its place: read in this order it leads to itself. */
		at = mount->mnt_mountpoint;
		asm volatile("" ::: "memory");
		above = mount->mnt_parent;
		/* The root of a namespace is its first mount, or mounted over that one's root: see hf_read_path. */
		if (above == root && at == top) {
			names->first = first;
			names->second = second;
			return first != NULL;
		}
		if (above == mount)
			return 0;
		mount = above;
		end = mount->mnt.mnt_root;
	}
	return 0;
}

/* The names of a file on the mount that is the root of the namespace, as most are. 0 where they cannot be told. */
HF_INLINE int hf_names_below_root(struct hf_names *names, struct vfsmount *mnt, struct dentry *at, struct mount *root)
{
	struct dentry *end = mnt->mnt_root, *first = NULL, *second = NULL;
	struct {
		struct mount *mount;
		struct dentry *at;
	} over;

	/* Both are read at once. */
	if (bpf_core_field_offset(struct mount, mnt_mountpoint) != bpf_core_field_offset(struct mount, mnt_parent) + 8)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 steps = 0; steps < HF_STEPS_AT_ONCE && at != end; steps++) {
		second = first;
		first = at;
		at = at->d_parent;
	}
	if (at != end || !first)
		return 0;
	if (bpf_core_read(&over, sizeof(over), &hf_mount_of(mnt)->mnt_parent) || over.mount != root ||
	    over.at != root->mnt.mnt_root)
		return 0;
	names->first = first;
	names->second = second;
	return 1;
}

/* The names of a file, as the task's own mount namespace has them. The way up to them is made of plain loads here, each of
 * which costs a small part of what it takes to read a name. 0 where they cannot be told. Kernels before 5.17 (HF_OLD) may
 * lack bpf_get_current_task_btf, which is of 5.11. */
HF_INLINE int hf_first_names(struct hf_names *names, struct file *file)
{
#ifdef HF_OLD
	return 0;
#else
	struct mount *root = bpf_get_current_task_btf()->nsproxy->mnt_ns->root;
	struct vfsmount *mnt = file->f_path.mnt;
	struct mount *mount = hf_cast(hf_mount_of(mnt), HF_TYPE_OF_MOUNT);

	/* A task that is about to end has no namespaces. */
	if (!root)
		return 0;
	if (mount)
		return hf_names_by_mounts(names, mount, file->f_path.dentry, root);
	return hf_names_below_root(names, mnt, file->f_path.dentry, root);
#endif
}

/* Is there no path with a name like this that some rule speaks of? By the name's first two bytes, of which the second is 0
 * where there is none. 0 where that takes a call to find out: a name that is shorter than what a dentry has room for is
 * nowhere else (fs/dcache.c, __d_alloc). */
HF_INLINE int hf_none_begins_so(const __u64 *beginnings, struct dentry *dentry)
{
	struct dentry___since_6_14 *newer = (void *)dentry;
	__u32 two, bit;

	if (dentry->d_name.len >= sizeof(dentry->d_iname))
		return 0;
	if (bpf_core_field_exists(dentry->d_iname))
		two = *(__u16 *)__builtin_assume_aligned(dentry->d_iname, 2);
	else if (bpf_core_field_exists(newer->d_shortname))
		two = *(__u16 *)__builtin_assume_aligned(newer->d_shortname.string, 2);
	else
		return 0;
	/* What could not be read is 0; and a file without a name may be called "/". */
	if (!(two & 0xff) || (two & 0xff) == '/')
		return 0;
	/* Both machines are little-endian, and the name is aligned as the pointer before it. */
	bit = HF_BEGINNING(two & 0xff, two >> 8);
	return beginnings[bit / 64] >> (bit % 64) & 1;
}

HF_INLINE int hf_is_elsewhere(const struct hf_elsewhere *elsewhere, const struct hf_names *names)
{
	return hf_none_begins_so(elsewhere->first, names->first) ||
	       (names->second && hf_none_begins_so(elsewhere->second, names->second));
}

/* Most files that are opened are where no rule of any workload on this node speaks of one. To see this costs less than to
 * look up whose task it is. */
HF_INLINE int hf_on_opening(enum hf_hook hook, unsigned long long *ctx)
{
	struct file *file = (struct file *)ctx[0];
	const struct hf_workload *wl;
	struct hf_names names = {};
	__u32 index;
	int known;

	/* An overlayfs opens a file of a layer for each of its own. */
	if (file->f_mode & HF_FMODE_NOACCOUNT)
		return 0;
	known = hf_first_names(&names, file);
	if (known) {
		const struct hf_control *control = hf_control();

		if (control && hf_is_elsewhere(&control->elsewhere, &names))
			return 0;
	}
	wl = hf_workload_in(bpf_get_current_cgroup_id(), &index);
	if (!wl || !(wl->flags & HF_WL_FILES) || (known && hf_is_elsewhere(&wl->elsewhere, &names)))
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
