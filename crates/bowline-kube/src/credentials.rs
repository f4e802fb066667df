//! A chosen user to headers and TLS: what goes to the server, and to nobody else.
//! Above: `api`, the streams. Below: `plugin`, `bowline_io::{dial, tls, proxy}`.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_io::dial::{Endpoint, Tls};
use bowline_io::proxy::{self, Proxy, ProxyError};
use bowline_io::tls::{self, Identity, TlsError, Trust};
use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use secrecy::ExposeSecret;
use thiserror::Error;

use crate::config::Chosen;
use crate::plugin::{self, PluginError};

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
    #[error("{0}")]
    File(String),
    /// Data that is not base64.
    #[error("{0} is not base64")]
    Base64(&'static str),
    /// A certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// An auth provider, which Kubernetes has removed.
    #[error("no Auth Provider found for name {0:?}")]
    AuthProvider(String),
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A value with characters that no header can carry.
    #[error("{0} cannot be sent in a header")]
    Header(&'static str),
}

/// How to reach a server, and what to tell it.
#[derive(Clone)]
pub struct Access {
    /// Where and how to connect.
    pub endpoint: Endpoint,
    /// `Authorization` and `Impersonate-*`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Makes a user's credentials ready; a plugin is run here, once. `terminal` says whether a person
/// is there for it.
///
/// # Errors
/// [`CredentialsError`].
pub fn access(
    chosen: &Chosen,
    env: &dyn Fn(&str) -> Option<String>,
    terminal: bool,
) -> Result<Access, CredentialsError> {
    let user = &chosen.user;
    if let Some(provider) = &user.auth_provider {
        return Err(CredentialsError::AuthProvider(provider.name.clone()));
    }
    let secure = chosen.server.scheme() == "https";
    let explicit = user.token.is_some()
        || user.token_file.is_some()
        || user.username.is_some()
        || user.client_certificate.is_some()
        || user.client_certificate_data.is_some();
    let given = match &user.exec {
        Some(exec) if secure && !explicit => plugin::run(exec, &chosen.cluster, terminal)?,
        _ => plugin::Given::default(),
    };
    // Credentials are never sent in the clear; whom to act as is no credential.
    let mut headers = Vec::new();
    if secure {
        headers.extend(authorization(chosen, given.token.as_deref())?);
    }
    headers.extend(impersonation(chosen)?);
    let tls = if secure { Some(tls(chosen, &given)?) } else { None };
    let endpoint = Endpoint::of(&chosen.server, tls, proxy_for(chosen, env)?);
    Ok(Access { endpoint, headers })
}

fn authorization(
    chosen: &Chosen,
    from_plugin: Option<&str>,
) -> Result<Option<(HeaderName, HeaderValue)>, CredentialsError> {
    let user = &chosen.user;
    // A token file beats a token, as in client-go.
    let token = match &user.token_file {
        Some(path) => {
            let read = fs::read_to_string(path);
            Some(read.map_err(|error| CredentialsError::File(format!("open {path}: {error}")))?)
        }
        None => user.token.as_ref().map(|token| token.expose_secret().to_owned()),
    };
    let token = token.or_else(|| from_plugin.map(ToOwned::to_owned));
    let text = match (token.map(|token| token.trim().to_owned()), &user.username) {
        (Some(token), _) if !token.is_empty() => format!("Bearer {token}"),
        (_, Some(name)) => {
            let password = user.password.as_ref().map_or("", |password| password.expose_secret());
            format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
        }
        _ => return Ok(None),
    };
    let value = HeaderValue::try_from(text);
    let mut value = value.map_err(|_| CredentialsError::Header("the token"))?;
    value.set_sensitive(true);
    Ok(Some((http::header::AUTHORIZATION, value)))
}

fn impersonation(chosen: &Chosen) -> Result<Vec<(HeaderName, HeaderValue)>, CredentialsError> {
    let user = &chosen.user;
    let Some(name) = user.impersonate.as_ref().filter(|name| !name.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut pairs = vec![("impersonate-user".to_owned(), name.clone())];
    if let Some(uid) = user.impersonate_uid.as_ref().filter(|uid| !uid.is_empty()) {
        pairs.push(("impersonate-uid".to_owned(), uid.clone()));
    }
    for group in user.impersonate_groups.iter().flatten() {
        pairs.push(("impersonate-group".to_owned(), group.clone()));
    }
    for (key, values) in user.impersonate_user_extra.iter().flatten() {
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

fn tls(chosen: &Chosen, given: &plugin::Given) -> Result<Tls, CredentialsError> {
    let cluster = &chosen.cluster;
    let ca = pem(
        "certificate-authority-data",
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
    )?;
    let trust = match (cluster.insecure_skip_tls_verify, ca) {
        (Some(true), _) => Trust::Anybody,
        (_, Some(ca)) => Trust::Ca(ca),
        (_, None) => Trust::System,
    };
    let user = &chosen.user;
    let certificate = pem(
        "client-certificate-data",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
    )?;
    let key_data = user.client_key_data.as_ref().map(|key| key.expose_secret());
    let key = pem("client-key-data", key_data, user.client_key.as_deref())?;
    let from_plugin = |data: &Option<String>| data.clone().map(String::into_bytes);
    let certificate = certificate.or_else(|| from_plugin(&given.client_certificate_data));
    let key = key.or_else(|| from_plugin(&given.client_key_data));
    let identity = certificate.zip(key).map(|(certificate, key)| Identity { certificate, key });
    let config = tls::client(&trust, identity.as_ref())?;
    let server_name = cluster.tls_server_name.clone().filter(|name| !name.is_empty());
    Ok(Tls { config, server_name })
}

fn pem(
    what: &'static str,
    data: Option<&str>,
    file: Option<&str>,
) -> Result<Option<Vec<u8>>, CredentialsError> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let data: String = data.split_whitespace().collect();
        return STANDARD.decode(data).map(Some).map_err(|_| CredentialsError::Base64(what));
    }
    let file = file.filter(|file| !file.is_empty());
    Ok(file.map(|file| tls::read(file.as_ref())).transpose()?)
}

/// The cluster's own proxy beats the environment, `NO_PROXY` included.
fn proxy_for(
    chosen: &Chosen,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, CredentialsError> {
    match chosen.cluster.proxy_url.as_ref().filter(|url| !url.is_empty()) {
        Some(url) => Ok(Some(Proxy::parse(url)?)),
        None => Ok(proxy::from_env(&chosen.server, env)?),
    }
}
