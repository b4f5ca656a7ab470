//! The steps of a pass: each plans what is stale of one subject.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::slices::{Entry, Key};
use super::{
    Applied, Content, Failure, GONE_FOR, Job, OTHER_STATUS_INTERVAL, Planner, PolicyProgress,
    STATUS_INTERVAL, Subject, address, conditions, external, node_agent, policy, service, to_second,
};
use crate::facts::{DaemonSetFacts, ObjectKey};
use crate::index::{Change, Dirty, Update};

/// A step of a pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each variant is named after what it plans")]
pub enum Step {
    Externals,
    Namespaces,
    Addresses,
    Services,
    Policies,
    NodeAgents,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::Externals,
        Self::Namespaces,
        Self::Addresses,
        Self::Services,
        Self::Policies,
        Self::NodeAgents,
    ];

    /// The name, as the `kind` label of metrics has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Externals => "externals",
            Self::Namespaces => "namespaces",
            Self::Addresses => "addresses",
            Self::Services => "services",
            Self::Policies => "policies",
            Self::NodeAgents => "nodeagents",
        }
    }
}

impl Planner {
    /// All that there is, as stale.
    pub(super) fn everything(&self) -> Dirty {
        let mut dirty = Dirty { externals: true, agents: true, reports: true, ..Dirty::default() };
        dirty.policies.all = true;
        dirty.namespaces.extend(self.index.namespaces().keys().cloned());
        dirty.addresses.extend(self.index.addresses());
        dirty.services.extend(self.index.services().cloned());
        dirty.services.extend(self.services.keys().cloned());
        for key in self.book.iter().flat_map(super::slices::Book::keys) {
            match key {
                Key::Namespace(name) => {
                    dirty.namespaces.insert(name.clone());
                }
                Key::Address(address) => {
                    dirty.addresses.insert(*address);
                }
                // Their Services are named above.
                Key::Service(..) => {}
            }
        }
        dirty
    }

    /// Begins a pass if there is something to plan and everything needed for it is known: the steps are then to be
    /// [run](Self::run) in order.
    pub fn begin(&mut self) -> Option<Dirty> {
        if !self.ready() || !self.is_dirty() {
            return None;
        }
        if !self.planned {
            // The index may have learnt of more since this replica began to lead.
            self.dirty = self.everything();
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.merge(self.index.take_dirty());
        Some(dirty)
    }

    /// Runs one step of a pass. Returns how far policies got whose count is new.
    pub fn run(
        &mut self,
        step: Step,
        dirty: &mut Dirty,
        now: Instant,
        wall: Timestamp,
    ) -> Vec<PolicyProgress> {
        let wall = to_second(wall);
        match step {
            Step::Externals => self.plan_externals(dirty, now, wall),
            Step::Namespaces => self.plan_namespaces(&dirty.namespaces, now),
            Step::Addresses => self.plan_addresses(&dirty.addresses, now),
            Step::Services => self.plan_services(&dirty.services, now),
            Step::Policies => return self.plan_policies(dirty, now, wall),
            Step::NodeAgents => {
                if dirty.agents {
                    self.plan_node_agents(now, wall);
                }
                if dirty.reports {
                    self.plan_gone_nodes(now);
                }
                self.planned = true;
            }
        }
        Vec::new()
    }

    fn plan_externals(&mut self, dirty: &mut Dirty, now: Instant, wall: Timestamp) {
        if !dirty.externals {
            return;
        }
        let old = std::mem::replace(&mut self.judgement, external::judge(&self.index, &self.settings.ranges));
        let new = &self.judgement;
        let changed = old
            .addresses
            .iter()
            .filter(|(address, holder)| new.addresses.get(*address) != Some(*holder))
            .chain(new.addresses.iter().filter(|(address, _)| !old.addresses.contains_key(*address)));
        dirty.addresses.extend(changed.map(|(address, _)| *address));
        for (key, facts) in self.index.externals() {
            let status = external::status(facts, self.judgement.refused.get(key), wall);
            let subject = Subject::External(key.clone());
            if status == facts.status {
                self.queue.settle(&subject);
            } else {
                let urgent = conditions::flipped(&facts.status.conditions, &status.conditions);
                self.queue.ask(&subject, urgent, OTHER_STATUS_INTERVAL, now);
            }
        }
    }

    fn plan_namespaces(&mut self, names: &BTreeSet<String>, now: Instant) {
        let Some(book) = &mut self.book else { return };
        for name in names {
            match self.index.namespaces().get(name) {
                Some(labels) => {
                    if !book.set_namespace(name, labels.clone()) {
                        tracing::error!(namespace = %name, "the namespace's labels are too large to be published");
                    }
                }
                None => book.remove(&Key::Namespace(name.clone()), now),
            }
        }
    }

    fn plan_addresses(&mut self, addresses: &HashSet<IpAddr>, now: Instant) {
        let Some(book) = &mut self.book else { return };
        let mut in_order: Vec<IpAddr> = addresses.iter().copied().collect();
        in_order.sort_unstable();
        for address in in_order {
            let (holder, mut passed_over) = address::holder(&self.index, &self.judgement.addresses, address);
            match holder {
                Some(holder) => {
                    let identity = holder.identity.as_ref();
                    if !book.set_address(address, holder.entities, holder.node, identity, now) {
                        passed_over = Some(address::Unpublished::TooLarge);
                    }
                }
                None => book.remove(&Key::Address(address), now),
            }
            match passed_over {
                Some(reason) => {
                    if self.unpublished.insert(address, reason) != Some(reason) {
                        tracing::warn!(%address, reason = reason.reason(), "a claim to an address is not published");
                    }
                }
                None => {
                    self.unpublished.remove(&address);
                }
            }
        }
    }

    fn plan_services(&mut self, services: &HashSet<ObjectKey>, now: Instant) {
        let Some(book) = &mut self.book else { return };
        let mut in_order: Vec<&ObjectKey> = services.iter().collect();
        in_order.sort_unstable();
        for service in in_order {
            let entries = service::entries(&self.index, service);
            let keys: Vec<Key> =
                entries.iter().map(|entry| Key::Service(entry.address, entry.part)).collect();
            for entry in entries {
                if !book.set_service(entry) {
                    tracing::error!(%service, "the Service is too large to be published");
                }
            }
            let earlier = self.services.remove(service).unwrap_or_default();
            for key in earlier.iter().filter(|key| !keys.contains(key)) {
                // Another Service may have taken the address over meanwhile.
                let still_its = matches!(book.entry(key), Some(Entry::Service(entry))
                    if entry.namespace == service.namespace && entry.name == service.name);
                if still_its {
                    book.remove(key, now);
                }
            }
            if !keys.is_empty() {
                self.services.insert(service.clone(), keys);
            }
        }
    }

    fn plan_policies(&mut self, dirty: &Dirty, now: Instant, wall: Timestamp) -> Vec<PolicyProgress> {
        let mut progress = Vec::new();
        if dirty.policies.is_empty() {
            return progress;
        }
        for (id, facts) in self.index.policies() {
            if !dirty.policies.contains(id, facts) {
                continue;
            }
            let status = policy::status(&self.index, id, facts, wall);
            progress.push((id.clone(), Some(status.nodes.unwrap_or_default())));
            let subject = Subject::Policy(id.clone());
            if status == facts.status {
                self.queue.settle(&subject);
            } else {
                let urgent = conditions::flipped(&facts.status.conditions, &status.conditions);
                self.queue.ask(&subject, urgent, STATUS_INTERVAL, now);
            }
        }
        for id in dirty.policies.ids.iter().filter(|id| !self.index.policies().contains_key(*id)) {
            self.queue.forget(&Subject::Policy(id.clone()));
            progress.push((id.clone(), None));
        }
        progress
    }

    fn plan_node_agents(&mut self, now: Instant, wall: Timestamp) {
        self.applied.retain(|name, _| self.index.node_agents().contains_key(name));
        for (name, facts) in self.index.node_agents() {
            let set = self.index.daemon_sets().get(&node_agent::daemon_set_name(name));
            let refusal = node_agent::check(&self.index, name, facts).err();
            // One that was accepted before and is refused now keeps its DaemonSet: taking agents away protects nobody.
            let apply = refusal.is_none() || (set.is_some() && facts.spec.is_some());
            if apply && !facts.deleting && self.stale_daemon_set(name).is_some() {
                self.queue.ask(&Subject::DaemonSet(name.clone()), true, OTHER_STATUS_INTERVAL, now);
            }
            let status = node_agent::status(&self.index, facts, refusal.as_ref(), set, wall);
            let subject = Subject::NodeAgent(name.clone());
            if status == facts.status {
                self.queue.settle(&subject);
            } else {
                let urgent = conditions::flipped(&facts.status.conditions, &status.conditions);
                self.queue.ask(&subject, urgent, OTHER_STATUS_INTERVAL, now);
            }
        }
    }

    /// What agents wrote of nodes that are gone is deleted after a while, if they are still gone then.
    fn plan_gone_nodes(&mut self, now: Instant) {
        for node in self.index.gone_nodes() {
            if self.index.workload_node(node).is_some() {
                self.queue.ask_later(&Subject::WorkloadNode(node.to_owned()), GONE_FOR, now);
            }
            if self.index.agent_lease(node).is_some() {
                self.queue.ask_later(&Subject::Lease(node.to_owned()), GONE_FOR, now);
            }
        }
    }

    /// The DaemonSet of a NodeAgent, if it is not as it was last applied, or should be another one.
    fn stale_daemon_set(&self, name: &str) -> Option<DaemonSet> {
        let facts = self.index.node_agents().get(name)?;
        let wanted = node_agent::daemon_set(&self.settings.agent, name, &facts.uid, facts.spec.as_ref()?);
        let current = self.index.daemon_sets().get(&node_agent::daemon_set_name(name));
        let as_applied = self.applied.get(name).is_some_and(|applied| {
            applied.wanted == wanted && current.is_some_and(|current| current.version == applied.version)
        });
        (!as_applied).then_some(wanted)
    }

    /// The next status or DaemonSet to be written.
    pub fn next_job(&mut self, now: Instant, wall: Timestamp) -> Option<Job> {
        if !self.ready() {
            return None;
        }
        let wall = to_second(wall);
        while let Some(subject) = self.queue.next(now) {
            if let Some(content) = self.content(&subject, wall) {
                self.queue.begin(&subject);
                return Some(Job { subject, content });
            }
        }
        None
    }

    /// The conditions of a policy as they were last read or written; none of other subjects.
    #[must_use]
    pub fn conditions(&self, subject: &Subject) -> &[Condition] {
        match subject {
            Subject::Policy(id) => {
                self.index.policies().get(id).map_or(&[], |facts| &facts.status.conditions)
            }
            _ => &[],
        }
    }

    /// What is to be written of a subject now; `None` if nothing is.
    fn content(&self, subject: &Subject, wall: Timestamp) -> Option<Content> {
        match subject {
            Subject::DaemonSet(name) => {
                let wanted = self.stale_daemon_set(name)?;
                Some(Content::DaemonSet(Box::new(wanted)))
            }
            Subject::NodeAgent(name) => {
                let facts = self.index.node_agents().get(name)?;
                let refusal = node_agent::check(&self.index, name, facts).err();
                let set = self.index.daemon_sets().get(&node_agent::daemon_set_name(name));
                let status = node_agent::status(&self.index, facts, refusal.as_ref(), set, wall);
                (status != facts.status).then(|| Content::NodeAgent(facts.uid.clone(), status))
            }
            Subject::External(key) => {
                let facts = self.index.externals().get(key)?;
                let status = external::status(facts, self.judgement.refused.get(key), wall);
                (status != facts.status).then(|| Content::External(facts.uid.clone(), status))
            }
            Subject::Policy(id) => {
                let facts = self.index.policies().get(id)?;
                let status = policy::status(&self.index, id, facts, wall);
                (status != facts.status).then(|| Content::Policy(facts.uid.clone(), status))
            }
            Subject::WorkloadNode(node) => {
                let uid = self.index.workload_node(node).filter(|_| self.index.is_gone(node))?;
                Some(Content::Deletion(uid.to_owned()))
            }
            Subject::Lease(node) => {
                let uid = self.index.agent_lease(node).filter(|_| self.index.is_gone(node))?;
                Some(Content::Deletion(uid.to_owned()))
            }
        }
    }

    /// Takes in that an object was deleted.
    pub fn deleted(&mut self, subject: &Subject) {
        self.queue.forget(subject);
    }

    /// Takes in that a status was written.
    pub fn status_written(&mut self, job: Job, now: Instant) {
        self.queue.succeeded(&job.subject, now);
        match (&job.subject, job.content) {
            (Subject::Policy(id), Content::Policy(uid, status)) => {
                self.index.policy_written(id, &uid, status);
                self.dirty.policies.ids.insert(id.clone());
            }
            (Subject::External(key), Content::External(uid, status)) => {
                self.index.external_written(key, &uid, status);
                self.dirty.externals = true;
            }
            (Subject::NodeAgent(name), Content::NodeAgent(uid, status)) => {
                self.index.node_agent_written(name, &uid, status);
                self.dirty.agents = true;
            }
            _ => {}
        }
    }

    /// Takes in that a DaemonSet was applied, and what came of it.
    pub fn daemon_set_applied(
        &mut self,
        job: Job,
        facts: DaemonSetFacts,
        now: Instant,
        wall: std::time::SystemTime,
    ) {
        self.queue.succeeded(&job.subject, now);
        if let (Subject::DaemonSet(name), Content::DaemonSet(wanted)) = (job.subject, job.content) {
            let applied = Applied { wanted: *wanted, version: facts.version };
            let key = ObjectKey::namespaced(
                self.settings.agent.namespace.clone(),
                node_agent::daemon_set_name(&name),
            );
            self.applied.insert(name, applied);
            self.index.apply(Update::DaemonSet(Change::Set(key, facts)), now, wall);
            self.dirty.agents = true;
        }
    }

    /// Takes in that a job failed. `jitter` is between 0 and 1.
    pub fn job_failed(&mut self, subject: &Subject, failure: Failure, now: Instant, jitter: f64) {
        self.queue.failed(subject, failure, now, jitter);
    }
}
