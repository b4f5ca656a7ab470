//! System calls that no safe crate makes for us.

pub mod bpf;
pub mod child;

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::unix::AsyncFd;

/// Waits on a descriptor that its owner keeps open and never changes.
///
/// # Errors
///
/// When it cannot be polled, or no runtime is running.
pub fn pollable(
    ring: aya::maps::RingBuf<aya::maps::MapData>,
) -> io::Result<AsyncFd<aya::maps::RingBuf<aya::maps::MapData>>> {
    debug_assert!(ring.as_raw_fd() >= 0);
    // SAFETY: a ring buffer's descriptor is the map's, which it owns and keeps as long as it lives; AsyncFd owns the ring.
    unsafe { AsyncFd::register(ring) }.map_err(io::Error::from)
}

/// Gives memory that is free back to the kernel: loading programs needs much more of it than running does.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and touches nothing but the allocator's own free lists.
    unsafe {
        libc::malloc_trim(0);
    }
}
