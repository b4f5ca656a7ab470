//! Reading files of YAML documents: the agent's `check` and its directory source.
//!
//! A document is judged as the API server judges an object that is created with strict field validation, with the same
//! rules and messages ([`crate::validate`]), and then as the operator judges it (`Accepted`). Every error names the
//! file, the document, the object and the field, as far as each is known. A namespaced document without a namespace is
//! in `default`.
//!
//! Documents are divided at lines that begin with `---`, so that one which is no YAML does not hide the others.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::convert::{self, DEFAULT_NAMESPACE};
use crate::validate::{self, Problem, USER_KINDS};
use crate::{API_VERSION, ClusterWorkloadPolicy, ExternalWorkload, NodeAgent, WorkloadPolicy, path, yaml_in};

mod divide;
mod raw;

pub use raw::{Raw, read};

/// The largest file that is read, in bytes.
pub const MAX_FILE: usize = 8 << 20;
/// The largest document that is read, in bytes; larger objects do not fit the API server's store either.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// An object of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A WorkloadPolicy.
    WorkloadPolicy(Box<WorkloadPolicy>),
    /// A ClusterWorkloadPolicy.
    ClusterWorkloadPolicy(Box<ClusterWorkloadPolicy>),
    /// An ExternalWorkload.
    ExternalWorkload(Box<ExternalWorkload>),
    /// A NodeAgent, which only means something to a cluster.
    NodeAgent(Box<NodeAgent>),
}

impl Object {
    /// What distinguishes the object from all others: kind, namespace (empty for cluster-scoped kinds) and name.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::WorkloadPolicy(object) => Key::new("WorkloadPolicy", object.namespace(), object.name_any()),
            Self::ClusterWorkloadPolicy(object) => Key::new("ClusterWorkloadPolicy", None, object.name_any()),
            Self::ExternalWorkload(object) => {
                Key::new("ExternalWorkload", object.namespace(), object.name_any())
            }
            Self::NodeAgent(object) => Key::new("NodeAgent", None, object.name_any()),
        }
    }
}

/// What distinguishes an object from all others. Displayed as `WorkloadPolicy shop/payments`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// The kind.
    pub kind: &'static str,
    /// The namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl Key {
    fn new(kind: &'static str, namespace: Option<String>, name: String) -> Self {
        Self { kind, namespace, name }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// A document that is good.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file's name, as given.
    pub file: String,
    /// Which document of the file, from 1; empty ones are not counted.
    pub index: usize,
    /// The object, complete with defaults and its namespace.
    pub object: Object,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct DocumentError {
    /// The file's name, as given.
    pub file: String,
    /// Which document of the file, from 1; `None` where the file as a whole is at fault.
    pub document: Option<usize>,
    /// The line in the file, from 1, where one is known.
    pub line: Option<usize>,
    /// The object, such as `WorkloadPolicy shop/payments`, as far as it is known.
    pub object: Option<String>,
    /// The field, such as `spec.selector`; empty where the document as a whole is at fault.
    pub field: String,
    /// What is wrong, without the names above.
    pub problem: String,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ", {object}")?;
        }
        f.write_str(": ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

/// What a file, or several, came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The documents that are good.
    pub documents: Vec<Document>,
    /// Everything that is wrong.
    pub errors: Vec<DocumentError>,
}

/// Reads a file from disk, at most [`MAX_FILE`] bytes of it, and parses it.
#[must_use]
pub fn parse_file(path: &Path) -> Parsed {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    match std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
        Ok(_) => parse(&name, &bytes),
        Err(error) => {
            let mut parsed = Parsed::default();
            parsed.errors.push(file_error(&name, None, format!("cannot be read: {error}")));
            parsed
        }
    }
}

/// Parses the contents of a file. Two documents of one kind, namespace and name are an error of the second.
#[must_use]
pub fn parse(file: &str, bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let text = match text(file, bytes) {
        Ok(text) => text,
        Err(error) => {
            parsed.errors.push(*error);
            return parsed;
        }
    };
    let mut index = 0;
    for piece in divide::divide(text) {
        if piece.is_blank() {
            continue;
        }
        let place = Place { file, index: index + 1, first_line: piece.line };
        match place.read(piece.text) {
            Ok(None) => continue,
            Ok(Some(document)) => parsed.documents.push(document),
            Err(errors) => parsed.errors.extend(errors),
        }
        index += 1;
    }
    refuse_duplicates(&mut parsed);
    parsed
}

/// The text of a file that is not too large and is UTF-8.
fn text<'bytes>(file: &str, bytes: &'bytes [u8]) -> Result<&'bytes str, Box<DocumentError>> {
    if bytes.len() > MAX_FILE {
        return Err(Box::new(file_error(file, None, format!("is larger than {MAX_FILE} bytes"))));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
            let problem = format!("is not UTF-8: byte {} cannot be read", error.valid_up_to() + 1);
            Err(Box::new(file_error(file, Some(line), problem)))
        }
    }
}

/// Joins what several files came to. Two documents of one kind, namespace and name are an error of the later one.
#[must_use]
pub fn join(files: impl IntoIterator<Item = Parsed>) -> Parsed {
    let mut joined = Parsed::default();
    for file in files {
        joined.documents.extend(file.documents);
        joined.errors.extend(file.errors);
    }
    refuse_duplicates(&mut joined);
    joined
}

fn refuse_duplicates(parsed: &mut Parsed) {
    let mut seen: BTreeMap<Key, (String, usize)> = BTreeMap::new();
    let errors = &mut parsed.errors;
    parsed.documents.retain(|document| {
        let key = document.object.key();
        if let Some((file, index)) = seen.get(&key) {
            errors.push(DocumentError {
                file: document.file.clone(),
                document: Some(document.index),
                line: None,
                object: Some(key.to_string()),
                field: "metadata.name".to_owned(),
                problem: format!("is the name of document {index} of {file} already"),
            });
            return false;
        }
        seen.insert(key, (document.file.clone(), document.index));
        true
    });
}

fn file_error(file: &str, line: Option<usize>, problem: String) -> DocumentError {
    DocumentError { file: file.to_owned(), document: None, line, object: None, field: String::new(), problem }
}

/// Where a document stands.
struct Place<'a> {
    file: &'a str,
    index: usize,
    first_line: usize,
}

impl Place<'_> {
    fn error(&self, line: Option<usize>, object: Option<&str>, problem: Problem) -> DocumentError {
        DocumentError {
            file: self.file.to_owned(),
            document: Some(self.index),
            line: line.map(|line| line + self.first_line - 1),
            object: object.map(str::to_owned),
            field: problem.field,
            problem: problem.problem,
        }
    }

    fn read(&self, text: &str) -> Result<Option<Document>, Vec<DocumentError>> {
        if text.len() > MAX_DOCUMENT {
            let problem = format!("is larger than {MAX_DOCUMENT} bytes");
            return Err(vec![self.error(Some(1), None, Problem::new("", problem))]);
        }
        let mut value = match yaml_in::read(text) {
            Ok(None | Some(Value::Null)) => return Ok(None),
            Ok(Some(value)) => value,
            Err(error) => {
                let problem = format!("{} (column {})", error.problem, error.column);
                return Err(vec![self.error(Some(error.line), None, Problem::new(error.field, problem))]);
            }
        };
        let title = title(&value);
        judge(&mut value).map(|object| Some(self.document(object))).map_err(|problems| {
            let places = yaml_in::places(text);
            let locate = |field: &str| {
                let known = std::iter::successors(Some(field), |field| path::parent(field));
                known.filter_map(|field| places.get(field)).map(|(line, _)| *line).next()
            };
            let errors = problems.into_iter().map(|problem| {
                let line = locate(&problem.field).or(Some(1));
                self.error(line, title.as_deref(), problem)
            });
            errors.collect()
        })
    }

    fn document(&self, object: Object) -> Document {
        Document { file: self.file.to_owned(), index: self.index, object }
    }
}

/// Kind, namespace and name of a document that may be no good otherwise.
fn title(value: &Value) -> Option<String> {
    let kind = value.get("kind")?.as_str()?;
    let metadata = value.get("metadata");
    let text = |field: &str| metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
    let title = match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        _ => kind.to_owned(),
    };
    // A name of a megabyte helps nobody.
    Some(title.chars().take(400).collect())
}

fn judge(value: &mut Value) -> Result<Object, Vec<Problem>> {
    let Some(fields) = value.as_object() else {
        return Err(vec![Problem::new("", "is no mapping with apiVersion, kind, metadata and spec")]);
    };
    let text = |field: &str| match fields.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(vec![Problem::new(field, "must be text")]),
        None => Err(vec![Problem::new(field, "is missing")]),
    };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    if version != API_VERSION {
        return Err(vec![Problem::new("apiVersion", format!("{version:?} is not {API_VERSION}"))]);
    }
    if !USER_KINDS.contains(&kind.as_str()) {
        return Err(vec![Problem::new("kind", format!("{kind:?} is none of {}", USER_KINDS.join(", ")))]);
    }
    let problems = validate::object(&kind, value);
    if !problems.is_empty() {
        return Err(problems);
    }
    let namespaced = matches!(kind.as_str(), "WorkloadPolicy" | "ExternalWorkload");
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        if namespaced {
            metadata.entry("namespace").or_insert_with(|| DEFAULT_NAMESPACE.into());
        } else {
            // As the API server does.
            metadata.remove("namespace");
        }
    }
    let accepted = |errors: Vec<holdfast_policy::error::FieldError>| {
        errors
            .into_iter()
            .map(|error| Problem::new(path::key("spec", &error.field), error.problem))
            .collect::<Vec<_>>()
    };
    match kind.as_str() {
        "WorkloadPolicy" => {
            let object: WorkloadPolicy = typed(value)?;
            convert::workload_policy(&object).map_err(accepted)?;
            Ok(Object::WorkloadPolicy(Box::new(object)))
        }
        "ClusterWorkloadPolicy" => {
            let object: ClusterWorkloadPolicy = typed(value)?;
            convert::cluster_workload_policy(&object).map_err(accepted)?;
            Ok(Object::ClusterWorkloadPolicy(Box::new(object)))
        }
        "ExternalWorkload" => typed(value).map(|object| Object::ExternalWorkload(Box::new(object))),
        _ => typed(value).map(|object| Object::NodeAgent(Box::new(object))),
    }
}

/// The typed object. What the schema let through fits, but for text that is more than text, such as a time or quantity.
fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Problem>> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| vec![Problem::new(error.path().to_string(), error.inner().to_string())])
}

#[cfg(test)]
mod tests;
