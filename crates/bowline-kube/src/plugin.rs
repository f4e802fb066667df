//! Credential plugins: a program of the user's to a token or a certificate.
//! Above: `credentials`. Below: `tokio`-less `std::process`, with a time limit of its own.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use kube_client::config::{Cluster, ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

/// How long a plugin may take; it may have to open a browser and wait for a person.
const PATIENCE: Duration = Duration::from_secs(300);
/// A credential is small.
const OUTPUT_BYTES: u64 = 1024 * 1024;
const VERSIONS: [&str; 2] =
    ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

/// What a plugin gave.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Given {
    /// A bearer token.
    pub token: Option<String>,
    /// A client certificate, PEM.
    pub client_certificate_data: Option<String>,
    /// Its key, PEM.
    pub client_key_data: Option<String>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    api_version: String,
    kind: String,
    status: Option<Given>,
}

/// Why a plugin gave nothing, in client-go's words.
#[derive(Debug, Error)]
pub enum PluginError {
    /// An entry without a command.
    #[error("getting credentials: exec: the kubeconfig names no command")]
    NoCommand,
    /// An API version that nobody speaks any more.
    #[error("getting credentials: exec plugin: invalid apiVersion {0:?}")]
    ApiVersion(String),
    /// It is not there.
    #[error("getting credentials: exec: executable {command} not found{hint}")]
    NotFound {
        /// The program.
        command: String,
        /// What its author says about getting it.
        hint: String,
    },
    /// It ended badly.
    #[error("getting credentials: exec: executable {command} failed with exit code {code}")]
    Failed {
        /// The program.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// It could not be run or was not done in time.
    #[error("getting credentials: exec: {0}")]
    Io(#[from] std::io::Error),
    /// It did not answer in time.
    #[error("getting credentials: exec: executable {0} did not end in time")]
    Late(String),
    /// It needs a person and there is none.
    #[error(
        "getting credentials: exec plugin cannot support interactive mode: standard input is not \
         a terminal"
    )]
    NeedsTerminal,
    /// It said something else than a credential.
    #[error("getting credentials: decoding stdout: {0}")]
    Output(String),
}

/// Runs a plugin once. `terminal` says whether a person is there to be asked.
///
/// # Errors
/// [`PluginError`].
pub fn run(exec: &ExecConfig, cluster: &Cluster, terminal: bool) -> Result<Given, PluginError> {
    let version = exec.api_version.clone().unwrap_or_default();
    if !VERSIONS.contains(&&*version) {
        return Err(PluginError::ApiVersion(version));
    }
    let command = exec.command.clone().ok_or(PluginError::NoCommand)?;
    let interactive = match exec.interactive_mode {
        Some(ExecInteractiveMode::Never) => false,
        Some(ExecInteractiveMode::Always) if !terminal => return Err(PluginError::NeedsTerminal),
        _ => terminal,
    };
    let mut child = Command::new(&command);
    child.args(exec.args.iter().flatten());
    for name in exec.drop_env.iter().flatten() {
        child.env_remove(name);
    }
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            child.env(name, value);
        }
    }
    child.env("KUBERNETES_EXEC_INFO", info(&version, exec, cluster, interactive).to_string());
    let stdin = if interactive { Stdio::inherit() } else { Stdio::null() };
    let mut child = child.stdin(stdin).stdout(Stdio::piped()).spawn().map_err(|error| {
        if error.kind() != std::io::ErrorKind::NotFound {
            return PluginError::Io(error);
        }
        let hint = exec.install_hint.as_ref().map(|hint| format!("\n\n{hint}")).unwrap_or_default();
        PluginError::NotFound { command: command.clone(), hint }
    })?;
    let output = child.stdout.take();
    let (done, waits) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.map(|output| output.take(OUTPUT_BYTES).read_to_end(&mut bytes));
        let _ = done.send(());
        read.transpose().map(|_| bytes)
    });
    if waits.recv_timeout(PATIENCE).is_err() {
        let _ = child.kill();
        let _ = child.wait();
        return Err(PluginError::Late(command));
    }
    let status = child.wait()?;
    let lost = || std::io::Error::other("its output was lost");
    let output = reader.join().map_err(|_| lost())??;
    if !status.success() {
        return Err(PluginError::Failed { command, code: status.code().unwrap_or(-1) });
    }
    parse(&output, &version)
}

fn info(
    version: &str,
    exec: &ExecConfig,
    cluster: &Cluster,
    interactive: bool,
) -> serde_json::Value {
    let mut spec = json!({ "interactive": interactive });
    if exec.provide_cluster_info {
        spec["cluster"] = json!({
            "server": cluster.server,
            "certificate-authority-data": cluster.certificate_authority_data,
            "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify.unwrap_or(false),
            "tls-server-name": cluster.tls_server_name,
            "proxy-url": cluster.proxy_url,
        });
    }
    json!({ "kind": "ExecCredential", "apiVersion": version, "spec": spec })
}

fn parse(output: &[u8], version: &str) -> Result<Given, PluginError> {
    let read: ExecCredential =
        serde_json::from_slice(output).map_err(|error| PluginError::Output(error.to_string()))?;
    if read.api_version != version || read.kind != "ExecCredential" {
        let said =
            format!("it is {} of {}, not ExecCredential of {version}", read.kind, read.api_version);
        return Err(PluginError::Output(said));
    }
    let given = read.status.unwrap_or_default();
    let pair = given.client_certificate_data.is_some() == given.client_key_data.is_some();
    if !pair || given.token.is_none() && given.client_certificate_data.is_none() {
        let said = "exec plugin didn't return a token or cert/key pair";
        return Err(PluginError::Output(said.into()));
    }
    Ok(given)
}
