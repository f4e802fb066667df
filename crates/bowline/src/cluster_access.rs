//! Flags, environment and kubeconfig to an API server and how it is asked.

use std::sync::Arc;
use std::time::Duration;

use bowline_client::Client;
use bowline_io::access::{AccessError, Source as _};
use bowline_io::observe::Observer;
use bowline_kube::api::Api;
use bowline_kube::config::{self, ConfigError, Overrides, ResolvedConfig};
use bowline_kube::credentials::{Credentials, CredentialsError};
use bowline_kube::plugin::PluginError;
use http::header::USER_AGENT;
use http::{HeaderName, HeaderValue};

use crate::args::global::Global;
use crate::args::upstream::IN_CLUSTER;
use crate::console;
use crate::outcome::Exit;
use crate::verbose::Verbose;

/// A request without `--request-timeout` is still not endless.
const REQUEST_PATIENCE: Duration = Duration::from_secs(60);

/// Which cluster, as whom, in which namespace.
pub struct ClusterAccess {
    /// The API server.
    pub api: Api,
    /// The namespace.
    pub namespace: String,
    /// It was said on the command line.
    pub namespace_is_given: bool,
}

impl ClusterAccess {
    /// A client of the library's for the same server, as the same user. `websockets` is the switch
    /// that says which carrier is first.
    pub fn client(&self, websockets: &str, global: &Global, observer: &Arc<Verbose>) -> Client {
        let client =
            Client::new(self.api.server.clone(), self.api.access.clone(), &*self.namespace)
                .websocket(is_switched_on(websockets))
                .server_timeout(global.request_timeout.map(|time| time.to_string()))
                .observer(observer.clone());
        let headers = self.api.headers.iter().cloned();
        headers.fold(client, |client, (name, value)| client.header(name, value))
    }
}

/// A variable of the environment, if it is text.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The API server of a kubeconfig and one of its contexts, or that of the program's own pod.
pub fn server_of(
    kubeconfig: &str,
    context: Option<&String>,
) -> Result<ResolvedConfig, ConfigError> {
    if kubeconfig == IN_CLUSTER {
        return config::of_own_pod(&env);
    }
    let (kubeconfig, context) = (Some(kubeconfig.to_owned()), context.cloned());
    config::resolve(&Overrides { kubeconfig, context, ..Overrides::default() }, &env)
}

/// kubectl's switches between carriers: only `false`, in any case, means no.
fn is_switched_on(name: &str) -> bool {
    !env(name).is_some_and(|value| value.eq_ignore_ascii_case("false"))
}

/// The end that `--warnings-as-errors` makes of a good one.
pub fn with_warnings(end: Exit, global: &Global, verbose: &Verbose) -> Exit {
    match verbose.warnings() {
        0 => end,
        _ if !global.warnings_as_errors || end.code != 0 => end,
        1 => Exit::refused("1 warning received"),
        many => Exit::refused(format_args!("{many} warnings received")),
    }
}

/// Reads what the flags and the kubeconfig say. `program` is the name that this one was called by.
pub async fn of(
    global: &Global,
    program: &str,
    observer: Arc<dyn Observer>,
) -> Result<ClusterAccess, Exit> {
    let resolved = config::resolve(&global.overrides, &env)
        .map_err(|error| if error.is_line() { Exit::line(error) } else { Exit::refused(error) })?;
    let (server, namespace) = (resolved.server.clone(), resolved.namespace.clone());
    let access = Credentials::new(resolved, Arc::new(env), console::input_is_terminal());
    let access = Arc::new(access.map_err(|error| Exit::refused(error).with_its_lines())?);
    // What is wrong with them is said before anybody is asked.
    access.access().await.map_err(|error| no_access(&error))?;
    let headers: Vec<(HeaderName, HeaderValue)> = vec![(USER_AGENT, agent(program))];
    let timeout = global.request_timeout.and_then(crate::args::go_duration::GoDuration::positive);
    let api = Api {
        access,
        server,
        headers,
        patience: timeout.unwrap_or(REQUEST_PATIENCE),
        observer: Some(observer),
        kept: None,
    };
    let namespace_is_given = global.overrides.namespace.is_some();
    Ok(ClusterAccess { api, namespace, namespace_is_given })
}

/// kubectl's words where there are no credentials: what a plugin fails with, it meets on the way.
fn no_access(error: &AccessError) -> Exit {
    let end = match error.downcast_ref() {
        Some(CredentialsError::Plugin(PluginError::ApiVersion(_))) => Exit::refused(error),
        Some(CredentialsError::Plugin(_) | CredentialsError::Oidc(_)) => {
            Exit::line(format_args!("Unable to connect to the server: {error}"))
        }
        _ => Exit::refused(error),
    };
    end.with_its_lines()
}

/// What requests say of the program that sends them.
pub fn agent(program: &str) -> HeaderValue {
    let agent = format!("{program}/v{} ({})", env!("CARGO_PKG_VERSION"), platform());
    HeaderValue::try_from(agent).unwrap_or(HeaderValue::from_static("bowline"))
}

/// The platform as Go names it.
pub fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        arch => arch,
    };
    format!("{}/{arch}", std::env::consts::OS)
}
