//! Flags, environment and kubeconfig files to one cluster and one user.

mod in_cluster;
mod overrides;

use std::path::{Path, PathBuf};

use bowline_io::{text::redacted, urls};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use thiserror::Error;
use url::Url;

use self::in_cluster::InCluster;
pub use self::overrides::Overrides;
use crate::flaws::{self, Flaw};
use crate::kubeconfig::{Cluster, Context, FileError, Kubeconfig, User};

/// kubectl's server where nothing names one.
const DEFAULT_SERVER: &str = "http://localhost:8080";
/// Where a pod finds its own service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A cluster, a user and a namespace, as flags, environment and kubeconfig resolve them.
#[derive(Clone, Debug)]
pub struct ResolvedConfig {
    /// The API server; a path in it is kept in front of every request's. No credentials are in it.
    pub server: Url,
    /// Whether the user's name and password were in that URL. Such credentials are sent in the
    /// clear as well.
    pub user_in_url: bool,
    /// The cluster's entry, flags included.
    pub cluster: Cluster,
    /// The user's name in the kubeconfig; may be empty.
    pub user_name: String,
    /// The user's entry, flags included.
    pub user: User,
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
    #[error(transparent)]
    File(#[from] FileError),
    /// This program runs in no pod with a service account.
    #[error(
        "not in a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, or the token of a \
         service account, are missing"
    )]
    NoPod,
    /// There is no such context. The text is a whole line, as kubectl prints it.
    #[error("Error in configuration: context was not found for specified context: {0}")]
    NoContext(String),
    /// There is no such cluster.
    #[error("no server found for cluster {0:?}")]
    NoCluster(String),
    /// There is no such user.
    #[error("auth info {0:?} does not exist")]
    NoUser(String),
    /// The server is no URL.
    #[error("host must be a URL or a host:port pair: {0:?}")]
    Server(String),
    /// The cluster or the user cannot be used. The text of several flaws is whole lines.
    #[error("{}", flaws::lines(_0))]
    Flaws(Vec<Flaw>),
}

impl ConfigError {
    /// Returns whether the text is a whole line, to be printed without a prefix.
    #[must_use]
    pub fn is_line(&self) -> bool {
        match self {
            ConfigError::NoContext(_) => true,
            ConfigError::Flaws(flaws) => flaws.len() > 1,
            _ => false,
        }
    }
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Resolves flags, environment and kubeconfig files to one cluster and one user. `env` reads the
/// environment.
///
/// # Errors
/// [`ConfigError`] if a file cannot be read, something that is named is not there, or what was
/// found cannot be used.
pub fn resolve(overrides: &Overrides, env: Env<'_>) -> Result<ResolvedConfig, ConfigError> {
    resolve_at(overrides, env, Path::new(SERVICE_ACCOUNT))
}

/// Resolves to the API server of the pod in which this program runs, and to its service account.
///
/// # Errors
/// [`ConfigError::NoPod`] if this program runs in none.
pub fn of_own_pod(env: Env<'_>) -> Result<ResolvedConfig, ConfigError> {
    let pod = InCluster::detect(env, Path::new(SERVICE_ACCOUNT)).ok_or(ConfigError::NoPod)?;
    let overrides = Overrides::default();
    let mut resolved = complete(pod.cluster(), String::new(), pod.user(), &overrides)?;
    resolved.namespace = pod.namespace(env).unwrap_or_else(|| "default".to_owned());
    Ok(resolved)
}

/// Resolves with the folder of the service account as an argument, for tests.
fn resolve_at(
    overrides: &Overrides,
    env: Env<'_>,
    account: &Path,
) -> Result<ResolvedConfig, ConfigError> {
    let config = load(overrides, env)?;
    let (context_name, context) = context(&config, overrides)?;
    let cluster_name = overrides.cluster.clone().unwrap_or_else(|| context.cluster.clone());
    let cluster = config.cluster(&cluster_name)?;
    if cluster.is_none() && overrides.cluster.is_some() {
        return Err(ConfigError::NoCluster(cluster_name));
    }
    let mut cluster = cluster.unwrap_or_default();
    overrides.apply_to_cluster(&mut cluster);
    let default = non_empty(env("KUBERNETES_MASTER")).unwrap_or_else(|| DEFAULT_SERVER.to_owned());
    if cluster.server.is_empty() {
        cluster.server.clone_from(&default);
    }
    let pod = InCluster::detect(env, account);
    let mut resolved = match &pod {
        // As client-go: where all that was found and given comes to its default.
        Some(pod) if is_default(&cluster, &default, overrides, &config, &context)? => {
            let (mut cluster, mut user) = (pod.cluster(), pod.user());
            overrides.apply_to_cluster(&mut cluster);
            overrides.apply_to_user(&mut user);
            complete(cluster, String::new(), user, overrides)?
        }
        _ => {
            let name = overrides.user.clone().unwrap_or_else(|| context.user.clone());
            let secure = is_secure(&cluster.server);
            let mut user = user(&config, &name, overrides.user.is_some(), secure)?;
            overrides.apply_to_user(&mut user);
            complete(cluster, name, user, overrides)?
        }
    };
    let flaws = flaws::find(&cluster_name, &resolved, resolved.server.scheme() == "https");
    if !flaws.is_empty() {
        return Err(ConfigError::Flaws(flaws));
    }
    let namespace = non_empty(overrides.namespace.clone()).or(non_empty(Some(context.namespace)));
    let namespace = namespace.or_else(|| pod.and_then(|pod| pod.namespace(env)));
    resolved.namespace = namespace.unwrap_or_else(|| "default".to_owned());
    if resolved.user_name.is_empty() {
        resolved.user_name = context_name;
    }
    Ok(resolved)
}

/// Returns a text that is not empty: empty is not set.
fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn load(overrides: &Overrides, env: Env<'_>) -> Result<Kubeconfig, ConfigError> {
    if let Some(path) = &overrides.kubeconfig {
        let missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        if std::fs::metadata(path).as_ref().is_err_and(missing) {
            return Err(ConfigError::NoFile(path.clone()));
        }
        return Ok(Kubeconfig::read(&[PathBuf::from(path)])?);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    match non_empty(env("KUBECONFIG")) {
        Some(list) => {
            for path in std::env::split_paths(&list) {
                if !path.as_os_str().is_empty() && !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        // Without a home there is none: the working directory is anybody's.
        None => {
            paths.extend(non_empty(env("HOME")).map(|home| Path::new(&home).join(".kube/config")))
        }
    }
    Ok(Kubeconfig::read(&paths)?)
}

fn context(config: &Kubeconfig, overrides: &Overrides) -> Result<(String, Context), ConfigError> {
    let name = match non_empty(overrides.context.clone()) {
        Some(name) => name,
        None => config.current_context()?,
    };
    if name.is_empty() {
        return Ok((name, Context::default()));
    }
    let found = config.context(&name)?;
    let found = found.ok_or_else(|| ConfigError::NoContext(name.clone()))?;
    Ok((name, found))
}

/// Returns the user of this name. That there is none is an error only if a flag names it, or the
/// server takes credentials.
fn user(config: &Kubeconfig, name: &str, asked: bool, secure: bool) -> Result<User, ConfigError> {
    if name.is_empty() {
        return Ok(User::default());
    }
    match config.user(name)? {
        Some(user) => Ok(user),
        None if asked || secure => Err(ConfigError::NoUser(name.to_owned())),
        None => Ok(User::default()),
    }
}

/// Returns whether flags and files come to the default, so that the service account of this pod is
/// used.
fn is_default(
    cluster: &Cluster,
    default: &str,
    overrides: &Overrides,
    config: &Kubeconfig,
    context: &Context,
) -> Result<bool, ConfigError> {
    if cluster.server != default || is_secure(default) || !cluster.proxy_url.is_empty() {
        return Ok(false);
    }
    let name = overrides.user.as_ref().unwrap_or(&context.user);
    let mut user = user(config, name, overrides.user.is_some(), false)?;
    overrides.apply_to_user(&mut user);
    Ok(user.impersonate.is_empty())
}

fn is_secure(server: &str) -> bool {
    parse_server(server).is_ok_and(|url| url.scheme() == "https")
}

fn complete(
    cluster: Cluster,
    user_name: String,
    mut user: User,
    overrides: &Overrides,
) -> Result<ResolvedConfig, ConfigError> {
    let mut server = parse_server(&cluster.server)?;
    // As in Go's HTTP client, the user in the URL is the one who asks. The URL is kept without
    // them.
    let user_in_url = !server.username().is_empty() || server.password().is_some();
    let by_flag = overrides.token.is_some() || overrides.username.is_some();
    if user_in_url {
        if !by_flag {
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            user.username = decoded(server.username());
            user.password = decoded(server.password().unwrap_or_default()).into();
            user.token = SecretString::default();
            user.token_file.clear();
            (user.exec, user.auth_provider) = (None, None);
        }
        let _ = server.set_username("");
        let _ = server.set_password(None);
    }
    let user_in_url = user_in_url && !by_flag;
    Ok(ResolvedConfig { server, user_in_url, cluster, user_name, user, namespace: String::new() })
}

/// Reads a server's URL. Without a scheme it is plain HTTP, as in kubectl.
fn parse_server(text: &str) -> Result<Url, ConfigError> {
    let bad = || ConfigError::Server(redacted(text).into_owned());
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let mut url = urls::parse(&with_scheme).ok_or_else(bad)?;
    if !(matches!(url.scheme(), "http" | "https") && url.has_host()) {
        return Err(bad());
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: c, cluster: {server: 'https://one:6443/prefix', tls-server-name: inner}}
- {name: ca, cluster: {server: 'https://one', certificate-authority: ca.crt}}
- {name: p, cluster: {server: 'https://p', proxy-url: 'socks5h://me:SECRET@x'}}
- {name: plain, cluster: {server: 'http://plain'}}
- {name: empty, cluster: {server: 'https://e', certificate-authority-data: '', insecure-skip-tls-verify: true}}
- {name: both, cluster: {server: 'https://e', certificate-authority-data: YQ==, insecure-skip-tls-verify: true}}
- {name: inside, cluster: {server: 'https://me:SE%20CRET@in:1/?x=y'}}
- {name: bad, cluster: {server: 'https://me:SECRET@:::'}}
users:
- {name: u, user: {token: t}}
- {name: both, user: {token: t, username: x, password: pw}}
- {name: group, user: {as-groups: [g]}}
- {name: empty, user: {token: t, username: '', password: '', client-certificate: '', tokenFile: ''}}
- {name: file, user: {tokenFile: t, exec: {command: x}}}
- {name: none}
- {name: cert, user: {client-certificate-data: YQ==}}
- {name: key, user: {client-key-data: YQ==}}
- {name: gcp, user: {auth-provider: {name: gcp, config: null}}}
contexts:
- {name: one, context: {cluster: c, user: u, namespace: ns}}
- {name: lost, context: {cluster: c, user: zz}}
- {name: lost-plain, context: {cluster: plain, user: zz}}
- {name: proxied, context: {cluster: p, user: u}}
- {name: nowhere, context: {}}
";

    fn chosen(change: impl FnOnce(&mut Overrides)) -> Result<ResolvedConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        std::fs::write(folder.path().join("ca.crt"), "").unwrap();
        let mut overrides = Overrides::default();
        change(&mut overrides);
        let missing = folder.path().join("missing");
        let list = std::env::join_paths([missing, path]).unwrap().into_string().unwrap();
        let env = |name: &str| (name == "KUBECONFIG").then(|| list.clone());
        resolve_at(&overrides, &env, folder.path()).map_err(|error| error.to_string())
    }

    fn of_user(name: &str) -> Result<ResolvedConfig, String> {
        chosen(|flags| flags.user = Some(name.to_owned()))
    }

    fn of_cluster(name: &str) -> Result<ResolvedConfig, String> {
        chosen(|flags| flags.cluster = Some(name.to_owned()))
    }

    #[test]
    fn the_current_context_is_chosen() {
        let one = chosen(|_| {}).unwrap();
        assert_eq!(one.server.as_str(), "https://one:6443/prefix");
        assert_eq!((&*one.namespace, &*one.user_name), ("ns", "u"));
        assert_eq!(one.cluster.tls_server_name, "inner");
        assert!(of_cluster("ca").unwrap().cluster.ca_file.ends_with("/ca.crt"));
    }

    #[test]
    fn empty_is_not_set() {
        assert!(of_cluster("empty").unwrap().cluster.insecure);
        assert_eq!(of_user("empty").unwrap().user.token.expose_secret(), "t");
    }

    #[test]
    fn flags_come_first() {
        let other = chosen(|flags| flags.server = Some("other:1".into())).unwrap();
        assert_eq!(other.server.as_str(), "http://other:1/");
        assert_eq!(other.cluster.tls_server_name, "");
        let insecure = chosen(|flags| {
            flags.cluster = Some("ca".into());
            flags.insecure_skip_tls_verify = Some(true);
        });
        assert_eq!(insecure.unwrap().cluster.ca_file, "");
        let namespace = chosen(|flags| flags.namespace = Some("x".into())).unwrap();
        assert_eq!(namespace.namespace, "x");
        let basic = chosen(|flags| {
            flags.username = Some("u".into());
            flags.password = Some("p".into());
        });
        assert!(basic.unwrap().user.token.expose_secret().is_empty());
        let token = chosen(|flags| {
            (flags.user, flags.token) = (Some("file".into()), Some("t".into()));
        });
        let user = token.unwrap().user;
        assert_eq!((user.token.expose_secret(), &*user.token_file), ("t", ""));
        assert!(user.exec.is_none());
    }

    #[test]
    fn kubectls_words() {
        let refused = |change: fn(&mut Overrides)| chosen(change).unwrap_err();
        let text = "Error in configuration: context was not found for specified context: nope";
        assert_eq!(refused(|f| f.context = Some("nope".into())), text);
        assert_eq!(refused(|f| f.context = Some("lost".into())), "auth info \"zz\" does not exist");
        assert!(chosen(|f| f.context = Some("lost-plain".into())).is_ok());
        let nowhere = chosen(|f| f.context = Some("nowhere".into())).unwrap();
        assert_eq!(nowhere.server.as_str(), "http://localhost:8080/");
        for (user, text) in [
            ("nope", "auth info \"nope\" does not exist"),
            (
                "both",
                "more than one authentication method found for both; found [token basicAuth], \
                 only one is allowed",
            ),
            (
                "group",
                "requesting uid, groups or user-extra for group without impersonating a user",
            ),
            (
                "cert",
                "client-key-data or client-key must be specified for cert to use the clientCert \
                 authentication method.",
            ),
            (
                "key",
                "client-certificate-data or client-certificate must be specified for key to use \
                 the clientCert authentication method.",
            ),
        ] {
            assert_eq!(of_user(user).unwrap_err(), text);
        }
        for (cluster, text) in [
            ("nope", "no server found for cluster \"nope\""),
            (
                "p",
                "invalid 'proxy-url' \"socks5h://me:xxxxx@x\" for cluster \"p\": unsupported \
                 scheme \
                 \"socks5h\", must be http, https, or socks5",
            ),
            ("both", "specifying a root certificates file with the insecure flag is not allowed"),
            ("bad", "host must be a URL or a host:port pair: \"https://me:xxxxx@:::\""),
        ] {
            assert_eq!(of_cluster(cluster).unwrap_err(), text);
        }
        let several = refused(|f| {
            f.client_certificate = Some("/dev/null/x".into());
            f.impersonate_groups = vec!["g".into()];
        });
        assert_eq!(
            several,
            "Error in configuration: \n\
            * client-key-data or client-key must be specified for u to use the clientCert \
            authentication method.\n\
            * unable to read client-cert /dev/null/x for u due to open /dev/null/x: not a \
             directory\n\
            * requesting uid, groups or user-extra for u without impersonating a user"
        );
    }

    #[test]
    fn an_explicit_file_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none").to_str().unwrap().to_owned();
        let overrides = Overrides { kubeconfig: Some(path.clone()), ..Overrides::default() };
        let error = resolve(&overrides, &|_| None).unwrap_err().to_string();
        assert_eq!(error, format!("stat {path}: no such file or directory"));
    }

    #[test]
    fn who_is_in_the_servers_url_is_who_asks_and_not_in_it_any_more() {
        let inside = of_cluster("inside").unwrap();
        assert_eq!(inside.server.as_str(), "https://in:1/");
        assert_eq!(
            (&*inside.user.username, inside.user.password.expose_secret()),
            ("me", "SE CRET")
        );
        assert!(inside.user_in_url && inside.user.token.expose_secret().is_empty());
        let by_flag = chosen(|flags| {
            (flags.cluster, flags.token) = (Some("inside".into()), Some("flag".into()));
        });
        assert_eq!(by_flag.unwrap().user.token.expose_secret(), "flag");
    }

    #[test]
    fn nothing_at_all_is_localhost() {
        let folder = tempfile::tempdir().unwrap();
        let chosen = resolve_at(&Overrides::default(), &|_| None, folder.path()).unwrap();
        assert_eq!(chosen.server.as_str(), "http://localhost:8080/");
        assert_eq!(chosen.namespace, "default");
    }

    /// In a pod, with this kubeconfig.
    fn in_pod(
        kubeconfig: &str,
        change: impl FnOnce(&mut Overrides),
    ) -> Result<ResolvedConfig, String> {
        let account = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(account.path().join(name), text).unwrap();
        };
        for (name, text) in [("token", "SA"), ("ca.crt", ""), ("namespace", "pods\n")] {
            write(name, text);
        }
        write("config", kubeconfig);
        let mut overrides = Overrides::default();
        change(&mut overrides);
        let config = account.path().join("config").to_str().unwrap().to_owned();
        let env = move |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
            "KUBECONFIG" => Some(config.clone()),
            _ => None,
        };
        resolve_at(&overrides, &env, account.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_speaks_for_itself_where_nothing_else_was_said() {
        let own = in_pod("", |_| {}).unwrap();
        assert_eq!(own.server.as_str(), "https://[fd00::1]/");
        assert!(
            own.user.token_file.ends_with("/token") && own.cluster.ca_file.ends_with("/ca.crt")
        );
        assert_eq!(own.namespace, "pods");
        // Flags win over everything found.
        let token = in_pod("", |flags| flags.token = Some("OTHER".into())).unwrap();
        assert_eq!((token.user.token.expose_secret(), &*token.user.token_file), ("OTHER", ""));
        assert_eq!(token.server.host_str(), Some("[fd00::1]"));
        let basic = in_pod("", |flags| flags.username = Some("me".into())).unwrap();
        assert_eq!((&*basic.user.username, &*basic.user.token_file), ("me", ""));
        let trusting = in_pod("", |flags| flags.insecure_skip_tls_verify = Some(true)).unwrap();
        assert!(trusting.cluster.insecure && trusting.cluster.ca_file.is_empty());
        let elsewhere = in_pod("", |flags| flags.namespace = Some("n".into())).unwrap();
        assert_eq!(elsewhere.namespace, "n");
    }

    #[test]
    fn a_pods_token_goes_nowhere_else() {
        let there = in_pod("", |flags| flags.server = Some("https://there".into())).unwrap();
        assert_eq!(there.server.as_str(), "https://there/");
        assert_eq!((&*there.user.token_file, &*there.namespace), ("", "pods"));
        // As in kubectl, which takes whom to act as for a configuration.
        let acting = in_pod("", |flags| flags.impersonate = Some("x".into())).unwrap();
        assert_eq!(
            (acting.server.as_str(), &*acting.user.token_file),
            ("http://localhost:8080/", "")
        );
        let file = "{current-context: x, contexts: [{name: x, context: {cluster: c}}], \
                    clusters: [{name: c, cluster: {server: 'http://file'}}]}";
        let file = in_pod(file, |_| {}).unwrap();
        assert_eq!((file.server.as_str(), &*file.namespace), ("http://file/", "pods"));
    }
}
