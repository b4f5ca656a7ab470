//! Who the other end is: every form of a peer, both directions, both families.

use anyhow::Result;

use crate::scenario::{
    node::{API_SERVER, OUTSIDE, REMOTE, V4, V6, at},
    rig::{Rig, network, tcp, udp},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "ingress allows pods by label and drops the others", run: ingress_by_label },
    Scenario { name: "ingress allows pods by label over IPv6", run: ingress_by_label_v6 },
    Scenario { name: "ingress allows all pods of namespaces by their labels", run: ingress_by_namespace },
    Scenario { name: "a pod and a namespace selector of one peer must both match", run: ingress_by_both },
    Scenario { name: "a selector of expressions decides by absence and by set", run: ingress_by_expression },
    Scenario { name: "ingress allows pods by service account", run: ingress_by_account },
    Scenario { name: "ingress allows an address block without its exceptions", run: ingress_by_block },
    Scenario {
        name: "ingress allows an IPv6 address block without its exceptions",
        run: ingress_by_block_v6,
    },
    Scenario { name: "ingress allows a pod of another node by label", run: ingress_of_remote },
    Scenario { name: "egress allows pods by label and drops the others", run: egress_by_label },
    Scenario { name: "egress allows pods by label over IPv6", run: egress_by_label_v6 },
    Scenario { name: "egress allows all pods of namespaces by their labels", run: egress_by_namespace },
    Scenario { name: "egress allows pods by service account", run: egress_by_account },
    Scenario { name: "egress allows an address block without its exceptions", run: egress_by_block },
    Scenario { name: "an address block holds for pods in it too", run: block_of_pods },
    Scenario { name: "the entity Host is the node's own addresses and no pod's", run: host },
    Scenario { name: "the entity Cluster is pods and nodes and nobody outside", run: cluster },
    Scenario { name: "the entity World is whoever is not known", run: world },
    Scenario { name: "the entity World at ingress lets strangers in and pods not", run: world_ingress },
    Scenario { name: "the entity KubeApiserver is the API server's address alone", run: api_server },
    Scenario { name: "a pod's address that nobody knows any more is World", run: forgotten },
    Scenario {
        name: "a pod of this node is in the cluster before its address is published",
        run: unpublished,
    },
    Scenario { name: "a cluster policy concerns the namespaces that it selects", run: cluster_policy },
    Scenario { name: "both ends must allow", run: both_ends },
];

fn ingress_by_label(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}}";
    rig.enforce(&[("shop/label-in", network("api", rules))])?;
    let to = rig.at("api", V4, 8080)?;
    rig.allowed(tcp("front", to))?;
    rig.allowed(udp("front", to))?;
    rig.dropped(tcp("db", to), "shop/label-in", "network.ingress")?;
    rig.dropped(udp("db", to), "shop/label-in", "network.ingress")
}

fn ingress_by_label_v6(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}}";
    rig.enforce(&[("shop/label-in-v6", network("api", rules))])?;
    let to = rig.at("api", V6, 8080)?;
    rig.allowed(tcp("front", to))?;
    rig.allowed(udp("front", to))?;
    rig.dropped(tcp("db", to), "shop/label-in-v6", "network.ingress")?;
    rig.dropped(udp("db", to), "shop/label-in-v6", "network.ingress")
}

fn ingress_by_namespace(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{namespaceSelector: {matchLabels: {team: bank}}}]}]}}";
    rig.enforce(&[("shop/namespace-in", network("api", rules))])?;
    let to = rig.at("api", V4, 8080)?;
    rig.allowed(tcp("db", to))?;
    rig.allowed(tcp("batch", to))?;
    rig.dropped(tcp("front", to), "shop/namespace-in", "network.ingress")
}

fn ingress_by_both(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {tier: web}},
        namespaceSelector: {matchLabels: {team: bank}}}]}]}}";
    rig.enforce(&[("shop/both-in", network("api", rules))])?;
    let to = rig.at("api", V4, 8080)?;
    rig.allowed(tcp("batch", to))?;
    rig.dropped(tcp("db", to), "shop/both-in", "network.ingress")?;
    rig.dropped(tcp("front", to), "shop/both-in", "network.ingress")
}

fn ingress_by_expression(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [
        {key: tier, operator: Exists}, {key: app, operator: NotIn, values: [batch, api]}]}}]}]}}";
    rig.enforce(&[("shop/expression-in", network("api", rules))])?;
    let to = rig.at("api", V4, 8080)?;
    rig.allowed(tcp("front", to))?;
    rig.dropped(tcp("batch", to), "shop/expression-in", "network.ingress")?;
    rig.dropped(tcp("db", to), "shop/expression-in", "network.ingress")
}

fn ingress_by_account(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{serviceAccount: {name: db, namespace: bank}}]}]}}";
    rig.enforce(&[("shop/account-in", network("api", rules))])?;
    let to = rig.at("api", V4, 8080)?;
    rig.allowed(tcp("db", to))?;
    rig.dropped(tcp("batch", to), "shop/account-in", "network.ingress")?;
    let rules = "{ingress: {allow: [{from: [{serviceAccount: {name: db}}]}]}}";
    rig.enforce(&[("shop/own-account-in", network("api", rules))])?;
    rig.dropped(tcp("db", to), "shop/own-account-in", "network.ingress")
}

fn ingress_by_block(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{ipBlock: {cidr: 10.77.0.0/24, except: [10.77.0.12/31]}}]}]}}";
    rig.enforce(&[("shop/block-in", network("api", rules))])?;
    let to = rig.at("api", V4, 8080)?;
    rig.allowed(tcp("front", to))?;
    rig.allowed(udp("batch", to))?;
    rig.dropped(tcp("db", to), "shop/block-in", "network.ingress")?;
    rig.dropped(udp("db", to), "shop/block-in", "network.ingress")?;
    rig.dropped(tcp("outside", to).bound(at(OUTSIDE[0], 0)), "shop/block-in", "network.ingress")
}

fn ingress_by_block_v6(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{ipBlock: {cidr: 'fd77::/64', except: ['fd77::d/128']}}]}]}}";
    rig.enforce(&[("shop/block-in-v6", network("api", rules))])?;
    let to = rig.at("api", V6, 8080)?;
    // Pod 13 has the address fd77::d.
    rig.allowed(tcp("front", to))?;
    rig.dropped(tcp("db", to), "shop/block-in-v6", "network.ingress")?;
    // A block of one family says nothing of the other.
    let to = rig.at("api", V4, 8080)?;
    rig.dropped(tcp("front", to), "shop/block-in-v6", "network.ingress")
}

fn ingress_of_remote(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: remote}}}]}]}}";
    rig.enforce(&[("shop/remote-in", network("api", rules))])?;
    for (family, source) in [(V4, REMOTE[0]), (V6, REMOTE[1])] {
        let to = rig.at("api", family, 8080)?;
        rig.allowed(tcp("outside", to).bound(at(source, 0)))?;
        rig.allowed(udp("outside", to).bound(at(source, 0)))?;
    }
    let to = rig.at("api", V4, 8080)?;
    rig.dropped(tcp("outside", to).bound(at(OUTSIDE[0], 0)), "shop/remote-in", "network.ingress")?;
    rig.dropped(tcp("front", to), "shop/remote-in", "network.ingress")
}

fn egress_by_label(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]}]}}";
    rig.enforce(&[("shop/label-out", network("front", rules))])?;
    let (api, db) = (rig.at("api", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", api))?;
    rig.allowed(udp("front", api))?;
    rig.dropped(tcp("front", db), "shop/label-out", "network.egress")?;
    rig.dropped(udp("front", db), "shop/label-out", "network.egress")
}

fn egress_by_label_v6(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]}]}}";
    rig.enforce(&[("shop/label-out-v6", network("front", rules))])?;
    let (api, db) = (rig.at("api", V6, 8080)?, rig.at("db", V6, 8080)?);
    rig.allowed(tcp("front", api))?;
    rig.allowed(udp("front", api))?;
    rig.dropped(tcp("front", db), "shop/label-out-v6", "network.egress")?;
    rig.dropped(udp("front", db), "shop/label-out-v6", "network.egress")
}

fn egress_by_namespace(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{namespaceSelector: {matchLabels: {team: bank}}}]}]}}";
    rig.enforce(&[("shop/namespace-out", network("front", rules))])?;
    let (api, db) = (rig.at("api", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", db))?;
    rig.dropped(tcp("front", api), "shop/namespace-out", "network.egress")
}

fn egress_by_account(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{serviceAccount: {name: db, namespace: bank}}]}]}}";
    rig.enforce(&[("shop/account-out", network("front", rules))])?;
    let (batch, db) = (rig.at("batch", V6, 8080)?, rig.at("db", V6, 8080)?);
    rig.allowed(tcp("front", db))?;
    rig.dropped(tcp("front", batch), "shop/account-out", "network.egress")
}

fn egress_by_block(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.1/32]}},
        {ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8::1/128']}}]}]}}";
    rig.enforce(&[("shop/block-out", network("front", rules))])?;
    for (inside, except) in [(OUTSIDE[0], API_SERVER[0]), (OUTSIDE[1], API_SERVER[1])] {
        rig.allowed(tcp("front", at(inside, 8080)))?;
        rig.dropped(tcp("front", at(except, 8080)), "shop/block-out", "network.egress")?;
    }
    let to = rig.at("db", V4, 8080)?;
    rig.dropped(udp("front", to), "shop/block-out", "network.egress")
}

fn block_of_pods(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{ipBlock: {cidr: 10.77.0.12/32}}]}]}}";
    rig.enforce(&[("shop/pod-block", network("front", rules))])?;
    let (api, db) = (rig.at("api", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", api))?;
    rig.dropped(tcp("front", db), "shop/pod-block", "network.egress")?;
    let rules =
        "{egress: {allow: [{to: [{entity: Cluster}]}], deny: [{to: [{ipBlock: {cidr: 10.77.0.12/32}}]}]}}";
    rig.enforce(&[("shop/pod-block-deny", network("front", rules))])?;
    rig.allowed(tcp("front", db))?;
    rig.dropped(tcp("front", api), "shop/pod-block-deny", "network.egress.deny[0]")
}

fn host(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/host", network("front", "{egress: {allow: [{to: [{entity: Host}]}]}}"))])?;
    for family in [V4, V6] {
        let (node, db) = (rig.at("node", family, 8080)?, rig.at("db", family, 8080)?);
        rig.allowed(tcp("front", node))?;
        rig.dropped(tcp("front", db), "shop/host", "network.egress")?;
    }
    Ok(())
}

fn cluster(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/cluster", network("front", "{egress: {allow: [{to: [{entity: Cluster}]}]}}"))])?;
    for name in ["db", "node"] {
        let to = rig.at(name, V4, 8080)?;
        rig.allowed(tcp("front", to))?;
    }
    rig.allowed(tcp("front", at(REMOTE[0], 8080)))?;
    rig.dropped(tcp("front", at(OUTSIDE[0], 8080)), "shop/cluster", "network.egress")?;
    rig.dropped(udp("front", at(OUTSIDE[1], 8080)), "shop/cluster", "network.egress")
}

fn world(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/world", network("front", "{egress: {allow: [{to: [{entity: World}]}]}}"))])?;
    for address in OUTSIDE {
        rig.allowed(tcp("front", at(address, 8080)))?;
    }
    for name in ["db", "node"] {
        let to = rig.at(name, V4, 8080)?;
        rig.dropped(tcp("front", to), "shop/world", "network.egress")?;
    }
    rig.dropped(tcp("front", at(REMOTE[1], 8080)), "shop/world", "network.egress")
}

fn world_ingress(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/world-in", network("api", "{ingress: {allow: [{from: [{entity: World}]}]}}"))])?;
    for (family, source) in [(V4, OUTSIDE[0]), (V6, OUTSIDE[1])] {
        let to = rig.at("api", family, 8080)?;
        rig.allowed(tcp("outside", to).bound(at(source, 0)))?;
        rig.dropped(tcp("db", to), "shop/world-in", "network.ingress")?;
    }
    Ok(())
}

fn api_server(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[(
        "shop/apiserver",
        network("front", "{egress: {allow: [{to: [{entity: KubeApiserver}]}]}}"),
    )])?;
    for (server, other) in [(API_SERVER[0], OUTSIDE[0]), (API_SERVER[1], OUTSIDE[1])] {
        rig.allowed(tcp("front", at(server, 8080)))?;
        rig.dropped(tcp("front", at(other, 8080)), "shop/apiserver", "network.egress")?;
    }
    Ok(())
}

fn forgotten(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {}, namespaceSelector: {}}]}]}}";
    rig.enforce(&[("shop/forgotten", network("front", rules))])?;
    let to = at(REMOTE[0], 8080);
    rig.allowed(tcp("front", to))?;
    rig.change_world(|world| {
        world.addresses.remove(&to.ip());
    })?;
    rig.dropped(tcp("front", to), "shop/forgotten", "network.egress")?;
    rig.enforce(&[("shop/forgotten", network("front", "{egress: {allow: [{to: [{entity: World}]}]}}"))])?;
    rig.allowed(tcp("front", to))
}

fn unpublished(rig: &mut Rig) -> Result<()> {
    let to = rig.at("db", V4, 8080)?;
    rig.change_world(|world| {
        world.addresses.remove(&to.ip());
    })?;
    rig.enforce(&[("shop/unpublished", network("front", "{egress: {allow: [{to: [{entity: Cluster}]}]}}"))])?;
    rig.allowed(tcp("front", to))?;
    rig.enforce(&[("shop/unpublished", network("front", "{egress: {allow: [{to: [{entity: World}]}]}}"))])?;
    rig.dropped(tcp("front", to), "shop/unpublished", "network.egress")
}

fn cluster_policy(rig: &mut Rig) -> Result<()> {
    let spec = "{namespaceSelector: {matchLabels: {team: bank}}, selector: {}, network: {ingress: {allow: [
        {from: [{podSelector: {matchLabels: {tier: web}}}]}]}}}";
    rig.enforce(&[("cluster/bank-only", spec)])?;
    let (api, db) = (rig.at("api", V4, 8080)?, rig.at("db", V4, 8080)?);
    // Not selected.
    rig.allowed(tcp("db", api))?;
    rig.allowed(tcp("front", db))?;
    rig.allowed(tcp("batch", db))?;
    rig.dropped(udp("outside", db).bound(at(OUTSIDE[0], 0)), "cluster/bank-only", "network.ingress")
}

fn both_ends(rig: &mut Rig) -> Result<()> {
    let out = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]}]}}";
    let into = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}}";
    let nobody = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}]}}";
    let to = rig.at("api", V4, 8080)?;
    rig.enforce(&[("shop/out", network("front", out)), ("shop/into", network("api", into))])?;
    rig.allowed(tcp("front", to))?;
    rig.enforce(&[("shop/out", network("front", out)), ("shop/nobody", network("api", nobody))])?;
    rig.dropped(tcp("front", to), "shop/nobody", "network.ingress")?;
    rig.enforce(&[("shop/none", network("front", "{egress: {}}")), ("shop/into", network("api", into))])?;
    rig.dropped(tcp("front", to), "shop/none", "network.egress")
}
