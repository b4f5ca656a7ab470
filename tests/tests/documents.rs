//! What the documents say, held against what they speak of.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use holdfast_tests::{demo::POLICY, tools};
use kube::CustomResourceExt;
use serde_json::Value;

fn read(path: &str) -> Result<String> {
    fs::read_to_string(tools::root().join(path)).with_context(|| path.to_owned())
}

/// Every name of a metric in a text, between quotes or backticks.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(['"', '`'])
        .filter(|word| {
            word.strip_prefix("holdfast_").is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            })
        })
        .collect()
}

#[test]
fn the_readme_shows_the_policy_of_the_demo() -> Result<()> {
    assert!(read("README.md")?.contains(&format!("```yaml\n{POLICY}```")));
    Ok(())
}

#[test]
fn every_metric_is_documented_and_no_other() -> Result<()> {
    let text = read("docs/metrics.md")?;
    let (agent, operator) = text.split_once("\n## Operator\n").context("no part on the operator")?;
    let operator = operator.split("\n## ").next().unwrap_or_default();
    assert_eq!(metrics(agent), metrics(&sources("agent-ebpf/src", "metrics")?));
    assert_eq!(metrics(operator), metrics(&sources("operator/src", "metrics")?));
    Ok(())
}

/// The source of a module and of the modules in it, without their tests.
fn sources(folder: &str, module: &str) -> Result<String> {
    let mut text = read(&format!("{folder}/{module}.rs"))?;
    let inner = tools::root().join(folder).join(module);
    if inner.is_dir() {
        for entry in fs::read_dir(inner)? {
            let path = entry?.path();
            if !path.ends_with("tests.rs") {
                text.push_str(&fs::read_to_string(path)?);
            }
        }
    }
    Ok(text)
}

#[test]
fn every_alert_has_a_runbook_and_the_page_of_metrics_leads_there() -> Result<()> {
    let rules = read("charts/holdfast/rules/holdfast.yaml")?;
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::trim).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let (runbooks, metrics) = (read("docs/runbooks.md")?, read("docs/metrics.md")?);
    assert!(metrics.contains("](runbooks.md)"));
    for alert in alerts {
        assert!(runbooks.contains(&format!("## {alert}\n")), "no runbook for {alert}");
        assert!(runbooks.contains(&format!("| [{alert}](#")), "no row in the table for {alert}");
        let page = format!("docs/runbooks.md#{}", alert.to_lowercase());
        assert!(rules.contains(&page), "{alert} does not lead to {page}");
    }
    Ok(())
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let headings = page.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with('#')
    });
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter_map(|letter| match letter {
                    ' ' => Some('-'),
                    letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter),
                    _ => None,
                })
                .collect()
        })
        .collect()
}

#[test]
fn every_link_between_the_pages_leads_somewhere() -> Result<()> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in fs::read_dir(tools::root().join("docs"))? {
        let name = entry?.file_name().into_string().ok().context("a name that is no text")?;
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            pages.push(format!("docs/{name}"));
        }
    }
    let mut links = 0;
    let mut linked = BTreeSet::new();
    for page in &pages {
        // What is between backticks is shown as it is: a pattern there may look like a link.
        let text: String = read(page)?.split('`').step_by(2).collect();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") || target.contains(' ') {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
            let file = if file.is_empty() { page.clone() } else { format!("{folder}/{file}") };
            let file = file.trim_start_matches('/');
            assert!(tools::root().join(file).exists(), "{page}: {target}");
            linked.insert(file.to_owned());
            if !anchor.is_empty() {
                assert!(anchors(&read(file)?).contains(anchor), "{page}: {target}: no such heading");
            }
            links += 1;
        }
    }
    assert!(links > 20, "only {links} links");
    let lost: Vec<&String> =
        pages.iter().filter(|page| *page != "README.md" && !linked.contains(*page)).collect();
    assert!(lost.is_empty(), "no page leads to {lost:?}");
    Ok(())
}

/// The names of all fields of a schema, but for those of Kubernetes' own types, which the reference leads to.
fn fields(schema: &Value, into: &mut BTreeSet<String>) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        into.insert(name.clone());
        if name != "tolerations" {
            fields(schema, into);
        }
    }
    if !schema["items"].is_null() {
        fields(&schema["items"], into);
    }
}

#[test]
fn every_field_that_users_write_is_in_the_reference() -> Result<()> {
    let text = read("docs/policy-reference.md")?;
    let rows: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter_map(|(path, _)| path.rsplit('.').next())
        .collect();
    for crd in [
        holdfast_crds::WorkloadPolicy::crd(),
        holdfast_crds::ClusterWorkloadPolicy::crd(),
        holdfast_crds::ExternalWorkload::crd(),
        holdfast_crds::NodeAgent::crd(),
    ] {
        let crd = serde_json::to_value(&crd)?;
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut known = BTreeSet::new();
        fields(spec, &mut known);
        assert!(known.len() > 3, "no schema of {}", crd["metadata"]["name"]);
        let missing: Vec<&String> = known.iter().filter(|name| !rows.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{}: not in the reference: {missing:?}", crd["metadata"]["name"]);
    }
    Ok(())
}

#[test]
fn every_call_of_the_groups_that_are_said_to_be_refusable_has_a_hook() -> Result<()> {
    use holdfast_policy::syscalls::{Abi, expand, hooks::hooks, number};
    let text = read("docs/kernel-support.md")?;
    let (_, sentence) = text.split_once("Every call of the groups").context("no such sentence")?;
    let (groups, _) = sentence.split_once("has one").context("no end of the sentence")?;
    let groups: Vec<&str> = groups.split('`').filter(|word| word.starts_with('@')).collect();
    assert!(groups.len() >= 10, "{groups:?}");
    for group in groups {
        let calls = expand(group);
        assert!(!calls.is_empty(), "there is no group {group}");
        for call in calls.into_iter().filter(|call| number(Abi::X86_64, call).is_some()) {
            assert!(!hooks(call).is_empty(), "{group}: {call}");
        }
    }
    Ok(())
}
