//! Credentials to a user: certificates, and the tokens of kube-apiserver's file.

use std::fs;
use std::future::ready;
use std::path::{Path, PathBuf};

use bowline_io::auth::{Answer, Authenticator, Credentials, User};
use subtle::ConstantTimeEq;
use thiserror::Error;

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
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// A line is not `token,user,uid[,"groups"]`.
    #[error("token file line {line}: {what}")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Tokens {
    /// Reads a file of `token,user,uid,"group1,group2"` lines, as kube-apiserver's.
    ///
    /// # Errors
    /// [`TokensError`] if the file cannot be read, or a line is no such record.
    pub fn read(path: &Path) -> Result<Tokens, TokensError> {
        let text = fs::read_to_string(path)
            .map_err(|error| TokensError::File { path: path.to_owned(), error })?;
        Tokens::parse(&text)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// [`TokensError::Line`] for the first line that is no such record.
    pub fn parse(text: &str) -> Result<Tokens, TokensError> {
        let mut tokens = Tokens::default();
        for (line, record) in (1..).zip(text.lines()) {
            if record.trim().is_empty() {
                continue;
            }
            let fields = fields(record).ok_or(TokensError::Line { line, what: "bad quotes" })?;
            let [token, name, uid, groups @ ..] = &fields[..] else {
                let what = "three columns are needed: token, user name, user uid";
                return Err(TokensError::Line { line, what });
            };
            if token.is_empty() {
                return Err(TokensError::Line { line, what: "the token is empty" });
            }
            let groups = groups.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
            let user = User::new(name, groups.map(ToOwned::to_owned));
            tokens.add(token, User { uid: uid.clone(), ..user });
        }
        Ok(tokens)
    }

    /// Adds a token of `user`.
    pub fn add(&mut self, token: &str, user: User) {
        self.0.push((token.to_owned(), user));
    }

    /// Finds the user of a token, in a time that says nothing about the tokens.
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

/// Reads one record of CSV: quotes hold commas, and two quotes in them are one. `None` for quotes
/// that do not end, or not with their field: lenient readers would take the next lines, and so
/// other users' tokens, into the field.
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

impl Tokens {
    /// Returns the user of these credentials. A certificate counts before a token, as in
    /// kube-apiserver.
    fn user(&self, Credentials { certificate, token }: Credentials<'_>) -> Option<User> {
        match (certificate, token) {
            (Some(peer), _) => Some(User::new(&peer.user, peer.groups.iter().cloned())),
            (None, Some(token)) => self.find(&token.0).cloned(),
            (None, None) => None,
        }
    }
}

impl Authenticator for Tokens {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Answer<'a, Option<User>> {
        Box::pin(ready(Ok(self.user(credentials))))
    }
}

#[cfg(test)]
mod tests {
    use bowline_io::auth::Token;
    use bowline_io::tls::PeerIdentity;

    use super::*;

    fn tokens() -> Tokens {
        Tokens::parse("admintoken,admin,1,\"system:masters,x\"\n\nt2,viewer,2\n").unwrap()
    }

    #[test]
    fn token_files() {
        let user = tokens().find("admintoken").cloned().unwrap();
        assert_eq!((&*user.name, &*user.uid), ("admin", "1"));
        assert_eq!(user.groups, ["system:masters", "x", "system:authenticated"]);
        assert!(tokens().find("").is_none() && tokens().find("admintoke").is_none());
        for bad in ["a,b", ",b,1", "a,b,1,\"x", "a,b,1,\"x\"y"] {
            assert!(Tokens::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_certificate_counts_before_a_token() {
        let peer = PeerIdentity { user: "node".into(), groups: vec!["g".into()] };
        let name = |peer: Option<&PeerIdentity>, token: Option<&str>| {
            let token = token.map(|token| Token(token.to_owned()));
            let credentials = Credentials { certificate: peer, token: token.as_ref() };
            tokens().user(credentials).map(|user| user.name)
        };
        for token in [None, Some("t2"), Some("wrong")] {
            assert_eq!(name(Some(&peer), token).as_deref(), Some("node"));
        }
        assert_eq!(name(None, Some("t2")).as_deref(), Some("viewer"));
        assert_eq!(name(None, Some("wrong")), None);
        assert_eq!(name(None, None), None);
    }
}
