//! Which events are asked for.

use std::collections::BTreeSet;

use holdfast_crds::event::{Event, EventKind, RuleKind};

use super::Kind;

/// What is asked for; what is `None` is not asked about.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) namespaces: Option<BTreeSet<String>>,
    pub(crate) policy: Option<String>,
    pub(crate) workload: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) kind: Option<Kind>,
    pub(crate) rule_kind: Option<RuleKind>,
    pub(crate) node: Option<String>,
}

impl Filter {
    /// Whether an event is asked for. A gap may hide any, so it is shown wherever one could be missing.
    pub(crate) fn takes(&self, event: &Event) -> bool {
        if !same(self.node.as_ref(), Some(&event.node)) {
            return false;
        }
        let kind = match (event.kind, self.kind) {
            (EventKind::Denied, kind) => kind != Some(Kind::Audited),
            (EventKind::Audited, kind) => kind != Some(Kind::Denied),
            (EventKind::Gap, kind) => {
                let buffer = event.gap.as_ref().map_or("", |gap| gap.buffer.as_str());
                return !matches!(
                    (kind, buffer),
                    (Some(Kind::Denied), "audits") | (Some(Kind::Audited), "denials")
                );
            }
        };
        let namespace = self.namespaces.as_ref().is_none_or(|namespaces| {
            event.namespace.as_ref().is_some_and(|namespace| namespaces.contains(namespace))
        });
        let workload = self.workload.as_ref().is_none_or(|wanted| {
            event.workload.as_ref().is_some_and(|workload| workload.eq_ignore_ascii_case(wanted))
        });
        kind && namespace
            && workload
            && same(self.policy.as_ref(), event.policy.as_ref())
            && same(self.pod.as_ref(), event.pod.as_ref().map(|pod| &pod.name))
            && same(self.rule_kind.as_ref(), event.rule_kind.as_ref())
    }
}

fn same<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
    wanted.is_none_or(|wanted| found == Some(wanted))
}

#[cfg(test)]
mod tests {
    use holdfast_crds::event::{EventPod, Gap};

    use super::*;

    fn event() -> Event {
        Event {
            namespace: Some("shop".to_owned()),
            workload: Some("Deployment/api".to_owned()),
            pod: Some(EventPod { name: "api-1".to_owned(), uid: "u".to_owned() }),
            policy: Some("shop/api".to_owned()),
            rule_kind: Some(RuleKind::Network),
            ..Event::new("2026-01-01T00:00:00Z".to_owned(), "n1".to_owned(), EventKind::Denied)
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let text = |text: &str| Some(text.to_owned());
        let namespaces = |name: &str| Some(BTreeSet::from([name.to_owned()]));
        assert!(Filter::default().takes(&event()));
        for (good, bad) in [
            (
                Filter { namespaces: namespaces("shop"), ..Filter::default() },
                Filter { namespaces: namespaces("bank"), ..Filter::default() },
            ),
            (
                Filter { policy: text("shop/api"), ..Filter::default() },
                Filter { policy: text("bank/api"), ..Filter::default() },
            ),
            (
                Filter { workload: text("deployment/api"), ..Filter::default() },
                Filter { workload: text("StatefulSet/api"), ..Filter::default() },
            ),
            (
                Filter { pod: text("api-1"), ..Filter::default() },
                Filter { pod: text("api"), ..Filter::default() },
            ),
            (
                Filter { kind: Some(Kind::Denied), ..Filter::default() },
                Filter { kind: Some(Kind::Audited), ..Filter::default() },
            ),
            (
                Filter { rule_kind: Some(RuleKind::Network), ..Filter::default() },
                Filter { rule_kind: Some(RuleKind::Syscall), ..Filter::default() },
            ),
            (
                Filter { node: text("n1"), ..Filter::default() },
                Filter { node: text("n2"), ..Filter::default() },
            ),
        ] {
            assert!(good.takes(&event()), "{good:?}");
            assert!(!bad.takes(&event()), "{bad:?}");
        }
    }

    #[test]
    fn a_gap_is_shown_wherever_an_event_could_be_missing() {
        let gap = |buffer: &str| Event {
            gap: Some(Gap { buffer: buffer.to_owned(), lost: 3 }),
            ..Event::new(String::new(), "n1".to_owned(), EventKind::Gap)
        };
        let filter = Filter {
            namespaces: Some(BTreeSet::from(["shop".to_owned()])),
            pod: Some("x".to_owned()),
            kind: Some(Kind::Denied),
            node: Some("n1".to_owned()),
            ..Filter::default()
        };
        assert!(
            filter.takes(&gap("denials")) && filter.takes(&gap("output")) && !filter.takes(&gap("audits"))
        );
        let elsewhere = Filter { node: Some("n2".to_owned()), ..Filter::default() };
        assert!(!elsewhere.takes(&gap("denials")));
    }
}
