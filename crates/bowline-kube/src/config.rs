//! Flags, environment and kubeconfig files to one cluster and one user.

use std::path::{Path, PathBuf};

use bowline_io::{text::redacted, urls};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use thiserror::Error;
use url::Url;

use crate::flaws::{self, Flaw};
use crate::kubeconfig::{Cluster, Context, FileError, Key, Kubeconfig, User};

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
    /// The API server; a path in it is kept in front of every request's. No credentials are in it.
    pub server: Url,
    /// The user's name and password were in that URL. Such are sent in the clear as well.
    pub user_in_url: bool,
    /// The rest of the cluster's entry.
    pub cluster: Cluster,
    /// The user's name in the kubeconfig; may be empty.
    pub user_name: String,
    /// The user's entry.
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
    #[error("host must be a URL or a host:port pair: {0:?}")]
    Server(String),
    /// What was chosen cannot be used. Several flaws are whole lines.
    #[error("{}", flaws::lines(_0))]
    Flaws(Vec<Flaw>),
}

impl ConfigError {
    /// Whether the text is a line of its own, to be printed without more words.
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

/// Chooses. `env` reads the environment.
///
/// # Errors
/// [`ConfigError`].
pub fn choose(overrides: &Overrides, env: Env<'_>) -> Result<Chosen, ConfigError> {
    choose_at(overrides, env, Path::new(SERVICE_ACCOUNT))
}

/// With another place of the service account than a pod's.
fn choose_at(overrides: &Overrides, env: Env<'_>, account: &Path) -> Result<Chosen, ConfigError> {
    let config = load(overrides, env)?;
    let (context_name, context) = context(&config, overrides)?;
    let cluster_name = overrides.cluster.clone().unwrap_or_else(|| context.cluster.clone());
    let cluster = config.cluster(&cluster_name)?;
    if cluster.is_none() && overrides.cluster.is_some() {
        return Err(ConfigError::NoCluster(cluster_name));
    }
    let mut cluster = cluster.unwrap_or_default();
    override_cluster(&mut cluster, overrides);
    let default = set(env("KUBERNETES_MASTER")).unwrap_or_else(|| DEFAULT_SERVER.to_owned());
    if cluster.server.is_empty() {
        cluster.server.clone_from(&default);
    }
    let pod = Pod::here(env, account);
    let mut chosen = match &pod {
        // As client-go: where all that was found and given comes to its default.
        Some(pod) if is_default(&cluster, &default, overrides, &config, &context)? => {
            let (mut cluster, mut user) = (pod.cluster(), pod.user());
            override_cluster(&mut cluster, overrides);
            override_user(&mut user, overrides);
            of(cluster, String::new(), user, overrides)?
        }
        _ => {
            let name = overrides.user.clone().unwrap_or_else(|| context.user.clone());
            let secure = is_secure(&cluster.server);
            let mut user = user(&config, &name, overrides.user.is_some(), secure)?;
            override_user(&mut user, overrides);
            of(cluster, name, user, overrides)?
        }
    };
    let flaws = flaws::of(&cluster_name, &chosen, chosen.server.scheme() == "https");
    if !flaws.is_empty() {
        return Err(ConfigError::Flaws(flaws));
    }
    let namespace = set(overrides.namespace.clone()).or(set(Some(context.namespace)));
    let namespace = namespace.or_else(|| pod.and_then(|pod| pod.namespace(env)));
    chosen.namespace = namespace.unwrap_or_else(|| "default".to_owned());
    if chosen.user_name.is_empty() {
        chosen.user_name = context_name;
    }
    Ok(chosen)
}

/// Empty is not set.
fn set(text: Option<String>) -> Option<String> {
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
    match set(env("KUBECONFIG")) {
        Some(list) => {
            for path in std::env::split_paths(&list) {
                if !path.as_os_str().is_empty() && !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        // Without a home there is none: the working directory is anybody's.
        None => paths.extend(set(env("HOME")).map(|home| Path::new(&home).join(".kube/config"))),
    }
    Ok(Kubeconfig::read(&paths)?)
}

fn context(config: &Kubeconfig, overrides: &Overrides) -> Result<(String, Context), ConfigError> {
    let name = match set(overrides.context.clone()) {
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

/// The user of this name. One that a context names is missed only where a user is needed.
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

fn override_cluster(cluster: &mut Cluster, overrides: &Overrides) {
    if let Some(server) = &overrides.server {
        cluster.server.clone_from(server);
        // A name that was meant for another server says nothing about this one.
        cluster.tls_server_name.clear();
    }
    if let Some(name) = &overrides.tls_server_name {
        cluster.tls_server_name.clone_from(name);
    }
    let insecure = overrides.insecure_skip_tls_verify;
    if insecure == Some(true) || overrides.certificate_authority.is_some() {
        cluster.ca_data.clear();
        cluster.ca_file = overrides.certificate_authority.clone().unwrap_or_default();
        cluster.insecure = insecure.unwrap_or_default();
    }
    if let Some(insecure) = insecure {
        cluster.insecure = insecure;
    }
}

/// A way to authenticate on the command line replaces those of the file.
fn override_user(user: &mut User, overrides: &Overrides) {
    let basic = overrides.username.is_some() || overrides.password.is_some();
    if overrides.token.is_some() || basic {
        (user.exec, user.auth_provider) = (None, None);
        user.token_file.clear();
        user.token = SecretString::from(overrides.token.clone().unwrap_or_default());
    }
    if overrides.token.is_some() && !basic {
        user.username.clear();
        user.password = SecretString::default();
    }
    if let Some(name) = &overrides.username {
        user.username.clone_from(name);
    }
    if let Some(password) = &overrides.password {
        user.password = SecretString::from(password.clone());
    }
    if let Some(certificate) = &overrides.client_certificate {
        user.certificate_file.clone_from(certificate);
        user.certificate_data.clear();
    }
    if let Some(key) = &overrides.client_key {
        user.key_file.clone_from(key);
        user.key_data = Key::default();
    }
    if let Some(name) = &overrides.impersonate {
        user.impersonate.clone_from(name);
    }
    if let Some(uid) = &overrides.impersonate_uid {
        user.impersonate_uid.clone_from(uid);
    }
    if !overrides.impersonate_groups.is_empty() {
        user.impersonate_groups.clone_from(&overrides.impersonate_groups);
    }
    for pair in &overrides.impersonate_extra {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.to_owned();
        match user.impersonate_extra.iter_mut().find(|known| known.0 == key) {
            Some(known) => known.1.push(value),
            None => user.impersonate_extra.push((key.to_owned(), vec![value])),
        }
    }
}

/// Whether all that was said is the default, so that a pod may speak for itself.
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
    override_user(&mut user, overrides);
    Ok(user.impersonate.is_empty())
}

/// The pod in which this program runs.
struct Pod<'a> {
    server: String,
    account: &'a Path,
}

impl<'a> Pod<'a> {
    fn here(env: Env<'_>, account: &'a Path) -> Option<Pod<'a>> {
        let host = set(env("KUBERNETES_SERVICE_HOST"))?;
        let port = set(env("KUBERNETES_SERVICE_PORT"))?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let is_there = account.join("token").is_file();
        is_there.then(|| Pod { server: format!("https://{host}:{port}"), account })
    }

    fn file(&self, name: &str) -> String {
        self.account.join(name).to_string_lossy().into_owned()
    }

    fn cluster(&self) -> Cluster {
        let ca = self.account.join("ca.crt");
        let ca_file = if ca.is_file() { self.file("ca.crt") } else { String::new() };
        Cluster { server: self.server.clone(), ca_file, ..Cluster::default() }
    }

    fn user(&self) -> User {
        User { token_file: self.file("token"), ..User::default() }
    }

    fn namespace(&self, env: Env<'_>) -> Option<String> {
        set(env("POD_NAMESPACE")).or_else(|| {
            let read = std::fs::read_to_string(self.account.join("namespace")).ok();
            set(read.map(|text| text.trim().to_owned()))
        })
    }
}

fn is_secure(server: &str) -> bool {
    parse_server(server).is_ok_and(|url| url.scheme() == "https")
}

fn of(
    cluster: Cluster,
    user_name: String,
    mut user: User,
    overrides: &Overrides,
) -> Result<Chosen, ConfigError> {
    let mut server = parse_server(&cluster.server)?;
    // As Go's HTTP client: who is in the URL is who asks. Here it is in no URL from now on.
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
    Ok(Chosen { server, user_in_url, cluster, user_name, user, namespace: String::new() })
}

/// A server without a scheme is plain HTTP, as in kubectl.
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

    fn chosen(change: impl FnOnce(&mut Overrides)) -> Result<Chosen, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        std::fs::write(folder.path().join("ca.crt"), "").unwrap();
        let mut overrides = Overrides::default();
        change(&mut overrides);
        let missing = folder.path().join("missing");
        let list = std::env::join_paths([missing, path]).unwrap().into_string().unwrap();
        let env = |name: &str| (name == "KUBECONFIG").then(|| list.clone());
        choose_at(&overrides, &env, folder.path()).map_err(|error| error.to_string())
    }

    fn of_user(name: &str) -> Result<Chosen, String> {
        chosen(|flags| flags.user = Some(name.to_owned()))
    }

    fn of_cluster(name: &str) -> Result<Chosen, String> {
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
        let error = choose(&overrides, &|_| None).unwrap_err().to_string();
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
        let chosen = choose_at(&Overrides::default(), &|_| None, folder.path()).unwrap();
        assert_eq!(chosen.server.as_str(), "http://localhost:8080/");
        assert_eq!(chosen.namespace, "default");
    }

    /// In a pod, with this kubeconfig.
    fn in_pod(kubeconfig: &str, change: impl FnOnce(&mut Overrides)) -> Result<Chosen, String> {
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
        choose_at(&overrides, &env, account.path()).map_err(|error| error.to_string())
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
