/* Does deeds with files, programs and privileges, and says what came of each, on a line of its own: 0, the error number,
 * or -N for a process that signal N ended. Each is done by a child of its own.
 *
 *   deeds DEED...    a deed is a word and its arguments, divided by spaces: see `deeds` below
 *   deeds ran        what a deed executes: ends with the code that says so
 *   deeds times N WHAT [PATH [BYTES]]   does it so often, and says how many nanoseconds each took
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* No error number is this large, and no exit code larger. */
#define RAN 200
#define WRONG 201

static char *word[8];

/* What a deed comes to: 0 or the error number. */
static int of(long ret)
{
	return ret < 0 ? errno : 0;
}

static int opened(const char *path, int flags)
{
	int fd = open(path, flags, 0755);

	if (fd < 0)
		exit(errno);
	return fd;
}

static int do_read(void)
{
	char byte;

	return of(read(opened(word[1], O_RDONLY), &byte, 1));
}

static int do_write(void)
{
	return of(write(opened(word[1], O_WRONLY | O_APPEND), "x", 1));
}

static int do_rdwr(void)
{
	return of(opened(word[1], O_RDWR));
}

static int do_empty(void)
{
	return of(opened(word[1], O_WRONLY | O_TRUNC));
}

static int do_create(void)
{
	return of(opened(word[1], O_WRONLY | O_CREAT | O_EXCL));
}

static int do_list(void)
{
	DIR *dir = opendir(word[1]);

	return dir ? 0 : errno;
}

static int do_stat(void)
{
	struct stat found;

	return of(stat(word[1], &found));
}

static int do_mkdir(void)
{
	return of(mkdir(word[1], 0755));
}

static int do_mkfifo(void)
{
	return of(mkfifo(word[1], 0644));
}

static int do_symlink(void)
{
	return of(symlink(word[1], word[2]));
}

static int do_unlink(void)
{
	return of(unlink(word[1]));
}

static int do_rmdir(void)
{
	return of(rmdir(word[1]));
}

static int do_rename(void)
{
	return of(rename(word[1], word[2]));
}

static int do_exchange(void)
{
	return of(renameat2(AT_FDCWD, word[1], AT_FDCWD, word[2], RENAME_EXCHANGE));
}

static int do_link(void)
{
	return of(link(word[1], word[2]));
}

/* By a descriptor, without naming the old file. */
static int do_linkfd(void)
{
	return of(linkat(opened(word[1], O_PATH), "", AT_FDCWD, word[2], AT_EMPTY_PATH));
}

static int do_chmod(void)
{
	return of(chmod(word[1], 0700));
}

static int do_fchmod(void)
{
	return of(fchmod(opened(word[1], O_RDONLY), 0700));
}

static int do_chown(void)
{
	return of(chown(word[1], 1000, -1));
}

static int do_truncate(void)
{
	return of(truncate(word[1], 0));
}

static int do_openat2(void)
{
	struct open_how how = { .flags = O_RDONLY };

	return of(syscall(SYS_openat2, AT_FDCWD, word[1], &how, sizeof(how)));
}

/* Opened by a worker of the kernel's, or by who waits for the answer. */
static int do_uring(void)
{
	struct io_uring_params params = {};
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	uint32_t *tail, *array;
	char *queue, *done;

	if (ring < 0)
		return WRONG;
	queue = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	sqe = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	if (queue == MAP_FAILED || done == MAP_FAILED || (void *)sqe == MAP_FAILED)
		return WRONG;
	sqe->opcode = IORING_OP_OPENAT;
	sqe->flags = word[2] ? IOSQE_ASYNC : 0;
	sqe->fd = AT_FDCWD;
	sqe->addr = (uint64_t)word[1];
	sqe->open_flags = O_RDONLY;
	tail = (uint32_t *)(queue + params.sq_off.tail);
	array = (uint32_t *)(queue + params.sq_off.array);
	array[0] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return WRONG;
	cqe = (struct io_uring_cqe *)(done + params.cq_off.cqes);
	return cqe->res < 0 ? -cqe->res : 0;
}

/* First without asking for anything, then by the descriptor. */
static int do_reopen(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", opened(word[1], O_PATH));
	return of(opened(path, O_RDONLY));
}

static int do_handle(void)
{
	char space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	struct file_handle *handle = (struct file_handle *)space;
	int mount, root = opened(word[2], O_RDONLY);

	handle->handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, word[1], handle, &mount, 0))
		return errno == EOPNOTSUPP ? errno : WRONG;
	return of(open_by_handle_at(root, handle, O_RDONLY));
}

static int do_chroot(void)
{
	if (chroot(word[1]))
		return WRONG;
	word[1] = word[2];
	return do_read();
}

static int do_map(void)
{
	void *at = mmap(NULL, 1, PROT_READ, MAP_SHARED, opened(word[1], O_RDONLY), 0);

	return at == MAP_FAILED ? errno : 0;
}

static int do_mapcode(void)
{
	void *at = mmap(NULL, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, opened(word[1], O_RDONLY), 0);

	return at == MAP_FAILED ? errno : 0;
}

static int do_protect(void)
{
	void *at = mmap(NULL, 1, PROT_READ, MAP_PRIVATE, opened(word[1], O_RDONLY), 0);

	return at == MAP_FAILED ? WRONG : of(mprotect(at, 1, PROT_READ | PROT_EXEC));
}

static int do_sendfile(void)
{
	return of(sendfile(opened(word[2], O_WRONLY | O_CREAT), opened(word[1], O_RDONLY), NULL, 1));
}

static int do_copyrange(void)
{
	return of(copy_file_range(opened(word[1], O_RDONLY), NULL, opened(word[2], O_WRONLY | O_CREAT), NULL, 1, 0));
}

static void copy(int from, int to)
{
	char block[65536];
	ssize_t size;

	while ((size = read(from, block, sizeof(block))) > 0)
		if (write(to, block, size) != size)
			exit(WRONG);
}

static int do_copy(void)
{
	copy(opened(word[1], O_RDONLY), opened(word[2], O_WRONLY | O_CREAT | O_EXCL));
	return 0;
}

static char *ran[] = { "deeds", "ran", NULL };

static int do_exec(void)
{
	return of(execve(word[1], ran, environ));
}

static int do_execat(void)
{
	return of(execveat(opened(word[1], O_RDONLY | O_CLOEXEC), "", ran, environ, AT_EMPTY_PATH));
}

static int do_memfd(void)
{
	int fd = memfd_create("anything", MFD_CLOEXEC);

	copy(opened(word[1], O_RDONLY), fd);
	return of(execveat(fd, "", ran, environ, AT_EMPTY_PATH));
}

static int do_unlinked(void)
{
	int fd = opened(word[1], O_RDONLY | O_CLOEXEC);

	if (unlink(word[1]))
		return WRONG;
	return of(execveat(fd, "", ran, environ, AT_EMPTY_PATH));
}

static int do_by(void)
{
	return of(execve(word[1], (char *[]){ word[1], word[2], "ran", NULL }, environ));
}

/* Opens a file and hands it to another program, which says whether it was given it. */
static int do_give(void)
{
	int ends[2], fd = opened(word[1], O_RDONLY | O_CLOEXEC);
	char space[CMSG_SPACE(sizeof(int))] = "", byte = 0, end[16];
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
		return WRONG;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	if (sendmsg(ends[0], &message, 0) != 1)
		return errno;
	snprintf(end, sizeof(end), "%d", ends[1]);
	return of(execve(word[2], (char *[]){ word[2], "take", end, NULL }, environ));
}

/* What the other program does, with no deed's child between: ends as a deed does that ran, or with EPERM. */
static int take(const char *end)
{
	char space[CMSG_SPACE(sizeof(int))], byte;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space) };

	if (recvmsg(atoi(end), &message, 0) < 0)
		return errno;
	return CMSG_FIRSTHDR(&message) ? RAN : EPERM;
}

static struct sockaddr_un named(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	return address;
}

static int do_bindunix(void)
{
	struct sockaddr_un address = named(word[1]);

	return of(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, sizeof(address)));
}

/* To a socket that is bound by another process of this deed; `stream` or `dgram`. */
static int do_tounix(void)
{
	int type = strcmp(word[1], "stream") ? SOCK_DGRAM : SOCK_STREAM;
	int server = socket(AF_UNIX, type, 0), client = socket(AF_UNIX, type, 0);
	struct sockaddr_un address = named(word[2]);

	if (bind(server, (void *)&address, sizeof(address)) || (type == SOCK_STREAM && listen(server, 1)))
		return WRONG;
	if (type == SOCK_STREAM)
		return of(connect(client, (void *)&address, sizeof(address)));
	return of(sendto(client, "x", 1, 0, (void *)&address, sizeof(address)));
}

static int do_bindmount(void)
{
	return of(mount(word[1], word[2], NULL, MS_BIND, NULL));
}

static int do_tmpfs(void)
{
	return of(mount("none", word[1], "tmpfs", 0, NULL));
}

/* In user and mount namespaces of its own. */
static int do_usermount(void)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return WRONG;
	return do_bindmount();
}

/* A copy of the tree that is mounted nowhere. */
static int do_opentree(void)
{
	int tree = syscall(SYS_open_tree, AT_FDCWD, word[1], 1 /* OPEN_TREE_CLONE */);

	if (tree < 0)
		return errno;
	return of(openat(tree, word[2], O_RDONLY));
}

static int do_newuser(void)
{
	return of(unshare(CLONE_NEWUSER));
}

/* The device null, under another name. */
static int do_device(void)
{
	return of(mknod(word[1], S_IFCHR | 0600, makedev(1, 3)));
}

static int do_raw(void)
{
	return of(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
}

static int do_port(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(word[1])) };

	return of(bind(socket(AF_INET, SOCK_STREAM, 0), (void *)&address, sizeof(address)));
}

static int do_module(void)
{
	char nothing[64] = "";

	/* Whoever is told that it is none was let through to where it is looked at; some kernels know no modules at all. */
	return syscall(SYS_init_module, nothing, sizeof(nothing), "") && errno != ENOEXEC && errno != ENOSYS ? errno : 0;
}

/* Writes to a file of another user's that nobody may write to. */
static int do_override(void)
{
	if (chown(word[1], 1000, 1000) || chmod(word[1], 0))
		return WRONG;
	return of(opened(word[1], O_WRONLY));
}

static int do_hostname(void)
{
	return unshare(CLONE_NEWUTS) ? errno : of(sethostname("holdfast", 8));
}

static int do_userhostname(void)
{
	return unshare(CLONE_NEWUSER | CLONE_NEWUTS) ? errno : of(sethostname("holdfast", 8));
}

static int do_setuid(void)
{
	return of(setuid(1000));
}

static int do_nice(void)
{
	errno = 0;
	return nice(-1) == -1 ? errno : 0;
}

/* A process of another user, or of this one. It ends with its parent, which no rule on signals keeps it from seeing. */
static pid_t somebody(int other)
{
	int ends[2];
	pid_t child;
	char byte;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
		exit(WRONG);
	child = fork();
	if (!child) {
		close(ends[0]);
		if ((other && setresuid(1000, 1000, 1000)) || write(ends[1], "x", 1) != 1)
			_exit(WRONG);
		_exit(read(ends[1], &byte, 1));
	}
	close(ends[1]);
	if (read(ends[0], &byte, 1) != 1)
		exit(WRONG);
	return child;
}

static int do_kill(void)
{
	pid_t child = somebody(!strcmp(word[1], "other"));

	return of(kill(child, SIGTERM));
}

static int do_ptrace(void)
{
	pid_t child = somebody(!strcmp(word[1], "other"));

	return of(ptrace(PTRACE_SEIZE, child, 0, 0));
}

static const struct {
	const char *name;
	int (*does)(void);
} deeds[] = {
#define DEED(name) { #name, do_##name }
	DEED(read), DEED(write), DEED(rdwr), DEED(empty), DEED(create), DEED(list), DEED(stat), DEED(mkdir), DEED(mkfifo),
	DEED(symlink), DEED(unlink), DEED(rmdir), DEED(rename), DEED(exchange), DEED(link), DEED(linkfd), DEED(chmod),
	DEED(fchmod), DEED(chown), DEED(truncate), DEED(openat2), DEED(uring), DEED(reopen), DEED(handle), DEED(chroot),
	DEED(map), DEED(mapcode), DEED(protect), DEED(sendfile), DEED(copyrange), DEED(copy), DEED(exec), DEED(execat),
	DEED(memfd), DEED(unlinked), DEED(by), DEED(give), DEED(bindunix), DEED(tounix), DEED(bindmount), DEED(tmpfs),
	DEED(usermount), DEED(newuser), DEED(device), DEED(opentree), DEED(raw), DEED(port), DEED(module), DEED(override), DEED(hostname), DEED(userhostname), DEED(setuid),
	DEED(nice), DEED(kill), DEED(ptrace),
};

static int does(char *text)
{
	int count = 0;

	for (char *part = strtok(text, " "); part && count < 7; part = strtok(NULL, " "))
		word[count++] = part;
	for (size_t i = 0; word[0] && i < sizeof(deeds) / sizeof(deeds[0]); i++)
		if (!strcmp(word[0], deeds[i].name))
			return deeds[i].does();
	return WRONG;
}

static void once(const char *what, const char *path, size_t bytes)
{
	static char buffer[1 << 20];
	pid_t child;
	int fd;

	if (!strcmp(what, "open")) {
		fd = open(path, O_RDONLY);
		if (fd < 0 || read(fd, buffer, bytes) != (ssize_t)bytes || close(fd))
			exit(WRONG);
		return;
	}
	child = fork();
	if (!child) {
		if (!strcmp(what, "exec"))
			execv(path, ran);
		_exit(0);
	}
	if (child < 0 || waitpid(child, NULL, 0) != child)
		exit(WRONG);
}

static int times(int count, const char *what, const char *path, size_t bytes)
{
	struct timespec from, to;

	/* Caches are warm, and what is loaded once is loaded. */
	for (int i = 0; i < 10; i++)
		once(what, path, bytes);
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < count; i++)
		once(what, path, bytes);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%lld\n", ((to.tv_sec - from.tv_sec) * 1000000000ll + to.tv_nsec - from.tv_nsec) / count);
	return 0;
}

int main(int count, char **argv)
{
	if (count > 3 && !strcmp(argv[1], "times"))
		return times(atoi(argv[2]), argv[3], count > 4 ? argv[4] : "", count > 5 ? atoi(argv[5]) : 0);
	if (count > 1 && !strcmp(argv[count - 1], "ran"))
		return RAN;
	/* As a script's interpreter: the script's path is the last argument, and nothing is done. */
	if (count == 3 && !strcmp(argv[1], "interpret"))
		return RAN;
	if (count == 3 && !strcmp(argv[1], "take"))
		return take(argv[2]);
	for (int i = 1; i < count; i++) {
		int status;
		pid_t child = fork();

		if (!child)
			exit(does(argv[i]));
		if (child < 0 || waitpid(child, &status, 0) != child)
			return WRONG;
		printf("%d\n", WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status) == RAN ? 0 : WEXITSTATUS(status));
		fflush(stdout);
	}
	return 0;
}
