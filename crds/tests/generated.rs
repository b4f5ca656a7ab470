//! The committed files are what the types say, and crdgen notices where they are not.

use std::path::Path;
use std::process::{Command, Output};

fn crdgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crdgen")).args(arguments).output().expect("crdgen cannot be run")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_committed_files_are_the_generated_ones_and_no_others() {
    let output = crdgen(&["--check"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_file_that_differs_is_missing_or_too_many_is_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["docs/policy-reference.md", "docs/chart-values.md", "charts/holdfast/values.yaml"] {
        std::fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
        std::fs::copy(tree.join(name), root.path().join(name)).unwrap();
    }
    let reference = root.path().join("docs/policy-reference.md");
    assert!(crdgen(&["--root", path]).status.success());
    assert!(crdgen(&["--root", path, "--check"]).status.success());

    let chart = root.path().join("charts/holdfast/crds");
    let policies = chart.join("holdfast.dev_workloadpolicies.yaml");
    let text = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, format!("{text}# a change by hand\n")).unwrap();
    std::fs::remove_file(root.path().join("crds/yaml/holdfast.dev_nodeagents.yaml")).unwrap();
    std::fs::write(chart.join("other.yaml"), "").unwrap();
    let tables = std::fs::read_to_string(&reference).unwrap();
    std::fs::write(&reference, tables.replacen("| `selector` | object |", "| `selector` | string |", 1))
        .unwrap();
    std::fs::write(root.path().join("crds/src/validate/schemas/NodeAgent.json"), "{}").unwrap();
    let output = crdgen(&["--root", path, "--check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert_eq!(said.lines().count(), 5, "{said}");
    for name in [
        "crds/holdfast.dev_workloadpolicies.yaml",
        "yaml/holdfast.dev_nodeagents.yaml",
        "other.yaml",
        "schemas/NodeAgent.json",
        "policy-reference.md",
    ] {
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn every_crd_carries_the_version_that_it_is_from() {
    let crds = holdfast_crds::all().unwrap();
    assert_eq!(crds.len(), 6);
    for crd in crds {
        let annotations = crd.metadata.annotations.unwrap();
        assert_eq!(annotations["holdfast.dev/version"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn the_chart_holds_the_crds_byte_for_byte() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, text) in holdfast_crds::schema::files().unwrap() {
        let copy = std::fs::read_to_string(root.join("charts/holdfast/crds").join(&name)).unwrap();
        assert_eq!(copy, text, "{name}");
    }
}
