//! `kubectl holdfast support-bundle`.

use std::{fs, io::Read};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{operator::NAMESPACE, plugin};
use serde_json::{Value, json};

use crate::stage::{NODE, PLANTED, event, stage};

/// Name -> contents of the files of an archive.
fn unpack(path: &std::path::Path) -> Result<Vec<(String, String)>> {
    let folder = tempfile::tempdir()?;
    let status =
        std::process::Command::new("tar").arg("-xzf").arg(path).arg("-C").arg(folder.path()).status()?;
    ensure!(status.success(), "tar cannot read {}", path.display());
    let (mut files, mut folders) = (Vec::new(), vec![folder.path().to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mut text = String::new();
                fs::File::open(&path)?.read_to_string(&mut text)?;
                files.push((path.strip_prefix(folder.path())?.display().to_string(), text));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a text has this name or address. What stands in its place, such as `node-18f34e55ac`, may begin like it.
fn has(text: &str, gone: &str) -> bool {
    let goes_on = |at: usize| text[at + gone.len()..].starts_with(|next: char| next.is_ascii_hexdigit());
    text.match_indices(gone).any(|(at, _)| gone.ends_with('/') || !goes_on(at))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_support_bundle_holds_what_helps_and_no_secret() -> Result<()> {
    let stage = stage().await?;
    let planted =
        [format!("connecting with password={PLANTED}"), event("bundle", "api", "Denied", 9, "/bundled")];
    stage.write_all("agent-a", &planted).await?;
    let path = stage.cluster.folder().join("bundle.tar.gz");
    let name = path.to_str().context("no UTF-8")?;
    let said = stage.holdfast("admin", &["support-bundle", "-o", name])?;
    println!(
        "$ kubectl holdfast support-bundle -o bundle.tar.gz\n{}",
        said.out.replace(name, "bundle.tar.gz")
    );
    ensure!(said.code == 0, "{said:?}");
    let files = unpack(&path)?;
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    println!("{}", names.join("\n"));
    for wanted in [
        "manifest.json",
        "versions.json",
        "status.txt",
        "nodes.json",
        "events.json",
        "customresourcedefinitions.json",
        "holdfast.dev/workloadnodes.json",
        "holdfast.dev/workloadpolicies.json",
        "holdfast.dev/nodeagents.json",
        "installation/daemonsets.json",
        "installation/leases.json",
        "installation/pods.json",
        "logs/agent-a/agent.log",
    ] {
        ensure!(names.contains(&format!("bundle/{wanted}").as_str()), "{wanted} is not in {names:?}");
    }
    let text = |wanted: &str| {
        let found = files.iter().find(|(name, _)| *name == format!("bundle/{wanted}"));
        found.map(|(_, text)| text.as_str()).with_context(|| wanted.to_owned())
    };
    for (name, text) in &files {
        ensure!(!text.contains(PLANTED), "a secret is in {name}:\n{text}");
        ensure!(!text.contains("last-applied") && !text.contains("managedFields"), "{name}");
    }
    // It was there to be found.
    ensure!(stage.kubectl(&format!("get pod agent-a -n {NAMESPACE} -o yaml"))?.contains(PLANTED));
    ensure!(text("logs/agent-a/agent.log")?.contains("/bundled"));
    ensure!(text("logs/agent-a/agent.log")?.contains("password=[redacted]"));
    ensure!(text("installation/pods.json")?.contains("[redacted]"));
    ensure!(text("holdfast.dev/workloadnodes.json")?.contains("NoLsmAndNoFmodRet"));
    ensure!(text("holdfast.dev/workloadnodes.json")?.replace(' ', "").contains(r#""result":"Proven""#));
    ensure!(text("status.txt")?.contains("shop/api") && text("status.txt")?.contains("PROVEN"));
    let manifest: Value = serde_json::from_str(text("manifest.json")?)?;
    assert_eq!(manifest["files"].as_array().map(Vec::len), Some(files.len() - 1));
    assert_eq!(manifest["notRead"], json!([]), "an admin may read all of it");
    // Nobody asked for a Secret or a ConfigMap.
    let asked: Vec<String> = stage
        .cluster
        .audit_events()?
        .iter()
        .filter(|event| {
            event
                .pointer("/userAgent")
                .and_then(Value::as_str)
                .is_some_and(|by| by.contains("kubectl-holdfast"))
        })
        .filter_map(|event| Some(event.pointer("/objectRef/resource")?.as_str()?.to_owned()))
        .collect();
    ensure!(asked.iter().any(|kind| kind == "workloadnodes"), "{asked:?}");
    ensure!(!asked.iter().any(|kind| kind == "secrets" || kind == "configmaps"), "{asked:?}");

    // A file that is there is left alone, and nobody else may read one that is made.
    let before = fs::read(&path)?;
    let refused = stage.holdfast("admin", &["support-bundle", "-o", name])?;
    ensure!(
        refused.code == 1 && refused.err.contains("File exists") && refused.err.lines().count() == 1,
        "{refused:?}"
    );
    assert_eq!(fs::read(&path)?, before);
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path)?.permissions()) & 0o777, 0o600);

    // Who may read little gets little, and a list of what is missing.
    let path = stage.cluster.folder().join("little.tar.gz");
    let said = stage.holdfast("dev", &["support-bundle", "-o", path.to_str().context("no UTF-8")?])?;
    ensure!(said.code == 0 && said.out.contains("not read: workloadnodes: forbidden: "), "{said:?}");
    let files = unpack(&path)?;
    let manifest = files.iter().find(|(name, _)| name == "little/manifest.json").context("no manifest")?;
    let manifest: Value = serde_json::from_str(&manifest.1)?;
    ensure!(manifest["notRead"].as_array().is_some_and(|list| list.len() > 10), "{manifest}");

    // Without names and addresses.
    let path = stage.cluster.folder().join("nameless.tar.gz");
    stage.told("admin", &["support-bundle", "--anonymize", "-o", path.to_str().context("no UTF-8")?])?;
    let address = stage.kubectl("get pod api -n shop -o jsonpath={.status.podIP}")?;
    for (name, text) in unpack(&path)? {
        for gone in [NODE, "shop/", "\"shop\"", "agent-a", "agent-b", address.as_str()] {
            ensure!(!has(&text, gone) && !has(&name, gone), "{gone} is in {name}:\n{text}");
        }
    }
    // What cannot be made leaves no file.
    let nowhere = stage.cluster.folder().join("nowhere.kubeconfig");
    fs::write(
        &nowhere,
        fs::read_to_string(stage.kubeconfig("admin")?)?.replace(&stage.cluster.url(), "https://127.0.0.1:1"),
    )?;
    let path = stage.cluster.folder().join("none.tar.gz");
    let said = plugin::run(
        &nowhere,
        stage.cluster.folder(),
        &["support-bundle", "-o", path.to_str().context("no UTF-8")?],
    )?;
    ensure!(said.code == 1 && said.err.lines().count() == 1 && !path.exists(), "{said:?}");
    Ok(())
}
