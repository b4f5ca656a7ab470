//! Somebody with root's power breaks what the agent put into the kernel: rows, links, programs, pins. Every broken state is
//! noticed by the next proof, said, and repaired, and the proof after that holds.

use std::{
    collections::HashMap,
    fs,
    hash::Hash,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    EbpfLoader,
    programs::{Program, ProgramFd},
};
use holdfast_agent::{
    abi::{
        self,
        sys::bpf::{self, info},
    },
    loader::{self, objects},
    maps::{Maps, Table},
    proof::{Outcome, Proof, Prover},
};

use super::{
    agent::{Home, TO_DB},
    rig::Rig,
    suite::Scenario,
};

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario { name: "each state that somebody broke is noticed and repaired", run: broken_states },
        Scenario {
            name: "an agent whose program was detached says so and attaches it again",
            run: agent_notices,
        },
    ]
}

/// How many states are broken: 500 on all the machines of the suites together. Emulated ones take a second for each, so that
/// most are broken on this machine's own kernel, and of the others on the newest with LSM programs, where most can be.
fn states(rig: &Rig) -> usize {
    let lsm = rig.mechanism.as_deref() == Some("lsm");
    if lsm && rig.engine.mechanisms().kernel >= (6, 12) {
        125
    } else if rig.budgets {
        300
    } else {
        15
    }
}

/// Numbers that look random, and are the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or_default() % below.max(1)
    }
}

/// What breaks the node's state: handles of its own to everything, as anybody has who is root.
struct Vandal {
    maps: Maps,
    dice: Dice,
    /// Programs of the same kinds as those attached, to put in their place.
    others: HashMap<&'static str, ProgramFd>,
}

const PACKETS: [&str; 7] =
    ["hf_sockops", "hf_egress", "hf_ingress", "hf_connect4", "hf_connect6", "hf_sendmsg4", "hf_sendmsg6"];
const TABLES: usize = 11;

impl Vandal {
    fn new(rig: &Rig, seed: u64) -> Result<Self> {
        let pins = rig.places.pins();
        let mut object = EbpfLoader::new().default_map_pin_directory(&pins).load(objects::NET)?;
        let mut others = HashMap::new();
        for name in PACKETS {
            let fd = match object.program_mut(name).context("no such program")? {
                Program::CgroupSkb(program) => {
                    program.load()?;
                    program.fd()?.try_clone()?
                }
                Program::CgroupSockAddr(program) => {
                    program.load()?;
                    program.fd()?.try_clone()?
                }
                Program::SockOps(program) => {
                    program.load()?;
                    program.fd()?.try_clone()?
                }
                _ => bail!("{name} is of another kind"),
            };
            others.insert(name, fd);
        }
        Ok(Self { maps: Maps::open(&pins)?, dice: Dice(seed | 1), others })
    }

    /// Breaks something. Returns what, and the kind of failure that has to be told; nothing where there was nothing to
    /// break.
    fn act(&mut self, rig: &Rig) -> Result<Option<(String, &'static str)>> {
        let (pins, links) = (rig.places.pins(), rig.places.links());
        let attached = rig.engine.attached();
        Ok(match self.dice.roll(16) {
            0..8 => self.rows(rig)?.map(|what| (what, "map")),
            8 => {
                let control = self.maps.control()?;
                let broken = match self.dice.roll(3) {
                    0 => abi::Control { host_netns: control.host_netns ^ 1, ..control },
                    1 => abi::Control { flags: control.flags ^ abi::CONTROL_NODE_FLOWS, ..control },
                    // Says that no rule speaks of /srv: disarms them all.
                    _ => {
                        let mut elsewhere = control.elsewhere;
                        let bit = abi::beginning_of(b"srv");
                        elsewhere.first[bit / 64] ^= 1 << (bit % 64);
                        abi::Control { elsewhere, ..control }
                    }
                };
                self.maps.set_control(broken)?;
                Some(("the control element is altered".to_owned(), "map"))
            }
            9 => {
                let maps = files(&pins)?;
                let name = &maps[self.dice.roll(maps.len())];
                fs::remove_file(pins.join(name))?;
                Some((format!("the pin of map {name} is removed"), "pin"))
            }
            10 => {
                let maps = files(&pins)?;
                let at = self.dice.roll(maps.len());
                let (name, other) = (&maps[at], &maps[(at + 1) % maps.len()]);
                let other = info::open(&pins.join(other))?;
                replace_pin(other.as_fd(), &pins.join(name))?;
                Some((format!("another map is pinned as {name}"), "pin"))
            }
            11 => {
                let name = &attached[self.dice.roll(attached.len())];
                fs::remove_file(links.join(name))?;
                Some((format!("the pin of link {name} is removed"), "link"))
            }
            12 => {
                let at = self.dice.roll(attached.len());
                let (name, other) = (&attached[at], &attached[(at + 1) % attached.len()]);
                let other = info::open(&links.join(other))?;
                replace_pin(other.as_fd(), &links.join(name))?;
                Some((format!("another link is pinned as {name}"), "link"))
            }
            13 => {
                let name = PACKETS[self.dice.roll(PACKETS.len())];
                info::detach(info::open(&links.join(name))?.as_fd())?;
                Some((format!("link {name} is detached"), "link"))
            }
            14 => {
                let name = PACKETS[self.dice.roll(PACKETS.len())];
                info::replace_program(info::open(&links.join(name))?.as_fd(), self.others[name].as_fd())?;
                Some((format!("link {name} has another program"), "link"))
            }
            _ if self.dice.roll(2) == 0 => {
                fs::remove_dir_all(&links)?;
                Some(("the folder of links is removed".to_owned(), "pin"))
            }
            _ => {
                rustix::mount::unmount(&rig.places.bpffs, rustix::mount::UnmountFlags::DETACH)?;
                Some(("the BPF file system is unmounted".to_owned(), "pin"))
            }
        })
    }

    /// Breaks rows of some table.
    fn rows(&mut self, rig: &Rig) -> Result<Option<String>> {
        let Self { maps, dice, .. } = self;
        let first = dice.roll(TABLES);
        for at in (first..TABLES).chain(0..first) {
            let what = match at {
                0 => rows(&mut maps.addresses, dice, |value| value.flags ^= 2)?,
                1 => rows(&mut maps.classes, dice, |value| *value += 1)?,
                2 => rows(&mut maps.cidrs, dice, |value| *value += 1)?,
                3 => rows(&mut maps.verdicts, dice, |value| value.flags ^= 3)?,
                4 => rows(&mut maps.syscalls, dice, |value| value.hooks ^= 1 << 40)?,
                5 => rows(&mut maps.clauses, dice, |value| value.action ^= 1)?,
                6 => rows(&mut maps.workloads, dice, |value| value.flags ^= 1)?,
                7 => rows(&mut maps.access_sets, dice, |value| value.flags ^= 1)?,
                8 => rows(&mut maps.access_rows, dice, |value| value.answer[0].action ^= 2)?,
                9 => path_row(rig, maps, dice)?,
                _ => rows(&mut maps.cgroups, dice, |value| *value ^= 1)?,
            };
            if what.is_some() {
                return Ok(what);
            }
        }
        Ok(None)
    }
}

/// Alters an element of an automaton: nobody looks at the others.
fn path_row(rig: &Rig, maps: &mut Maps, dice: &mut Dice) -> Result<Option<String>> {
    let mut rows: Vec<_> = rig.engine.tables().path_rows.iter().collect();
    if rows.is_empty() {
        return Ok(None);
    }
    rows.sort_by_key(|(element, _)| **element);
    let (element, row) = rows[dice.roll(rows.len())];
    let mut row = *row;
    row.cell[0] ^= 1;
    maps.path_rows.write(element, &row)?;
    Ok(Some(format!("element {element} of map path_rows is altered")))
}

/// Deletes a row, alters one, or deletes all.
fn rows<K: Copy + Eq + Hash + Ord, V: Copy>(
    map: &mut impl Table<K, V>,
    dice: &mut Dice,
    alter: impl Fn(&mut V),
) -> Result<Option<String>> {
    let name = map.name();
    let mut rows: Vec<(K, V)> = map.read()?.into_iter().collect();
    rows.sort_by_key(|(key, _)| *key);
    if rows.is_empty() {
        return Ok(None);
    }
    let (key, mut value) = rows[dice.roll(rows.len())];
    Ok(Some(match dice.roll(9) {
        0 => {
            for (key, _) in &rows {
                map.remove(key)?;
            }
            format!("map {name} is emptied")
        }
        1..5 => {
            map.remove(&key)?;
            format!("a row of map {name} is deleted")
        }
        _ => {
            alter(&mut value);
            map.write(&key, &value)?;
            format!("a row of map {name} is altered")
        }
    }))
}

fn files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn replace_pin(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    fs::remove_file(path)?;
    Ok(bpf::pin(object, path)?)
}

fn broken_states(rig: &mut Rig) -> Result<()> {
    let program = rig.agent.clone().context("this scenario needs the agent: run with --agent PATH")?;
    let seed = match std::env::var("HOLDFAST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => {
            u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() & 0xffff_ffff)?
        }
    };
    println!("      seed {seed} (HOLDFAST_SEED)");
    let mut prover = Prover::new(&rig.places, &program, &mut rig.engine)?;
    let result = break_all(rig, &mut prover, seed);
    // Whatever came of it, the next scenario has a node without a canary.
    rig.engine.enroll(None);
    result
}

fn break_all(rig: &mut Rig, prover: &mut Prover, seed: u64) -> Result<()> {
    rig.enforce(&[
        ("shop/api", "{selector: {matchLabels: {app: api}}, network: {ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}], \
          ports: [{protocol: TCP, port: 8080}]}]}, egress: {allow: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}}"),
        ("shop/calls", "{selector: {}, syscalls: {rules: [{names: [mkdir, mkdirat], action: Deny}]}}"),
        ("shop/access", "{selector: {matchLabels: {app: front}}, processes: {rules: [{paths: [/usr/bin/tool], action: Deny}]}, \
          files: {rules: [{paths: ['/srv/**'], operations: [Write, Delete], action: Deny}]}, capabilities: {deny: [NET_ADMIN]}}"),
    ])?;
    let (mut vandal, wanted) = (Vandal::new(rig, seed)?, states(rig));
    let mut proof = prover.prove(&mut rig.engine, &Proof::default(), true);
    ensure!(proof.outcome == Outcome::Proven, "before anything was broken: {:?}", proof.failures);
    println!("      tried: {}", proof.tried.join(" "));
    let hooks = rig.engine.attached().len() > loader::links().count();
    ensure!(proof.tried.contains(&"cgroup_skb") && proof.tried.contains(&"connect"), "{:?}", proof.tried);
    ensure!(
        !hooks || proof.tried.iter().any(|tried| ["lsm", "fmod_ret"].contains(tried)),
        "hooks are attached and not tried: {:?}",
        proof.tried
    );
    let mut kinds: HashMap<&str, usize> = HashMap::new();
    let mut longest = Duration::ZERO;
    let mut states = 0;
    while states < wanted {
        let Some((what, kind)) = vandal.act(rig).with_context(|| format!("state {states}, seed {seed}"))?
        else {
            continue;
        };
        let began = Instant::now();
        proof = prover.prove(&mut rig.engine, &proof, true);
        longest = longest.max(began.elapsed());
        let told = proof.failures.iter().any(|failure| failure.kind == kind);
        ensure!(
            proof.outcome == Outcome::Failed && told,
            "state {states} of seed {seed}: {what}, and the proof says {:?}: {:?}",
            proof.outcome,
            proof.failures
        );
        proof = prover.prove(&mut rig.engine, &proof, true);
        ensure!(
            proof.outcome == Outcome::Proven,
            "state {states} of seed {seed}: {what}, and it was not repaired: {:?}",
            proof.failures
        );
        *kinds.entry(kind).or_default() += 1;
        states += 1;
    }
    println!(
        "      {states} broken states noticed and repaired: {kinds:?}; the longest proof took {longest:?}"
    );
    Ok(())
}

/// How soon after a change it is proven at the latest: two proofs, where the first fails by something else.
const NOTICED: Duration = Duration::from_secs(10);

fn agent_notices(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    let outcome = |home: &Home| -> Result<String> {
        Ok(home.status()?["proof"]["outcome"].as_str().unwrap_or_default().to_owned())
    };
    rig.until("the first proof holds", |_| Ok(outcome(&home)? == "Proven"))?;
    let pin = home.links().join("hf_egress");
    info::detach(info::open(&pin)?.as_fd())?;
    // A change is proven at once; without one it would be noticed within a minute's round.
    home.policy(2, "{ipBlock: {cidr: 10.77.0.13/32}}")?;
    // Not always first: a proof that had read all links by then finds a packet that arrives.
    let told = |home: &Home| -> Result<bool> {
        let proof = home.status()?["proof"].take();
        let mut failures = proof["failures"].as_array().into_iter().flatten();
        let found = failures.any(|failure| {
            failure["kind"] == "link" && failure["message"] == "hf_egress is detached; attached anew"
        });
        Ok(found && proof["outcome"] == "Failed")
    };
    rig.until_within(NOTICED, "a proof says so", |_| told(&home)).with_context(|| home.log())?;
    let failures = home.metric("holdfast_probe_failures_total{kind=\"link\"}")?;
    ensure!(failures >= 1.0, "{failures} failures counted");
    let attached = info::link(info::open(&pin)?.as_fd())?.cgroup;
    ensure!(attached.is_some_and(|(cgroup, _)| cgroup != 0), "not attached: {attached:?}");
    rig.until_within(Duration::from_secs(20), "it is proven again", |_| Ok(outcome(&home)? == "Proven"))
        .with_context(|| home.log())
}
