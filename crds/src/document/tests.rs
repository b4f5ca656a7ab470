use super::*;

const GOOD: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: a}\n\
                    spec: {selector: {}, network: {ingress: {}}}\n";

fn errors(text: &str) -> Vec<DocumentError> {
    parse("f.yaml", text.as_bytes()).errors
}

fn only(text: &str) -> DocumentError {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

#[test]
fn a_good_document_is_complete_and_in_the_default_namespace() {
    let parsed = parse("f.yaml", GOOD.as_bytes());
    assert_eq!(parsed.errors, []);
    assert_eq!(parsed.documents[0].object.key().to_string(), "WorkloadPolicy default/a");
}

#[test]
fn an_error_names_file_line_document_object_and_field() {
    let bad = "# second\napiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata:\n  name: b\n  namespace: shop\n\
               spec:\n  selector: {}\n  network:\n    ingress:\n      allow:\n      - ports:\n        - port: 80\n          endPort: 79\n";
    let parsed = parse(
        "f.yaml",
        format!("{GOOD}---\n# only a comment\n---\n{bad}---\n{}", GOOD.replace("name: a", "name: c"))
            .as_bytes(),
    );
    assert_eq!(parsed.documents.len(), 2);
    assert_eq!(
        parsed.errors[0].to_string(),
        "f.yaml:21: document 2, WorkloadPolicy shop/b: spec.network.ingress.allow[0].ports[0].endPort: is below port: \
         a range runs from port to endPort"
    );
}

#[test]
fn one_malformed_document_does_not_hide_the_others() {
    let text = format!("{GOOD}---\na: [b\n---\n{}", GOOD.replace("name: a", "name: c"));
    let parsed = parse("f.yaml", text.as_bytes());
    assert_eq!(parsed.documents.len(), 2);
    assert_eq!((parsed.errors.len(), parsed.errors[0].document), (1, Some(2)));
}

#[test]
fn kinds_and_versions_that_are_unknown_are_named() {
    assert_eq!(only(&GOOD.replace("kind: WorkloadPolicy", "kind: NetworkPolicy")).field, "kind");
    assert_eq!(only(&GOOD.replace("v1alpha1", "v1")).field, "apiVersion");
    assert_eq!(only("a: b\n").field, "apiVersion");
    assert_eq!(only("- a\n").field, "");
    assert_eq!(only(&GOOD.replace("kind: WorkloadPolicy", "kind: AddressSlice")).field, "kind");
}

#[test]
fn a_field_that_is_unknown_is_an_error() {
    let error = only(&GOOD.replace("network:", "priority: 3, network:"));
    assert_eq!(error.field, "spec.priority");
    let error = only(&GOOD.replace("metadata: {name: a}", "metadata: {name: a, label: {}}"));
    assert_eq!(error.field, "metadata.label");
    assert_eq!(only(&format!("{GOOD}extra: 1\n")).field, "extra");
}

#[test]
fn a_name_given_twice_is_an_error_in_one_file_and_in_two() {
    let error = only(&format!("{GOOD}---\n{GOOD}"));
    assert!(error.problem.contains("document 1 of f.yaml"), "{error}");
    let joined = join([parse("a.yaml", GOOD.as_bytes()), parse("b.yaml", GOOD.as_bytes())]);
    assert_eq!(joined.documents.len(), 1);
    assert!(
        joined.errors[0]
            .to_string()
            .starts_with("b.yaml: document 1, WorkloadPolicy default/a: metadata.name: ")
    );
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_their_line() {
    let parsed = parse("f.yaml", b"a: b\nc: \xff\n");
    assert_eq!(parsed.errors[0].line, Some(2));
    assert!(parsed.errors[0].problem.contains("UTF-8"));
}

#[test]
fn documents_and_files_that_are_too_large_are_refused_at_once() {
    let started = std::time::Instant::now();
    let large = format!("{GOOD}# {}\n", "x".repeat(MAX_DOCUMENT));
    assert!(only(&large).problem.contains("1048576 bytes"));
    let huge = format!("{GOOD}# {}\n", "x".repeat(10 << 20));
    assert!(only(&huge).problem.contains("8388608 bytes"));
    assert!(started.elapsed().as_secs() < 2);
}

#[test]
fn a_file_that_is_not_there_is_one_error() {
    let parsed = parse_file(Path::new("/nowhere/f.yaml"));
    assert!(parsed.errors[0].to_string().starts_with("/nowhere/f.yaml: cannot be read: "));
}

#[test]
fn what_only_the_tables_of_system_calls_can_tell_is_an_error_with_its_field() {
    let text = GOOD.replace(
        "network: {ingress: {}}",
        "syscalls: {rules: [{names: [socket], args: [{index: 0, op: Equal, value: 4294967313}], action: Deny}]}",
    );
    assert_eq!(only(&text).field, "spec.syscalls.rules[0].args[0].value");
}

#[test]
fn a_quantity_that_is_none_is_named() {
    let text = "apiVersion: holdfast.dev/v1alpha1\nkind: NodeAgent\nmetadata: {name: default}\n\
                spec: {updateStrategy: {maxUnavailable: 0}}\n";
    assert_eq!(only(text).field, "spec.updateStrategy.maxUnavailable");
}

#[test]
fn an_exported_object_is_taken_with_its_status() {
    let text = GOOD
        .replace("{name: a}", "{name: a, uid: u, resourceVersion: '5', generation: 2, managedFields: []}");
    let parsed = parse("f.yaml", format!("{text}status: {{conditions: []}}\n").as_bytes());
    assert_eq!(parsed.errors, []);
}
