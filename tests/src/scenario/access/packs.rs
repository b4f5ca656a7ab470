//! The attacks that `examples/packs` are against: each is carried out without its pack, and fails with it, while what the
//! workload itself does goes on.

use std::{fs, net::IpAddr};

use anyhow::{Context, Result, bail, ensure};
use holdfast_crds::{convert, document};
use nix::libc::{ENOMEM, EPERM, SIGKILL};

use super::Stage;
use crate::scenario::{
    attempt::tcp,
    node::{METADATA, OUTSIDE, V4, at},
    rig::Rig,
    suite::Scenario,
};

/// All of them.
pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "attack: a dropped program is run", run: dropped_binary },
    Scenario { name: "attack: secrets are read and sent out", run: data_exposure },
    Scenario { name: "attack: data is encrypted in place", run: ransomware },
    Scenario { name: "attack: a token and the node's identity are stolen", run: account_theft },
    Scenario { name: "attack: a miner is started and calls its pool", run: cryptojacking },
    Scenario { name: "attack: a process leaves its container", run: container_escape },
];

/// A step of an attack.
enum Step {
    /// A deed that the pack refuses, by this rule at the latest.
    Refused(&'static str, &'static str),
    /// A deed whose doer the pack kills, by this rule.
    Killed(&'static str, &'static str),
    /// A deed that no pack is against: what leads up to the others.
    Goes(&'static str),
    /// A TCP connection, to an address and port, that this rule of the pack refuses.
    Call(IpAddr, u16, &'static str),
}

use Step::{Call, Goes, Killed, Refused};

/// An attack on `api`.
struct Attack {
    /// The pack, a file of `examples/packs`.
    pack: &'static str,
    /// Files that are there before: their owner's.
    files: &'static [&'static str],
    /// What the attacker does, one after the other.
    steps: &'static [Step],
    /// What the workload itself does, and may also under the pack.
    own: &'static [&'static str],
}

/// What attacks leave behind.
const MADE: [&str; 2] = ["/data/READ_ME", "/data/book.locked"];

macro_rules! pack {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/packs/", $name, ".yaml"))
    };
}

impl Attack {
    fn play(&self, rig: &mut Rig) -> Result<()> {
        let parsed = document::parse("examples/packs", self.pack.as_bytes());
        ensure!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        let [document] = parsed.documents.as_slice() else { bail!("a pack is one policy") };
        let document::Object::ClusterWorkloadPolicy(object) = &document.object else {
            bail!("a pack is a ClusterWorkloadPolicy")
        };
        let policy =
            convert::cluster_workload_policy(object).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        let id = format!("cluster/{}", object.metadata.name.as_deref().context("a name")?);
        let labels = object.spec.namespace_selector.match_labels.clone();
        let label = labels.into_iter().next().context("a pack selects namespaces by a label")?;

        self.carry_out(rig, None).context("without the pack")?;
        rig.enforce_all(vec![policy])?;
        self.carry_out(rig, None).context("with the pack, in a namespace that has not opted in")?;
        rig.change_world(|world| {
            world.namespaces.entry("shop".to_owned()).or_default().insert(label.0, label.1);
        })?;
        self.carry_out(rig, Some(&id)).context("with the pack")
    }

    fn carry_out(&self, rig: &mut Rig, pack: Option<&str>) -> Result<()> {
        let stage = Stage::new(rig)?;
        for file in self.files {
            let path = stage.house.outside(file);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(path, "content")?;
        }
        for step in self.steps {
            match *step {
                Goes(deed) => done(rig, &stage, deed)?,
                Refused(deed, rule) => stopped(rig, &stage, pack, deed, (rule, EPERM))?,
                Killed(deed, rule) => stopped(rig, &stage, pack, deed, (rule, -SIGKILL))?,
                Call(address, port, rule) => match pack {
                    Some(pack) => rig.rejected(tcp("api", at(address, port)), pack, rule)?,
                    None => rig.allowed(tcp("api", at(address, port)))?,
                },
            }
        }
        if pack.is_some() {
            for deed in self.own {
                done(rig, &stage, deed)?;
            }
        }
        for file in self.files.iter().chain(&MADE) {
            // Some attacks remove them, and not all make these.
            let _ = fs::remove_file(stage.house.outside(file));
        }
        Ok(())
    }
}

fn done(rig: &mut Rig, stage: &Stage, deed: &str) -> Result<()> {
    let (said, counted) = stage.does(rig, deed)?;
    ensure!(said == 0 && counted.is_empty(), "{deed} should go on: it says {said}, counted {counted:?}");
    Ok(())
}

/// Where the node can refuse such deeds, that the pack stops it; else, and without the pack, that the deed is done.
fn stopped(
    rig: &mut Rig,
    stage: &Stage,
    pack: Option<&str>,
    deed: &str,
    (rule, said): (&str, i32),
) -> Result<()> {
    let covered = match pack {
        None => false,
        Some(pack) => {
            let row = rig.report(pack, rule).context("the pack has no such rule")?;
            // Not every call can be refused, and the report says which. Of other rules it gives the least of all workloads
            // and operations, which is less than what most are given.
            if rule.starts_with("syscalls.") { row.given != "NotCovered" } else { rig.refuses() }
        }
    };
    if !covered {
        return done(rig, stage, deed);
    }
    let (seen, counted) = stage.does(rig, deed)?;
    // Several rules of a pack may be against one deed; which one comes first is the kernel's affair.
    let by_pack = !counted.is_empty() && counted.iter().all(|(at, _)| Some(at.policy.as_str()) == pack);
    // Before 6.1 what is refused to unshare(2) is taken for a lack of memory.
    let as_memory = deed == "newuser" && rig.engine.mechanisms().kernel < (6, 1) && seen == ENOMEM;
    ensure!(
        (seen == said || as_memory) && by_pack,
        "{deed} should be stopped, by {rule} at the latest: it says {seen}, counted {counted:?}"
    );
    Ok(())
}

fn dropped_binary(rig: &mut Rig) -> Result<()> {
    let attack = Attack {
        pack: pack!("dropped-binary"),
        files: &[],
        steps: &[
            Goes("copy /usr/bin/tool {t}/dropped"),
            Killed("exec {t}/dropped", "processes.rules[0]"),
            Goes("copy /usr/bin/tool {d}/dropped"),
            Killed("exec {d}/dropped", "processes.rules[1]"),
            Killed("execat {v}/tool", "processes.rules[1]"),
            Killed("memfd /usr/bin/tool", "processes.rules[1]"),
            Refused("mapcode {t}/dropped", "files.rules[0]"),
        ],
        own: &["exec /usr/bin/tool", "exec /opt/app/server", "write {t}/f", "read {t}/f"],
    };
    attack.play(rig)
}

fn data_exposure(rig: &mut Rig) -> Result<()> {
    let attack = Attack {
        pack: pack!("data-exposure"),
        files: &["/etc/shadow", "/root/.ssh/id_ed25519", "/home/me/.aws/credentials"],
        steps: &[
            Refused("read /etc/shadow", "files.rules[0]"),
            Refused("read /root/.ssh/id_ed25519", "files.rules[0]"),
            Refused("openat2 /home/me/.aws/credentials", "files.rules[0]"),
            Refused("read /proc/self/environ", "files.rules[0]"),
            Refused("raw", "capabilities.deny[NET_RAW]"),
            Call(OUTSIDE[0], 80, "network.egress"),
        ],
        own: &["read /etc/plain", "read /etc/app/key", "read /proc/self/status"],
    };
    attack.play(rig)?;
    let db = rig.at("db", V4, 5432)?;
    rig.allowed(tcp("api", db))
}

fn ransomware(rig: &mut Rig) -> Result<()> {
    let attack = Attack {
        pack: pack!("ransomware"),
        files: &["/data/book", "/data/deep/er/ledger", "/data/own"],
        steps: &[
            Refused("write /data/book", "files.rules[0]"),
            Refused("truncate /data/deep/er/ledger", "files.rules[0]"),
            Refused("chmod /data/book", "files.rules[0]"),
            Refused("rename /data/book /data/book.locked", "files.rules[0]"),
            Refused("unlink /data/deep/er/ledger", "files.rules[0]"),
            Refused("create /data/READ_ME", "files.rules[0]"),
            Goes("copy /usr/bin/tool {d}/locker"),
            Killed("exec {d}/locker", "processes.rules[0]"),
        ],
        own: &["/usr/lib/postgresql/15/bin/postgres: write /data/own", "read /data/own"],
    };
    attack.play(rig)
}

fn account_theft(rig: &mut Rig) -> Result<()> {
    let attack = Attack {
        pack: pack!("account-theft"),
        // Where /var/run leads in most images.
        files: &["/run/secrets/kubernetes.io/serviceaccount/token"],
        steps: &[
            Refused("read /var/run/secrets/kubernetes.io/serviceaccount/token", "files.rules[0]"),
            Refused("read /run/secrets/kubernetes.io/serviceaccount/token", "files.rules[0]"),
            Call(METADATA, 80, "network.egress.deny[0]"),
        ],
        own: &["read /etc/plain", "/app/login: read /run/secrets/kubernetes.io/serviceaccount/token"],
    };
    attack.play(rig)?;
    let outside = at(OUTSIDE[0], 80);
    rig.allowed(tcp("api", outside))
}

fn cryptojacking(rig: &mut Rig) -> Result<()> {
    /// A port that pools listen on.
    const POOL: u16 = 3333;
    rig.inside("outside")?.serve(&[POOL])?;
    let attack = Attack {
        pack: pack!("cryptojacking"),
        files: &[],
        steps: &[
            Killed("exec /usr/bin/xmrig", "processes.rules[0]"),
            Goes("copy /usr/bin/xmrig {v}/kworker"),
            Killed("exec {v}/kworker", "processes.rules[1]"),
            Call(OUTSIDE[0], POOL, "network.egress.deny[0]"),
        ],
        own: &["exec /usr/bin/tool"],
    };
    attack.play(rig)?;
    let outside = at(OUTSIDE[0], 80);
    rig.allowed(tcp("api", outside))
}

fn container_escape(rig: &mut Rig) -> Result<()> {
    let attack = Attack {
        pack: pack!("container-escape"),
        files: &["/sys/fs/cgroup/rdma/release_agent"],
        steps: &[
            Refused("tmpfs {d}/sub", "syscalls.rules[0]"),
            Refused("bindmount / {v}/sub", "syscalls.rules[0]"),
            Refused("ptrace own", "syscalls.rules[0]"),
            Refused("module", "syscalls.rules[0]"),
            Refused("handle {v}/f {v}", "syscalls.rules[0]"),
            Refused("newuser", "syscalls.rules[1]"),
            Refused("device {t}/null", "capabilities.deny[MKNOD]"),
            Refused("hostname", "capabilities.deny[SYS_ADMIN]"),
            Refused("rdwr /proc/sys/kernel/core_pattern", "files.rules[0]"),
            Refused("rdwr /sys/fs/cgroup/rdma/release_agent", "files.rules[0]"),
            Refused("tounix stream {t}/containerd.sock", "files.rules[1]"),
        ],
        own: &[
            "read /etc/plain",
            "write {v}/f",
            "exec /usr/bin/tool",
            "tounix stream {t}/app.sock",
            "port 8281",
        ],
    };
    attack.play(rig)
}
