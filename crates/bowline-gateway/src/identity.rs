//! The headers that say who asks, and as whom, to one value. They are read only here, once, and
//! taken out of the request: nothing behind this sees them, and none of them reaches a node.
//!
//! A header that cannot be read is refused, and never counts as absent: whoever gives up rights by
//! a header must not keep them because of a typo.

use std::collections::BTreeMap;

use bowline_io::auth::Token;
use bowline_io::auth::headers::{HeaderError, single, take_token, text};
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use thiserror::Error;

use crate::impersonation::Impersonation;

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
    pub token: Result<Option<Token>, HeaderError>,
    /// The user as whom to act, if one is asked for.
    pub impersonation: Result<Option<Impersonation>, IdentityError>,
}

/// Why a header of identity is refused. The texts have no value of a header in them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// A header cannot be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The value is empty.
    #[error("header {0} is empty")]
    Empty(String),
    /// It begins as a header of impersonation, and is none.
    #[error("header {0} is not known")]
    Unknown(String),
    /// Details of a user, without the user; in the API server's words.
    #[error("requested {0} without impersonating a user name")]
    Details(Impersonation),
}

/// Reads the headers of identity, and takes them out of `headers`.
pub fn take(headers: &mut HeaderMap) -> Claims {
    let token = take_token(headers);
    let claims = Claims { token, impersonation: impersonation(headers) };
    let is_ours = |name: &HeaderName| {
        [IMPERSONATE, REMOTE].iter().any(|ours| name.as_str().starts_with(ours))
    };
    let ours: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    claims
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
        bytes.map_err(|_| HeaderError::NotText(name.to_owned()))?.into_owned()
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    type Line<'a> = (&'a str, &'a [u8]);

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
