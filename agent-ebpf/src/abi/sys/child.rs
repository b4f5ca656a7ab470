//! A system call tried out by a child of this process, in a cgroup of its choice.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

/// A system call that is safe to make between fork and exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// setpriority(2) to the lowest of the child itself, which anybody may.
    BeNice,
    /// getppid(2), which takes nothing and cannot fail, with these argument registers.
    Getppid([u64; 6]),
}

impl Call {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        let number = match self {
            Self::BeNice => libc::SYS_setpriority,
            Self::Getppid(_) => libc::SYS_getppid,
        };
        // They are small.
        number.unsigned_abs().try_into().unwrap_or(u32::MAX)
    }

    /// Makes the call, takes no lock and allocates nothing. Returns 0 or the errno.
    fn make(self) -> i32 {
        let result = match self {
            // SAFETY: it takes numbers only.
            Self::BeNice => unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19).into() },
            // SAFETY: the kernel looks at none of the arguments.
            Self::Getppid(args) => unsafe {
                libc::syscall(libc::SYS_getppid, args[0], args[1], args[2], args[3], args[4], args[5])
            },
        };
        if result >= 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL) }
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It came back, with this errno or 0.
    Returned(i32),
    /// A signal of this number ended the child.
    Killed(i32),
}

/// Lets a command move itself to the cgroup whose `cgroup.procs` is open for writing, before it is executed.
pub fn enter(command: &mut Command, mut procs: File) {
    let step = move || procs.write_all(b"0");
    // SAFETY: after fork only a write to an open file.
    unsafe { command.pre_exec(step) };
}

/// Ends this process by a signal after so many seconds.
pub fn end_after(seconds: u32) {
    // SAFETY: takes a number, and the signal's default is the end of the process.
    unsafe { libc::alarm(seconds) };
}

/// What a child answers through the only channel it has, an errno: those of the call are moved up, beyond all that the
/// standard library can run into on the way.
const RETURNED: i32 = 1 << 16;

/// Makes a call in a child that has first moved itself to the cgroup whose `cgroup.procs` is open for writing.
///
/// # Errors
///
/// When the child could not be started or moved.
pub fn attempt(mut procs: File, call: Call) -> io::Result<Attempt> {
    // It executes nothing: what comes before always ends in an error.
    let mut command = Command::new("/");
    let step = move || {
        procs.write_all(b"0")?;
        Err(io::Error::from_raw_os_error(RETURNED + call.make()))
    };
    // SAFETY: after fork only a write to an open file, and what `make` promises. The error holds no allocation.
    unsafe { command.pre_exec(step) };
    match command.spawn() {
        // The child's end of the pipe closed without a word.
        Ok(mut child) => {
            let status = child.wait()?;
            status
                .signal()
                .map(Attempt::Killed)
                .ok_or_else(|| io::Error::other(format!("a child that tried a call ended with {status}")))
        }
        Err(error) => match error.raw_os_error() {
            Some(code) if code >= RETURNED => Ok(Attempt::Returned(code - RETURNED)),
            _ => Err(error),
        },
    }
}
