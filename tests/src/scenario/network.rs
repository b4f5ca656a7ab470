//! Network scenarios.

use super::suite::Scenario;

mod flows;
mod packets;
mod peers;
mod places;
mod ports;
mod sctp;
mod verdicts;

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [peers::ALL, ports::ALL, verdicts::ALL, flows::ALL, places::ALL, packets::ALL, sctp::ALL].concat()
}
