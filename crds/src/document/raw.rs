//! Documents that were read and not judged, for whoever takes objects of other groups too.

use serde_json::Value;

use super::{Document, DocumentError, Place, divide, judge, text, title};
use crate::validate::Problem;
use crate::yaml_in;

/// A document that is YAML, or an item of a list in one.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// The file's name, as given.
    pub file: String,
    /// Which document of the file, from 1; empty ones are not counted.
    pub index: usize,
    /// The line of the file that it begins in, from 1.
    pub line: usize,
    /// What it says.
    pub value: Value,
}

/// Reads the contents of a file, with the same limits and the same strictness as [`parse`](super::parse), but for the
/// size of a document, which may be that of the file.
#[must_use]
pub fn read(file: &str, bytes: &[u8]) -> (Vec<Raw>, Vec<DocumentError>) {
    let text = match text(file, bytes) {
        Ok(text) => text,
        Err(error) => return (Vec::new(), vec![*error]),
    };
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    let mut index = 1;
    for piece in divide::divide(text).into_iter().filter(|piece| !piece.is_blank()) {
        match yaml_in::read(piece.text) {
            Ok(None | Some(Value::Null)) => continue,
            Ok(Some(value)) => {
                documents.push(Raw { file: file.to_owned(), index, line: piece.line, value });
            }
            Err(error) => {
                let place = Place { file, index, first_line: piece.line };
                let problem = format!("{} (column {})", error.problem, error.column);
                errors.push(place.error(Some(error.line), None, Problem::new(error.field, problem)));
            }
        }
        index += 1;
    }
    (documents, errors)
}

impl Raw {
    /// The items, where it is a `List` as kubectl prints several objects.
    #[must_use]
    pub fn items(&self) -> Option<Vec<Self>> {
        let text = |field: &str| self.value.get(field).and_then(Value::as_str);
        let is_list = text("apiVersion") == Some("v1") && text("kind") == Some("List");
        let items = self.value.get("items").filter(|_| is_list)?.as_array()?;
        Some(items.iter().map(|item| Self { value: item.clone(), ..self.clone_place() }).collect())
    }

    fn clone_place(&self) -> Self {
        Self { file: self.file.clone(), index: self.index, line: self.line, value: Value::Null }
    }

    /// The object of Holdfast's that it is.
    ///
    /// # Errors
    /// Everything that is wrong with it, as [`parse`](super::parse) finds it.
    pub fn judge(self) -> Result<Document, Vec<DocumentError>> {
        let mut value = self.value.clone();
        match judge(&mut value) {
            Ok(object) => Ok(Document { file: self.file, index: self.index, object }),
            Err(problems) => {
                Err(problems.into_iter().map(|problem| self.error(&problem.field, problem.problem)).collect())
            }
        }
    }

    /// An error of it. `field` is empty where it is at fault as a whole.
    #[must_use]
    pub fn error(&self, field: &str, problem: impl Into<String>) -> DocumentError {
        DocumentError {
            file: self.file.clone(),
            document: Some(self.index),
            line: Some(self.line),
            object: title(&self.value),
            field: field.to_owned(),
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_any_kind_are_read_and_lists_opened() {
        let text = "kind: Pod\napiVersion: v1\n---\n# none\n---\napiVersion: v1\nkind: List\nitems:\n- {kind: A}\n- {kind: B}\n\
                    ---\na: [\n";
        let (documents, errors) = read("f.yaml", text.as_bytes());
        assert_eq!(documents.iter().map(|raw| (raw.index, raw.line)).collect::<Vec<_>>(), [(1, 1), (2, 5)]);
        assert_eq!((errors.len(), errors[0].document), (1, Some(3)));
        assert_eq!(documents[0].items(), None);
        let items = documents[1].items().unwrap();
        assert_eq!(items.iter().map(|item| item.value["kind"].clone()).collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(items[1].error("x", "y").to_string(), "f.yaml:5: document 2, B: x: y");
    }

    #[test]
    fn an_object_is_judged_as_in_a_file() {
        let text = "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: a}\n\
                    spec: {selector: {}, network: {ingress: {}}}\n";
        let (documents, _) = read("f.yaml", text.as_bytes());
        let document = documents[0].clone().judge().unwrap();
        assert_eq!(document.object.key().to_string(), "WorkloadPolicy default/a");
        let (documents, _) = read("f.yaml", text.replace("spec: {", "spec: {x: 1, ").as_bytes());
        assert_eq!(documents[0].clone().judge().unwrap_err()[0].field, "spec.x");
    }
}
