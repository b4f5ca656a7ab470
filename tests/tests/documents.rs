//! What the documents say, held against what they speak of.

use std::{collections::BTreeSet, fs};

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
    let agent_code = read("agent-ebpf/src/metrics.rs")?;
    assert_eq!(metrics(agent), metrics(&agent_code));
    assert_eq!(metrics(operator), metrics(&read("operator/src/metrics.rs")?));
    Ok(())
}

/// The names of all fields of a schema.
fn fields(schema: &Value, into: &mut BTreeSet<String>) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        into.insert(name.clone());
        fields(schema, into);
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
