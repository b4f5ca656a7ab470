//! A Service's entries: its virtual addresses with the ready backends of each port, in parts where they are many.

use std::collections::BTreeSet;

use holdfast_crds::address_slice::{Backend, ServiceEntry, ServicePort};

use crate::facts::ObjectKey;
use crate::facts::pod::to_api;
use crate::index::Index;

/// At most so many backends are in one part; a part is then well below the size of a slice.
pub const BACKENDS_PER_PART: usize = 400;
/// At most so many ports are in one part.
pub const PORTS_PER_PART: usize = 100;

/// The entries of a Service. One without virtual addresses has none.
#[must_use]
pub fn entries(index: &Index, key: &ObjectKey) -> Vec<ServiceEntry> {
    let Some(service) = index.service(key) else { return Vec::new() };
    let mut entries = Vec::new();
    for address in &service.addresses {
        // Of two Services that claim one address the first by name has it.
        if index.services_at(*address).next() != Some(key) {
            continue;
        }
        let mut parts: Vec<Vec<ServicePort>> = vec![Vec::new()];
        let mut backends_in_part = 0;
        for port in &service.ports {
            let backends: BTreeSet<Backend> = index
                .endpoints(key)
                .flat_map(|slice| slice.ports.iter().map(move |port| (slice, port)))
                .filter(|(_, endpoint)| endpoint.name == port.name && endpoint.protocol == port.protocol)
                .flat_map(|(slice, endpoint)| slice.ready.iter().map(|ready| (*ready, endpoint.port)))
                .filter(|(ready, _)| ready.is_ipv4() == address.is_ipv4())
                .map(|(ready, port)| Backend { address: ready, port })
                .collect();
            let mut backends = backends.into_iter().peekable();
            loop {
                if backends_in_part >= BACKENDS_PER_PART
                    || parts.last().is_some_and(|part| part.len() >= PORTS_PER_PART)
                {
                    parts.push(Vec::new());
                    backends_in_part = 0;
                }
                let taken: Vec<Backend> =
                    backends.by_ref().take(BACKENDS_PER_PART - backends_in_part).collect();
                backends_in_part += taken.len();
                if let Some(part) = parts.last_mut() {
                    part.push(ServicePort {
                        protocol: to_api(port.protocol),
                        port: port.port,
                        backends: taken,
                    });
                }
                if backends.peek().is_none() {
                    break;
                }
            }
        }
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        entries.extend((0..count).zip(parts).map(|(part, ports)| ServiceEntry {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            address: *address,
            part,
            parts: count,
            ports,
        }));
    }
    entries
}
