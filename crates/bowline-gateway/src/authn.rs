//! A request to a user, or to 401. Tokens of a file, certificates, impersonation.
//! Above: `server`. Below: `bowline_io::tls`.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_io::tls::PeerIdentity;
use http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq;
use thiserror::Error;

const AUTHENTICATED: &str = "system:authenticated";
const SUBPROTOCOL: &str = "sec-websocket-protocol";
/// A browser cannot set `Authorization`; it sends its token as a subprotocol (wire.md 1.1).
const BEARER_SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The groups; `system:authenticated` is one.
    pub groups: Vec<String>,
}

impl User {
    /// A user who proved to be one.
    #[must_use]
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> User {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        User { name: name.into(), groups }
    }
}

/// The tokens of `--token-auth-file`.
#[derive(Clone, Default)]
pub struct Tokens(Vec<(String, User)>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

/// Why a token file cannot be used.
#[derive(Debug, Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line is not `token,user,uid[,"groups"]`.
    #[error("token file line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Tokens {
    /// Reads a file of `token,user,uid,"group1,group2"` lines, as kube-apiserver's.
    ///
    /// # Errors
    /// [`TokensError`].
    pub fn read(path: &Path) -> Result<Tokens, TokensError> {
        let text = fs::read_to_string(path)
            .map_err(|error| TokensError::File { path: path.to_owned(), error })?;
        Tokens::parse(&text)
    }

    /// The same for text.
    ///
    /// # Errors
    /// [`TokensError::Line`].
    pub fn parse(text: &str) -> Result<Tokens, TokensError> {
        let mut tokens = Tokens::default();
        for (line, record) in (1..).zip(text.lines()) {
            if record.trim().is_empty() {
                continue;
            }
            let fields = fields(record).ok_or(TokensError::Line { line, what: "bad quotes" })?;
            let [token, name, _uid, groups @ ..] = &fields[..] else {
                let what = "three columns are needed: token, user name, user uid";
                return Err(TokensError::Line { line, what });
            };
            if token.is_empty() {
                return Err(TokensError::Line { line, what: "the token is empty" });
            }
            let groups = groups.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
            let user = User::new(name, groups.map(ToOwned::to_owned));
            tokens.add(token, user);
        }
        Ok(tokens)
    }

    /// Lets `user` in with `token`.
    pub fn add(&mut self, token: &str, user: User) {
        self.0.push((token.to_owned(), user));
    }

    /// The time it takes says nothing about the tokens.
    fn find(&self, token: &str) -> Option<&User> {
        let mut found = None;
        for (known, user) in &self.0 {
            if bool::from(known.as_bytes().ct_eq(token.as_bytes())) {
                found = found.or(Some(user));
            }
        }
        found
    }
}

/// One record of CSV: quotes hold commas, two of them are one.
fn fields(record: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = record.trim();
    loop {
        let (field, later) = if let Some(quoted) = rest.trim_start().strip_prefix('"') {
            let mut field = String::new();
            let mut text = quoted;
            let later = loop {
                let (inside, after) = text.split_once('"')?;
                field.push_str(inside);
                match after.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        text = after;
                    }
                    None => break after,
                }
            };
            (field, later)
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (rest[..end].trim().to_owned(), &rest[end..])
        };
        fields.push(field);
        match later.trim_start().strip_prefix(',') {
            Some(later) => rest = later,
            None if later.trim().is_empty() => return Some(fields),
            None => return None,
        }
    }
}

/// Who sent these headers over a connection of this identity; `None` is 401. A token that came as a
/// subprotocol is taken out of the headers.
pub fn authenticate(
    tokens: &Tokens,
    identity: Option<&PeerIdentity>,
    headers: &mut HeaderMap,
) -> Option<User> {
    let bearer = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let value = value.to_str().ok()?.trim();
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        }
        None => subprotocol_token(headers).ok()?,
    };
    match (bearer, identity) {
        (Some(token), _) => tokens.find(&token).cloned(),
        (None, Some(peer)) => Some(User::new(&peer.user, peer.groups.iter().cloned())),
        (None, None) => None,
    }
}

/// A bad token entry is no token at all, but 401 (wire.md 1.1).
struct BadSubprotocol;

fn subprotocol_token(headers: &mut HeaderMap) -> Result<Option<String>, BadSubprotocol> {
    let Some(line) = headers.get(SUBPROTOCOL).and_then(|line| line.to_str().ok()) else {
        return Ok(None);
    };
    let all: Vec<String> = line.split(',').map(|name| name.trim().to_owned()).collect();
    let is_token = |name: &&String| name.starts_with(BEARER_SUBPROTOCOL);
    let tokens: Vec<&String> = all.iter().filter(is_token).collect();
    let encoded = match tokens[..] {
        [] => return Ok(None),
        [entry] => &entry[BEARER_SUBPROTOCOL.len()..],
        _ => return Err(BadSubprotocol),
    };
    let token = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadSubprotocol)?;
    let token = String::from_utf8(token).map_err(|_| BadSubprotocol)?;
    let others: Vec<&str> = all.iter().filter(|name| !is_token(name)).map(String::as_str).collect();
    if others.iter().all(|name| name.is_empty()) {
        return Err(BadSubprotocol);
    }
    let others = HeaderValue::try_from(others.join(",")).map_err(|_| BadSubprotocol)?;
    headers.insert(SUBPROTOCOL, others);
    Ok(Some(token))
}

/// Whom a request wants to act as; `None` without `Impersonate-User`.
#[must_use]
pub fn impersonated(headers: &HeaderMap) -> Option<User> {
    let text = |value: &HeaderValue| value.to_str().ok().map(ToOwned::to_owned);
    let name = headers.get("impersonate-user").and_then(text)?;
    Some(User::new(name, headers.get_all("impersonate-group").iter().filter_map(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::parse("admintoken,admin,1,\"system:masters,x\"\n\nt2,viewer,2\n").unwrap()
    }

    fn ask(lines: &[(&'static str, &str)]) -> (Option<User>, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let user = authenticate(&tokens(), None, &mut headers);
        (user, headers)
    }

    #[test]
    fn token_files() {
        let user = tokens().find("admintoken").cloned().unwrap();
        assert_eq!(user.name, "admin");
        assert_eq!(user.groups, ["system:masters", "x", "system:authenticated"]);
        assert!(tokens().find("").is_none() && tokens().find("admintoke").is_none());
        for bad in ["a,b", ",b,1", "a,b,1,\"x", "a,b,1,\"x\"y"] {
            assert!(Tokens::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bearer_tokens() {
        let name = |lines: &[(&'static str, &str)]| ask(lines).0.map(|user| user.name);
        assert_eq!(name(&[("authorization", "Bearer t2")]).as_deref(), Some("viewer"));
        assert_eq!(name(&[("authorization", "bearer  t2 ")]).as_deref(), Some("viewer"));
        assert_eq!(name(&[("authorization", "Basic t2")]), None);
        assert_eq!(name(&[("authorization", "Bearer t2 x")]), None);
        assert_eq!(name(&[]), None);
    }

    #[test]
    fn a_browsers_token_is_taken_out_of_its_subprotocols() {
        let entry = format!("{BEARER_SUBPROTOCOL}{}", URL_SAFE_NO_PAD.encode("t2"));
        let line = format!("v4.channel.k8s.io, {entry}");
        let (user, headers) = ask(&[("sec-websocket-protocol", &line)]);
        assert_eq!(user.unwrap().name, "viewer");
        assert_eq!(headers[SUBPROTOCOL], "v4.channel.k8s.io");
        for bad in [entry.clone(), format!("{entry},{entry},x"), format!("{entry}=,x")] {
            assert_eq!(ask(&[("sec-websocket-protocol", &bad)]).0, None, "{bad}");
        }
    }
}
