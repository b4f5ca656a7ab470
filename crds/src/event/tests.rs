use super::*;

fn full() -> Event {
    Event {
        namespace: Some("shop".to_owned()),
        workload: Some("Deployment/api".to_owned()),
        pod: Some(EventPod { name: "api-0".to_owned(), uid: "u-1".to_owned() }),
        container: Some("api".to_owned()),
        process: Some(Process {
            pid: Some(4711),
            thread: Some(4712),
            start_time: Some("2026-11-25T01:00:00.000000000Z".to_owned()),
            name: Some("curl".to_owned()),
            executable: Some(escape(b"/bin/\xffcurl")),
            arguments: vec![escape(b"curl"), escape(b"\xfe\\")],
            truncated: vec![Truncated::Arguments],
            cgroup: Some("/kubepods/pod1/c1".to_owned()),
            parent: Some(Parent { pid: 1, executable: Some("/bin/sh".to_owned()) }),
        }),
        policy: Some("shop/api".to_owned()),
        generation: Some(4),
        rule: Some("network.egress.deny[0]".to_owned()),
        rule_kind: Some(RuleKind::Network),
        mechanism: Some("cgroup_skb".to_owned()),
        asked: Some(Asked::Deny),
        given: Some(Done::Drop),
        network: Some(Network {
            direction: Direction::Egress,
            protocol: "TCP".to_owned(),
            source: Some("10.0.0.1:40000".to_owned()),
            destination: Some("[2001:db8::1]:443".to_owned()),
        }),
        syscall: Some(Syscall {
            name: Some("connect".to_owned()),
            number: 42,
            abi: "x86_64".to_owned(),
            arguments: vec!["0x3".to_owned()],
        }),
        count: 8,
        suppressed: 7,
        ..Event::new("2026-11-25T01:02:03.000000004Z".to_owned(), "node-1".to_owned(), EventKind::Denied)
    }
}

#[test]
fn a_full_event_survives_the_way_through_a_line() {
    let event = full();
    let line = serde_json::to_string(&event).unwrap();
    assert!(!line.contains('\n'));
    assert_eq!(Event::from_line(&line), Some(event));
}

#[test]
fn the_names_on_the_wire_are_these() {
    let line = serde_json::to_value(full()).unwrap();
    assert_eq!(line["schema"], SCHEMA);
    assert_eq!(line["kind"], "Denied");
    assert_eq!(line["pod"], serde_json::json!({"name": "api-0", "uid": "u-1"}));
    assert_eq!(line["process"]["startTime"], "2026-11-25T01:00:00.000000000Z");
    assert_eq!(line["process"]["executable"], r"/bin/\xffcurl");
    assert_eq!(line["process"]["arguments"], serde_json::json!(["curl", r"\xfe\\"]));
    assert_eq!(line["ruleKind"], RuleKind::Network.as_str());
    assert_eq!(line["asked"], "Deny");
    assert_eq!(line["given"], Done::Drop.as_str());
    assert_eq!(line["network"]["direction"], "Egress");
    assert_eq!((&line["count"], &line["suppressed"]), (&8.into(), &7.into()));
}

#[test]
fn what_is_not_known_is_absent() {
    let gap = Event {
        gap: Some(Gap { buffer: "audits".to_owned(), lost: 3 }),
        ..Event::new("t".to_owned(), "n".to_owned(), EventKind::Gap)
    };
    assert_eq!(
        serde_json::to_value(&gap).unwrap(),
        serde_json::json!({
            "schema": SCHEMA, "time": "t", "node": "n", "kind": "Gap", "gap": {"buffer": "audits", "lost": 3}
        })
    );
}

#[test]
fn lines_of_a_log_and_of_later_layouts_are_no_events_and_later_fields_are_no_harm() {
    assert_eq!(Event::from_line("2026-11-25T01:02:03Z  INFO in force"), None);
    assert_eq!(Event::from_line(r#"{"level":"INFO","message":"holdfast.dev/event/v1"}"#), None);
    assert_eq!(
        Event::from_line(r#"{"schema":"holdfast.dev/event/v2","time":"t","node":"n","kind":"Gap"}"#),
        None
    );
    let later = r#"{"schema":"holdfast.dev/event/v1","time":"t","node":"n","kind":"Denied","new":1}"#;
    assert_eq!(Event::from_line(later), Some(Event::new("t".to_owned(), "n".to_owned(), EventKind::Denied)));
}

#[test]
fn every_byte_comes_back_from_its_escape() {
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(unescape(&escape(&all)), Some(all));
    for text in ["/usr/bin/größe", "a b", r"c:\x41", "\u{202e}txt.exe", "\u{1b}[2J", "\u{85}"] {
        assert_eq!(unescape(&escape(text.as_bytes())), Some(text.as_bytes().to_vec()), "{text:?}");
    }
    assert_eq!(unescape(r"\q"), None);
    assert_eq!(unescape(r"\x1"), None);
    assert_eq!(unescape(r"\xg0"), None);
}

#[test]
fn text_stays_readable_and_what_is_not_text_is_shown_byte_by_byte() {
    assert_eq!(escape("/usr/bin/größe".as_bytes()), "/usr/bin/größe");
    assert_eq!(escape(b"\xff\xfe"), r"\xff\xfe");
    assert_eq!(escape(b"a\nb\x1b[2J"), r"a\x0ab\x1b[2J");
    // A multi-byte sequence that is cut short.
    assert_eq!(escape(b"\xe2\x82"), r"\xe2\x82");
    assert_eq!(escape("\u{202e}".as_bytes()), r"\xe2\x80\xae");
}

#[test]
fn the_schema_requires_what_every_line_has() {
    let schema = serde_json::to_value(schemars::schema_for!(Event)).unwrap();
    let required: Vec<&str> =
        schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(required, ["schema", "time", "node", "kind"]);
}
