//! `kubectl holdfast logs`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    operator::{self, NAMESPACE},
    plugin,
    wait::until,
};
use serde_json::{Value, json};

use crate::stage::{NODE, SOON, Stage, event, stage};

/// The `executable` of each event that was printed as JSON.
fn notes(out: &str) -> Result<Vec<String>> {
    out.lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let note = event.pointer("/process/executable").or(event.pointer("/gap/buffer"));
            Ok(note.and_then(Value::as_str).unwrap_or_default().to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_the_agents_events_for_who_may_read_them_filtered_and_in_order() -> Result<()> {
    let stage = stage().await?;
    let gap = r#"{"schema":"holdfast.dev/event/v1","time":"2026-11-25T01:00:04Z","node":"node-1","kind":"Gap","gap":{"buffer":"denials","lost":37}}"#;
    let lines = [
        "2026-11-25T01:00:00Z INFO holdfast_agent: programs loaded".to_owned(),
        event("shop", "api", "Denied", 1, "/first"),
        event("bank", "client", "Denied", 2, "/elsewhere"),
        "{\"schema\":\"holdfast.dev/event/v2\",\"time\":\"x\"}".to_owned(),
        event("shop", "web", "Audited", 3, "/audited"),
        gap.to_owned(),
        event("shop", "api", "Denied", 5, "/last"),
    ];
    stage.write_all("agent-a", &lines).await?;
    stage.write_all("agent-b", &[event("shop", "api", "Denied", 2, "/other-agent")]).await?;

    for user in ["admin", "sre"] {
        let text = stage.told(user, &["logs", "-n", "shop"])?;
        println!("$ kubectl holdfast logs -n shop\n{text}");
        let said = stage.holdfast(user, &["logs", "-n", "shop", "-o", "json"])?;
        ensure!(said.code == 0 && said.err.is_empty(), "{said:?}");
        assert_eq!(notes(&said.out)?, ["/first", "/other-agent", "/audited", "denials", "/last"]);
    }
    let ask = |more: &str| -> Result<Vec<String>> {
        let words: Vec<&str> = ["logs", "-o", "json"].into_iter().chain(more.split(' ')).collect();
        notes(&stage.told("sre", &words)?)
    };
    // Other tests write events of other namespaces.
    let all = ask("-A")?;
    ensure!(
        ["/first", "/elsewhere", "/last"].iter().all(|note| all.iter().any(|other| other == note)),
        "{all:?}"
    );
    assert_eq!(ask("-n bank")?, ["/elsewhere", "denials"]);
    assert_eq!(ask("-n shop --tail 2")?, ["denials", "/last"]);
    assert_eq!(ask("-n shop --kind audited")?, ["/audited"]);
    assert_eq!(ask("-n shop --policy web")?, ["/audited", "denials"]);
    assert_eq!(ask("-A --policy bank/client --kind denied")?, ["/elsewhere", "denials"]);
    assert_eq!(ask("-n shop --workload Deployment/web")?, ["/audited", "denials"]);
    assert_eq!(ask("-n shop --pod web --rule-kind network")?, ["/audited", "denials"]);
    assert_eq!(ask("-n shop --rule-kind syscall")?, ["denials"]);
    assert_eq!(ask("-n shop --since 1s")?, [] as [&str; 0], "they are all of another day");
    let said = stage.holdfast("sre", &["logs", "-n", "shop", "--node", "node-9"])?;
    ensure!(said.code == 1 && said.err == "error: no agent runs on node node-9\n", "{said:?}");
    let said = stage.holdfast("sre", &["logs", "--holdfast-namespace", "bank"])?;
    ensure!(said.code == 1 && said.err.starts_with("error: no agents run in namespace bank"), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_kubernetes_events_for_who_may_not_read_the_agents() -> Result<()> {
    let stage = stage().await?;
    let made = |name: &str, reason: &str, count: i32| {
        let note = format!("egress TCP to 192.0.2.1:443 by shop/api network.egress ({name})");
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name, "namespace": "shop"},
            "eventTime": "2026-11-25T01:00:00.000000Z", "reason": reason, "type": "Warning", "action": reason,
            "reportingController": "holdfast.dev/agent", "reportingInstance": NODE, "note": note,
            "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "api"},
            "series": {"count": count, "lastObservedTime": "2026-11-25T01:05:00.000000Z"},
        })
        .to_string()
    };
    operator::apply(&stage.cluster, &made("one", "Denied", 12))?;
    let other = made("two", "Audited", 2).replace("holdfast.dev/agent", "example.com/other");
    operator::apply(&stage.cluster, &other)?;
    let said = stage.holdfast("dev", &["logs", "-n", "shop"])?;
    println!("$ kubectl holdfast logs -n shop   # as a user of one namespace\n{}{}", said.err, said.out);
    ensure!(said.code == 0, "{said:?}");
    ensure!(
        said.err.starts_with("note: the agents' logs may not be read (") && said.err.lines().count() == 1,
        "{said:?}"
    );
    assert_eq!(
        said.out,
        "2026-11-25T01:05:00.000Z node-1 Denied   shop/Pod/api; egress TCP to 192.0.2.1:443 by shop/api network.egress \
         (one); 12 times\n"
    );
    for (words, lines) in [
        ("--policy api", 1),
        ("--policy web", 0),
        ("--pod api", 1),
        ("--kind audited", 0),
        ("--node node-2", 0),
    ] {
        let words: Vec<&str> = ["logs", "-n", "shop"].into_iter().chain(words.split(' ')).collect();
        assert_eq!(stage.told("dev", &words)?.lines().count(), lines, "{words:?}");
    }
    let said = stage.holdfast("dev", &["logs", "-n", "shop", "--rule-kind", "network"])?;
    ensure!(said.code == 2 && said.err.contains("--rule-kind needs the agents' logs"), "{said:?}");
    let said = stage.holdfast("dev", &["logs", "-n", "bank"])?;
    ensure!(said.code == 1 && said.err.contains("error: events in namespace bank: forbidden"), "{said:?}");

    // Followed: what comes, and what comes again.
    let follower = Follower::start(&stage, "dev", &["logs", "-n", "shop", "-f"])?;
    follower.expect("(one); 12 times")?;
    operator::apply(&stage.cluster, &made("three", "Denied", 2))?;
    follower.expect("(three); 2 times")?;
    operator::apply(&stage.cluster, &made("one", "Denied", 13))?;
    follower.expect("(one); 13 times")?;
    Ok(())
}

/// A command that goes on, and its lines.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(stage: &Stage, user: &str, words: &[&str]) -> Result<Self> {
        let mut command = plugin::command(&stage.kubeconfig(user)?, stage.cluster.folder())?;
        let mut child = command.args(words).stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("no output")?);
        let (to, lines) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Ok(Self { child, lines })
    }

    /// The next line must hold this.
    fn expect(&self, wanted: &str) -> Result<()> {
        let line = self.lines.recv_timeout(SOON).with_context(|| format!("no line with {wanted}"))?;
        ensure!(line.contains(wanted), "{line} is not about {wanted}");
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_over_an_agents_restart_without_saying_anything_twice() -> Result<()> {
    let stage = stage().await?;
    let follower =
        Follower::start(&stage, "sre", &["logs", "-n", "follow", "--kind", "audited", "-f", "-o", "json"])?;
    let say = |moment, note: &str| stage.write("agent-c", &event("follow", "api", "Audited", moment, note));
    say(1, "/one")?;
    follower.expect("/one")?;
    say(2, "/two")?;
    follower.expect("/two")?;
    stage.node.kill(NAMESPACE, "agent-c", "agent")?;
    let count =
        format!("get pod agent-c -n {NAMESPACE} -o jsonpath={{.status.containerStatuses[0].restartCount}}");
    stage.wait("the agent is restarted", &count, |count| count == "1").await?;
    until(SOON, "the agent runs again", async || Ok(say(3, "/three").ok())).await?;
    follower.expect("/three")?;
    say(4, "/four")?;
    follower.expect("/four")?;
    // What came before the restart is still told, from the log of the container before.
    let said = stage.told("sre", &["logs", "-n", "follow", "--kind", "audited", "-o", "json"])?;
    assert_eq!(notes(&said)?, ["/one", "/two", "/three", "/four"]);
    Ok(())
}
