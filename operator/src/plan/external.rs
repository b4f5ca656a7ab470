//! Which ExternalWorkloads may hold the addresses that they claim.
//!
//! Whoever may write one could otherwise give the labels of a trusted workload to the address of another, so one that
//! claims anything of the cluster's is refused as a whole.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use holdfast_crds::external_workload::ExternalWorkloadStatus;
use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;

use super::address::External;
use super::conditions::{Conditions, Truth};
use crate::facts::{ExternalFacts, ObjectKey, address};
use crate::index::Index;

/// Ranges that the operator was told of, beside those that the cluster tells.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// Of pods.
    pub pods: Vec<IpNet>,
    /// Of Services.
    pub services: Vec<IpNet>,
}

/// Why an ExternalWorkload is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// In one word.
    pub reason: &'static str,
    /// For people; names the field.
    pub message: String,
}

/// What became of all ExternalWorkloads.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Those that are refused.
    pub refused: BTreeMap<ObjectKey, Refusal>,
    /// The addresses of all others.
    pub addresses: HashMap<IpAddr, External>,
}

/// Judges all ExternalWorkloads, the older first: of two that claim one address, the older has it.
#[must_use]
pub fn judge(index: &Index, ranges: &Ranges) -> Judgement {
    let mut judgement = Judgement::default();
    let mut holders: HashMap<IpAddr, &ObjectKey> = HashMap::new();
    let mut in_order: Vec<(&ObjectKey, &ExternalFacts)> = index.externals().iter().collect();
    in_order.sort_by_key(|(key, facts)| (facts.created, *key));
    for (key, facts) in in_order {
        match claims(index, ranges, &holders, facts) {
            Err(refusal) => {
                judgement.refused.insert(key.clone(), refusal);
            }
            Ok(addresses) => {
                let external =
                    External { identity: Arc::new(facts.identity.clone()), node: facts.node.clone() };
                for address in addresses {
                    holders.insert(address, key);
                    judgement.addresses.insert(address, external.clone());
                }
            }
        }
    }
    judgement
}

fn claims(
    index: &Index,
    ranges: &Ranges,
    holders: &HashMap<IpAddr, &ObjectKey>,
    facts: &ExternalFacts,
) -> Result<Vec<IpAddr>, Refusal> {
    let refuse = |reason, message| Err(Refusal { reason, message });
    if let Some(problem) = &facts.malformed {
        return refuse("Malformed", problem.clone());
    }
    if let Some(node) = &facts.node
        && index.nodes().contains_key(node)
    {
        return refuse("NodeInCluster", format!("spec.node: {node} is a node of this cluster"));
    }
    let mut addresses = Vec::with_capacity(facts.addresses.len());
    for (at, text) in facts.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{at}]");
        let Some(address) = address(text) else {
            return refuse("InvalidAddress", format!("{field}: {text} is no IP address"));
        };
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return refuse(
                "InvalidAddress",
                format!("{field}: {address} cannot be the address of one machine"),
            );
        }
        let within = |range: &&IpNet| range.contains(&address);
        if let Some(node) = index.nodes_at(address).next() {
            return refuse("NodeAddress", format!("{field}: {address} is an address of node {node}"));
        }
        if index.is_api_server(address) {
            return refuse("ApiServerAddress", format!("{field}: {address} is an address of the API server"));
        }
        if index.pods().claims(address).next().is_some() {
            return refuse("PodAddress", format!("{field}: {address} is the address of a pod"));
        }
        let pod_ranges = index.nodes().values().flat_map(|node| &node.pod_cidrs).chain(&ranges.pods);
        if let Some(range) = pod_ranges.into_iter().find(within) {
            return refuse("PodRange", format!("{field}: {address} is in {range}, a range of pods"));
        }
        if let Some(service) = index.services_at(address).next() {
            return refuse(
                "ServiceAddress",
                format!("{field}: {address} is the address of Service {service}"),
            );
        }
        if let Some(range) = index.service_cidrs().chain(&ranges.services).find(within) {
            return refuse("ServiceRange", format!("{field}: {address} is in {range}, a range of Services"));
        }
        if let Some(holder) = holders.get(&address) {
            return refuse(
                "AlreadyClaimed",
                format!("{field}: {address} belongs to ExternalWorkload {holder}"),
            );
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// The status of an ExternalWorkload.
#[must_use]
pub fn status(facts: &ExternalFacts, refusal: Option<&Refusal>, now: Timestamp) -> ExternalWorkloadStatus {
    let mut conditions = Conditions::new(&facts.status.conditions, facts.generation, now);
    match refusal {
        None => conditions.add("Accepted", Truth::True, "Accepted", "its addresses are published"),
        Some(refusal) => conditions.add("Accepted", Truth::False, refusal.reason, refusal.message.clone()),
    }
    ExternalWorkloadStatus { observed_generation: Some(facts.generation), conditions: conditions.done() }
}
