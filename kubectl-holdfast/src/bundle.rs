//! `kubectl holdfast support-bundle`: one archive with what is needed to find a fault.
//!
//! It holds what the caller may read, without secrets ([`crate::redact`]): Secrets and `ConfigMap`s are never asked for.
//! Its manifest lists every file, and everything that could not be read, with why.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::args::Common;
use crate::cluster::{Cluster, Scope};
use crate::error::Failure;
use crate::print;
use crate::redact::Redactor;
use crate::status;
use collect::Collected;

mod collect;

/// What `support-bundle` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive; holdfast-support-TIME.tar.gz when absent. A file that is there already is left alone
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace names, label values and addresses by words that mean nothing, the same word for the same name
    #[arg(long)]
    anonymize: bool,
    /// How many lines of each log
    #[arg(long, value_name = "N", default_value_t = 2000)]
    log_lines: u32,
}

/// What the archive holds, and what it does not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    made: Timestamp,
    plugin_version: &'static str,
    anonymized: bool,
    /// How often a value was taken out.
    redacted: usize,
    files: Vec<Entry>,
    not_read: Vec<NotRead>,
}

/// A file of the archive.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    bytes: usize,
    about: String,
}

/// Something that could not be read.
#[derive(Debug, Serialize)]
struct NotRead {
    what: String,
    why: String,
}

/// Collects, and writes the archive.
///
/// # Errors
/// When the archive is there already or cannot be written, or the API server does not answer at all.
pub(crate) async fn main(args: &Args, common: &Common) -> Result<(), Failure> {
    let cluster = Cluster::connect(common).await?;
    let now = Timestamp::now();
    let path = args.output.clone().unwrap_or_else(|| {
        let time: String = format!("{now:.0}").chars().filter(char::is_ascii_alphanumeric).collect();
        PathBuf::from(format!("holdfast-support-{time}.tar.gz"))
    });
    let at = |source| Failure::File { path: path.clone(), source };
    // Before anything is read, as that takes its time.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(at)?;
    let written = match collect::collect(&cluster, args.log_lines).await {
        Ok(mut collected) => {
            status_text(&cluster, &mut collected).await;
            write(file, &path, collected, args.anonymize, now).map_err(at)
        }
        Err(failure) => Err(failure),
    };
    match written {
        Ok(manifest) => {
            let mut text = format!("{}: {} files\n", path.display(), manifest.files.len());
            for missing in &manifest.not_read {
                let _ = writeln!(text, "not read: {}: {}", missing.what, missing.why);
            }
            print(&text);
            Ok(())
        }
        Err(failure) => {
            // Half an archive helps nobody.
            let _ = std::fs::remove_file(&path);
            Err(failure)
        }
    }
}

/// The answer of `status`, as a person would have seen it.
async fn status_text(cluster: &Cluster, collected: &mut Collected) {
    match status::read(cluster, &Scope::All).await {
        Ok(facts) => {
            let now = Timestamp::now();
            let text = status::Status::new(facts, &Scope::All, now).text(true, now);
            collected.text("status.txt", "the answer of kubectl holdfast status -A -o wide", text);
        }
        Err(failure) => collected.not_read("status of all policies", failure.to_string()),
    }
}

/// Redacts everything and writes it, the manifest first.
fn write(
    file: File,
    path: &Path,
    collected: Collected,
    anonymize: bool,
    now: Timestamp,
) -> Result<Manifest, std::io::Error> {
    let mut redactor = if anonymize { Redactor::hiding() } else { Redactor::default() };
    for part in &collected.parts {
        if let collect::Content::Objects(values) = &part.content {
            for value in values {
                redactor.learn(value);
            }
        }
    }
    let mut contents = Vec::new();
    for part in collected.parts {
        let text = match part.content {
            collect::Content::Objects(values) => {
                let clean: Vec<Value> = values.into_iter().map(|value| redactor.object(value)).collect();
                serde_json::to_string_pretty(&clean)? + "\n"
            }
            collect::Content::Text(text) => redactor.lines(&text),
        };
        contents.push((redactor.short(&part.name), part.about, text));
    }
    let not_read = collected
        .not_read
        .into_iter()
        .map(|(what, why)| NotRead { what: redactor.short(&what), why: redactor.short(&why) })
        .collect();
    let manifest = Manifest {
        made: now,
        plugin_version: env!("CARGO_PKG_VERSION"),
        anonymized: anonymize,
        redacted: redactor.count,
        files: contents
            .iter()
            .map(|(name, about, text)| Entry { name: name.clone(), bytes: text.len(), about: about.clone() })
            .collect(),
        not_read,
    };
    let folder = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder =
        folder.split(".tar").next().filter(|name| !name.is_empty()).unwrap_or("holdfast-support").to_owned();
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let mut add = |name: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or(0));
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())
    };
    add("manifest.json", &(serde_json::to_string_pretty(&manifest)? + "\n"))?;
    for (name, _, text) in &contents {
        add(name, text)?;
    }
    archive.into_inner()?.finish()?.flush()?;
    Ok(manifest)
}

#[cfg(test)]
mod tests;
