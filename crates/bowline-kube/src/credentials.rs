//! A resolved user to the headers and the TLS of each connection: what goes to the server, and to
//! nobody else.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_io::access::{Access, AccessError, Answer, Source};
use bowline_io::dial::{Endpoint, Tls};
use bowline_io::proxy::{self, Proxy, ProxyError};
use bowline_io::text::go_file_error;
use bowline_io::tls::{self, Identity, TlsError, Trust};
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use secrecy::ExposeSecret;
use thiserror::Error;
use tokio::sync::Mutex;

use crate::config::ResolvedConfig;
use crate::kubeconfig::Exec;
use crate::oidc::{Oidc, OidcError};
use crate::plugin::{self, ClusterInfo, ExecCredential, PluginError};

/// What cannot stand in the name of an `Impersonate-Extra-` header (RFC 9110 §5.6.2), and `%`.
const NOT_A_TOKEN: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'(')
    .add(b')')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'{')
    .add(b'}')
    .add(b'%');

/// Why a user's credentials cannot be used.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{}", go_file_error(Path::new(path), error))]
    File {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// A token file without a token.
    #[error("read empty token from file {0:?}")]
    EmptyToken(String),
    /// A certificate or a key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A plugin gave no credential.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The auth provider `oidc` gave no token.
    #[error(transparent)]
    Oidc(#[from] OidcError),
    /// There is no such auth provider.
    #[error("no Auth Provider found for name {0:?}")]
    AuthProvider(String),
    /// An auth provider that kubectl does not have any more.
    #[error("The {name} auth plugin has been removed.\nPlease use the {instead}")]
    Removed {
        /// Its name.
        name: &'static str,
        /// kubectl's advice.
        instead: &'static str,
    },
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A value with characters that no header can carry.
    #[error("{0} cannot be sent in a header")]
    Header(&'static str),
}

type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// A user's credentials. Files are read for each new connection; a plugin or a provider is asked
/// again once what it gave has expired.
pub struct Credentials {
    config: ResolvedConfig,
    secure: bool,
    proxy: Option<Proxy>,
    impersonation: Vec<(HeaderName, HeaderValue)>,
    source: CredentialSource,
    env: Env,
    cache: Mutex<Cache>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Where the token and the certificate come from.
enum CredentialSource {
    /// The kubeconfig and the files that it names.
    Kubeconfig,
    /// A credential plugin.
    Plugin(Box<Plugin>),
    /// The auth provider `oidc`.
    Oidc(Mutex<Oidc>),
}

struct Plugin {
    exec: Exec,
    cluster: ClusterInfo,
    terminal: bool,
    path: OsString,
}

#[derive(Default)]
struct Cache {
    /// What the plugin gave last.
    plugin_credential: Option<ExecCredential>,
    /// The last access, and the inputs that it was built of.
    last: Option<(Inputs, Access)>,
}

/// What an access is built of, as far as it may change.
#[derive(Clone, Default, PartialEq, Eq)]
struct Inputs {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorization: String,
}

impl Credentials {
    /// Makes the credentials of a resolved user. `env` reads the environment; `terminal` says
    /// whether a person is there to be asked.
    ///
    /// # Errors
    /// [`CredentialsError`] if the auth provider, the plugin's API version, the proxy, or a value
    /// for impersonation cannot be used. Tokens and certificates are read later, for each
    /// connection.
    pub fn new(
        config: ResolvedConfig,
        env: Env,
        terminal: bool,
    ) -> Result<Credentials, CredentialsError> {
        let secure = config.server.scheme() == "https";
        let source = if secure {
            credential_source(&config, &*env, terminal)?
        } else {
            CredentialSource::Kubeconfig
        };
        let proxy = proxy_for(&config, &*env)?;
        let impersonation = impersonation(&config)?;
        let cache = Mutex::default();
        Ok(Credentials { config, secure, proxy, impersonation, source, env, cache })
    }

    /// Builds the access for a connection made now. If the last one was `refused`, another
    /// credential is got where that is possible.
    async fn current(&self, cache: &mut Cache, refused: bool) -> Result<Access, CredentialsError> {
        let (from_plugin, token) = match &self.source {
            CredentialSource::Kubeconfig => (ExecCredential::default(), String::new()),
            CredentialSource::Plugin(plugin) => {
                let Plugin { exec, cluster, terminal, path } = &**plugin;
                #[expect(clippy::disallowed_methods, reason = "it ends at a date")]
                let good =
                    cache.plugin_credential.as_ref().is_some_and(|it| it.is_good(Timestamp::now()));
                if refused || !good {
                    cache.plugin_credential =
                        Some(plugin::run(exec, cluster, *terminal, path).await?);
                }
                (cache.plugin_credential.clone().unwrap_or_default(), String::new())
            }
            CredentialSource::Oidc(oidc) => {
                #[expect(clippy::disallowed_methods, reason = "it ends at a date")]
                let token = oidc.lock().await.token(refused, &*self.env, Timestamp::now()).await?;
                (ExecCredential::default(), token)
            }
        };
        let built = self.build(cache.last.as_ref(), &from_plugin, token);
        match (built, &cache.last) {
            (Ok((inputs, access)), _) => {
                cache.last = Some((inputs, access.clone()));
                Ok(access)
            }
            // Files are being changed: what was read before is still worth a try.
            (Err(CredentialsError::File { .. } | CredentialsError::Tls(_)), Some((_, access))) => {
                Ok(access.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    fn build(
        &self,
        last: Option<&(Inputs, Access)>,
        from_plugin: &ExecCredential,
        provided: String,
    ) -> Result<(Inputs, Access), CredentialsError> {
        let last_token = last.map(|last| &*last.0.authorization);
        let inputs = if self.secure {
            self.inputs(from_plugin, provided, last_token)?
        } else if self.config.user_in_url {
            Inputs { authorization: self.token(None)?.unwrap_or_default(), ..Inputs::default() }
        } else {
            // Other credentials are never sent in the clear; impersonation is no credential.
            Inputs::default()
        };
        if let Some((known, access)) = last.filter(|last| last.0 == inputs) {
            return Ok((known.clone(), access.clone()));
        }
        let mut headers = Vec::new();
        if !inputs.authorization.is_empty() {
            let value = HeaderValue::try_from(&*inputs.authorization);
            let mut value = value.map_err(|_| CredentialsError::Header("the token"))?;
            value.set_sensitive(true);
            headers.push((http::header::AUTHORIZATION, value));
        }
        headers.extend(self.impersonation.iter().cloned());
        let tls = if self.secure { Some(self.tls(&inputs)?) } else { None };
        let endpoint = Endpoint::of(&self.config.server, tls, self.proxy.clone());
        let generation = last.map_or(1, |last| last.1.generation + 1);
        Ok((inputs, Access { endpoint, headers, generation }))
    }

    fn inputs(
        &self,
        given: &ExecCredential,
        provided: String,
        last: Option<&str>,
    ) -> Result<Inputs, CredentialsError> {
        let (cluster, user) = (&self.config.cluster, &self.config.user);
        let mut certificate = data_or_file(&user.certificate_data, &user.certificate_file)?;
        let mut key = Vec::new();
        if certificate.is_empty() {
            certificate = given.certificate.clone().into_bytes();
            key.extend_from_slice(given.key.as_bytes());
        } else {
            key = data_or_file(&user.key_data.0, &user.key_file)?;
        }
        let ca = data_or_file(&cluster.ca_data, &cluster.ca_file)?;
        let authorization = match self.token(last)? {
            Some(authorization) => authorization,
            None if !given.token.is_empty() => format!("Bearer {}", given.token),
            None if !provided.is_empty() => format!("Bearer {provided}"),
            None => String::new(),
        };
        Ok(Inputs { ca, certificate, key, authorization })
    }

    /// Makes `Authorization` of the kubeconfig's own token or password; `None` if it has neither.
    fn token(&self, last: Option<&str>) -> Result<Option<String>, CredentialsError> {
        let user = &self.config.user;
        let token = user.token.expose_secret();
        let given = (!token.is_empty()).then(|| format!("Bearer {token}"));
        if !user.token_file.is_empty() {
            // A token file beats a token, as in client-go, as long as it can be read.
            let read = token_of(&user.token_file).map(|token| format!("Bearer {token}"));
            let fallback = last.map(ToOwned::to_owned).or(given);
            return read.or_else(|error| fallback.ok_or(error)).map(Some);
        }
        if user.username.is_empty() {
            return Ok(given);
        }
        let both = format!("{}:{}", user.username, user.password.expose_secret());
        Ok(Some(format!("Basic {}", STANDARD.encode(both))))
    }

    fn tls(&self, inputs: &Inputs) -> Result<Tls, CredentialsError> {
        let trust = match (self.config.cluster.insecure, &inputs.ca) {
            (true, _) => Trust::Anybody,
            (false, ca) if ca.is_empty() => Trust::System,
            (false, ca) => Trust::Ca(ca.clone()),
        };
        let (certificate, key) = (inputs.certificate.clone(), inputs.key.clone());
        let identity = (!certificate.is_empty()).then_some(Identity { certificate, key });
        let config = tls::client(&trust, identity.as_ref())?;
        let name = &self.config.cluster.tls_server_name;
        let server_name = (!name.is_empty()).then(|| name.clone());
        Ok(Tls { config, server_name })
    }
}

impl Source for Credentials {
    fn access(&self) -> Answer<'_, Access> {
        Box::pin(async {
            let mut cache = self.cache.lock().await;
            self.current(&mut cache, false).await.map_err(AccessError::new)
        })
    }

    fn renew<'a>(&'a self, refused: &'a Access) -> Answer<'a, bool> {
        Box::pin(async {
            let mut cache = self.cache.lock().await;
            let current = cache.last.as_ref().map(|built| built.1.generation);
            // Another task has renewed it meanwhile.
            if current.is_some_and(|current| current != refused.generation) {
                return Ok(true);
            }
            let access = self.current(&mut cache, true).await.map_err(AccessError::new)?;
            Ok(access.generation != refused.generation)
        })
    }
}

fn credential_source(
    config: &ResolvedConfig,
    env: &dyn Fn(&str) -> Option<String>,
    terminal: bool,
) -> Result<CredentialSource, CredentialsError> {
    let user = &config.user;
    // A provider is made even where something else is used in the end, as in client-go.
    let provider = user.auth_provider.as_ref().map(|provider| match &*provider.name {
        "oidc" => Ok(Oidc::new(provider)?),
        "gcp" => Err(CredentialsError::Removed { name: "gcp", instead: GCP }),
        "azure" => Err(CredentialsError::Removed { name: "azure", instead: AZURE }),
        name => Err(CredentialsError::AuthProvider(name.to_owned())),
    });
    let provider = provider.transpose()?;
    let has_token = !user.token.expose_secret().is_empty() || !user.token_file.is_empty();
    let explicit = has_token || !user.username.is_empty();
    let has_certificate = !user.certificate_file.is_empty() || !user.certificate_data.is_empty();
    match (provider, &user.exec) {
        (Some(oidc), _) if !explicit => Ok(CredentialSource::Oidc(Mutex::new(oidc))),
        (_, Some(exec)) => {
            plugin::check(exec)?;
            if explicit || has_certificate {
                return Ok(CredentialSource::Kubeconfig);
            }
            let cluster = cluster_info(config, env)?;
            let (exec, path) = (exec.clone(), plugin::search_path());
            Ok(CredentialSource::Plugin(Box::new(Plugin { exec, cluster, terminal, path })))
        }
        _ => Ok(CredentialSource::Kubeconfig),
    }
}

const GCP: &str = "\"gke-gcloud-auth-plugin\" kubectl/client-go credential plugin instead.\nSee \
     https://cloud.google.com/blog/products/containers-kubernetes/kubectl-auth-changes-in-gke for \
     further details";
const AZURE: &str = "https://github.com/Azure/kubelogin kubectl/client-go credential plugin instead.\nSee \
     https://kubernetes.io/docs/reference/access-authn-authz/authentication/\
     #client-go-credential-plugins for further details";

fn cluster_info(
    config: &ResolvedConfig,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<ClusterInfo, CredentialsError> {
    let cluster = &config.cluster;
    let server = config.server.as_str();
    // Go writes a URL without a path as it came.
    let server = if config.server.path() == "/" { server.trim_end_matches('/') } else { server };
    let proxy_url = match &*cluster.proxy_url {
        "" => proxy::url_from_env(&config.server, env).unwrap_or_default(),
        url => url.to_owned(),
    };
    Ok(ClusterInfo {
        server: server.to_owned(),
        tls_server_name: cluster.tls_server_name.clone(),
        insecure: cluster.insecure,
        ca: data_or_file(&cluster.ca_data, &cluster.ca_file)?,
        proxy_url,
        disable_compression: cluster.disable_compression,
        config: cluster.exec_extension.clone(),
    })
}

fn token_of(path: &str) -> Result<String, CredentialsError> {
    let text = fs::read_to_string(path)
        .map_err(|error| CredentialsError::File { path: path.to_owned(), error })?;
    match text.trim() {
        "" => Err(CredentialsError::EmptyToken(path.to_owned())),
        token => Ok(token.to_owned()),
    }
}

fn data_or_file(data: &[u8], file: &str) -> Result<Vec<u8>, CredentialsError> {
    if !data.is_empty() || file.is_empty() {
        return Ok(data.to_vec());
    }
    fs::read(file).map_err(|error| CredentialsError::File { path: file.to_owned(), error })
}

fn impersonation(
    config: &ResolvedConfig,
) -> Result<Vec<(HeaderName, HeaderValue)>, CredentialsError> {
    let user = &config.user;
    if user.impersonate.is_empty() {
        return Ok(Vec::new());
    }
    let mut pairs = vec![("impersonate-user".to_owned(), user.impersonate.clone())];
    if !user.impersonate_uid.is_empty() {
        pairs.push(("impersonate-uid".to_owned(), user.impersonate_uid.clone()));
    }
    for group in &user.impersonate_groups {
        pairs.push(("impersonate-group".to_owned(), group.clone()));
    }
    for (key, values) in &user.impersonate_extra {
        let key = utf8_percent_encode(&key.to_lowercase(), NOT_A_TOKEN).to_string();
        for value in values {
            pairs.push((format!("impersonate-extra-{key}"), value.clone()));
        }
    }
    let bad = || CredentialsError::Header("whom to act as");
    let header = |(name, value): (String, String)| {
        let name = HeaderName::try_from(name).map_err(|_| bad())?;
        Ok((name, HeaderValue::try_from(value).map_err(|_| bad())?))
    };
    pairs.into_iter().map(header).collect()
}

/// The cluster's own proxy beats the environment, `NO_PROXY` included.
fn proxy_for(
    config: &ResolvedConfig,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, CredentialsError> {
    match &*config.cluster.proxy_url {
        "" => Ok(proxy::from_env(&config.server, env)?),
        url => Ok(Some(Proxy::parse(url)?)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::config::{self, Overrides};

    const V1: &str = "client.authentication.k8s.io/v1";

    fn credentials(folder: &Path, user: &str) -> Result<Credentials, CredentialsError> {
        let path = folder.join("config");
        let text = format!(
            "{{current-context: x, contexts: [{{name: x, context: {{cluster: c, user: u}}}}], \
             clusters: [{{name: c, cluster: {{server: 'https://a', insecure-skip-tls-verify: true}}}}], \
             users: [{{name: u, user: {{{user}}}}}]}}"
        );
        fs::write(&path, text).unwrap();
        let kubeconfig = path.to_str().map(ToOwned::to_owned);
        let resolved =
            config::resolve(&Overrides { kubeconfig, ..Overrides::default() }, &|_| None).unwrap();
        Credentials::new(resolved, Arc::new(|_: &str| None), false)
    }

    fn write(folder: &Path, name: &str, text: &str) {
        // Replaced as a whole, as those do who rotate tokens.
        let new = folder.join("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, folder.join(name)).unwrap();
    }

    fn said(access: &Access) -> (u64, String) {
        let found = access.headers.iter().find(|header| header.0 == http::header::AUTHORIZATION);
        let text = found.map_or("", |header| header.1.to_str().unwrap());
        (access.generation, text.to_owned())
    }

    #[tokio::test]
    async fn a_tokens_file_is_read_for_each_connection() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "token", "one\n");
        let all = credentials(folder.path(), "tokenFile: token, token: inline").unwrap();
        let first = all.access().await.unwrap();
        assert_eq!(said(&first), (1, "Bearer one".into()));
        assert_eq!(said(&all.access().await.unwrap()).0, 1);
        assert!(!all.renew(&first).await.unwrap());
        write(folder.path(), "token", "two");
        assert!(all.renew(&first).await.unwrap());
        assert!(all.renew(&first).await.unwrap(), "somebody else did it");
        assert_eq!(said(&all.access().await.unwrap()), (2, "Bearer two".into()));
        // What was read before is still worth a try.
        fs::remove_file(folder.path().join("token")).unwrap();
        assert_eq!(said(&all.access().await.unwrap()), (2, "Bearer two".into()));
        let missing = credentials(folder.path(), "tokenFile: token, token: inline").unwrap();
        assert_eq!(said(&missing.access().await.unwrap()), (1, "Bearer inline".into()));
        let missing = credentials(folder.path(), "tokenFile: token").unwrap();
        let error = missing.access().await.unwrap_err().to_string();
        assert!(error.ends_with("token: no such file or directory"), "{error}");
        write(folder.path(), "token", " \n");
        assert!(missing.access().await.unwrap_err().to_string().contains("read empty token"));
    }

    #[tokio::test]
    async fn a_plugin_runs_when_its_answer_ends_or_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "#!/bin/sh\necho run >>runs\nread token <token; read end <end\n\
             echo '{{\"apiVersion\":\"{V1}\",\
             \"kind\":\"ExecCredential\",\"status\":{{\"token\":\"'$token'\",\
             \"expirationTimestamp\":\"'$end'\"}}}}'\n"
        );
        let script = script.replace("runs", folder.path().join("runs").to_str().unwrap());
        let script =
            script.replace("<token", &format!("<{}", folder.path().join("token").display()));
        let script = script.replace("<end", &format!("<{}", folder.path().join("end").display()));
        write(folder.path(), "plugin", &script);
        write(folder.path(), "token", "one\n");
        write(folder.path(), "end", "2999-01-01T00:00:00Z\n");
        let user = format!("exec: {{command: ./plugin, apiVersion: {V1}, interactiveMode: Never}}");
        let all = credentials(folder.path(), &user).unwrap();
        let runs = || fs::read_to_string(folder.path().join("runs")).unwrap().lines().count();
        let first = all.access().await.unwrap();
        assert_eq!((said(&first), runs()), ((1, "Bearer one".into()), 1));
        assert_eq!((all.access().await.unwrap().generation, runs()), (1, 1));
        // Refused, and it has no other: that is no reason to ask the server again.
        assert!(!all.renew(&first).await.unwrap());
        assert_eq!(runs(), 2);
        write(folder.path(), "token", "two\n");
        write(folder.path(), "end", "1999-01-01T00:00:00Z\n");
        assert!(all.renew(&first).await.unwrap());
        assert_eq!(runs(), 3);
        // What it gave has ended.
        assert_eq!(said(&all.access().await.unwrap()).1, "Bearer two");
        assert_eq!(runs(), 4);
        write(folder.path(), "plugin", "#!/bin/sh\nexit 1\n");
        assert!(all.access().await.is_err());
    }

    #[test]
    fn providers_that_are_gone_say_so_when_they_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let error = |user: &str| credentials(folder.path(), user).unwrap_err().to_string();
        let gcp = "The gcp auth plugin has been removed.\nPlease use the \
                   \"gke-gcloud-auth-plugin\" \
                   kubectl/client-go credential plugin instead.\nSee \
                   https://cloud.google.com/blog/products/containers-kubernetes/\
                   kubectl-auth-changes-in-gke for further details";
        assert_eq!(error("auth-provider: {name: gcp}"), gcp);
        assert!(error("auth-provider: {name: azure}").starts_with("The azure auth plugin"));
        assert_eq!(error("auth-provider: {name: x}"), "no Auth Provider found for name \"x\"");
    }
}
