//! Names, numbers, groups and signatures of system calls.

/// A table of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Abi {
    /// 64-bit calls of x86_64.
    X86_64,
    /// 32-bit calls of x86.
    I386,
    /// Calls of arm64.
    Aarch64,
}
