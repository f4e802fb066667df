//! Flags, environment and kubeconfig files to one cluster and one user.
//! Above: `credentials`, `api`. Below: kube's kubeconfig types.

use std::path::{Path, PathBuf};

use kube_client::config::{AuthInfo, Cluster, Context, Kubeconfig, KubeconfigError};
use secrecy::SecretString;
use thiserror::Error;
use url::Url;

/// kubectl's server where nothing names one.
const DEFAULT_SERVER: &str = "http://localhost:8080";
/// Where a pod finds its own service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// kubectl's global flags, as far as they choose a cluster and a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--kubeconfig`: this file alone; it must exist.
    pub kubeconfig: Option<String>,
    /// `--context`.
    pub context: Option<String>,
    /// `--cluster`.
    pub cluster: Option<String>,
    /// `--user`.
    pub user: Option<String>,
    /// `--namespace`.
    pub namespace: Option<String>,
    /// `--server`.
    pub server: Option<String>,
    /// `--tls-server-name`.
    pub tls_server_name: Option<String>,
    /// `--insecure-skip-tls-verify`.
    pub insecure_skip_tls_verify: Option<bool>,
    /// `--certificate-authority`.
    pub certificate_authority: Option<String>,
    /// `--client-certificate`.
    pub client_certificate: Option<String>,
    /// `--client-key`.
    pub client_key: Option<String>,
    /// `--token`.
    pub token: Option<String>,
    /// `--username`.
    pub username: Option<String>,
    /// `--password`.
    pub password: Option<String>,
    /// `--as`.
    pub impersonate: Option<String>,
    /// `--as-group`.
    pub impersonate_groups: Vec<String>,
    /// `--as-uid`.
    pub impersonate_uid: Option<String>,
    /// `--as-user-extra`, `key=value` each.
    pub impersonate_extra: Vec<String>,
}

/// A cluster and a user, chosen and complete.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The API server; a path in it is kept in front of every request's.
    pub server: Url,
    /// The rest of the cluster's entry.
    pub cluster: Cluster,
    /// The user's name in the kubeconfig; may be empty.
    pub user_name: String,
    /// The user's entry.
    pub user: AuthInfo,
    /// The namespace.
    pub namespace: String,
}

/// Why there is no cluster to talk to, in kubectl's words.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// `--kubeconfig` names a file that is not there.
    #[error("stat {0}: no such file or directory")]
    NoFile(String),
    /// A file is no kubeconfig.
    #[error("error loading config file \"{}\": {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: KubeconfigError,
    },
    /// A context that is not there. The text is a whole line, as kubectl prints it.
    #[error("Error in configuration: context was not found for specified context: {0}")]
    NoContext(String),
    /// A cluster that is not there.
    #[error("no server found for cluster {0:?}")]
    NoCluster(String),
    /// A user that is not there.
    #[error("auth info {0:?} does not exist")]
    NoUser(String),
    /// A server that is no URL.
    #[error("unable to parse server URL {0:?}")]
    Server(String),
    /// A CA and no check at all contradict each other.
    #[error("specifying a root certificates file with the insecure flag is not allowed")]
    InsecureWithCa,
    /// `proxy-url` of a kind that is not spoken.
    #[error(
        "invalid 'proxy-url' {url:?} for cluster {cluster:?}: unsupported scheme {scheme:?}, must \
         be http, https, or socks5"
    )]
    ProxyScheme {
        /// The URL.
        url: String,
        /// The cluster's name.
        cluster: String,
        /// Its scheme.
        scheme: String,
    },
    /// Impersonated details without whom.
    #[error("requesting uid, groups or user-extra for {0} without impersonating a user")]
    NoImpersonatedUser(String),
    /// Several ways to say who one is.
    #[error(
        "more than one authentication method found for {user}; found [{}], only one is allowed",
        methods.join(" ")
    )]
    AuthMethods {
        /// The user's name.
        user: String,
        /// What was found.
        methods: Vec<&'static str>,
    },
}

/// Chooses. `env` reads the environment.
///
/// # Errors
/// [`ConfigError`].
pub fn choose(
    overrides: &Overrides,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Chosen, ConfigError> {
    let config = load(overrides, env)?;
    let (context_name, context) = context(&config, overrides)?;
    let cluster_name = overrides.cluster.clone().unwrap_or_else(|| context.cluster.clone());
    let mut cluster = named_cluster(&config, &cluster_name, overrides)?;
    let user_name = overrides.user.clone().or_else(|| context.user.clone()).unwrap_or_default();
    let mut user = named_user(&config, &user_name)?;
    override_cluster(&mut cluster, overrides);
    override_user(&mut user, overrides);
    check(&cluster_name, &cluster, &user_name, &user)?;

    let nothing = config.clusters.is_empty() && overrides.server.is_none();
    let in_pod = nothing.then(|| in_cluster(env, &mut cluster, &mut user)).flatten();
    let server = cluster.server.clone().filter(|server| !server.is_empty());
    let server = server.or_else(|| env("KUBERNETES_MASTER").filter(|server| !server.is_empty()));
    let server = parse_server(&server.unwrap_or_else(|| DEFAULT_SERVER.into()))?;
    let given = |namespace: Option<String>| namespace.filter(|namespace| !namespace.is_empty());
    let namespace = given(overrides.namespace.clone())
        .or_else(|| given(context.namespace.clone()))
        .or(in_pod)
        .unwrap_or_else(|| "default".into());
    let user_name = if user_name.is_empty() { context_name } else { user_name };
    Ok(Chosen { server, cluster, user_name, user, namespace })
}

fn load(
    overrides: &Overrides,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Kubeconfig, ConfigError> {
    let read = |path: &Path| {
        Kubeconfig::read_from(path)
            .map_err(|error| ConfigError::File { path: path.to_owned(), error })
    };
    if let Some(path) = &overrides.kubeconfig {
        if !Path::new(path).exists() {
            return Err(ConfigError::NoFile(path.clone()));
        }
        return read(Path::new(path));
    }
    let paths: Vec<PathBuf> = match env("KUBECONFIG").filter(|list| !list.is_empty()) {
        Some(list) => std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect(),
        None => env("HOME").map(|home| Path::new(&home).join(".kube/config")).into_iter().collect(),
    };
    let mut merged = Kubeconfig::default();
    // Files that are not there are passed over; the first to say something wins.
    for path in paths.iter().filter(|path| path.exists()) {
        merged = merged
            .merge(read(path)?)
            .map_err(|error| ConfigError::File { path: path.clone(), error })?;
    }
    Ok(merged)
}

fn context(config: &Kubeconfig, overrides: &Overrides) -> Result<(String, Context), ConfigError> {
    let asked = overrides.context.clone().or_else(|| config.current_context.clone());
    let Some(name) = asked.filter(|name| !name.is_empty()) else {
        return Ok((String::new(), Context::default()));
    };
    let found = config.contexts.iter().find(|known| known.name == name);
    let found = found.ok_or_else(|| ConfigError::NoContext(name.clone()))?;
    Ok((name, found.context.clone().unwrap_or_default()))
}

fn named_cluster(
    config: &Kubeconfig,
    name: &str,
    overrides: &Overrides,
) -> Result<Cluster, ConfigError> {
    let found = config.clusters.iter().find(|known| known.name == name);
    match found {
        Some(found) => Ok(found.cluster.clone().unwrap_or_default()),
        None if overrides.cluster.is_some() => Err(ConfigError::NoCluster(name.to_owned())),
        None => Ok(Cluster::default()),
    }
}

fn named_user(config: &Kubeconfig, name: &str) -> Result<AuthInfo, ConfigError> {
    if name.is_empty() {
        return Ok(AuthInfo::default());
    }
    let found = config.auth_infos.iter().find(|known| known.name == name);
    let found = found.ok_or_else(|| ConfigError::NoUser(name.to_owned()))?;
    Ok(found.auth_info.clone().unwrap_or_default())
}

fn override_cluster(cluster: &mut Cluster, overrides: &Overrides) {
    if let Some(server) = &overrides.server {
        cluster.server = Some(server.clone());
        // A name that was meant for another server says nothing about this one.
        cluster.tls_server_name = None;
    }
    if let Some(name) = &overrides.tls_server_name {
        cluster.tls_server_name = Some(name.clone());
    }
    if let Some(insecure) = overrides.insecure_skip_tls_verify {
        cluster.insecure_skip_tls_verify = Some(insecure);
        if insecure {
            (cluster.certificate_authority, cluster.certificate_authority_data) = (None, None);
        }
    }
    if let Some(ca) = &overrides.certificate_authority {
        cluster.certificate_authority = Some(ca.clone());
        cluster.certificate_authority_data = None;
        cluster.insecure_skip_tls_verify = None;
    }
}

fn override_user(user: &mut AuthInfo, overrides: &Overrides) {
    // A way to authenticate on the command line replaces those of the file.
    if let Some(token) = &overrides.token {
        user.token = Some(SecretString::from(token.clone()));
        user.token_file = None;
        (user.username, user.password, user.exec) = (None, None, None);
    }
    if overrides.username.is_some() || overrides.password.is_some() {
        user.username = overrides.username.clone().or(user.username.take());
        let password = overrides.password.clone().map(SecretString::from);
        user.password = password.or(user.password.take());
        if overrides.token.is_none() {
            (user.token, user.token_file) = (None, None);
        }
        user.exec = None;
    }
    if let Some(certificate) = &overrides.client_certificate {
        user.client_certificate = Some(certificate.clone());
        user.client_certificate_data = None;
    }
    if let Some(key) = &overrides.client_key {
        user.client_key = Some(key.clone());
        user.client_key_data = None;
    }
    if let Some(name) = &overrides.impersonate {
        user.impersonate = Some(name.clone());
    }
    if let Some(uid) = &overrides.impersonate_uid {
        user.impersonate_uid = Some(uid.clone());
    }
    if !overrides.impersonate_groups.is_empty() {
        user.impersonate_groups = Some(overrides.impersonate_groups.clone());
    }
    for pair in &overrides.impersonate_extra {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let extra = user.impersonate_user_extra.get_or_insert_default();
        extra.entry(key.to_owned()).or_default().push(value.to_owned());
    }
}

fn check(
    cluster_name: &str,
    cluster: &Cluster,
    user_name: &str,
    user: &AuthInfo,
) -> Result<(), ConfigError> {
    let ca =
        cluster.certificate_authority.is_some() || cluster.certificate_authority_data.is_some();
    if ca && cluster.insecure_skip_tls_verify == Some(true) {
        return Err(ConfigError::InsecureWithCa);
    }
    if let Some(url) = cluster.proxy_url.as_ref().filter(|url| !url.is_empty()) {
        let scheme = url.split_once("://").map_or("", |parts| parts.0).to_owned();
        if !matches!(&*scheme, "http" | "https" | "socks5") {
            let (url, cluster) = (url.clone(), cluster_name.to_owned());
            return Err(ConfigError::ProxyScheme { url, cluster, scheme });
        }
    }
    let mut methods = Vec::new();
    if user.token.is_some() || user.token_file.is_some() {
        methods.push("token");
    }
    if user.username.is_some() || user.password.is_some() {
        methods.push("basicAuth");
    }
    if methods.len() > 1 {
        return Err(ConfigError::AuthMethods { user: user_name.to_owned(), methods });
    }
    let details = user.impersonate_uid.is_some()
        || user.impersonate_groups.as_ref().is_some_and(|groups| !groups.is_empty())
        || user.impersonate_user_extra.as_ref().is_some_and(|extra| !extra.is_empty());
    if details && user.impersonate.as_ref().is_none_or(String::is_empty) {
        return Err(ConfigError::NoImpersonatedUser(user_name.to_owned()));
    }
    Ok(())
}

/// A pod without a kubeconfig talks to its own API server; gives its namespace.
fn in_cluster(
    env: &dyn Fn(&str) -> Option<String>,
    cluster: &mut Cluster,
    user: &mut AuthInfo,
) -> Option<String> {
    let (host, port) = (env("KUBERNETES_SERVICE_HOST")?, env("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let folder = Path::new(SERVICE_ACCOUNT);
    let token = folder.join("token");
    if !token.exists() {
        return None;
    }
    cluster.server = Some(format!("https://{host}:{port}"));
    cluster.certificate_authority = folder.join("ca.crt").to_str().map(ToOwned::to_owned);
    user.token_file = token.to_str().map(ToOwned::to_owned);
    let namespace = std::fs::read_to_string(folder.join("namespace")).ok()?;
    Some(namespace.trim().to_owned())
}

/// A server without a scheme is plain HTTP, as in kubectl.
fn parse_server(text: &str) -> Result<Url, ConfigError> {
    let bad = || ConfigError::Server(text.to_owned());
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&with_scheme).map_err(|_| bad())?;
    let known = matches!(url.scheme(), "http" | "https") && url.has_host();
    if known { Ok(url) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: c, cluster: {server: 'https://one:6443/prefix', tls-server-name: inner, certificate-authority: ca.crt}}
- {name: p, cluster: {server: 'https://p', proxy-url: 'socks5h://x'}}
users:
- {name: u, user: {token: t}}
- {name: both, user: {token: t, username: x, password: y}}
- {name: group, user: {as-groups: [g]}}
contexts:
- {name: one, context: {cluster: c, user: u, namespace: ns}}
- {name: lost, context: {cluster: c, user: zz}}
- {name: both, context: {cluster: c, user: both}}
- {name: proxied, context: {cluster: p, user: u}}
";

    fn chosen(change: impl FnOnce(&mut Overrides)) -> Result<Chosen, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        let mut overrides = Overrides::default();
        change(&mut overrides);
        let path = path.to_str().unwrap().to_owned();
        let env = |name: &str| (name == "KUBECONFIG").then(|| format!("/nonexistent:{path}"));
        choose(&overrides, &env).map_err(|error| error.to_string())
    }

    #[test]
    fn the_current_context_is_chosen() {
        let chosen = chosen(|_| {}).unwrap();
        assert_eq!(chosen.server.as_str(), "https://one:6443/prefix");
        assert_eq!((&*chosen.namespace, &*chosen.user_name), ("ns", "u"));
        assert!(chosen.cluster.certificate_authority.unwrap().ends_with("/ca.crt"));
    }

    #[test]
    fn flags_come_first() {
        let other = chosen(|flags| flags.server = Some("other:1".into())).unwrap();
        assert_eq!(other.server.as_str(), "http://other:1/");
        assert_eq!(other.cluster.tls_server_name, None);
        let insecure = chosen(|flags| flags.insecure_skip_tls_verify = Some(true)).unwrap();
        assert_eq!(insecure.cluster.certificate_authority, None);
        let namespace = chosen(|flags| flags.namespace = Some("x".into())).unwrap();
        assert_eq!(namespace.namespace, "x");
        let basic = chosen(|flags| {
            flags.username = Some("u".into());
            flags.password = Some("p".into());
        });
        assert!(basic.unwrap().user.token.is_none());
    }

    #[test]
    fn kubectls_words() {
        let error = |change: fn(&mut Overrides)| chosen(change).unwrap_err();
        let text = "Error in configuration: context was not found for specified context: nope";
        assert_eq!(error(|f| f.context = Some("nope".into())), text);
        assert_eq!(error(|f| f.context = Some("lost".into())), "auth info \"zz\" does not exist");
        assert_eq!(
            error(|f| f.kubeconfig = Some("/nonexistent".into())),
            "stat /nonexistent: no such file or directory"
        );
        assert_eq!(
            error(|f| f.context = Some("both".into())),
            "more than one authentication method found for both; found [token basicAuth], only \
             one is allowed"
        );
        assert_eq!(
            error(|f| f.user = Some("group".into())),
            "requesting uid, groups or user-extra for group without impersonating a user"
        );
        assert_eq!(
            error(|f| f.context = Some("proxied".into())),
            "invalid 'proxy-url' \"socks5h://x\" for cluster \"p\": unsupported scheme \
             \"socks5h\", must be http, https, or socks5"
        );
    }

    #[test]
    fn nothing_at_all_is_localhost() {
        let none = |_: &str| None;
        let chosen = choose(&Overrides::default(), &none).unwrap();
        assert_eq!(chosen.server.as_str(), "http://localhost:8080/");
        assert_eq!(chosen.namespace, "default");
    }
}
