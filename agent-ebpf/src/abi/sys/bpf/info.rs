//! Raw bpf(2): what the kernel says of pinned maps and links, and of the programs at a cgroup.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::bpf_cmd;

use super::{address, bpf, bpf_fd, length, number, path_string, zeroed};

/// Words that are given to the kernel for what it knows of an object; it fills in as many as it has.
const WORDS: usize = 64;
/// At most so many programs of one kind can be at one cgroup (`BPF_CGROUP_MAX_PROGS`).
const PROGRAMS: usize = 64;

/// Opens what is pinned at a path: a map or a link.
///
/// # Errors
///
/// The kernel's.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = path_string(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = address(path.as_ptr());
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

fn words(object: BorrowedFd<'_>) -> io::Result<[u32; WORDS]> {
    let mut words = [0; WORDS];
    let mut attr = zeroed();
    attr.info.bpf_fd = number(object);
    attr.info.info_len = length(size_of_val(&words))?;
    attr.info.info = words.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(words)
}

/// The id of a map, which no other map of this boot has.
///
/// # Errors
///
/// The kernel's.
pub fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    // `struct bpf_map_info`: type, id, ...
    Ok(words(map)?[1])
}

/// What the kernel says of a link (`struct bpf_link_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its id, which no other link of this boot has.
    pub id: u32,
    /// The id of its program.
    pub program: u32,
    /// The cgroup that it is attached to and how, for a link of a cgroup; a cgroup of 0 is none any more.
    pub cgroup: Option<(u64, u32)>,
}

/// What the kernel says of a link.
///
/// # Errors
///
/// The kernel's.
pub fn link(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// `BPF_LINK_TYPE_CGROUP`
    const CGROUP: u32 = 3;
    let words = words(link)?;
    let id = u64::from(words[4]) | u64::from(words[5]) << 32;
    let id = if cfg!(target_endian = "big") { id.rotate_left(32) } else { id };
    Ok(LinkInfo { id: words[1], program: words[2], cgroup: (words[0] == CGROUP).then_some((id, words[6])) })
}

/// The ids of the programs of one kind that are attached at a cgroup.
///
/// # Errors
///
/// The kernel's.
pub fn programs_at(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; PROGRAMS];
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_fd = number(cgroup);
    attr.query.attach_type = attach_type;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = length(PROGRAMS)?;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the kernel wrote the count there, and the union was zeroed before.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt };
    Ok(ids.into_iter().take(usize::try_from(count).unwrap_or(PROGRAMS)).collect())
}

/// Detaches a link of a cgroup, which stays there without effect: what somebody may do who wants a pinned link to look
/// as ever. For tests.
///
/// # Errors
///
/// The kernel's.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = number(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Puts another program in the place of a link's. For tests.
///
/// # Errors
///
/// The kernel's.
pub fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = number(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = number(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}
