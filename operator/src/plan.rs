//! From the state of the cluster to what is to be written: AddressSlices, DaemonSets and statuses.
//!
//! [`Planner`] holds the [`Index`] and, while this replica leads, the [`Book`] of slices. It is told of changes, plans
//! what they make stale, hands out one [`Job`] at a time, and is told how each went. It has no client and no clock: every
//! call that needs the time is given it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use holdfast_crds::external_workload::ExternalWorkloadStatus;
use holdfast_crds::node_agent::NodeAgentStatus;
use holdfast_crds::policy_status::{NodeCounts, PolicyStatus};
use holdfast_policy::model::PolicyId;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::jiff::Timestamp;

use crate::facts::ObjectKey;
use crate::index::{Dirty, Index};

pub mod address;
pub mod conditions;
pub mod external;
pub mod identities;
pub mod node_agent;
pub mod policy;
mod queue;
pub mod service;
pub mod slices;
mod steps;
#[cfg(test)]
mod tests;

use address::Unpublished;
use external::{Judgement, Ranges};
use node_agent::AgentSettings;
use queue::Queue;
use slices::{Book, Key, Observed, Refusal, SliceNews, Write};

pub use queue::Failure;
pub use steps::Step;

/// A policy's status is written at most once in this time, but for conditions that flip.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// The status of a NodeAgent or ExternalWorkload is written at most once in this time, but for conditions that flip.
const OTHER_STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// For how long a node has to be gone before what its agent wrote is deleted: the watches of nodes and of what agents
/// write do not keep step.
const GONE_FOR: Duration = Duration::from_secs(30);

/// What plans depend on beside the cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How agents are deployed.
    pub agent: AgentSettings,
    /// Ranges of addresses that the cluster does not tell.
    pub ranges: Ranges,
}

/// What a job is about.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// The DaemonSet of this NodeAgent.
    DaemonSet(String),
    /// The status of this NodeAgent.
    NodeAgent(String),
    /// The status of this ExternalWorkload.
    External(ObjectKey),
    /// The status of this policy.
    Policy(PolicyId),
    /// The WorkloadNode of this node, which is gone.
    WorkloadNode(String),
    /// The Lease of the agent of this node, which is gone.
    Lease(String),
}

impl Subject {
    /// The kind, as the label of metrics has it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DaemonSet(_) => "DaemonSet",
            Self::NodeAgent(_) => "NodeAgent",
            Self::External(_) => "ExternalWorkload",
            Self::Policy(PolicyId { namespace: Some(_), .. }) => "WorkloadPolicy",
            Self::Policy(_) => "ClusterWorkloadPolicy",
            Self::WorkloadNode(_) => "WorkloadNode",
            Self::Lease(_) => "Lease",
        }
    }
}

/// A status to be written, a DaemonSet to be applied, or an object to be deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What it is about.
    pub subject: Subject,
    /// What to write.
    pub content: Content,
}

/// What a job writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A DaemonSet.
    DaemonSet(Box<DaemonSet>),
    /// The status of the NodeAgent with this UID.
    NodeAgent(String, NodeAgentStatus),
    /// The status of the ExternalWorkload with this UID.
    External(String, ExternalWorkloadStatus),
    /// The status of the policy with this UID.
    Policy(String, PolicyStatus),
    /// Nothing: the object with this UID is deleted.
    Deletion(String),
}

/// A DaemonSet as it was last applied.
#[derive(Debug)]
struct Applied {
    /// What was wanted.
    wanted: DaemonSet,
    /// The version, in the sense of [`crate::facts::DaemonSetFacts`], that came of it.
    version: u64,
}

/// State of the cluster in, jobs out.
#[derive(Debug)]
pub struct Planner {
    index: Index,
    settings: Settings,
    /// While this replica leads.
    book: Option<Book>,
    judgement: Judgement,
    unpublished: HashMap<IpAddr, Unpublished>,
    /// The entries of each Service.
    services: HashMap<ObjectKey, Vec<Key>>,
    applied: HashMap<String, Applied>,
    queue: Queue,
    /// While the watch of slices lists them: what is on the server and was not listed yet.
    unlisted: Option<HashSet<String>>,
    /// What is stale and not planned yet.
    dirty: Dirty,
    /// Whether a whole pass was made since this replica leads: before that, the book is what an earlier leader left.
    planned: bool,
}

impl Planner {
    /// A planner of an empty cluster that does not lead.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            index: Index::new(&settings.agent.namespace),
            settings,
            book: None,
            judgement: Judgement::default(),
            unpublished: HashMap::new(),
            services: HashMap::new(),
            applied: HashMap::new(),
            queue: Queue::default(),
            unlisted: None,
            dirty: Dirty::default(),
            planned: false,
        }
    }

    /// The state of the cluster.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The state of the cluster, to be told of changes.
    pub fn index_mut(&mut self) -> &mut Index {
        &mut self.index
    }

    /// The slices, while this replica leads.
    #[must_use]
    pub fn book(&self) -> Option<&Book> {
        self.book.as_ref()
    }

    /// Begins to lead, with the slices as they were just read. Everything is to be planned anew.
    pub fn lead(&mut self, slices: Vec<(String, Observed)>) {
        let book = Book::load(slices);
        self.services = HashMap::new();
        for key in book.keys() {
            if let Some(slices::Entry::Service(entry)) = book.entry(key) {
                let service = ObjectKey::namespaced(entry.namespace.clone(), entry.name.clone());
                self.services.entry(service).or_default().push(key.clone());
            }
        }
        self.book = Some(book);
        self.queue = Queue::default();
        self.applied.clear();
        self.unpublished.clear();
        self.judgement = Judgement::default();
        self.unlisted = None;
        self.planned = false;
        self.dirty = self.everything();
    }

    /// Stops leading: nothing more is to be written.
    pub fn step_down(&mut self) {
        self.book = None;
        self.unlisted = None;
        self.queue = Queue::default();
    }

    /// Whether anything can be planned: this replica leads, and knows the whole cluster.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.book.is_some() && self.index.synced()
    }

    /// Whether there is something to plan.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.index.is_dirty() || !self.dirty.is_empty()
    }

    /// Takes in what a watch says of AddressSlices.
    pub fn slice_news(&mut self, news: SliceNews) {
        let Some(book) = &mut self.book else { return };
        match news {
            SliceNews::Begin => self.unlisted = Some(book.slices().keys().cloned().collect()),
            SliceNews::Seen(name, observed) => {
                if let Some(unlisted) = &mut self.unlisted {
                    unlisted.remove(&name);
                }
                book.observe(&name, observed);
            }
            SliceNews::Gone { name, resource_version } => book.gone(&name, &resource_version),
            SliceNews::End => {
                for name in self.unlisted.take().unwrap_or_default() {
                    book.unlisted(&name);
                }
            }
        }
    }

    /// The next slice to be read.
    pub fn next_read(&mut self, now: Instant) -> Option<Write> {
        if !self.ready() {
            return None;
        }
        self.book.as_mut()?.next_read(now)
    }

    /// The next slice to be written.
    pub fn next_write(&mut self, now: Instant) -> Option<Write> {
        if !self.ready() || !self.planned {
            return None;
        }
        self.book.as_mut()?.next_write(now)
    }

    /// Takes in that a slice was created or updated.
    pub fn slice_written(&mut self, name: &str, uid: String, resource_version: String) {
        if let Some(book) = &mut self.book {
            book.written(name, uid, resource_version);
        }
    }

    /// Takes in that a slice was deleted.
    pub fn slice_deleted(&mut self, name: &str) {
        if let Some(book) = &mut self.book {
            book.deleted(name);
        }
    }

    /// Takes in what a slice was read as.
    pub fn slice_read(&mut self, name: &str, observed: Option<Observed>) {
        if let Some(book) = &mut self.book {
            book.read(name, observed);
        }
    }

    /// Takes in that a request about a slice failed. `jitter` is between 0 and 1.
    pub fn slice_failed(&mut self, name: &str, failure: Failure, now: Instant, jitter: f64) {
        if let Some(book) = &mut self.book {
            let refusal = match failure {
                Failure::Conflict => Refusal::Conflict,
                Failure::Invalid | Failure::Retry => {
                    Refusal::Failed(now + queue::backoff(book.failures(name), jitter))
                }
            };
            book.refused(name, refusal);
        }
    }

    /// Lets time pass. Returns when something will be due that no change announces.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let heartbeat = self.index.tick(now);
        let slice = self.book.as_mut().and_then(|book| {
            book.tick(now);
            book.wake(now)
        });
        [heartbeat, slice, self.queue.wake(now)].into_iter().flatten().min()
    }

    /// How many addresses that somebody claims are not published, by reason.
    pub fn unpublished(&self) -> impl Iterator<Item = (Unpublished, usize)> {
        Unpublished::ALL.into_iter().map(|reason| {
            let count = self.unpublished.values().filter(|unpublished| **unpublished == reason).count();
            (reason, count)
        })
    }

    /// Whether everything that is known is planned and written.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.ready()
            && !self.is_dirty()
            && self.book.as_ref().is_some_and(Book::settled)
            && self.queue.is_empty()
    }
}

/// How far a policy got, for the metric; `None` when the policy is gone.
pub type PolicyProgress = (PolicyId, Option<NodeCounts>);

/// The current second, as statuses have it.
#[must_use]
pub fn to_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
