//! Access sets: the automata and rows of each distinct list of policies.

use std::collections::{BTreeMap, HashMap};

use crate::error::CompileError;
use crate::model::{
    Action, Executables, Mode, Operation, Policy, ProcessDefault, RulePath, RuleRef, Workload,
};
use crate::paths::{Automaton, Pattern, with_aliases};

use super::access::{AccessPolicy, AccessRule, AccessSet, AccessSetKey, Answer, Answers};
use super::network::PolicyKey;

/// A policy with process, file or capability rules.
pub(crate) struct Source<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) key: PolicyKey,
}

/// The policy as a source; `None` where it has no such rules.
pub(crate) fn plan(policy: &Policy, key: PolicyKey) -> Option<Source<'_>> {
    let processes = policy
        .processes
        .as_ref()
        .is_some_and(|processes| !processes.rules.is_empty() || processes.default == ProcessDefault::Deny);
    let files = policy.files.as_ref().is_some_and(|files| !files.rules.is_empty());
    let capabilities = policy.capabilities.as_ref().is_some_and(|capabilities| !capabilities.deny.is_empty());
    (processes || files || capabilities).then_some(Source { policy, key })
}

/// Where the dynamic loaders of glibc and musl are, on both architectures; the links to them from `/lib` and `/lib64` are
/// followed before a path is matched, and are aliases besides.
const LOADERS: [&str; 3] = ["/usr/lib/**/ld-*.so*", "/usr/lib64/**/ld-*.so*", "/usr/lib/**/libc.so"];

/// Patterns in the order in which rules name them; a rule remembers which are its own.
#[derive(Default)]
struct Patterns(Vec<Pattern>);

impl Patterns {
    fn add(&mut self, patterns: &[Pattern]) -> Vec<usize> {
        let mut own = Vec::new();
        for pattern in patterns.iter().flat_map(with_aliases) {
            own.push(self.0.len());
            self.0.push(pattern);
        }
        own
    }

    fn automaton(&self, set: &AccessSet) -> Result<Option<Automaton>, CompileError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        Automaton::build(&self.0).map(Some).map_err(|_too_many| CompileError::PathsTooIntricate {
            policies: set.policies.iter().map(|policy| policy.id.clone()).collect(),
            limit: Automaton::MAX_STATES,
        })
    }
}

/// A process rule: which patterns are its own, or that it means what was not in the image.
struct ProcessClause {
    patterns: Option<Vec<usize>>,
    action: Action,
    rule: u16,
}

struct FileClause {
    patterns: Vec<usize>,
    operations: [bool; 8],
    unless: Vec<usize>,
    action: Action,
    rule: u16,
}

/// The clauses of one policy, in the order of its rules.
#[derive(Default)]
struct Clauses {
    processes: Vec<ProcessClause>,
    default: Option<u16>,
    has_processes: bool,
    files: Vec<FileClause>,
}

struct Builder<'a> {
    set: AccessSet,
    executables: Patterns,
    files: Patterns,
    clauses: Vec<(Mode, Clauses)>,
    workload: &'a Workload,
}

/// Builds the set of these policies, which are in the order of their names.
pub(crate) fn build(
    key: AccessSetKey,
    sources: &[&Source<'_>],
    workload: &Workload,
) -> Result<AccessSet, CompileError> {
    let mut builder = Builder {
        set: AccessSet { key, ..AccessSet::default() },
        executables: Patterns::default(),
        files: Patterns::default(),
        clauses: Vec::new(),
        workload,
    };
    for source in sources {
        builder.policy(source.policy)?;
    }
    builder.finish()
}

impl Builder<'_> {
    fn rule(&mut self, policy: &Policy, path: RulePath, action: Action) -> Result<u16, CompileError> {
        let number = u16::try_from(self.set.rules.len()).ok();
        let Some(number) = number.filter(|number| usize::from(*number) < AccessSet::MAX_RULES) else {
            return Err(CompileError::TooManyRules {
                policy: policy.id.clone(),
                workload: format!("{}/{}", self.workload.namespace, self.workload.name),
                limit: AccessSet::MAX_RULES,
                kind: "process, file and capability",
            });
        };
        let index = u16::try_from(self.set.policies.len().saturating_sub(1)).unwrap_or(u16::MAX);
        let rule = RuleRef { policy: policy.id.clone(), path };
        self.set.rules.push(AccessRule { rule, policy: index, action });
        Ok(number)
    }

    fn policy(&mut self, policy: &Policy) -> Result<(), CompileError> {
        self.set.policies.push(AccessPolicy { id: policy.id.clone(), mode: policy.mode });
        let mut clauses = Clauses::default();
        if let Some(processes) = &policy.processes {
            clauses.has_processes = !processes.rules.is_empty() || processes.default == ProcessDefault::Deny;
            for (index, rule) in (0..=u16::MAX).zip(&processes.rules) {
                let number = self.rule(policy, RulePath::Process(index), rule.action)?;
                let patterns = match &rule.executables {
                    Executables::Paths(patterns) => Some(self.executables.add(patterns)),
                    Executables::NotInImage => None,
                };
                clauses.processes.push(ProcessClause { patterns, action: rule.action, rule: number });
            }
            if processes.default == ProcessDefault::Deny {
                clauses.default = Some(self.rule(policy, RulePath::ProcessDefault, Action::Deny)?);
            }
        }
        for (index, rule) in (0..=u16::MAX).zip(policy.files.iter().flat_map(|files| &files.rules)) {
            let number = self.rule(policy, RulePath::File(index), rule.action)?;
            clauses.files.push(FileClause {
                patterns: self.files.add(&rule.paths),
                operations: Operation::ALL.map(|operation| rule.operations.contains(&operation)),
                unless: self.executables.add(&rule.unless),
                action: rule.action,
                rule: number,
            });
        }
        for capability in policy.capabilities.iter().flat_map(|capabilities| &capabilities.deny) {
            let rule = self.rule(policy, RulePath::Capability(*capability), Action::Deny)?;
            let answers = self.set.capabilities.entry(*capability).or_default();
            let place = match policy.mode {
                Mode::Enforce => &mut answers.enforced,
                Mode::Audit => &mut answers.audited,
            };
            place.get_or_insert(Answer { action: Action::Deny, rule });
        }
        self.clauses.push((policy.mode, clauses));
        Ok(())
    }

    fn finish(mut self) -> Result<AccessSet, CompileError> {
        for answers in self.set.capabilities.values_mut() {
            // What is refused is not let through.
            if answers.enforced.is_some() {
                answers.audited = None;
            }
        }
        let has_processes = self.clauses.iter().any(|(_, clauses)| clauses.has_processes);
        let loaders = if has_processes {
            let known: Vec<Pattern> = LOADERS.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
            self.executables.add(&known)
        } else {
            Vec::new()
        };
        self.set.unknown = self.refuses();
        self.set.executables = self.executables.automaton(&self.set)?;
        self.set.files = self.files.automaton(&self.set)?;
        let nothing = [Vec::new()];
        let executables: Vec<Vec<usize>> = self
            .set
            .executables
            .as_ref()
            .map_or_else(|| nothing.to_vec(), |automaton| automaton.outcomes.clone());
        self.set.loaders = (0..=u16::MAX)
            .zip(&executables)
            .filter(|(_, matching)| meet(&loaders, matching))
            .map(|(outcome, _)| outcome)
            .collect();
        if has_processes {
            self.set.processes = executables
                .iter()
                .map(|matching| [true, false].map(|in_image| self.executable(matching, in_image)))
                .collect();
        }
        let Some(files) = self.set.files.clone() else { return Ok(self.set) };
        for (file, matching) in (0..=u16::MAX).zip(&files.outcomes) {
            for (executable, runs) in (0..=u16::MAX).zip(&executables) {
                let row: [Answers; 8] =
                    Operation::ALL.map(|operation| self.file(matching, runs, operation.index()));
                if row.iter().any(|answers| *answers != Answers::default()) {
                    self.set.operations.insert((file, executable), row);
                }
                if self.set.operations.len() > AccessSet::MAX_ROWS {
                    return Err(self.too_many_rows());
                }
            }
        }
        self.moves(&files, executables.len())?;
        Ok(self.set)
    }

    /// The first rule on executables or files, of an Enforce policy, that refuses.
    fn refuses(&self) -> Option<u16> {
        let found = self.set.rules.iter().position(|rule| {
            rule.action.refuses()
                && self.set.mode(rule) == Mode::Enforce
                && !matches!(rule.rule.path, RulePath::Capability(_))
        });
        found.and_then(|at| u16::try_from(at).ok())
    }

    fn too_many_rows(&self) -> CompileError {
        CompileError::TooManyPathRows {
            policies: self.set.policies.iter().map(|policy| policy.id.clone()).collect(),
            limit: AccessSet::MAX_ROWS,
        }
    }

    fn executable(&self, matching: &[usize], in_image: bool) -> Answers {
        self.answers(|clauses| {
            let found = clauses.processes.iter().find(|clause| match &clause.patterns {
                Some(patterns) => meet(patterns, matching),
                None => !in_image,
            });
            found
                .map(|clause| Answer { action: clause.action, rule: clause.rule })
                .or(clauses.default.map(|rule| Answer { action: Action::Deny, rule }))
        })
    }

    fn file(&self, matching: &[usize], runs: &[usize], operation: usize) -> Answers {
        self.answers(|clauses| {
            let found = clauses.files.iter().find(|clause| {
                clause.operations[operation]
                    && meet(&clause.patterns, matching)
                    && !meet(&clause.unless, runs)
            });
            found.map(|clause| Answer { action: clause.action, rule: clause.rule })
        })
    }

    /// The strictest answers of both modes; among equally strict ones the first policy's.
    fn answers(&self, answer: impl Fn(&Clauses) -> Option<Answer>) -> Answers {
        let mut answers = Answers::default();
        for (mode, clauses) in &self.clauses {
            let Some(found) = answer(clauses).filter(|found| found.action > Action::Allow) else { continue };
            let place = match mode {
                Mode::Enforce => &mut answers.enforced,
                Mode::Audit => &mut answers.audited,
            };
            if place.is_none_or(|known| known.action < found.action) {
                *place = Some(found);
            }
        }
        settled(answers)
    }

    /// Which outcomes each state can still come to, and the strictest answers among them.
    fn moves(&mut self, files: &Automaton, executables: usize) -> Result<(), CompileError> {
        let reached = reached(files);
        let mut numbers: HashMap<&[u16], u16> = HashMap::from([(&[][..], 0)]);
        for outcomes in &reached {
            let number = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
            let number = *numbers.entry(outcomes).or_insert(number);
            self.set.reach.push(number);
        }
        for (outcomes, reach) in &numbers {
            for executable in (0..=u16::MAX).take(executables) {
                let rows =
                    outcomes.iter().filter_map(|outcome| self.set.operations.get(&(*outcome, executable)));
                let mut answers = Answers::default();
                for found in rows.flatten() {
                    let stricter = |known: Option<Answer>, found: Option<Answer>| match (known, found) {
                        (Some(known), Some(found)) => {
                            let keep = (known.action, std::cmp::Reverse(known.rule))
                                >= (found.action, std::cmp::Reverse(found.rule));
                            Some(if keep { known } else { found })
                        }
                        (known, found) => known.or(found),
                    };
                    answers.enforced = stricter(answers.enforced, found.enforced);
                    answers.audited = stricter(answers.audited, found.audited);
                }
                // Only a refusal keeps a name in its place: what is merely watched may move.
                answers.enforced = answers.enforced.filter(|answer| answer.action.refuses());
                answers.audited = answers.audited.filter(|answer| answer.action.refuses());
                let answers = settled(answers);
                if answers != Answers::default() {
                    self.set.moves.insert((*reach, executable), answers);
                }
                if self.set.moves.len() + self.set.operations.len() > AccessSet::MAX_ROWS {
                    return Err(self.too_many_rows());
                }
            }
        }
        Ok(())
    }
}

/// An audit hit is what is let through now and would not be.
fn settled(answers: Answers) -> Answers {
    let enforced = answers.enforced.map_or(Action::Allow, |answer| answer.action);
    let audited = answers.audited.filter(|answer| !enforced.refuses() && answer.action > enforced);
    Answers { audited, ..answers }
}

/// Whether two ascending lists have something in common.
fn meet(one: &[usize], other: &[usize]) -> bool {
    one.iter().any(|item| other.binary_search(item).is_ok())
}

/// For each state the outcomes other than 0 that it, or what it leads to, has; sorted.
fn reached(files: &Automaton) -> Vec<Vec<u16>> {
    let mut before: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
    for (state, row) in (0..=u16::MAX).zip(files.next.chunks(files.width)) {
        let mut targets = row.to_vec();
        targets.sort_unstable();
        targets.dedup();
        for target in targets {
            before.entry(target).or_default().push(state);
        }
    }
    let mut reached: Vec<Vec<u16>> = vec![Vec::new(); files.states()];
    for outcome in (1..=u16::MAX).take(files.outcomes.len().saturating_sub(1)) {
        let mut open: Vec<u16> = (0..=u16::MAX)
            .zip(&files.outcome)
            .filter(|(_, found)| **found == outcome)
            .map(|(state, _)| state)
            .collect();
        while let Some(state) = open.pop() {
            let known = &mut reached[usize::from(state)];
            if known.last() != Some(&outcome) {
                known.push(outcome);
                open.extend(before.get(&state).into_iter().flatten());
            }
        }
    }
    reached
}
