//! A planner, and a cluster that it is told of.

use super::*;

/// A planner that leads and knows the whole, empty cluster.
pub(super) struct Rig {
    pub(super) planner: Planner,
    pub(super) now: Instant,
}

pub(super) fn parse<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

impl Rig {
    pub(super) fn new() -> Self {
        let agent = node_agent::tests::settings();
        let mut rig = Self {
            planner: Planner::new(Settings { agent, ranges: Ranges::default() }),
            now: Instant::now(),
        };
        macro_rules! listed {
            ($($kind:ident),*) => {$( rig.feed(Update::$kind(Change::Begin)); rig.feed(Update::$kind(Change::End)); )*};
        }
        listed!(
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
            DaemonSet
        );
        rig.planner.lead(Vec::new());
        rig.pass();
        rig
    }

    pub(super) fn feed(&mut self, update: Update) {
        self.planner.index_mut().apply(update, self.now, SystemTime::now());
    }

    pub(super) fn pass(&mut self) {
        if let Some(mut dirty) = self.planner.begin() {
            for step in Step::ALL {
                self.planner.run(step, &mut dirty, self.now, Timestamp::now());
            }
        }
    }

    pub(super) fn node(&mut self, name: &str, cidr: &str, address: &str) {
        let node = json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDRs": [cidr]}, "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"bootID": "boot", "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "",
                "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
                "architecture": ""}}});
        self.feed(Update::Node(Change::Set(ObjectKey::cluster(name), NodeFacts::new(&parse(node)))));
    }

    pub(super) fn pod(&mut self, namespace: &str, name: &str, app: &str, node: &str, address: &str) {
        let pod = json!({"metadata": {"namespace": namespace, "name": name, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIP": address}});
        self.feed(Update::Pod(Change::Set(
            ObjectKey::namespaced(namespace, name),
            PodFacts::new(&parse(pod)),
        )));
    }

    pub(super) fn gone(&mut self, namespace: &str, name: &str) {
        self.feed(Update::Pod(Change::Gone(ObjectKey::namespaced(namespace, name))));
    }

    pub(super) fn agent(&mut self, node: &str, policies: &[(&str, PolicyRow)]) {
        self.agent_of(node, holdfast_crds::schema::RELEASE, policies, &[]);
    }

    /// An agent of some version, which could not make sense of some policies.
    pub(super) fn agent_of(
        &mut self,
        node: &str,
        version: &str,
        policies: &[(&str, PolicyRow)],
        refused: &[&str],
    ) {
        let now = Timestamp::now();
        let beat = Heartbeat { uid: format!("lease-{node}"), renewed: now, duration: 40, proven: Some(now) };
        self.feed(Update::Lease(Change::Set(ObjectKey::cluster(node), beat)));
        let report = Report {
            uid: format!("report-{node}"),
            node_uid: node.to_owned(),
            boot_id: "boot".to_owned(),
            agent_version: version.to_owned(),
            policies: policies.iter().map(|(uid, row)| ((*uid).to_owned(), row.clone())).collect(),
            proof: Proof::Holds,
            refused: refused.iter().map(|name| PolicyId::namespaced("shop", *name)).collect(),
        };
        self.feed(Update::WorkloadNode(Change::Set(ObjectKey::cluster(node), report)));
    }

    pub(super) fn policy(&mut self, name: &str, spec: &Value) {
        let policy: WorkloadPolicy =
            parse(json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
            "metadata": {"namespace": "shop", "name": name, "uid": name, "generation": 1}, "spec": spec}));
        let facts = PolicyFacts::of_namespaced(&policy);
        self.feed(Update::WorkloadPolicy(Change::Set(ObjectKey::namespaced("shop", name), facts)));
    }

    pub(super) fn entry(&self, address: &str) -> Option<slices::AddressFacts> {
        match self.planner.book().unwrap().entry(&Key::Address(address.parse().unwrap())) {
            Some(Entry::Address(facts)) => Some(facts.clone()),
            _ => None,
        }
    }

    pub(super) fn status(&self, name: &str) -> PolicyStatus {
        let id = PolicyId::namespaced("shop", name);
        let facts = &self.planner.index().policies()[&id];
        policy::status(self.planner.index(), &id, facts, Timestamp::now())
    }

    pub(super) fn condition(&self, name: &str, kind: &str) -> (String, String) {
        let status = self.status(name);
        let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        (found.status.clone(), found.reason.clone())
    }
}

pub(super) fn programmed(rules: Vec<Row>) -> PolicyRow {
    PolicyRow { generation: 1, state: PolicyState::Programmed, message: None, rules }
}

pub(super) fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}
