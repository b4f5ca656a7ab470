//! What this kernel can refuse, and how. Filled by probing, used to lower rules and to report on them.

use std::collections::BTreeMap;

use holdfast_policy::compile::Clause;
use holdfast_policy::syscalls::hooks::{Hook, Route, hooks};

/// How a hook is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// A BPF LSM program.
    Lsm,
    /// A program that modifies the return of the function that calls the hook.
    FmodRet,
    /// The entry of every system call.
    SysEnter,
}

impl Mechanism {
    /// As status and metrics name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::FmodRet => "fmod_ret",
            Self::SysEnter => "sys_enter",
        }
    }
}

/// What a probe of one mechanism found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It refused what it should.
    Available,
    /// The kernel does not have it.
    Unavailable(String),
    /// It could not be found out.
    Error(String),
}

/// What this node has.
#[derive(Debug, Clone, Default)]
pub struct Mechanisms {
    /// Major and minor version of the kernel.
    pub kernel: (u16, u16),
    /// The hooks that can be used, and how each is reached.
    pub hooks: BTreeMap<Hook, Mechanism>,
    /// Why there are no hooks, where there are none.
    pub no_hooks: Option<String>,
    /// Why calls cannot be seen at their entry; `None` = they can.
    pub no_sys_enter: Option<String>,
    /// Every mechanism by name, for `probe`, status and metrics.
    pub states: BTreeMap<&'static str, State>,
}

impl Mechanisms {
    /// The way to refuse a call on this kernel, in all its forms that these clauses mean.
    #[must_use]
    pub fn route(&self, call: &str, clauses: &[Clause]) -> Option<(&'static Route, Mechanism)> {
        hooks(call).iter().find_map(|route| {
            if route.since > self.kernel || !clauses.iter().all(|clause| route.covers(&clause.conditions)) {
                return None;
            }
            // The weakest of the hooks names the route.
            let mechanisms: Option<Vec<Mechanism>> =
                route.hooks.iter().map(|hook| self.hooks.get(hook).copied()).collect();
            mechanisms?.into_iter().max().map(|mechanism| (route, mechanism))
        })
    }

    /// The bit of a hook in `hf_syscall.hooks`.
    #[must_use]
    pub fn bit(hook: Hook) -> u64 {
        1 << (hook as u32)
    }
}
