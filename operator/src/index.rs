//! What the cluster looks like, fed by watch events. A plain state machine: no client, no clock of its own.
//!
//! For each kind there are five changes ([`Change`]): a listing begins, an object is there, an object does not parse, an
//! object is gone, the listing is complete. A listing never removes anything before it is complete, so a watch that
//! starts over (or a list that fails half-way) does not look like a cluster without objects.
//!
//! What a change makes stale is collected in [`Dirty`], which the planner takes away with [`Index::take_dirty`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use holdfast_policy::model::{PolicyId, World};
use holdfast_policy::selector::Labels;
use ipnet::IpNet;

use crate::facts::{
    DaemonSetFacts, EndpointFacts, ExternalFacts, Heartbeat, Malformed, NodeAgentFacts, NodeFacts, ObjectKey,
    PodFacts, PolicyFacts, Report, ServiceFacts,
};

mod objects;
mod pods;
mod queries;
#[cfg(test)]
mod tests;

pub use pods::{PodIndex, ShapeUse};
pub use queries::NoReport;

/// What happened to one object, or to the whole list, of a kind.
#[derive(Clone, Debug)]
pub enum Change<F> {
    /// A complete listing begins; nothing is removed before it ends.
    Begin,
    /// The object exists and looks like this.
    Set(ObjectKey, F),
    /// The object exists and does not parse.
    Bad(ObjectKey, Malformed),
    /// The object is gone.
    Gone(ObjectKey),
    /// The listing is complete; what it did not name is gone.
    End,
}

/// A change of one of the kinds that the operator watches.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each variant is named after its kind")]
pub enum Update {
    Pod(Change<PodFacts>),
    Node(Change<NodeFacts>),
    Namespace(Change<Labels>),
    Service(Change<ServiceFacts>),
    EndpointSlice(Change<EndpointFacts>),
    ServiceCidr(Change<Vec<IpNet>>),
    ExternalWorkload(Change<ExternalFacts>),
    WorkloadPolicy(Change<PolicyFacts>),
    ClusterWorkloadPolicy(Change<PolicyFacts>),
    WorkloadNode(Change<Report>),
    Lease(Change<Heartbeat>),
    NodeAgent(Change<NodeAgentFacts>),
    DaemonSet(Change<DaemonSetFacts>),
}

/// The kinds that the operator watches.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "each variant is named after its kind")]
pub enum Kind {
    Pod,
    Node,
    Namespace,
    Service,
    EndpointSlice,
    ServiceCidr,
    ExternalWorkload,
    WorkloadPolicy,
    ClusterWorkloadPolicy,
    WorkloadNode,
    Lease,
    NodeAgent,
    DaemonSet,
    AddressSlice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Pod,
        Self::Node,
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::ServiceCidr,
        Self::ExternalWorkload,
        Self::WorkloadPolicy,
        Self::ClusterWorkloadPolicy,
        Self::WorkloadNode,
        Self::Lease,
        Self::NodeAgent,
        Self::DaemonSet,
        Self::AddressSlice,
    ];

    /// The name, as the `kind` label of metrics has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceCidr => "ServiceCIDR",
            Self::ExternalWorkload => "ExternalWorkload",
            Self::WorkloadPolicy => "WorkloadPolicy",
            Self::ClusterWorkloadPolicy => "ClusterWorkloadPolicy",
            Self::WorkloadNode => "WorkloadNode",
            Self::Lease => "Lease",
            Self::NodeAgent => "NodeAgent",
            Self::DaemonSet => "DaemonSet",
            Self::AddressSlice => "AddressSlice",
        }
    }
}

/// Which policies' statuses may have changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DirtyPolicies {
    /// All of them.
    pub all: bool,
    /// The cluster policies.
    pub cluster: bool,
    /// Those of these namespaces.
    pub namespaces: BTreeSet<String>,
    /// These.
    pub ids: BTreeSet<PolicyId>,
    /// Those with these UIDs.
    pub uids: HashSet<String>,
}

impl DirtyPolicies {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this policy is among them.
    #[must_use]
    pub fn contains(&self, id: &PolicyId, policy: &PolicyFacts) -> bool {
        self.all
            || match &id.namespace {
                None => self.cluster,
                Some(namespace) => self.namespaces.contains(namespace),
            }
            || self.ids.contains(id)
            || self.uids.contains(&policy.uid)
    }
}

/// What has to be planned again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Dirty {
    /// Addresses whose holder may have changed.
    pub addresses: HashSet<IpAddr>,
    /// Namespaces whose labels may have changed.
    pub namespaces: BTreeSet<String>,
    /// Services whose ports or backends may have changed.
    pub services: HashSet<ObjectKey>,
    /// Whether what ExternalWorkloads are judged by may have changed.
    pub externals: bool,
    /// Policies whose status may have changed.
    pub policies: DirtyPolicies,
    /// Whether NodeAgents, DaemonSets or nodes may have changed.
    pub agents: bool,
    /// Whether the count of agents by state may have changed.
    pub reports: bool,
}

impl Dirty {
    /// Whether nothing has to be planned again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` names.
    pub fn merge(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        self.namespaces.extend(other.namespaces);
        self.services.extend(other.services);
        self.externals |= other.externals;
        self.policies.all |= other.policies.all;
        self.policies.cluster |= other.policies.cluster;
        self.policies.namespaces.extend(other.policies.namespaces);
        self.policies.ids.extend(other.policies.ids);
        self.policies.uids.extend(other.policies.uids);
        self.agents |= other.agents;
        self.reports |= other.reports;
    }
}

/// An agent's heartbeat as the operator sees it: how long it goes on being fresh, by the operator's own clock.
#[derive(Clone, Debug)]
struct Pulse {
    heartbeat: Heartbeat,
    until: Instant,
}

/// The Service whose endpoints are the API servers.
fn is_api_server(service: &ObjectKey) -> bool {
    service.namespace == "default" && service.name == "kubernetes"
}

/// What is known of the completeness of one kind.
#[derive(Clone, Debug, Default)]
struct Listing {
    /// While a listing runs: what was known before and has not been named yet.
    unseen: Option<HashSet<ObjectKey>>,
    /// Whether one listing was complete.
    synced: bool,
    /// Objects that do not parse.
    bad: BTreeSet<ObjectKey>,
}

/// The cluster as the operator knows it.
#[derive(Debug, Default)]
pub struct Index {
    pods: PodIndex,
    nodes: BTreeMap<String, NodeFacts>,
    node_addresses: HashMap<IpAddr, BTreeSet<String>>,
    world: World,
    services: HashMap<ObjectKey, ServiceFacts>,
    service_addresses: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    endpoints: HashMap<ObjectKey, EndpointFacts>,
    endpoints_of: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    service_cidrs: BTreeMap<String, Vec<IpNet>>,
    externals: BTreeMap<ObjectKey, ExternalFacts>,
    policies: BTreeMap<PolicyId, PolicyFacts>,
    reports: HashMap<String, Report>,
    pulses: HashMap<String, Pulse>,
    fresh: HashSet<String>,
    node_agents: BTreeMap<String, NodeAgentFacts>,
    daemon_sets: BTreeMap<String, DaemonSetFacts>,
    listings: BTreeMap<Kind, Listing>,
    dirty: Dirty,
}

/// The functions that `Index::change` needs for one kind.
struct Store<F> {
    /// The record of an object that does not parse; without one, what was known before stays.
    malformed: Option<fn(Malformed) -> F>,
    /// The keys of all known objects.
    keys: fn(&Index) -> HashSet<ObjectKey>,
    /// Takes an object in.
    set: fn(&mut Index, ObjectKey, F),
    /// Forgets an object.
    drop: fn(&mut Index, &ObjectKey),
}

impl Index {
    /// An empty index of a cluster in which Holdfast itself runs in `own_namespace`.
    #[must_use]
    pub fn new(own_namespace: &str) -> Self {
        let world = World { own_namespace: Some(own_namespace.to_owned()), ..World::default() };
        Self { world, ..Self::default() }
    }

    /// Takes one change in. `now` and `wall` are the same moment by the monotonic and by the wall clock.
    pub fn apply(&mut self, update: Update, now: Instant, wall: SystemTime) {
        match update {
            Update::Pod(change) => self.change(Kind::Pod, change, &objects::PODS),
            Update::Node(change) => self.change(Kind::Node, change, &objects::NODES),
            Update::Namespace(change) => self.change(Kind::Namespace, change, &objects::NAMESPACES),
            Update::Service(change) => self.change(Kind::Service, change, &objects::SERVICES),
            Update::EndpointSlice(change) => self.change(Kind::EndpointSlice, change, &objects::ENDPOINTS),
            Update::ServiceCidr(change) => self.change(Kind::ServiceCidr, change, &objects::SERVICE_CIDRS),
            Update::ExternalWorkload(change) => {
                self.change(Kind::ExternalWorkload, change, &objects::EXTERNALS);
            }
            Update::WorkloadPolicy(change) => self.change(Kind::WorkloadPolicy, change, &objects::POLICIES),
            Update::ClusterWorkloadPolicy(change) => {
                self.change(Kind::ClusterWorkloadPolicy, change, &objects::CLUSTER_POLICIES);
            }
            Update::WorkloadNode(change) => self.change(Kind::WorkloadNode, change, &objects::REPORTS),
            Update::NodeAgent(change) => self.change(Kind::NodeAgent, change, &objects::NODE_AGENTS),
            Update::DaemonSet(change) => self.change(Kind::DaemonSet, change, &objects::DAEMON_SETS),
            Update::Lease(Change::Set(key, heartbeat)) => {
                let pulse = self.pulse(&key, heartbeat, now, wall);
                self.set_fresh(&key.name, pulse.until > now);
                self.change(Kind::Lease, Change::Set(key, pulse), &objects::PULSES);
            }
            Update::Lease(change) => self.change(Kind::Lease, change.without_object(), &objects::PULSES),
        }
    }

    /// The part that all kinds share: listings, and the account of objects that do not parse.
    fn change<F>(&mut self, kind: Kind, change: Change<F>, store: &Store<F>) {
        match change {
            Change::Begin => {
                let unseen = (store.keys)(self);
                self.listings.entry(kind).or_default().unseen = Some(unseen);
            }
            Change::Set(key, facts) => {
                self.seen(kind, &key).bad.remove(&key);
                (store.set)(self, key, facts);
            }
            Change::Bad(key, malformed) => {
                self.seen(kind, &key).bad.insert(key.clone());
                if let Some(make) = store.malformed {
                    (store.set)(self, key, make(malformed));
                }
            }
            Change::Gone(key) => {
                self.seen(kind, &key).bad.remove(&key);
                (store.drop)(self, &key);
            }
            Change::End => {
                let listing = self.listings.entry(kind).or_default();
                listing.synced = true;
                for key in listing.unseen.take().unwrap_or_default() {
                    self.listings.entry(kind).or_default().bad.remove(&key);
                    (store.drop)(self, &key);
                }
            }
        }
    }

    fn seen(&mut self, kind: Kind, key: &ObjectKey) -> &mut Listing {
        let listing = self.listings.entry(kind).or_default();
        if let Some(unseen) = &mut listing.unseen {
            unseen.remove(key);
        }
        listing
    }

    /// Takes away what has become stale since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Whether anything has become stale.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether one listing of every kind that the index holds was complete: before that, what is missing here may well
    /// exist.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.unsynced().next().is_none()
    }

    /// The kinds of which no listing was complete yet.
    pub fn unsynced(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| {
            *kind != Kind::AddressSlice && self.listings.get(kind).is_none_or(|listing| !listing.synced)
        })
    }

    /// How many objects of each kind do not parse.
    pub fn bad(&self) -> impl Iterator<Item = (Kind, usize)> {
        Kind::ALL
            .into_iter()
            .map(|kind| (kind, self.listings.get(&kind).map_or(0, |listing| listing.bad.len())))
    }
}

impl<F> Change<F> {
    /// The same change for another record, where it carries none.
    fn without_object<G>(self) -> Change<G> {
        match self {
            Self::Begin => Change::Begin,
            Self::Set(key, _) | Self::Gone(key) => Change::Gone(key),
            Self::Bad(key, malformed) => Change::Bad(key, malformed),
            Self::End => Change::End,
        }
    }
}
