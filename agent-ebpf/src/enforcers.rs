//! The mechanisms that refuse system calls, as the engine uses them: attached while some workload needs them.

use crate::mechanisms::Mechanisms;

/// Why a mechanism cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum HookError {}

/// All mechanisms of this node.
#[derive(Debug, Default)]
pub struct Hooks {
    mechanisms: Mechanisms,
}

impl Hooks {
    /// What the kernel can refuse.
    #[must_use]
    pub fn mechanisms(&self) -> &Mechanisms {
        &self.mechanisms
    }

    /// Attaches what is needed and not attached.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn ensure(&mut self, _hooks: u64, _sys_enter: bool) -> Result<(), HookError> {
        Ok(())
    }

    /// Detaches what nobody needs any more.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn release(&mut self, _hooks: u64, _sys_enter: bool) -> Result<(), HookError> {
        Ok(())
    }
}
