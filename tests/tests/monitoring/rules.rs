//! The rule file and its tests.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use holdfast_tests::{chart, tools};
use serde_json::Value;

/// The rule file.
pub(crate) const FILE: &str = "charts/holdfast/rules/holdfast.yaml";
/// The folder of its tests.
const TESTS: &str = "tests/monitoring";

/// An alert.
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) expression: String,
    pub(crate) severity: String,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Everything in the rule file.
pub(crate) struct Rules {
    /// What is recorded: name and expression.
    pub(crate) records: BTreeMap<String, String>,
    pub(crate) alerts: Vec<Alert>,
}

fn text(value: &Value, key: &str) -> Result<String> {
    Ok(value[key].as_str().with_context(|| format!("{value} has no {key}"))?.to_owned())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl Rules {
    pub(crate) fn read() -> Result<Self> {
        let file = chart::yaml_file(&tools::root().join(FILE))?;
        let (mut records, mut alerts) = (BTreeMap::new(), Vec::new());
        for rule in list(&file["groups"]).flat_map(|group| list(&group["rules"])) {
            let expression = text(rule, "expr")?;
            if rule["record"].is_string() {
                records.insert(text(rule, "record")?, expression);
                continue;
            }
            let annotations = rule["annotations"].as_object().into_iter().flatten();
            alerts.push(Alert {
                name: text(rule, "alert")?,
                expression,
                severity: text(&rule["labels"], "severity")?,
                annotations: annotations
                    .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                    .collect(),
            });
        }
        Ok(Self { records, alerts })
    }

    /// Every expression, with the name of its rule.
    pub(crate) fn expressions(&self) -> Vec<(String, String)> {
        let alerts = self.alerts.iter().map(|alert| (alert.name.clone(), alert.expression.clone()));
        self.records.iter().map(|(name, expr)| (name.clone(), expr.clone())).chain(alerts).collect()
    }
}

/// How an alert was tested.
#[derive(Default)]
pub(crate) struct Tested {
    pub(crate) fires: bool,
    pub(crate) silent: bool,
}

/// The files of `promtool test rules`.
pub(crate) fn test_files() -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(tools::root().join(TESTS))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a name that is no text")?;
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(format!("{TESTS}/{name}.yaml"));
        }
    }
    files.sort();
    Ok(files)
}

/// What is tested of each alert.
pub(crate) fn tests() -> Result<BTreeMap<String, Tested>> {
    let mut tested: BTreeMap<String, Tested> = BTreeMap::new();
    for file in test_files()? {
        let file = chart::yaml_file(&tools::root().join(file))?;
        for test in list(&file["tests"]).flat_map(|test| list(&test["alert_rule_test"])) {
            let alert = tested.entry(text(test, "alertname")?).or_default();
            let fires = list(&test["exp_alerts"]).next().is_some();
            alert.fires |= fires;
            alert.silent |= !fires;
        }
    }
    Ok(tested)
}
