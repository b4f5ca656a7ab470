//! Network scenarios.

use super::suite::Scenario;

mod peers;

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [peers::ALL].concat()
}
