//! Conditions, as `metav1` has them: a condition keeps its transition time until its status flips, and says which
//! generation it is about.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The status of a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

impl Status {
    /// As it stands on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Sets the condition of this type. Returns whether anything but nothing changed, the transition time included.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: Status,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    let mut condition = Condition {
        last_transition_time: now.clone(),
        message: message.to_owned(),
        observed_generation: generation,
        reason: reason.to_owned(),
        status: status.as_str().to_owned(),
        type_: type_.to_owned(),
    };
    let Some(present) = conditions.iter_mut().find(|present| present.type_ == type_) else {
        conditions.push(condition);
        return true;
    };
    if present.status == condition.status {
        condition.last_transition_time = present.last_transition_time.clone();
    }
    let changed = *present != condition;
    *present = condition;
    changed
}

/// The condition of this type.
#[must_use]
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Takes away the condition of this type. Returns whether there was one.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_flips() {
        let (noon, one, two) =
            (at("2025-01-01T12:00:00Z"), at("2025-01-01T13:00:00Z"), at("2025-01-01T14:00:00Z"));
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, "Accepted", Status::True, "Valid", "", Some(1), &noon));
        assert!(!set(&mut conditions, "Accepted", Status::True, "Valid", "", Some(1), &one));
        assert!(set(&mut conditions, "Accepted", Status::True, "Valid", "", Some(2), &one));
        assert_eq!(get(&conditions, "Accepted").unwrap().last_transition_time, noon);
        assert_eq!(get(&conditions, "Accepted").unwrap().observed_generation, Some(2));
        assert!(set(&mut conditions, "Accepted", Status::False, "Invalid", "spec.x", Some(3), &two));
        assert_eq!(get(&conditions, "Accepted").unwrap().last_transition_time, two);
        assert_eq!(conditions.len(), 1);
        assert!(remove(&mut conditions, "Accepted"));
        assert!(get(&conditions, "Accepted").is_none());
    }
}
