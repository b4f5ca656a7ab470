//! The mechanisms that refuse system calls, as the engine uses them: attached while some workload needs them.

pub use crate::hooks::{HookError, Hooks};
