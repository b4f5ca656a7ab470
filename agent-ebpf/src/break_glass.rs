//! Break-glass: for a while this node refuses nothing, and says so wherever it speaks. What would have been refused is
//! counted and told as audits.
//!
//! The kernel programs themselves compare the clock with a deadline in a pinned map, so that it ends by itself, also
//! where no agent runs; a machine that is started anew refuses again at once. Why it was done is kept in a file of the
//! state directory, which decides nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::report::PolicyReport;
use crate::loader::Places;
use crate::maps::{MapError, Maps};
use crate::status::{self, PolicyStatus};

/// The longest time that may be asked for.
pub const LONGEST: Duration = Duration::from_hours(24);

/// The word that reports and Events carry as their reason.
pub const REASON: &str = "BreakGlass";

/// Why it cannot be done, or told.
#[derive(Debug, thiserror::Error)]
pub enum BreakGlassError {
    /// The maps.
    #[error("nothing of Holdfast's is in force here, or it cannot be reached: {0}")]
    Map(#[from] MapError),
    /// The machine's clock.
    #[error("/proc/uptime: {0}")]
    Clock(#[source] io::Error),
    /// The file with the reason.
    #[error("{path}: {source}")]
    Note {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What people left beside the deadline.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    /// The deadline that it belongs to, as in the map.
    deadline: u64,
    reason: Option<String>,
}

/// The node refuses nothing.
#[derive(Debug, Clone, Serialize)]
pub struct Broken {
    /// Until when: RFC 3339, whole seconds.
    pub until: String,
    /// Why, by the word of whoever did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same time in nanoseconds since the machine was started.
    #[serde(skip)]
    deadline: u64,
}

/// Does it: from now on, for as long as this, nothing is refused.
///
/// # Errors
///
/// When nothing is in force here, the kernel refuses, or the reason cannot be written; the deadline stands then.
pub fn begin(
    places: &Places,
    state_dir: &Path,
    duration: Duration,
    reason: Option<String>,
) -> Result<Broken, BreakGlassError> {
    let mut maps = Maps::open(&places.pins())?;
    let deadline = nanoseconds(uptime()?.saturating_add(duration.min(LONGEST)));
    maps.set_break_glass(deadline)?;
    let path = note_file(state_dir);
    serde_json::to_vec(&Note { deadline, reason })
        .map_err(io::Error::from)
        .and_then(|bytes| status::write_whole(&path, &bytes))
        .map_err(|source| BreakGlassError::Note { path, source })?;
    Ok(broken(deadline, uptime()?, state_dir).unwrap_or_else(|| Broken {
        until: time(Duration::ZERO),
        reason: None,
        deadline,
    }))
}

/// Ends it at once; whether there was anything to end.
///
/// # Errors
///
/// When nothing is in force here, or the kernel refuses.
pub fn end(places: &Places, state_dir: &Path) -> Result<bool, BreakGlassError> {
    let mut maps = Maps::open(&places.pins())?;
    let was = broken(maps.break_glass()?, uptime()?, state_dir).is_some();
    maps.set_break_glass(0)?;
    match fs::remove_file(note_file(state_dir)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BreakGlassError::Note { path: note_file(state_dir), source })
        }
        _ => Ok(was),
    }
}

/// Whether the node refuses nothing at present.
///
/// # Errors
///
/// When the kernel refuses to tell.
pub fn look(maps: &Maps, state_dir: &Path) -> Result<Option<Broken>, BreakGlassError> {
    match maps.break_glass()? {
        0 => Ok(None),
        deadline => Ok(broken(deadline, uptime()?, state_dir)),
    }
}

/// The same one: the time of day at which it ends is not told to the last nanosecond.
impl PartialEq for Broken {
    fn eq(&self, other: &Self) -> bool {
        self.deadline == other.deadline && self.reason == other.reason
    }
}

impl Eq for Broken {}

impl Broken {
    /// For people: until when, and why.
    #[must_use]
    pub fn message(&self) -> String {
        let reason = self.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
        format!("{REASON}: this node refuses nothing until {}{reason}", self.until)
    }

    /// The deadline in seconds since 1970.
    #[must_use]
    pub fn unix_seconds(&self) -> i64 {
        self.until.parse().map_or(0, Timestamp::as_second)
    }

    /// What is true of a policy meanwhile: what asks to refuse is an audit.
    pub fn tell(&self, report: &mut PolicyReport) {
        for rule in report.rules.iter_mut().filter(|rule| refuses(&rule.asked)) {
            "Audit".clone_into(&mut rule.given);
            rule.reason = Some(REASON);
            report.failure = Some(self.message());
        }
    }

    /// The same of what `status` shows.
    pub fn tell_status(&self, policy: &mut PolicyStatus) {
        for rule in policy.rules.iter_mut().filter(|rule| refuses(&rule.asked)) {
            "Audit".clone_into(&mut rule.given);
            rule.reason = Some(REASON.to_owned());
            policy.failure = Some(self.message());
        }
    }
}

fn refuses(asked: &str) -> bool {
    matches!(asked, "Deny" | "Kill")
}

fn note_file(state_dir: &Path) -> PathBuf {
    state_dir.join("break-glass.json")
}

/// A deadline that is not over, with the reason where that is known.
fn broken(deadline: u64, uptime: Duration, state_dir: &Path) -> Option<Broken> {
    let left = deadline.checked_sub(nanoseconds(uptime)).filter(|left| *left > 0)?;
    let note = fs::read(note_file(state_dir)).ok();
    let note: Note = note.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let reason = note.reason.filter(|_| note.deadline == deadline);
    Some(Broken { until: time(Duration::from_nanos(left)), reason, deadline })
}

/// So much later than now, to the second.
fn time(left: Duration) -> String {
    let until = SystemTime::now() + left + Duration::from_millis(500);
    Timestamp::try_from(until).map_or_else(|_| String::new(), |until| format!("{until:.0}"))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How long ago the machine was started, the time that it was suspended included.
fn uptime() -> Result<Duration, BreakGlassError> {
    let text = fs::read_to_string("/proc/uptime").map_err(BreakGlassError::Clock)?;
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| BreakGlassError::Clock(io::Error::other("no number of seconds")))
}

/// How long, as people say it: `90s`, `30m` or `2h`, at most a day.
///
/// # Errors
///
/// What is wrong, for the command line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and s, m or h, such as 30m".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().ok().ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let duration = Duration::from_secs(number.saturating_mul(seconds));
    if duration.is_zero() || duration > LONGEST {
        return Err("not more than nothing and at most 24h".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_seconds_minutes_or_hours_up_to_a_day() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("30m"), Ok(Duration::from_mins(30)));
        assert_eq!(parse_duration("24h"), Ok(LONGEST));
        for wrong in ["", "m", "30", "0m", "25h", "-1m", "1.5h", "3ü", "99999999999999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_deadline_is_over_once_the_machine_has_run_so_long() {
        let folder = tempfile::tempdir().expect("a directory");
        let deadline = 100_000_000_000;
        let at = |seconds| broken(deadline, Duration::from_secs(seconds), folder.path());
        assert!(at(99).is_some());
        assert_eq!(at(100), None);
        assert_eq!(at(101), None);
        let left = at(40).expect("not over").unix_seconds() - Timestamp::now().as_second();
        assert!((59..=61).contains(&left), "{left}");
    }

    #[test]
    fn a_reason_belongs_to_its_own_deadline_only() {
        let folder = tempfile::tempdir().expect("a directory");
        let note = Note { deadline: 7_000_000_000, reason: Some("INC-1".to_owned()) };
        let bytes = serde_json::to_vec(&note).expect("it is JSON");
        fs::write(note_file(folder.path()), bytes).expect("written");
        let reason =
            |deadline| broken(deadline, Duration::from_secs(1), folder.path()).and_then(|b| b.reason);
        assert_eq!(reason(7_000_000_000), Some("INC-1".to_owned()));
        assert_eq!(reason(8_000_000_000), None);
    }
}
