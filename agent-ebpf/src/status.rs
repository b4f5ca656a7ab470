//! What the agent last did, for `/readyz`, metrics, the node's report and `holdfast-agent status`. The names of what is
//! in the pinned maps are kept in a file beside them, so that `status` needs no running agent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::abi::{self, workload_flags};
use crate::break_glass::{self, BreakGlassError, Broken};
use crate::engine::Engine;
use crate::engine::counts::{self, given_name};
use crate::engine::report::PolicyReport;
use crate::loader::{self, Places};
use crate::maps::{MapError, Maps, Table};
use crate::proof::{self, Kept, Outcome};

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The file of names.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not parse.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The maps.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Whether the node refuses nothing.
    #[error(transparent)]
    BreakGlass(#[from] BreakGlassError),
}

/// The names of everything that has a number in the maps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Names {
    /// Version of the agent that wrote this.
    pub agent: String,
    /// Workloads by index.
    pub workloads: BTreeMap<u32, WorkloadName>,
    /// Rules of each network set, as `policy path`.
    pub net_sets: BTreeMap<u32, Vec<String>>,
    /// Rules of each system call set.
    pub sys_sets: BTreeMap<u32, Vec<String>>,
    /// Rules of each set of process, file and capability rules.
    #[serde(default)]
    pub access_sets: BTreeMap<u32, Vec<String>>,
    /// What each policy was given.
    pub policies: Vec<PolicyStatus>,
}

impl Names {
    /// The rules of the sets that count under this kind.
    #[must_use]
    pub fn sets(&self, kind: u8) -> &BTreeMap<u32, Vec<String>> {
        match kind {
            0 | 1 => &self.net_sets,
            abi::kind::SYSCALL => &self.sys_sets,
            _ => &self.access_sets,
        }
    }
}

/// A workload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadName {
    /// Namespace.
    pub namespace: String,
    /// Name of the pod or external workload.
    pub name: String,
    /// Container, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Kind and name of the top owner, as metrics have it.
    #[serde(default)]
    pub owner: String,
}

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// `namespace/name` or `cluster/name`.
    pub policy: String,
    /// Generation in force; absent = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Generation that the source has.
    pub wanted: i64,
    /// Why it is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Workloads here that it selects.
    pub workloads: usize,
    /// Its rules.
    pub rules: Vec<RuleStatus>,
}

/// A rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// Path in the policy.
    pub rule: String,
    /// What it asks.
    pub asked: String,
    /// What it is given.
    pub given: String,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// Why it is given less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&PolicyReport> for PolicyStatus {
    fn from(report: &PolicyReport) -> Self {
        Self {
            policy: report.id.to_string(),
            generation: report.generation,
            wanted: report.wanted,
            failure: report.failure.clone(),
            workloads: report.workloads,
            rules: report
                .rules
                .iter()
                .map(|rule| RuleStatus {
                    rule: rule.rule.clone(),
                    asked: rule.asked.clone(),
                    given: rule.given.clone(),
                    mechanism: rule.mechanism.map(str::to_owned),
                    reason: rule.reason.map(str::to_owned),
                })
                .collect(),
        }
    }
}

/// The file of names in a state directory.
#[must_use]
pub fn names_file(state_dir: &Path) -> PathBuf {
    state_dir.join("names.json")
}

/// Reads the file of names.
///
/// # Errors
///
/// When it is not there, or does not parse.
pub fn read_names(state_dir: &Path) -> Result<Names, StatusError> {
    let path = names_file(state_dir);
    let bytes = fs::read(&path).map_err(|source| StatusError::File { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| StatusError::Parse { path, source })
}

/// Collects the names of what an engine has in force.
#[must_use]
pub fn names(engine: &Engine, policies: &[PolicyReport]) -> Names {
    let meaning = engine.meaning();
    let placements = engine.placements();
    Names {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        workloads: meaning
            .workloads
            .iter()
            .map(|(index, position)| {
                let workload = &placements[*position].workload;
                let name = WorkloadName {
                    namespace: workload.namespace.clone(),
                    name: workload.name.clone(),
                    container: workload.container.clone(),
                    owner: counts::owner_label(&placements[*position]),
                };
                (*index, name)
            })
            .collect(),
        net_sets: meaning
            .net_sets
            .iter()
            .map(|(number, set)| (*number, set.rules.iter().map(ToString::to_string).collect()))
            .collect(),
        sys_sets: meaning
            .sys_sets
            .iter()
            .map(|(number, set)| (*number, set.rules.iter().map(|rule| rule.rule.to_string()).collect()))
            .collect(),
        access_sets: meaning
            .access_sets
            .iter()
            .map(|(number, set)| (*number, set.rules.iter().map(|rule| rule.rule.to_string()).collect()))
            .collect(),
        policies: policies.iter().map(PolicyStatus::from).collect(),
    }
}

/// Writes a file in full or not at all.
///
/// # Errors
///
/// When the directory or the disk refuses; the old file stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// What is in force on this node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node refuses nothing at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<Broken>,
    /// What became of the agent's last proof; absent where none was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Kept>,
    /// Links that should be pinned and are not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_links: Vec<&'static str>,
    /// Workloads that the kernel knows.
    pub workloads: Vec<WorkloadStatus>,
    /// What each policy was given.
    pub policies: Vec<PolicyStatus>,
}

/// A workload in the kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Who.
    #[serde(flatten)]
    pub name: WorkloadName,
    /// Number of cgroups.
    pub cgroups: usize,
    /// Directions in which it is isolated.
    pub isolated: Vec<&'static str>,
    /// Rules in force for it.
    pub rules: Vec<String>,
    /// What was refused or would have been, by rule and what was done.
    pub counts: BTreeMap<String, u64>,
}

/// Reads the pinned maps, and the names beside them.
///
/// # Errors
///
/// When nothing is pinned, or the names cannot be read.
pub fn read(places: &Places, state_dir: &Path) -> Result<Status, StatusError> {
    let path = names_file(state_dir);
    let bytes = fs::read(&path).map_err(|source| StatusError::File { path: path.clone(), source })?;
    let names: Names =
        serde_json::from_slice(&bytes).map_err(|source| StatusError::Parse { path, source })?;
    let maps = Maps::open(&places.pins())?;
    let cgroups = maps.cgroups.read()?;
    let counters = maps.counters()?;
    let mut workloads = Vec::new();
    let mut rows: Vec<_> = maps.workloads.read()?.into_iter().collect();
    rows.retain(|(index, _)| !proof::canary::is_canary(*index));
    rows.sort_by_key(|(index, _)| *index);
    for (index, row) in rows {
        let unknown = || WorkloadName { name: format!("workload {index}"), ..WorkloadName::default() };
        let of = |sets: &BTreeMap<u32, Vec<String>>, set: u32| sets.get(&set).cloned().unwrap_or_default();
        let (net, sys) = (of(&names.net_sets, row.net_set), of(&names.sys_sets, row.sys_set));
        let access = of(&names.access_sets, row.access_set);
        let mut counts = BTreeMap::new();
        for (key, count) in counters.iter().filter(|(key, _)| key.workload == index) {
            let rules = match key.kind {
                0 | 1 => &net,
                abi::kind::SYSCALL => &sys,
                _ => &access,
            };
            let rule =
                rules.get(usize::from(key.rule)).cloned().unwrap_or_else(|| format!("rule {}", key.rule));
            *counts.entry(format!("{rule} {}", given_name(key.given))).or_default() += count;
        }
        let isolated = [("ingress", 0), ("egress", 1)]
            .into_iter()
            .filter(|(_, bit)| row.flags & (workload_flags::ISOLATED << bit) != 0)
            .map(|(name, _)| name)
            .collect();
        workloads.push(WorkloadStatus {
            name: names.workloads.get(&index).cloned().unwrap_or_else(unknown),
            cgroups: cgroups.values().filter(|of| **of == index).count(),
            isolated,
            rules: net.into_iter().chain(sys).chain(access).collect(),
            counts,
        });
    }
    let break_glass = break_glass::look(&maps, state_dir)?;
    let mut policies = names.policies;
    if let Some(broken) = &break_glass {
        for policy in &mut policies {
            broken.tell_status(policy);
        }
    }
    let proof = fs::read(proof::file(state_dir)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(Status { break_glass, proof, missing_links: loader::missing_links(places), workloads, policies })
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(broken) = &self.break_glass {
            writeln!(f, "{}\n", broken.message())?;
        }
        if let Some(proof) = &self.proof {
            let last = match proof.outcome {
                Outcome::Proven => "holds",
                Outcome::Failed => "FAILED",
                Outcome::Pending => "not made yet",
            };
            let proven = proof.proven.as_deref().unwrap_or("never");
            writeln!(f, "PROOF {last}, all last proven {proven}, tried: {}", proof.tried.join(" "))?;
            for failure in &proof.failures {
                writeln!(f, "    {}: {}", failure.kind, failure.message)?;
            }
        }
        if !self.missing_links.is_empty() {
            writeln!(f, "NOT PINNED: {}", self.missing_links.join(" "))?;
        }
        writeln!(f, "{:<44} {:>7}  {:<16} {:>6}  REFUSED", "WORKLOAD", "CGROUPS", "ISOLATED", "RULES")?;
        for workload in &self.workloads {
            let name = &workload.name;
            let container = name.container.as_ref().map(|c| format!(" [{c}]")).unwrap_or_default();
            let isolated =
                if workload.isolated.is_empty() { "-".to_owned() } else { workload.isolated.join(",") };
            writeln!(
                f,
                "{:<44} {:>7}  {:<16} {:>6}  {}",
                format!("{}/{}{container}", name.namespace, name.name),
                workload.cgroups,
                isolated,
                workload.rules.len(),
                workload.counts.values().sum::<u64>(),
            )?;
            for (rule, count) in &workload.counts {
                writeln!(f, "    {rule}: {count}")?;
            }
        }
        writeln!(
            f,
            "\n{:<36} {:>10} {:>9}  RULES GIVEN LESS THAN ASKED",
            "POLICY", "GENERATION", "WORKLOADS"
        )?;
        for policy in &self.policies {
            let generation = policy.generation.map_or("none".to_owned(), |g| g.to_string());
            let generation = if policy.generation == Some(policy.wanted) {
                generation
            } else {
                format!("{generation} of {}", policy.wanted)
            };
            let short = policy.rules.iter().filter(|rule| rule.reason.is_some()).count();
            writeln!(f, "{:<36} {generation:>10} {:>9}  {short}", policy.policy, policy.workloads)?;
            if let Some(failure) = &policy.failure {
                writeln!(f, "    {failure}")?;
            }
            for rule in policy.rules.iter().filter(|rule| rule.reason.is_some()) {
                let reason = rule.reason.as_deref().unwrap_or_default();
                writeln!(f, "    {}: asked {}, given {} ({reason})", rule.rule, rule.asked, rule.given)?;
            }
        }
        Ok(())
    }
}
