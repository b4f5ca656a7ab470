//! Raw bpf(2): loading a program for an attach type that aya does not know, attaching it, pinning the link.

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn};

pub mod info;

/// A type of program and how it is attached (`enum bpf_prog_type`, `enum bpf_attach_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// On a hook of the security modules.
    Lsm,
    /// Before a kernel function, in whose place it can return.
    ModifyReturn,
    /// On a tracepoint, with typed arguments.
    TracePoint,
}

impl ProgramKind {
    const fn numbers(self) -> (u32, u32) {
        const TRACING: u32 = 26;
        match self {
            Self::TracePoint => (TRACING, 23),
            Self::ModifyReturn => (TRACING, 26),
            Self::Lsm => (29, 27),
        }
    }
}

/// A program that is ready for the kernel: relocated and linked.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// For people; cut to 15 bytes.
    pub name: &'a str,
    /// What it is.
    pub kind: ProgramKind,
    /// The type in the kernel's BTF that it attaches to.
    pub attach_to: u32,
    /// The instructions.
    pub instructions: &'a [bpf_insn],
    /// The license.
    pub license: &'a CStr,
    /// BTF of the object, which function information points into.
    pub btf: BorrowedFd<'a>,
    /// Function information, records of `function_record` bytes.
    pub functions: &'a [u8],
    /// Size of one record.
    pub function_record: u32,
    /// Whether the verifier is asked why, where it refuses: that takes as long again.
    pub explain: bool,
}

/// The kernel refused a program.
#[derive(Debug, thiserror::Error)]
#[error("{source}{}{}", if log.is_empty() { "" } else { ": " }, log)]
pub struct LoadFailure {
    /// The errno.
    pub source: io::Error,
    /// The end of what the verifier had to say; empty where the program did not get to it.
    pub log: String,
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the kernel's own structure, and every pointer in it was taken from a live borrow by the callers
    // below, with the length that stands beside it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            mem::size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the commands that come by here return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structures of integers, for which all zero is a value.
    unsafe { mem::zeroed() }
}

fn address<T>(of: *const T) -> u64 {
    of as u64
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn length(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(io::Error::other)
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Loads type information.
///
/// # Errors
///
/// The kernel's.
pub fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_7.btf = address(bytes.as_ptr());
    attr.__bindgen_anon_7.btf_size = length(bytes.len())?;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Loads a program.
///
/// # Errors
///
/// The kernel's, with the end of the verifier's log.
pub fn load_program(program: &Program<'_>) -> Result<OwnedFd, LoadFailure> {
    let quiet = |source| LoadFailure { source, log: String::new() };
    match try_load(program, &mut []) {
        Ok(fd) => Ok(fd),
        Err(error) if !program.explain || error.raw_os_error() == Some(libc::EPERM) => Err(quiet(error)),
        Err(source) => {
            // Kernels before 6.4 keep the beginning of a log that is longer than this, and what is wrong stands at its end;
            // 6.1 says more than a mebibyte of 44,000 instructions. What is not written to takes no memory.
            let mut log = vec![0; 1 << 26];
            if let Ok(fd) = try_load(program, &mut log) {
                return Ok(fd);
            }
            let text = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            Err(LoadFailure { source, log: lines[lines.len().saturating_sub(4)..].join(" / ") })
        }
    }
}

fn try_load(program: &Program<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let (kind, attach) = program.kind.numbers();
    let mut attr = zeroed();
    // SAFETY: the union was zeroed, so every member of it is a value.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    for (to, from) in load.prog_name.iter_mut().take(15).zip(program.name.bytes()) {
        *to = from.cast_signed();
    }
    load.prog_type = kind;
    load.expected_attach_type = attach;
    load.attach_btf_id = program.attach_to;
    load.insns = address(program.instructions.as_ptr());
    load.insn_cnt = length(program.instructions.len())?;
    load.license = address(program.license.as_ptr());
    load.prog_btf_fd = number(program.btf);
    load.func_info = address(program.functions.as_ptr());
    load.func_info_rec_size = program.function_record;
    load.func_info_cnt = length(program.functions.len())? / program.function_record.max(1);
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = address(log.as_ptr());
        load.log_size = length(log.len())?;
    }
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// Attaches a program of any [`ProgramKind`] to what it was loaded for. It stays attached while the link, or a pin of it,
/// is there.
///
/// # Errors
///
/// The kernel's.
pub fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = number(program);
    bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// Makes an iterator of a loaded program that walks a map. It can be begun as often as wanted while the link is there.
///
/// # Errors
///
/// The kernel's.
pub fn iterate(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const TRACE_ITER: u32 = 28;
    // union bpf_iter_link_info, of which the first word is the map.
    let info = [number(map), 0, 0, 0];
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = number(program);
    attr.link_create.attach_type = TRACE_ITER;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1 =
        aya_obj::generated::bpf_attr__bindgen_ty_14__bindgen_ty_3__bindgen_ty_1 {
            iter_info: address(info.as_ptr()),
            iter_info_len: 4,
        };
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Begins an iteration: what the program writes is read from the file.
///
/// # Errors
///
/// The kernel's.
pub fn begin(iterator: BorrowedFd<'_>) -> io::Result<std::fs::File> {
    let mut attr = zeroed();
    attr.iter_create.link_fd = number(iterator);
    bpf_fd(bpf_cmd::BPF_ITER_CREATE, &mut attr).map(Into::into)
}

/// Pins a map, program or link at a path of a BPF file system.
///
/// # Errors
///
/// The kernel's.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = address(path.as_ptr());
    attr.__bindgen_anon_4.bpf_fd = number(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}
