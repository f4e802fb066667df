//! Requests to servers that are no API servers: no credential of a cluster goes along.

use std::time::Duration;

use bowline_io::dial::{DialError, Endpoint, Tls, dial};
use bowline_io::http::{HttpError, head, request};
use bowline_io::proxy::{self, ProxyError};
use bowline_io::text::{redacted, sanitized};
use bowline_io::tls::{self, TlsError, Trust};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::response::Parts;
use http::{HeaderMap, HeaderValue};
use thiserror::Error;
use url::Url;

/// How many redirects are followed: Go's own limit.
pub(crate) const REDIRECTS: u32 = 10;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many bytes of a URL in a redirect are shown.
const URL_BYTES: usize = 1024;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum WebError {
    /// The server cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server did not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The proxy of the environment cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The trusted certificates cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The request cannot be built.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// There are too many redirects.
    #[error("stopped after {REDIRECTS} redirects")]
    TooManyRedirects,
    /// A redirect is no URL of HTTP.
    #[error("redirected to {0:?}, which is no URL")]
    BadRedirect(String),
}

/// How requests are made.
#[derive(Clone, Copy)]
pub(crate) struct Web<'a> {
    /// The certificates that are trusted.
    pub trust: &'a Trust,
    /// Reads the environment, for the proxy.
    pub env: &'a (dyn Fn(&str) -> Option<String> + Send + Sync),
    /// The longest answer that is read, in bytes.
    pub bytes: usize,
}

impl Web<'_> {
    /// Gets a document, following redirects.
    ///
    /// # Errors
    /// [`WebError`] if there is no answer. An answer of any status but a redirect is one.
    pub(crate) async fn get(&self, url: &Url) -> Result<(Parts, Bytes), WebError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let (head, body) = self.exchange("GET", &url, HeaderMap::new(), Bytes::new()).await?;
            match redirect(&url, &head) {
                None => return Ok((head, body)),
                Some(to) => url = to.map_err(WebError::BadRedirect)?,
            }
        }
        Err(WebError::TooManyRedirects)
    }

    /// Posts a form, without following redirects.
    ///
    /// # Errors
    /// [`WebError`] if there is no answer.
    pub(crate) async fn post(
        &self,
        url: &Url,
        authorization: Option<HeaderValue>,
        form: String,
    ) -> Result<(Parts, Bytes), WebError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        self.exchange("POST", url, headers, form.into()).await
    }

    async fn exchange(
        &self,
        method: &str,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Parts, Bytes), WebError> {
        let tls = match url.scheme() {
            "https" => Some(Tls { config: tls::client(self.trust, None)?, server_name: None }),
            _ => None,
        };
        let endpoint = Endpoint::of(url, tls, proxy::from_env(url, self.env)?);
        let stream = dial(&endpoint, PATIENCE).await?;
        let mut head = head(method, url, body)?;
        head.headers_mut().extend(headers);
        Ok(request(stream, head, self.bytes, PATIENCE).await?)
    }
}

/// Returns where an answer to `url` redirects to; `None` if it is no redirect. The error is the
/// sanitized text of one that cannot be followed.
pub(crate) fn redirect(url: &Url, head: &Parts) -> Option<Result<Url, String>> {
    if !matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let to = head.headers.get(LOCATION)?;
    let text = String::from_utf8_lossy(to.as_bytes());
    let next = url.join(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    Some(next.ok_or_else(|| sanitized(&redacted(&text), URL_BYTES).into_owned()))
}
