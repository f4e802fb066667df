//! Label and field selectors to yes or no about an object.

use serde_json::Value;

/// Returns whether `object` has the labels that `selector` wants: `a=b`, `a==b`, `a!=b`, `a`, `!a`,
/// and `a in (b,c)`, `a notin (b,c)`. `None` for a selector that is none of these.
pub(super) fn labels(selector: &str, object: &Value) -> Option<bool> {
    let labels = &object["metadata"]["labels"];
    let mut all = true;
    for term in terms(selector) {
        let fits = if let Some((key, set)) = set_of(term, " notin ") {
            !set.contains(&labels[key].as_str().unwrap_or("\0"))
        } else if let Some((key, set)) = set_of(term, " in ") {
            labels[key].as_str().is_some_and(|value| set.contains(&value))
        } else if let Some((key, value)) = term.split_once("!=") {
            labels[key.trim()].as_str() != Some(value.trim())
        } else if let Some((key, value)) = term.split_once('=') {
            labels[key.trim()].as_str() == Some(value.trim_start_matches('=').trim())
        } else if let Some(key) = term.strip_prefix('!') {
            labels[key.trim()].is_null()
        } else if term.contains(['(', ')', ' ']) {
            return None;
        } else {
            !labels[term].is_null()
        };
        all &= fits;
    }
    Some(all)
}

fn set_of<'a>(term: &'a str, word: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let (key, set) = term.split_once(word)?;
    let set = set.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some((key.trim(), set.split(',').map(str::trim).collect()))
}

/// Splits at commas outside of parentheses.
fn terms(selector: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let split = move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    };
    selector.split(split).map(str::trim).filter(|term| !term.is_empty())
}

/// Returns whether `object` has the fields that `selector` wants. A path may name any field.
pub(super) fn fields(selector: &str, object: &Value) -> bool {
    terms(selector).all(|term| {
        let (path, value, equal) = match term.split_once("!=") {
            Some((path, value)) => (path, value, false),
            None => {
                let (path, value) = term.split_once('=').unwrap_or((term, ""));
                (path, value.trim_start_matches('='), true)
            }
        };
        let pointer = format!("/{}", path.trim().replace('.', "/"));
        let found = object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default();
        (found == value.trim()) == equal
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors() {
        let pod = json!({"metadata": {"name": "p", "labels": {"a": "1", "b": "2"}},
                         "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("", Some(true)),
            ("a=1,b==2", Some(true)),
            ("a!=1", Some(false)),
            ("c!=1", Some(true)),
            ("a,!c", Some(true)),
            ("a in (1, 3),b notin (1,3)", Some(true)),
            ("c in (1)", Some(false)),
            ("a in 1", None),
        ] {
            assert_eq!(labels(selector, &pod), expected, "{selector}");
        }
        assert!(fields("metadata.name=p,status.phase!=Failed", &pod));
        assert!(!fields("spec.nodeName=n", &pod));
    }
}
