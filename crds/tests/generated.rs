//! The committed CRDs are what the types say.

use std::path::Path;

#[test]
fn the_files_in_crds_yaml_are_the_generated_ones_and_no_others() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut generated = holdfast_crds::schema::files().unwrap();
    generated.sort();
    let mut present: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    present.sort();
    assert_eq!(present, generated.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    for (name, text) in generated {
        let differs = std::fs::read_to_string(directory.join(&name)).unwrap() != text;
        assert!(!differs, "{name} is not what the types say; run `cargo run -p holdfast-crds --bin crdgen`");
    }
}
