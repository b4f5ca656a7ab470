/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The security hooks that may refuse a call, in the order of policy::syscalls::Hook: the place is the bit in
 * hf_syscall.hooks. A test compares the two lists. */
#ifndef HF_HOOKS_H
#define HF_HOOKS_H

#define HF_HOOKS(X) \
	X(sb_mount) \
	X(sb_umount) \
	X(sb_pivotroot) \
	X(capable) \
	X(ptrace_access_check) \
	X(ptrace_traceme) \
	X(perf_event_open) \
	X(settime) \
	X(bpf) \
	X(capset) \
	X(quotactl) \
	X(task_fix_setuid) \
	X(task_fix_setgid) \
	X(key_permission) \
	X(key_alloc) \
	X(socket_create) \
	X(socket_bind) \
	X(socket_connect) \
	X(socket_listen) \
	X(socket_accept) \
	X(bprm_creds_for_exec) \
	X(file_alloc_security) \
	X(path_unlink) \
	X(path_rmdir) \
	X(path_rename) \
	X(path_mkdir) \
	X(path_link) \
	X(path_symlink) \
	X(path_mknod) \
	X(path_chmod) \
	X(path_chown) \
	X(path_truncate) \
	X(file_truncate) \
	X(inode_setxattr) \
	X(inode_set_acl) \
	X(task_kill) \
	X(userns_create) \
	X(cred_prepare) \
	X(task_alloc) \
	X(mmap_file) \
	X(file_mprotect) \
	X(task_prctl) \
	X(task_setnice) \
	X(task_setscheduler) \
	X(task_setrlimit) \
	X(file_ioctl) \
	X(file_ioctl_compat) \
	X(file_fcntl) \
	X(syslog) \
	X(inode_init_security_anon) \
	X(uring_allowed) \
	X(path_notify) \
	X(file_open) \
	X(file_receive) \
	X(bprm_check_security) \
	X(move_mount) \
	X(unix_stream_connect) \
	X(unix_may_send)

#define HF_HOOK_NUMBER(name) HF_HOOK_##name,
enum hf_hook { HF_HOOKS(HF_HOOK_NUMBER) };
/* From here on hooks decide of processes and files only, and no rule on system calls: Hook::is_of_calls. */
#define HF_HOOK_OF_NO_CALL HF_HOOK_file_open

#endif
