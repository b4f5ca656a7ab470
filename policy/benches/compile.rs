//! How long a compilation takes, and how many rows come of it: `cargo bench -p holdfast-policy`.
//!
//! Prints one line for each case: the median of ten runs, the rows of all sets, the sets, the classes. Exits 1 where a
//! case with a budget exceeds it.

#![expect(clippy::unwrap_used, reason = "a bench stops at the first error")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use holdfast_policy::compile::{Compiled, Input, compile};
use holdfast_policy::model::{
    AddressFacts, Backends, Entities, Entity, Identity, IpBlock, Mode, NamespaceTarget, NetRule, Network,
    Peer, Policy, PolicyId, PortMatch, PortRef, Protocol, Rules, Service, Target, Workload, World,
};
use holdfast_policy::selector::{Labels, Operator, Requirement, Selector};
use holdfast_policy::syscalls::Abi;

fn labels(pairs: &[(&str, String)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn select(pairs: &[(&str, String)]) -> Selector {
    Selector { match_labels: labels(pairs), ..Selector::default() }
}

fn ports(list: &[(u16, Option<u16>)]) -> Vec<PortMatch> {
    let port = |(first, end_port): &(u16, Option<u16>)| PortMatch {
        protocol: Protocol::Tcp,
        port: Some(PortRef::Number(*first)),
        end_port: *end_port,
    };
    list.iter().map(port).collect()
}

/// Identities spread over namespaces: each has an app, a team and a tier; four addresses for each, and a Service for
/// every fifth.
fn world(namespaces: usize, identities: usize) -> World {
    let mut world = World::default();
    for namespace in 0..namespaces {
        world
            .namespaces
            .insert(format!("ns-{namespace}"), labels(&[("team", format!("team-{}", namespace % 10))]));
    }
    for number in 0..identities {
        let id = 256 + u32::try_from(number).unwrap();
        let identity = Identity {
            id,
            namespace: format!("ns-{}", number % namespaces),
            service_account: Some(format!("account-{}", number % 7)),
            labels: labels(&[
                ("app", format!("app-{}", number / namespaces)),
                ("tier", format!("tier-{}", number % 3)),
                ("version", format!("v{}", number % 11)),
            ]),
            named_ports: BTreeMap::from([(("http".to_owned(), Protocol::Tcp), 8080)]),
        };
        world.identities.insert(id, identity);
        let addresses: Vec<IpAddr> =
            (0..4).map(|copy| IpAddr::from((0x0a00_0000 + id * 4 + copy).to_be_bytes())).collect();
        for address in &addresses {
            let facts = AddressFacts { identity: Some(id), entities: Entities::CLUSTER };
            world.addresses.insert(*address, facts);
        }
        if number % 5 == 0 {
            let ready = addresses.iter().map(|address| (*address, 8080)).collect();
            let service = Service {
                ports: BTreeMap::from([((Protocol::Tcp, 80), Backends { ready, complete: true })]),
                ..Service::default()
            };
            world.services.insert(IpAddr::from((0x0ac8_0000 + id).to_be_bytes()), service);
        }
    }
    world
}

/// Who the policies select: one app of one namespace each, everything, or a third of all apps each.
#[derive(Clone, Copy)]
enum Shape {
    Namespaced,
    Everything,
    Mixed,
}

/// Policies with peers of every kind, an address block with an exception and a deny.
fn policies(count: usize, namespaces: usize, shape: Shape) -> Vec<Policy> {
    (0..count)
        .map(|number| {
            let namespace = format!("ns-{}", number % namespaces);
            let app = number / namespaces;
            let third = u8::try_from(number % 256).unwrap();
            let block = IpBlock {
                cidr: format!("172.16.{third}.0/24").parse().unwrap(),
                except: vec![format!("172.16.{third}.128/25").parse().unwrap()],
            };
            let pods = |pairs: &[(&str, String)]| Peer::Pods { namespaces: None, pods: Some(select(pairs)) };
            let team = Peer::Pods {
                namespaces: Some(select(&[("team", format!("team-{}", number % 10))])),
                pods: Some(select(&[("tier", "tier-1".to_owned())])),
            };
            let network = Network {
                ingress: Some(Rules {
                    allow: vec![
                        NetRule {
                            peers: Some(vec![pods(&[("app", format!("app-{}", app + 1))])]),
                            ports: None,
                        },
                        NetRule {
                            peers: Some(vec![team]),
                            ports: Some(ports(&[(8080, None), (9000, Some(9010))])),
                        },
                    ],
                    deny: vec![NetRule { peers: Some(vec![Peer::IpBlock(block.clone())]), ports: None }],
                }),
                egress: Some(Rules {
                    allow: vec![
                        NetRule {
                            peers: Some(vec![pods(&[("app", format!("app-{}", app + 2))])]),
                            ports: Some(ports(&[(8080, None)])),
                        },
                        NetRule {
                            peers: Some(vec![Peer::IpBlock(block)]),
                            ports: Some(ports(&[(443, None)])),
                        },
                        NetRule { peers: Some(vec![Peer::Entity(Entity::KubeApiserver)]), ports: None },
                    ],
                    deny: Vec::new(),
                }),
                ..Network::default()
            };
            let cluster = (
                PolicyId::cluster(format!("policy-{number}")),
                NamespaceTarget::Matching(Selector::default()),
                Selector::default(),
            );
            let (id, namespaces, pods) = match shape {
                Shape::Namespaced => (
                    PolicyId::namespaced(&namespace, format!("policy-{number}")),
                    NamespaceTarget::One(namespace),
                    select(&[("app", format!("app-{}", app % 5))]),
                ),
                Shape::Everything => cluster,
                Shape::Mixed => {
                    let third = Requirement {
                        key: "app".to_owned(),
                        operator: Operator::In,
                        values: (0..100)
                            .filter(|app| (app * 7 + number) % 3 == 0)
                            .map(|app| format!("app-{app}"))
                            .collect(),
                    };
                    (cluster.0, cluster.1, Selector { match_expressions: vec![third], ..Selector::default() })
                }
            };
            Policy {
                id,
                uid: format!("uid-{number}"),
                generation: 1,
                target: Target { namespaces, pods },
                containers: None,
                mode: Mode::Enforce,
                network: Some(network),
                syscalls: None,
                processes: None,
                files: None,
                capabilities: None,
            }
        })
        .collect()
}

fn workloads(count: usize, namespaces: usize) -> Vec<Workload> {
    (0..count)
        .map(|number| Workload {
            namespace: format!("ns-{}", number % namespaces),
            name: format!("pod-{number}"),
            labels: labels(&[("app", format!("app-{}", number / namespaces)), ("tier", "tier-1".to_owned())]),
            ..Workload::default()
        })
        .collect()
}

fn median(mut run: impl FnMut() -> Compiled) -> (Duration, Compiled) {
    let mut times = Vec::new();
    let mut last = run();
    for _ in 0..10 {
        let start = Instant::now();
        last = run();
        times.push(start.elapsed());
    }
    times.sort();
    (times[times.len() / 2], last)
}

fn report(name: &str, budget: Option<Duration>, time: Duration, compiled: &Compiled) -> bool {
    let rows: usize = compiled.net_sets.iter().map(|set| set.verdicts.len()).sum();
    let classes: std::collections::BTreeSet<_> =
        compiled.identity_class.values().chain(compiled.cidr_class.values()).collect();
    let (sets, classes) = (compiled.net_sets.len(), classes.len());
    println!("{name:<64} {time:>10.2?}  {rows:>7} rows  {sets:>4} sets  {classes:>5} classes");
    budget.is_none_or(|budget| time <= budget)
}

fn main() -> std::process::ExitCode {
    let mut good = true;
    for (name, namespaces, identities, count, pods, shape, budget) in [
        (
            "1,000 policies, 250 workloads, 5,000 identities",
            50,
            5000,
            1000,
            250,
            Shape::Namespaced,
            Some(200),
        ),
        ("1,000 cluster policies that select everything", 50, 5000, 1000, 250, Shape::Everything, Some(200)),
        ("1,000 cluster policies that select a third each", 50, 5000, 1000, 250, Shape::Mixed, Some(200)),
        ("10 policies, 20 workloads, 100 identities", 5, 100, 10, 20, Shape::Namespaced, Some(5)),
    ] {
        let world = world(namespaces, identities);
        let mut policies = policies(count, namespaces, shape);
        let workloads = workloads(pods, namespaces);
        let budget = budget.map(Duration::from_millis);
        let run = |policies: &[Policy], previous| {
            compile(&Input { policies, world: &world, workloads: &workloads, abis: &Abi::ALL }, previous)
                .unwrap()
        };
        let (time, before) = median(|| run(&policies, None));
        good &= report(name, budget, time, &before);

        let (time, after) = median(|| run(&policies, Some(&before)));
        good &= report("  again, nothing changed", budget, time, &after);

        // Another port: the same peers, so every class keeps its number.
        if let Some(egress) = policies[0].network.as_mut().and_then(|network| network.egress.as_mut()) {
            egress.allow[0].ports = Some(ports(&[(8081, None)]));
        }
        let (time, after) = median(|| run(&policies, Some(&before)));
        good &= report("  again, one policy has another port", budget, time, &after);
    }
    if good {
        std::process::ExitCode::SUCCESS
    } else {
        eprintln!("a budget is exceeded");
        std::process::ExitCode::FAILURE
    }
}
