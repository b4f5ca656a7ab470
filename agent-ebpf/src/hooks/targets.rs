//! What the kernel has to attach to, by its BTF.
//!
//! Read in one pass over the kernel's own file: aya's look-up by name walks all its types for each name.

use std::collections::BTreeMap;
use std::path::Path;

use holdfast_policy::syscalls::hooks::Hook;

use super::HookError;

/// BTF numbers of what programs attach to; what the kernel lacks is not in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Targets {
    /// By hook: the function that stands for it among the security modules.
    pub(super) lsm: BTreeMap<Hook, u32>,
    /// By hook: the function that calls it.
    pub(super) functions: BTreeMap<Hook, u32>,
    /// The tracepoint at the entry of every system call.
    pub(super) sys_enter: Option<u32>,
    /// Programs may call `bpf_loop` (since 5.17).
    pub(super) has_loop: bool,
    /// The function `bpf_rdonly_cast`, which programs may call (since 6.2).
    pub(super) cast: Option<u32>,
    /// The structure `mount`; where there are several, the last of them.
    pub(super) mount: Option<u32>,
}

impl Targets {
    /// Looks all of them up in the running kernel's types.
    pub(super) fn of_this_kernel() -> Result<Self, HookError> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let bytes = std::fs::read(path).map_err(|source| HookError::Io { path: path.to_owned(), source })?;
        Self::find(&bytes).ok_or(HookError::KernelTypes)
    }

    /// Looks all of them up; `None` where the bytes are no BTF, or of a kind that is not known.
    fn find(btf: &[u8]) -> Option<Self> {
        let mut lsm = BTreeMap::new();
        let mut functions = BTreeMap::new();
        for hook in Hook::ALL.iter().copied() {
            lsm.insert(hook.lsm_name().as_bytes(), hook);
            functions.insert(hook.security_fn().as_bytes(), hook);
        }
        let mut found = Self::default();
        each_name(btf, |id, kind, name| match kind {
            ENUMERATOR => found.has_loop |= name == b"BPF_FUNC_loop",
            FUNC => {
                if let Some(hook) = name.strip_prefix(b"bpf_lsm_").and_then(|name| lsm.get(name)) {
                    found.lsm.insert(*hook, id);
                } else if let Some(hook) = functions.get(name) {
                    found.functions.insert(*hook, id);
                } else if name == b"bpf_rdonly_cast" {
                    found.cast = Some(id);
                }
            }
            TYPEDEF if name == b"btf_trace_sys_enter" => found.sys_enter = Some(id),
            STRUCTURE if name == b"mount" => found.mount = Some(id),
            _ => {}
        })?;
        if !found.has_loop {
            // Takes structures by value, which programs may not be attached to before 6.1.
            found.lsm.remove(&Hook::PathChown);
            found.functions.remove(&Hook::PathChown);
        }
        Some(found)
    }
}

/// include/uapi/linux/btf.h
const MAGIC: u16 = 0xeb9f;
const STRUCTURE: u32 = 4;
const ENUMERATION: u32 = 6;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;
const TYPE: usize = 12;
/// No kind of BTF's: what [`each_name`] calls a member of an enumeration.
const ENUMERATOR: u32 = u32::MAX;

/// Bytes that follow a type of this kind with this many members.
fn tail(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        2 | 7..=12 | 16 | 18 => 0, // pointer, forward, typedef, qualifiers, function, float, type tag
        1 | 14 | 17 => 4,          // integer, variable, declaration tag
        3 => 12,                   // array
        4 | 5 | 15 | 19 => members * 12, // structure, union, section, 64-bit enumeration
        6 | 13 => members * 8,     // enumeration, prototype
        _ => return None,
    })
}

/// Calls `each` with the number, kind and name of every function, structure and type definition, and of every enumerator with the
/// number of its enumeration.
fn each_name(btf: &[u8], mut each: impl FnMut(u32, u32, &[u8])) -> Option<()> {
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let size = |at: usize| usize::try_from(word(btf, at)?).ok();
    if u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?) != MAGIC {
        return None;
    }
    let (header, types, types_len, strings) = (size(4)?, size(8)?, size(12)?, size(16)?);
    let strings = btf.get(header + strings..)?;
    let types = btf.get(header + types..)?.get(..types_len)?;
    let (mut at, mut id) = (0, 1);
    while at < types.len() {
        let info = word(types, at + 4)?;
        let (kind, members) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
        let name = |at: usize| {
            let text = strings.get(usize::try_from(word(types, at)?).ok()?..)?;
            text.split(|byte| *byte == 0).next()
        };
        if matches!(kind, FUNC | TYPEDEF | STRUCTURE) {
            each(id, kind, name(at)?);
        }
        if kind == ENUMERATION {
            for member in 0..members {
                each(id, ENUMERATOR, name(at + TYPE + 8 * member)?);
            }
        }
        at += TYPE + tail(kind, members)?;
        id += 1;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF of these types: name, kind, members, bytes that follow.
    fn btf(types: &[(&str, u32, u32, usize)]) -> Vec<u8> {
        let (mut strings, mut body) = (vec![0], Vec::new());
        for (name, kind, members, tail) in types {
            let words = [u32::try_from(strings.len()).unwrap(), kind << 24 | members, 0];
            body.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            body.extend(vec![0xee; *tail]);
            strings.extend(name.bytes().chain([0]));
        }
        let lengths = [24, 0, body.len(), body.len(), strings.len()];
        let mut all = MAGIC.to_ne_bytes().to_vec();
        all.extend([1, 0]);
        all.extend(lengths.iter().flat_map(|len| u32::try_from(*len).unwrap().to_ne_bytes()));
        all.extend(body);
        all.extend(strings);
        all
    }

    #[test]
    fn hooks_and_the_tracepoint_are_found_by_their_place_among_the_types() {
        let found = Targets::find(&btf(&[
            ("int", 1, 0, 4),
            ("bpf_lsm_sb_mount", FUNC, 1, 0),
            ("mount", 4, 3, 36),
            ("security_settime64", FUNC, 0, 0),
            ("e", 19, 2, 24),
            ("btf_trace_sys_enter", TYPEDEF, 0, 0),
            // Not a function: a structure may have any name.
            ("bpf_lsm_bpf", 4, 0, 0),
            ("bpf_rdonly_cast", FUNC, 0, 0),
        ]))
        .unwrap();
        assert_eq!(found.lsm, BTreeMap::from([(Hook::SbMount, 2)]));
        assert_eq!(found.functions, BTreeMap::from([(Hook::Settime, 4)]));
        assert_eq!((found.sys_enter, found.mount, found.cast), (Some(6), Some(3), Some(8)));
    }

    #[test]
    fn what_is_cut_short_or_of_an_unknown_kind_is_refused_and_not_half_read() {
        let whole = btf(&[("int", 1, 0, 4), ("bpf_lsm_sb_mount", FUNC, 1, 0)]);
        assert!(Targets::find(&whole).is_some());
        for len in 0..whole.len() - 40 {
            assert_eq!(Targets::find(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(Targets::find(&btf(&[("new", 31, 0, 0)])), None);
        assert_eq!(Targets::find(b"not BTF at all, but long enough for a header"), None);
    }

    #[test]
    fn this_kernel_has_the_tracepoint() {
        assert!(Targets::of_this_kernel().unwrap().sys_enter.is_some());
    }
}
