//! The auth provider `oidc`: an ID token, and a new one from the identity provider when it has
//! expired, as client-go gets it.
//!
//! A provider may give each refresh token for one use. So what it gave is written back to the
//! kubeconfig, where the next program finds it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bowline_io::text::{go_error, sanitized};
use bowline_io::tls::{self, TlsError, Trust};
use bowline_io::urls;
use form_urlencoded::{Serializer, byte_serialize};
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::sleep;
use url::Url;

use crate::kubeconfig::{AuthProvider, Document};
use crate::web::{Web, WebError};

/// How long before its end a token is taken for expired: clocks differ.
const LEEWAY: Duration = Duration::from_secs(10);
/// The longest answer of a provider that is read.
const ANSWER_BYTES: usize = 1024 * 1024;
/// How many bytes of a provider's words are shown.
const WORDS_BYTES: usize = 400;
/// How many times the lock of a kubeconfig that another program writes is tried, and how long the
/// pause between two tries is.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no token, in client-go's words where it has some.
#[derive(Debug, Error)]
pub enum OidcError {
    /// The kubeconfig does not say who the provider is.
    #[error("Must provide {0}")]
    Missing(&'static str),
    /// The ID token is no JWT.
    #[error("ID Token is not a valid JWT")]
    NotAToken,
    /// The ID token has expired, and there is no refresh token.
    #[error("No valid id-token, and cannot refresh without refresh-token")]
    NoRefreshToken,
    /// A field or an answer has a text that is no URL.
    #[error("oidc: {0} is no URL")]
    Url(&'static str),
    /// The provider's CA is not base64.
    #[error("idp-certificate-authority-data is not base64")]
    Base64,
    /// The provider's CA cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The provider cannot be asked.
    #[error("oidc: {what}: {error}")]
    Web {
        /// What it was asked for.
        what: &'static str,
        /// How the request failed.
        #[source]
        error: WebError,
    },
    /// The provider's discovery document cannot be got.
    #[error("oidc: failed to query metadata endpoint: {0}")]
    Metadata(StatusCode),
    /// The discovery document names no token endpoint.
    #[error("oidc: discovery object doesn't contain a token_endpoint")]
    NoEndpoint,
    /// The provider refuses to refresh the token.
    #[error("failed to refresh token: oauth2: cannot fetch token: {status}{words}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The provider's words, sanitized.
        words: String,
    },
    /// The provider answers without an ID token.
    #[error(
        "token response did not contain an id_token, either the scope \"openid\" wasn't requested \
         upon login, or the provider doesn't support id_tokens as part of the refresh response"
    )]
    NoIdToken,
    /// The new tokens cannot be written to the kubeconfig.
    #[error("could not persist new tokens: {0}")]
    Persist(String),
}

/// What an `oidc` provider's entry says.
#[derive(Clone)]
pub struct Oidc {
    config: Vec<(String, String)>,
    origin: (PathBuf, String),
    trust: Trust,
}

impl std::fmt::Debug for Oidc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oidc").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    token_endpoint: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    id_token: String,
    refresh_token: String,
}

/// An error response (RFC 6749 §5.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
    error_description: String,
}

impl Oidc {
    /// Reads a provider's entry.
    ///
    /// # Errors
    /// [`OidcError`] if the issuer or the client's id is missing, or the provider's CA cannot be
    /// used.
    pub fn new(provider: &AuthProvider) -> Result<Oidc, OidcError> {
        let (config, origin) = (provider.config.clone(), provider.origin.clone());
        let mut oidc = Oidc { config, origin, trust: Trust::System };
        for needed in ["idp-issuer-url", "client-id"] {
            if oidc.get(needed).is_empty() {
                return Err(OidcError::Missing(needed));
            }
        }
        let (data, file) =
            (oidc.get("idp-certificate-authority-data"), oidc.get("idp-certificate-authority"));
        if !data.is_empty() {
            oidc.trust = Trust::Ca(STANDARD.decode(data).map_err(|_| OidcError::Base64)?);
        } else if !file.is_empty() {
            oidc.trust = Trust::Ca(tls::read(Path::new(file))?);
        }
        Ok(oidc)
    }

    fn get(&self, key: &str) -> &str {
        self.config.iter().find(|pair| pair.0 == key).map_or("", |pair| &pair.1)
    }

    /// Returns the ID token: a new one if it has expired, or if a server has `refused` it and there
    /// is a refresh token. `env` reads the environment.
    ///
    /// # Errors
    /// [`OidcError`] if the token has expired and cannot be refreshed, or a new one cannot be kept.
    pub async fn token(
        &mut self,
        refused: bool,
        env: &(dyn Fn(&str) -> Option<String> + Send + Sync),
        now: Timestamp,
    ) -> Result<String, OidcError> {
        let old = self.get("id-token").to_owned();
        if !old.is_empty() && is_valid(&old, now)? && !refused {
            return Ok(old);
        }
        // Another program may have got one since the file was read.
        self.reload();
        let other = self.get("id-token");
        if other != old && is_valid(other, now).unwrap_or(false) {
            return Ok(other.to_owned());
        }
        if self.get("refresh-token").is_empty() {
            return if refused { Ok(old) } else { Err(OidcError::NoRefreshToken) };
        }
        let tokens = self.refresh(env).await?;
        let mut config = self.config.clone();
        let mut set = |key: &str, value: String| match config.iter_mut().find(|pair| pair.0 == key)
        {
            Some(pair) => pair.1 = value,
            None => config.push((key.to_owned(), value)),
        };
        if !tokens.refresh_token.is_empty() {
            set("refresh-token", tokens.refresh_token);
        }
        set("id-token", tokens.id_token.clone());
        self.persist(&config).await?;
        self.config = config;
        Ok(tokens.id_token)
    }

    fn reload(&mut self) {
        let (path, user) = &self.origin;
        let read = crate::kubeconfig::Kubeconfig::read(std::slice::from_ref(path));
        let user = read.ok().and_then(|config| config.user(user).ok().flatten());
        let Some(provider) = user.and_then(|user| user.auth_provider) else { return };
        let same = |key: &str| {
            let theirs = provider.config.iter().find(|pair| pair.0 == key);
            theirs.map_or("", |pair| &*pair.1) == self.get(key)
        };
        if provider.name == "oidc" && same("idp-issuer-url") && same("client-id") {
            self.config = provider.config;
        }
    }

    /// Asks for new tokens with the refresh token.
    async fn refresh(
        &self,
        env: &(dyn Fn(&str) -> Option<String> + Send + Sync),
    ) -> Result<Tokens, OidcError> {
        let web = Web { trust: &self.trust, env, bytes: ANSWER_BYTES };
        let endpoint = self.endpoint(&web).await?;
        let (id, secret) = (self.get("client-id"), self.get("client-secret"));
        let grant = [("grant_type", "refresh_token"), ("refresh_token", self.get("refresh-token"))];
        let form = Serializer::new(String::new()).extend_pairs(grant).finish();
        let failed = |error| OidcError::Web { what: "failed to refresh token", error };
        // As in Go's client, the client's id is in a header; a provider that refuses it gets it in
        // the form.
        let escaped = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let both = STANDARD.encode(format!("{}:{}", escaped(id), escaped(secret)));
        let mut basic = HeaderValue::try_from(format!("Basic {both}")).ok();
        basic.iter_mut().for_each(|value| value.set_sensitive(true));
        let (head, body) = web.post(&endpoint, basic, form.clone()).await.map_err(failed)?;
        let (head, body) = if head.status.is_success() {
            (head, body)
        } else {
            let secret = Some(("client_secret", secret)).filter(|pair| !pair.1.is_empty());
            let who = [("client_id", id)].into_iter().chain(secret);
            let form = Serializer::new(form).extend_pairs(who).finish();
            web.post(&endpoint, None, form).await.map_err(failed)?
        };
        if !head.status.is_success() {
            return Err(OidcError::Refused { status: head.status, words: words(&body) });
        }
        let tokens: Tokens = serde_json::from_slice(&body).unwrap_or_default();
        if tokens.id_token.is_empty() { Err(OidcError::NoIdToken) } else { Ok(tokens) }
    }

    /// Finds the token endpoint (OpenID Connect Discovery 1.0 §4).
    async fn endpoint(&self, web: &Web<'_>) -> Result<Url, OidcError> {
        let issuer = self.get("idp-issuer-url");
        let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
        let url = format!("{issuer}/.well-known/openid-configuration");
        let url = urls::parse(&url).ok_or(OidcError::Url("idp-issuer-url"))?;
        let answer = web.get(&url).await;
        let failed = |error| OidcError::Web { what: "failed to query metadata endpoint", error };
        let (head, body) = answer.map_err(failed)?;
        if head.status != StatusCode::OK {
            return Err(OidcError::Metadata(head.status));
        }
        let metadata: Result<Metadata, _> = serde_json::from_slice(&body);
        let endpoint = metadata.map(|metadata| metadata.token_endpoint).unwrap_or_default();
        if endpoint.is_empty() {
            return Err(OidcError::NoEndpoint);
        }
        urls::parse(&endpoint).ok_or(OidcError::Url("the token_endpoint"))
    }

    /// Writes a configuration back to the kubeconfig that it was read from, as that is now.
    async fn persist(&self, config: &[(String, String)]) -> Result<(), OidcError> {
        let (path, user) = &self.origin;
        let failed = |error: &io::Error| OidcError::Persist(go_error(error));
        let lock = Lock::of(path).await.map_err(|error| failed(&error))?;
        let document = Document::read(path).map_err(|e| OidcError::Persist(e.to_string()))?;
        let gone = || OidcError::Persist(format!("{}: no such user any more", path.display()));
        let text = document.with_provider_config(user, config).ok_or_else(gone)?;
        let replaced = replace(path, &text);
        drop(lock);
        replaced.map_err(|error| failed(&error))
    }
}

/// Returns whether a token is valid for longer than [`LEEWAY`].
fn is_valid(token: &str, now: Timestamp) -> Result<bool, OidcError> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        exp: f64,
    }
    let [_, claims, _] = token.split('.').collect::<Vec<_>>()[..] else {
        return Err(OidcError::NotAToken);
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| OidcError::NotAToken)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| OidcError::NotAToken)?;
    Ok(now.as_second() as f64 + LEEWAY.as_secs_f64() < claims.exp)
}

fn words(body: &[u8]) -> String {
    let said: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let words = format!("{} {}", said.error, said.error_description);
    let words = sanitized(words.trim(), WORDS_BYTES).into_owned();
    if words.is_empty() { words } else { format!(": {words}") }
}

/// client-go's lock of a kubeconfig: a file beside it, which only one program can create.
struct Lock(PathBuf);

impl Lock {
    async fn of(path: &Path) -> io::Result<Lock> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let mut tries = 0;
        loop {
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock);
            match opened {
                Ok(_) => return Ok(Lock(lock)),
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && tries < LOCK_TRIES =>
                {
                    tries += 1;
                    sleep(LOCK_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Replaces a file as a whole, for its owner's eyes. Where it is a link, what it leads to.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(
        |mut file| {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        },
    );
    let replaced = written.and_then(|()| fs::rename(&new, &path));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(exp: &str) -> String {
        let claims = URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{exp}}}"));
        format!("h.{claims}.s")
    }

    #[test]
    fn tokens_end_a_little_before_their_end() {
        let now = Timestamp::from_second(1_000).unwrap();
        for (exp, valid) in [("1010", false), ("1011", true), ("1011.5", true), ("1e9", true)] {
            assert_eq!(is_valid(&token(exp), now).unwrap(), valid, "{exp}");
        }
        for none in ["", "a.b", "a.!.c", "a.e30.b.c"] {
            assert!(is_valid(none, now).is_err(), "{none}");
        }
        assert!(!is_valid("a.e30.c", now).unwrap());
    }

    fn provider(config: &[(&str, &str)]) -> AuthProvider {
        let config = config.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        AuthProvider { name: "oidc".into(), config: config.collect(), ..AuthProvider::default() }
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let none = |_: &str| None;
        let error = Oidc::new(&provider(&[("client-id", "c")])).unwrap_err().to_string();
        assert_eq!(error, "Must provide idp-issuer-url");
        let given = [("client-id", "c"), ("idp-issuer-url", "https://x")];
        let mut oidc = Oidc::new(&provider(&given)).unwrap();
        let error = oidc.token(false, &none, Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert!(matches!(error, OidcError::NoRefreshToken));
        let good = token("1000");
        let given = [given[0], given[1], ("id-token", &good)];
        let mut oidc = Oidc::new(&provider(&given)).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(oidc.token(false, &none, now).await.unwrap(), good);
        // There is no other one.
        assert_eq!(oidc.token(true, &none, now).await.unwrap(), good);
    }
}
