//! Services, and the endpoints behind them.

use std::net::IpAddr;

use holdfast_crds::pod::protocol;
use holdfast_policy::model::Protocol;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::address;

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A port of a Service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ServicePortFacts {
    /// The name that joins it with the ports of EndpointSlices; empty where there is only one.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the virtual address.
    pub port: u16,
}

/// A Service with virtual addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFacts {
    /// The virtual addresses, canonical; none for a headless Service or an alias.
    pub addresses: Vec<IpAddr>,
    /// The TCP and UDP ports.
    pub ports: Vec<ServicePortFacts>,
}

impl ServiceFacts {
    /// The record of a Service.
    #[must_use]
    pub fn new(service: &Service) -> Self {
        let Some(spec) = service.spec.as_ref() else { return Self::default() };
        if spec.type_.as_deref() == Some("ExternalName") {
            return Self::default();
        }
        let mut addresses: Vec<IpAddr> = spec
            .cluster_ips
            .iter()
            .flatten()
            .map(String::as_str)
            .chain(spec.cluster_ip.as_deref())
            .filter_map(address)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut ports: Vec<ServicePortFacts> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(ServicePortFacts {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: protocol(port.protocol.as_deref())?,
                    port: u16::try_from(port.port).ok().filter(|port| *port > 0)?,
                })
            })
            .collect();
        ports.sort_unstable();
        Self { addresses, ports }
    }
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct EndpointPort {
    /// The name of the Service's port; empty where there is only one.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the backend.
    pub port: u16,
}

/// A part of a Service's endpoints, all of one address family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointFacts {
    /// The Service's name, in the slice's own namespace.
    pub service: String,
    /// Addresses of endpoints that are ready, canonical.
    pub ready: Vec<IpAddr>,
    /// Addresses of all endpoints, canonical.
    pub all: Vec<IpAddr>,
    /// The ports of each endpoint.
    pub ports: Vec<EndpointPort>,
}

impl EndpointFacts {
    /// The record of an EndpointSlice; `None` if it belongs to no Service.
    #[must_use]
    pub fn new(slice: &EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?.clone();
        let mut facts = Self { service, ..Self::default() };
        for endpoint in slice.endpoints.iter().flatten() {
            // Consumers are to read only the first address: the others are copies of no defined meaning.
            let Some(first) = endpoint.addresses.first().and_then(|text| address(text)) else { continue };
            facts.all.push(first);
            // No word on readiness is to be read as ready.
            if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true) {
                facts.ready.push(first);
            }
        }
        facts.ports = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: protocol(port.protocol.as_deref())?,
                    port: u16::try_from(port.port?).ok().filter(|port| *port > 0)?,
                })
            })
            .collect();
        facts.ready.sort_unstable();
        facts.ready.dedup();
        facts.all.sort_unstable();
        facts.all.dedup();
        Some(facts)
    }
}
