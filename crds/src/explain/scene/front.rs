//! Services, and what is behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use holdfast_policy::model::{Backends, Protocol, Service, canonical};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Subject;
use super::objects::named;
use crate::pod;

/// A Service.
#[derive(Debug, Clone)]
pub(in crate::explain) struct Front {
    pub(in crate::explain) namespace: String,
    pub(in crate::explain) name: String,
    /// None for a headless one.
    pub(in crate::explain) addresses: Vec<IpAddr>,
    /// For each port, where it leads: index of the subject and its port.
    pub(in crate::explain) ports: BTreeMap<(Protocol, u16), Vec<(usize, u16)>>,
}

/// The Service, and the workloads of `subjects` behind it. One without an address is given one by `invent`.
pub(super) fn front(
    service: &core::Service,
    subjects: &[Subject],
    invent: &mut impl FnMut() -> IpAddr,
) -> Front {
    let (namespace, name) = named(&service.metadata);
    let spec = service.spec.clone().unwrap_or_default();
    let stated: Vec<&String> = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).collect();
    let headless =
        spec.type_.as_deref() == Some("ExternalName") || stated.iter().any(|address| *address == "None");
    let mut addresses: Vec<IpAddr> =
        stated.iter().filter_map(|address| Some(canonical(address.parse().ok()?))).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() && !headless {
        addresses.push(invent());
    }
    let mut behind: Vec<(usize, &Subject)> = subjects
        .iter()
        .enumerate()
        .filter(|(_, subject)| {
            subject.ready
                && subject.workload.namespace == namespace
                && spec.selector.as_ref().is_some_and(|selector| {
                    selector.iter().all(|(key, value)| subject.workload.labels.get(key) == Some(value))
                })
        })
        .collect();
    if behind.iter().any(|(_, subject)| subject.single) {
        behind.retain(|(_, subject)| subject.single);
    }
    let mut ports = BTreeMap::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = pod::protocol(port.protocol.as_deref()) else { continue };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let target = |subject: &Subject| match &port.target_port {
            None => Some(number),
            Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
            Some(IntOrString::String(name)) => {
                subject.workload.named_ports.get(&(name.clone(), protocol)).copied()
            }
        };
        let targets = behind.iter().filter_map(|(index, subject)| Some((*index, target(subject)?)));
        ports.insert((protocol, number), targets.collect());
    }
    Front { namespace, name, addresses, ports }
}

/// The Service at one of its addresses. `complete`: all its backends are known.
pub(super) fn virtual_service(
    front: &Front,
    address: IpAddr,
    complete: bool,
    subjects: &[Subject],
) -> Service {
    let backends = |targets: &Vec<(usize, u16)>| {
        let of = |(index, port): &(usize, u16)| {
            let addresses =
                subjects.get(*index).map(|subject| subject.addresses.as_slice()).unwrap_or_default();
            let same = addresses.iter().find(|backend| backend.is_ipv4() == address.is_ipv4());
            same.or(addresses.first()).map(|backend| (*backend, *port))
        };
        Backends { ready: targets.iter().filter_map(of).collect(), complete }
    };
    Service {
        namespace: front.namespace.clone(),
        name: front.name.clone(),
        ports: front.ports.iter().map(|(port, targets)| (*port, backends(targets))).collect(),
    }
}
