//! The text of a scalar to its value: YAML 1.1's words for truth and numbers, as go-yaml knows
//! them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granit_parser::Tag;

use super::{Value, YamlError};

/// Returns what a scalar means: by its tag, or, if it is plain, by YAML 1.1 as go-yaml reads it.
pub(super) fn scalar(
    text: &str,
    plain: bool,
    tag: Option<&Tag>,
    line: usize,
) -> Result<Value, YamlError> {
    let kind = tag.filter(|tag| tag.handle() == "tag:yaml.org,2002:").map(Tag::suffix);
    match kind {
        Some("str") => return Ok(Value::Text(text.to_owned())),
        Some("binary") => {
            let data: String = text.split_whitespace().collect();
            let bytes = STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let wrong =
                || YamlError::Syntax { line, what: "binary data that is no text".to_owned() };
            return bytes.map(Value::Text).ok_or_else(wrong);
        }
        // A tag of somebody's own says that it is nothing that is known here.
        None if !plain || tag.is_some() => return Ok(Value::Text(text.to_owned())),
        _ => {}
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            Value::Bool(false)
        }
        text if is_number(text) => Value::Number(text.to_owned()),
        text => Value::Text(text.to_owned()),
    })
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let first = unsigned.bytes().next().unwrap_or_default();
    let known = first.is_ascii_digit() || first == b'.';
    // Not `1e5f` and not an address: what Go's and Rust's parsers both take, `_` left out.
    known
        && unsigned.bytes().all(|byte| byte.is_ascii_hexdigit() || b"._+-xo".contains(&byte))
        && number(text).is_some()
}

/// Returns the text of a key, as Kubernetes' library makes JSON of it: `yes` is `true`, `0x10` is
/// `16`.
pub(super) fn key(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(text) => match number(text)? {
            serde_json::Value::Number(number) if number.is_f64() => {
                number.as_f64().map(|number| number.to_string())
            }
            number => Some(number.to_string()),
        },
        _ => None,
    }
}

/// Reads a number; `None` if JSON cannot write it.
pub(super) fn number(text: &str) -> Option<serde_json::Value> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let radix = |prefix: &str, radix| {
        let digits = digits.strip_prefix(prefix)?;
        i64::from_str_radix(digits, radix).ok().map(|number| (sign * number).into())
    };
    let octal = digits.len() > 1 && digits.starts_with('0') && !digits.contains('.');
    radix("0x", 16)
        .or_else(|| radix("0b", 2))
        .or_else(|| radix("0o", 8))
        .or_else(|| octal.then(|| radix("0", 8)).flatten())
        .or_else(|| plain.parse::<i64>().ok().map(Into::into))
        .or_else(|| plain.parse::<u64>().ok().map(Into::into))
        .or_else(|| plain.parse::<f64>().ok().map(Into::into))
}
