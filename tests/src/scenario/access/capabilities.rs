//! Which capabilities may be used.

use nix::libc::EACCES;

use super::{Audited, Done, Refused, RefusedAs, judgements};
use crate::scenario::suite::Scenario;

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    JUDGEMENTS.to_vec()
}

judgements! {
    cap_raw: "a raw socket takes NET_RAW",
        "capabilities: {deny: [NET_RAW]}", [
            "raw" => Refused("capabilities.deny[NET_RAW]"),
            "port 81" => Done,
        ];
    cap_admin: "a mount takes SYS_ADMIN, and other namespaces too",
        "capabilities: {deny: [SYS_ADMIN]}", [
            "hostname" => Refused("capabilities.deny[SYS_ADMIN]"),
            "raw" => Done,
        ];
    cap_chown: "to give a file away takes CHOWN",
        "capabilities: {deny: [CHOWN]}", [
            "chown {t}/f" => Refused("capabilities.deny[CHOWN]"),
            "chmod {t}/f" => Done,
        ];
    cap_port: "a low port takes NET_BIND_SERVICE, and a high one nothing",
        "capabilities: {deny: [NET_BIND_SERVICE]}", [
            "port 82" => RefusedAs("capabilities.deny[NET_BIND_SERVICE]", 1, EACCES),
            "port 8282" => Done,
        ];
    cap_kill: "a signal to another user's process takes KILL",
        "capabilities: {deny: [KILL]}", [
            "kill other" => Refused("capabilities.deny[KILL]"),
            "kill own" => Done,
        ];
    cap_ptrace: "to trace another user's process takes SYS_PTRACE",
        "capabilities: {deny: [SYS_PTRACE]}", [
            "ptrace other" => Refused("capabilities.deny[SYS_PTRACE]"),
            "ptrace own" => Done,
        ];
    cap_module: "a module takes SYS_MODULE, before it is looked at",
        "capabilities: {deny: [SYS_MODULE]}", [
            "module" => Refused("capabilities.deny[SYS_MODULE]"),
            "raw" => Done,
        ];
    cap_override: "to write what one may not takes DAC_OVERRIDE",
        "capabilities: {deny: [DAC_OVERRIDE]}", [
            "override {t}/f" => RefusedAs("capabilities.deny[DAC_OVERRIDE]", 1, EACCES),
            "write {t}/tool" => Done,
        ];
    cap_setuid: "to become somebody else takes SETUID",
        "capabilities: {deny: [SETUID]}", [
            "setuid" => Refused("capabilities.deny[SETUID]"),
            "chown {t}/f" => Done,
        ];
    cap_nice: "to go first takes SYS_NICE",
        "capabilities: {deny: [SYS_NICE]}", [
            "nice" => Refused("capabilities.deny[SYS_NICE]"),
        ];
    cap_user: "a user namespace of one's own gives no capability back",
        "capabilities: {deny: [SYS_ADMIN]}", [
            "userhostname" => Refused("capabilities.deny[SYS_ADMIN]"),
        ];
    cap_audit: "in Audit a capability is used and counted",
        "mode: Audit, capabilities: {deny: [NET_RAW, CHOWN]}", [
            "raw" => Audited("capabilities.deny[NET_RAW]"),
            "chown {t}/f" => Audited("capabilities.deny[CHOWN]"),
            "port 83" => Done,
        ];
}
