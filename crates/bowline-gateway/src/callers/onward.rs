//! A caller to the headers by which an API server knows who it is.
//!
//! A token goes on as it is, over a connection that has no identity of its own. A user whom this
//! gateway vouches for goes on over a connection with the gateway's own credentials, as a front
//! proxy names its users or by impersonation. The two are never mixed: an API server would believe
//! the connection before the token.

use std::fmt::Write as _;

use bowline_io::auth::{AUTHENTICATED, Token, User};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::utf8_percent_encode;

use crate::impersonation::Impersonation;
use crate::names::UNESCAPED;
use crate::status::Refusal;

/// The key of extra in which a cluster's audit finds who acts as the user.
const ORIGINAL_USER: &str = "bowline/original-user";

/// How a caller goes on to an API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Onward {
    /// The headers that say who it is, to be added to the request. They are secrets.
    pub headers: HeaderMap,
    /// Whether the connection is to have the gateway's own credentials, which vouch for what the
    /// headers say; else it has none.
    pub own_identity: bool,
}

/// How a user whom this gateway has authenticated goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vouching {
    /// Not at all: 401.
    Nobody,
    /// As the user of a front proxy, whose certificate the API server believes.
    RequestHeader,
    /// By impersonation, for which the gateway's own user needs the right.
    Impersonate,
}

/// Makes a caller with a token go on with it, and with what it wants to be.
///
/// # Errors
/// 400 if a value cannot be in a header.
pub fn by_token(token: &Token, wanted: Option<&Impersonation>) -> Result<Onward, Refusal> {
    let mut headers = HeaderMap::new();
    add(&mut headers, header::AUTHORIZATION, &format!("Bearer {}", token.0))?;
    if let Some(Impersonation { name, uid, groups, extra }) = wanted {
        impersonate(&mut headers, name, uid, groups.iter())?;
        for (key, values) in extra {
            add_extra(&mut headers, "impersonate-extra-", key, values)?;
        }
    }
    Ok(Onward { headers, own_identity: false })
}

/// Makes a user go on for whom the gateway vouches. `by` is who acts as that user, if that is
/// another one.
///
/// # Errors
/// 401 if nobody is vouched for, 400 if a value cannot be in a header.
pub fn vouched(how: Vouching, user: &User, by: Option<&str>) -> Result<Onward, Refusal> {
    if user.name.is_empty() {
        return Err(Refusal::unauthorized("a certificate without a name"));
    }
    let mut headers = HeaderMap::new();
    let mut extra = user.extra.clone();
    if let Some(by) = by {
        extra.insert(ORIGINAL_USER.to_owned(), vec![by.to_owned()]);
    }
    let prefix = match how {
        Vouching::Nobody => {
            let cause = "a certificate, which does not go on to the API server";
            return Err(Refusal::unauthorized(cause));
        }
        Vouching::RequestHeader => {
            add(&mut headers, HeaderName::from_static("x-remote-user"), &user.name)?;
            if !user.uid.is_empty() {
                add(&mut headers, HeaderName::from_static("x-remote-uid"), &user.uid)?;
            }
            for group in &user.groups {
                add(&mut headers, HeaderName::from_static("x-remote-group"), group)?;
            }
            "x-remote-extra-"
        }
        Vouching::Impersonate => {
            // An API server answers 401 to an empty group, and adds the one of all authenticated
            // users only where no group is named.
            let groups = user.groups.iter().filter(|group| !group.is_empty());
            impersonate(&mut headers, &user.name, &user.uid, groups)?;
            if user.groups.is_empty() {
                let authenticated = HeaderValue::from_static(AUTHENTICATED);
                headers.append(HeaderName::from_static("impersonate-group"), authenticated);
            }
            "impersonate-extra-"
        }
    };
    for (key, values) in &extra {
        add_extra(&mut headers, prefix, key, values)?;
    }
    Ok(Onward { headers, own_identity: true })
}

fn impersonate<'a>(
    headers: &mut HeaderMap,
    name: &str,
    uid: &str,
    groups: impl Iterator<Item = &'a String>,
) -> Result<(), Refusal> {
    add(headers, HeaderName::from_static("impersonate-user"), name)?;
    if !uid.is_empty() {
        add(headers, HeaderName::from_static("impersonate-uid"), uid)?;
    }
    for group in groups {
        add(headers, HeaderName::from_static("impersonate-group"), group)?;
    }
    Ok(())
}

fn add_extra(
    headers: &mut HeaderMap,
    prefix: &str,
    key: &str,
    values: &[String],
) -> Result<(), Refusal> {
    let mut name = prefix.to_owned();
    // Header names have no case: an upper-case letter survives only if it is escaped.
    for letter in key.chars() {
        match letter {
            'A'..='Z' => {
                let _ = write!(name, "%{:02X}", u32::from(letter));
            }
            letter => name.extend(utf8_percent_encode(letter.encode_utf8(&mut [0; 4]), UNESCAPED)),
        }
    }
    let unreadable = |_| Refusal::bad_request("a key of extra cannot be sent in a header");
    let name = HeaderName::try_from(name).map_err(unreadable)?;
    values.iter().try_for_each(|value| add(headers, name.clone(), value))
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Refusal> {
    let bad = || Refusal::bad_request(format!("{name} has a value that no header can have"));
    // White space at either end is no part of a header's value: whoever reads it finds another
    // name, which may be somebody's.
    if value.starts_with([' ', '\t']) || value.ends_with([' ', '\t']) {
        return Err(bad());
    }
    let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?;
    value.set_sensitive(true);
    headers.append(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(onward: &Onward) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        let mut lines: Vec<String> = onward.headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn jane() -> User {
        let mut user = User::new("jürgen", ["dev".to_owned(), String::new()]);
        user.uid = "7".into();
        user.extra.insert("acme.io/Scopes".into(), vec!["a".into(), "b".into()]);
        user
    }

    #[test]
    fn a_token_goes_on_with_what_it_wants_to_be_and_without_our_identity() {
        let wanted = Impersonation {
            name: "joe".into(),
            uid: "1".into(),
            groups: vec!["g".into(), String::new()],
            extra: jane().extra,
        };
        let onward = by_token(&Token("T".into()), Some(&wanted)).unwrap();
        assert!(!onward.own_identity);
        assert_eq!(
            lines(&onward),
            [
                "authorization: Bearer T",
                "impersonate-extra-acme.io%2f%53copes: a",
                "impersonate-extra-acme.io%2f%53copes: b",
                "impersonate-group: ",
                "impersonate-group: g",
                "impersonate-uid: 1",
                "impersonate-user: joe",
            ]
        );
        assert!(onward.headers.values().all(HeaderValue::is_sensitive));
    }

    #[test]
    fn whom_the_gateway_vouches_for_goes_on_by_its_own_identity() {
        let onward = vouched(Vouching::RequestHeader, &jane(), None).unwrap();
        assert!(onward.own_identity);
        assert_eq!(
            lines(&onward),
            [
                "x-remote-extra-acme.io%2f%53copes: a",
                "x-remote-extra-acme.io%2f%53copes: b",
                "x-remote-group: ",
                "x-remote-group: dev",
                "x-remote-group: system:authenticated",
                "x-remote-uid: 7",
                "x-remote-user: jürgen",
            ]
        );
        let onward = vouched(Vouching::Impersonate, &jane(), Some("root")).unwrap();
        assert_eq!(
            lines(&onward),
            [
                "impersonate-extra-acme.io%2f%53copes: a",
                "impersonate-extra-acme.io%2f%53copes: b",
                "impersonate-extra-bowline%2foriginal-user: root",
                "impersonate-group: dev",
                "impersonate-group: system:authenticated",
                "impersonate-uid: 7",
                "impersonate-user: jürgen",
            ]
        );
        assert_eq!(vouched(Vouching::Nobody, &jane(), None).unwrap_err().code, 401);
    }

    #[test]
    fn a_value_that_would_be_read_as_another_one_is_refused() {
        for how in [Vouching::RequestHeader, Vouching::Impersonate] {
            for name in ["a\r\nx-remote-user: b", "admin ", " admin", "\tadmin", " "] {
                let user = User { name: name.into(), ..User::default() };
                assert_eq!(vouched(how, &user, None).unwrap_err().code, 400, "{name:?}");
            }
            let user = User::new("joe", ["system:masters ".to_owned()]);
            assert_eq!(vouched(how, &user, None).unwrap_err().code, 400);
            assert_eq!(vouched(how, &User::default(), None).unwrap_err().code, 401);
        }
        assert_eq!(by_token(&Token("a\nb".into()), None).unwrap_err().code, 400);
    }
}
