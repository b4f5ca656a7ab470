//! Process, file and capability rules.

use holdfast_policy::error::FieldError;
use holdfast_policy::model;
use holdfast_policy::paths::Pattern;

use crate::capabilities::Capabilities;
use crate::files::Files;
use crate::processes::{ProcessDefault, Processes};

pub(super) fn processes(processes: &Processes, errors: &mut Vec<FieldError>) -> model::Processes {
    let numbered = processes.rules.iter().enumerate();
    let rules = numbered.filter_map(|(index, rule)| {
        let at = format!("processes.rules[{index}]");
        let executables = match (&rule.paths, rule.not_in_image) {
            (Some(paths), None) => model::Executables::Paths(patterns(paths, &format!("{at}.paths"), errors)),
            (None, Some(true)) => model::Executables::NotInImage,
            (Some(_), Some(_)) => {
                errors.push(FieldError::new(at, "mixes paths and notInImage"));
                return None;
            }
            (None, Some(false)) => {
                errors.push(FieldError::new(format!("{at}.notInImage"), "can only be true"));
                return None;
            }
            (None, None) => {
                errors.push(FieldError::new(at, "names no executables"));
                return None;
            }
        };
        Some(model::ProcessRule { executables, action: rule.action.into() })
    });
    model::Processes {
        default: match processes.default {
            ProcessDefault::Allow => model::ProcessDefault::Allow,
            ProcessDefault::Deny => model::ProcessDefault::Deny,
        },
        rules: rules.collect(),
    }
}

pub(super) fn files(files: &Files, errors: &mut Vec<FieldError>) -> model::Files {
    let numbered = files.rules.iter().enumerate();
    let rules = numbered.map(|(index, rule)| {
        let at = format!("files.rules[{index}]");
        let unless = rule.unless.as_ref().map(|unless| {
            let at = format!("{at}.unless.executables");
            if unless.executables.is_empty() {
                errors.push(FieldError::new(&at, "is empty; leave unless out to make no exception"));
            }
            patterns(&unless.executables, &at, errors)
        });
        model::FileRule {
            paths: patterns(&rule.paths, &format!("{at}.paths"), errors),
            operations: rule.operations.iter().map(|operation| (*operation).into()).collect(),
            action: rule.action.into(),
            unless: unless.unwrap_or_default(),
        }
    });
    model::Files { rules: rules.collect() }
}

pub(super) fn capabilities(given: &Capabilities, errors: &mut Vec<FieldError>) -> model::Capabilities {
    let numbered = given.deny.iter().enumerate();
    let deny = numbered.filter_map(|(index, name)| {
        let known = model::Capability::named(name);
        if known.is_none() {
            let problem = format!("{name} is no known capability (without CAP_, in capitals)");
            errors.push(FieldError::new(format!("capabilities.deny[{index}]"), problem));
        }
        known
    });
    model::Capabilities { deny: deny.collect() }
}

/// The patterns of a list; those that are none are errors, and left out.
fn patterns(texts: &[String], at: &str, errors: &mut Vec<FieldError>) -> Vec<Pattern> {
    let numbered = texts.iter().enumerate();
    let parsed = numbered.filter_map(|(index, text)| match Pattern::parse(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            errors.push(FieldError::new(format!("{at}[{index}]"), error.to_string()));
            None
        }
    });
    parsed.collect()
}
