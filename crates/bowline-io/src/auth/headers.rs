//! The headers that say who asks, to a token. They are read here, and taken out of the request:
//! nothing behind this sees a token, and none travels on.
//!
//! A header that cannot be read is refused, and never counts as absent.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_proto::negotiate::{self, Lines};
use bowline_proto::session::protocol::Carrier;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use thiserror::Error;

use super::Token;

const SUBPROTOCOL: HeaderName = header::SEC_WEBSOCKET_PROTOCOL;
/// A browser cannot set `Authorization`; it sends its token as a subprotocol
/// (docs/protocols/endpoints.md, 1.1).
const BEARER_SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Why a header is refused. The texts have no value of a header in them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// A header that may be there once is there twice.
    #[error("header {0} is given more than once")]
    Repeated(String),
    /// The value is no text.
    #[error("header {0} is not UTF-8")]
    NotText(String),
    /// It holds something that is no token.
    #[error("header {0} holds a token that is none")]
    Token(String),
}

/// Takes the token out of `Authorization`, or else out of a WebSocket's subprotocols.
///
/// # Errors
/// [`HeaderError`] if one of the two cannot be read. No token is left in the headers in any case.
pub fn take_token(headers: &mut HeaderMap) -> Result<Option<Token>, HeaderError> {
    let websocket = headers.contains_key(SUBPROTOCOL) && {
        let lines = crate::http::lines(headers);
        negotiate::requested_carrier(Lines(&lines)) == Some(Carrier::WebSocket)
    };
    // Taken out in any case: it is a secret, even where the other token counts.
    let from_subprotocol = subprotocol_token(headers);
    let from_subprotocol = if websocket { from_subprotocol } else { Ok(None) };
    let from_authorization = bearer_token(headers);
    headers.remove(header::AUTHORIZATION);
    Ok(from_authorization?.or(from_subprotocol?))
}

/// Reads the token of `Authorization`; `None` for other schemes and for an empty value, as in
/// kube-apiserver.
fn bearer_token(headers: &HeaderMap) -> Result<Option<Token>, HeaderError> {
    let Some(value) = single(headers, header::AUTHORIZATION.as_str())? else { return Ok(None) };
    let Some((scheme, token)) = value.trim().split_once(' ') else { return Ok(None) };
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Ok(None);
    }
    if token.contains(|letter: char| letter.is_whitespace()) {
        return Err(HeaderError::Token(header::AUTHORIZATION.to_string()));
    }
    Ok(Some(Token(token.to_owned())))
}

/// Takes the token out of the subprotocols of all lines. More than one are an error.
fn subprotocol_token(headers: &mut HeaderMap) -> Result<Option<Token>, HeaderError> {
    let lines: Result<Vec<&str>, _> =
        headers.get_all(SUBPROTOCOL).iter().map(HeaderValue::to_str).collect();
    let Ok(lines) = lines else {
        headers.remove(SUBPROTOCOL);
        return Err(HeaderError::NotText(SUBPROTOCOL.to_string()));
    };
    let names = lines.iter().flat_map(|line| line.split(',')).map(|name| name.trim().to_owned());
    let is_token = |name: &String| {
        let start = name.get(..BEARER_SUBPROTOCOL.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(BEARER_SUBPROTOCOL))
    };
    let (tokens, others): (Vec<String>, Vec<String>) = names.partition(is_token);
    if tokens.is_empty() {
        return Ok(None);
    }
    let bad = || HeaderError::Token(SUBPROTOCOL.to_string());
    // One line for all, as kube-apiserver: of several the first one counts.
    let rest = HeaderValue::try_from(others.join(",")).map_err(|_| bad());
    headers.remove(SUBPROTOCOL);
    // A browser has to be given another one, to choose.
    if others.iter().all(String::is_empty) {
        return Err(bad());
    }
    headers.insert(SUBPROTOCOL, rest?);
    let [token] = &tokens[..] else { return Err(HeaderError::Repeated(SUBPROTOCOL.to_string())) };
    let token = URL_SAFE_NO_PAD.decode(&token[BEARER_SUBPROTOCOL.len()..]).map_err(|_| bad())?;
    let token = String::from_utf8(token).map_err(|_| bad())?;
    if token.is_empty() { Err(bad()) } else { Ok(Some(Token(token))) }
}

/// Returns the value of a header that may be there once.
///
/// # Errors
/// [`HeaderError`] if it is there twice, or is no text.
pub fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, HeaderError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => text(name, value).map(Some),
        _ => Err(HeaderError::Repeated(name.to_owned())),
    }
}

/// Returns a header's value as text.
///
/// # Errors
/// [`HeaderError::NotText`] if it is none.
pub fn text<'a>(name: &str, value: &'a HeaderValue) -> Result<&'a str, HeaderError> {
    str::from_utf8(value.as_bytes()).map_err(|_| HeaderError::NotText(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line<'a> = (&'a str, &'a [u8]);

    const WEBSOCKET: [Line<'_>; 2] = [("upgrade", b"websocket"), ("connection", b"Upgrade")];

    type Taken = Result<Option<Token>, HeaderError>;

    fn read(lines: &[Line<'_>]) -> (Taken, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        (take_token(&mut headers), headers)
    }

    fn bearer(lines: &[(&str, &[u8])]) -> Result<Option<String>, HeaderError> {
        read(lines).0.map(|token| token.map(|token| token.0))
    }

    fn entry(token: &str) -> String {
        format!("{BEARER_SUBPROTOCOL}{}", URL_SAFE_NO_PAD.encode(token))
    }

    #[test]
    fn bearer_tokens() {
        let of = |value: &str| bearer(&[("authorization", value.as_bytes())]);
        for value in ["Bearer t2", "bearer  t2 ", "BEARER t2"] {
            assert_eq!(of(value), Ok(Some("t2".into())), "{value}");
        }
        for value in ["Basic t2", "", "Bearer", "Bearer ", "t2"] {
            assert_eq!(of(value), Ok(None), "{value}");
        }
        assert_eq!(of("Bearer t2 x"), Err(HeaderError::Token("authorization".into())));
        let latin: &[u8] = b"Bearer \xfc";
        let not_text = Err(HeaderError::NotText("authorization".into()));
        assert_eq!(bearer(&[("authorization", latin)]), not_text);
        let twice: [(&str, &[u8]); 2] =
            [("authorization", b"Bearer a"), ("authorization", b"Bearer a")];
        assert_eq!(bearer(&twice), Err(HeaderError::Repeated("authorization".into())));
    }

    #[test]
    fn a_browsers_token_is_one_of_its_subprotocols() {
        let of = |line: &str| {
            let lines = [&WEBSOCKET[..], &[("sec-websocket-protocol", line.as_bytes())]].concat();
            let (taken, headers) = read(&lines);
            let rest = headers.get(SUBPROTOCOL).map(|line| line.to_str().unwrap().to_owned());
            (taken.map(|token| token.map(|token| token.0)), rest)
        };
        let line = format!("v4.channel.k8s.io, {}", entry("t2"));
        assert_eq!(of(&line), (Ok(Some("t2".into())), Some("v4.channel.k8s.io".into())));
        let one = entry("t2");
        for bad in [
            one.clone(),
            format!("{one},{one},x"),
            format!("{one}=,x"),
            format!("{}!,x", one.to_uppercase()),
            format!("{BEARER_SUBPROTOCOL},x"),
            format!("{BEARER_SUBPROTOCOL}_w,x"),
        ] {
            let (token, rest) = of(&bad);
            assert!(token.is_err(), "{bad}");
            assert!(rest.is_none_or(|rest| rest == "x"), "{bad}");
        }
    }

    #[test]
    fn no_token_stays_in_a_request_whoever_counts() {
        let (one, other) = (entry("t1"), entry("t2"));
        let line = |text: &'static str| ("sec-websocket-protocol", text.as_bytes());
        let cases: [(Vec<Line<'_>>, &str, Option<&str>); 4] = [
            // Beside `Authorization`, which counts.
            (
                vec![
                    ("authorization", b"Bearer a"),
                    ("sec-websocket-protocol", one.as_bytes()),
                    line("x"),
                ],
                "x",
                Some("a"),
            ),
            // On a line that nobody chooses from.
            (vec![line("x"), ("sec-websocket-protocol", one.as_bytes())], "x", Some("t1")),
            (
                vec![line("x,y"), ("sec-websocket-protocol", one.as_bytes()), line("z")],
                "x,y,z",
                Some("t1"),
            ),
            // Two are none.
            (
                vec![
                    ("sec-websocket-protocol", one.as_bytes()),
                    line("x"),
                    ("sec-websocket-protocol", other.as_bytes()),
                ],
                "x",
                None,
            ),
        ];
        for (lines, rest, token) in cases {
            for upgrade in [&WEBSOCKET[..], &[]] {
                let (taken, headers) = read(&[upgrade, &lines[..]].concat());
                assert_eq!(headers.get_all(SUBPROTOCOL).iter().count(), 1, "{lines:?}");
                assert_eq!(headers[SUBPROTOCOL], rest);
                assert!(!format!("{headers:?}{taken:?}").contains(BEARER_SUBPROTOCOL));
                let authorized = lines[0].0 == "authorization";
                if authorized || !upgrade.is_empty() {
                    let found = taken.unwrap_or_default().map(|token| token.0);
                    assert_eq!(found.as_deref(), token, "{lines:?}");
                } else {
                    assert_eq!(taken, Ok(None), "no WebSocket, no subprotocol");
                }
            }
        }
        let latin = [&WEBSOCKET[..], &[("sec-websocket-protocol", b"x,\xfc"), line("x")]].concat();
        let (taken, headers) = read(&latin);
        assert!(taken.is_err() && !headers.contains_key(SUBPROTOCOL));
    }
}
