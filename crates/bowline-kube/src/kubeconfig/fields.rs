//! The fields of a mapping to values of the kinds that belong there, or to what is there instead.
//! What is absent or null is empty.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::yaml::{Node, Value, YamlError};

fn path_of(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

/// Makes the error for a value of another kind than `wanted`.
pub(super) fn wrong(node: &Node, field: String, wanted: &'static str) -> YamlError {
    YamlError::Kind { line: node.line, field, found: node.value.kind(), wanted }
}

pub(super) fn text(node: &Node, at: &str, key: &str) -> Result<String, YamlError> {
    match node.get(key) {
        None => Ok(String::new()),
        Some(Node { value: Value::Text(text), .. }) => Ok(text.clone()),
        Some(other) => Err(wrong(other, path_of(at, key), "text")),
    }
}

pub(super) fn boolean(node: &Node, at: &str, key: &str) -> Result<bool, YamlError> {
    match node.get(key) {
        None => Ok(false),
        Some(Node { value: Value::Bool(truth), .. }) => Ok(*truth),
        Some(other) => Err(wrong(other, path_of(at, key), "a truth value")),
    }
}

pub(super) fn base64_data(node: &Node, at: &str, key: &str) -> Result<Vec<u8>, YamlError> {
    let text = text(node, at, key)?;
    // As Go's decoder: line ends are passed over, nothing else is.
    let text: String = text.chars().filter(|letter| !matches!(letter, '\r' | '\n')).collect();
    STANDARD.decode(text).map_err(|_| {
        let line = node.get(key).map_or(node.line, |node| node.line);
        YamlError::Value { line, field: path_of(at, key), what: "illegal base64 data" }
    })
}

pub(super) fn mapping<'a>(
    node: &'a Node,
    at: &str,
    key: &str,
) -> Result<Option<&'a Node>, YamlError> {
    match node.get(key) {
        None => Ok(None),
        Some(found @ Node { value: Value::Map(_), .. }) => Ok(Some(found)),
        Some(other) => Err(wrong(other, path_of(at, key), "a mapping")),
    }
}

pub(super) fn list<'a>(node: &'a Node, at: &str, key: &str) -> Result<&'a [Node], YamlError> {
    match node.get(key) {
        None => Ok(&[]),
        Some(Node { value: Value::List(items), .. }) => Ok(items),
        Some(other) => Err(wrong(other, path_of(at, key), "a list")),
    }
}

pub(super) fn text_list(node: &Node, at: &str, key: &str) -> Result<Vec<String>, YamlError> {
    let items = list(node, at, key)?.iter();
    let text = |item: &Node| match &item.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        _ => Err(wrong(item, path_of(at, key), "text")),
    };
    items.map(text).collect()
}

/// Reads `as-user-extra` of a user.
pub(super) fn extra(user: &Node) -> Result<Vec<(String, Vec<String>)>, YamlError> {
    const AT: &str = "users.user";
    let Some(node) = mapping(user, AT, "as-user-extra")? else { return Ok(Vec::new()) };
    let Value::Map(pairs) = &node.value else { return Ok(Vec::new()) };
    let each = |(key, _): &(String, Node)| {
        Ok((key.clone(), text_list(node, "users.user.as-user-extra", key)?))
    };
    pairs.iter().map(each).collect()
}

/// Returns the extension of a cluster's entry that is for plugins.
pub(super) fn exec_extension(cluster: &Node) -> Result<Option<serde_json::Value>, YamlError> {
    for extension in list(cluster, "clusters.cluster", "extensions")? {
        let name = text(extension, "clusters.cluster.extensions", "name")?;
        if name == "client.authentication.k8s.io/exec" {
            return Ok(extension.get("extension").map(Node::to_json));
        }
    }
    Ok(None)
}
