//! Reads files of Kubernetes objects: YAML or JSON with any number of documents and lists.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

/// The largest file that is read. etcd takes no object of more than 1.5 MiB.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Why a file's objects cannot be read.
#[derive(Debug, Error)]
pub enum ObjectsError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// The file is larger than 16 MiB.
    #[error("{}: larger than {FILE_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file is no YAML.
    #[error("{}: {error}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        error: String,
    },
    /// A document is not an object with `kind` and `apiVersion`, or not a good one.
    #[error("{}: document {document}: {what}", path.display())]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// The number of the document in it, from 1.
        document: usize,
        /// What is wrong.
        what: String,
    },
}

/// An object, and where it was read.
#[derive(Clone, Debug)]
pub struct Object {
    /// The object, which has `kind` and `apiVersion`.
    pub value: Value,
    /// The file.
    pub path: PathBuf,
    /// The number of the document in it, from 1.
    pub document: usize,
}

impl Object {
    /// The object's `kind`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// Makes an error about this object.
    #[must_use]
    pub fn error(&self, what: impl Into<String>) -> ObjectsError {
        let (path, document) = (self.path.clone(), self.document);
        ObjectsError::NotAnObject { path, document, what: what.into() }
    }
}

/// Reads all objects of a file. Empty documents are skipped, and lists give their items.
///
/// # Errors
/// [`ObjectsError`] if the file cannot be read or parsed, or a document is not an object. It names
/// the file.
pub fn read(path: &Path) -> Result<Vec<Object>, ObjectsError> {
    let failed = |error| ObjectsError::File { path: path.to_owned(), error };
    let file = fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES {
        return Err(ObjectsError::TooLong { path: path.to_owned() });
    }
    parse(&text, path)
}

/// Reads all objects of a text, as [`read`] does; `path` is what errors call it.
///
/// # Errors
/// [`ObjectsError`] if the text cannot be parsed, or a document is not an object.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Object>, ObjectsError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| {
        let error = error.to_string();
        ObjectsError::Yaml { path: path.to_owned(), error }
    })?;
    let mut objects = Vec::new();
    for (document, value) in (1..).zip(documents) {
        if value.is_null() {
            continue;
        }
        let object = Object { value, path: path.to_owned(), document };
        if object.kind() == "List" {
            for value in object.value["items"].as_array().into_iter().flatten() {
                objects.push(checked(Object { value: value.clone(), ..object.clone() })?);
            }
        } else {
            objects.push(checked(object)?);
        }
    }
    Ok(objects)
}

fn checked(object: Object) -> Result<Object, ObjectsError> {
    for field in ["kind", "apiVersion"] {
        if !object.value[field].is_string() {
            return Err(object.error(format!("{field} is not set")));
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists() {
        let text = "apiVersion: v1\nkind: Pod\n---\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: Node}\n- {apiVersion: v1, kind: Pod}\n";
        let objects = parse(text, Path::new("f")).unwrap();
        let kinds: Vec<_> = objects.iter().map(Object::kind).collect();
        assert_eq!(kinds, ["Pod", "Node", "Pod"]);
        assert_eq!(objects[0].document, 1);
    }

    #[test]
    fn errors_name_the_place() {
        let error = parse("kind: Pod\n", Path::new("f.yaml")).unwrap_err().to_string();
        assert_eq!(error, "f.yaml: document 1: apiVersion is not set");
        assert!(parse("a: [", Path::new("f.yaml")).unwrap_err().to_string().contains("f.yaml"));
        // Whatever there is on this machine: nothing is below a device.
        let error = read(Path::new("/dev/null/f.yaml")).unwrap_err().to_string();
        assert!(error.contains("/dev/null/f.yaml"), "{error}");
    }
}
