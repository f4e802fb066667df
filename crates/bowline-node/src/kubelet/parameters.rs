//! A query to what it asks for, as the kubelet reads it.

use bowline_proto::extension::REPLAY;
use bowline_proto::portforward::over_websocket::PORTS;
use bowline_proto::session::Wants;

use crate::runtime::Refusal;

/// Reads how many lines of the log an attach is to begin with.
pub(super) fn replay(query: &str) -> Result<Option<usize>, Refusal> {
    let asked = form_urlencoded::parse(query.as_bytes()).find(|pair| pair.0 == REPLAY.asked);
    let Some((_, value)) = asked else { return Ok(None) };
    let number = value.parse();
    let bad =
        |_| Refusal::new(400, format!("invalid {} {value:?}: must be a number", REPLAY.asked));
    number.map(Some).map_err(bad)
}

/// Reads the ports of a forward in channels, which cannot be asked for later
/// (docs/protocols/endpoints.md, 1.2).
pub(super) fn ports(query: &str) -> Result<Vec<u16>, Refusal> {
    let bad = |text: String| Refusal::new(400, text);
    let values: Vec<String> = form_urlencoded::parse(query.as_bytes())
        .filter(|pair| pair.0 == "port")
        .map(|pair| pair.1.into_owned())
        .collect();
    if values.is_empty() {
        return Err(bad("query parameter \"port\" is required".into()));
    }
    let mut ports = Vec::new();
    for text in values.iter().flat_map(|value| value.split(',')) {
        if text.is_empty() {
            return Err(bad("query parameter \"port\" cannot be empty".into()));
        }
        let why = |why: &str| {
            bad(format!(
                "unable to parse {text:?} as a port: strconv.ParseUint: parsing {text:?}: {why}"
            ))
        };
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(why("invalid syntax"));
        }
        match text.parse() {
            Ok(0) => return Err(bad(format!("port {text:?} must be > 0"))),
            Ok(port) => ports.push(port),
            Err(_) => return Err(why("value out of range")),
        }
    }
    if ports.len() > PORTS {
        return Err(bad(format!("{} ports are more than channels can carry", ports.len())));
    }
    Ok(ports)
}

/// Reads the command and the channels as the kubelet does: only `1` is true, the first of several
/// values counts, and a terminal has no stderr of its own.
pub(super) fn parameters(query: &str) -> Result<(Vec<String>, Wants), Refusal> {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let set = |name: &str| pairs.iter().find(|pair| pair.0 == name).is_some_and(|p| p.1 == "1");
    let tty = set("tty");
    let wants =
        Wants { stdin: set("input"), stdout: set("output"), stderr: set("error") && !tty, tty };
    if !(wants.stdin || wants.stdout || wants.stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(Refusal::new(400, text));
    }
    let command = pairs.iter().filter(|pair| pair.0 == "command").map(|pair| pair.1.to_string());
    Ok((command.collect(), wants))
}

/// Reads the command of `/run`, as the kubelet does: one text, parted at each space.
pub(super) fn run_command(query: &str) -> Vec<String> {
    let given = form_urlencoded::parse(query.as_bytes()).find(|pair| pair.0 == "cmd");
    let text = given.map(|pair| pair.1).unwrap_or_default();
    text.split(' ').map(str::to_owned).collect()
}

/// The most variables that a request may set (KEP-6035).
const VARIABLES: usize = 256;
/// The most bytes of their names and values together.
const VARIABLE_BYTES: usize = 32 * 1024;

/// Reads the environment of a command: `env=NAME=VALUE`, repeated. Values are taken as they are.
pub(super) fn env(query: &str) -> Result<Vec<(String, String)>, Refusal> {
    let bad = |text: String| Refusal::new(400, text);
    let mut env: Vec<(String, String)> = Vec::new();
    let mut bytes = 0;
    for (_, text) in form_urlencoded::parse(query.as_bytes()).filter(|pair| pair.0 == "env") {
        let Some((name, value)) = text.split_once('=') else {
            return Err(bad(format!("invalid env {text:?}: must be NAME=VALUE")));
        };
        if !is_variable(name) {
            let rule =
                "must consist of letters, digits, '_', '-' and '.', and not begin with a digit";
            return Err(bad(format!("invalid env {name:?}: a name {rule}")));
        }
        if value.contains('\0') {
            return Err(bad(format!("invalid env {name:?}: its value has a zero byte")));
        }
        if env.iter().any(|known| known.0 == name) {
            return Err(bad(format!("invalid env {name:?}: it is given twice")));
        }
        bytes += text.len();
        env.push((name.to_owned(), value.to_owned()));
        if env.len() > VARIABLES || bytes > VARIABLE_BYTES {
            let text = format!("env has more than {VARIABLES} variables or {VARIABLE_BYTES} bytes");
            return Err(bad(text));
        }
    }
    Ok(env)
}

/// Whether a name is one of Kubernetes' environment variables.
fn is_variable(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    name.bytes().all(is_part) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_channels_are_read_as_the_kubelet_reads_them() {
        let read = |query| ports(query).map_err(|refusal| refusal.text);
        assert_eq!(read("port=80,81&port=82"), Ok(vec![80, 81, 82]));
        for (query, expected) in [
            ("x=1", "query parameter \"port\" is required"),
            ("port=", "query parameter \"port\" cannot be empty"),
            ("port=0", "port \"0\" must be > 0"),
            (
                "port=x",
                "unable to parse \"x\" as a port: strconv.ParseUint: parsing \"x\": invalid syntax",
            ),
            (
                "port=65536",
                "unable to parse \"65536\" as a port: strconv.ParseUint: parsing \"65536\": value \
                 out of range",
            ),
        ] {
            assert_eq!(read(query), Err(expected.to_owned()));
        }
    }

    #[test]
    fn only_a_one_counts() {
        let wants = |query| parameters(query).map(|found| found.1);
        let all = Wants { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(wants("input=1&output=1&error=1"), Ok(all));
        let terminal = Wants { stdin: true, stderr: false, tty: true, ..all };
        assert_eq!(wants("input=1&output=1&error=1&tty=1"), Ok(terminal));
        assert_eq!(wants("input=true").unwrap_err().code, 400);
        assert_eq!(wants("error=1&tty=1").unwrap_err().code, 400);
        assert_eq!(wants("output=0&output=1").unwrap_err().code, 400);
        let (command, _) = parameters("command=sh&command=-c&command=a+%22b%22&output=1").unwrap();
        assert_eq!(command, ["sh", "-c", "a \"b\""]);
    }

    #[test]
    fn a_command_to_run_is_parted_at_each_space() {
        assert_eq!(run_command("cmd=ls+-l++/"), ["ls", "-l", "", "/"]);
        assert_eq!(run_command(""), [""]);
    }

    #[test]
    fn variables_have_names_of_their_own() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = vec![pair("A", "1"), pair("_b.c-d", "x=y z"), pair("E", "")];
        assert_eq!(env("env=A%3D1&x=1&env=_b.c-d%3Dx%3Dy+z&env=E%3D"), Ok(expected));
        assert_eq!(env("command=a"), Ok(Vec::new()));
        let most: String = (0..=VARIABLES).map(|number| format!("&env=V{number}=")).collect();
        let long = format!("env=A={}", "x".repeat(VARIABLE_BYTES));
        for bad in ["env=A", "env==1", "env=1A=2", "env=A+B=1", "env=A=%00", "env=A=1&env=A=2"] {
            assert_eq!(env(bad).unwrap_err().code, 400, "{bad}");
        }
        assert_eq!(env(&most).unwrap_err().code, 400);
        assert_eq!(env(&long).unwrap_err().code, 400);
    }
}
