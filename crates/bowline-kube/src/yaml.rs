//! YAML text to a tree of values with lines, as Kubernetes' Go clients read it: the first document,
//! YAML 1.1's words for truth, the last of two equal keys, `<<` merges.
//!
//! Errors never show a value: the texts here hold tokens and keys.

mod emit;
mod scalar;

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, Span};
use thiserror::Error;

use self::emit::emit;
use self::scalar::{key, number, scalar};

/// The longest text that is read, in bytes: a kubeconfig of thousands of clusters with their CAs
/// fits.
pub const BYTES: usize = 16 * 1024 * 1024;
/// How deep collections may nest. A kubeconfig needs nine levels, an extension may have some more.
const DEPTH: usize = 64;
/// How many values a text may have. Those of an alias count wherever it is used.
const NODES: usize = 256 * 1024;
/// How many bytes of text aliases may copy.
const COPIED_BYTES: usize = 16 * 1024 * 1024;

/// A value and the line on which it begins, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The line.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true`, `yes`, `on`, `y`, and their opposites.
    Bool(bool),
    /// A number, as it was written.
    Number(String),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, each key once.
    Map(Vec<(String, Node)>),
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum YamlError {
    /// The text is no YAML.
    #[error("yaml: line {line}: {what}")]
    Syntax {
        /// The line.
        line: usize,
        /// The parser's words, without any of the text.
        what: String,
    },
    /// The text is too long, too deep, or has too many values.
    #[error("yaml: line {line}: {what}")]
    TooMuch {
        /// The line.
        line: usize,
        /// Of what there is too much.
        what: &'static str,
    },
    /// A value is not of the kind that belongs to its field.
    #[error("line {line}: {field}: {found} where {wanted} belongs{}", hint(found, wanted))]
    Kind {
        /// The line.
        line: usize,
        /// The field's path.
        field: String,
        /// What is there.
        found: &'static str,
        /// What belongs there.
        wanted: &'static str,
    },
    /// A value of the right kind cannot be used.
    #[error("line {line}: {field}: {what}")]
    Value {
        /// The line.
        line: usize,
        /// The field's path.
        field: String,
        /// What is wrong.
        what: &'static str,
    },
}

fn hint(found: &str, wanted: &str) -> &'static str {
    match (found, wanted) {
        ("a number" | "a truth value", "text") => " (in quotes it is text)",
        ("text", "a truth value") => " (without quotes it is one)",
        _ => "",
    }
}

impl Value {
    /// Returns the name of its kind, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

impl Node {
    /// Returns the value of a key; `None` if there is none or it is null, or this is no mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(pairs) = &self.value else { return None };
        let found = pairs.iter().find(|pair| pair.0 == key).map(|pair| &pair.1);
        found.filter(|node| node.value != Value::Null)
    }

    /// Converts to JSON. Numbers that JSON cannot write become text.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(truth) => Json::Bool(*truth),
            Value::Number(text) => number(text).unwrap_or_else(|| Json::String(text.clone())),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(pairs) => Json::Object(
                pairs.iter().map(|(key, node)| (key.clone(), node.to_json())).collect(),
            ),
        }
    }

    /// Writes YAML that reads as this tree. Comments and notation of what was read are gone.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        emit(self, 0, &mut text);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    /// Counts nodes and bytes of text, for the bounds of aliases.
    fn size(&self) -> (usize, usize) {
        let sum = |sizes: &mut dyn Iterator<Item = (usize, usize)>| {
            sizes.fold((1, 0), |all, one| (all.0 + one.0, all.1 + one.1))
        };
        match &self.value {
            Value::Null | Value::Bool(_) => (1, 0),
            Value::Number(text) | Value::Text(text) => (1, text.len()),
            Value::List(items) => sum(&mut items.iter().map(Node::size)),
            Value::Map(pairs) => sum(&mut pairs.iter().map(|(key, node)| {
                let (nodes, bytes) = node.size();
                (nodes, bytes + key.len())
            })),
        }
    }
}

/// Reads the first document of a text; `None` if it is empty.
///
/// # Errors
/// [`YamlError::Syntax`] if it is no YAML, [`YamlError::TooMuch`] if it is beyond a bound.
pub fn parse(text: &str) -> Result<Option<Node>, YamlError> {
    if text.len() > BYTES {
        return Err(YamlError::TooMuch { line: 1, what: "longer than 16 MiB" });
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH;
    options.block_nesting_limit = DEPTH;
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
        copied: 0,
    };
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(..) => {}
            Event::StreamEnd | Event::DocumentEnd => return Ok(None),
            event => return reader.node(event, &span, 0).map(Some),
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    copied: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let what = match error.kind() {
                    ErrorKind::Custom(_) | ErrorKind::UnexpectedCharacter { .. } => {
                        "a character that cannot stand here".to_owned()
                    }
                    kind => kind.to_string(),
                };
                Err(YamlError::Syntax { line: error.marker().line(), what })
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), YamlError> {
        self.nodes += nodes;
        if self.nodes > NODES {
            return Err(YamlError::TooMuch { line, what: "too many values" });
        }
        Ok(())
    }

    /// Reads the node that begins with `event`.
    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, YamlError> {
        let line = span.start.line();
        self.count(1, line)?;
        if depth > DEPTH {
            return Err(YamlError::TooMuch { line, what: "nested too deep" });
        }
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, line),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                (anchor, scalar(&text, plain, tag.as_deref(), line)?)
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.map(depth)?),
            _ => return Err(YamlError::Syntax { line, what: "a value is missing".to_owned() }),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.copied(&node, line)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn copied(&mut self, node: &Node, line: usize) -> Result<(), YamlError> {
        let (nodes, bytes) = node.size();
        self.count(nodes, line)?;
        self.copied += bytes;
        if self.copied > COPIED_BYTES {
            return Err(YamlError::TooMuch { line, what: "aliases for too much text" });
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<Node, YamlError> {
        let Some(node) = self.anchors.remove(&anchor) else {
            return Err(YamlError::Syntax { line, what: "an alias for what it is in".to_owned() });
        };
        let counted = self.copied(&node, line);
        let value = counted.map(|()| node.value.clone())?;
        self.anchors.insert(anchor, node);
        Ok(Node { line, value })
    }

    fn list(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    /// Reads pairs, in their order. As in go-yaml, what stands below wins, also if it is a merge.
    fn map(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut pairs = Pairs::default();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let key = match event {
                Event::MappingEnd => return Ok(Value::Map(pairs.all)),
                Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<" => None,
                Event::Scalar(text, style, anchor, tag) => {
                    let plain = style == ScalarStyle::Plain;
                    let value = scalar(&text, plain, tag.as_deref(), line)?;
                    let node = Node { line, value };
                    let key = key(&node.value);
                    if anchor != 0 {
                        self.copied(&node, line)?;
                        self.anchors.insert(anchor, node);
                    }
                    Some(key)
                }
                Event::Alias(anchor) => Some(key(&self.alias(anchor, line)?.value)),
                _ => Some(None),
            };
            let no_key = || YamlError::Syntax { line, what: NO_KEY.to_owned() };
            let key = key.map(|key| key.ok_or_else(no_key)).transpose()?;
            let (event, span) = self.next()?;
            let node = self.node(event, &span, depth + 1)?;
            match key {
                Some(key) => pairs.set(key, node),
                None => pairs.merge(node)?,
            }
        }
    }
}

#[derive(Default)]
struct Pairs {
    all: Vec<(String, Node)>,
    places: HashMap<String, usize>,
}

impl Pairs {
    fn set(&mut self, key: String, node: Node) {
        if let Some(&place) = self.places.get(&key) {
            self.all[place].1 = node;
        } else {
            self.places.insert(key.clone(), self.all.len());
            self.all.push((key, node));
        }
    }

    /// Merges one mapping, or a list of mappings, of which the first to have a key wins.
    fn merge(&mut self, node: Node) -> Result<(), YamlError> {
        let sources = match node.value {
            Value::List(sources) => sources,
            _ => vec![node],
        };
        for source in sources.into_iter().rev() {
            let Value::Map(more) = source.value else {
                let what = "a merge of what is no mapping".to_owned();
                return Err(YamlError::Syntax { line: source.line, what });
            };
            for (key, node) in more {
                self.set(key, node);
            }
        }
        Ok(())
    }
}

const NO_KEY: &str = "a key that is no text";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> String {
        parse(text)
            .map(|node| node.map_or("none".into(), |node| node.to_json().to_string()))
            .unwrap_or_else(|fault| fault.to_string())
    }

    #[test]
    fn values_are_those_of_go() {
        for (text, value) in [
            ("~", "null"),
            ("y", "true"),
            ("No", "false"),
            ("'yes'", "\"yes\""),
            ("12", "12"),
            ("1_000", "1000"),
            ("0x1F", "31"),
            ("0b11", "3"),
            ("0o17", "15"),
            ("017", "15"),
            ("1e3", "1000.0"),
            ("-.5", "-0.5"),
            ("2001-01-01", "\"2001-01-01\""),
            ("1.2.3.4", "\"1.2.3.4\""),
            ("127.0.0.1:1", "\"127.0.0.1:1\""),
            ("abc", "\"abc\""),
            ("e5", "\"e5\""),
            ("!!str 12", "\"12\""),
            ("!own 12", "\"12\""),
            ("! yes", "\"yes\""),
            ("!!int '12'", "12"),
            ("!!binary aGk=", "\"hi\""),
            ("\"\\u0041\"", "\"A\""),
            ("|\n  a\n  b\n", "\"a\\nb\\n\""),
        ] {
            assert_eq!(json(&format!("v: {text}")), format!("{{\"v\":{value}}}"), "{text}");
        }
    }

    #[test]
    fn the_first_document_the_last_key_and_merges() {
        assert_eq!(json("a: 1\n---\nb: ["), "{\"a\":1}");
        assert_eq!(json("a: 1\na: 2"), "{\"a\":2}");
        assert_eq!(
            json("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}"),
            r#"{"a":{"b":1,"c":2},"d":{"b":3,"c":2}}"#
        );
        assert_eq!(json("a: &x {b: 1}\nd: {b: 3, <<: *x}"), r#"{"a":{"b":1},"d":{"b":1}}"#);
        assert_eq!(json("{<<: {a: 1}, <<: {a: 2}}"), r#"{"a":2}"#);
        assert_eq!(json("<<: [{a: 1}, {a: 2, b: 3}]"), r#"{"a":1,"b":3}"#);
        assert_eq!(json("'<<': {a: 1}"), r#"{"<<":{"a":1}}"#);
        for (key, read) in [("yes", "true"), ("0x10", "16"), ("1.50", "1.5")] {
            assert_eq!(json(&format!("{{{key}: 1}}")), format!("{{\"{read}\":1}}"));
        }
        assert_eq!(json("{yes: 1, on: 2}"), r#"{"true":2}"#);
        assert_eq!(json("~: 1"), "yaml: line 1: a key that is no text");
        assert_eq!(json("{&k a: 1, b: *k}"), r#"{"a":1,"b":"a"}"#);
        assert_eq!(json("{\n\t\"a\": [1,\t2],\n\t\"b\":\"c\"}"), r#"{"a":[1,2],"b":"c"}"#);
        assert_eq!(json("# nothing\n"), "none");
        assert_eq!(json(""), "none");
    }

    #[test]
    fn faults_have_a_place_and_no_value() {
        let fault = json("a: 1\ntoken: SECRET\nexec: [\n");
        assert!(fault.starts_with("yaml: line ") && !fault.contains("SECRET"), "{fault}");
        for text in [
            "a: *SECRET",
            "a: 'SECRET",
            "a: \"SECRET\\q\"",
            "%SECRET\na",
            "- SECRET\nb: c",
            "a: !<SECRET b",
            "SECRET: a: b",
            "a:\n\tSECRET: b",
            "? [SECRET]\n: a",
            "\u{1}SECRET: a",
        ] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains("line") && !fault.contains("SECRET"), "{fault}");
        }
    }

    #[test]
    fn hostile_texts_cost_little() {
        let bomb = (1..40).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, level| {
            let last = format!("*a{}", level - 1);
            let all = vec![last; 9].join(",");
            format!("{text}a{level}: &a{level} [{all}]\n")
        });
        assert!(matches!(parse(&bomb), Err(YamlError::TooMuch { .. })));
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), vec!["*a"; 1000].join(","));
        assert!(matches!(parse(&long), Err(YamlError::TooMuch { .. })));
        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            assert!(parse(&deep).is_err());
        }
        assert!(parse(&"- a\n".repeat(NODES)).is_err());
    }

    fn node() -> impl Strategy<Value = Node> {
        let text = || "[ -~äé\u{0}-\u{1f}]{0,12}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|number| Value::Number(number.to_string())),
            text().prop_map(Value::Text),
        ];
        let of = |value| Node { line: 0, value };
        leaf.prop_map(of).prop_recursive(4, 32, 4, move |inner| {
            let pairs = prop::collection::btree_map("[ -~]{0,6}", inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::List),
                pairs.prop_map(|pairs| Value::Map(pairs.into_iter().collect())),
            ]
            .prop_map(of)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(node in node()) {
            let text = node.to_yaml();
            let read = parse(&text).map(|read| read.map(|read| read.to_json()));
            prop_assert_eq!(read, Ok(Some(node.to_json())), "{}", text);
        }
    }
}
