//! A system call tried out by a child of this process, in a cgroup of its choice.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

/// A call that is safe to make between fork and exec: it takes no lock and allocates nothing. Returns 0 or the errno.
pub type Call = fn() -> i32;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It came back, with this errno or 0.
    Returned(i32),
    /// A signal of this number ended the child.
    Killed(i32),
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
    let mut step = move || {
        procs.write_all(b"0")?;
        Err(io::Error::from_raw_os_error(RETURNED + call()))
    };
    // SAFETY: after fork only a write to an open file, and a call that keeps the promise of `Call`. The error holds no
    // allocation.
    unsafe { command.pre_exec(move || step()) };
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

/// mount(2) of no file system at all on the root: EINVAL, once the security modules have been asked.
pub fn mount_nothing() -> i32 {
    // SAFETY: the strings are constants, and null stands for 'no type' and 'no data'.
    let result = unsafe {
        libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), 0, std::ptr::null())
    };
    outcome(result)
}

/// getppid(2), which does nothing and cannot fail.
pub fn getppid() -> i32 {
    // SAFETY: takes nothing.
    let result = unsafe { libc::getppid() };
    outcome(result)
}

fn outcome(result: i32) -> i32 {
    if result >= 0 {
        return 0;
    }
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
}
