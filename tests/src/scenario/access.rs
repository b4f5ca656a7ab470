//! Scenarios of executables, files and capabilities: deeds done in a house under a policy, each with what must come of it.
//! Where a node has no mechanism for a rule, the rule must be reported as not covered, and what it refuses must be done.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use nix::libc::{EPERM, SIGKILL};

use super::{
    house::{House, PROGRAM, Rooms},
    rig::{Counted, Rig},
    suite::Scenario,
};

pub mod capabilities;
pub mod files;
mod packs;
pub mod processes;
mod scope;

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [processes::all(), files::all(), capabilities::all(), scope::all(), packs::ALL.to_vec()].concat()
}

/// What must come of a deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comes {
    /// It is done, and counted nowhere.
    Done,
    /// It fails with this error number, and is counted nowhere.
    Fails(i32),
    /// This rule refuses it with EPERM, once.
    Refused(&'static str),
    /// This rule refuses it, so many times, and it fails with this error number; 0 where it is done all the same.
    RefusedAs(&'static str, u64, i32),
    /// This rule refuses it and kills who does it.
    Killed(&'static str),
    /// It is done, and this rule would have refused it.
    Audited(&'static str),
}

pub use Comes::{Audited, Done, Fails, Killed, Refused, RefusedAs};

impl Comes {
    fn rule(self) -> Option<&'static str> {
        match self {
            Done | Fails(_) => None,
            Refused(rule) | RefusedAs(rule, ..) | Killed(rule) | Audited(rule) => Some(rule),
        }
    }
}

/// A deed: by which program (`/path: ` before it, or [`PROGRAM`]), and what must come of it. `{d}`, `{v}` and `{t}` stand
/// for directories of this scenario's own: see [`House::rooms`].
pub type Trial = (&'static str, Comes);

/// What a scenario does its deeds in.
pub struct Stage {
    /// The house.
    pub house: Arc<House>,
    /// Directories of this scenario's own.
    pub rooms: Rooms,
}

impl Stage {
    /// New directories in the house of `api`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(rig: &mut Rig) -> Result<Self> {
        Self::of(rig, "api")
    }

    /// New directories in the house of another place.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn of(rig: &mut Rig, place: &'static str) -> Result<Self> {
        let house = rig.house(place)?;
        let rooms = house.rooms()?;
        Ok(Self { house, rooms })
    }

    /// Does a deed: what came of it, and what was counted.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn does(&self, rig: &mut Rig, deed: &str) -> Result<(i32, Counted)> {
        let deed = self.rooms.fill(deed);
        let (program, deed) = match deed.split_once(": ") {
            Some((program, deed)) => (program, deed),
            None => (PROGRAM, deed.as_str()),
        };
        let before = rig.counts()?;
        let said = self.house.does(program, &[deed.to_owned()], rig.answer_ms())?;
        let counted = rig.counted_since(&before)?;
        Ok((*said.first().context("nothing was said")?, counted))
    }

    /// Does a deed, of which this must come. A rule is `files.rules[0]`, of the policy `id`, or `namespace/name
    /// files.rules[0]` of another.
    ///
    /// # Errors
    /// When something else comes of it.
    pub fn tries(&self, rig: &mut Rig, id: &str, (deed, comes): Trial) -> Result<()> {
        let full = |rule: &str| match rule.split_once(' ') {
            Some((policy, rule)) => (policy.to_owned(), rule.to_owned()),
            None => (id.to_owned(), rule.to_owned()),
        };
        let refuses = rig.refuses();
        let (said, counted) = self.does(rig, deed)?;
        let counted: Vec<(String, u64)> = counted
            .iter()
            .map(|(at, count)| (format!("{} {} {}", at.policy, at.rule, at.given), *count))
            .collect();
        let (wanted, count) = match comes {
            Done => (0, None),
            _ if !refuses && comes.rule().is_some() => (0, None),
            Fails(errno) => (errno, None),
            Refused(rule) => (EPERM, Some((rule, "Deny", 1))),
            RefusedAs(rule, count, errno) => (errno, Some((rule, "Deny", count))),
            Killed(rule) => (-SIGKILL, Some((rule, "DenyAndKill", 1))),
            Audited(rule) => (0, Some((rule, "Audit", 1))),
        };
        let wanted_counts: Vec<(String, u64)> = count
            .map(|(rule, given, count)| {
                let (policy, rule) = full(rule);
                (format!("{policy} {rule} {given}"), count)
            })
            .into_iter()
            .collect();
        ensure!(
            said == wanted && counted == wanted_counts,
            "{deed}: should be {comes:?} (this node refuses: {refuses}): it says {said}, counted {counted:?}"
        );
        Ok(())
    }
}

/// That the report says of a rule what this kind of node must say: enforced by its mechanism, or not covered for want of one
/// or of a hook.
fn reported(rig: &Rig, policy: &str, rule: &str) -> Result<()> {
    let row = rig.report(policy, rule)?;
    let covered = match (row.given.as_str(), row.mechanism, row.reason) {
        ("Deny" | "DenyAndKill" | "Audit", Some("lsm" | "fmod_ret"), None) => true,
        ("NotCovered", None, Some("NoLsmAndNoFmodRet")) => false,
        // It takes structures by value, and no program can be attached to those before 6.1.
        ("NotCovered", None, Some("HookMissing"))
            if rig.engine.mechanisms().kernel < (6, 1)
                && row.message.as_ref().is_some_and(|why| why.ends_with("(path_chown)")) =>
        {
            return Ok(());
        }
        _ => bail!("{row:?}"),
    };
    if let Some(expected) = &rig.mechanism {
        let seen = row.mechanism.unwrap_or("none");
        ensure!(seen == expected && covered == (expected != "none"), "not by {expected}: {row:?}");
    }
    Ok(())
}

/// Puts a policy for `api` with these rules in force, and does deeds under it.
///
/// # Errors
/// When something else comes of one than must.
pub fn judged(rig: &mut Rig, id: &str, rules: &str, trials: &[Trial]) -> Result<()> {
    under(rig, &[(id, rules)], trials)
}

/// The same with several policies; rules without one are the first's.
///
/// # Errors
/// When something else comes of one than must.
pub fn under(rig: &mut Rig, policies: &[(&str, &str)], trials: &[Trial]) -> Result<()> {
    let stage = Stage::new(rig)?;
    let id = policies.first().context("no policy")?.0;
    let specs: Vec<(&str, String)> =
        policies.iter().map(|(id, rules)| (*id, spec("api", &stage.rooms.fill(rules)))).collect();
    rig.enforce(&specs)?;
    let rules: BTreeSet<&str> = trials.iter().filter_map(|(_, comes)| comes.rule()).collect();
    for rule in rules {
        let (policy, rule) = rule.split_once(' ').unwrap_or((id, rule));
        reported(rig, policy, rule)?;
    }
    for (place, trial) in trials.iter().enumerate() {
        if rig.refuses() || trial.1.rule().is_none() {
            stage.tries(rig, id, *trial)?;
            continue;
        }
        // Nothing is refused on this node, and what is done here would spoil what follows: do it elsewhere, after what was
        // done before it.
        let elsewhere = Stage::new(rig)?;
        for before in trials[..place].iter().filter(|(_, comes)| comes.rule().is_none()) {
            elsewhere.tries(rig, id, *before)?;
        }
        elsewhere.tries(rig, id, *trial)?;
    }
    Ok(())
}

/// A policy for the workloads with this label `app`.
#[must_use]
pub fn spec(app: &str, rules: &str) -> String {
    format!("{{selector: {{matchLabels: {{app: {app}}}}}, {rules}}}")
}

/// Scenarios of one policy and deeds under it: a name for the policy, a sentence, the rules, and the trials.
macro_rules! judgements {
    ($($function:ident: $name:literal, $rules:literal, [$($deed:literal => $comes:expr),* $(,)?];)*) => {
        const JUDGEMENTS: &[$crate::scenario::suite::Scenario] =
            &[$($crate::scenario::suite::Scenario { name: $name, run: $function }),*];
        $(fn $function(rig: &mut $crate::scenario::rig::Rig) -> anyhow::Result<()> {
            let id = concat!("shop/", stringify!($function));
            $crate::scenario::access::judged(rig, &id.replace('_', "-"), $rules, &[$(($deed, $comes)),*])
        })*
    };
}
pub(crate) use judgements;
