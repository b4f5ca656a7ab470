use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::json;

use super::collect::{Collected, Content, Part};
use super::*;

fn part(name: &str, content: Content) -> Part {
    Part { name: name.to_owned(), about: "a test".to_owned(), content }
}

fn collected() -> Collected {
    Collected {
        parts: vec![
            part(
                "pods.json",
                Content::Objects(vec![json!({
                    "metadata": {"name": "agent-x", "namespace": "mint"},
                    "spec": {"containers": [{"env": [{"name": "K", "value": "hunter2"}]}]},
                })]),
            ),
            part("logs/agent-x/agent.log", Content::Text("password=hunter2 of mint\n".to_owned())),
        ],
        not_read: vec![("leases in namespace mint".to_owned(), "forbidden: no".to_owned())],
    }
}

/// Name -> contents of the files of an archive.
fn unpack(path: &Path) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().display().to_string(), text)
    });
    files.collect()
}

#[test]
fn an_archive_holds_its_manifest_first_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.tar.gz");
    write(File::create(&path).unwrap(), &path, collected(), false, Timestamp::UNIX_EPOCH).unwrap();
    let files = unpack(&path);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["b/manifest.json", "b/pods.json", "b/logs/agent-x/agent.log"]);
    assert!(files.iter().all(|(_, text)| !text.contains("hunter2")), "{files:?}");
    let manifest: Value = serde_json::from_str(&files[0].1).unwrap();
    assert_eq!(manifest["redacted"], 2);
    assert_eq!(manifest["files"][0]["bytes"], files[1].1.len());
    assert_eq!(manifest["notRead"], json!([{"what": "leases in namespace mint", "why": "forbidden: no"}]));
    assert!(files[2].1.contains("of mint"));
}

#[test]
fn an_anonymous_archive_names_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.tar.gz");
    write(File::create(&path).unwrap(), &path, collected(), true, Timestamp::UNIX_EPOCH).unwrap();
    for (name, text) in unpack(&path) {
        for gone in ["mint", "agent-x"] {
            assert!(!name.contains(gone) && !text.contains(gone), "{gone} in {name}: {text}");
        }
    }
}
