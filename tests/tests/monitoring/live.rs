//! Everything together: a real API server, operator and agent, pods that are refused and that would be, and a real
//! Prometheus with the chart's rules that scrapes both.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    demo::{
        POLICY, Stage,
        attempt::{self, DONE, SILENCE},
    },
    plugin, tools,
    wait::until,
};

use crate::{
    dashboards::{Dashboard, substituted},
    pages::{self, Action},
    prometheus::{Prometheus, Target},
    read,
    rules::Rules,
};

/// How long until every query has an answer: rates want several scrapes, and some rules are looked at every two minutes.
const PATIENCE: Duration = Duration::from_mins(4);

/// Queries without an answer here, and why that is right.
const EMPTY: [(&str, &str); 2] = [
    ("fleet / Failed requests and watches (A)", "no request fails in a fleet that is well"),
    ("agent / Helper errors (A)", "no kernel helper fails on a node that is well"),
];
/// Rules that record nothing here, and why that is right.
const UNRECORDED: [(&str, &str); 2] = [
    (
        "cluster_namespace_workload:holdfast_denials_increase10m:avg1d",
        "is of what was recorded more than a quarter of an hour ago",
    ),
    (
        "cluster_namespace_workload:holdfast_denials_increase10m:stddev1d",
        "is of what was recorded more than a quarter of an hour ago",
    ),
];
/// Alerts that are due here, some at once and some after a while; and one of a node that cannot refuse every call.
const DUE: [&str; 2] = ["HoldfastNodeWithoutAgent", "HoldfastDenialsRising"];
const DUE_ON_SUCH: &str = "HoldfastRuleFallsShort";

/// What would be refused, were it in mode Enforce.
const TRIAL: &str = "apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: trial, namespace: shop}
spec:
  selector: {matchLabels: {app: batch}}
  mode: Audit
  network: {egress: {}}
";
/// A node that has no agent.
const BARE_NODE: &str = "apiVersion: v1
kind: Node
metadata: {name: node-2}
";

/// What is refused and what would be, once more, after a change of a policy that changes none of it.
fn attempts(stage: &Stage, round: u32) -> Result<()> {
    let odd = TRIAL.replace("egress: {}", "egress: {allow: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}");
    stage.apply(if round.is_multiple_of(2) { TRIAL } else { &odd })?;
    let refused = attempt::tcp(&stage.node, "batch", "api", 8080, SILENCE)?;
    ensure!(refused == SILENCE, "batch to api: {refused}");
    let audited = attempt::tcp(&stage.node, "batch", "db", 5432, DONE)?;
    ensure!(audited == DONE, "batch to db: {audited}");
    Ok(())
}

/// The queries that have no answer, and those that are no `PromQL`.
fn unanswered(prometheus: &Prometheus, rules: &Rules, choice: &[(&str, &str)]) -> Result<BTreeSet<String>> {
    let mut unanswered = BTreeSet::new();
    for dashboard in Dashboard::all()? {
        for query in dashboard.queries() {
            let expression = substituted(&query.expression, choice);
            ensure!(!expression.contains('$'), "{}: a variable without a value: {expression}", query.place);
            let series =
                prometheus.series(&expression, query.instant).with_context(|| query.place.clone())?;
            if series == 0 && !EMPTY.iter().any(|(place, _)| *place == query.place) {
                unanswered.insert(query.place);
            }
        }
        for variable in dashboard.variables() {
            let values = prometheus.label_values(&substituted(&variable.query, choice))?;
            if values.is_empty() {
                unanswered.insert(format!("{}: variable {}", dashboard.name, variable.name));
            }
        }
    }
    for name in rules.records.keys().filter(|name| !UNRECORDED.iter().any(|(rule, _)| rule == name)) {
        for cluster in ["east", ""] {
            let recorded = format!("{name}{{cluster=\"{cluster}\"}}");
            if prometheus.series(&recorded, true)? == 0 {
                unanswered.insert(recorded);
            }
        }
    }
    Ok(unanswered)
}

/// The state of every alert that is due or about to be.
fn alerts(prometheus: &Prometheus) -> Result<BTreeMap<String, String>> {
    let answer = prometheus.get("alerts", &[])?;
    let all = answer["alerts"].as_array().context("alerts")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["state"]))).collect())
}

/// That Prometheus finds nothing wrong with any rule.
fn healthy(prometheus: &Prometheus, rules: &Rules) -> Result<()> {
    let answer = prometheus.get("rules", &[])?;
    let groups = answer["groups"].as_array().context("groups")?;
    let mut seen = BTreeSet::new();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()) {
        // A group that is looked at every few minutes may not have been yet.
        if rule["health"] == "unknown" {
            prometheus.series(rule["query"].as_str().context("a query")?, true)?;
        } else {
            ensure!(rule["health"] == "ok", "{rule}");
        }
        seen.insert(rule["name"].as_str().unwrap_or_default().to_owned());
    }
    let all: BTreeSet<String> = rules.expressions().into_iter().map(|(name, _)| name).collect();
    ensure!(seen == all, "{seen:?} were looked at, and not {all:?}");
    Ok(())
}

/// Runs the commands of the runbooks that can run without a kubelet's help, as an administrator of the cluster.
fn follow_runbooks(stage: &Stage) -> Result<usize> {
    let mut path = OsString::new();
    for program in [tools::control_plane_program("kubectl")?, plugin::binary()?] {
        path.push(program.parent().context("a program in no folder")?);
        path.push(":");
    }
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let kubeconfig = stage.cluster.kubeconfig("admin", Some("system:masters"))?;
    let mut run = 0;
    for block in pages::blocks(&read("docs/runbooks.md")?)? {
        let Action::Run { commands, .. } = &block.action else { continue };
        for (command, _) in commands {
            let output = Command::new("/bin/bash")
                .args(["-e", "-o", "pipefail", "-c", command])
                .env("PATH", &path)
                .env("KUBECONFIG", &kubeconfig)
                .current_dir(stage.folder.path())
                .output()?;
            ensure!(
                output.status.success(),
                "docs/runbooks.md, line {}: {command}\n{}{}",
                block.line,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            run += 1;
        }
    }
    Ok(run)
}

#[tokio::test]
async fn a_real_prometheus_has_an_answer_to_every_query_and_finds_no_fault_in_any_rule() -> Result<()> {
    let rules = Rules::read()?;
    let places: Vec<String> =
        Dashboard::all()?.iter().flat_map(Dashboard::queries).map(|query| query.place).collect();
    for (place, why) in EMPTY {
        assert!(places.iter().any(|known| known == place), "there is no {place}, of which {why}");
    }
    let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_demo"))).await?;
    stage.apply(&format!("{POLICY}---\n{TRIAL}---\n{BARE_NODE}"))?;
    stage.wait_programmed("api").await?;
    stage.wait_programmed("trial").await?;

    // Twice: as the chart's monitors in a cluster with a name, and as in the only cluster there is.
    let system = ("namespace", "holdfast-system");
    let (operator, agent) = (stage.operator.address(), stage.agent.address());
    let scrape = |job, address, labels| Target { job, address, labels };
    let prometheus = Prometheus::start(
        stage.folder.path(),
        &[
            scrape("holdfast-operator", operator, &[system, ("cluster", "east")]),
            scrape("holdfast-agent", agent, &[system, ("cluster", "east"), ("node", "node-1")]),
            scrape("holdfast-operator", operator, &[system]),
            scrape("holdfast-agent", agent, &[system, ("node", "node-1")]),
        ],
    )?;
    let killed = attempt::call(&stage.node, "api", "mount", &stage.folder.path().join("mount"))?;
    assert_ne!(killed, DONE);

    // All of everything, and one of each with another beside it, as Grafana puts several together.
    let all = [("cluster", ".*"), ("namespace", ".*"), ("policy", ".*"), ("node", ".*")];
    let one = [
        ("cluster", "(east|west)"),
        ("namespace", "(shop|bank)"),
        ("policy", "(shop/api|shop/trial)"),
        ("node", "(node-1|node-2)"),
    ];
    let mut round = 0;
    for choice in [all, one] {
        let mut left = BTreeSet::new();
        let answered = until(PATIENCE, "every query has an answer", async || {
            round += 1;
            attempts(&stage, round)?;
            left = unanswered(&prometheus, &rules, &choice)?;
            Ok(left.is_empty().then_some(()))
        })
        .await;
        answered.with_context(|| format!("without an answer, with {choice:?}: {left:#?}"))?;
    }

    healthy(&prometheus, &rules)?;
    let mut due = BTreeMap::new();
    let all_due = until(PATIENCE, "the alerts are due", async || {
        round += 1;
        attempts(&stage, round)?;
        due = alerts(&prometheus)?;
        Ok(DUE.iter().all(|alert| due.contains_key(*alert)).then_some(()))
    })
    .await;
    all_due.with_context(|| format!("{DUE:?} are due, and {due:?} are"))?;
    let refuses = stage.mounts.probe()?.refuses_calls();
    assert_eq!(due.contains_key(DUE_ON_SUCH), !refuses, "{due:?}");
    assert!(!due.contains_key("HoldfastBreakGlass"), "{due:?}");
    // Numbers that are known, once the last change of a policy is everywhere.
    stage.wait_programmed("trial").await?;
    for (query, wanted) in [
        ("cluster:holdfast_policy_coverage:ratio{cluster=\"east\"}", "1"),
        (
            "cluster_namespace_policy:holdfast_policy_nodes_programmed:max{cluster=\"\", policy=\"shop/api\"}",
            "1",
        ),
        ("cluster_state:holdfast_agents:max{cluster=\"east\", state=\"missing\"}", "1"),
        ("cluster:holdfast_agents_reporting:ratio{cluster=\"\"}", "0.5"),
        (
            "holdfast_denials_total{cluster=\"east\", namespace=\"shop\", workload=\"Pod/api\", policy=\"shop/api\", rule_kind=\"syscall\"}",
            "1",
        ),
    ] {
        let mut answer = serde_json::Value::Null;
        let seen = until(PATIENCE, "a number is what it should be", async || {
            answer = prometheus.get("query", &[("query", query)])?;
            Ok((answer["result"][0]["value"][1] == wanted).then_some(()))
        })
        .await;
        seen.with_context(|| format!("{query} is not {wanted}: {answer}"))?;
    }

    assert!(follow_runbooks(&stage)? > 20, "the runbooks' commands were not found");

    // Somebody breaks the glass: nothing is refused, and the alert says so.
    let kept = stage.folder.path().join("state");
    let kept = kept.to_str().context("a path that is no text")?;
    stage.mounts.agent(&["break-glass", "--for", "5m", "--reason", "a test", "--state-dir", kept])?;
    assert_eq!(attempt::tcp(&stage.node, "batch", "api", 8080, DONE)?, DONE);
    until(PATIENCE, "the alert on break-glass fires", async || {
        Ok((alerts(&prometheus)?.get("HoldfastBreakGlass").map(String::as_str) == Some("firing"))
            .then_some(()))
    })
    .await
}
