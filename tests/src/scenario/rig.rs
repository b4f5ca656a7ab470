//! A node with the agent's engine on it, in this very process: facts in, real kernel programs and maps, and what the
//! agent would report and count out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_agent::{
    cgroups::Tree,
    engine::{Applied, Engine, counts::Subject, report::RuleReport},
    facts::{External, Facts},
    hooks::Hooks,
    loader::{self, Places},
};
use holdfast_crds::{convert, document};
use holdfast_policy::model::{Policy, World};

use super::{
    house::House,
    node::{Family, Node, at},
    process::Inside,
    protocol::Op,
};

pub use super::attempt::{Attempt, Call, Outcome, network, only, sctp, tcp, udp};

/// How long nothing must come before it counts as silence, on a machine of the usual speed.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a packet that is not refused takes at most, on an idle machine of the usual speed.
const MOMENT: Duration = Duration::from_millis(30);
/// How long something that must come may take, on a machine of the usual speed.
const ANSWER: Duration = Duration::from_secs(4);

/// The node and the engine.
pub struct Rig {
    /// The node.
    pub node: Node,
    /// The engine.
    pub engine: Engine,
    /// What the last change came to.
    pub applied: Applied,
    /// The facts of the node, as a scenario changed them; the policies are [`Rig::policies`].
    pub facts: Facts,
    /// How many times slower than usual this machine is.
    pub patience: u32,
    /// How this machine must refuse system calls, where that is known beforehand.
    pub mechanism: Option<String>,
    /// The agent's program, for scenarios of the whole agent.
    pub agent: Option<std::path::PathBuf>,
    /// The agent must keep its budgets.
    pub budgets: bool,
    /// Where the kernel programs are pinned.
    pub places: Places,
    policies: Vec<Policy>,
    words: u32,
    /// Keeps hooks in use: see [`Rig::anchor`].
    anchor: Option<Policy>,
    /// What was said in attempts that were dropped.
    pub(super) refused_words: BTreeSet<String>,
    elders: Elders,
    houses: BTreeMap<&'static str, Arc<House>>,
}

/// Connections made before the kernel programs were there.
pub struct Elders {
    /// A TCP connection of `front` to `api`, port 9000.
    pub front_to_api: u64,
    /// A TCP connection of `db` to `front`, port 9000.
    pub db_to_front: u64,
}

/// Takes nearly every hook.
const ANCHOR: &str = "{selector: {matchLabels: {app: anchor}}, \
    syscalls: {rules: [{names: ['@chown', '@clock', '@keyring', '@module', '@mount', '@setuid', '@swap', mkdir, ptrace, \
        socket, bpf, setpriority, kill, sethostname], action: Deny}]}, \
    processes: {rules: [{paths: [/anchor], action: Deny}]}, \
    files: {rules: [{paths: [/anchor], operations: [Read, Write, Create, Delete, Rename, Link, ExecuteMap], action: Deny}]}, \
    capabilities: {deny: [MAC_ADMIN]}}";

/// Denials and would-have denials by what they count for.
pub type Counted = BTreeMap<Subject, u64>;

impl Rig {
    /// Loads the kernel programs, pinned in the BPF file system at `places`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(node: Node, places: &Places, patience: u32) -> Result<Self> {
        let elder = |from: &str, to: &str| -> Result<u64> {
            let to = at(node.address(to, Family::V4)?, 9000);
            let wait_ms = u64::try_from((ANSWER * patience).as_millis())?;
            let open = Op::TcpOpen { to, from: None, mapped: false, wait_ms };
            Ok(node.place(from)?.inside.open(open)?.0)
        };
        let elders = Elders { front_to_api: elder("front", "api")?, db_to_front: elder("db", "front")? };
        let kernel = loader::load(places).context("loading the kernel programs")?;
        let hooks = Hooks::probe(places, &kernel.btf).context("probing the kernel")?;
        let engine = Engine::adopt(kernel.maps, hooks, node.netns("node")?.number()?)?;
        let facts = node.facts.clone();
        let mut rig = Self {
            node,
            engine,
            applied: Applied::default(),
            facts,
            patience,
            mechanism: None,
            agent: None,
            budgets: false,
            places: places.clone(),
            policies: Vec::new(),
            words: 0,
            anchor: None,
            refused_words: BTreeSet::new(),
            elders,
            houses: BTreeMap::new(),
        };
        rig.apply()?;
        Ok(rig)
    }

    /// The connections that are older than the kernel programs.
    #[must_use]
    pub fn elders(&self) -> &Elders {
        &self.elders
    }

    /// As it was at first: no policies, the node's own facts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reset(&mut self) -> Result<()> {
        self.facts = self.node.facts.clone();
        self.policies.clear();
        self.apply()
    }

    /// From now on, or no longer, hooks stay attached from one scenario to the next, by a policy of a workload without
    /// processes. Only before 5.13, where a program is verified anew whenever it is attached: on emulated processors that
    /// takes seconds for each hook.
    ///
    /// # Errors
    /// When the workload cannot be made, or the kernel refuses.
    pub fn anchor(&mut self, wanted: bool) -> Result<()> {
        let wanted = wanted && self.engine.mechanisms().kernel < (5, 13) && self.refuses();
        if wanted == self.anchor.is_some() {
            return Ok(());
        }
        self.anchor = wanted.then(|| policy("ops/anchor", ANCHOR)).transpose()?;
        let externals = Arc::make_mut(&mut self.node.facts.externals);
        externals.retain(|external| external.name != "anchor");
        if wanted {
            externals.push(External {
                namespace: "ops".to_owned(),
                name: "anchor".to_owned(),
                uid: "external-anchor".to_owned(),
                labels: BTreeMap::from([("app".to_owned(), "anchor".to_owned())]),
                cgroups: vec![self.node.top.make("system.slice/anchor.service")?],
                ..External::default()
            });
        }
        self.reset()
    }

    /// Puts these policies in force, and no others: (`namespace/name` or `cluster/name`, spec in YAML).
    ///
    /// # Errors
    /// When one is not valid, or the kernel refuses.
    pub fn enforce<S: AsRef<str>>(&mut self, policies: &[(&str, S)]) -> Result<()> {
        self.policies = policies.iter().map(|(id, spec)| policy(id, spec.as_ref())).collect::<Result<_>>()?;
        self.apply()
    }

    /// Puts these policies in force, and no others.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enforce_all(&mut self, policies: Vec<Policy>) -> Result<()> {
        self.policies = policies;
        self.apply()
    }

    /// Changes what is known of the network.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn change_world(&mut self, change: impl FnOnce(&mut World)) -> Result<()> {
        change(Arc::make_mut(&mut self.facts.world));
        self.apply()
    }

    /// Brings the kernel to the facts.
    ///
    /// # Errors
    /// When the kernel refuses, or a policy is not in force afterwards.
    pub fn apply(&mut self) -> Result<()> {
        self.facts.policies = Arc::new(self.policies.iter().chain(&self.anchor).cloned().collect());
        let tree = Tree::walk(self.node.top.root())?;
        self.applied = self.engine.apply(&self.facts, &tree.all())?;
        for report in &self.applied.policies {
            if let Some(failure) = &report.failure {
                bail!("{} is not in force: {failure}", report.id);
            }
        }
        Ok(())
    }

    /// The report's row of a rule.
    ///
    /// # Errors
    /// When the policy or the rule is not reported.
    pub fn report(&self, policy: &str, rule: &str) -> Result<&RuleReport> {
        let report = self
            .applied
            .policies
            .iter()
            .find(|report| report.id.to_string() == policy)
            .with_context(|| format!("{policy} is not reported"))?;
        let known = || report.rules.iter().map(|row| row.rule.as_str()).collect::<Vec<_>>();
        report
            .rules
            .iter()
            .find(|row| row.rule == rule)
            .with_context(|| format!("{policy} has no rule {rule} in its report, only {:?}", known()))
    }

    /// That a rule is reported as this, asked and given.
    ///
    /// # Errors
    /// When it is not.
    pub fn reports(&self, policy: &str, rule: &str, asked: &str, given: &str) -> Result<()> {
        let row = self.report(policy, rule)?;
        ensure!(
            row.asked == asked && row.given == given,
            "{policy} {rule} is reported as asked {}, given {} and not as {asked}, {given}",
            row.asked,
            row.given
        );
        Ok(())
    }

    /// All counts by now.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn counts(&mut self) -> Result<Counted> {
        Ok(self.engine.counts()?.totals().clone())
    }

    /// What was counted since.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn counted_since(&mut self, before: &Counted) -> Result<Counted> {
        let now = self.counts()?;
        Ok(now
            .into_iter()
            .filter_map(|(subject, count)| {
                let more = count - before.get(&subject).copied().unwrap_or_default();
                (more > 0).then_some((subject, more))
            })
            .collect())
    }

    /// The process in a place.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn inside(&self, name: &str) -> Result<&Inside> {
        Ok(&self.node.place(name)?.inside)
    }

    /// Whether this node can refuse what programs, files, capabilities and system calls are asked for: it has LSM or
    /// `fmod_ret` programs.
    #[must_use]
    pub fn refuses(&self) -> bool {
        !self.engine.mechanisms().hooks.is_empty()
    }

    /// The house of a place, which is built when it is first asked for: all scenarios of the run share it.
    ///
    /// # Errors
    /// When it cannot be built, or there is no such place.
    pub fn house(&mut self, place: &'static str) -> Result<Arc<House>> {
        if let Some(house) = self.houses.get(place) {
            return Ok(Arc::clone(house));
        }
        let house = Arc::new(House::build(self, place, true)?);
        self.houses.insert(place, Arc::clone(&house));
        Ok(house)
    }

    /// An address and port of a place.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn at(&self, name: &str, family: Family, port: u16) -> Result<SocketAddr> {
        Ok(at(self.node.address(name, family)?, port))
    }

    /// A word that nobody has said before.
    pub fn word(&mut self) -> String {
        self.words += 1;
        self.last_word()
    }

    /// The word that was made last.
    pub(super) fn last_word(&self) -> String {
        format!("word-{}", self.words)
    }

    /// How long something that should come may take, in milliseconds.
    #[must_use]
    pub fn answer_ms(&self) -> u64 {
        u64::try_from((ANSWER * self.patience).as_millis()).unwrap_or(u64::MAX)
    }

    /// How long nothing must come where it was seen to be refused already, in milliseconds.
    #[must_use]
    pub fn moment_ms(&self) -> u64 {
        u64::try_from((MOMENT * self.patience).as_millis()).unwrap_or(u64::MAX)
    }

    /// How long nothing must come, in milliseconds.
    #[must_use]
    pub fn silence_ms(&self) -> u64 {
        u64::try_from((SILENCE * self.patience).as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// When it fails, or does not hold in the time that an answer may take.
    pub fn until(&mut self, what: &str, condition: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        self.until_within(ANSWER, what, condition)
    }

    /// Waits until `condition` holds, for this long on a machine of the usual speed.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn until_within(
        &mut self,
        time: Duration,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let began = Instant::now();
        while !condition(self)? {
            ensure!(began.elapsed() < time * self.patience, "still not so: {what}");
            std::thread::sleep(crate::process::POLL);
        }
        Ok(())
    }
}

/// A policy of (`namespace/name` or `cluster/name`, spec in YAML), read as the agent reads files.
///
/// # Errors
/// When it is not valid.
pub fn policy(id: &str, spec: &str) -> Result<Policy> {
    let (namespace, name) = id.split_once('/').with_context(|| format!("{id} is not namespace/name"))?;
    let (kind, metadata) = if namespace == "cluster" {
        ("ClusterWorkloadPolicy", format!("{{name: {name}, uid: uid-{name}, generation: 1}}"))
    } else {
        (
            "WorkloadPolicy",
            format!("{{name: {name}, namespace: {namespace}, uid: uid-{name}, generation: 1}}"),
        )
    };
    let spec = spec.trim();
    let text =
        format!("apiVersion: holdfast.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n");
    let parsed = document::parse(id, text.as_bytes());
    if let Some(error) = parsed.errors.first() {
        bail!("{error}");
    }
    let object = parsed.documents.into_iter().next().context("no document")?.object;
    let policy = match &object {
        document::Object::WorkloadPolicy(object) => convert::workload_policy(object),
        document::Object::ClusterWorkloadPolicy(object) => convert::cluster_workload_policy(object),
        other => bail!("{} is no policy", other.key()),
    };
    policy.map_err(|errors| anyhow::anyhow!("{id}: {errors:?}"))
}
