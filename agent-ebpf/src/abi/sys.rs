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

/// Keeps the allocator small, before there is a second thread: one arena for all of them, as they mostly wait, and large
/// pieces mapped one by one at any time, so that what is freed goes back to the kernel and leaves no holes behind.
pub fn spare_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers and touches nothing but the allocator's own settings; what it does not know it ignores.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

/// Gives memory that is free back to the kernel: loading programs needs much more of it than running does.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and touches nothing but the allocator's own free lists.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Nanoseconds since boot, sleep included: the kernel programs' `bpf_ktime_get_boot_ns`.
#[must_use]
pub fn boot_time_ns() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds since boot, sleep not included.
#[must_use]
pub fn awake_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours, and the clock is one that every kernel with BPF has.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return 0;
    }
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}
