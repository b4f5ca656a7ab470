use super::*;

fn policy(name: &str, app: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: {app}}}}}, network: {{ingress: {{}}}}}}\n"
    )
}

fn machine(name: &str, node: &str, address: &str, app: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: ExternalWorkload\n\
         metadata: {{name: {name}, namespace: bank, labels: {{app: {app}}}}}\n\
         spec: {{node: {node}, addresses: [{address}], cgroups: [/system.slice/x.service], \
         ports: [{{name: http, port: 80}}]}}\n"
    )
}

struct Rig {
    files: Files,
    facts: Facts,
}

impl Rig {
    fn new() -> Self {
        Self { files: Files::new("/etc/holdfast".into(), "vm-17".to_owned()), facts: Facts::default() }
    }

    fn put(&mut self, name: &str, text: &str) -> &mut Self {
        self.files.put(name, Ok(text.as_bytes().to_vec()));
        self.update()
    }

    fn update(&mut self) -> &mut Self {
        self.files.update(&mut self.facts, &BTreeSet::from(["192.0.2.1".parse().unwrap()]), Vec::new());
        self
    }

    fn policies(&self) -> Vec<String> {
        self.facts.policies.iter().map(|policy| format!("{}@{}", policy.id, policy.generation)).collect()
    }

    fn errors(&self) -> Vec<String> {
        self.facts.errors.iter().map(|error| format!("{}: {}", error.place, error.message)).collect()
    }
}

#[test]
fn a_policy_of_a_file_is_in_the_facts_with_a_uid_and_a_generation() {
    let mut rig = Rig::new();
    rig.put("a.yaml", &policy("p", "web"));
    assert_eq!(rig.policies(), ["shop/p@1"]);
    assert_eq!(rig.facts.policies[0].uid, "file:WorkloadPolicy/shop/p");
    rig.put("a.yaml", &format!("# a comment changes nothing\n{}", policy("p", "web")));
    assert_eq!(rig.policies(), ["shop/p@1"]);
    rig.put("a.yaml", &policy("p", "api"));
    assert_eq!(rig.policies(), ["shop/p@2"]);
    rig.put("a.yaml", &policy("p", "web"));
    assert_eq!(rig.policies(), ["shop/p@3"], "generations only grow");
    rig.files.remove("a.yaml");
    assert_eq!(rig.update().policies(), Vec::<String>::new());
    assert_eq!(rig.put("b.yaml", &policy("p", "web")).policies(), ["shop/p@3"], "it says the same again");
}

#[test]
fn one_error_in_a_file_keeps_all_of_its_last_good_contents() {
    let mut rig = Rig::new();
    rig.put("a.yaml", &format!("{}---\n{}", policy("p", "web"), policy("q", "web")));
    rig.put("b.yaml", &policy("r", "web"));
    let bad = policy("q", "web").replace("network:", "mode: Perhaps, network:");
    rig.put("a.yaml", &format!("{}---\n{bad}", policy("p", "other")));
    assert_eq!(rig.policies(), ["shop/p@1", "shop/q@1", "shop/r@1"]);
    let selector = &rig.facts.policies[0].target.pods;
    assert_eq!(selector.match_labels["app"], "web", "the good half of a bad file is not taken");
    let error = &rig.facts.errors[0];
    assert_eq!((error.place.as_str(), error.object.as_deref()), ("/etc/holdfast/a.yaml", Some("shop/q")));
    assert!(
        error.message.starts_with("document 2, line 9 (WorkloadPolicy shop/q): spec.mode: \"Perhaps\""),
        "{}",
        error.message
    );
    rig.put("a.yaml", &policy("p", "other"));
    assert_eq!((rig.policies(), rig.errors().len()), (vec!["shop/p@2".into(), "shop/r@1".into()], 0));
}

#[test]
fn a_file_that_turns_unreadable_or_empty_keeps_its_objects() {
    let mut rig = Rig::new();
    rig.put("a.yaml", &policy("p", "web"));
    for content in
        [Err("cannot be read: no".to_owned()), Ok(Vec::new()), Ok(b"# nothing\n".to_vec()), Ok(vec![0xff])]
    {
        rig.files.put("a.yaml", content);
        rig.update();
        assert_eq!((rig.policies(), rig.errors().len()), (vec!["shop/p@1".into()], 1), "{:?}", rig.errors());
    }
}

#[test]
fn a_name_that_two_files_have_belongs_to_the_first_file() {
    let mut rig = Rig::new();
    rig.put("b.yaml", &policy("p", "b"));
    rig.put("a.yaml", &policy("p", "a"));
    assert_eq!(rig.facts.policies[0].target.pods.match_labels["app"], "a");
    assert_eq!(
        rig.errors(),
        [
            "/etc/holdfast/b.yaml: document 1 (WorkloadPolicy shop/p): metadata.name: is the name of document 1 of \
          /etc/holdfast/a.yaml already"
        ]
    );
    rig.files.remove("a.yaml");
    rig.update();
    assert_eq!(rig.facts.policies[0].target.pods.match_labels["app"], "b");
    assert_eq!(rig.errors(), Vec::<String>::new());
}

#[test]
fn a_missing_file_gives_way_without_an_error() {
    let mut rig = Rig::new();
    rig.put("a.yaml", &policy("p", "web"));
    assert!(rig.files.missing("a.yaml"));
    assert!(!rig.files.missing("a.yaml"));
    assert_eq!(rig.update().policies(), ["shop/p@1"], "not yet");
    rig.put("b.yaml", &policy("p", "web"));
    assert_eq!((rig.policies(), rig.errors()), (vec!["shop/p@1".into()], Vec::new()));
    rig.put("a.yaml", &policy("q", "web"));
    assert_eq!(rig.policies(), ["shop/p@1", "shop/q@1"], "it came back");
}

#[test]
fn an_external_workload_is_local_where_its_node_is_and_a_peer_everywhere() {
    let mut rig = Rig::new();
    rig.put("a.yaml", &machine("here", "vm-17", "10.0.0.17", "ledger"));
    rig.put("b.yaml", &machine("there", "vm-18", "10.0.0.18", "ledger"));
    rig.put("c.yaml", &machine("else", "vm-19", "10.0.0.19", "other"));
    let local = &rig.facts.externals;
    assert_eq!(local.len(), 1);
    assert_eq!((local[0].name.as_str(), local[0].uid.as_str()), ("here", "file:ExternalWorkload/bank/here"));
    assert_eq!(local[0].cgroups, ["/system.slice/x.service"]);
    let world = &rig.facts.world;
    let identity = |address: &str| world.addresses[&address.parse::<IpAddr>().unwrap()].identity.unwrap();
    assert_eq!(identity("10.0.0.17"), identity("10.0.0.18"), "the same labels");
    assert_ne!(identity("10.0.0.17"), identity("10.0.0.19"));
    assert!(world.identities.keys().all(|id| *id >= FIRST_IDENTITY));
    assert_eq!(world.facts("10.0.0.18".parse().unwrap()).entities, Entities::WORLD);
    assert_eq!(world.facts("192.0.2.1".parse().unwrap()).entities, Entities::HOST | Entities::CLUSTER);
    // Numbers stay when others come and go.
    let before = identity("10.0.0.19");
    rig.files.remove("a.yaml");
    rig.files.remove("b.yaml");
    rig.update();
    assert_eq!(rig.facts.world.addresses[&"10.0.0.19".parse::<IpAddr>().unwrap()].identity, Some(before));
}

#[test]
fn an_address_that_two_workloads_claim_belongs_to_the_first() {
    let mut rig = Rig::new();
    rig.put("a.yaml", &machine("one", "vm-17", "10.0.0.17", "a"));
    rig.put("b.yaml", &machine("two", "vm-17", "10.0.0.17", "b"));
    assert_eq!(rig.facts.externals.len(), 1);
    let errors = rig.errors();
    assert!(errors[0].contains("b.yaml") && errors[0].contains("spec.addresses[0]: 10.0.0.17"), "{errors:?}");
}

#[test]
fn a_node_agent_has_no_business_in_a_directory() {
    let mut rig = Rig::new();
    rig.put(
        "a.yaml",
        "apiVersion: holdfast.dev/v1alpha1\nkind: NodeAgent\nmetadata: {name: default}\nspec: {}\n",
    );
    assert!(rig.errors()[0].contains("(NodeAgent default): kind: "), "{:?}", rig.errors());
}

#[test]
fn unchanged_facts_keep_their_parts() {
    let mut rig = Rig::new();
    rig.put("a.yaml", &policy("p", "web"));
    let before = rig.facts.clone();
    assert!(!rig.files.put("a.yaml", Ok(policy("p", "web").into_bytes())));
    rig.put("b.yaml", "a: [");
    assert!(Arc::ptr_eq(&before.policies, &rig.facts.policies));
    assert!(Arc::ptr_eq(&before.world, &rig.facts.world));
    assert!(!Arc::ptr_eq(&before.errors, &rig.facts.errors));
}

#[test]
fn what_was_saved_is_in_force_with_its_generations() {
    let mut rig = Rig::new();
    for app in ["one", "two", "three"] {
        rig.put("a.yaml", &policy("p", app));
    }
    rig.put("b.yaml", &policy("q", "x"));
    rig.put("b.yaml", "a: [");
    let saved: Vec<String> =
        rig.files.saved().iter().map(|saved| serde_json::to_string(&**saved).unwrap()).collect();

    let mut rig = Rig::new();
    assert_eq!(rig.files.restore(&saved), Vec::new());
    assert_eq!(rig.update().policies(), ["shop/p@3", "shop/q@1"]);
    // The files as they are now: one as it was, one still bad.
    rig.put("a.yaml", &policy("p", "three"));
    rig.put("b.yaml", "a: [");
    assert_eq!((rig.policies(), rig.errors().len()), (vec!["shop/p@3".into(), "shop/q@1".into()], 1));
    rig.put("a.yaml", &policy("p", "four"));
    assert_eq!(rig.policies()[0], "shop/p@4");
}

#[test]
fn a_saved_record_that_cannot_be_read_is_an_error() {
    let mut rig = Rig::new();
    let old = serde_json::json!({"file": "a.yaml", "text": "kind: Old\n", "generations": {}}).to_string();
    let errors = rig.files.restore(&["{".to_owned(), old]);
    assert_eq!(errors.len(), 2, "{errors:?}");
}
