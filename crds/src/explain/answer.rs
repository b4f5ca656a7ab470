//! Asking the reference verdict, and putting its answers in words.

use std::net::IpAddr;

use holdfast_policy::decide::{
    AllowedBy, Call, Enforced, Judgement, Packet, ServiceProblem, Transport, Via, decide_packet,
    decide_syscall,
};
use holdfast_policy::model::{
    Action, Direction, NetScope, Peer, Policy, Protocol, RulePath, RuleRef, selecting,
};
use holdfast_policy::syscalls::{self, Abi};
use serde::Serialize;

use super::name::Written;
use super::nodes::{self, Decided, Matter, OnNode};
use super::scene::{self, Front, Scene, Subject};

/// One end of a flow.
#[derive(Debug, Clone, Copy)]
pub(super) enum End<'a> {
    Subject(&'a Subject),
    Service(&'a Front),
    Address(IpAddr),
}

impl End<'_> {
    fn title(&self) -> String {
        match self {
            Self::Subject(subject) => title(subject),
            Self::Service(front) => format!("{}/{} (Service)", front.namespace, front.name),
            Self::Address(address) => address.to_string(),
        }
    }
}

pub(super) fn title(subject: &Subject) -> String {
    format!("{}/{} ({})", subject.workload.namespace, subject.workload.name, subject.kind)
}

/// A system call that is asked for.
#[derive(Debug, Clone)]
pub struct CallAsked {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub args: [u64; 6],
    /// The way into the kernel.
    pub abi: Abi,
    /// The container that makes it; `None` = each of the workload's.
    pub container: Option<String>,
}

/// What came of it all.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether everything that was asked for is allowed.
    pub allowed: bool,
    /// What was asked.
    pub question: String,
    /// Each decision about a packet.
    pub flows: Vec<Flow>,
    /// Each decision about a system call, an executable, a file or a capability.
    pub calls: Vec<CallAnswer>,
    /// What limits the answer.
    pub notes: Vec<String>,
}

/// A decision about the first packet of a flow, at one end of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    direction: String,
    workload: String,
    /// None where no address is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    protocol: String,
    port: u16,
    allowed: bool,
    because: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// What a workload sees of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_deny: Option<&'static str>,
    /// The rule by which all policies, taken as Enforce, would refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<String>,
    /// How far the deciding rule is in force on the workload's nodes; empty where nothing is known of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<OnNode>,
    /// The same as the policy's status has it, where no node's report can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
}

/// A decision about a system call or an access to an executable, a file or a capability, in one container.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallAnswer {
    pub(super) workload: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<String>,
    pub(super) call: String,
    pub(super) action: String,
    pub(super) allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<String>,
    /// A stricter answer of an Audit policy, and its rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) audit: Option<String>,
    /// How far the deciding rule is in force on the workload's nodes; empty where nothing is known of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nodes: Vec<OnNode>,
    /// The same as the policy's status has it, where no node's report can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<String>,
}

/// Finds what `text` names: an address, or what [`Written`] reads.
pub(super) fn find<'a>(scene: &'a Scene, text: &str, namespace: Option<&str>) -> Result<End<'a>, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        let subject = scene.subjects.iter().find(|subject| subject.addresses.contains(&address));
        let front = || scene.services.iter().find(|front| front.addresses.contains(&address));
        return Ok(match subject {
            Some(subject) => End::Subject(subject),
            None => front().map_or(End::Address(address), End::Service),
        });
    }
    let Written { namespace, kind, name } = Written::parse(text, namespace)?;
    let of_kind = |found: &str| kind.is_none_or(|kind| kind.eq_ignore_ascii_case(found));
    let subjects = scene.subjects.iter().filter(|subject| {
        subject.workload.namespace == namespace && subject.workload.name == name && of_kind(subject.kind)
    });
    let fronts = scene
        .services
        .iter()
        .filter(|front| front.namespace == namespace && front.name == name && of_kind("Service"));
    let of = |kind: Option<&str>| kind.map(|kind| format!(" of kind {kind}")).unwrap_or_default();
    let found: Vec<End> = subjects.map(End::Subject).chain(fronts.map(End::Service)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(format!("there is no workload and no Service {namespace}/{name}{}", of(kind))),
        _ => {
            let titles: Vec<String> = found.iter().map(End::title).collect();
            Err(format!("{text} can be {}: write {namespace}/KIND/{name}", titles.join(" or ")))
        }
    }
}

impl Answer {
    /// Asks whether a flow may be opened.
    pub(super) fn ask_flow(
        &mut self,
        scene: &Scene,
        from: End<'_>,
        to: End<'_>,
        protocol: Protocol,
        port: u16,
    ) -> Result<(), String> {
        if let End::Service(_) = from {
            return Err(format!("{} opens no connections: name what does", from.title()));
        }
        self.question = format!("{} to {}, {protocol} port {port}", from.title(), to.title());
        let asker = Asker { scene, protocol };
        match to {
            End::Service(front) => {
                let targets = front
                    .ports
                    .get(&(protocol, port))
                    .ok_or_else(|| format!("{} has no {protocol} port {port}", to.title()))?;
                let behind: Vec<(&Subject, u16)> = targets
                    .iter()
                    .filter_map(|(index, target)| Some((scene.subjects.get(*index)?, *target)))
                    .collect();
                if behind.is_empty() {
                    self.notes.push(format!("no ready pod is known behind {}", to.title()));
                }
                if let End::Subject(source) = from {
                    // Only a network namespace of its own sees the virtual address.
                    if source.workload.net == NetScope::Own && !front.addresses.is_empty() {
                        asker.egress(source, &front.addresses, port, false, &mut self.flows);
                    } else {
                        for (subject, target) in &behind {
                            asker.egress(source, &subject.addresses, *target, false, &mut self.flows);
                        }
                    }
                }
                for (subject, target) in behind {
                    self.ingress(&asker, from, subject, target);
                }
            }
            End::Subject(subject) => {
                if let End::Subject(source) = from {
                    let own = same(source, subject);
                    asker.egress(source, &subject.addresses, port, own, &mut self.flows);
                    self.invented(scene, source, subject, Direction::Egress);
                }
                self.ingress(&asker, from, subject, port);
            }
            End::Address(address) => {
                if let End::Subject(source) = from {
                    asker.egress(source, &[address], port, false, &mut self.flows);
                } else {
                    return Err("neither end is a known workload: no policy has a say".to_owned());
                }
            }
        }
        Ok(())
    }

    fn ingress(&mut self, asker: &Asker<'_>, from: End<'_>, subject: &Subject, port: u16) {
        let (addresses, own) = match from {
            End::Subject(source) => (source.addresses.clone(), same(source, subject)),
            End::Service(front) => (front.addresses.clone(), false),
            End::Address(address) => (vec![address], false),
        };
        asker.ingress(subject, &addresses, port, own, &mut self.flows);
        if let End::Subject(source) = from {
            self.invented(asker.scene, subject, source, Direction::Ingress);
            if source.workload.net == NetScope::HostPart && subject.workload.net == NetScope::Own {
                self.note(
                    "from a part of the pod's own node only a deny rule for the entity Host stops a flow; this is the \
                     answer for every other node",
                );
            }
        }
    }

    /// Says so where a made-up address may hide an `ipBlock`.
    fn invented(&mut self, scene: &Scene, of: &Subject, peer: &Subject, direction: Direction) {
        let blocks = |policy: &&Policy| {
            let rules = policy.network.as_ref().and_then(|network| network.direction(direction));
            let peers = rules.into_iter().flat_map(|rules| rules.allow.iter().chain(&rules.deny));
            peers.flat_map(|rule| rule.peers.iter().flatten()).any(|peer| matches!(peer, Peer::IpBlock(_)))
        };
        if peer.invented && selecting(&scene.policies, &scene.world, &of.workload).iter().any(blocks) {
            let of = title(peer);
            self.note(&format!(
                "{of} has no known address: only an ipBlock of 0.0.0.0/0 is taken to match it"
            ));
        }
    }

    pub(super) fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Asks whether a workload may make a system call.
    pub(super) fn ask_call(&mut self, scene: &Scene, from: End<'_>, asked: &CallAsked) -> Result<(), String> {
        let End::Subject(subject) = from else {
            return Err(format!("{} makes no system calls: name a workload", from.title()));
        };
        let CallAsked { name, args, abi, container } = asked;
        let Some(call) = Call::named(*abi, name, *args) else {
            return Err(if syscalls::is_known(name) {
                format!("{name} is no system call of {abi:?}")
            } else {
                format!("{name} is no known system call")
            });
        };
        if self.question.is_empty() {
            self.question = format!("{}, {name}", title(subject));
        }
        for container in containers(subject, container.as_ref())? {
            let mut workload = subject.workload.clone();
            workload.container = container.cloned();
            let verdict = decide_syscall(&scene.policies, &scene.world, &workload, &call);
            self.answer_call(scene, subject, container, name.clone(), &verdict, Matter::Call(name));
        }
        Ok(())
    }

    /// Writes down what was decided for one container.
    pub(super) fn answer_call(
        &mut self,
        scene: &Scene,
        subject: &Subject,
        container: Option<&String>,
        call: String,
        verdict: &Judgement,
        matter: Matter<'_>,
    ) {
        let rule = verdict.rule.as_ref();
        let (nodes, status) = nodes::of(scene, subject, rule, Decided { action: verdict.action, matter });
        self.calls.push(CallAnswer {
            workload: title(subject),
            container: container.cloned(),
            call,
            action: verdict.action.to_string(),
            allowed: verdict.action < Action::Deny,
            policy: rule.map(|rule| rule.policy.to_string()),
            rule: rule.map(|rule| rule.path.to_string()),
            audit: verdict.audited.as_ref().map(|(action, rule)| format!("{action} by {rule}")),
            nodes,
            status,
        });
    }

    /// Draws the conclusion.
    pub(super) fn conclude(&mut self, scene: &Scene) {
        let everywhere = |nodes: &[OnNode]| nodes.iter().all(OnNode::is_as_asked);
        let all = self.flows.iter().map(|flow| &flow.nodes).chain(self.calls.iter().map(|call| &call.nodes));
        if !all.into_iter().all(|nodes| everywhere(nodes)) {
            self.note(
                "that is what the policies ask; it is not in force like this on every node, as said above",
            );
        }
        for note in &scene.notes {
            self.note(note);
        }
        self.allowed =
            self.flows.iter().all(|flow| flow.allowed) && self.calls.iter().all(|call| call.allowed);
    }

    /// The answer for people.
    #[must_use]
    pub fn text(&self) -> String {
        let word = |allowed: bool| if allowed { "allowed" } else { "denied" };
        let mut lines = vec![format!("{}: {}", self.question, word(self.allowed))];
        for flow in &self.flows {
            let on_deny = flow.on_deny.map(|seen| format!(" ({seen})")).unwrap_or_default();
            lines.push(format!(
                "  {} of {}, {} {}: {}, {}{on_deny}",
                flow.direction,
                flow.workload,
                flow.protocol,
                flow.port,
                word(flow.allowed),
                flow.because,
            ));
            lines.extend(nodes::lines(&flow.nodes));
            lines.extend(flow.status.iter().map(|status| format!("    {status}")));
            lines.extend(flow.audit.iter().map(|rule| format!("    audit: {rule} would refuse it")));
        }
        for call in &self.calls {
            let container =
                call.container.as_ref().map(|name| format!(", container {name}")).unwrap_or_default();
            let by = match (&call.policy, &call.rule) {
                (Some(policy), Some(rule)) => format!("by {policy} {rule}"),
                _ => "as no rule says otherwise".to_owned(),
            };
            lines.push(format!("  {} of {}{container}: {} {by}", call.call, call.workload, call.action));
            lines.extend(nodes::lines(&call.nodes));
            lines.extend(call.status.iter().map(|status| format!("    {status}")));
            lines.extend(call.audit.iter().map(|audit| format!("    audit: would be {audit}")));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines.join("\n") + "\n"
    }
}

/// The containers that a question is about.
pub(super) fn containers<'a>(
    subject: &'a Subject,
    asked: Option<&'a String>,
) -> Result<Vec<Option<&'a String>>, String> {
    match asked {
        Some(container) if !subject.containers.contains(container) => {
            Err(format!("{} has no container {container}", title(subject)))
        }
        Some(container) => Ok(vec![Some(container)]),
        None if subject.containers.is_empty() => Ok(vec![None]),
        None => Ok(subject.containers.iter().map(Some).collect()),
    }
}

/// Whether both are one running thing, whose flow to itself goes over its loopback.
fn same(a: &Subject, b: &Subject) -> bool {
    a.single && std::ptr::eq(a, b)
}

struct Asker<'a> {
    scene: &'a Scene,
    protocol: Protocol,
}

impl Asker<'_> {
    fn egress(&self, source: &Subject, to: &[IpAddr], port: u16, own: bool, flows: &mut Vec<Flow>) {
        for peer in reachable(&source.addresses, source.invented, to) {
            self.ask(source, Direction::Egress, peer, port, own, flows);
        }
    }

    fn ingress(&self, target: &Subject, from: &[IpAddr], port: u16, own: bool, flows: &mut Vec<Flow>) {
        for peer in reachable(&target.addresses, target.invented, from) {
            self.ask(target, Direction::Ingress, peer, port, own, flows);
        }
    }

    fn ask(
        &self,
        subject: &Subject,
        direction: Direction,
        peer: IpAddr,
        port: u16,
        own: bool,
        flows: &mut Vec<Flow>,
    ) {
        let packet = Packet {
            direction,
            peer,
            transport: Transport::Port(self.protocol, port),
            via: if own { Via::Loopback } else { Via::Network },
        };
        let verdict = decide_packet(&self.scene.policies, &self.scene.world, &subject.workload, &packet);
        let (allowed, because, rule, on_deny) = match &verdict.enforced {
            Enforced::Allow(by) => {
                let (because, rule) = allowed_by(by);
                (true, because, rule, None)
            }
            Enforced::Deny { rule, reject, service } => {
                let mut because = match rule.path {
                    RulePath::Default(_) => format!("as {} isolates it and no rule allows this", rule.policy),
                    _ => format!("by {rule}"),
                };
                if let Some(problem) = service {
                    because = format!("{because}; {}", self.problem(*problem));
                }
                // No hook sees an SCTP socket connect: its packets are dropped in either case.
                let told = *reject && self.protocol != Protocol::Sctp;
                let seen = if told { "Reject: EPERM at connect" } else { "Drop: silence" };
                (false, because, Some(rule.clone()), Some(seen))
            }
        };
        let decided =
            Decided { action: if allowed { Action::Allow } else { Action::Deny }, matter: Matter::Packet };
        let (nodes, status) = nodes::of(self.scene, subject, rule.as_ref(), decided);
        let flow = Flow {
            direction: direction.to_string(),
            workload: title(subject),
            peer: (!scene::is_invented(peer)).then_some(peer),
            protocol: self.protocol.to_string(),
            port,
            allowed,
            because,
            policy: rule.as_ref().map(|rule| rule.policy.to_string()),
            rule: rule.as_ref().map(|rule| rule.path.to_string()),
            on_deny,
            audit: verdict.audited.map(|rule| rule.to_string()),
            nodes,
            status,
        };
        // One line is enough for addresses that are treated alike.
        let alike = |other: &Flow| {
            other.direction == flow.direction
                && other.workload == flow.workload
                && other.port == flow.port
                && other.because == flow.because
                && other.audit == flow.audit
        };
        if !flows.iter().any(alike) {
            flows.push(flow);
        }
    }

    fn problem(&self, problem: ServiceProblem) -> String {
        match problem {
            ServiceProblem::NoSuchPort => "the Service has no such port".to_owned(),
            ServiceProblem::Incomplete => "not all backends of the Service are known".to_owned(),
            ServiceProblem::NoneReady => "no backend of the Service is ready".to_owned(),
            ServiceProblem::Backend(address, port) => {
                let holder = self.scene.subjects.iter().find(|subject| subject.addresses.contains(&address));
                let holder = holder.map_or_else(|| address.to_string(), title);
                format!("the Service's backend {holder} port {port} is refused")
            }
        }
    }
}

/// The addresses of the same families as the workload's own; all, where those are not known.
fn reachable(own: &[IpAddr], invented: bool, peers: &[IpAddr]) -> Vec<IpAddr> {
    let same = |peer: &&IpAddr| own.iter().any(|own| own.is_ipv4() == peer.is_ipv4());
    let matching: Vec<IpAddr> = peers.iter().filter(same).copied().collect();
    if invented || matching.is_empty() { peers.to_vec() } else { matching }
}

fn allowed_by(by: &AllowedBy) -> (String, Option<RuleRef>) {
    match by {
        AllowedBy::Rule(rule) => (format!("by {rule}"), Some(rule.clone())),
        AllowedBy::NotIsolated => ("as no policy isolates it".to_owned(), None),
        AllowedBy::Loopback => ("as a workload may reach itself".to_owned(), None),
        AllowedBy::Failsafe => ("as a failsafe port of a whole host".to_owned(), None),
        AllowedBy::NodeFlow => ("as the node may reach its own pods".to_owned(), None),
        AllowedBy::Backends(backends) => {
            let mut rules: Vec<String> = backends.iter().map(|backend| backend.rule.to_string()).collect();
            rules.sort_unstable();
            rules.dedup();
            let rule = backends.first().map(|backend| backend.rule.clone());
            (format!("as each backend of the Service is, by {}", rules.join(" and ")), rule)
        }
    }
}
