//! What the schema alone cannot say: rules that look at several fields, or into a string.
//!
//! Every rule exists twice: as CEL, which the API server evaluates, and as a Rust function, which [`crate::validate`]
//! evaluates for files. Both carry one message. That the two agree is proven against a real API server by the corpus
//! in `tests/corpus`; that no CEL rule lacks its function, by a test of this crate.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

mod access;
mod address;
mod network;
mod objects;
mod selector;
mod syscalls;

pub(crate) use access::{capability, path, process_rule, processes};
pub(crate) use address::{addresses, cidrs, parse_address, parse_cidr};
pub(crate) use network::{egress_rule, ip_block, network, peer, port_match, ports};
pub(crate) use objects::{cgroup, external_workload, node_agent, policy};
pub(crate) use selector::{requirement, selector};
pub(crate) use syscalls::{argument, syscall_name, syscall_rule, syscalls};

/// One rule about a value of the schema.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// The rule as the API server evaluates it; `self` is the value.
    pub(crate) cel: Cow<'static, str>,
    /// What is wrong where it does not hold.
    pub(crate) message: Message,
    /// The field at fault below the value, such as `.endPort`; empty for the value itself.
    pub(crate) field: &'static str,
    /// The rule as this crate evaluates it. The value has passed the schema, with its defaults filled in.
    pub(crate) holds: fn(&Value) -> bool,
}

/// The message of a [`Rule`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message {
    /// Always the same.
    Text(&'static str),
    /// Composed from the value: by CEL, and by a function with the same answer.
    Composed(&'static str, fn(&Value) -> String),
}

impl Rule {
    fn new(
        field: &'static str,
        message: &'static str,
        cel: impl Into<Cow<'static, str>>,
        holds: fn(&Value) -> bool,
    ) -> Self {
        Self { cel: cel.into(), message: Message::Text(message), field, holds }
    }

    /// The message for this value.
    pub(crate) fn message(&self, value: &Value) -> String {
        match self.message {
            Message::Text(text) => text.to_owned(),
            Message::Composed(_, compose) => compose(value),
        }
    }

    fn schema(&self) -> Value {
        let mut rule = Map::new();
        rule.insert("rule".into(), json!(self.cel));
        match self.message {
            Message::Text(text) => rule.insert("message".into(), json!(text)),
            Message::Composed(cel, _) => rule.insert("messageExpression".into(), json!(cel)),
        };
        if !self.field.is_empty() {
            rule.insert("fieldPath".into(), json!(self.field));
        }
        Value::Object(rule)
    }
}

/// The rules as `x-kubernetes-validations` has them.
pub(crate) fn schema(rules: &[Rule]) -> Value {
    rules.iter().map(Rule::schema).collect()
}

/// Every rule of every kind.
pub(crate) fn all() -> Vec<Rule> {
    [
        addresses(),
        argument(),
        capability(),
        cgroup(),
        cidrs(),
        egress_rule(),
        external_workload(),
        ip_block(),
        network(),
        node_agent(),
        path(),
        peer(),
        policy(),
        port_match(),
        ports(),
        process_rule(),
        processes(),
        requirement(),
        selector(),
        syscall_name(),
        syscall_rule(),
        syscalls(),
    ]
    .concat()
}

fn has(value: &Value, field: &str) -> bool {
    value.get(field).is_some()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
