//! Several policies, directions, ports, deny, Audit and attribution.

use super::*;
use crate::model::NetScope;
use Direction::{Egress, Ingress};
use Protocol::{Sctp, Tcp, Udp};

#[test]
fn without_a_policy_everything_passes() {
    let ask = Ask::of([]);
    assert!(ask.passes(&ingress("198.51.100.7", Tcp, 22)));
    assert!(ask.passes(&egress("198.51.100.7", Udp, 53)));
}

#[test]
fn a_direction_that_is_present_and_empty_is_isolated_and_the_other_is_not() {
    let ask = Ask::of([policy("shop/a").isolating(Ingress)]);
    assert_eq!(ask.refused(&ingress("10.0.0.1", Tcp, 80)).as_deref(), Some("shop/a network.ingress"));
    assert!(ask.passes(&egress("10.0.0.1", Tcp, 80)));
}

#[test]
fn a_policy_of_another_namespace_or_other_labels_does_not_concern_the_workload() {
    let mut other = policy("shop/b").isolating(Ingress);
    other.target.pods = select(&[("app", "other")]);
    let ask = Ask::of([policy("bank/a").isolating(Ingress), other]);
    assert!(ask.passes(&ingress("10.0.0.1", Tcp, 80)));
}

#[test]
fn allows_of_several_policies_unite() {
    let ask = Ask::of([
        policy("shop/a").allow(Ingress, peers([pods(&[("app", "web")])]).on(tcp(80))),
        policy("cluster/b").allow(Ingress, peers([pods(&[("app", "db")])]).on(tcp(443))),
    ]);
    assert!(ask.passes(&ingress("10.0.0.1", Tcp, 80)));
    assert!(ask.passes(&ingress("10.0.0.2", Tcp, 443)));
    assert!(!ask.passes(&ingress("10.0.0.1", Tcp, 443)));
    assert!(!ask.passes(&ingress("10.0.0.2", Tcp, 80)));
}

#[test]
fn a_deny_of_any_policy_wins_over_every_allow() {
    let ask = Ask::of([
        policy("shop/a").allow(Ingress, anyone()),
        policy("cluster/ceiling").deny(Ingress, peers([pods(&[("app", "web")])])),
    ]);
    assert_eq!(
        ask.refused(&ingress("10.0.0.1", Tcp, 80)).as_deref(),
        Some("cluster/ceiling network.ingress.deny[0]")
    );
    assert!(ask.passes(&ingress("10.0.0.2", Tcp, 80)));
}

#[test]
fn a_refusal_is_attributed_to_the_first_deny_by_policy_name_and_place() {
    let denies = |name: &str| {
        policy(name).deny(Ingress, anyone().on(udp(1))).deny(Ingress, anyone()).deny(Ingress, anyone())
    };
    let ask = Ask::of([denies("shop/b"), denies("shop/a"), policy("cluster/z").isolating(Ingress)]);
    let refused = ask.refused(&ingress("10.0.0.1", Tcp, 80));
    assert_eq!(refused.as_deref(), Some("shop/a network.ingress.deny[1]"));
}

#[test]
fn what_no_rule_allows_is_attributed_to_the_first_isolating_policy_by_name() {
    let ask = Ask::of([
        policy("shop/b").isolating(Ingress),
        policy("shop/a").isolating(Egress),
        policy("cluster/z").isolating(Ingress),
    ]);
    assert_eq!(ask.refused(&ingress("10.0.0.1", Tcp, 80)).as_deref(), Some("cluster/z network.ingress"));
    assert_eq!(ask.refused(&egress("10.0.0.1", Tcp, 80)).as_deref(), Some("shop/a network.egress"));
}

#[test]
fn a_refusal_is_told_where_the_policy_it_is_attributed_to_says_reject() {
    let ask = Ask::of([
        policy("shop/a").isolating(Egress).rejecting(),
        policy("shop/b").deny(Egress, anyone().on(tcp(22))),
    ]);
    assert_eq!(ask.refused(&egress("10.0.0.1", Tcp, 80)).as_deref(), Some("shop/a network.egress reject"));
    assert_eq!(ask.refused(&egress("10.0.0.1", Tcp, 22)).as_deref(), Some("shop/b network.egress.deny[0]"));
}

#[test]
fn containers_do_not_limit_network_rules() {
    let mut ask =
        Ask::of([Policy { containers: Some(vec!["api".to_owned()]), ..policy("shop/a").isolating(Ingress) }]);
    for container in [None, Some("api".to_owned()), Some("side".to_owned())] {
        ask.workload.container = container;
        assert!(!ask.passes(&ingress("10.0.0.1", Tcp, 80)));
    }
}

#[test]
fn an_audit_policy_changes_no_verdict() {
    let ask = Ask::of([policy("shop/a").isolating(Ingress).deny(Egress, anyone()).audit()]);
    assert!(ask.passes(&ingress("10.0.0.1", Tcp, 80)));
    assert!(ask.passes(&egress("10.0.0.1", Tcp, 80)));
    let ask =
        Ask::of([policy("shop/a").allow(Ingress, anyone()).audit(), policy("shop/b").isolating(Ingress)]);
    assert!(!ask.passes(&ingress("10.0.0.1", Tcp, 80)), "its allow does not open anything either");
}

#[test]
fn an_audit_hit_is_what_enforce_allows_and_all_together_would_refuse() {
    let ask = Ask::of([
        policy("shop/a").allow(Ingress, peers([pods(&[("app", "web")])])),
        policy("shop/b").deny(Ingress, anyone().on(tcp(22))).audit(),
        policy("shop/c").isolating(Egress).audit(),
        policy("shop/d").allow(Egress, anyone().on(tcp(443))).audit(),
    ]);
    assert_eq!(ask.audited(&ingress("10.0.0.1", Tcp, 22)).as_deref(), Some("shop/b network.ingress.deny[0]"));
    assert_eq!(ask.audited(&ingress("10.0.0.1", Tcp, 80)), None, "the Enforce policy allows it");
    assert_eq!(ask.audited(&egress("10.0.0.1", Tcp, 80)).as_deref(), Some("shop/c network.egress"));
    assert_eq!(ask.audited(&egress("10.0.0.1", Tcp, 443)), None, "an Audit policy allows it");
    let refused = ask.verdict(&ingress("10.0.0.2", Tcp, 22));
    assert_eq!(refused, (Some("shop/a network.ingress".to_owned()), None), "what is refused is no audit hit");
}

#[test]
fn an_end_port_makes_a_range_with_both_ends() {
    let range = PortMatch { end_port: Some(9010), ..tcp(9000) };
    let ask = Ask::of([policy("shop/a").allow(Ingress, anyone().on(range))]);
    for (port, passes) in [(8999, false), (9000, true), (9005, true), (9010, true), (9011, false)] {
        assert_eq!(ask.passes(&ingress("10.0.0.1", Tcp, port)), passes, "{port}");
    }
    assert!(!ask.passes(&ingress("10.0.0.1", Udp, 9005)));
}

#[test]
fn a_protocol_without_a_port_is_every_port_of_it() {
    let ask = Ask::of([policy("shop/a").allow(Ingress, anyone().on(PortMatch { port: None, ..tcp(0) }))]);
    assert!(ask.passes(&ingress("10.0.0.1", Tcp, 1)));
    assert!(ask.passes(&ingress("10.0.0.1", Tcp, 65535)));
    assert!(!ask.passes(&ingress("10.0.0.1", Udp, 1)));
}

#[test]
fn a_named_port_at_ingress_is_the_workloads_own() {
    let mut ask = Ask::of([policy("shop/a").allow(Ingress, anyone().on(named("http")))]);
    assert!(ask.passes(&ingress("10.0.0.1", Tcp, 8000)));
    assert!(!ask.passes(&ingress("10.0.0.1", Tcp, 8080)), "8080 is the peer's");
    assert!(!ask.passes(&ingress("10.0.0.1", Udp, 8000)));
    ask.workload.named_ports.clear();
    assert!(!ask.passes(&ingress("10.0.0.1", Tcp, 8000)), "no such port, no match");
}

#[test]
fn a_named_port_at_egress_is_resolved_for_each_destination() {
    for rule in [anyone(), peers([pods(&[])]), peers([Peer::Entity(Entity::Cluster)])] {
        let ask = Ask::of([policy("shop/a").allow(Egress, rule.on(named("http")))]);
        assert!(ask.passes(&egress("10.0.0.1", Tcp, 8080)));
        assert!(!ask.passes(&egress("10.0.0.1", Tcp, 9090)));
        assert!(ask.passes(&egress("10.0.0.2", Tcp, 9090)));
        assert!(!ask.passes(&egress("10.0.0.2", Tcp, 8080)));
        assert!(!ask.passes(&egress("10.0.1.1", Tcp, 8080)), "it declares no such port");
        assert!(!ask.passes(&egress("198.51.100.7", Tcp, 8080)), "nobody's address has no names");
    }
}

#[test]
fn an_sctp_port_is_of_sctp_alone_and_rules_without_ports_are_for_it_too() {
    let sctp = |port| PortMatch { protocol: Sctp, port, end_port: None };
    let mut ask = Ask::of([
        policy("shop/a").allow(Ingress, anyone().on(sctp(Some(PortRef::Number(2905))))),
        policy("shop/b").allow(Ingress, anyone().on(sctp(Some(PortRef::Name("m3ua".to_owned()))))),
        policy("shop/c").allow(Egress, peers([pods(&[("app", "web")])])).deny(Egress, anyone().on(udp(2905))),
    ]);
    ask.workload.named_ports.insert(("m3ua".to_owned(), Sctp), 3000);
    ask.workload.named_ports.insert(("m3ua".to_owned(), Tcp), 3001);
    for (protocol, port, passes) in
        [(Sctp, 2905, true), (Sctp, 3000, true), (Sctp, 3001, false), (Tcp, 2905, false), (Udp, 2905, false)]
    {
        assert_eq!(ask.passes(&ingress("10.0.0.1", protocol, port)), passes, "{protocol} {port}");
    }
    assert!(ask.passes(&egress("10.0.0.1", Sctp, 2905)));
    assert!(!ask.passes(&egress("10.0.0.1", Udp, 2905)));
    assert!(!ask.passes(&egress("10.0.0.2", Sctp, 2905)));
}

#[test]
fn other_protocols_match_only_rules_without_ports() {
    let icmp = |direction| Packet { direction, transport: Transport::Other, ..ingress("10.0.0.1", Tcp, 0) };
    let ask = Ask::of([
        policy("shop/a").allow(Ingress, anyone()),
        policy("shop/b").allow(Egress, anyone().on(PortMatch { port: None, ..tcp(0) })),
    ]);
    assert!(ask.passes(&icmp(Ingress)));
    assert!(!ask.passes(&icmp(Egress)));
}

#[test]
fn a_later_fragment_matches_only_rules_that_cover_every_port() {
    let fragment = Packet { transport: Transport::Fragment(Udp), ..ingress("10.0.0.1", Udp, 0) };
    let udp_range = |first, last| PortMatch { end_port: Some(last), ..udp(first) };
    for (rule, passes) in [
        (anyone(), true),
        (anyone().on(PortMatch { port: None, ..udp(0) }), true),
        (anyone().on(udp_range(1, 65535)), true),
        (anyone().on(udp_range(1, 1000)).on(udp_range(900, 65535)), true),
        (anyone().on(udp_range(2, 65535)), false),
        (anyone().on(udp_range(1, 65534)), false),
        (anyone().on(udp(53)), false),
        (anyone().on(PortMatch { port: None, ..tcp(0) }), false),
    ] {
        let ask = Ask::of([policy("shop/a").allow(Ingress, rule.clone())]);
        assert_eq!(ask.passes(&fragment), passes, "{rule:?}");
    }
}

#[test]
fn a_workload_reaches_itself_over_loopback_whatever_the_rules() {
    let mut ask = Ask::of([policy("shop/a").deny(Ingress, anyone()).deny(Egress, anyone())]);
    for net in [NetScope::Own, NetScope::WholeHost] {
        ask.workload.net = net;
        for packet in [ingress("127.0.0.1", Tcp, 80), egress("127.0.0.1", Tcp, 80)] {
            assert!(ask.passes(&Packet { via: Via::Loopback, ..packet }), "{net:?}");
        }
    }
}

#[test]
fn the_loopback_of_a_part_of_the_host_is_the_host() {
    let mut ask = Ask::of([policy("shop/a").allow(Ingress, peers([Peer::Entity(Entity::Host)]))]);
    ask.workload.net = NetScope::HostPart;
    let over_loopback = |peer| Packet { via: Via::Loopback, ..ingress(peer, Tcp, 80) };
    assert!(ask.passes(&over_loopback("127.0.0.1")));
    assert!(ask.passes(&over_loopback("::1")));
    assert!(ask.passes(&over_loopback("192.168.0.1")));
    assert!(!ask.passes(&ingress("127.0.0.1", Tcp, 80)), "elsewhere it is nobody's address");
    ask.policies = vec![policy("shop/a").allow(Ingress, peers([Peer::Entity(Entity::World)]))];
    assert!(!ask.passes(&over_loopback("127.0.0.1")));
    ask.policies = vec![policy("shop/a").allow(Ingress, peers([Peer::Entity(Entity::Cluster)]))];
    assert!(ask.passes(&over_loopback("192.168.0.1")), "a node's address keeps what else it is");
    assert!(!ask.passes(&over_loopback("127.0.0.1")));
}

#[test]
fn only_a_deny_that_names_the_host_stops_the_nodes_own_flows() {
    let probe = Packet { via: Via::NodeFlow, ..ingress("192.168.0.1", Tcp, 8000) };
    for (rule, passes) in [
        (anyone(), true),
        (peers([block("0.0.0.0/0", &[])]), true),
        (peers([Peer::Entity(Entity::Cluster)]), true),
        (peers([Peer::Entity(Entity::World), Peer::Entity(Entity::Host)]), false),
        (peers([Peer::Entity(Entity::Host)]).on(named("http")), false),
        (peers([Peer::Entity(Entity::Host)]).on(tcp(80)), true),
    ] {
        let ask = Ask::of([policy("shop/a").deny(Ingress, rule.clone())]);
        assert_eq!(ask.passes(&probe), passes, "{rule:?}");
        let ask = Ask::of([policy("shop/a").deny(Ingress, rule.clone()).audit()]);
        assert_eq!(ask.audited(&probe).is_none(), passes, "{rule:?}");
    }
    let ask = Ask::of([policy("shop/a").isolating(Ingress)]);
    assert!(!ask.passes(&ingress("192.168.0.1", Tcp, 8000)), "the node's address alone opens nothing");
}

#[test]
fn a_part_of_the_host_has_no_node_flows() {
    let mut ask = Ask::of([policy("shop/a").isolating(Ingress)]);
    ask.workload.net = NetScope::HostPart;
    assert!(!ask.passes(&Packet { via: Via::NodeFlow, ..ingress("192.168.0.1", Tcp, 8000) }));
}

#[test]
fn no_policy_closes_the_failsafe_ports_of_a_whole_host() {
    let mut ask =
        Ask::of([policy("shop/a").deny(Ingress, anyone()).deny(Egress, peers([block("0.0.0.0/0", &[])]))]);
    let open =
        [ingress("198.51.100.7", Tcp, 22), egress("198.51.100.7", Udp, 53), egress("10.0.0.1", Tcp, 6443)];
    let closed =
        [ingress("198.51.100.7", Udp, 22), egress("198.51.100.7", Tcp, 22), ingress("10.0.0.1", Tcp, 53)];
    for (net, passes) in [(NetScope::WholeHost, true), (NetScope::HostPart, false), (NetScope::Own, false)] {
        ask.workload.net = net;
        for packet in &open {
            assert_eq!(ask.passes(packet), passes, "{net:?} {packet:?}");
        }
        for packet in &closed {
            assert!(!ask.passes(packet), "{net:?} {packet:?}");
        }
    }
}
