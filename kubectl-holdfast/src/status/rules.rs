//! The rules of a policy: what each asks, and what it is given where.

use std::collections::BTreeMap;
use std::fmt::Display;

use holdfast_crds::workload_node::{Asked, Given, PolicyReport, PolicyState};
use holdfast_policy::model::{
    Action, Direction, Executables, Mode, Policy as Model, ProcessDefault, RulePath,
};
use serde::Serialize;

/// A rule, and what it is given where.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    #[serde(rename = "rule")]
    pub(super) path: String,
    pub(super) about: String,
    pub(super) asked: Asked,
    /// On how many of the reporting nodes it is given as asked.
    pub(super) as_asked: usize,
    pub(super) less: Vec<Less>,
}

/// What a rule is given instead of what it asks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Less {
    pub(super) given: Given,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mechanism: Option<String>,
    pub(super) reason: String,
    pub(super) nodes: Vec<String>,
}

/// The path of every rule, what it is about, and what it asks, in the order of the policy's text.
fn asked(model: &Model) -> Vec<(String, String, Asked)> {
    let audit = model.mode == Mode::Audit;
    let refuse = if audit { Asked::Audit } else { Asked::Deny };
    let of = |action: Action| match action {
        Action::Allow => Asked::Allow,
        Action::Audit => Asked::Audit,
        Action::Deny => refuse,
        Action::Kill if audit => Asked::Audit,
        Action::Kill => Asked::Kill,
    };
    let mut all = Vec::new();
    let mut add = |path: RulePath, about: String, asked: Asked| all.push((path.to_string(), about, asked));
    for direction in Direction::ALL {
        let Some(rules) = model.network.as_ref().and_then(|network| network.direction(direction)) else {
            continue;
        };
        add(RulePath::Default(direction), "what no rule allows".to_owned(), refuse);
        for (index, _) in (0_u16..).zip(&rules.allow) {
            add(RulePath::Allow(direction, index), String::new(), Asked::Allow);
        }
        for (index, _) in (0_u16..).zip(&rules.deny) {
            add(RulePath::Deny(direction, index), String::new(), refuse);
        }
    }
    if let Some(syscalls) = &model.syscalls {
        if let Some(action) = syscalls.default.action() {
            add(RulePath::SyscallDefault, "what no rule names".to_owned(), of(action));
        }
        for (index, rule) in (0_u16..).zip(&syscalls.rules) {
            let about = if rule.args.is_empty() { "" } else { " with conditions" };
            add(RulePath::Syscall(index), rule.names.join(" ") + about, of(rule.action));
        }
    }
    if let Some(processes) = &model.processes {
        if processes.default == ProcessDefault::Deny {
            add(RulePath::ProcessDefault, "what no rule names".to_owned(), refuse);
        }
        for (index, rule) in (0_u16..).zip(&processes.rules) {
            let about = match &rule.executables {
                Executables::Paths(paths) => joined(paths),
                Executables::NotInImage => "what is not in the image".to_owned(),
            };
            add(RulePath::Process(index), about, of(rule.action));
        }
    }
    for (index, rule) in (0_u16..).zip(model.files.iter().flat_map(|files| &files.rules)) {
        let mut about = format!("{} {}", joined(&rule.operations), joined(&rule.paths));
        if !rule.unless.is_empty() {
            about = format!("{about} unless {}", joined(&rule.unless));
        }
        add(RulePath::File(index), about, of(rule.action));
    }
    for capability in model.capabilities.iter().flat_map(|capabilities| &capabilities.deny) {
        add(RulePath::Capability(*capability), String::new(), refuse);
    }
    all
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

/// Every rule of the policy with what it is given; rows of nodes that are about no rule come last.
pub(super) fn rules(model: &Model, rows: &[(String, PolicyReport)]) -> Vec<Rule> {
    let all = asked(model);
    let current = rows
        .iter()
        .filter(|(_, row)| row.state == PolicyState::Programmed && row.generation == model.generation);
    let mut less: BTreeMap<String, Vec<Less>> = BTreeMap::new();
    let mut asked_by_nodes: BTreeMap<String, Asked> = BTreeMap::new();
    for (node, row) in current.clone() {
        for rule in &row.rules {
            asked_by_nodes.insert(rule.rule.clone(), rule.asked);
            let list = less.entry(rule.rule.clone()).or_default();
            let same = |less: &&mut Less| {
                less.given == rule.given && less.mechanism == rule.mechanism && less.reason == rule.reason
            };
            match list.iter_mut().find(same) {
                Some(less) => less.nodes.push(node.clone()),
                None => list.push(Less {
                    given: rule.given,
                    mechanism: rule.mechanism.clone(),
                    reason: rule.reason.clone(),
                    nodes: vec![node.clone()],
                }),
            }
        }
    }
    let count = current.count();
    let row = |path: String, about: String, asked: Asked, less: Vec<Less>| {
        let short: usize = less.iter().map(|less| less.nodes.len()).sum();
        Rule { path, about, asked, as_asked: count - short.min(count), less }
    };
    let mut rules = Vec::new();
    for (path, about, asked) in all {
        let less = less.remove(&path).unwrap_or_default();
        rules.push(row(path, about, asked, less));
    }
    for (path, less) in less {
        let asked = asked_by_nodes.get(&path).copied().unwrap_or(Asked::Deny);
        rules.push(row(path, String::new(), asked, less));
    }
    rules
}
