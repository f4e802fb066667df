//! The headers that say who asks, and as whom, to one value. They are read only here, once, and
//! taken out of the request: nothing behind this sees them, and none of them reaches a node.
//!
//! A header that cannot be read is refused, and never counts as absent: whoever gives up rights by
//! a header must not keep them because of a typo.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_io::auth::Token;
use bowline_proto::negotiate::{self, Lines};
use bowline_proto::session::protocol::Carrier;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::percent_decode_str;
use thiserror::Error;

use crate::impersonation::Impersonation;

const SUBPROTOCOL: HeaderName = header::SEC_WEBSOCKET_PROTOCOL;
/// A browser cannot set `Authorization`; it sends its token as a subprotocol
/// (docs/protocols/endpoints.md, 1.1).
const BEARER_SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

const IMPERSONATE: &str = "impersonate-";
const IMPERSONATE_USER: &str = "impersonate-user";
const IMPERSONATE_UID: &str = "impersonate-uid";
const IMPERSONATE_GROUP: &str = "impersonate-group";
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";
/// The prefix of headers in which a proxy names its users. No proxy is believed here.
const REMOTE: &str = "x-remote-";

/// What a request says of its sender.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    /// The token, if there is one.
    pub token: Result<Option<Token>, IdentityError>,
    /// The user as whom to act, if one is asked for.
    pub impersonation: Result<Option<Impersonation>, IdentityError>,
}

/// Why a header of identity is refused. The texts have no value of a header in them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// A header that may be there once is there twice.
    #[error("header {0} is given more than once")]
    Repeated(String),
    /// The value is no text.
    #[error("header {0} is not UTF-8")]
    NotText(String),
    /// The value is empty.
    #[error("header {0} is empty")]
    Empty(String),
    /// It begins as a header of impersonation, and is none.
    #[error("header {0} is not known")]
    Unknown(String),
    /// It holds something that is no token.
    #[error("header {0} holds a token that is none")]
    Token(String),
    /// Details of a user, without the user; in the API server's words.
    #[error("requested {0} without impersonating a user name")]
    Details(Impersonation),
}

/// Reads the headers of identity, and takes them out of `headers`.
pub fn take(headers: &mut HeaderMap) -> Claims {
    let claims = Claims { token: token(headers), impersonation: impersonation(headers) };
    let is_ours = |name: &HeaderName| {
        let name = name.as_str();
        name == header::AUTHORIZATION || name.starts_with(IMPERSONATE) || name.starts_with(REMOTE)
    };
    let ours: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    claims
}

/// Reads the token of `Authorization`, or else of a WebSocket's subprotocols.
fn token(headers: &mut HeaderMap) -> Result<Option<Token>, IdentityError> {
    let websocket = {
        let lines = bowline_io::http::lines(headers);
        negotiate::requested_carrier(Lines(&lines)) == Some(Carrier::WebSocket)
    };
    // Taken out in any case: it is a secret, even where the other token counts.
    let from_subprotocol = subprotocol_token(headers);
    let from_subprotocol = if websocket { from_subprotocol? } else { None };
    Ok(bearer_token(headers)?.or(from_subprotocol))
}

/// Reads the token of `Authorization`; `None` for other schemes and for an empty value, as in
/// kube-apiserver.
fn bearer_token(headers: &HeaderMap) -> Result<Option<Token>, IdentityError> {
    let Some(value) = single(headers, header::AUTHORIZATION.as_str())? else { return Ok(None) };
    let Some((scheme, token)) = value.trim().split_once(' ') else { return Ok(None) };
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Ok(None);
    }
    if token.contains(|letter: char| letter.is_whitespace()) {
        return Err(IdentityError::Token(header::AUTHORIZATION.to_string()));
    }
    Ok(Some(Token(token.to_owned())))
}

/// Takes the token out of the subprotocols of all lines. More than one are an error.
fn subprotocol_token(headers: &mut HeaderMap) -> Result<Option<Token>, IdentityError> {
    let lines: Result<Vec<&str>, _> =
        headers.get_all(SUBPROTOCOL).iter().map(HeaderValue::to_str).collect();
    let Ok(lines) = lines else {
        headers.remove(SUBPROTOCOL);
        return Err(IdentityError::NotText(SUBPROTOCOL.to_string()));
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
    let bad = || IdentityError::Token(SUBPROTOCOL.to_string());
    // One line for all, as kube-apiserver: of several the first one counts.
    let rest = HeaderValue::try_from(others.join(",")).map_err(|_| bad());
    headers.remove(SUBPROTOCOL);
    // A browser has to be given another one, to choose.
    if others.iter().all(String::is_empty) {
        return Err(bad());
    }
    headers.insert(SUBPROTOCOL, rest?);
    let [token] = &tokens[..] else { return Err(IdentityError::Repeated(SUBPROTOCOL.to_string())) };
    let token = URL_SAFE_NO_PAD.decode(&token[BEARER_SUBPROTOCOL.len()..]).map_err(|_| bad())?;
    let token = String::from_utf8(token).map_err(|_| bad())?;
    if token.is_empty() { Err(bad()) } else { Ok(Some(Token(token))) }
}

fn impersonation(headers: &HeaderMap) -> Result<Option<Impersonation>, IdentityError> {
    let mut wanted = Impersonation::default();
    let (mut name, mut any) = (None, false);
    for key in headers.keys().map(HeaderName::as_str).filter(|key| key.starts_with(IMPERSONATE)) {
        any = true;
        match key {
            IMPERSONATE_USER => name = Some(single_non_empty(headers, key)?),
            IMPERSONATE_UID => wanted.uid = single_non_empty(headers, key)?,
            IMPERSONATE_GROUP => {
                for value in headers.get_all(key) {
                    wanted.groups.push(text(key, value)?.to_owned());
                }
            }
            _ => extra(headers, key, &mut wanted.extra)?,
        }
    }
    match name {
        Some(name) => Ok(Some(Impersonation { name, ..wanted })),
        None if any => Err(IdentityError::Details(wanted)),
        None => Ok(None),
    }
}

/// Reads a header of extra: what is behind the prefix in its name is a key, escaped as in a path.
fn extra(
    headers: &HeaderMap,
    name: &str,
    extra: &mut BTreeMap<String, Vec<String>>,
) -> Result<(), IdentityError> {
    let key = name.strip_prefix(IMPERSONATE_EXTRA);
    let key = key.ok_or_else(|| IdentityError::Unknown(name.to_owned()))?;
    let unescaped = if is_escaped_well(key) {
        let bytes = percent_decode_str(key).decode_utf8();
        bytes.map_err(|_| IdentityError::NotText(name.to_owned()))?.into_owned()
    } else {
        // As in kube-apiserver, a stray `%` stands for itself.
        key.to_owned()
    };
    let values = extra.entry(unescaped).or_default();
    for value in headers.get_all(name) {
        values.push(text(name, value)?.to_owned());
    }
    Ok(())
}

fn is_escaped_well(key: &str) -> bool {
    key.split('%')
        .skip(1)
        .all(|part| part.len() >= 2 && part.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()))
}

fn single_non_empty(headers: &HeaderMap, name: &str) -> Result<String, IdentityError> {
    let said = single(headers, name)?.filter(|value| !value.is_empty());
    said.map(ToOwned::to_owned).ok_or_else(|| IdentityError::Empty(name.to_owned()))
}

/// Returns the value of a header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, IdentityError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => text(name, value).map(Some),
        _ => Err(IdentityError::Repeated(name.to_owned())),
    }
}

fn text<'a>(name: &str, value: &'a HeaderValue) -> Result<&'a str, IdentityError> {
    str::from_utf8(value.as_bytes()).map_err(|_| IdentityError::NotText(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line<'a> = (&'a str, &'a [u8]);

    const WEBSOCKET: [Line<'_>; 2] = [("upgrade", b"websocket"), ("connection", b"Upgrade")];

    fn headers(lines: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn read(lines: &[(&str, &[u8])]) -> (Claims, HeaderMap) {
        let mut headers = headers(lines);
        (take(&mut headers), headers)
    }

    fn bearer(lines: &[(&str, &[u8])]) -> Result<Option<String>, IdentityError> {
        read(lines).0.token.map(|token| token.map(|token| token.0))
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
        assert_eq!(of("Bearer t2 x"), Err(IdentityError::Token("authorization".into())));
        let latin: &[u8] = b"Bearer \xfc";
        let not_text = Err(IdentityError::NotText("authorization".into()));
        assert_eq!(bearer(&[("authorization", latin)]), not_text);
        let twice: [(&str, &[u8]); 2] =
            [("authorization", b"Bearer a"), ("authorization", b"Bearer a")];
        assert_eq!(bearer(&twice), Err(IdentityError::Repeated("authorization".into())));
    }

    #[test]
    fn a_browsers_token_is_one_of_its_subprotocols() {
        let of = |line: &str| {
            let lines = [&WEBSOCKET[..], &[("sec-websocket-protocol", line.as_bytes())]].concat();
            let (claims, headers) = read(&lines);
            let rest = headers.get(SUBPROTOCOL).map(|line| line.to_str().unwrap().to_owned());
            (claims.token.map(|token| token.map(|token| token.0)), rest)
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
                let (claims, headers) = read(&[upgrade, &lines[..]].concat());
                assert_eq!(headers.get_all(SUBPROTOCOL).iter().count(), 1, "{lines:?}");
                assert_eq!(headers[SUBPROTOCOL], rest);
                assert!(!format!("{headers:?}{claims:?}").contains(BEARER_SUBPROTOCOL));
                let authorized = lines[0].0 == "authorization";
                if authorized || !upgrade.is_empty() {
                    let found = claims.token.unwrap_or_default().map(|token| token.0);
                    assert_eq!(found.as_deref(), token, "{lines:?}");
                } else {
                    assert_eq!(claims.token, Ok(None), "no WebSocket, no subprotocol");
                }
            }
        }
        let latin = [&WEBSOCKET[..], &[("sec-websocket-protocol", b"x,\xfc"), line("x")]].concat();
        let (claims, headers) = read(&latin);
        assert!(claims.token.is_err() && !headers.contains_key(SUBPROTOCOL));
    }

    #[test]
    fn nothing_of_identity_is_left_behind() {
        let (_, left) = read(&[
            ("authorization", b"Bearer a"),
            ("authorization", b"\xff"),
            ("impersonate-user", b"\xff"),
            ("impersonate-group", b"g"),
            ("impersonate-uid", b"1"),
            ("impersonate-extra-scopes", b"s"),
            ("impersonate-nonsense", b"s"),
            ("x-remote-user", b"root"),
            ("x-remote-group", b"system:masters"),
            ("x-remote-uid", b"0"),
            ("x-remote-extra-a", b"0"),
            ("x-forwarded-for", b"::1"),
        ]);
        assert_eq!(left.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-forwarded-for"]);
    }

    #[test]
    fn who_is_wanted_is_read_to_the_last_byte() {
        let (claims, _) = read(&[
            ("impersonate-user", "jürgen".as_bytes()),
            ("impersonate-group", "größe".as_bytes()),
            ("impersonate-group", b""),
            ("impersonate-uid", b"7"),
            ("impersonate-extra-acme.example%2fscopes", b"a"),
            ("Impersonate-Extra-Acme.example%2FScopes", b"b"),
            ("impersonate-extra-a%zz", b"c"),
        ]);
        let wanted = claims.impersonation.unwrap().unwrap();
        assert_eq!((&*wanted.name, &*wanted.uid), ("jürgen", "7"));
        assert_eq!(wanted.groups, ["größe", ""]);
        let extra: Vec<_> = wanted.extra.into_iter().collect();
        let (scopes, stray) = ("acme.example/scopes".to_owned(), "a%zz".to_owned());
        assert_eq!(extra, [(stray, vec!["c".into()]), (scopes, vec!["a".into(), "b".into()])]);
        assert_eq!(read(&[("host", b"x")]).0.impersonation, Ok(None));
    }

    #[test]
    fn who_cannot_be_read_is_not_absent() {
        let user: (&str, &[u8]) = ("impersonate-user", b"u");
        let cases: [(&[Line<'_>], &str); 9] = [
            (&[("impersonate-user", b"j\xfcrgen")], "header impersonate-user is not UTF-8"),
            (&[("impersonate-user", b"")], "header impersonate-user is empty"),
            (&[user, user], "header impersonate-user is given more than once"),
            (&[user, ("impersonate-uid", b"")], "header impersonate-uid is empty"),
            (
                &[user, ("impersonate-uid", b"1"), ("impersonate-uid", b"2")],
                "header impersonate-uid is given more than once",
            ),
            (&[user, ("impersonate-group", b"\xe9")], "header impersonate-group is not UTF-8"),
            (&[user, ("impersonate-extra-a", b"\xe9")], "header impersonate-extra-a is not UTF-8"),
            (&[user, ("impersonate-extra-%e9", b"a")], "header impersonate-extra-%e9 is not UTF-8"),
            (&[user, ("impersonate-groups", b"g")], "header impersonate-groups is not known"),
        ];
        for (lines, expected) in cases {
            assert_eq!(read(lines).0.impersonation.unwrap_err().to_string(), expected);
        }
        let empty = concat!(
            r#"requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string(nil), "#,
            r#"Extra:map[string][]string{"a":[]string{"b"}}} without impersonating a user name"#
        );
        assert_eq!(
            read(&[("impersonate-extra-a", b"b")]).0.impersonation.unwrap_err().to_string(),
            empty
        );
    }
}
