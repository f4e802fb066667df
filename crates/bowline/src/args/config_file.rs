//! A gateway's configuration file to the values of its flags.
//!
//! Each field is a flag's name in one word (`bindAddress` for `--bind-address`) and has its kind,
//! so that the table of flags is the table of fields. Two are written as what they are:
//! `upstreams`, a list of mappings, and `featureGates`, a mapping.

use std::path::Path;

use bowline_kube::yaml::{self, Node, Value, YamlError};
use thiserror::Error;

use super::pflag::{BadFlag, Values};
use super::table::{Command, Flag, Kind};
use super::upstream::UPSTREAM;
use super::{HELP, gates, suggestions};

/// What `apiVersion` must say.
pub const API_VERSION: &str = "bowline/v1alpha1";
/// What `kind` must say.
pub const KIND: &str = "GatewayConfiguration";

/// `--config`.
pub const CONFIG: Flag = Flag::text(
    "config",
    "FILE",
    "A file with the flags as fields: apiVersion bowline/v1alpha1, kind GatewayConfiguration, and \
     bindAddress for --bind-address. Flags count before it. It is read anew when it changes.",
);

/// `--check`.
pub const CHECK: Flag =
    Flag::switch("check", "Say what would run, and end: 0 if it could, 1 if it could not.");

/// Why a configuration file is not used. No text has a value of the file in it, but for those that
/// a flag's own message has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadConfig {
    /// It cannot be read.
    #[error("--config {0}: {1}")]
    File(String, String),
    /// It is no YAML, or a value is of the wrong kind.
    #[error("--config {0}: {1}")]
    Yaml(String, YamlError),
    /// It is for something else.
    #[error("--config {file}: line {line}: {field} must be {must}")]
    NotOurs {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// `apiVersion` or `kind`.
        field: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// There is no such field.
    #[error("--config {file}: line {line}: unknown field {field}{}", meant(suggestion))]
    Unknown {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// Its path.
        field: String,
        /// What may be meant.
        suggestion: Option<String>,
    },
    /// A value does not fit its field.
    #[error("--config {file}: line {line}: {field}: {why}")]
    Field {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// Its path.
        field: String,
        /// Why not.
        why: String,
    },
}

fn meant(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|field| format!(" (is {field} meant?)")).unwrap_or_default()
}

/// Reads the file.
///
/// # Errors
/// [`BadConfig`] for the first thing that does not fit.
pub fn read(command: &'static Command, path: &Path) -> Result<Values, BadConfig> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| {
        BadConfig::File(file.clone(), bowline_io::text::go_file_error(path, &error))
    })?;
    of_text(command, &file, &text)
}

fn of_text(command: &'static Command, file: &str, text: &str) -> Result<Values, BadConfig> {
    let bad = |error| BadConfig::Yaml(file.to_owned(), error);
    let root = yaml::parse(text).map_err(bad)?;
    let root = root.unwrap_or(Node { line: 1, value: Value::Null });
    let Value::Map(pairs) = &root.value else {
        return Err(bad(wrong(&root, "the file", "a mapping")));
    };
    for (field, must) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let node = root.get(field);
        if !node.is_some_and(|node| node.value == Value::Text(must.to_owned())) {
            let line = node.map_or(root.line, |node| node.line);
            return Err(BadConfig::NotOurs { file: file.to_owned(), line, field, must });
        }
    }
    let mut reader = Reader { command, file, values: Values::default() };
    for (name, node) in pairs.iter().filter(|(_, node)| node.value != Value::Null) {
        match &**name {
            "apiVersion" | "kind" => {}
            "upstreams" => reader.upstreams(node)?,
            "featureGates" => reader.gates(node)?,
            _ => reader.field(name, node)?,
        }
    }
    Ok(reader.values)
}

struct Reader<'a> {
    command: &'static Command,
    file: &'a str,
    values: Values,
}

impl Reader<'_> {
    fn field(&mut self, name: &str, node: &Node) -> Result<(), BadConfig> {
        let flags: Vec<&'static Flag> =
            self.command.all_flags().filter(|flag| is_field(flag)).collect();
        let Some(&flag) = flags.iter().find(|flag| field_of(flag) == name) else {
            let names: Vec<String> = flags.into_iter().map(field_of).collect();
            return Err(self.unknown(name, node, &names));
        };
        let text = |node: &Node| match &node.value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(self.wrong(node, name, "text")),
        };
        let number = |node: &Node| match &node.value {
            Value::Number(number) => Ok(number.clone()),
            _ => Err(self.wrong(node, name, "a number")),
        };
        let given: Vec<String> = match (flag.kind, &node.value) {
            (Kind::Bool, Value::Bool(truth)) => vec![truth.to_string()],
            (Kind::Bool, _) => return Err(self.wrong(node, name, "a truth value")),
            (Kind::Number | Kind::Port, _) => vec![number(node)?],
            (Kind::Text | Kind::Address | Kind::Duration, _) => vec![text(node)?],
            (Kind::List | Kind::Each, Value::List(items)) => {
                items.iter().map(text).collect::<Result<_, _>>()?
            }
            (Kind::List | Kind::Each, _) => return Err(self.wrong(node, name, "a list")),
        };
        for value in given {
            self.give(flag, value, name, node.line)?;
        }
        Ok(())
    }

    fn upstreams(&mut self, node: &Node) -> Result<(), BadConfig> {
        const FIELDS: [&str; 3] = ["name", "kubeconfig", "context"];
        let Value::List(items) = &node.value else {
            return Err(self.wrong(node, "upstreams", "a list"));
        };
        for (index, item) in items.iter().enumerate() {
            let at = format!("upstreams[{index}]");
            let Value::Map(pairs) = &item.value else {
                return Err(self.wrong(item, &at, "a mapping"));
            };
            let known = FIELDS.map(str::to_owned);
            if let Some((name, node)) = pairs.iter().find(|(name, _)| !known.contains(name)) {
                return Err(self.unknown(&format!("{at}.{name}"), node, &[]));
            }
            let text = |field: &str| match item.get(field).map(|node| (node, &node.value)) {
                None => Ok(String::new()),
                Some((node, Value::Text(text))) if text.contains(['#', '=']) => Err(self.bad(
                    &format!("{at}.{field}"),
                    node.line,
                    "must not have # or =".into(),
                )),
                Some((_, Value::Text(text))) => Ok(text.clone()),
                Some((node, _)) => Err(self.wrong(node, &format!("{at}.{field}"), "text")),
            };
            let (name, kubeconfig, context) =
                (text("name")?, text("kubeconfig")?, text("context")?);
            if kubeconfig.is_empty() {
                return Err(self.bad(&at, item.line, "kubeconfig is missing".into()));
            }
            let name = if name.is_empty() { name } else { format!("{name}=") };
            let context = if context.is_empty() { context } else { format!("#{context}") };
            self.give(&UPSTREAM, format!("{name}{kubeconfig}{context}"), &at, item.line)?;
        }
        Ok(())
    }

    fn gates(&mut self, node: &Node) -> Result<(), BadConfig> {
        let Value::Map(pairs) = &node.value else {
            return Err(self.wrong(node, "featureGates", "a mapping"));
        };
        let mut entries = Vec::new();
        for (gate, node) in pairs {
            let Value::Bool(truth) = node.value else {
                return Err(self.wrong(node, &format!("featureGates.{gate}"), "a truth value"));
            };
            entries.push(format!("{gate}={truth}"));
        }
        self.give(&gates::FLAG, entries.join(","), "featureGates", node.line)
    }

    fn give(
        &mut self,
        flag: &'static Flag,
        value: String,
        field: &str,
        line: usize,
    ) -> Result<(), BadConfig> {
        self.values.give(flag, value.into()).map_err(|error| {
            let why = match error {
                BadFlag::Value { why, .. } => why.to_string(),
                error => error.to_string(),
            };
            self.bad(field, line, why)
        })
    }

    fn wrong(&self, node: &Node, field: &str, wanted: &'static str) -> BadConfig {
        BadConfig::Yaml(self.file.to_owned(), wrong(node, field, wanted))
    }

    fn unknown(&self, field: &str, node: &Node, known: &[String]) -> BadConfig {
        let known = known.iter().map(String::as_str);
        let suggestion = suggestions::suggestions(field, known).first().map(ToString::to_string);
        BadConfig::Unknown {
            file: self.file.to_owned(),
            line: node.line,
            field: field.to_owned(),
            suggestion,
        }
    }

    fn bad(&self, field: &str, line: usize, why: String) -> BadConfig {
        BadConfig::Field { file: self.file.to_owned(), line, field: field.to_owned(), why }
    }
}

fn wrong(node: &Node, field: &str, wanted: &'static str) -> YamlError {
    YamlError::Kind { line: node.line, field: field.to_owned(), found: node.value.kind(), wanted }
}

/// Whether a flag is a field of its own; what says how to run this once is none.
fn is_field(flag: &Flag) -> bool {
    ![HELP.long, CONFIG.long, CHECK.long, UPSTREAM.long, gates::FLAG.long].contains(&flag.long)
}

/// A flag's name in one word.
pub fn field_of(flag: &Flag) -> String {
    let mut words = flag.long.split('-');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::gateway::COMMAND;

    const HEAD: &str = "apiVersion: bowline/v1alpha1\nkind: GatewayConfiguration\n";

    fn read(body: &str) -> Result<Values, String> {
        of_text(&COMMAND, "gw.yaml", &format!("{HEAD}{body}")).map_err(|error| error.to_string())
    }

    #[test]
    fn fields_are_flags() {
        let values = read(
            "securePort: 8443\nbindAddress: 127.0.0.1\nallowImpersonation: true\ndrain: 30s\n\
             kubeletPreferredAddressTypes: [InternalIP, Hostname]\n\
             featureGates: {PortForwardWebsockets: false}\nclientCaFile:\n\
             upstreams:\n- {name: a, kubeconfig: /a, context: c}\n- kubeconfig: in-cluster\n",
        )
        .unwrap();
        assert_eq!(values.port("secure-port"), Some(8443));
        assert!(values.is_on("allow-impersonation"));
        assert_eq!(values.list("kubelet-preferred-address-types"), ["InternalIP", "Hostname"]);
        assert_eq!(values.text("feature-gates").as_deref(), Some("PortForwardWebsockets=false"));
        assert_eq!(values.each("upstream"), ["a=/a#c", "in-cluster"]);
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_line_and_field() {
        for (body, expected) in [
            ("securePort: '1'", "line 3: securePort: text where a number belongs"),
            (
                "securePort: 70000",
                "line 3: securePort: strconv.ParseUint: parsing \"70000\": value out of range",
            ),
            ("drain: soon", "line 3: drain: time: invalid duration \"soon\""),
            ("drian: 1s", "line 3: unknown field drian (is drain meant?)"),
            ("help: true", "line 3: unknown field help"),
            ("config: x", "line 3: unknown field config"),
            ("upstreams: a", "line 3: upstreams: text where a list belongs"),
            ("upstreams:\n- {name: a}", "line 4: upstreams[0]: kubeconfig is missing"),
            ("upstreams:\n- {kubeconfg: a}", "line 4: unknown field upstreams[0].kubeconfg"),
            (
                "upstreams:\n- {kubeconfig: 'a#b'}",
                "line 4: upstreams[0].kubeconfig: must not have # or =",
            ),
            (
                "featureGates: {A: 1}",
                "line 3: featureGates.A: a number where a truth value belongs",
            ),
            ("a: [", "yaml: line"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.starts_with(&format!("--config gw.yaml: {expected}")), "{error}");
        }
        for (text, expected) in [
            ("", "the file: nothing where a mapping belongs"),
            ("kind: X", "line 1: apiVersion must be bowline/v1alpha1"),
            ("apiVersion: bowline/v1alpha1\nkind: X", "line 2: kind must be GatewayConfiguration"),
        ] {
            let error = of_text(&COMMAND, "gw.yaml", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
