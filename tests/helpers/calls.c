/* Makes one system call and says what it returned, on one line: "ret=R errno=E". It is statically linked and not
 * position-independent, so that its data can be reached by 32-bit calls too.
 *
 *   calls native|i386|x32 NUMBER [ARGUMENT...]   an argument is a number, s:TEXT (the address of the text),
 *                                                z:SIZE (the address of so many zero bytes),
 *                                                w:N,N,... (the address of these 32-bit words)
 *   calls kill-child | ptrace-child | setns-own | newuts-sethostname NAME | newuser | perf | keyring | uring
 *   calls socketcall FAMILY                      socket(2) by the 32-bit socketcall
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static char heap[65536] __attribute__((aligned(16)));
static size_t used;

static void *room(size_t size)
{
	void *place = heap + used;

	used += (size + 15) & ~(size_t)15;
	if (used > sizeof(heap))
		exit(64);
	return place;
}

static long argument(char *text)
{
	if (!strncmp(text, "s:", 2))
		return (long)strcpy(room(strlen(text)), text + 2);
	if (!strncmp(text, "z:", 2))
		return (long)room(strtoul(text + 2, NULL, 0));
	if (!strncmp(text, "w:", 2)) {
		uint32_t *words = room(4 * 32);
		char *part = strtok(text + 2, ",");

		for (int i = 0; part && i < 32; i++, part = strtok(NULL, ","))
			words[i] = strtoul(part, NULL, 0);
		return (long)words;
	}
	return (long)strtoull(text, NULL, 0);
}

/* What the kernel returns, without libc's errno. */
static long native(long nr, long *a)
{
	long ret = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);

	return ret == -1 ? -errno : ret;
}

#ifdef __x86_64__
static long i386(long nr, long *a)
{
	long ret;

	/* The sixth argument is in ebp, which the compiler may need: five are enough here. */
	asm volatile("int $0x80"
		     : "=a"(ret)
		     : "a"(nr), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
		     : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}
#else
static long i386(long nr, long *a)
{
	(void)nr, (void)a;
	return -ENOSYS;
}
#endif

static int say(long ret)
{
	int error = ret < 0 && ret > -4096 ? -ret : 0;

	printf("ret=%ld errno=%d\n", error ? -1 : ret, error);
	return 0;
}

static pid_t sleeper(void)
{
	pid_t child = fork();

	if (!child)
		for (;;)
			pause();
	return child;
}

/* kill(2) of a child that ends by itself when this process does: how it fared is the effect. */
static int kill_child(void)
{
	int pipe_ends[2], status = 0;
	long ret, a[6] = { 0, SIGTERM };
	pid_t child;
	char byte;

	if (pipe(pipe_ends))
		return 65;
	child = fork();
	if (!child) {
		close(pipe_ends[1]);
		read(pipe_ends[0], &byte, 1);
		_exit(0);
	}
	a[0] = child;
	ret = native(SYS_kill, a);
	if (!ret)
		waitpid(child, &status, 0);
	else
		status = waitpid(child, NULL, WNOHANG) ? -1 : 0;
	printf("killed=%d ", !ret && WIFSIGNALED(status));
	return say(ret);
}

static int ptrace_child(void)
{
	pid_t child = sleeper();
	long a[6] = { PTRACE_SEIZE, child, 0, 0 };
	long ret = native(SYS_ptrace, a);

	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return say(ret);
}

static int setns_own(void)
{
	long a[6] = { open("/proc/self/ns/uts", O_RDONLY), CLONE_NEWUTS };

	return say(native(SYS_setns, a));
}

static int newuts_sethostname(char *name)
{
	struct utsname now;
	long a[6] = { (long)name, strlen(name) }, ret;

	if (unshare(CLONE_NEWUTS))
		return 65;
	ret = native(SYS_sethostname, a);
	uname(&now);
	printf("changed=%d ", !strcmp(now.nodename, name));
	return say(ret);
}

static int newuser(void)
{
	char before[64] = "", after[64] = "";
	long a[6] = { CLONE_NEWUSER }, ret;

	readlink("/proc/self/ns/user", before, sizeof(before) - 1);
	ret = native(SYS_unshare, a);
	readlink("/proc/self/ns/user", after, sizeof(after) - 1);
	printf("changed=%d ", strcmp(before, after) != 0);
	return say(ret);
}

static int perf(void)
{
	static struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_DUMMY, .disabled = 1,
	};
	long a[6] = { (long)&attr, 0, -1, -1, 0 };

	return say(native(SYS_perf_event_open, a));
}

static int keyring(void)
{
	/* KEYCTL_GET_KEYRING_ID of the process's keyring, made if there is none. */
	long a[6] = { 0, -2, 1 };

	return say(native(SYS_keyctl, a));
}

static int uring(void)
{
	long a[6] = { 4, (long)room(256) };

	return say(native(425, a));
}

static int socketcall(char *family)
{
	uint32_t *words = room(16);
	long a[6] = { 1, (long)words };

	words[0] = strtoul(family, NULL, 0);
	words[1] = 2;
	return say(i386(102, a));
}

int main(int count, char **argv)
{
	long a[6] = { 0 };
	char *what = count > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOFBF, 4096);
	if (!strcmp(what, "kill-child"))
		return kill_child();
	if (!strcmp(what, "ptrace-child"))
		return ptrace_child();
	if (!strcmp(what, "setns-own"))
		return setns_own();
	if (!strcmp(what, "newuts-sethostname") && count == 3)
		return newuts_sethostname(argv[2]);
	if (!strcmp(what, "newuser"))
		return newuser();
	if (!strcmp(what, "perf"))
		return perf();
	if (!strcmp(what, "keyring"))
		return keyring();
	if (!strcmp(what, "uring"))
		return uring();
	if (!strcmp(what, "socketcall") && count == 3)
		return socketcall(argv[2]);
	if (count < 3 || count > 9)
		return 64;
	for (int i = 3; i < count; i++)
		a[i - 3] = argument(argv[i]);
	if (!strcmp(what, "native"))
		return say(native(strtol(argv[2], NULL, 0), a));
	if (!strcmp(what, "x32"))
		return say(native(strtol(argv[2], NULL, 0) | 0x40000000, a));
	if (!strcmp(what, "i386"))
		return say(i386(strtol(argv[2], NULL, 0), a));
	return 64;
}
