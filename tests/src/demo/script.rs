//! What `make demo` does and prints.

use std::path::Path;

use anyhow::{Context, Result};

use super::{
    NAMESPACE, POLICY, Stage,
    agent::Probe,
    attempt::{self, DONE, EPERM, KILLED, SILENCE},
    table::{Row, Table},
};

/// What a policy's status says of each rule that is given less than it asks.
const WEAKEST: &str =
    "{range .status.weakest[*]}{.node}  {.rule}  asked {.asked}, given {.given} ({.reason}){\"\\n\"}{end}";
/// A policy's conditions.
const CONDITIONS: &str =
    "{range .status.conditions[*]}{.type}={.status}  {.reason}  {.message}{\"\\n\"}{end}";

/// Plays it; true when every attempt came out as it should.
///
/// # Errors
/// When a step fails that is no attempt.
pub async fn play(program: &Path) -> Result<bool> {
    let mut stage = Stage::new(program, |step| println!("demo: {step}")).await?;
    let probe = stage.mounts.probe()?;
    let refuses = probe.refuses_calls();
    println!(
        "demo: kernel {}: {}",
        probe.kernel,
        if refuses {
            "it can refuse a system call"
        } else {
            "without BPF LSM and fmod_ret it cannot refuse a system call, only kill the process that made it"
        }
    );

    println!("\nWithout a policy everything passes.\n");
    let mut all = before(&stage)?;
    print!("{}", Table { title: "ATTEMPT", rows: &all });
    let older = attempt::open(&stage.node, "batch", "api", 8080)?;

    println!("\n$ kubectl apply -f - <<EOF\n{POLICY}EOF");
    print!("{}", stage.apply(POLICY)?);
    stage.wait_programmed("api").await?;

    println!("\nWith it:\n");
    let attempts = after(&stage, older, &probe)?;
    print!("{}", Table { title: "ATTEMPT", rows: &attempts });
    all.extend(attempts);

    println!();
    shown_by_kubectl(&stage)?;
    println!("\nWhat Holdfast says of it:\n");
    let said = said(&stage, refuses)?;
    print!("{}", Table { title: "SAID", rows: &said });
    all.extend(said);
    println!();
    metrics(&stage).await?;

    let wrong = all.iter().filter(|row| !row.holds()).count();
    if wrong > 0 {
        println!(
            "\n-- the agent's log:\n{}\n-- the operator's log:\n{}",
            stage.agent.log_tail(),
            stage.operator.log_tail()
        );
    }
    println!("\ndemo: {} rows, {wrong} not as expected", all.len());
    println!("demo: cleaning up");
    Ok(wrong == 0)
}

fn before(stage: &Stage) -> Result<Vec<Row>> {
    let node = &stage.node;
    Ok(vec![
        Row::new("web connects to api:8080", DONE, attempt::tcp(node, "web", "api", 8080, DONE)?),
        Row::new("batch connects to api:8080", DONE, attempt::tcp(node, "batch", "api", 8080, DONE)?),
        Row::new("api connects to db:5432", DONE, attempt::tcp(node, "api", "db", 5432, DONE)?),
        Row::new(
            "api connects to 192.0.2.10:443, outside",
            DONE,
            attempt::tcp(node, "api", "outside", 443, DONE)?,
        ),
        Row::new(
            "api mounts a tmpfs",
            DONE,
            attempt::call(node, "api", "mount", &stage.folder.path().join("m1"))?,
        ),
        Row::new("api opens a packet socket", DONE, attempt::packet_socket(node, "api")?),
    ])
}

/// What should come of a mount in a pod whose policy denies it, with `fallback: Kill`, on this kernel.
fn refused_call(refuses: bool) -> &'static str {
    if refuses { EPERM } else { KILLED }
}

fn after(stage: &Stage, older: u64, probe: &Probe) -> Result<Vec<Row>> {
    let node = &stage.node;
    let tcp = |attempt: &str, from: &str, to: &str, port: u16, expected: &str| -> Result<Row> {
        Ok(Row::new(attempt, expected, attempt::tcp(node, from, to, port, expected)?))
    };
    let call = |attempt: &str, pod: &str, call: &str, folder: &str, expected: &str| -> Result<Row> {
        let folder = stage.folder.path().join(folder);
        Ok(Row::new(attempt, expected, attempt::call(node, pod, call, &folder)?))
    };
    let packets = if probe.refuses_calls() { EPERM } else { DONE };
    Ok(vec![
        tcp("web connects to api:8080", "web", "api", 8080, DONE)?,
        tcp("web connects to api:9000", "web", "api", 9000, SILENCE)?,
        tcp("batch connects to api:8080", "batch", "api", 8080, SILENCE)?,
        Row::new(
            "batch talks on, over a connection from before",
            SILENCE,
            attempt::say(node, "batch", older, "api", SILENCE)?,
        ),
        tcp("the node probes api:8080", "node", "api", 8080, DONE)?,
        tcp("api connects to db:5432", "api", "db", 5432, DONE)?,
        tcp("api connects to 192.0.2.10:443, outside", "api", "outside", 443, EPERM)?,
        tcp("web connects to 192.0.2.10:443, outside", "web", "outside", 443, DONE)?,
        call("api mounts a tmpfs", "api", "mount", "m2", refused_call(probe.refuses_calls()))?,
        call("api makes a directory", "api", "mkdir", "m3", DONE)?,
        call("web mounts a tmpfs", "web", "mount", "m4", DONE)?,
        Row::new("api opens a packet socket", packets, attempt::packet_socket(node, "api")?),
    ])
}

/// What the policy's status and the metrics say, against what was seen.
fn said(stage: &Stage, refuses: bool) -> Result<Vec<Row>> {
    let condition =
        |kind: &str| stage.policy("api", &format!("{{.status.conditions[?(@.type==\"{kind}\")].status}}"));
    let rule = |rule: &str| {
        let row = format!("{{.status.weakest[?(@.rule==\"{rule}\")]['asked','given','reason']}}");
        stage.policy("api", &row).map(|row| if row.is_empty() { "as asked".to_owned() } else { row })
    };
    let (mount, packets) = if refuses {
        ("as asked", "as asked")
    } else {
        ("Deny KillAfterEffect NoLsmAndNoFmodRet", "Deny NotCovered NoLsmAndNoFmodRet")
    };
    let counted = |kind: &str| -> Result<&str> {
        Ok(if stage.agent.denials("shop/api", kind)? > 0.0 { "some" } else { "none" })
    };
    Ok(vec![
        Row::new("condition Accepted", "True", condition("Accepted")?),
        Row::new("condition Programmed", "True", condition("Programmed")?),
        Row::new("condition Degraded", if refuses { "False" } else { "True" }, condition("Degraded")?),
        Row::new(
            "nodes selected, programmed",
            "1 1",
            stage.policy("api", "{.status.nodes['selected','programmed']}")?,
        ),
        Row::new("syscalls.rules[0], the mount", mount, rule("syscalls.rules[0]")?),
        Row::new("network, packet sockets", packets, rule("network (AF_PACKET sockets)")?),
        Row::new("denials counted, network", "some", counted("network")?),
        Row::new("denials counted, system calls", "some", counted("syscall")?),
    ])
}

fn shown_by_kubectl(stage: &Stage) -> Result<()> {
    let list = ["get", "wlp,wln", "-n", NAMESPACE];
    println!("$ kubectl {}", list.join(" "));
    print!("{}", stage.cluster.kubectl(&list)?);
    println!("\nconditions and weakest rules of the policy's status:");
    for line in [CONDITIONS, WEAKEST].map(|path| stage.policy("api", path)) {
        for line in line?.lines() {
            println!("  {}", line.trim_end());
        }
    }
    Ok(())
}

async fn metrics(stage: &Stage) -> Result<()> {
    let (_, operator) = stage.operator.get("/metrics").await.context("the operator's metrics")?;
    let show = |of: &str, text: &str, names: &[&str]| {
        println!("{of} /metrics:");
        for line in text.lines().filter(|line| names.iter().any(|name| line.starts_with(name))) {
            println!("  {line}");
        }
    };
    let agent = ["holdfast_denials_total{", "holdfast_policy_rules{", "holdfast_workloads{"];
    show("agent", &stage.agent.metrics()?, &agent);
    let names = ["holdfast_policy_nodes{", "holdfast_identities ", "holdfast_addresses ", "holdfast_agents{"];
    show("operator", &operator, &names);
    Ok(())
}
