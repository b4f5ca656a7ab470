//! Random process, file and capability rules, and accesses that meet them.

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::decide::{Executable, FileAccess};
use crate::model::{
    Action, Capabilities, Capability, Executables, FileRule, Files, Operation, ProcessDefault, ProcessRule,
    Processes,
};
use crate::paths::Pattern;

const NAMES: [&str; 8] = ["a", "ab", "b", "bin", "etc", "lib", "run", "sh"];
const GLOBS: [&str; 4] = ["*", "**", "a*", "*b"];

fn operations() -> impl Strategy<Value = BTreeSet<Operation>> {
    btree_set(select(Operation::ALL.to_vec()), 1..=8)
}

fn action() -> impl Strategy<Value = Action> {
    select(vec![Action::Allow, Action::Audit, Action::Deny, Action::Kill])
}

/// A pattern.
pub fn pattern() -> impl Strategy<Value = Pattern> {
    let component = prop_oneof![3 => select(NAMES.to_vec()), 1 => select(GLOBS.to_vec())];
    let text = vec(component, 1..=4).prop_map(|parts| format!("/{}", parts.join("/")));
    text.prop_filter_map("a pattern", |text| Pattern::parse(&text).ok())
}

/// A path.
pub fn path() -> impl Strategy<Value = Vec<u8>> {
    let start = select(vec!["", "/usr", "/var", "/var/run"]);
    (start, vec(select(NAMES.to_vec()), 1..=4))
        .prop_map(|(start, names)| format!("{start}/{}", names.join("/")).into_bytes())
}

fn processes() -> impl Strategy<Value = Processes> {
    let executables = prop_oneof![
        4 => vec(pattern(), 1..=3).prop_map(Executables::Paths),
        1 => Just(Executables::NotInImage),
    ];
    let rule = (executables, action()).prop_map(|(executables, action)| ProcessRule { executables, action });
    let default = prop_oneof![3 => Just(ProcessDefault::Allow), 1 => Just(ProcessDefault::Deny)];
    (default, vec(rule, 0..=3)).prop_map(|(default, rules)| Processes { default, rules })
}

fn files() -> impl Strategy<Value = Files> {
    let rule = (vec(pattern(), 1..=3), operations(), action(), vec(pattern(), 0..=2))
        .prop_map(|(paths, operations, action, unless)| FileRule { paths, operations, action, unless });
    vec(rule, 0..=3).prop_map(|rules| Files { rules })
}

/// A capability.
pub fn capability() -> impl Strategy<Value = Capability> {
    select(Capability::all().take(4).collect::<Vec<_>>())
}

/// What a policy says of processes, files and capabilities.
pub fn halves() -> impl Strategy<Value = (Option<Processes>, Option<Files>, Option<Capabilities>)> {
    let capabilities = btree_set(capability(), 0..=3).prop_map(|deny| Capabilities { deny });
    (option::weighted(0.4, processes()), option::weighted(0.4, files()), option::weighted(0.3, capabilities))
}

/// An executable.
pub fn executable() -> impl Strategy<Value = Executable> {
    (option::weighted(0.9, path()), any::<bool>()).prop_map(|(path, in_image)| Executable { path, in_image })
}

/// An access to a file.
pub fn file_access() -> impl Strategy<Value = FileAccess> {
    (path(), select(Operation::ALL.to_vec()), option::weighted(0.9, path()))
        .prop_map(|(path, operation, executable)| FileAccess { path, operation, executable })
}
