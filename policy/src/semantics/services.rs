//! Services at egress: permitted when every ready backend is.

use super::*;
use crate::model::{Backends, NetScope, Service};
use Direction::{Egress, Ingress};
use Protocol::{Tcp, Udp};

/// 10.96.0.1: TCP 80 -> web and db on 8080, TCP 81 -> web on 8080, TCP 82 -> nobody, TCP 83 -> known in part,
/// UDP 80 -> db on 53.
fn ask(policies: impl Into<Vec<Policy>>) -> Ask {
    let backends = |ready: &[(&str, u16)], complete| Backends {
        ready: ready.iter().map(|(address, port)| (ip(address), *port)).collect(),
        complete,
    };
    let ports = [
        ((Tcp, 80), backends(&[("10.0.0.1", 8080), ("10.0.0.2", 8080)], true)),
        ((Tcp, 81), backends(&[("10.0.0.1", 8080)], true)),
        ((Tcp, 82), backends(&[], true)),
        ((Tcp, 83), backends(&[("10.0.0.1", 8080)], false)),
        ((Udp, 80), backends(&[("10.0.0.2", 53)], true)),
    ];
    let mut ask = Ask::of(policies);
    let service = Service { namespace: "shop".to_owned(), name: "front".to_owned(), ports: ports.into() };
    ask.world.services.insert(ip("10.96.0.1"), service);
    ask
}

fn to_web() -> NetRule {
    peers([pods(&[("app", "web")])]).on(tcp(8080))
}

#[test]
fn a_service_is_permitted_when_every_backend_is_at_its_target_port() {
    let ask = ask([policy("shop/a").allow(Egress, to_web())]);
    assert!(ask.passes(&egress("10.96.0.1", Tcp, 81)));
    let to_both = egress("10.96.0.1", Tcp, 80);
    assert_eq!(ask.refused(&to_both).as_deref(), Some("shop/a network.egress"));
    assert_eq!(ask.problem(&to_both), Some(ServiceProblem::Backend(ip("10.0.0.2"), 8080)));
    let both = super::services::ask([policy("shop/a").allow(Egress, peers([pods(&[])]).on(tcp(8080)))]);
    assert!(both.passes(&to_both));
    let by_service_port =
        super::services::ask([policy("shop/a").allow(Egress, peers([pods(&[])]).on(tcp(80)))]);
    assert!(!by_service_port.passes(&to_both), "the rule is about the target port");
}

#[test]
fn the_backends_can_be_allowed_by_different_rules_of_different_policies() {
    let ask = ask([
        policy("shop/a").allow(Egress, to_web()),
        policy("shop/b").allow(Egress, peers([block("10.0.0.2/32", &[])])),
    ]);
    assert!(ask.passes(&egress("10.96.0.1", Tcp, 80)));
}

#[test]
fn one_denied_backend_denies_the_service_by_that_rule() {
    let ask = ask([
        policy("shop/a").allow(Egress, anyone()),
        policy("shop/b").deny(Egress, peers([pods(&[("app", "db")])])).rejecting(),
    ]);
    assert_eq!(
        ask.refused(&egress("10.96.0.1", Tcp, 80)).as_deref(),
        Some("shop/b network.egress.deny[0] reject")
    );
    assert!(ask.passes(&egress("10.96.0.1", Tcp, 81)));
}

#[test]
fn a_service_port_is_of_one_protocol() {
    let ask = ask([policy("shop/a").allow(Egress, peers([pods(&[("app", "db")])]).on(udp(53)))]);
    assert!(ask.passes(&egress("10.96.0.1", Udp, 80)));
    assert!(!ask.passes(&egress("10.96.0.1", Tcp, 80)));
}

#[test]
fn without_a_ready_backend_or_with_unknown_ones_or_at_no_port_of_it_a_service_is_refused() {
    let ask = ask([policy("shop/a").allow(Egress, anyone())]);
    for (port, problem) in
        [(82, ServiceProblem::NoneReady), (83, ServiceProblem::Incomplete), (84, ServiceProblem::NoSuchPort)]
    {
        let packet = egress("10.96.0.1", Tcp, port);
        assert_eq!(ask.refused(&packet).as_deref(), Some("shop/a network.egress"), "{port}");
        assert_eq!(ask.problem(&packet), Some(problem));
    }
    let ping = Packet { transport: Transport::Other, ..egress("10.96.0.1", Tcp, 0) };
    assert_eq!(ask.problem(&ping), Some(ServiceProblem::NoSuchPort));
}

#[test]
fn a_workload_that_is_not_isolated_reaches_every_service() {
    let ask = ask([policy("shop/a").isolating(Ingress)]);
    for port in [80, 82, 83, 84] {
        assert!(ask.passes(&egress("10.96.0.1", Tcp, port)));
    }
}

#[test]
fn the_virtual_address_itself_is_matched_by_no_rule() {
    let ask = ask([policy("shop/a").allow(Egress, peers([block("10.96.0.0/16", &[])]))]);
    assert!(!ask.passes(&egress("10.96.0.1", Tcp, 81)));
    assert!(ask.passes(&egress("10.96.0.2", Tcp, 81)), "no Service has that one");
}

#[test]
fn a_part_of_the_host_sees_the_backends_so_the_virtual_address_is_an_address_like_any_other() {
    let mut ask = ask([policy("shop/a").allow(Egress, peers([block("10.96.0.0/16", &[])]))]);
    ask.workload.net = NetScope::HostPart;
    assert!(ask.passes(&egress("10.96.0.1", Tcp, 81)));
}

#[test]
fn an_audit_policy_counts_the_service_that_it_would_refuse() {
    let ask = ask([
        policy("shop/a").allow(Egress, peers([pods(&[])])),
        policy("shop/b").deny(Egress, peers([pods(&[("app", "db")])])).audit(),
    ]);
    assert_eq!(ask.audited(&egress("10.96.0.1", Tcp, 80)).as_deref(), Some("shop/b network.egress.deny[0]"));
    assert_eq!(ask.audited(&egress("10.96.0.1", Tcp, 81)), None);
    let ask = super::services::ask([policy("shop/a").allow(Egress, to_web()).audit()]);
    assert_eq!(ask.audited(&egress("10.96.0.1", Tcp, 81)), None);
    for port in [80, 82, 83, 84] {
        assert_eq!(
            ask.audited(&egress("10.96.0.1", Tcp, port)).as_deref(),
            Some("shop/a network.egress"),
            "{port}"
        );
    }
}
