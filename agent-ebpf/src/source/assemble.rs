//! Putting facts together from parts. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use holdfast_policy::model::{Entities, World};

use crate::facts::{Facts, SourceError};

/// Replaces a shared part only if it differs, so that whoever holds the old one can tell by the pointer.
pub(crate) fn renew<T: PartialEq>(part: &mut Arc<T>, new: T) -> bool {
    let differs = **part != new;
    if differs {
        *part = Arc::new(new);
    }
    differs
}

/// Adds the node's own addresses. One that has an identity keeps it: it is a workload and the host at once.
pub(crate) fn add_host(world: &mut World, addresses: &BTreeSet<IpAddr>) {
    for address in addresses {
        world.addresses.entry(*address).or_default().entities |= Entities::HOST | Entities::CLUSTER;
    }
}

/// An error of a place as a whole: a file, a directory, a kind.
pub(crate) fn error_of(place: impl Into<String>, message: impl Into<String>) -> SourceError {
    SourceError { place: place.into(), object: None, version: None, message: message.into() }
}

/// Adds to the facts that their source broke off. They stay as they are.
pub(crate) fn broke_off(facts: &mut Facts, problem: &str) {
    let mut errors = facts.errors.to_vec();
    errors.retain(|error| error.place != "source");
    errors.push(error_of("source", format!("the source broke off: {problem}")));
    facts.errors = Arc::new(errors);
}

/// Says in the log which errors are new, and which are gone.
pub(crate) fn log(before: &[SourceError], now: &[SourceError]) {
    for error in now.iter().filter(|error| !before.contains(error)) {
        tracing::warn!(place = error.place, object = error.object, "{}", error.message);
    }
    for error in before.iter().filter(|error| !now.contains(error)) {
        tracing::info!(place = error.place, object = error.object, "no longer: {}", error.message);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_policy::model::AddressFacts;

    use super::*;

    #[test]
    fn an_equal_part_is_not_replaced() {
        let mut part = Arc::new(vec![1]);
        let before = part.clone();
        assert!(!renew(&mut part, vec![1]));
        assert!(Arc::ptr_eq(&part, &before));
        assert!(renew(&mut part, vec![2]));
    }

    #[test]
    fn an_own_address_is_host_and_cluster_and_keeps_its_identity() {
        let (own, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut world = World::default();
        world.addresses.insert(own, AddressFacts { identity: Some(300), entities: Entities::KUBE_APISERVER });
        add_host(&mut world, &BTreeSet::from([own, other]));
        let both = Entities::HOST | Entities::CLUSTER;
        assert_eq!(
            world.addresses[&own],
            AddressFacts { identity: Some(300), entities: both | Entities::KUBE_APISERVER }
        );
        assert_eq!(world.addresses[&other], AddressFacts { identity: None, entities: both });
    }

    #[test]
    fn a_source_that_broke_off_is_one_error_and_changes_nothing_else() {
        let mut facts = Facts { complete: true, ..Facts::default() };
        broke_off(&mut facts, "one");
        broke_off(&mut facts, "two");
        assert_eq!(facts.errors.len(), 1);
        assert!(facts.errors[0].message.contains("two") && facts.complete);
    }
}
