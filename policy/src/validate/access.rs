//! Process and file rules.

use super::Found;
use crate::model::{Executables, FileRule, Files, ProcessDefault, Processes};
use crate::paths::Pattern;

impl Found {
    pub(super) fn processes(&mut self, processes: &Processes) {
        if processes.rules.is_empty() && processes.default == ProcessDefault::Allow {
            self.add("processes", "has no rules and allows by default, so it says nothing");
        }
        let mut known: Vec<(usize, &Pattern)> = Vec::new();
        let mut not_in_image = None;
        for (index, rule) in processes.rules.iter().enumerate() {
            let field = format!("processes.rules[{index}]");
            match &rule.executables {
                Executables::NotInImage => {
                    if let Some(earlier) = not_in_image.replace(index) {
                        let problem = format!("never decides: processes.rules[{earlier}] says it before");
                        self.add(format!("{field}.notInImage"), problem);
                    }
                }
                Executables::Paths(paths) => {
                    if paths.is_empty() {
                        self.add(format!("{field}.paths"), "is empty");
                    }
                    for (place, path) in paths.iter().enumerate() {
                        match known.iter().find(|(_, earlier)| *earlier == path) {
                            Some((earlier, _)) => self.add(
                                format!("{field}.paths[{place}]"),
                                format!(
                                    "{path} is named by processes.rules[{earlier}] already, which decides"
                                ),
                            ),
                            None => known.push((index, path)),
                        }
                    }
                }
            }
        }
    }

    pub(super) fn files(&mut self, files: &Files) {
        if files.rules.is_empty() {
            self.add("files.rules", "is empty, so it says nothing");
        }
        for (index, rule) in files.rules.iter().enumerate() {
            let field = format!("files.rules[{index}]");
            if rule.operations.is_empty() {
                self.add(format!("{field}.operations"), "is empty");
            }
            if rule.paths.is_empty() {
                self.add(format!("{field}.paths"), "is empty");
            }
            for (place, path) in rule.paths.iter().enumerate() {
                let field = format!("{field}.paths[{place}]");
                if rule.paths[..place].contains(path) {
                    self.add(field, format!("{path} is there twice"));
                } else if let Some((earlier, operation)) = decided(&files.rules[..index], rule, path) {
                    let problem = format!(
                        "{path} is named by files.rules[{earlier}] already, which decides on {operation}"
                    );
                    self.add(field, problem);
                }
            }
        }
    }
}

/// The earlier rule that decides on this path before the rule can, and an operation that both name.
fn decided(
    earlier: &[FileRule],
    rule: &FileRule,
    path: &Pattern,
) -> Option<(usize, crate::model::Operation)> {
    earlier
        .iter()
        .enumerate()
        .filter(|(_, other)| other.unless.is_empty() && other.paths.contains(path))
        .find_map(|(index, other)| {
            other.operations.intersection(&rule.operations).next().map(|both| (index, *both))
        })
}
