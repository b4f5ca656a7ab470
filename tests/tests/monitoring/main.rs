//! Rules, dashboards and runbooks: that each file says what it should, by the tools that read it (promtool, Grafana's
//! schema), that they fit each other and the metrics that there are, and ([`live`]) that a real Prometheus which scrapes a
//! real operator and agent has an answer to every query.

mod dashboards;
mod live;
#[path = "../docs/pages.rs"]
mod pages;
mod prometheus;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::tools;

use dashboards::Dashboard;
use rules::{Alert, Rules};

/// What every runbook's address begins with; the rest is the anchor of the alert's section.
const RUNBOOKS: &str = "https://github.com/holdfast-dev/holdfast/blob/main/docs/runbooks.md#";

/// Metrics that no dashboard shows, and why.
const UNSHOWN: [(&str, &str); 3] = [
    ("process_open_fds", "an agent opens few files, however much it has to do; for a search by hand"),
    ("process_start_time_seconds", "restarts are seen in Kubernetes; for a search by hand"),
    ("holdfast_policy_apply_duration_seconds", "is shown by its buckets"),
];
/// Metrics that are not Holdfast's own: Prometheus makes them.
const PROMETHEUS: [&str; 3] = ["up", "ALERTS", "scrape_samples_scraped"];

fn read(path: &str) -> Result<String> {
    fs::read_to_string(tools::root().join(path)).with_context(|| path.to_owned())
}

/// The names in backticks of the tables of metrics.
fn documented() -> Result<BTreeSet<String>> {
    let text = read("docs/metrics.md")?;
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    Ok(cells
        .flat_map(|cell| cell.split(['`', ',', ' ']))
        .filter(|name| name.starts_with("holdfast_") || name.starts_with("process_"))
        .filter(|name| *name != "process_...")
        .map(str::to_owned)
        .collect())
}

/// The names of metrics in a `PromQL` expression: whatever begins as ours do, and what Prometheus makes.
fn metrics(expression: &str) -> BTreeSet<String> {
    let mut quoted = false;
    let bare: String = expression
        .chars()
        .map(|letter| {
            quoted ^= letter == '"';
            if quoted { ' ' } else { letter }
        })
        .collect();
    bare.split(|letter: char| !(letter.is_ascii_alphanumeric() || "_:".contains(letter)))
        .filter(|word| {
            word.starts_with("holdfast_")
                || word.starts_with("process_")
                || (word.contains(':') && !word.starts_with(|letter: char| letter.is_ascii_digit()))
                || PROMETHEUS.contains(word)
        })
        .map(str::to_owned)
        .collect()
}

/// The metric that a name in a query is of.
fn base(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// What a tool of `make setup` says of files; an error when it says no.
fn tool(name: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(tools::control_plane_program(name)?)
        .current_dir(tools::root())
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{name} {}:\n{said}", arguments.join(" "));
    Ok(said)
}

#[test]
fn promtool_takes_the_rules() -> Result<()> {
    let said = tool("promtool", &["check", "rules", "--lint=all", "--lint-fatal", rules::FILE])?;
    assert!(said.contains("SUCCESS"), "{said}");
    Ok(())
}

#[test]
fn every_alert_fires_when_it_should_and_not_when_it_should_not() -> Result<()> {
    let tests = rules::tests()?;
    for file in rules::test_files()? {
        let said = tool("promtool", &["test", "rules", &file])?;
        assert!(said.contains("SUCCESS") && !said.contains("FAILED"), "{said}");
    }
    let alerts = Rules::read()?.alerts;
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    for (name, tested) in &tests {
        assert!(names.contains(name.as_str()), "{name} is tested, and is no alert");
        assert!(tested.fires, "{name} is never seen firing");
        assert!(tested.silent, "{name} is never seen not firing");
    }
    let untested: Vec<_> = names.iter().filter(|name| !tests.contains_key(**name)).collect();
    assert!(untested.is_empty(), "not tested: {untested:?}");
    Ok(())
}

#[test]
fn every_alert_says_what_it_means_and_has_its_runbook() -> Result<()> {
    let page = read("docs/runbooks.md")?;
    let Rules { alerts, .. } = Rules::read()?;
    let sections: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(sections, names, "the runbooks' sections are not the alerts");
    for Alert { name, expression, severity, annotations } in &alerts {
        let anchor = name.to_lowercase();
        assert_eq!(annotations.get("runbook_url"), Some(&format!("{RUNBOOKS}{anchor}")), "{name}");
        for annotation in ["summary", "description"] {
            let text = annotations.get(annotation).with_context(|| format!("{name} has no {annotation}"))?;
            assert!(text.ends_with('.'), "{name}: {text}");
        }
        assert!(["critical", "warning", "info"].contains(&severity.as_str()), "{name}: {severity}");
        assert!(
            page.contains(&format!("| [{name}](#{anchor}) | {severity} |")),
            "{name} is not in the table"
        );
        let by_cluster = expression.contains("by (cluster") || expression.contains("cluster_");
        assert!(by_cluster, "{name} is not by cluster: {expression}");
        let section = page
            .split_once(&format!("\n## {name}\n"))
            .and_then(|(_, rest)| rest.split("\n## ").next())
            .context("a section")?;
        for part in ["**Meaning.**", "**Impact.**", "**Look.**", "**Fix.**", "```sh\n"] {
            assert!(section.contains(part), "{name} has no {part}");
        }
    }
    Ok(())
}

#[test]
fn every_metric_in_rules_and_dashboards_exists_and_every_metric_is_shown() -> Result<()> {
    let documented = documented()?;
    assert!(documented.len() > 20, "{documented:?}");
    let rules = Rules::read()?;
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (place, expression) in rules.expressions() {
        for metric in metrics(&expression) {
            used.entry(metric).or_default().insert(place.clone());
        }
    }
    let mut shown = BTreeSet::new();
    for dashboard in Dashboard::all()? {
        let queries = dashboard.queries().into_iter().map(|query| query.expression);
        for expression in queries.chain(dashboard.variables().into_iter().map(|variable| variable.query)) {
            for metric in metrics(&expression) {
                shown.insert(base(&metric).to_owned());
                used.entry(metric).or_default().insert(dashboard.name.clone());
            }
        }
    }
    let known = |name: &str| {
        documented.contains(base(name))
            || documented.contains(name)
            || rules.records.contains_key(name)
            || PROMETHEUS.contains(&name)
    };
    let unknown: Vec<_> = used.iter().filter(|(name, _)| !known(name)).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    for (name, _) in UNSHOWN {
        assert!(documented.contains(name), "{name} is explained, and there is no such metric");
    }
    let unshown: Vec<_> = documented
        .iter()
        .filter(|name| !shown.contains(name.as_str()) && !UNSHOWN.iter().any(|(unshown, _)| unshown == name))
        .collect();
    assert!(unshown.is_empty(), "on no dashboard: {unshown:?}");
    Ok(())
}

#[test]
fn dashboards_are_what_grafana_s_schema_says() -> Result<()> {
    let files: Vec<String> = Dashboard::all()?.into_iter().map(|dashboard| dashboard.path).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    tool("dashboard-check", &files)?;
    // And it would say no.
    let folder = tempfile::tempdir()?;
    for (good, bad) in [("\"graphMode\"", "\"graphmode\""), ("\"type\": \"stat\"", "\"type\": \"stats\"")] {
        let text = read(files[0])?;
        ensure!(text.contains(good), "{good} is not in {}", files[0]);
        let path = folder.path().join("bad.json");
        fs::write(&path, text.replace(good, bad))?;
        let path = path.to_str().context("a path that is no text")?;
        assert!(tool("dashboard-check", &[path]).is_err(), "{bad} is taken");
    }
    Ok(())
}

#[test]
fn dashboards_can_be_moved_between_grafanas_and_clusters() -> Result<()> {
    let all = Dashboard::all()?;
    let uids: BTreeSet<&str> = all.iter().map(Dashboard::uid).collect();
    assert_eq!(uids, BTreeSet::from(["holdfast-agent", "holdfast-fleet", "holdfast-policy"]));
    for dashboard in &all {
        let problems = dashboard.problems(&uids);
        assert!(problems.is_empty(), "{}: {}", dashboard.name, problems.join("\n"));
    }
    Ok(())
}

/// What the queries rely on of whoever scrapes: the metrics' own `namespace`, and a label for the node.
#[test]
fn the_chart_s_monitors_keep_namespaces_and_tell_nodes() -> Result<()> {
    for template in ["podmonitor", "servicemonitor"] {
        let text = read(&format!("charts/holdfast/templates/{template}.yaml"))?;
        let own = text.contains("honorLabels: true") && text.contains("targetLabel: node");
        assert!(own || text.contains("include \"holdfast.scrape\""), "{template}");
    }
    let mut shared = String::new();
    for entry in fs::read_dir(tools::root().join("charts/holdfast/templates"))? {
        let path = entry?.path();
        if path.is_file() {
            shared.push_str(&fs::read_to_string(path)?);
        }
    }
    for needed in ["honorLabels: true", "targetLabel: node", "targetLabel: cluster"] {
        assert!(shared.contains(needed), "no template has {needed}");
    }
    Ok(())
}
