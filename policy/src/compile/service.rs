//! Services: a virtual address is permitted where every backend is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::CompileError;
use crate::model::{Backends, Direction, Entities, Protocol, World};

use super::cidr::Trie;
use super::classes::{Classes, Local};
use super::netset::RowsByClass;
use super::network::{Cell, PortPrefix, Scope, VerdictKey};
use super::universe::{ClassId, ClassKey, Renumbering, ServicePortKey};

/// The classes of Services.
#[derive(Debug, Default)]
pub(crate) struct ServiceClasses {
    /// Address -> class.
    pub(crate) by_address: BTreeMap<IpAddr, ClassId>,
    classes: Vec<(ClassId, Vec<ServicePort>)>,
    /// Backend class -> places in `classes`.
    by_backend: HashMap<Local, Vec<usize>>,
}

#[derive(Debug)]
struct ServicePort {
    protocol: Protocol,
    port: u16,
    /// Identity class, CIDR class and target port.
    backends: Vec<(Option<Local>, Option<Local>, u16)>,
}

/// Classifies the world's Services by the classes of their backends.
pub(crate) fn classify_services(
    world: &World,
    classes: &Classes,
    identity_class: &BTreeMap<(u32, Entities), ClassId>,
    cidr_class: &BTreeMap<IpNet, ClassId>,
    numbering: &mut Renumbering<'_>,
) -> Result<ServiceClasses, CompileError> {
    let trie = Trie::new(cidr_class);
    let key_of = |protocol, port, backends: &Backends| {
        let classified = backends.ready.iter().map(|(address, target)| {
            let address = address.to_canonical();
            let facts = world.facts(address);
            let identity = identity_class.get(&(facts.identity.unwrap_or(0), facts.entities));
            (identity.copied().unwrap_or(ClassId::NONE), trie.class(address), *target)
        });
        let distinct: BTreeSet<_> = classified.collect();
        ServicePortKey { protocol, port, backends: distinct.into_iter().collect() }
    };
    let mut services = ServiceClasses::default();
    for (address, service) in &world.services {
        let ports: Vec<ServicePortKey> = service
            .ports
            .iter()
            .filter(|(_, backends)| backends.complete && !backends.ready.is_empty())
            .map(|((protocol, port), backends)| key_of(*protocol, *port, backends))
            .collect();
        if ports.is_empty() {
            services.by_address.insert(*address, ClassId::NONE);
            continue;
        }
        let (id, new) = numbering.number(ClassKey::Service(ports.clone()))?;
        services.by_address.insert(*address, id);
        if new {
            services.add(id, ports, classes);
        }
    }
    Ok(services)
}

impl ServiceClasses {
    fn add(&mut self, id: ClassId, keys: Vec<ServicePortKey>, classes: &Classes) {
        let place = self.classes.len();
        let mut ports = Vec::with_capacity(keys.len());
        for key in keys {
            let local = |(identity, cidr, target)| (classes.local(identity), classes.local(cidr), target);
            let backends: Vec<_> = key.backends.into_iter().map(local).collect();
            for class in backends.iter().flat_map(|(identity, cidr, _)| [*identity, *cidr]).flatten() {
                let list = self.by_backend.entry(class).or_default();
                if list.last() != Some(&place) {
                    list.push(place);
                }
            }
            ports.push(ServicePort { protocol: key.protocol, port: key.port, backends });
        }
        self.classes.push((id, ports));
    }
}

/// Adds the rows of the Services that these rules say something of.
pub(crate) fn service_rows(
    services: &ServiceClasses,
    rows: &RowsByClass,
    verdicts: &mut Vec<(VerdictKey, Cell)>,
) {
    let concerned: BTreeSet<usize> = if rows.contains_key(&Local::ANY) {
        (0..services.classes.len()).collect()
    } else {
        rows.keys().filter_map(|class| services.by_backend.get(class)).flatten().copied().collect()
    };
    for place in concerned {
        let (class, ports) = &services.classes[place];
        for port in ports {
            let cell = of_all(port, rows);
            if !cell.is_empty() {
                let scope = Scope::Ports { protocol: port.protocol, prefix: PortPrefix::exact(port.port) };
                verdicts.push((VerdictKey { direction: Direction::Egress, class: *class, scope }, cell));
            }
        }
    }
}

/// What the rules say of all backends together: allowed where each one is, refused by the first rule that refuses any.
fn of_all(port: &ServicePort, rows: &RowsByClass) -> Cell {
    let mut together = Cell { allow: true, audit_allow: true, deny: None, audit_deny: None };
    for (identity, cidr, target) in &port.backends {
        let backend = [Some(Local::ANY), *identity, *cidr]
            .into_iter()
            .flatten()
            .fold(Cell::default(), |cell, class| cell.join(cell_of(rows, class, port.protocol, *target)));
        let refused = together.join(backend);
        together = Cell {
            allow: together.allow && backend.allow,
            audit_allow: together.audit_allow && (backend.allow || backend.audit_allow),
            ..refused
        };
    }
    together
}

/// The answer of one class: the longest of its rows that holds the port.
fn cell_of(rows: &RowsByClass, class: Local, protocol: Protocol, port: u16) -> Cell {
    let Some(rows) = rows.get(&class) else { return Cell::default() };
    let length = |scope: &Scope| match scope {
        Scope::All => Some(None),
        Scope::Ports { protocol: of, prefix } if *of == protocol && prefix.contains(port) => {
            Some(Some(prefix.len))
        }
        Scope::Ports { .. } => None,
    };
    rows.iter()
        .filter_map(|(scope, cell)| length(scope).map(|length| (length, *cell)))
        .max_by_key(|(length, _)| *length)
        .map_or_else(Cell::default, |(_, cell)| cell)
}
