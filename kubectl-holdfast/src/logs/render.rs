//! An event as one line for people: when, where, what, whose, by which rule, and who did it.

use std::fmt::Write;

use holdfast_crds::event::{Direction, Event, EventKind, Origin, Process, Syscall};
use k8s_openapi::jiff::Timestamp;

/// Arguments of a process are shown up to so many characters.
const ARGUMENTS: usize = 120;

/// The line, without its end.
pub(crate) fn line(event: &Event) -> String {
    let mut text = format!("{} {} ", time(&event.time), event.node);
    if let Some(gap) = &event.gap {
        let _ = write!(text, "GAP      {} events have no line here: lost at {}", gap.lost, gap.buffer);
        return text;
    }
    text.push_str(match event.kind {
        EventKind::Denied => "DENIED   ",
        EventKind::Audited => "AUDITED  ",
        EventKind::Gap => "GAP      ",
    });
    let mut parts = vec![whose(event)];
    parts.extend(what(event));
    parts.extend(rule(event));
    parts.extend(event.process.as_ref().and_then(process));
    parts.retain(|part| !part.is_empty());
    text.push_str(&parts.join("; "));
    if event.suppressed > 0 {
        let _ = write!(text, "; stands for {}", event.count.max(event.suppressed));
    }
    text
}

/// To the millisecond, so that lines are alike.
fn time(text: &str) -> String {
    text.parse::<Timestamp>().map_or_else(|_| text.to_owned(), |time| format!("{time:.3}"))
}

fn whose(event: &Event) -> String {
    let mut text = event.namespace.clone().unwrap_or_default();
    let mut add = |part: &str| {
        if !text.is_empty() {
            text.push('/');
        }
        text.push_str(part);
    };
    if let Some(workload) = &event.workload {
        add(workload);
    }
    let pod = event.pod.as_ref().map(|pod| pod.name.as_str());
    // A pod without an owner is its own workload.
    if let Some(pod) = pod.filter(|pod| event.workload.as_deref() != Some(format!("Pod/{pod}").as_str())) {
        if event.workload.is_some() {
            let _ = write!(text, " ({pod})");
        } else {
            add(pod);
        }
    }
    if let Some(container) = &event.container {
        let _ = write!(text, " container {container}");
    }
    text
}

fn what(event: &Event) -> Option<String> {
    if let Some(network) = &event.network {
        let direction = match network.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let mut text = format!("{direction} {}", network.protocol);
        if let Some(source) = &network.source {
            let _ = write!(text, " {source}");
        }
        if let Some(destination) = &network.destination {
            let _ = write!(text, " to {destination}");
        }
        return Some(text);
    }
    let by = event.syscall.as_ref().map_or_else(String::new, |call| format!(" by {}", name(call)));
    if let Some(file) = &event.file {
        let origin = file.origin.map_or("", |origin| match origin {
            Origin::Image => " (of the image)",
            Origin::Written => " (written since the container was made)",
            Origin::Memory => " (in memory)",
            Origin::Tmpfs => " (on a tmpfs)",
            Origin::Volume => " (on a volume)",
        });
        let cut = if file.truncated { "..." } else { "" };
        return Some(format!("{} {cut}{}{origin}{by}", file.operations.join("+"), file.path));
    }
    if let Some(capability) = &event.capability {
        return Some(format!("capability {capability}{by}"));
    }
    let call = event.syscall.as_ref()?;
    let foreign = if call.abi == "i386" { " (i386)" } else { "" };
    Some(format!("{}({}){foreign}", name(call), call.arguments.join(", ")))
}

fn name(call: &Syscall) -> String {
    call.name.clone().unwrap_or_else(|| format!("call {}", call.number))
}

fn rule(event: &Event) -> Option<String> {
    let mut text = match (&event.policy, &event.rule) {
        (Some(policy), Some(rule)) => format!("{policy} {rule}"),
        (Some(policy), None) => policy.clone(),
        (None, Some(rule)) => rule.clone(),
        (None, None) => return None,
    };
    let given = event.given.map(holdfast_crds::event::Done::as_str);
    let details: Vec<&str> = given.into_iter().chain(event.mechanism.as_deref()).collect();
    if !details.is_empty() {
        let _ = write!(text, " ({})", details.join(" by "));
    }
    Some(text)
}

fn process(process: &Process) -> Option<String> {
    let name = process.executable.as_ref().or(process.name.as_ref());
    let mut text = name.cloned().unwrap_or_default();
    if let Some(pid) = process.pid {
        let _ = write!(text, "[{pid}]");
    }
    if let Some((_, arguments)) = process.arguments.split_first()
        && !arguments.is_empty()
    {
        let arguments = arguments.join(" ");
        let cut: String = arguments.chars().take(ARGUMENTS).collect();
        let more = if cut.len() < arguments.len() { "…" } else { "" };
        let _ = write!(text, " {cut}{more}");
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(json: &str) -> String {
        line(&Event::from_line(json).unwrap())
    }

    #[test]
    fn a_denied_connection_is_one_line() {
        assert_eq!(
            said(
                r#"{"schema":"holdfast.dev/event/v1","time":"2026-11-25T01:20:16.123456789Z","node":"n1","kind":"Denied",
                "namespace":"shop","workload":"Deployment/api","pod":{"name":"api-7f-x","uid":"u"},"container":"main",
                "process":{"pid":77,"executable":"/usr/bin/curl","arguments":["curl","-s","https://192.0.2.1"]},
                "policy":"shop/api","generation":4,"rule":"network.egress","ruleKind":"network","mechanism":"cgroup_skb",
                "asked":"Deny","given":"Reject","network":{"direction":"Egress","protocol":"TCP",
                "source":"10.1.0.5:40022","destination":"192.0.2.1:443"},"count":13,"suppressed":12}"#
            ),
            "2026-11-25T01:20:16.123Z n1 DENIED   shop/Deployment/api (api-7f-x) container main; egress TCP \
             10.1.0.5:40022 to 192.0.2.1:443; shop/api network.egress (Reject by cgroup_skb); /usr/bin/curl[77] -s \
             https://192.0.2.1; stands for 13"
        );
    }

    #[test]
    fn an_audited_call_of_a_bare_pod_is_one_line() {
        assert_eq!(
            said(
                r#"{"schema":"holdfast.dev/event/v1","time":"2026-11-25T01:20:16Z","node":"n1","kind":"Audited",
                "namespace":"shop","workload":"Pod/api","pod":{"name":"api","uid":"u"},"process":{"name":"sh"},
                "policy":"cluster/base","rule":"syscalls.rules[0]","given":"Audit",
                "syscall":{"name":"mount","number":165,"abi":"x86_64","arguments":["0x0","0x1"]},"count":1}"#
            ),
            "2026-11-25T01:20:16.000Z n1 AUDITED  shop/Pod/api; mount(0x0, 0x1); cluster/base syscalls.rules[0] (Audit); sh"
        );
    }

    #[test]
    fn a_file_a_program_and_a_capability_are_told_with_the_call_and_without_its_numbers() {
        let of = |rest: &str| {
            said(&format!(
                r#"{{"schema":"holdfast.dev/event/v1","time":"2026-11-25T01:20:16Z","node":"n1","kind":"Denied","namespace":"shop",
                "syscall":{{"name":"openat","number":257,"abi":"x86_64","arguments":["0x1"]}},"policy":"shop/p",{rest}}}"#
            ))
        };
        let begin = "2026-11-25T01:20:16.000Z n1 DENIED   shop; ";
        assert_eq!(
            of(r#""file":{"path":"/etc/shadow","operations":["Read","Write"]}"#),
            format!("{begin}Read+Write /etc/shadow by openat; shop/p")
        );
        assert_eq!(
            of(r#""file":{"path":"/tool","operations":["Execute"],"origin":"Written","truncated":true}"#),
            format!("{begin}Execute .../tool (written since the container was made) by openat; shop/p")
        );
        assert_eq!(of(r#""capability":"NET_RAW""#), format!("{begin}capability NET_RAW by openat; shop/p"));
    }

    #[test]
    fn a_gap_is_said_plainly() {
        assert_eq!(
            said(
                r#"{"schema":"holdfast.dev/event/v1","time":"2026-11-25T01:20:16Z","node":"n1","kind":"Gap",
                "gap":{"buffer":"denials","lost":37}}"#
            ),
            "2026-11-25T01:20:16.000Z n1 GAP      37 events have no line here: lost at denials"
        );
    }

    #[test]
    fn long_arguments_are_cut() {
        let text = said(&format!(
            r#"{{"schema":"holdfast.dev/event/v1","time":"x","node":"n1","kind":"Denied",
            "process":{{"executable":"/a","arguments":["a","{}"]}}}}"#,
            "b".repeat(500)
        ));
        assert!(text.ends_with('…') && text.chars().count() < 200, "{text}");
        assert!(text.starts_with("x n1 DENIED"), "a time that is none is shown as it is: {text}");
    }
}
