//! A tree of values to YAML text that gives the same tree.

use std::fmt::Write as _;

use super::scalar::scalar;
use super::{Node, Value};

/// Appends a node to `text`.
pub(super) fn emit(node: &Node, indent: usize, text: &mut String) {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match &node.value {
        Value::Null => text.push_str("null"),
        Value::Bool(truth) => text.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => text.push_str(number),
        Value::Text(line) => text.push_str(&quoted(line)),
        Value::List(items) if items.is_empty() => text.push_str("[]"),
        Value::Map(pairs) if pairs.is_empty() => text.push_str("{}"),
        Value::List(items) => {
            for item in items {
                begin(indent, text);
                text.push_str("- ");
                emit(item, indent + 1, text);
            }
        }
        Value::Map(pairs) => {
            for (index, (key, item)) in pairs.iter().enumerate() {
                // The first one may stand behind its dash.
                if index > 0 || !text.ends_with("- ") {
                    begin(indent, text);
                }
                let key = if is_bare(key) { key.clone() } else { quoted(key) };
                let _ = write!(text, "{key}: ");
                let nested = match &item.value {
                    Value::List(items) => !items.is_empty(),
                    Value::Map(pairs) => !pairs.is_empty(),
                    _ => false,
                };
                if nested {
                    text.pop();
                }
                emit(item, indent + 1, text);
            }
        }
    }
}

fn begin(indent: usize, text: &mut String) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&"  ".repeat(indent));
}

/// Returns whether a key needs no quotes, as those of a kubeconfig.
fn is_bare(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    key.len() > 1
        && key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key.bytes().all(plain)
        && matches!(scalar(key, true, None, 0), Ok(Value::Text(_)))
}
