//! Conditions of a status: a transition time stays until the condition's status flips.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The status of a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

impl Truth {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Makes conditions of one generation, with the transition times of earlier ones.
pub struct Conditions<'a> {
    earlier: &'a [Condition],
    generation: i64,
    now: Timestamp,
    made: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    /// Conditions of `generation` that follow `earlier`; `now` is the time of what flips.
    #[must_use]
    pub fn new(earlier: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        Self { earlier, generation, now, made: Vec::new() }
    }

    /// Adds one.
    pub fn add(&mut self, kind: &str, truth: Truth, reason: &str, message: impl Into<String>) {
        let since = self
            .earlier
            .iter()
            .find(|condition| condition.type_ == kind && condition.status == truth.as_str())
            .map_or(Time(self.now), |condition| condition.last_transition_time.clone());
        self.made.push(Condition {
            last_transition_time: since,
            message: message.into(),
            observed_generation: Some(self.generation),
            reason: reason.to_owned(),
            status: truth.as_str().to_owned(),
            type_: kind.to_owned(),
        });
    }

    /// All that were added, in order.
    #[must_use]
    pub fn done(self) -> Vec<Condition> {
        self.made
    }
}

/// Whether a condition came, went, or changed its status.
#[must_use]
pub fn flipped(earlier: &[Condition], now: &[Condition]) -> bool {
    earlier.len() != now.len()
        || now.iter().any(|condition| {
            !earlier.iter().any(|other| other.type_ == condition.type_ && other.status == condition.status)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_transition_time_stays_until_the_status_flips() {
        let mut first = Conditions::new(&[], 1, at(100));
        first.add("Programmed", Truth::False, "Pending", "0 of 1 nodes");
        let first = first.done();
        let mut second = Conditions::new(&first, 2, at(200));
        second.add("Programmed", Truth::False, "NoAgent", "0 of 2 nodes");
        let second = second.done();
        assert_eq!(second[0].last_transition_time.0, at(100));
        assert_eq!(second[0].observed_generation, Some(2));
        assert!(!flipped(&first, &second));
        let mut third = Conditions::new(&second, 2, at(300));
        third.add("Programmed", Truth::True, "Programmed", "");
        let third = third.done();
        assert_eq!(third[0].last_transition_time.0, at(300));
        assert!(flipped(&second, &third));
    }
}
