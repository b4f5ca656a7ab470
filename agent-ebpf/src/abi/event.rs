//! Records of the ring buffers `denials` and `audits`, and what belongs to them.

use super::{ARGUMENTS, Addr, CounterKey};

/// Bytes of a fixed number, of which a size beside them says how many mean something.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes<const N: usize>(pub [u8; N]);

impl<const N: usize> Default for Bytes<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

/// Bits of [`Event::flags`].
pub mod flags {
    /// Addresses and protocol say something.
    pub const PACKET: u32 = 1;
    /// The source is known too.
    pub const FROM: u32 = 2;
    /// Ports are known.
    pub const PORTS: u32 = 4;
    /// ABI and number of a call say something.
    pub const CALL: u32 = 8;
    /// Its arguments are known.
    pub const ARGUMENTS: u32 = 16;
    /// A [`super::Task`] follows.
    pub const TASK: u32 = 32;
    /// And a [`super::Object`] after it.
    pub const OBJECT: u32 = 64;
}

/// Bits of [`Task::flags`].
pub mod task_flags {
    /// The path begins at the task's root.
    pub const ROOTED: u32 = 1;
    /// Its beginning is missing.
    pub const PATH_CUT: u32 = 2;
    /// The parent's path begins at the parent's root.
    pub const PARENT_ROOTED: u32 = 4;
    /// Its beginning is missing.
    pub const PARENT_PATH_CUT: u32 = 8;
}

/// Bits of [`Object::flags`].
pub mod object_flags {
    /// A path of its mount namespace; else only the name of what is mounted nowhere.
    pub const ROOTED: u16 = 1;
    /// Its beginning is missing.
    pub const PATH_CUT: u16 = 2;
    /// It is of a tree that is mounted nowhere, or could not be read to its end.
    pub const PARTIAL: u16 = 4;
}

/// Values of [`Object::origin`]; others say nothing.
pub mod origin {
    /// In a lower layer of the overlay that is the root.
    pub const IMAGE: u8 = 1;
    /// In its upper layer.
    pub const WRITTEN: u8 = 2;
    /// Mounted nowhere.
    pub const MEMORY: u8 = 3;
    /// On a tmpfs below the root.
    pub const TMPFS: u8 = 4;
    /// On something else below the root.
    pub const VOLUME: u8 = 5;
}

/// [`Event::hook`] where no security hook decided.
pub const NO_HOOK: u8 = 0xff;
/// Values of [`Event::program`] that are told apart.
pub mod program {
    /// A packet that leaves a socket.
    pub const EGRESS: u8 = 1;
    /// A packet that arrives at one.
    pub const INGRESS: u8 = 2;
    /// connect(2).
    pub const CONNECT: u8 = 3;
    /// sendmsg(2) and the like.
    pub const SENDMSG: u8 = 4;
    /// A security hook.
    pub const SYSCALL: u8 = 8;
    /// The entry of a call.
    pub const SYS_ENTER: u8 = 9;
    /// A security hook, for rules on executables, files and capabilities.
    pub const ACCESS: u8 = 10;
}
/// Records of one key that may come at once.
pub const BURST: u64 = 10;
/// Elements of `event_lost`: what each ring buffer lost, then what the agent told of that.
pub const LOST_DENIALS: u32 = 0;
/// See [`LOST_DENIALS`].
pub const LOST_AUDITS: u32 = 1;
/// See [`LOST_DENIALS`].
pub const TOLD_DENIALS: u32 = 2;
/// See [`LOST_DENIALS`].
pub const TOLD_AUDITS: u32 = 3;

mirrors! {
    /// A denial or an audit.
    Event = "hf_event" {
        /// When, in nanoseconds of `CLOCK_BOOTTIME`.
        time_ns: u64,
        /// What it was counted under.
        key: CounterKey,
        /// [`flags`].
        flags: u32,
        /// Under this key, ever, without a record.
        suppressed: u64,
        /// Of this ring buffer, ever, without room.
        lost: u64,
        /// Id of the task's cgroup, or of the socket's creator; 0 = not known.
        cgroup: u64,
        /// Arguments of the call.
        argument: [u64; ARGUMENTS],
        /// Source.
        from: Addr,
        /// Destination.
        to: Addr,
        /// Source port.
        from_port: u16,
        /// Destination port.
        to_port: u16,
        /// Number of the call.
        nr: u32,
        /// 0 = native, 1 = 32-bit.
        abi: u8,
        /// As in the IP header.
        proto: u8,
        /// [`program`].
        program: u8,
        /// Bit of the hook, or [`NO_HOOK`].
        hook: u8,
        /// Zero.
        pad: u32,
    }
    /// The task that did it.
    Task = "hf_task" {
        /// Start of the process, in nanoseconds of `CLOCK_BOOTTIME`.
        start_ns: u64,
        /// Process.
        tgid: u32,
        /// Thread.
        pid: u32,
        /// Parent process.
        parent: u32,
        /// Size of the arguments as the process has them; 0 = not read.
        arguments_size: u32,
        /// [`task_flags`].
        flags: u32,
        /// Size of the path.
        path_size: u16,
        /// Size of the parent's path.
        parent_path_size: u16,
        /// Name of the thread, up to the first zero.
        name: Bytes<16>,
        /// Names from the last to the first, each with a final zero.
        path: Bytes<1280>,
        /// The same of the parent.
        parent_path: Bytes<512>,
        /// Each with a final zero.
        arguments: Bytes<512>,
    }
    /// What it was done to.
    Object = "hf_object" {
        /// A bit for each operation, in the order of `policy::model::Operation`; 0 = it was to be executed.
        does: u16,
        /// [`origin`].
        origin: u8,
        /// Zero.
        pad: u8,
        /// [`object_flags`].
        flags: u16,
        /// Size of the path.
        path_size: u16,
        /// The path, or a name.
        path: Bytes<1024>,
    }
    /// How fast records of one key may come.
    Bucket = "hf_bucket" {
        /// When it is full again, in nanoseconds of `CLOCK_BOOTTIME`.
        full_ns: u64,
        /// Without a record, ever.
        suppressed: u64,
    }
}

/// A record as it lies in the ring buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// Who did it.
    pub task: Option<Box<Task>>,
    /// What it was done to.
    pub object: Option<Box<Object>>,
}

impl Record {
    /// Reads a record; `None` when it is shorter than it says.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let event: Event = read(bytes)?;
        let task = if event.flags & flags::TASK == 0 {
            None
        } else {
            Some(Box::new(read(bytes.get(size_of::<Event>()..)?)?))
        };
        let object = if event.flags & flags::OBJECT == 0 {
            None
        } else {
            Some(Box::new(read(bytes.get(size_of::<Event>() + size_of::<Task>()..)?)?))
        };
        Some(Self { event, task, object })
    }

    /// The record's bytes, for tests of what reads them.
    #[cfg(test)]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        fn bytes<T: aya::Pod>(value: &T) -> Vec<u8> {
            let start = std::ptr::from_ref(value).cast::<u8>();
            // SAFETY: a mirror has no implicit padding, so that each of its bytes is initialised.
            unsafe { std::slice::from_raw_parts(start, size_of::<T>()) }.to_vec()
        }
        let mut out = bytes(&self.event);
        out.extend(self.task.iter().flat_map(|task| bytes(&**task)));
        out.extend(self.object.iter().flat_map(|object| bytes(&**object)));
        out
    }
}

/// Reads a mirror from bytes that need not be aligned.
fn read<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: there are enough bytes, and any bytes are a value of a type of plain integers.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
