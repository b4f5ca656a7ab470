//! What `make demo` does and prints.

use anyhow::{Context, Result};

use super::{
    Control, NAMESPACE, PODS, POLICY,
    agent::{self, Probe},
    attempt::{DONE, EPERM, KILLED, SILENCE},
    site::{Ask, Site},
    table::{Row, Table},
};

/// What a policy's status says of each rule that is given less than it asks.
const WEAKEST: &str =
    "{range .status.weakest[*]}{.node}  {.rule}  asked {.asked}, given {.given} ({.reason}){\"\\n\"}{end}";
/// A policy's conditions.
const CONDITIONS: &str =
    "{range .status.conditions[*]}{.type}={.status}  {.reason}  {.message}{\"\\n\"}{end}";

/// Plays it on the node that `site` makes; true when every attempt came out as it should.
///
/// # Errors
/// When a step fails that is no attempt.
pub async fn play(site: impl FnOnce(&mut dyn FnMut(&str)) -> Result<Box<dyn Site>>) -> Result<bool> {
    let mut step = |step: &str| println!("demo: {step}");
    let control = Control::new(&mut step).await?;
    let mut site = site(&mut step)?;
    step("running the pods");
    control.report_node(&site.ask(Ask::BootId)?, &site.ask(Ask::Kernel)?)?;
    for (name, number) in PODS {
        site.ask(Ask::RunPod { name: name.to_owned(), uid: control.pod_uid(name)?, number })?;
        control.report_pod(name, number)?;
    }
    step("starting holdfast-agent run --source api");
    site.ask(Ask::StartAgent { kubeconfig: control.agent_kubeconfig()?, files: Vec::new() })?;
    let good = attempts(&control, site.as_mut()).await?;
    step("cleaning up");
    Ok(good)
}

async fn attempts(control: &Control, site: &mut dyn Site) -> Result<bool> {
    let probe = Probe::read(&site.ask(Ask::Probe)?)?;
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
    let mut all = before(site)?;
    print!("{}", Table { title: "ATTEMPT", rows: &all });
    let open = Ask::Open { from: "batch".to_owned(), to: "api".to_owned(), port: 8080 };
    let older = site.ask(open)?.parse()?;

    println!("\n$ kubectl apply -f - <<EOF\n{POLICY}EOF");
    print!("{}", control.apply(POLICY)?);
    control.wait_programmed("api").await?;

    println!("\nWith it:\n");
    let attempts = after(site, older, refuses)?;
    print!("{}", Table { title: "ATTEMPT", rows: &attempts });
    all.extend(attempts);

    println!();
    shown_by_kubectl(control)?;
    println!("\nWhat Holdfast says of it:\n");
    let metrics = site.ask(Ask::Metrics)?;
    let said = said(control, &metrics, refuses)?;
    print!("{}", Table { title: "SAID", rows: &said });
    all.extend(said);
    println!();
    show_metrics(control, &metrics).await?;

    let wrong = all.iter().filter(|row| !row.holds()).count();
    if wrong > 0 {
        let agent = site.ask(Ask::Log)?;
        println!("\n-- the agent's log:\n{agent}\n-- the operator's log:\n{}", control.operator.log_tail());
    }
    println!("\ndemo: {} rows, {wrong} not as expected", all.len());
    Ok(wrong == 0)
}

fn tcp(site: &mut dyn Site, attempt: &str, from: &str, to: &str, port: u16, wanted: &str) -> Result<Row> {
    let ask = Ask::Tcp { from: from.to_owned(), to: to.to_owned(), port, wanted: wanted.to_owned() };
    Ok(Row::new(attempt, wanted, site.ask(ask)?))
}

fn call(site: &mut dyn Site, attempt: &str, pod: &str, call: &str, wanted: &str) -> Result<Row> {
    Ok(Row::new(attempt, wanted, site.ask(Ask::Call { pod: pod.to_owned(), call: call.to_owned() })?))
}

fn packet_socket(site: &mut dyn Site, wanted: &str) -> Result<Row> {
    let seen = site.ask(Ask::PacketSocket { pod: "api".to_owned() })?;
    Ok(Row::new("api opens a packet socket", wanted, seen))
}

const OUTSIDE: &str = "api connects to 192.0.2.10:443, outside";

fn before(site: &mut dyn Site) -> Result<Vec<Row>> {
    Ok(vec![
        tcp(site, "web connects to api:8080", "web", "api", 8080, DONE)?,
        tcp(site, "batch connects to api:8080", "batch", "api", 8080, DONE)?,
        tcp(site, "api connects to db:5432", "api", "db", 5432, DONE)?,
        tcp(site, OUTSIDE, "api", "outside", 443, DONE)?,
        call(site, "api mounts a tmpfs", "api", "mount", DONE)?,
        packet_socket(site, DONE)?,
    ])
}

fn after(site: &mut dyn Site, older: u64, refuses: bool) -> Result<Vec<Row>> {
    let say = Ask::Say {
        from: "batch".to_owned(),
        socket: older,
        to: "api".to_owned(),
        wanted: SILENCE.to_owned(),
    };
    Ok(vec![
        tcp(site, "web connects to api:8080", "web", "api", 8080, DONE)?,
        tcp(site, "web connects to api:9000", "web", "api", 9000, SILENCE)?,
        tcp(site, "batch connects to api:8080", "batch", "api", 8080, SILENCE)?,
        Row::new("batch talks on, over a connection from before", SILENCE, site.ask(say)?),
        tcp(site, "the node probes api:8080", "node", "api", 8080, DONE)?,
        tcp(site, "api connects to db:5432", "api", "db", 5432, DONE)?,
        tcp(site, OUTSIDE, "api", "outside", 443, EPERM)?,
        tcp(site, "web connects to 192.0.2.10:443, outside", "web", "outside", 443, DONE)?,
        call(site, "api mounts a tmpfs", "api", "mount", if refuses { EPERM } else { KILLED })?,
        call(site, "api makes a directory", "api", "mkdir", DONE)?,
        call(site, "web mounts a tmpfs", "web", "mount", DONE)?,
        packet_socket(site, if refuses { EPERM } else { DONE })?,
    ])
}

/// What the policy's status and the metrics say, against what was seen.
fn said(control: &Control, metrics: &str, refuses: bool) -> Result<Vec<Row>> {
    let condition =
        |kind: &str| control.policy("api", &format!("{{.status.conditions[?(@.type==\"{kind}\")].status}}"));
    let rule = |rule: &str| {
        let row = format!("{{.status.weakest[?(@.rule==\"{rule}\")]['asked','given','reason']}}");
        control.policy("api", &row).map(|row| if row.is_empty() { "as asked".to_owned() } else { row })
    };
    let (mount, packets) = if refuses {
        ("as asked", "as asked")
    } else {
        ("Deny KillAfterEffect NoLsmAndNoFmodRet", "Deny NotCovered NoLsmAndNoFmodRet")
    };
    let counted = |kind: &str| if agent::denials(metrics, "shop/api", kind) > 0 { "some" } else { "none" };
    Ok(vec![
        Row::new("condition Accepted", "True", condition("Accepted")?),
        Row::new("condition Programmed", "True", condition("Programmed")?),
        Row::new("condition Degraded", if refuses { "False" } else { "True" }, condition("Degraded")?),
        Row::new(
            "nodes selected, programmed",
            "1 1",
            control.policy("api", "{.status.nodes['selected','programmed']}")?,
        ),
        Row::new("syscalls.rules[0], the mount", mount, rule("syscalls.rules[0]")?),
        Row::new("network, packet sockets", packets, rule("network (AF_PACKET sockets)")?),
        Row::new("denials counted, network", "some", counted("network")),
        Row::new("denials counted, system calls", "some", counted("syscall")),
    ])
}

fn shown_by_kubectl(control: &Control) -> Result<()> {
    let list = ["get", "wlp,wln", "-n", NAMESPACE];
    println!("$ kubectl {}", list.join(" "));
    print!("{}", control.cluster.kubectl(&list)?);
    println!("\nconditions and weakest rules of the policy's status:");
    for line in [CONDITIONS, WEAKEST].map(|path| control.policy("api", path)) {
        for line in line?.lines() {
            println!("  {}", line.trim_end());
        }
    }
    Ok(())
}

async fn show_metrics(control: &Control, agent: &str) -> Result<()> {
    let (_, operator) = control.operator.get("/metrics").await.context("the operator's metrics")?;
    let show = |of: &str, text: &str, names: &[&str]| {
        println!("{of} /metrics:");
        for line in text.lines().filter(|line| names.iter().any(|name| line.starts_with(name))) {
            println!("  {line}");
        }
    };
    let names = ["holdfast_denials_total{", "holdfast_policy_rules{", "holdfast_workloads{"];
    show("agent", agent, &names);
    let names = ["holdfast_policy_nodes{", "holdfast_identities ", "holdfast_addresses ", "holdfast_agents{"];
    show("operator", &operator, &names);
    Ok(())
}
