//! Executables, files and capabilities.

use super::Judgement;
use crate::model::{
    Action, Capability, Executables, Mode, Operation, Policy, ProcessDefault, RulePath, RuleRef, Workload,
    World, selecting,
};

/// A program that a process wants to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// Its path as the mount namespace has it; `None` where it has none (memfd).
    pub path: Option<Vec<u8>>,
    /// Whether it was in the container's image.
    pub in_image: bool,
}

/// Something that a process wants to do to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAccess {
    /// The file's path as the mount namespace has it.
    pub path: Vec<u8>,
    /// What it wants to do.
    pub operation: Operation,
    /// The path of the program that it runs; `None` where that has none.
    pub executable: Option<Vec<u8>>,
}

/// Decides whether this container may run a program.
#[must_use]
pub fn decide_executable(
    policies: &[Policy],
    world: &World,
    workload: &Workload,
    executable: &Executable,
) -> Judgement {
    decide(policies, world, workload, |policy| {
        let processes = policy.processes.as_ref()?;
        let found = (0..=u16::MAX).zip(&processes.rules).find(|(_, rule)| match &rule.executables {
            Executables::NotInImage => !executable.in_image,
            Executables::Paths(patterns) => executable
                .path
                .as_deref()
                .is_some_and(|path| patterns.iter().any(|pattern| pattern.matches_or_alias(path))),
        });
        match (found, processes.default) {
            (Some((index, rule)), _) => Some((rule.action, RulePath::Process(index))),
            (None, ProcessDefault::Deny) => Some((Action::Deny, RulePath::ProcessDefault)),
            (None, ProcessDefault::Allow) => None,
        }
    })
}

/// Decides what this container may do to a file.
#[must_use]
pub fn decide_file(
    policies: &[Policy],
    world: &World,
    workload: &Workload,
    access: &FileAccess,
) -> Judgement {
    decide(policies, world, workload, |policy| {
        let rules = &policy.files.as_ref()?.rules;
        let found = (0..=u16::MAX).zip(rules).find(|(_, rule)| {
            rule.operations.contains(&access.operation)
                && rule.paths.iter().any(|pattern| pattern.matches_or_alias(&access.path))
                && !access
                    .executable
                    .as_deref()
                    .is_some_and(|path| rule.unless.iter().any(|pattern| pattern.matches_or_alias(path)))
        });
        found.map(|(index, rule)| (rule.action, RulePath::File(index)))
    })
}

/// Decides whether this container may use a capability that it has.
#[must_use]
pub fn decide_capability(
    policies: &[Policy],
    world: &World,
    workload: &Workload,
    capability: Capability,
) -> Judgement {
    decide(policies, world, workload, |policy| {
        let denied = policy.capabilities.as_ref()?.deny.contains(&capability);
        denied.then_some((Action::Deny, RulePath::Capability(capability)))
    })
}

fn decide(
    policies: &[Policy],
    world: &World,
    workload: &Workload,
    answer: impl Fn(&Policy) -> Option<(Action, RulePath)>,
) -> Judgement {
    let mut concerned = selecting(policies, world, workload);
    concerned.retain(|policy| policy.covers_container(workload.container.as_deref()));
    let strictest = |mode| {
        let mut strictest: Option<(Action, RuleRef)> = None;
        for policy in concerned.iter().filter(|policy| policy.mode == mode) {
            let Some((action, path)) = answer(policy) else { continue };
            if action > strictest.as_ref().map_or(Action::Allow, |(action, _)| *action) {
                strictest = Some((action, RuleRef { policy: policy.id.clone(), path }));
            }
        }
        strictest
    };
    let (action, rule) = match strictest(Mode::Enforce) {
        Some((action, rule)) => (action, Some(rule)),
        None => (Action::Allow, None),
    };
    let audited = if action.refuses() {
        None
    } else {
        strictest(Mode::Audit).filter(|(stricter, _)| *stricter > action)
    };
    Judgement { action, rule, audited }
}
