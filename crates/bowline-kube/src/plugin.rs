//! Credential plugins: a program of the user's to a token or a certificate, as client-go runs it.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_io::text::sanitized;
use jiff::Timestamp;
use serde_json::{Value as Json, json};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::kubeconfig::Exec;
use crate::yaml::{self, Node, Value, YamlError};

/// How long a plugin may take; it may have to open a browser and wait for a person.
const PATIENCE: Duration = Duration::from_secs(300);
/// The longest answer that is read: a credential is small.
const OUTPUT_BYTES: u64 = 1024 * 1024;
/// How many bytes of an install hint are shown.
const HINT_BYTES: usize = 4096;
const VERSIONS: [&str; 2] =
    ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];
/// client-go's words for a plugin that is not there.
const HELP: &str = "

It looks like you are trying to use a client-go credential plugin that is not installed.

To learn more about this feature, consult the documentation available at:
      https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins";

/// What a plugin gave.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExecCredential {
    /// A bearer token; may be empty.
    pub token: String,
    /// A client certificate, PEM; may be empty.
    pub certificate: String,
    /// The key of the certificate, PEM; there if the certificate is.
    pub key: String,
    /// When it expires; `None` is never.
    pub expires: Option<Timestamp>,
}

impl std::fmt::Debug for ExecCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecCredential").finish_non_exhaustive()
    }
}

impl ExecCredential {
    /// Returns whether it has not expired at this time.
    #[must_use]
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now <= expires)
    }
}

/// What a plugin is told about the cluster, if it asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The server's URL.
    pub server: String,
    /// The name that the server's certificate has to have; may be empty.
    pub tls_server_name: String,
    /// Whether the server's certificate is not checked.
    pub insecure: bool,
    /// The CA of the server's certificate, PEM; may be empty.
    pub ca: Vec<u8>,
    /// The URL of the proxy in front of the server; may be empty.
    pub proxy_url: String,
    /// Whether answers must not be compressed.
    pub disable_compression: bool,
    /// The extension of the cluster's entry that is for plugins.
    pub config: Option<Json>,
}

/// Why a plugin gave nothing, in client-go's words.
#[derive(Debug, Error)]
pub enum PluginError {
    /// The API version of the plugin's entry is not spoken.
    #[error("exec plugin: invalid apiVersion {0:?}")]
    ApiVersion(String),
    /// There is no such program.
    #[error("getting credentials: exec: executable {command} not found{HELP}{hint}")]
    NotFound {
        /// The program.
        command: String,
        /// The install hint, if there is one.
        hint: String,
    },
    /// A relative entry of `PATH` has it, from which nothing is run.
    #[error(
        "getting credentials: exec: executable {0} not found: PATH finds it relative to the \
         current directory, from where no plugin is run"
    )]
    Relative(String),
    /// It failed.
    #[error("getting credentials: exec: executable {command} failed with exit code {code}")]
    Failed {
        /// The program.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// It could not be run, or its answer not be read.
    #[error("getting credentials: exec: {0}")]
    Io(#[from] std::io::Error),
    /// It did not answer in time.
    #[error("getting credentials: exec: executable {0} did not end in time")]
    Late(String),
    /// It needs a person to ask, and there is none.
    #[error(
        "getting credentials: exec plugin cannot support interactive mode: standard input is not \
         a terminal"
    )]
    NeedsTerminal,
    /// Its answer cannot be read.
    #[error("getting credentials: decoding stdout: {0}")]
    Output(#[source] YamlError),
    /// Its answer is of another kind or version.
    #[error(
        "getting credentials: exec plugin is configured to use API version {0}, plugin returned \
         another kind or version"
    )]
    Version(String),
    /// Its answer has no credential.
    #[error("getting credentials: exec plugin didn't return a {0}")]
    Nothing(&'static str),
    /// Its answer has a certificate without a key, or a key without a certificate.
    #[error("getting credentials: exec plugin returned only certificate or key, not both")]
    Half,
}

/// Checks that the plugin's API version is spoken.
///
/// # Errors
/// [`PluginError::ApiVersion`] if it is not.
pub fn check(exec: &Exec) -> Result<(), PluginError> {
    if VERSIONS.contains(&&*exec.api_version) {
        return Ok(());
    }
    Err(PluginError::ApiVersion(exec.api_version.clone()))
}

/// Runs a plugin once. `terminal` says whether a person is there to be asked, `path` is this
/// program's `PATH`. Dropped, it kills the plugin.
///
/// # Errors
/// [`PluginError`] if the plugin cannot be run, fails, is too slow, or gives no credential.
pub async fn run(
    exec: &Exec,
    cluster: &ClusterInfo,
    terminal: bool,
    path: &OsStr,
) -> Result<ExecCredential, PluginError> {
    check(exec)?;
    let interactive = match &*exec.interactive_mode {
        "Never" => false,
        "Always" if !terminal => return Err(PluginError::NeedsTerminal),
        _ => terminal,
    };
    #[expect(clippy::disallowed_methods, reason = "a credential plugin")]
    let mut child = Command::new(program(exec, path)?);
    child.arg0(&exec.command).args(&exec.args);
    for (name, value) in &exec.env {
        child.env(name, value);
    }
    child.env("KUBERNETES_EXEC_INFO", format!("{}\n", info(exec, cluster, interactive)));
    let stdin = if interactive { Stdio::inherit() } else { Stdio::null() };
    let mut child = child.stdin(stdin).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take();
    let answer = async {
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(OUTPUT_BYTES).read_to_end(&mut output).await?;
        }
        Ok::<_, std::io::Error>((output, child.wait().await?))
    };
    let command = || exec.command.clone();
    let answer = timeout(PATIENCE, answer).await;
    let (output, status) = answer.map_err(|_| PluginError::Late(command()))??;
    if !status.success() {
        return Err(PluginError::Failed { command: command(), code: status.code().unwrap_or(-1) });
    }
    parse(&output, &exec.api_version)
}

/// Finds the file of a plugin: a path, or the first of this name in `PATH`. As in Go, one that is
/// found from the working directory is not run.
fn program(exec: &Exec, path: &OsStr) -> Result<PathBuf, PluginError> {
    let command = Path::new(&exec.command);
    let hint = if exec.install_hint.is_empty() { String::new() } else { shown(&exec.install_hint) };
    let missing = || PluginError::NotFound { command: exec.command.clone(), hint };
    let can_run = |file: &Path| {
        std::fs::metadata(file).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    if exec.command.contains('/') {
        let absolute = command.is_absolute();
        return if absolute && can_run(command) { Ok(command.to_owned()) } else { Err(missing()) };
    }
    for folder in std::env::split_paths(path) {
        let relative = !folder.is_absolute();
        let file = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        let file = file.join(command);
        if can_run(&file) {
            return if relative {
                Err(PluginError::Relative(exec.command.clone()))
            } else {
                Ok(file)
            };
        }
    }
    Err(missing())
}

/// Formats an install hint, each line sanitized.
fn shown(hint: &str) -> String {
    let lines: Vec<_> = hint.lines().map(|line| sanitized(line, HINT_BYTES)).collect();
    let mut text = lines.join("\n");
    text.truncate(text.floor_char_boundary(HINT_BYTES));
    format!("\n\n{text}")
}

fn info(exec: &Exec, cluster: &ClusterInfo, interactive: bool) -> Json {
    let mut spec = json!({ "interactive": interactive });
    if exec.provide_cluster_info {
        let mut about = json!({ "server": cluster.server, "config": cluster.config });
        let ca = STANDARD.encode(&cluster.ca);
        for (name, value) in [
            ("tls-server-name", json!(cluster.tls_server_name)),
            ("insecure-skip-tls-verify", json!(cluster.insecure)),
            ("certificate-authority-data", json!(ca)),
            ("proxy-url", json!(cluster.proxy_url)),
            ("disable-compression", json!(cluster.disable_compression)),
        ] {
            if value != json!("") && value != json!(false) {
                about[name] = value;
            }
        }
        spec["cluster"] = about;
    }
    json!({ "kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec })
}

/// Reads an answer, in JSON or YAML.
fn parse(output: &[u8], version: &str) -> Result<ExecCredential, PluginError> {
    let text = String::from_utf8_lossy(output);
    let empty = || Node { line: 1, value: Value::Null };
    let root = yaml::parse(&text).map_err(PluginError::Output)?.unwrap_or_else(empty);
    let text = |node: &Node, key: &'static str| match node.get(key) {
        None => Ok(String::new()),
        Some(Node { value: Value::Text(text), .. }) => Ok(text.clone()),
        Some(other) => Err(PluginError::Output(YamlError::Kind {
            line: other.line,
            field: format!("status.{key}"),
            found: other.value.kind(),
            wanted: "text",
        })),
    };
    if text(&root, "kind")? != "ExecCredential" || text(&root, "apiVersion")? != version {
        return Err(PluginError::Version(version.to_owned()));
    }
    let status = root.get("status").ok_or(PluginError::Nothing("status field"))?;
    let expires = text(status, "expirationTimestamp")?;
    let expires = if expires.is_empty() {
        None
    } else {
        let wrong = || {
            let (field, what) = ("status.expirationTimestamp".to_owned(), "that is no time");
            PluginError::Output(YamlError::Value { line: status.line, field, what })
        };
        Some(expires.parse().map_err(|_| wrong())?)
    };
    let credential = ExecCredential {
        token: text(status, "token")?,
        certificate: text(status, "clientCertificateData")?,
        key: text(status, "clientKeyData")?,
        expires,
    };
    if credential.token.is_empty() && credential.certificate.is_empty() && credential.key.is_empty()
    {
        return Err(PluginError::Nothing("token or cert/key pair"));
    }
    if credential.certificate.is_empty() != credential.key.is_empty() {
        return Err(PluginError::Half);
    }
    Ok(credential)
}

/// Returns this program's `PATH`.
#[must_use]
pub fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "client.authentication.k8s.io/v1";

    fn said(status: &str) -> Result<ExecCredential, String> {
        let text = format!("apiVersion: {V1}\nkind: ExecCredential\nstatus: {status}\n");
        parse(text.as_bytes(), V1).map_err(|error| error.to_string())
    }

    #[test]
    fn answers_are_read_as_client_go_reads_them() {
        let credential =
            said("{token: t, clientCertificateData: '', clientKeyData: null}").unwrap();
        assert_eq!((&*credential.token, credential.expires), ("t", None));
        let pretty = format!(
            "{{\n\t\"apiVersion\": \"{V1}\",\n\t\"kind\": \"ExecCredential\",\n\
            \t\"status\": {{\"token\":\"t\\u00e9\", \
             \"expirationTimestamp\":\"2026-01-01T00:00:00Z\"}}\n}}"
        );
        let credential = parse(pretty.as_bytes(), V1).unwrap();
        assert_eq!(credential.token, "té");
        let expires: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert!(
            credential.is_good(expires) && !credential.is_good(expires + Duration::from_secs(1))
        );
        for (status, why) in [
            ("null", "didn't return a status field"),
            ("{}", "didn't return a token or cert/key pair"),
            ("{token: ''}", "didn't return a token or cert/key pair"),
            ("{token: t, clientKeyData: k}", "only certificate or key, not both"),
            ("{token: 5331}", "line 3: status.token: a number where text belongs"),
            (
                "{token: t, expirationTimestamp: SECRET}",
                "status.expirationTimestamp: that is no time",
            ),
            ("[SECRET", "decoding stdout: yaml: line"),
        ] {
            let error = said(status).unwrap_err();
            assert!(error.contains(why) && !error.contains("SECRET"), "{error}");
        }
        for other in [
            "kind: Foo",
            "",
            "apiVersion: client.authentication.k8s.io/v1beta1\nkind: ExecCredential",
        ] {
            assert!(matches!(parse(other.as_bytes(), V1), Err(PluginError::Version(_))), "{other}");
        }
    }

    #[test]
    fn plugins_are_told_of_the_cluster_if_they_ask() {
        let mut exec = Exec { api_version: V1.into(), ..Exec::default() };
        let cluster = ClusterInfo {
            server: "https://a".into(),
            ca: b"ca".to_vec(),
            config: Some(json!({"audience": "x"})),
            ..ClusterInfo::default()
        };
        let text = |exec: &Exec| info(exec, &cluster, false)["spec"].clone();
        assert_eq!(text(&exec), json!({"interactive": false}));
        exec.provide_cluster_info = true;
        assert_eq!(
            text(&exec),
            json!({"interactive": false, "cluster": {"server": "https://a",
            "certificate-authority-data": "Y2E=", "config": {"audience": "x"}}})
        );
    }

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        // Beside, then renamed: a file that is open for writing cannot be run.
        let status = std::process::Command::new("sh")
            .args(["-c", "printf '%s' \"$1\" >\"$2\" && chmod +x \"$2\"", "sh", text])
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
        path
    }

    #[test]
    fn nothing_is_run_from_the_working_directory() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = script(folder.path(), "myplugin", "#!/bin/sh\n");
        std::fs::write(folder.path().join("text"), "").unwrap();
        let named = |command: &str| Exec {
            command: command.to_owned(),
            install_hint: "get it\n\u{1b}[2Jthere".to_owned(),
            ..Exec::default()
        };
        let find = |command: &str, path: &str| program(&named(command), OsStr::new(path));
        let here = folder.path().to_str().unwrap();
        assert_eq!(find("myplugin", &format!("{here}/none:{here}")).unwrap(), plugin);
        assert_eq!(find(plugin.to_str().unwrap(), "").unwrap(), plugin);
        // From the test's own directory, which has a folder of sources.
        for path in ["../src/..", ".", "", &format!("../{here}")] {
            let found = find("myplugin", path);
            assert!(matches!(found, Err(PluginError::NotFound { .. })), "{path:?}: {found:?}");
        }
        // Up to the root, and down again: a relative way to what could be run.
        let depth = std::env::current_dir().unwrap().components().count();
        let relative = format!("{}{here}", "../".repeat(depth));
        let found = find("myplugin", &format!("{relative}:{here}"));
        assert!(matches!(found, Err(PluginError::Relative(_))), "{found:?}");
        assert!(matches!(find("text", here), Err(PluginError::NotFound { .. })));
        let error = find("none", here).unwrap_err().to_string();
        assert!(error.ends_with("\n\nget it\n\u{fffd}[2Jthere"), "{error}");
        assert!(error.contains("executable none not found\n\nIt looks like"), "{error}");
    }

    #[tokio::test]
    async fn a_plugins_environment_and_failure() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "#!/bin/sh\ncat <<END\napiVersion: {V1}\nkind: ExecCredential\n\
            status: {{token: $1-$MORE}}\nEND\n"
        );
        let good = script(folder.path(), "good", &text);
        let bad = script(folder.path(), "bad", "#!/bin/sh\nexit 7\n");
        let mut exec = Exec {
            command: good.to_str().unwrap().to_owned(),
            args: vec!["a".into()],
            env: vec![("MORE".into(), "b".into())],
            api_version: V1.into(),
            interactive_mode: "Never".into(),
            ..Exec::default()
        };
        let cluster = ClusterInfo::default();
        let credential = run(&exec, &cluster, false, OsStr::new("")).await.unwrap();
        assert_eq!(credential.token, "a-b");
        exec.command = bad.to_str().unwrap().to_owned();
        let error = run(&exec, &cluster, false, OsStr::new("")).await.unwrap_err();
        assert!(error.to_string().ends_with("failed with exit code 7"), "{error}");
        exec.interactive_mode = "Always".into();
        let error = run(&exec, &cluster, false, OsStr::new("")).await.unwrap_err();
        assert!(matches!(error, PluginError::NeedsTerminal));
    }
}
