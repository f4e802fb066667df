//! Files of Kubernetes objects to JSON: YAML or JSON, several documents, lists laid open.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

/// The largest file that is read: etcd takes no object over 1.5 MiB, and this is a file of a few.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Why a file gives no objects.
#[derive(Debug, Error)]
pub enum ObjectsError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is larger than `FILE_BYTES`.
    #[error("{}: larger than {FILE_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is no YAML.
    #[error("{}: {error}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What and where.
        error: String,
    },
    /// A document is no object with `kind` and `apiVersion`.
    #[error("{}: document {document}: {what}", path.display())]
    NotAnObject {
        /// Which file.
        path: PathBuf,
        /// Which document in it, from 1.
        document: usize,
        /// What is wrong.
        what: String,
    },
}

/// An object and where it was written.
#[derive(Clone, Debug)]
pub struct Object {
    /// The object; `kind` and `apiVersion` are there.
    pub value: Value,
    /// The file.
    pub path: PathBuf,
    /// The document in it, from 1.
    pub document: usize,
}

impl Object {
    /// `kind`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// An error about this object.
    #[must_use]
    pub fn error(&self, what: impl Into<String>) -> ObjectsError {
        let (path, document) = (self.path.clone(), self.document);
        ObjectsError::NotAnObject { path, document, what: what.into() }
    }
}

/// Reads all objects of a file; empty documents are passed over, lists give their items.
///
/// # Errors
/// [`ObjectsError`], naming the file and the document.
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

/// The same for text; `path` is what errors call it.
///
/// # Errors
/// [`ObjectsError`].
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
