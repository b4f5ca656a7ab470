//! Runs scenarios one after the other on one node, and says what came of each.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use holdfast_agent::loader::Places;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::{
    access, agent, break_glass, containers, events, network, node::Node, rig::Rig, sockets, syscalls, tamper,
};

/// A scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What it shows, as a sentence.
    pub name: &'static str,
    /// Shows it.
    pub run: fn(&mut Rig) -> Result<()>,
}

/// All scenarios of the rig, in order.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        network::all(),
        syscalls::all(),
        access::all(),
        containers::all(),
        events::all(),
        break_glass::all(),
        sockets::all(),
        agent::all(),
        tamper::all(),
    ]
    .concat()
}

/// What an agent does with what its kernel tells it, which is the same on each. To start agents takes emulated processors
/// most of a minute each time.
const OF_AGENTS: [&str; 5] = [
    "of a flood the agent tells every denial and stays small",
    "the next agent tells what was refused while none ran",
    "a glass that is broken lets through, counts audits, and is whole again with no agent",
    "while the glass is broken status, metrics and log say so, and it can be ended at once",
    "an agent whose program was detached says so and attaches it again",
];

/// Which scenarios are run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Only {
    /// All.
    #[default]
    All,
    /// Those of which the kernel decides what comes.
    Kernels,
    /// Of these, those without a whole agent.
    Programs,
    /// Those of which the mechanism that refuses system calls decides what comes: the others show the same whichever it is.
    Mechanisms,
}

impl Only {
    /// The scenarios, in order.
    #[must_use]
    pub fn scenarios(self) -> Vec<Scenario> {
        let mut scenarios = match self {
            Self::All | Self::Kernels | Self::Programs => all(),
            Self::Mechanisms => [syscalls::all(), access::all(), containers::all(), tamper::all()].concat(),
        };
        scenarios.retain(|scenario| self == Self::All || !OF_AGENTS.contains(&scenario.name));
        if self == Self::Programs {
            let agents = agent::all();
            scenarios.retain(|scenario| agents.iter().all(|agent| agent.name != scenario.name));
        }
        scenarios
    }

    /// As `--only` has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Kernels => "kernels",
            Self::Programs => "programs",
            Self::Mechanisms => "mechanisms",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        [Self::All, Self::Kernels, Self::Programs, Self::Mechanisms]
            .into_iter()
            .find(|only| only.word() == word)
    }
}

/// What narrows the suites down while one works on some scenarios: `HOLDFAST_SCENARIOS` holds parts of their names, with
/// `|` between.
#[must_use]
pub fn filter() -> Option<String> {
    std::env::var("HOLDFAST_SCENARIOS").ok()
}

/// The scenarios of these whose name holds one of the texts that `|` divides in the filter; without one, all.
fn chosen(scenarios: Vec<Scenario>, filter: Option<&str>) -> Vec<Scenario> {
    let wanted = |name: &str| filter.is_none_or(|filter| filter.split('|').any(|text| name.contains(text)));
    scenarios.into_iter().filter(|scenario| wanted(scenario.name)).collect()
}

/// What came of a scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Why it failed; absent when it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub milliseconds: u64,
}

/// What to run, and how.
#[derive(Debug, Default)]
pub struct Options {
    /// Only scenarios whose name holds one of these, which `|` divides.
    pub filter: Option<String>,
    /// Only some.
    pub only: Only,
    /// The agent's program, for the scenarios of the whole agent.
    pub agent: Option<PathBuf>,
    /// Where the verdicts go as JSON.
    pub json: Option<PathBuf>,
    /// How many times slower than usual this machine is.
    pub patience: u32,
    /// How this machine refuses system calls: `lsm`, `fmod_ret` or `none`; absent = whatever it finds it can.
    pub mechanism: Option<String>,
    /// The agent must keep its budgets of time and memory: not on machines that are emulated.
    pub budgets: bool,
}

/// Runs what is asked for. Returns the verdicts; prints a line for each and a summary.
///
/// # Errors
/// When the node cannot be made or the verdicts cannot be written; a scenario that fails is none.
pub fn run(options: &Options) -> Result<Vec<Verdict>> {
    ensure!(rustix::process::geteuid().is_root(), "scenarios make cgroups and namespaces: run them as root");
    let chosen = chosen(options.only.scenarios(), options.filter.as_deref());
    // Whatever becomes of this process, its BPF file system, and with it every program it attached, goes with it.
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("making the mount namespace private")?;
    let folder = tempfile::tempdir()?;
    let began = Instant::now();
    let node = Node::new().context("making the node")?;
    let places = Places { bpffs: folder.path().join("bpf"), cgroup_root: node.top.root().to_owned() };
    let mut rig = Rig::new(node, &places, options.patience.max(1))?;
    rig.mechanism.clone_from(&options.mechanism);
    rig.agent.clone_from(&options.agent);
    rig.budgets = options.budgets;
    println!("the node is made: {} ms", began.elapsed().as_millis());
    let mut verdicts = Vec::new();
    let of_hooks = [syscalls::all(), access::all()].concat();
    for scenario in chosen {
        rig.anchor(of_hooks.iter().any(|other| other.name == scenario.name))?;
        verdicts.push(one(&mut rig, scenario));
    }
    drop(rig);
    let _ = rustix::mount::unmount(&places.bpffs, rustix::mount::UnmountFlags::DETACH);
    let failed = verdicts.iter().filter(|verdict| verdict.error.is_some()).count();
    println!(
        "{} passed, {failed} failed, in {:.1} s",
        verdicts.len() - failed,
        began.elapsed().as_secs_f64()
    );
    if let Some(path) = &options.json {
        write(path, &verdicts)?;
    }
    Ok(verdicts)
}

fn one(rig: &mut Rig, scenario: Scenario) -> Verdict {
    let began = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        rig.reset()?;
        (scenario.run)(rig)
    }))
    .unwrap_or_else(|_| Err(anyhow!("it panicked")));
    let took = began.elapsed();
    let error = outcome.err().map(|error| format!("{error:#}"));
    match &error {
        None => println!("pass  {}  ({} ms)", scenario.name, took.as_millis()),
        Some(error) => println!("FAIL  {}  ({} ms)\n      {error}", scenario.name, took.as_millis()),
    }
    Verdict { name: scenario.name.to_owned(), error, milliseconds: millis(took) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn write(path: &Path, verdicts: &[Verdict]) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(verdicts)?).with_context(|| path.display().to_string())
}

/// Names that two scenarios have, and names without a scenario.
#[must_use]
pub fn twice() -> Vec<&'static str> {
    let mut seen = BTreeMap::new();
    for scenario in all() {
        *seen.entry(scenario.name).or_insert(0) += 1;
    }
    let mut wrong: Vec<&str> = OF_AGENTS.into_iter().filter(|name| !seen.contains_key(name)).collect();
    wrong.extend(seen.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name));
    wrong
}

/// That every one of these scenarios that the filter leaves was run and passed, by what [`run`] wrote.
///
/// # Errors
/// Naming those that failed or are missing.
pub fn all_passed(scenarios: Vec<Scenario>, verdicts: &[u8], filter: Option<&str>) -> Result<()> {
    let verdicts: Vec<Verdict> = serde_json::from_slice(verdicts)?;
    let failed: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| Some(format!("{}: {}", verdict.name, verdict.error.as_ref()?)))
        .collect();
    ensure!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), verdicts.len(), failed.join("\n"));
    let wanted = chosen(scenarios, filter);
    ensure!(!wanted.is_empty(), "no scenario has a name with {filter:?}");
    let missing =
        wanted.iter().filter(|scenario| verdicts.iter().all(|verdict| verdict.name != scenario.name));
    let missing: Vec<&str> = missing.map(|scenario| scenario.name).collect();
    ensure!(missing.is_empty(), "not run: {missing:?}");
    Ok(())
}
