//! Network namespaces, held by a file descriptor: when it is closed and the last process has left, the namespace goes.

use std::{fs::File, os::fd::AsRawFd, os::unix::fs::MetadataExt, path::PathBuf, thread};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
#[derive(Debug)]
pub struct NetNs(File);

impl NetNs {
    /// Makes one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        Ok(Self(made.join().ok().context("the thread that makes a namespace panicked")??))
    }

    /// Runs `work` in it.
    ///
    /// # Errors
    /// Those of `work`, and when the kernel refuses.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                work()
            });
            inside.join().ok().context("a thread in a network namespace panicked")?
        })
    }

    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }

    /// A path by which this process's children can open it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// Its inode number, by which the kernel programs know it.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub fn number(&self) -> Result<u32> {
        Ok(u32::try_from(self.0.metadata()?.ino())?)
    }
}
