//! A container's OCI specification to that of one more process in it, as containerd's own part for
//! Kubernetes makes it (`container_execsync.go`).

use bowline_proto::session::Size;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The specification of a process, all but the size of its terminal. What is not known here is as
/// the container's own process has it: user, rights, limits, labels.
#[derive(Clone, Debug)]
pub(super) struct ProcessSpec(Map<String, Value>);

#[derive(Deserialize)]
struct Spec {
    process: Map<String, Value>,
}

impl ProcessSpec {
    /// Makes the specification of `words` out of the JSON of the container's; `None` if that is
    /// none. Variables of `env` take the place of the container's.
    pub(super) fn of(
        container: &[u8],
        words: &[String],
        env: &[(String, String)],
        tty: bool,
    ) -> Option<ProcessSpec> {
        let Spec { mut process } = serde_json::from_slice(container).ok()?;
        process.insert("args".into(), json!(words));
        process.insert("terminal".into(), json!(tty));
        // It would go before the words, and the size was that of another terminal.
        process.remove("commandLine");
        process.remove("consoleSize");
        let environment = process.entry("env").or_insert_with(|| json!([]));
        if environment.is_null() {
            *environment = json!([]);
        }
        let environment = environment.as_array_mut()?;
        let term = ("TERM".to_owned(), "xterm".to_owned());
        for (name, value) in tty.then_some(&term).into_iter().chain(env) {
            let old = format!("{name}=");
            environment.retain(|pair| !pair.as_str().is_some_and(|pair| pair.starts_with(&old)));
            environment.push(json!(format!("{name}={value}")));
        }
        Some(ProcessSpec(process))
    }

    /// Returns the JSON, with the size that the terminal begins with. Sizes of zero are no sizes.
    pub(super) fn json(&self, size: Option<Size>) -> Bytes {
        let mut process = self.0.clone();
        if let Some(Size { width, height }) = size
            && width > 0
            && height > 0
        {
            process.insert("consoleSize".into(), json!({"width": width, "height": height}));
        }
        Value::Object(process).to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(json: &str, env: &[(&str, &str)], tty: bool, size: Option<Size>) -> Option<Value> {
        let env: Vec<_> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let spec = ProcessSpec::of(json.as_bytes(), &["a".into(), "b c".into()], &env, tty)?;
        Some(serde_json::from_slice(&spec.json(size)).unwrap())
    }

    #[test]
    fn what_is_not_the_commands_own_is_the_containers() {
        let json = r#"{"ociVersion": "1", "process": {"args": ["sleep"], "commandLine": "sleep 1",
            "env": ["TERM=vt100", "A=1", "AB=2"], "terminal": true, "new": {"x": [1]},
            "consoleSize": {"height": 1, "width": 2},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 18446744073709551615}]}}"#;
        let rlimits = json!([{"type": "RLIMIT_NOFILE", "hard": u64::MAX}]);
        assert_eq!(
            process(json, &[], false, None),
            Some(json!({"args": ["a", "b c"], "env": ["TERM=vt100", "A=1", "AB=2"],
                "terminal": false, "new": {"x": [1]}, "rlimits": rlimits}))
        );
        let size = Some(Size { width: 80, height: 24 });
        assert_eq!(
            process(json, &[("A", "=3"), ("TERM", "dumb")], true, size),
            Some(json!({"args": ["a", "b c"], "env": ["AB=2", "A==3", "TERM=dumb"],
                "terminal": true, "new": {"x": [1]}, "rlimits": rlimits,
                "consoleSize": {"height": 24, "width": 80}}))
        );
    }

    #[test]
    fn what_is_no_specification_is_none() {
        for json in ["", "{}", "[]", r#"{"process": null}"#, r#"{"process": {"env": 1}}"#] {
            assert_eq!(process(json, &[], true, None), None, "{json}");
        }
        let empty = Some(json!({"args": ["a", "b c"], "env": [], "terminal": false}));
        assert_eq!(process(r#"{"process": {"env": null}}"#, &[], false, None), empty);
        assert_eq!(process(r#"{"process": {}}"#, &[], false, None), empty);
    }
}
