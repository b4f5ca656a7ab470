//! Several rules and policies, and what the workload sees of a refusal.

use anyhow::Result;

use crate::scenario::{
    node::{OUTSIDE, V4, V6, at},
    rig::{Attempt, Call, Rig, network, policy, tcp, udp},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "a deny rule wins over an allow rule of its policy", run: deny_wins },
    Scenario { name: "a deny rule wins over an allow rule of another policy", run: deny_of_another },
    Scenario { name: "a deny rule alone isolates nobody it does not name", run: deny_without_allow },
    Scenario { name: "what two policies allow unites", run: unite },
    Scenario { name: "a refusal counts for the first isolating policy by name", run: first_by_name },
    Scenario { name: "an Audit policy counts what it would isolate and lets it pass", run: audit_isolation },
    Scenario { name: "a deny rule in Audit counts what Enforce policies allow", run: audit_deny },
    Scenario { name: "an Audit policy adds no permission", run: audit_allows_nothing },
    Scenario { name: "egress to nobody drops TCP and UDP of both families", run: nothing_out },
    Scenario { name: "Drop is silence to a UDP sender without a peer too", run: drop_unconnected },
    Scenario { name: "Drop tells a sender that asks for errors of congestion at most", run: drop_recverr },
    Scenario { name: "Reject is EPERM at connect", run: reject_tcp },
    Scenario { name: "Reject is EPERM at sendmsg of a socket without a peer", run: reject_udp },
    Scenario { name: "Reject and Drop hold each for its own policy's rules", run: reject_and_drop },
    Scenario { name: "a thousand policies give the verdict of the one that speaks", run: many },
];

const TO_BANK: &str = "{to: [{namespaceSelector: {matchLabels: {team: bank}}}]}";
const TO_DB: &str = "{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}]}";

fn unconnected(from: &'static str, to: std::net::SocketAddr) -> Attempt {
    Attempt { call: Call::UdpUnconnected, ..udp(from, to) }
}

fn deny_wins(rig: &mut Rig) -> Result<()> {
    let rules = format!("{{egress: {{allow: [{TO_BANK}], deny: [{TO_DB}]}}}}");
    rig.enforce(&[("shop/deny-wins", network("front", &rules))])?;
    let (batch, db) = (rig.at("batch", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", batch))?;
    rig.dropped(tcp("front", db), "shop/deny-wins", "network.egress.deny[0]")?;
    rig.dropped(udp("front", db), "shop/deny-wins", "network.egress.deny[0]")
}

fn deny_of_another(rig: &mut Rig) -> Result<()> {
    let allow = network("front", &format!("{{egress: {{allow: [{TO_BANK}]}}}}"));
    let deny = network("front", &format!("{{egress: {{allow: [{{}}], deny: [{TO_DB}]}}}}"));
    rig.enforce(&[("shop/a-allow", allow), ("shop/b-deny", deny)])?;
    let (batch, db) = (rig.at("batch", V6, 8080)?, rig.at("db", V6, 8080)?);
    rig.allowed(tcp("front", batch))?;
    rig.dropped(tcp("front", db), "shop/b-deny", "network.egress.deny[0]")
}

fn deny_without_allow(rig: &mut Rig) -> Result<()> {
    // As any rule of a direction does, a deny isolates it: nothing else is allowed here.
    let deny = network("front", &format!("{{egress: {{deny: [{TO_DB}]}}}}"));
    rig.enforce(&[("shop/deny-only", deny)])?;
    let (batch, db) = (rig.at("batch", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.dropped(tcp("front", db), "shop/deny-only", "network.egress.deny[0]")?;
    rig.dropped(tcp("front", batch), "shop/deny-only", "network.egress")?;
    // The other direction, and the other workloads, are as they were.
    let front = rig.at("front", V4, 8080)?;
    rig.allowed(tcp("db", front))?;
    rig.allowed(tcp("api", db))
}

fn unite(rig: &mut Rig) -> Result<()> {
    let one = network("front", &format!("{{egress: {{allow: [{TO_DB}]}}}}"));
    let two = "{namespaceSelector: {}, selector: {matchLabels: {app: front}},
        network: {egress: {allow: [{to: [{entity: World}]}]}}}";
    rig.enforce(&[("shop/one", one.as_str()), ("cluster/two", two)])?;
    let (batch, db) = (rig.at("batch", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", db))?;
    rig.allowed(tcp("front", at(OUTSIDE[0], 8080)))?;
    rig.dropped(tcp("front", batch), "cluster/two", "network.egress")
}

fn first_by_name(rig: &mut Rig) -> Result<()> {
    let nothing = network("front", "{egress: {}}");
    rig.enforce(&[("shop/zebra", &nothing), ("shop/ant", &nothing)])?;
    let to = rig.at("db", V4, 8080)?;
    rig.dropped(udp("front", to), "shop/ant", "network.egress")?;
    rig.reports("shop/zebra", "network.egress", "Deny", "Deny")?;
    let front = rig.at("front", V4, 8080)?;
    rig.allowed(udp("db", front))
}

fn audit_isolation(rig: &mut Rig) -> Result<()> {
    let spec = "{selector: {matchLabels: {app: front}}, mode: Audit, network: {egress: {allow: [
        {to: [{podSelector: {matchLabels: {app: api}}}]}]}, ingress: {}}}";
    rig.enforce(&[("shop/audit", spec)])?;
    let (api, db, front) = (rig.at("api", V4, 8080)?, rig.at("db", V4, 8080)?, rig.at("front", V4, 8080)?);
    rig.allowed(tcp("front", api))?;
    rig.audited(tcp("front", db), "shop/audit", "network.egress")?;
    rig.audited(udp("front", db), "shop/audit", "network.egress")?;
    rig.audited(tcp("db", front), "shop/audit", "network.ingress")
}

fn audit_deny(rig: &mut Rig) -> Result<()> {
    let enforce = network("front", &format!("{{egress: {{allow: [{TO_BANK}]}}}}"));
    let audit = format!(
        "{{selector: {{matchLabels: {{app: front}}}}, mode: Audit, network: {{egress: {{allow: [{{}}], deny: [{TO_DB}]}}}}}}"
    );
    rig.enforce(&[("shop/real", &enforce), ("shop/trial", &audit)])?;
    let (batch, db) = (rig.at("batch", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", batch))?;
    rig.audited(tcp("front", db), "shop/trial", "network.egress.deny[0]")
}

fn audit_allows_nothing(rig: &mut Rig) -> Result<()> {
    let enforce = network("front", &format!("{{egress: {{allow: [{TO_DB}]}}}}"));
    let audit = "{selector: {matchLabels: {app: front}}, mode: Audit, network: {egress: {allow: [{}]}}}";
    rig.enforce(&[("shop/real", enforce.as_str()), ("shop/wide", audit)])?;
    let (batch, db) = (rig.at("batch", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", db))?;
    rig.dropped(tcp("front", batch), "shop/real", "network.egress")
}

fn nothing_out(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/nothing-out", network("front", "{egress: {}}"))])?;
    for family in [V4, V6] {
        let (to, back) = (rig.at("db", family, 8080)?, rig.at("front", family, 8080)?);
        rig.dropped(tcp("front", to), "shop/nothing-out", "network.egress")?;
        rig.dropped(udp("front", to), "shop/nothing-out", "network.egress")?;
        rig.allowed(tcp("db", back))?;
        rig.allowed(udp("db", back))?;
    }
    Ok(())
}

fn drop_unconnected(rig: &mut Rig) -> Result<()> {
    let rules = format!("{{egress: {{allow: [{TO_DB}]}}}}");
    rig.enforce(&[("shop/unconnected", network("front", &rules))])?;
    for family in [V4, V6] {
        let (batch, db) = (rig.at("batch", family, 8080)?, rig.at("db", family, 8080)?);
        rig.allowed(unconnected("front", db))?;
        rig.dropped(unconnected("front", batch), "shop/unconnected", "network.egress")?;
    }
    Ok(())
}

fn drop_recverr(rig: &mut Rig) -> Result<()> {
    let rules = format!("{{egress: {{allow: [{TO_DB}]}}}}");
    rig.enforce(&[("shop/recverr", network("front", &rules))])?;
    for family in [V4, V6] {
        let (batch, db) = (rig.at("batch", family, 8080)?, rig.at("db", family, 8080)?);
        rig.allowed(Attempt { call: Call::UdpRecvErr, ..udp("front", db) })?;
        rig.dropped(
            Attempt { call: Call::UdpRecvErr, ..udp("front", batch) },
            "shop/recverr",
            "network.egress",
        )?;
    }
    Ok(())
}

fn reject_tcp(rig: &mut Rig) -> Result<()> {
    let rules = format!("{{egress: {{allow: [{TO_DB}]}}, onDeny: Reject}}");
    rig.enforce(&[("shop/reject", network("front", &rules))])?;
    for family in [V4, V6] {
        let (batch, db) = (rig.at("batch", family, 8080)?, rig.at("db", family, 8080)?);
        rig.allowed(tcp("front", db))?;
        rig.allowed(udp("front", db))?;
        rig.rejected(tcp("front", batch), "shop/reject", "network.egress")?;
        rig.rejected(udp("front", batch), "shop/reject", "network.egress")?;
    }
    let (batch, db) = (rig.at("batch", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(Attempt { call: Call::TcpMapped, ..tcp("front", db) })?;
    rig.rejected(Attempt { call: Call::TcpMapped, ..tcp("front", batch) }, "shop/reject", "network.egress")
}

fn reject_udp(rig: &mut Rig) -> Result<()> {
    let rules = format!("{{egress: {{allow: [{{}}], deny: [{TO_DB}]}}, onDeny: Reject}}");
    rig.enforce(&[("shop/reject-deny", network("front", &rules))])?;
    for family in [V4, V6] {
        let (batch, db) = (rig.at("batch", family, 8080)?, rig.at("db", family, 8080)?);
        rig.allowed(unconnected("front", batch))?;
        rig.rejected(unconnected("front", db), "shop/reject-deny", "network.egress.deny[0]")?;
    }
    Ok(())
}

fn reject_and_drop(rig: &mut Rig) -> Result<()> {
    let reject = format!("{{egress: {{allow: [{{}}], deny: [{TO_DB}]}}, onDeny: Reject}}");
    let drop = "{egress: {allow: [{}], deny: [{to: [{entity: World}]}]}}";
    rig.enforce(&[("shop/loud", network("front", &reject)), ("shop/quiet", network("front", drop))])?;
    let (batch, db) = (rig.at("batch", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", batch))?;
    rig.rejected(tcp("front", db), "shop/loud", "network.egress.deny[0]")?;
    rig.dropped(tcp("front", at(OUTSIDE[0], 8080)), "shop/quiet", "network.egress.deny[0]")
}

fn many(rig: &mut Rig) -> Result<()> {
    let mut policies = Vec::new();
    for number in 0..1000 {
        let third = number / 250;
        let rules = format!(
            "{{egress: {{allow: [{{to: [{{ipBlock: {{cidr: 198.51.{third}.{}/32}}}}], ports: [{{protocol: TCP, port: {}}}]}}]}}}}",
            number % 250,
            10_000 + number
        );
        policies.push(policy(&format!("shop/many-{number:04}"), &network("front", &rules))?);
    }
    policies.push(policy("shop/the-one", &network("front", &format!("{{egress: {{allow: [{TO_DB}]}}}}")))?);
    rig.enforce_all(policies)?;
    let (batch, db) = (rig.at("batch", V4, 8080)?, rig.at("db", V4, 8080)?);
    rig.allowed(tcp("front", db))?;
    rig.dropped(tcp("front", batch), "shop/many-0000", "network.egress")
}
