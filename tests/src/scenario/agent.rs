//! Scenarios of the whole agent: the real program, a directory of files, and an external workload on this machine.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    node::{V4, V6},
    protocol::{Answer, Op},
    rig::{Rig, tcp, udp},
    suite::Scenario,
};

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario { name: "the agent enforces a directory's policies at once from its start on", run: starts },
        Scenario {
            name: "an agent that is killed leaves its policies in force, and the next takes over",
            run: killed,
        },
        Scenario { name: "of a hundred policies written the agent has each in force at once", run: latency },
        Scenario {
            name: "a file with an error leaves the last good policy in force and is reported",
            run: bad_file,
        },
        Scenario {
            name: "status shows what is in force with no agent running, and uninstall removes it",
            run: commands,
        },
        Scenario { name: "an idle agent is small", run: memory },
        Scenario { name: "probe says what this kernel can refuse", run: probe },
        Scenario { name: "wrong flags are one line and exit code 2", run: flags },
    ]
}

/// The budgets of an agent on a machine of the usual speed.
const START: Duration = Duration::from_secs(1);
const IN_FORCE: Duration = Duration::from_millis(50);
const MEMORY_KB: u64 = 10 * 1024;

/// An agent's directories, and the agent while it runs. Dropping it ends the agent and takes everything from the kernel.
pub(super) struct Home {
    _folder: tempfile::TempDir,
    path: PathBuf,
    program: PathBuf,
    metrics: SocketAddr,
    agent: Option<Child>,
}

impl Home {
    pub(super) fn new(rig: &Rig) -> Result<Self> {
        let program = rig.agent.clone().context("this scenario needs the agent: run with --agent PATH")?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        for part in ["policies", "state", "bpf"] {
            fs::create_dir(path.join(part))?;
        }
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let home = Self { _folder: folder, path, program, metrics, agent: None };
        let cgroup = &rig.node.place("ledger")?.cgroup;
        home.write("ledger.yaml", &format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: ledger, namespace: bank, labels: {{app: ledger}}}}\n\
             spec: {{node: vm, addresses: [10.77.0.1], cgroups: [{cgroup}]}}\n"
        ))?;
        Ok(home)
    }

    /// Writes a file of the directory, in full or not at all.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let new = self.path.join("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.path.join("policies").join(name))?)
    }

    /// A policy that lets `ledger` speak to these blocks only.
    pub(super) fn policy(&self, generation: i64, blocks: &str) -> Result<()> {
        self.write("policy.yaml", &format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {{name: ledger, namespace: bank, generation: {generation}}}\n\
             spec: {{selector: {{matchLabels: {{app: ledger}}}}, network: {{egress: {{allow: [{{to: [{blocks}]}}]}}}}}}\n"
        ))
    }

    pub(super) fn start(&mut self, rig: &Rig) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.path.join("log"))?;
        let agent = Command::new(&self.program)
            .arg("run")
            .arg("--source")
            .arg(format!("dir:{}", self.path.join("policies").display()))
            .args(["--node-name", "vm", "--state-dir"])
            .arg(self.path.join("state"))
            .args(["--metrics-addr", &self.metrics.to_string(), "--bpffs"])
            .arg(self.path.join("bpf"))
            .arg("--host-netns")
            .arg(rig.node.netns("node")?.path())
            .arg("--events-file")
            .arg(self.events())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Where the agent writes events.
    pub(super) fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// How much memory of its own the agent holds, in KiB. Not counted are pages of its program, which the kernel can drop
    /// at any time: here it is built without optimisation, and three times as large as the one that is shipped.
    pub(super) fn resident(&self) -> Result<u64> {
        let pid = self.agent.as_ref().context("no agent runs")?.id();
        let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).context("no RssAnon")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    }

    /// The time that processors gave to the agent, for itself and for the kernel.
    fn processor(&self) -> Result<String> {
        let pid = self.agent.as_ref().context("no agent runs")?.id();
        let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
        // Behind the name, which is in parentheses: proc(5) counts from 1, and these are the 14th and 15th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| {
            fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok()).context("no times")
        };
        let per_second = rustix::param::clock_ticks_per_second();
        let time = |ticks: u64| Duration::from_millis(ticks * 1000 / per_second);
        Ok(format!("{:?} of its own, {:?} in the kernel", time(ticks(14)?), time(ticks(15)?)))
    }

    /// Waits until everything known at the start is in force.
    pub(super) fn ready(&mut self, rig: &Rig) -> Result<()> {
        let began = Instant::now();
        while !self.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            if let Some(status) = self.agent.as_mut().context("no agent runs")?.try_wait()? {
                bail!("the agent ended ({status}):\n{}", self.log());
            }
            ensure!(
                began.elapsed() < Duration::from_millis(rig.answer_ms()) * 8,
                "not ready:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    pub(super) fn get(&self, path: &str) -> Result<String> {
        let mut connection = TcpStream::connect(self.metrics)?;
        write!(connection, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path.join("log")).unwrap_or_default()
    }

    /// Kills the agent as a crash or the kernel would.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    /// Runs one of the agent's commands.
    pub(super) fn command(&self, words: &[&str]) -> Result<Output> {
        Command::new(&self.program)
            .args(words)
            .arg("--bpffs")
            .arg(self.path.join("bpf"))
            .output()
            .with_context(|| format!("running {words:?}"))
    }

    /// Breaks the glass, or mends it.
    pub(super) fn break_glass(&self, words: &[&str]) -> Result<()> {
        let state = self.path.join("state").display().to_string();
        let output = self.command(&[&["break-glass", "--state-dir", &state], words].concat())?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub(super) fn status(&self) -> Result<serde_json::Value> {
        let state = self.path.join("state").display().to_string();
        let output = self.command(&["status", "-o", "json", "--state-dir", &state])?;
        ensure!(output.status.success(), "status: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Where the agent's links are pinned.
    pub(super) fn links(&self) -> PathBuf {
        let bpffs = self.path.join("bpf");
        holdfast_agent::loader::Places { bpffs, cgroup_root: PathBuf::new() }.links()
    }

    /// A series of `/metrics`, by its name and labels as they are printed.
    pub(super) fn metric(&self, series: &str) -> Result<f64> {
        let metrics = self.get("/metrics")?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)).context("no such series")?;
        Ok(value.trim().parse()?)
    }

    /// What `status` counts for the workload, by rule and what was done.
    pub(super) fn count(&self, rule: &str) -> Result<u64> {
        let status = self.status()?;
        let workloads = status["workloads"].as_array().context("no workloads")?;
        Ok(workloads.iter().filter_map(|workload| workload["counts"][rule].as_u64()).sum())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is left of a scenario that failed must not disturb the next.
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = self.command(&["uninstall"]);
        let _ = rustix::mount::unmount(self.path.join("bpf"), rustix::mount::UnmountFlags::DETACH);
    }
}

pub(super) const TO_DB: &str = "{ipBlock: {cidr: 10.77.0.13/32}}, {ipBlock: {cidr: 'fd77::d/128'}}";
const TO_FRONT: &str = "{ipBlock: {cidr: 10.77.0.11/32}}";
pub(super) const DEFAULT: &str = "bank/ledger network.egress Drop";

/// That `ledger` reaches `db` and not `front`, and that this is counted.
fn only_db(rig: &mut Rig, home: &Home) -> Result<()> {
    for family in [V4, V6] {
        let (db, front) = (rig.at("db", family, 8080)?, rig.at("front", family, 8080)?);
        let (allowed, refused) = (rig.attempt(tcp("ledger", db), rig.answer_ms())?, home.count(DEFAULT)?);
        ensure!(allowed.seen == Answer::Echo, "{allowed:?}\n{}", home.log());
        let dropped = rig.attempt(udp("ledger", front), rig.silence_ms())?;
        let counted = home.count(DEFAULT)? - refused;
        ensure!(
            dropped.seen == Answer::Silence && dropped.arrived.is_empty() && counted == 1,
            "counted {counted}: {dropped:?}\n{}",
            home.log()
        );
        let node = rig.attempt(tcp("node", front), rig.answer_ms())?;
        ensure!(node.seen == Answer::Echo, "the node itself: {node:?}");
    }
    Ok(())
}

fn starts(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    let (front, at) = (rig.at("front", V4, 8080)?, rig.at("ledger", V4, 0)?);
    let inside = rig.node.another("ledger")?;
    let (socket, _) = inside.open(Op::UdpOpen { at, connect: None, recverr: false })?;
    let began = Instant::now();
    home.start(rig)?;
    // One datagram without an echo may be a busy machine's; several in a row are not.
    let (mut number, mut silent, mut took) = (0, 0, Duration::ZERO);
    while silent < 4 {
        number += 1;
        let (word, now) = (format!("start-{number}"), began.elapsed());
        let say =
            Op::UdpSay { socket, to: Some(front), word, padding: 0, wait_ms: u64::from(30 * rig.patience) };
        if inside.act(say)? == Answer::Silence {
            silent += 1;
            if silent == 1 {
                took = now;
            }
        } else {
            silent = 0;
        }
        ensure!(now < START * 40 * rig.patience, "never in force:\n{}", home.log());
    }
    home.ready(rig)?;
    println!(
        "      from start to in force: {took:?}, to ready: {:?}; processor: {}",
        began.elapsed(),
        home.processor()?
    );
    ensure!(!rig.budgets || took < START * rig.patience, "in force after {took:?}:\n{}", home.log());
    only_db(rig, &home)
}

fn killed(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    // An agent's start takes an emulated processor most of a minute.
    for _ in 0..if rig.patience > 2 { 1 } else { 3 } {
        home.kill()?;
        only_db(rig, &home)?;
        home.start(rig)?;
        home.ready(rig)?;
        only_db(rig, &home)?;
    }
    // What changed while none ran is in force once one does.
    home.kill()?;
    home.policy(2, TO_FRONT)?;
    home.start(rig)?;
    home.ready(rig)?;
    let (db, front) = (rig.at("db", V4, 8080)?, rig.at("front", V4, 8080)?);
    let (now, then) = (
        rig.attempt(tcp("ledger", front), rig.answer_ms())?,
        rig.attempt(udp("ledger", db), rig.silence_ms())?,
    );
    ensure!(now.seen == Answer::Echo && then.seen == Answer::Silence, "{now:?}, {then:?}\n{}", home.log());
    Ok(())
}

fn latency(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    let (db, front, at) = (rig.at("db", V4, 8080)?, rig.at("front", V4, 8080)?, rig.at("ledger", V4, 0)?);
    let inside = rig.node.another("ledger")?;
    let (socket, _) = inside.open(Op::UdpOpen { at, connect: None, recverr: false })?;
    let mut times = Vec::new();
    let mut word = 0;
    // Emulated processors have no budget.
    for round in 0..if rig.patience > 2 { 20 } else { 100 } {
        // In force is seen by the permission that it gives.
        let (blocks, to) = if round % 2 == 0 { (TO_FRONT, front) } else { (TO_DB, db) };
        let began = Instant::now();
        home.policy(2 + round, blocks)?;
        loop {
            word += 1;
            let say = Op::UdpSay {
                socket,
                to: Some(to),
                word: format!("w-{word}"),
                padding: 0,
                wait_ms: u64::from(rig.patience) * 2,
            };
            if inside.act(say)? == Answer::Echo {
                break;
            }
            ensure!(
                began.elapsed() < Duration::from_millis(rig.answer_ms()),
                "never in force:\n{}",
                home.log()
            );
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() * 99 / 100 - 1]);
    println!("      from written to in force: median {median:?}, 99th percentile {worst:?}");
    ensure!(!rig.budgets || worst < IN_FORCE * rig.patience, "the 99th percentile is {worst:?}");
    Ok(())
}

fn bad_file(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    home.write("policy.yaml", "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: ledger, namespace: bank}\nspec: {selector: {}, network: {egres: {}}}\n")?;
    let errors = |home: &Home| -> Result<u64> {
        let metrics = home.get("/metrics")?;
        let lines = metrics.lines().filter(|line| line.contains("source") && !line.starts_with('#'));
        Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    };
    rig.until("the metric counts the file", |_| Ok(errors(&home)? > 0))?;
    ensure!(
        home.log().contains("egres") && home.log().contains("policy.yaml"),
        "the log does not say it:\n{}",
        home.log()
    );
    only_db(rig, &home)?;
    home.policy(2, TO_FRONT)?;
    rig.until("the metric counts no file", |_| Ok(errors(&home)? == 0))?;
    let front = rig.at("front", V4, 8080)?;
    rig.until("the file that was put right is in force", |rig| {
        Ok(rig.attempt(udp("ledger", front), rig.silence_ms())?.seen == Answer::Echo)
    })
}

fn commands(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    let none = home.command(&["status", "--state-dir", "/nonexistent"])?;
    ensure!(!none.status.success(), "status where nothing is in force");
    home.policy(7, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    home.kill()?;
    let status = home.status()?;
    let policy = &status["policies"][0];
    ensure!(policy["policy"] == "bank/ledger" && policy["workloads"] == 1, "{status}");
    let workload = &status["workloads"][0];
    ensure!(
        workload["name"] == "ledger"
            && workload["isolated"] == serde_json::json!(["egress"])
            && workload["cgroups"] == 1,
        "{status}"
    );
    only_db(rig, &home)?;
    let output = home.command(&["uninstall"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let front = rig.at("front", V4, 8080)?;
    let free = rig.attempt(tcp("ledger", front), rig.answer_ms())?;
    ensure!(free.seen == Answer::Echo, "after uninstall: {free:?}");
    ensure!(home.status().is_err(), "status after uninstall");
    Ok(())
}

fn memory(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    let resident = home.resident()?;
    println!("      resident: {resident} KiB");
    ensure!(!rig.budgets || resident <= MEMORY_KB, "{resident} KiB are resident");
    only_db(rig, &home)
}

fn probe(rig: &mut Rig) -> Result<()> {
    let home = Home::new(rig)?;
    let output = home.command(&["probe", "-o", "json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let states = report["mechanisms"].as_array().context("no mechanisms")?;
    let state =
        |name: &str| states.iter().find(|row| row["mechanism"] == name).map(|row| row["state"].clone());
    for row in states {
        let reason = row["reason"].as_str().unwrap_or_default();
        ensure!((row["state"] == "Available") == reason.is_empty(), "a state without its reason: {row}");
    }
    for name in ["cgroup_skb", "cgroup_sock_addr", "cgroup_events"] {
        ensure!(state(name).is_some_and(|state| state == "Available"), "{name}: {report}");
    }
    match rig.mechanism.as_deref() {
        Some("none") => ensure!(
            state("lsm").is_some_and(|state| state != "Available")
                && state("fmod_ret").is_some_and(|state| state != "Available"),
            "{report}"
        ),
        Some("fmod_ret") => ensure!(
            state("lsm").is_some_and(|state| state != "Available")
                && state("fmod_ret").is_some_and(|state| state == "Available"),
            "{report}"
        ),
        Some("lsm") => ensure!(state("lsm").is_some_and(|state| state == "Available"), "{report}"),
        _ => {}
    }
    Ok(())
}

fn flags(rig: &mut Rig) -> Result<()> {
    let home = Home::new(rig)?;
    for words in [
        &["run", "--source", "nowhere"][..],
        &["run", "--no-such-flag"],
        &["frobnicate"],
        &["run", "--metrics-addr", "x"],
    ] {
        let output = Command::new(&home.program).args(words).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && said.trim().lines().count() == 1, "{words:?}: {output:?}");
    }
    let help = Command::new(&home.program).arg("--help").output()?;
    ensure!(help.status.success() && !help.stdout.is_empty(), "{help:?}");
    Ok(())
}
