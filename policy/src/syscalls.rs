//! Names, numbers, groups and arguments of system calls, and the kernel hooks that can refuse them.
//!
//! Pure tables: what a rule's name means on each ABI ([`number`], [`entries`]), which calls a group holds
//! ([`expand`]), how wide each argument is ([`signature`], [`operand`]), and which hook of the kernel's security
//! modules a call always passes before it has any effect ([`hooks()`]).
//!
//! Names are those of the kernel's own tables, so x86-64 has `umount2` and no `umount`, while i386 has both. A name
//! that some ABI lacks is known all the same: [`number`] is `None` there.

mod groups;
pub mod hooks;
mod i386;
mod table;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

pub use hooks::{Hook, hooks};
use table::{CALLS, Call, NO, X32_ONLY};

/// Set in the call number of a task that used the x32 entry.
pub const X32_BIT: u32 = 0x4000_0000;

/// The group that holds every known call.
const KNOWN: &str = "@known";

/// A table of system call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Abi {
    /// The `syscall` instruction of a 64-bit program on x86.
    X86_64,
    /// `int 0x80` and the 32-bit `sysenter` and `syscall` on x86.
    I386,
    /// `svc 0` of a 64-bit program on arm64.
    Aarch64,
}

impl Abi {
    /// Every ABI, in the order of the table's columns.
    pub const ALL: [Self; 3] = [Self::X86_64, Self::I386, Self::Aarch64];

    const fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::I386 => 1,
            Self::Aarch64 => 2,
        }
    }
}

/// What the kernel takes one argument of a system call to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArgKind {
    /// A 16-bit unsigned value: a file mode, or an old user or group number on i386.
    Uint16,
    /// A 32-bit signed value.
    Int32,
    /// A 32-bit unsigned value.
    Uint32,
    /// A 64-bit signed value.
    Int64,
    /// A 64-bit unsigned value; often an address that is only a number, as for `munmap`.
    Uint64,
    /// The address of something the kernel reads or writes. What is there can change at any time, so there is
    /// nothing to compare.
    Pointer,
}

impl ArgKind {
    /// The bits that the kernel looks at; the rest of the register is ignored.
    #[must_use]
    pub const fn width(self) -> u32 {
        match self {
            Self::Uint16 => 16,
            Self::Int32 | Self::Uint32 => 32,
            Self::Int64 | Self::Uint64 | Self::Pointer => 64,
        }
    }

    /// Whether the value is an address to something.
    #[must_use]
    pub const fn is_pointer(self) -> bool {
        matches!(self, Self::Pointer)
    }

    /// Whether the value can be negative.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::Int32 | Self::Int64)
    }

    /// The kind of the same argument in a 32-bit register.
    const fn narrow(self) -> Self {
        match self {
            Self::Int64 => Self::Int32,
            Self::Uint64 => Self::Uint32,
            other => other,
        }
    }
}

/// Where a call's argument is found on one ABI, and how to compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The argument register, 0 to 5. Not always the argument's own index: i386 passes a 64-bit value in two.
    pub register: usize,
    /// What the register holds. On i386 an address is a [`ArgKind::Pointer`] too, of 32 bits.
    pub kind: ArgKind,
}

/// One way into the kernel that has the effect of a named call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The number of the system call.
    pub number: u32,
    /// For a call that stands for many (`socketcall`, `ipc`): the first argument, under its mask, that picks this
    /// one. The named call's own arguments are then in memory and cannot be compared.
    pub selector: Option<Selector>,
}

/// What the first argument of a multiplexing call must be: `argument & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// The bits that count.
    pub mask: u32,
    /// What they must be.
    pub value: u32,
}

/// A named set of system calls.
#[derive(Debug)]
pub struct Group {
    /// The name, which opens with `@`.
    pub name: &'static str,
    /// What the calls have in common.
    pub about: &'static str,
    /// Calls and other groups, sorted. [`expand`] resolves them.
    pub members: &'static [&'static str],
}

static NAMES: [&str; CALLS.len()] = {
    let mut names = [""; CALLS.len()];
    let mut i = 0;
    while i < CALLS.len() {
        names[i] = CALLS[i].name;
        i += 1;
    }
    names
};

static ALL_KNOWN: Group = Group { name: KNOWN, about: "Every call of the three ABIs.", members: &NAMES };

/// For each ABI, the names by number.
static BY_NUMBER: LazyLock<[Vec<Option<&'static str>>; 3]> = LazyLock::new(|| {
    Abi::ALL.map(|abi| {
        let mut names = Vec::new();
        for call in CALLS {
            let number = call.numbers[abi.column()];
            if number != NO {
                let slot = usize::from(number);
                if names.len() <= slot {
                    names.resize(slot + 1, None);
                }
                names[slot] = Some(call.name);
            }
        }
        names
    })
});

fn call(name: &str) -> Option<&'static Call> {
    CALLS.binary_search_by(|call| call.name.cmp(name)).ok().map(|i| &CALLS[i])
}

/// The number of a call on one ABI, or `None` where it has no such call.
#[must_use]
pub fn number(abi: Abi, name: &str) -> Option<u32> {
    let number = call(name)?.numbers[abi.column()];
    (number != NO).then_some(u32::from(number))
}

/// The name of a number on one ABI. For a number from the x32 entry see [`x32_name`].
#[must_use]
pub fn name(abi: Abi, number: u32) -> Option<&'static str> {
    *BY_NUMBER[abi.column()].get(usize::try_from(number).ok()?)?
}

/// The name of a number from the x32 entry, given with or without [`X32_BIT`].
///
/// Numbers 512 to 547 are x32's own; the others are those of x86-64.
#[must_use]
pub fn x32_name(number: u32) -> Option<&'static str> {
    let number = number & !X32_BIT;
    match usize::try_from(number).ok()?.checked_sub(512) {
        Some(own) => X32_ONLY.get(own).copied(),
        None => name(Abi::X86_64, number),
    }
}

/// Whether some ABI has a call of this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    call(name).is_some()
}

/// The name of every known call, sorted.
#[must_use]
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// Every way to have a call's effect on one ABI, sorted by number; empty where there is none.
///
/// On the 64-bit ABIs that is the call itself. i386 has grown several calls for one purpose (`chown` and `chown32`,
/// `socket` and `socketcall`), and a rule that names one of them means them all.
#[must_use]
pub fn entries(abi: Abi, name: &str) -> Vec<Entry> {
    let own = number(abi, name).map(|number| Entry { number, selector: None });
    let mut entries: Vec<Entry> = own.into_iter().collect();
    if abi == Abi::I386 {
        entries.extend(i386::variants(name));
    }
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// The kinds of a call's arguments in order, at most six; `None` for an unknown name.
///
/// They are those of the 64-bit ABIs, which agree wherever both have the call; for a call that only i386 has they
/// are those of its registers. A call that kernels no longer carry has none.
#[must_use]
pub fn signature(name: &str) -> Option<&'static [ArgKind]> {
    call(name).map(|call| call.args)
}

/// Where argument `index` (from 0) of a call is found on one ABI.
///
/// `None` when the ABI has no such call, the call no such argument, or when no single register holds it: i386 splits
/// 64-bit values in two and reads `mmap`'s from memory. Such a condition cannot be checked on that ABI, and what
/// refuses has to treat it as met.
#[must_use]
pub fn operand(abi: Abi, name: &str, index: usize) -> Option<Operand> {
    number(abi, name)?;
    let kind = *signature(name)?.get(index)?;
    match abi {
        Abi::X86_64 | Abi::Aarch64 => Some(Operand { register: index, kind }),
        Abi::I386 => i386::operand(name, index, kind.narrow()),
    }
}

/// All groups, sorted by name.
pub fn groups() -> impl Iterator<Item = &'static Group> {
    let after = groups::GROUPS.partition_point(|group| group.name < KNOWN);
    let (before, rest) = groups::GROUPS.split_at(after);
    before.iter().chain(std::iter::once(&ALL_KNOWN)).chain(rest)
}

/// The group of this name, which opens with `@`.
#[must_use]
pub fn group(name: &str) -> Option<&'static Group> {
    if name == KNOWN {
        return Some(&ALL_KNOWN);
    }
    groups::GROUPS.binary_search_by(|group| group.name.cmp(name)).ok().map(|i| &groups::GROUPS[i])
}

/// The calls that a name stands for, sorted, each once: a group's members with the groups among them resolved, or
/// the one call. Empty for a name that is neither.
#[must_use]
pub fn expand(name: &str) -> Vec<&'static str> {
    let mut calls = Vec::new();
    collect(name, &mut calls);
    calls.sort_unstable();
    calls.dedup();
    calls
}

fn collect(name: &str, calls: &mut Vec<&'static str>) {
    if let Some(group) = group(name) {
        for member in group.members {
            collect(member, calls);
        }
    } else if let Some(call) = call(name) {
        calls.push(call.name);
    }
}
