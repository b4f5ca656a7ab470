//! What a kubelet says of a pod: a function of what is known of its containers.

use std::{collections::BTreeMap, net::IpAddr, os::fd::OwnedFd, sync::Arc};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    jiff::Timestamp,
};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::{Value, json};

use super::logs::Log;

/// The state of a container.
#[derive(Clone, Debug)]
pub(super) enum State {
    Waiting { reason: String, message: String },
    Running { since: Timestamp },
    Terminated(Ended),
}

/// How a container ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) since: Timestamp,
    pub(super) at: Timestamp,
    pub(super) id: String,
}

/// A container's first process, however its number is used later.
#[derive(Debug)]
pub(super) struct Handle(pub(super) OwnedFd);

impl Handle {
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.0, signal).context("signalling a container's first process")
    }

    pub(super) fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }
}

/// What is known of a container.
pub(super) struct Track {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) init: bool,
    pub(super) state: State,
    pub(super) last: Option<Ended>,
    pub(super) restarts: i32,
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) id: Option<String>,
    pub(super) pid: Option<u32>,
    pub(super) handle: Option<Arc<Handle>>,
    /// One for each instance, the newest last.
    pub(super) logs: Vec<Arc<Log>>,
}

impl Track {
    pub(super) fn new(container: &Container, init: bool) -> Self {
        Self {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            init,
            state: State::Waiting { reason: "PodInitializing".to_owned(), message: String::new() },
            last: None,
            restarts: 0,
            started: false,
            ready: false,
            id: None,
            pid: None,
            handle: None,
            logs: Vec::new(),
        }
    }

    /// It is not there yet, or not again.
    pub(super) fn wait(&mut self, reason: &str, message: &str) {
        if let State::Terminated(ended) = &self.state {
            self.last = Some(ended.clone());
        }
        self.state = State::Waiting { reason: reason.to_owned(), message: message.to_owned() };
    }

    fn done(&self) -> bool {
        matches!(&self.state, State::Terminated(ended) if ended.code == 0)
    }

    fn status(&self) -> Value {
        let ready = if self.init { self.done() } else { self.ready };
        json!({
            "name": self.name,
            "image": self.image,
            "imageID": self.image,
            "containerID": self.id.as_ref().map(|id| format!("containerd://{id}")),
            "ready": ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": state(&self.state),
            "lastState": self.last.as_ref().map(|ended| json!({"terminated": terminated(ended)})).unwrap_or(json!({})),
        })
    }
}

fn state(state: &State) -> Value {
    match state {
        State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        State::Running { since } => json!({"running": {"startedAt": since}}),
        State::Terminated(ended) => json!({"terminated": terminated(ended)}),
    }
}

fn terminated(ended: &Ended) -> Value {
    json!({
        "exitCode": ended.code, "reason": ended.reason, "message": ended.message, "startedAt": ended.since,
        "finishedAt": ended.at, "containerID": format!("containerd://{}", ended.id),
    })
}

/// The conditions that were reported: status and time of the last change, by type.
pub(super) struct Conditions {
    known: BTreeMap<String, (String, Timestamp)>,
    started: Timestamp,
}

impl Conditions {
    /// Those that the object has.
    pub(super) fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let known = status
            .conditions
            .unwrap_or_default()
            .into_iter()
            .filter_map(|row| Some((row.type_, (row.status, row.last_transition_time?.0))))
            .collect();
        Self { known, started: status.start_time.map_or_else(Timestamp::now, |time| time.0) }
    }

    fn row(&mut self, kind: &str, holds: bool, reason: &str) -> Value {
        let status = if holds { "True" } else { "False" };
        let now = Timestamp::now();
        let known = self.known.entry(kind.to_owned()).or_insert_with(|| (status.to_owned(), now));
        if known.0 != status {
            *known = (status.to_owned(), now);
        }
        let reason = if holds { Value::Null } else { reason.into() };
        json!({"type": kind, "status": status, "reason": reason, "lastTransitionTime": known.1})
    }
}

/// The phase, by the states and the restart policy.
fn phase(policy: &str, tracks: &[Track]) -> &'static str {
    let (init, main): (Vec<&Track>, Vec<&Track>) = tracks.iter().partition(|track| track.init);
    let ended = |track: &&Track| matches!(track.state, State::Terminated(_));
    let failed = |track: &&&Track| ended(track) && !track.done();
    let final_failure = policy == "Never";
    if final_failure && init.iter().any(|track| failed(&track)) {
        return "Failed";
    }
    let waiting_first = |track: &&Track| matches!(track.state, State::Waiting { .. }) && track.last.is_none();
    if !init.iter().all(|track| track.done()) || main.iter().any(waiting_first) {
        return "Pending";
    }
    if policy != "Always" && main.iter().all(ended) {
        if main.iter().all(|track| track.done()) {
            return "Succeeded";
        }
        if final_failure {
            return "Failed";
        }
    }
    "Running"
}

/// The status of a pod, as a strategic merge patch. `host` and `addresses` are those of the node and of the pod, IPv4
/// first.
pub(super) fn of(
    pod: &Pod,
    tracks: &[Track],
    conditions: &mut Conditions,
    host: [IpAddr; 2],
    addresses: Option<[IpAddr; 2]>,
) -> Value {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    let phase = phase(policy, tracks);
    let ready = phase == "Running" && tracks.iter().all(|track| track.init || track.ready);
    let initialized = tracks.iter().filter(|track| track.init).all(Track::done);
    let over = phase == "Succeeded";
    let because = if over { "PodCompleted" } else { "ContainersNotReady" };
    let rows = [
        conditions.row("PodReadyToStartContainers", addresses.is_some(), "PodNotPrepared"),
        conditions.row("Initialized", initialized, "ContainersNotInitialized"),
        conditions.row("ContainersReady", ready, because),
        conditions.row("Ready", ready, because),
    ];
    let list =
        |init: bool| tracks.iter().filter(|track| track.init == init).map(Track::status).collect::<Vec<_>>();
    let mut status = json!({
        "phase": phase,
        "conditions": rows,
        "hostIP": host[0],
        "hostIPs": host.map(|ip| json!({"ip": ip})),
        "startTime": conditions.started,
        "containerStatuses": list(false),
        "initContainerStatuses": list(true),
    });
    if let Some(addresses) = addresses {
        status["podIP"] = json!(addresses[0]);
        status["podIPs"] = json!(addresses.map(|ip| json!({"ip": ip})));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(init: bool, state: State) -> Track {
        let mut track = Track::new(&Container { name: "main".to_owned(), ..Container::default() }, init);
        track.state = state;
        track
    }

    fn ended(code: i32) -> State {
        let now = Timestamp::now();
        let (message, id) = (String::new(), "1".to_owned());
        State::Terminated(Ended { code, reason: "Completed", message, since: now, at: now, id })
    }

    fn running() -> State {
        State::Running { since: Timestamp::now() }
    }

    #[test]
    fn the_phase_follows_the_containers_and_the_restart_policy() {
        let waiting = || track(false, State::Waiting { reason: String::new(), message: String::new() });
        let all =
            |states: Vec<State>| states.into_iter().map(|state| track(false, state)).collect::<Vec<_>>();
        assert_eq!(phase("Always", &[waiting()]), "Pending");
        assert_eq!(phase("Always", &[track(true, running()), waiting()]), "Pending");
        assert_eq!(phase("Always", &[track(true, ended(0)), track(false, running())]), "Running");
        assert_eq!(phase("Never", &[track(true, ended(1)), waiting()]), "Failed");
        assert_eq!(phase("Never", &all(vec![ended(0), running()])), "Running");
        assert_eq!(phase("Never", &all(vec![ended(0), ended(0)])), "Succeeded");
        assert_eq!(phase("Never", &all(vec![ended(0), ended(3)])), "Failed");
        assert_eq!(phase("OnFailure", &all(vec![ended(0), ended(3)])), "Running");
        assert_eq!(phase("Always", &all(vec![ended(0)])), "Running");
        let mut again = track(false, ended(1));
        again.wait("CrashLoopBackOff", "");
        assert_eq!(phase("Always", &[again]), "Running");
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut conditions = Conditions { known: BTreeMap::new(), started: Timestamp::now() };
        let first = conditions.row("Ready", false, "ContainersNotReady");
        assert_eq!(conditions.row("Ready", false, "ContainersNotReady"), first);
        let second = conditions.row("Ready", true, "");
        assert_ne!(second["lastTransitionTime"], first["lastTransitionTime"]);
    }
}
