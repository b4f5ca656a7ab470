//! How much of what has no record was told already. The kernel's totals only grow, and each record carries them, so that
//! whoever tells first tells all of it, in whatever order records of several processors come.

use std::collections::HashMap;

use crate::abi::CounterKey;

/// A ring buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffer {
    /// What was refused.
    Denials,
    /// What was let through.
    Audits,
}

impl Buffer {
    /// As gaps and metrics name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denials => "denials",
            Self::Audits => "audits",
        }
    }
}

/// What was told.
#[derive(Debug, Default)]
pub struct Tally {
    suppressed: HashMap<CounterKey, u64>,
    lost: [u64; 2],
}

impl Tally {
    /// Goes on from where an earlier agent was.
    #[must_use]
    pub fn new(suppressed: HashMap<CounterKey, u64>, lost_denials: u64, lost_audits: u64) -> Self {
        Self { suppressed, lost: [lost_denials, lost_audits] }
    }

    /// What a total of suppressed ones adds to what was told of the key; it counts as told from now on.
    pub fn suppressed(&mut self, key: &CounterKey, total: u64) -> u64 {
        if total == 0 {
            return 0;
        }
        let told = self.suppressed.entry(*key).or_default();
        let new = total.saturating_sub(*told);
        *told = total.max(*told);
        new
    }

    /// The same of those lost in a ring buffer.
    pub fn lost(&mut self, buffer: Buffer, total: u64) -> u64 {
        let told = &mut self.lost[buffer as usize];
        let new = total.saturating_sub(*told);
        *told = total.max(*told);
        new
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: &CounterKey) {
        self.suppressed.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_adds_up_to_the_total_in_any_order_and_over_a_restart() {
        let (a, b) = (CounterKey { rule: 1, ..CounterKey::default() }, CounterKey::default());
        let mut tally = Tally::new(HashMap::from([(a, 5)]), 7, 0);
        let told: Vec<u64> =
            [0, 5, 9, 7, 9, 12].into_iter().map(|total| tally.suppressed(&a, total)).collect();
        assert_eq!(told, [0, 0, 4, 0, 0, 3]);
        assert_eq!(tally.suppressed(&b, 3), 3);
        assert_eq!((tally.lost(Buffer::Denials, 7), tally.lost(Buffer::Denials, 8)), (0, 1));
        assert_eq!((tally.lost(Buffer::Audits, 2), tally.lost(Buffer::Audits, 1)), (2, 0));
        tally.forget(&a);
        assert_eq!(tally.suppressed(&a, 2), 2);
    }
}
