//! Access sets: what decides executables, files and capabilities.

use std::collections::BTreeMap;

use crate::model::{Action, Capability, Mode, PolicyId, RuleRef};
use crate::paths::Automaton;

use super::network::PolicyKey;

/// What an access set is known by from one compilation to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccessSetKey {
    /// The policies with process, file or capability rules that concern the container, in the order of their names.
    pub policies: Vec<PolicyKey>,
}

/// The process, file and capability rules of all containers that are concerned by the same policies.
///
/// # How an executable is decided
///
/// Its path leads through [`executables`](Self::executables) to an outcome, and that to two answers in
/// [`processes`](Self::processes): one if it was in the container's image, one if not. What has no path has outcome 0.
///
/// # How a file is decided
///
/// Its path leads through [`files`](Self::files) to an outcome; outcome 0 is allowed without more. Else the path of the
/// program that the process runs leads through [`executables`](Self::executables) to another (0 where it has none),
/// and both to one answer for each operation in [`operations`](Self::operations).
///
/// # How a rename or link is decided
///
/// Beside the operation itself on either name: what is at or below the old name must not lose the protection of that
/// name. For a file the state at the end of each name is compared, for a directory the state after a slash behind it.
/// Where they differ, and the state of the old name has a [`reach`](Self::reach) that is not 0, the answer is that of
/// (reach, executable) in [`moves`](Self::moves).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessSet {
    /// What it is known by.
    pub key: AccessSetKey,
    /// The policies, in the order of their names: the index is [`AccessRule::policy`].
    pub policies: Vec<AccessPolicy>,
    /// The rules, ordered by policy and place: the index is [`Answer::rule`]. At most [`AccessSet::MAX_RULES`].
    pub rules: Vec<AccessRule>,
    /// Patterns of executables, of process rules and of `unless`; `None` where there are none.
    pub executables: Option<Automaton>,
    /// Outcome of an executable -> the answers if it was in the image, and if not. Empty where no policy has process
    /// rules.
    pub processes: Vec<[Answers; 2]>,
    /// Patterns of files; `None` where there are none.
    pub files: Option<Automaton>,
    /// (outcome of the file, outcome of the executable) -> the answer for each of
    /// [`Operation::ALL`](crate::model::Operation::ALL). Rows that allow everything are left out.
    pub operations: BTreeMap<(u16, u16), [Answers; 8]>,
    /// State of [`files`](Self::files) -> the set of outcomes that some continuation has, numbered; 0 = only outcome 0.
    pub reach: Vec<u16>,
    /// (reach, outcome of the executable) -> the strictest answer that anything reached has for any operation. Rows
    /// that allow everything are left out.
    pub moves: BTreeMap<(u16, u16), Answers>,
    /// The capabilities that are refused or would be.
    pub capabilities: BTreeMap<Capability, Answers>,
    /// The first rule on executables or files, of an Enforce policy, that refuses: it counts what is refused because its
    /// path cannot be told. `None` where there is no such rule; then what cannot be told is allowed.
    pub unknown: Option<u16>,
    /// Outcomes of executables that are dynamic loaders: what they map as code is judged as if it were executed. Empty
    /// where no policy has process rules.
    pub loaders: Vec<u16>,
}

impl AccessSet {
    /// The largest number of rules, so that a number fits in 16 bits and 0xffff is free to mean 'none'.
    pub const MAX_RULES: usize = 0xffff;
    /// The largest number of rows of [`operations`](Self::operations) and [`moves`](Self::moves) together.
    pub const MAX_ROWS: usize = 65_536;

    /// The mode of a rule's policy.
    #[must_use]
    pub fn mode(&self, rule: &AccessRule) -> Mode {
        self.policies.get(usize::from(rule.policy)).map_or(Mode::Enforce, |policy| policy.mode)
    }
}

/// A policy of an [`AccessSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Its name.
    pub id: PolicyId,
    /// Whether it is carried out or only counted.
    pub mode: Mode,
}

/// A rule of an [`AccessSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Which rule it is.
    pub rule: RuleRef,
    /// Index into [`AccessSet::policies`].
    pub policy: u16,
    /// The answer.
    pub action: Action,
}

/// An answer, and the rule that gives it: an index into [`AccessSet::rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Answer {
    /// Stricter than Allow.
    pub action: Action,
    /// Who says so.
    pub rule: u16,
}

/// What the policies say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Answers {
    /// The strictest answer of the Enforce policies; `None` = Allow.
    pub enforced: Option<Answer>,
    /// Where that lets it through: the strictest answer of the Audit policies, if it is stricter still.
    pub audited: Option<Answer>,
}

impl Answers {
    /// The answer that is carried out.
    #[must_use]
    pub fn action(&self) -> Action {
        self.enforced.map_or(Action::Allow, |answer| answer.action)
    }
}
