//! How each kind is taken in and forgotten, and what that makes stale.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use holdfast_policy::model::PolicyId;
use holdfast_policy::selector::Labels;
use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;

use super::{Index, Pulse, Store, is_api_server};
use crate::facts::{
    DaemonSetFacts, EndpointFacts, ExternalFacts, Heartbeat, NodeAgentFacts, NodeFacts, ObjectKey, PodFacts,
    PolicyFacts, Report, ServiceFacts,
};

/// How far clocks of agents may be ahead of the operator's before a heartbeat seen for the first time is not believed.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// The keys of a map of cluster-scoped objects.
fn names<'a>(names: impl Iterator<Item = &'a String>) -> HashSet<ObjectKey> {
    names.map(ObjectKey::cluster).collect()
}

fn policy_id(key: &ObjectKey) -> PolicyId {
    if key.namespace.is_empty() {
        PolicyId::cluster(key.name.clone())
    } else {
        PolicyId::namespaced(key.namespace.clone(), key.name.clone())
    }
}

pub(super) const PODS: Store<PodFacts> = Store {
    malformed: None,
    keys: |index| index.pods.keys().cloned().collect(),
    set: |index, key, facts| {
        let namespace = key.namespace.clone();
        let dirt = index.pods.set(key, facts);
        index.pod_changed(namespace, dirt.addresses, dirt.coverage);
    },
    drop: |index, key| {
        let dirt = index.pods.remove(key);
        index.pod_changed(key.namespace.clone(), dirt.addresses, dirt.coverage);
    },
};

pub(super) const NODES: Store<NodeFacts> = Store {
    malformed: None,
    keys: |index| names(index.nodes.keys()),
    set: |index, key, facts| {
        let name = key.name;
        let old = index.nodes.get(&name).cloned();
        if old.as_ref() == Some(&facts) {
            return;
        }
        let old = old.unwrap_or_default();
        index.node_changed(&name, &old, &facts);
        index.nodes.insert(name, facts);
    },
    drop: |index, key| {
        if let Some(old) = index.nodes.remove(&key.name) {
            index.node_changed(&key.name, &old, &NodeFacts::default());
        }
    },
};

pub(super) const NAMESPACES: Store<Labels> = Store {
    malformed: None,
    keys: |index| names(index.world.namespaces.keys()),
    set: |index, key, labels| {
        if index.world.namespaces.get(&key.name) != Some(&labels) {
            index.world.namespaces.insert(key.name.clone(), labels);
            index.dirty.namespaces.insert(key.name);
            index.dirty.policies.cluster = true;
        }
    },
    drop: |index, key| {
        if index.world.namespaces.remove(&key.name).is_some() {
            index.dirty.namespaces.insert(key.name.clone());
            index.dirty.policies.cluster = true;
        }
    },
};

pub(super) const SERVICES: Store<ServiceFacts> = Store {
    malformed: None,
    keys: |index| index.services.keys().cloned().collect(),
    set: |index, key, facts| {
        if index.services.get(&key) == Some(&facts) {
            return;
        }
        let old = index.services.remove(&key).unwrap_or_default();
        index.service_changed(&key, &old, &facts);
        index.services.insert(key, facts);
    },
    drop: |index, key| {
        if let Some(old) = index.services.remove(key) {
            index.service_changed(key, &old, &ServiceFacts::default());
        }
    },
};

pub(super) const ENDPOINTS: Store<EndpointFacts> = Store {
    malformed: None,
    keys: |index| index.endpoints.keys().cloned().collect(),
    set: |index, key, facts| {
        if index.endpoints.get(&key) == Some(&facts) {
            return;
        }
        index.drop_endpoints(&key);
        index.endpoints_changed(&key, &facts);
        let service = ObjectKey::namespaced(key.namespace.clone(), facts.service.clone());
        index.endpoints_of.entry(service).or_default().insert(key.clone());
        index.endpoints.insert(key, facts);
    },
    drop: |index, key| index.drop_endpoints(key),
};

pub(super) const SERVICE_CIDRS: Store<Vec<IpNet>> = Store {
    malformed: None,
    keys: |index| names(index.service_cidrs.keys()),
    set: |index, key, cidrs| {
        if index.service_cidrs.get(&key.name) != Some(&cidrs) {
            index.service_cidrs.insert(key.name, cidrs);
            index.dirty.externals = true;
        }
    },
    drop: |index, key| index.dirty.externals |= index.service_cidrs.remove(&key.name).is_some(),
};

pub(super) const EXTERNALS: Store<ExternalFacts> = Store {
    malformed: Some(ExternalFacts::malformed),
    keys: |index| index.externals.keys().cloned().collect(),
    set: |index, key, mut facts| {
        if let Some(old) = index.externals.get(&key) {
            if facts.malformed.is_some() && old.uid == facts.uid {
                facts.status = old.status.clone();
            }
            if *old == facts {
                return;
            }
        }
        index.externals.insert(key, facts);
        index.dirty.externals = true;
    },
    drop: |index, key| index.dirty.externals |= index.externals.remove(key).is_some(),
};

fn set_policy(index: &mut Index, key: &ObjectKey, mut facts: PolicyFacts) {
    let id = policy_id(key);
    if let Some(old) = index.policies.get(&id) {
        if facts.is_malformed() && old.uid == facts.uid {
            facts.status = old.status.clone();
        }
        if *old == facts {
            return;
        }
    }
    index.policies.insert(id.clone(), facts);
    index.dirty.policies.ids.insert(id);
}

fn drop_policy(index: &mut Index, key: &ObjectKey) {
    let id = policy_id(key);
    if index.policies.remove(&id).is_some() {
        index.dirty.policies.ids.insert(id);
    }
}

fn policy_keys(index: &Index, cluster: bool) -> HashSet<ObjectKey> {
    index
        .policies
        .keys()
        .filter(|id| id.namespace.is_none() == cluster)
        .map(|id| ObjectKey::namespaced(id.namespace.clone().unwrap_or_default(), id.name.clone()))
        .collect()
}

pub(super) const POLICIES: Store<PolicyFacts> = Store {
    malformed: Some(PolicyFacts::malformed),
    keys: |index| policy_keys(index, false),
    set: |index, key, facts| set_policy(index, &key, facts),
    drop: drop_policy,
};

pub(super) const CLUSTER_POLICIES: Store<PolicyFacts> = Store {
    malformed: Some(PolicyFacts::malformed),
    keys: |index| policy_keys(index, true),
    set: |index, key, facts| set_policy(index, &key, facts),
    drop: drop_policy,
};

pub(super) const REPORTS: Store<Report> = Store {
    // A report that cannot be read says nothing: its node counts as not programmed.
    malformed: Some(|_| Report::default()),
    keys: |index| names(index.reports.keys()),
    set: |index, key, report| {
        let old = index.reports.remove(&key.name).unwrap_or_default();
        index.report_changed(&old, &report);
        index.reports.insert(key.name, report);
    },
    drop: |index, key| {
        if let Some(old) = index.reports.remove(&key.name) {
            index.report_changed(&old, &Report::default());
        }
    },
};

pub(super) const PULSES: Store<Pulse> = Store {
    malformed: None,
    keys: |index| names(index.pulses.keys()),
    set: |index, key, pulse| {
        let proven = pulse.heartbeat.is_proven();
        let was = index.pulses.get(&key.name).is_some_and(|old| old.heartbeat.is_proven());
        if proven != was && index.pods.any_on(&key.name) {
            index.dirty.policies.all = true;
        }
        index.pulses.insert(key.name, pulse);
    },
    drop: |index, key| {
        if index.pulses.remove(&key.name).is_some() {
            index.set_fresh(&key.name, false);
        }
    },
};

pub(super) const NODE_AGENTS: Store<NodeAgentFacts> = Store {
    malformed: Some(NodeAgentFacts::malformed),
    keys: |index| names(index.node_agents.keys()),
    set: |index, key, mut facts| {
        if let Some(old) = index.node_agents.get(&key.name) {
            if facts.spec.is_none() && old.uid == facts.uid {
                facts.status = old.status.clone();
            }
            if *old == facts {
                return;
            }
        }
        index.node_agents.insert(key.name, facts);
        index.dirty.agents = true;
    },
    drop: |index, key| index.dirty.agents |= index.node_agents.remove(&key.name).is_some(),
};

pub(super) const DAEMON_SETS: Store<DaemonSetFacts> = Store {
    malformed: None,
    // The operator's DaemonSets all live in its own namespace.
    keys: |index| names(index.daemon_sets.keys()),
    set: |index, key, facts| {
        // An answer to an own write may overtake the watch: older news mean nothing.
        let older = |known: &DaemonSetFacts| known.resource_version >= facts.resource_version;
        if !index.daemon_sets.get(&key.name).is_some_and(older) {
            index.daemon_sets.insert(key.name, facts);
            index.dirty.agents = true;
        }
    },
    drop: |index, key| index.dirty.agents |= index.daemon_sets.remove(&key.name).is_some(),
};

impl Index {
    fn pod_changed(&mut self, namespace: String, addresses: Vec<IpAddr>, coverage: bool) {
        // Whether an ExternalWorkload may hold an address depends on the pods that hold it.
        self.dirty.externals |= !addresses.is_empty() && !self.externals.is_empty();
        self.dirty.addresses.extend(addresses);
        if coverage {
            self.dirty.policies.namespaces.insert(namespace);
            self.dirty.policies.cluster = true;
        }
    }

    fn node_changed(&mut self, name: &str, old: &NodeFacts, new: &NodeFacts) {
        if old.addresses != new.addresses {
            for address in &old.addresses {
                if let Some(holders) = self.node_addresses.get_mut(address) {
                    holders.remove(name);
                    if holders.is_empty() {
                        self.node_addresses.remove(address);
                    }
                }
            }
            for address in &new.addresses {
                self.node_addresses.entry(*address).or_default().insert(name.to_owned());
            }
            self.dirty.addresses.extend(old.addresses.iter().chain(&new.addresses));
        }
        if old.pod_cidrs != new.pod_cidrs {
            let addresses: Vec<IpAddr> = self.pods.addresses_on(name).collect();
            self.dirty.addresses.extend(addresses);
        }
        if (&old.uid, &old.boot_id) != (&new.uid, &new.boot_id) && self.pods.any_on(name) {
            self.dirty.policies.all = true;
        }
        self.dirty.externals = true;
        self.dirty.agents = true;
        self.dirty.reports = true;
    }

    fn service_changed(&mut self, key: &ObjectKey, old: &ServiceFacts, new: &ServiceFacts) {
        for address in &old.addresses {
            if let Some(holders) = self.service_addresses.get_mut(address) {
                holders.remove(key);
                if holders.is_empty() {
                    self.service_addresses.remove(address);
                }
            }
        }
        for address in &new.addresses {
            self.service_addresses.entry(*address).or_default().insert(key.clone());
        }
        let others = old
            .addresses
            .iter()
            .chain(&new.addresses)
            .filter_map(|address| self.service_addresses.get(address))
            .flatten();
        self.dirty.services.extend(others.cloned());
        self.dirty.services.insert(key.clone());
        self.dirty.externals = true;
    }

    fn drop_endpoints(&mut self, key: &ObjectKey) {
        let Some(old) = self.endpoints.remove(key) else { return };
        self.endpoints_changed(key, &old);
        let service = ObjectKey::namespaced(key.namespace.clone(), old.service);
        if let Some(slices) = self.endpoints_of.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.endpoints_of.remove(&service);
            }
        }
    }

    fn endpoints_changed(&mut self, key: &ObjectKey, facts: &EndpointFacts) {
        let service = ObjectKey::namespaced(key.namespace.clone(), facts.service.clone());
        if is_api_server(&service) {
            self.dirty.addresses.extend(&facts.all);
        }
        self.dirty.services.insert(service);
    }

    fn report_changed(&mut self, old: &Report, new: &Report) {
        let what = |report: &Report| (report.node_uid.clone(), report.boot_id.clone(), report.proof.clone());
        // All that the node says counts for its node and boot, and as far as its last proof held.
        let same_node = what(old) == what(new);
        let changed = old
            .policies
            .iter()
            .filter(|(uid, row)| !same_node || new.policies.get(*uid) != Some(row))
            .chain(new.policies.iter().filter(|(uid, _)| !same_node || !old.policies.contains_key(*uid)));
        self.dirty.policies.uids.extend(changed.map(|(uid, _)| uid.clone()));
        self.dirty.policies.ids.extend(old.refused.symmetric_difference(&new.refused).cloned());
        if old.agent_version != new.agent_version {
            self.dirty.policies.ids.extend(new.refused.iter().cloned());
        }
        self.dirty.reports = true;
    }

    /// How long a heartbeat that was just seen goes on counting. The agent's clock is believed only for the very first
    /// sight of its Lease; later, what counts is that the Lease changes.
    pub(super) fn pulse(
        &self,
        key: &ObjectKey,
        heartbeat: Heartbeat,
        now: Instant,
        wall: SystemTime,
    ) -> Pulse {
        let duration = Duration::from_secs(heartbeat.duration.into());
        let until = match self.pulses.get(&key.name) {
            Some(known) if known.heartbeat == heartbeat => known.until,
            Some(_) => now + duration,
            None => {
                let age = Timestamp::try_from(wall)
                    .map(|wall| wall.duration_since(heartbeat.renewed))
                    .ok()
                    .map_or(Duration::MAX, |age| {
                        Duration::try_from(age).unwrap_or_else(|_| {
                            // Renewed in the future, by the agent's clock.
                            if age.unsigned_abs() <= CLOCK_SKEW { Duration::ZERO } else { Duration::MAX }
                        })
                    });
                now + duration.saturating_sub(age)
            }
        };
        Pulse { heartbeat, until }
    }

    pub(super) fn set_fresh(&mut self, node: &str, fresh: bool) {
        let changed = if fresh { self.fresh.insert(node.to_owned()) } else { self.fresh.remove(node) };
        if changed {
            self.dirty.reports = true;
            if self.pods.any_on(node) {
                self.dirty.policies.all = true;
            }
        }
    }

    /// Lets time pass: heartbeats that have run out stop counting. Returns when the next one will.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let flips: Vec<(String, bool)> = self
            .pulses
            .iter()
            .filter(|(node, pulse)| (pulse.until > now) != self.fresh.contains(*node))
            .map(|(node, pulse)| (node.clone(), pulse.until > now))
            .collect();
        for (node, fresh) in flips {
            self.set_fresh(&node, fresh);
        }
        self.pulses.values().map(|pulse| pulse.until).filter(|until| *until > now).min()
    }

    /// Notes that a policy's status was written.
    pub fn policy_written(
        &mut self,
        id: &PolicyId,
        uid: &str,
        status: holdfast_crds::policy_status::PolicyStatus,
    ) {
        if let Some(policy) = self.policies.get_mut(id).filter(|policy| policy.uid == uid) {
            policy.status = status;
        }
    }

    /// Notes that an ExternalWorkload's status was written.
    pub fn external_written(
        &mut self,
        key: &ObjectKey,
        uid: &str,
        status: holdfast_crds::external_workload::ExternalWorkloadStatus,
    ) {
        if let Some(external) = self.externals.get_mut(key).filter(|external| external.uid == uid) {
            external.status = status;
        }
    }

    /// Notes that a NodeAgent's status was written.
    pub fn node_agent_written(
        &mut self,
        name: &str,
        uid: &str,
        status: holdfast_crds::node_agent::NodeAgentStatus,
    ) {
        if let Some(agent) = self.node_agents.get_mut(name).filter(|agent| agent.uid == uid) {
            agent.status = status;
        }
    }
}
