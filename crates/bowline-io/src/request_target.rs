//! Requests with a target longer than the 64 KiB that the HTTP library takes. The query has a whole
//! command line, and Go's servers take 1 MiB.
//!
//! hyper gets such a request with its path alone. The query goes around it: a client's connection
//! puts it into the request line that hyper writes, and a server's takes it out before hyper reads
//! the line.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::{Stream, Upgraded};
use crate::tls::go_errors;

/// The longest target that the HTTP library takes.
const LIBRARY_TARGET_BYTES: usize = u16::MAX as usize - 1;
const VERSION: &[u8] = b" HTTP/1.1\r\n";
/// The size of one read of what the other side sent before it went away.
const PIECE_BYTES: usize = 8 * 1024;

/// A query that goes around the HTTP library.
#[derive(Clone, Debug)]
pub(crate) struct Query(String);

/// Returns the query of a request, however long; empty if it has none.
#[must_use]
pub fn query<B>(request: &Request<B>) -> &str {
    let around = request.extensions().get::<Query>();
    around.map(|query| &*query.0).or_else(|| request.uri().query()).unwrap_or_default()
}

/// A path's parts, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The names between the slashes.
    pub names: Vec<Cow<'a, str>>,
    /// Whether the path ends with a slash.
    pub ends_with_slash: bool,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadPath {
    /// Its decoded bytes are not UTF-8.
    #[error("the path is not UTF-8")]
    NotText,
    /// It has a part that is empty, `.`, `..`, or has an escaped slash. Programs disagree about
    /// such paths, so it could mean one thing to whoever allows it and another to whoever serves
    /// it.
    #[error("the path is not clean")]
    NotClean,
}

/// Splits a path into its decoded parts.
///
/// # Errors
/// [`BadPath`] if a part is not UTF-8 or the path is not clean.
pub fn parts(path: &str) -> Result<Parts<'_>, BadPath> {
    let path = path.strip_prefix('/').ok_or(BadPath::NotClean)?;
    let (path, ends_with_slash) = match path.strip_suffix('/') {
        Some(path) => (path, true),
        None => (path, false),
    };
    let (mut names, has_escapes) = (Vec::new(), path.contains('%'));
    for part in path.split('/') {
        let name = if has_escapes {
            percent_decode_str(part).decode_utf8().map_err(|_| BadPath::NotText)?
        } else {
            Cow::Borrowed(part)
        };
        // The root has one part, and that is empty.
        let is_root = path.is_empty() && !ends_with_slash;
        let is_clean = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
        if !is_clean && !is_root {
            return Err(BadPath::NotClean);
        }
        names.push(name);
    }
    Ok(Parts { names, ends_with_slash })
}

/// Makes a request for `target`, a path and perhaps a query, of any length.
///
/// # Errors
/// [`http::Error`] if one of the parts cannot be in an HTTP request.
pub fn head<B>(method: &str, host: &str, target: &str, body: B) -> Result<Request<B>, http::Error> {
    let (path, around) = match target.split_once('?') {
        Some((path, query)) if target.len() > LIBRARY_TARGET_BYTES => {
            (path, Some(Query(query.to_owned())))
        }
        _ => (target, None),
    };
    let head = Request::builder().method(method).uri(path).header(http::header::HOST, host);
    match around {
        Some(query) => head.extension(query).body(body),
        None => head.body(body),
    }
}

/// A client's connection whose first bytes are not those that the HTTP library writes.
#[derive(Debug)]
pub(crate) struct LongTarget {
    stream: Stream,
    /// How many of the library's first bytes are still to be left out.
    skip: usize,
    /// What is still to be written in their place.
    write_first: Bytes,
}

impl LongTarget {
    /// The connection of a client that will send `request` first.
    pub(crate) fn asking<B>(stream: Stream, request: &Request<B>) -> LongTarget {
        let (mut skip, mut write_first) = (0, Bytes::new());
        if let Some(Query(query)) = request.extensions().get() {
            let (method, path) = (request.method().as_str(), request.uri().path());
            skip = method.len() + 1 + path.len() + VERSION.len();
            let line = [method.as_bytes(), b" ", path.as_bytes(), b"?", query.as_bytes(), VERSION];
            write_first = line.concat().into();
        }
        LongTarget { stream, skip, write_first }
    }

    /// Returns the connection after its 101, with what was read behind that.
    pub(crate) fn into_upgraded(self, read: &[u8]) -> Upgraded {
        Upgraded { stream: self.stream, early: BytesMut::from(read) }
    }
}

/// For a server: returns a request's head without the query, and the query, if its line is too long
/// for the HTTP library.
#[cfg(any(feature = "server", test))]
pub(crate) fn shortened(head: &[u8]) -> Option<(BytesMut, Query)> {
    let line = head.iter().position(|&byte| byte == b'\n')? + 1;
    if line <= LIBRARY_TARGET_BYTES {
        return None;
    }
    let (short, query) = parted(&head[..line])?;
    let mut shortened = BytesMut::from(&*short);
    shortened.extend_from_slice(&head[line..]);
    Some((shortened, Query(query)))
}

/// Parts a request line into itself without the query, and the query. `None` for a line of anything
/// but a method, a path, a query and the version; the HTTP library will refuse it.
#[cfg(any(feature = "server", test))]
fn parted(line: &[u8]) -> Option<(Vec<u8>, String)> {
    let line = str::from_utf8(line.strip_suffix(VERSION)?).ok()?;
    let (method, target) = line.split_once(' ')?;
    let (path, query) = target.split_once('?')?;
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    let fits =
        path.starts_with('/') && path.len() <= LIBRARY_TARGET_BYTES && target.bytes().all(plain);
    fits.then(|| ([method.as_bytes(), b" ", path.as_bytes(), VERSION].concat(), query.to_owned()))
}

impl Query {
    /// Adds the query to the request that it came with.
    #[cfg(any(feature = "server", feature = "pool"))]
    pub(crate) fn put_back<B>(self, request: &mut Request<B>) {
        request.extensions_mut().insert(self);
    }
}

impl AsyncRead for LongTarget {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl LongTarget {
    /// Replaces the error of a failed write by a TLS alert that nobody has read yet, if there is
    /// one: it says why the other side went away.
    fn explained<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = written else { return written };
        let mut piece = [0; PIECE_BYTES];
        // All else that it sent is of no use any more.
        let said = loop {
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.stream).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {}
                Poll::Ready(Err(said)) => break Some(said),
                _ => break None,
            }
        };
        let said = said.filter(|said| go_errors::find_tls(said).is_some());
        Poll::Ready(Err(said.unwrap_or(error)))
    }
}

impl AsyncWrite for LongTarget {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let around = self.get_mut();
        if around.skip > 0 {
            let skipped = around.skip.min(bytes.len());
            around.skip -= skipped;
            return Poll::Ready(Ok(skipped));
        }
        while !around.write_first.is_empty() {
            let written = Pin::new(&mut around.stream).poll_write(cx, &around.write_first);
            let written = ready!(around.explained(cx, written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            around.write_first.advance(written);
        }
        let written = Pin::new(&mut around.stream).poll_write(cx, bytes);
        around.explained(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let around = self.get_mut();
        let flushed = Pin::new(&mut around.stream).poll_flush(cx);
        around.explained(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_parted_where_there_is_no_doubt() {
        let (line, query) = parted(b"GET /a/b?c=d&e=?f HTTP/1.1\r\n").unwrap();
        assert_eq!((&*line, &*query), (&b"GET /a/b HTTP/1.1\r\n"[..], "c=d&e=?f"));
        for doubtful in [
            &b"GET /a?b HTTP/1.0\r\n"[..],
            b"GET /a?b HTTP/1.1\n",
            b"GET /a HTTP/1.1\r\n",
            b"GET  /a?b HTTP/1.1\r\n",
            b"GET /a?b  HTTP/1.1\r\n",
            b"GET /a?b#c HTTP/1.1\r\n",
            b"GET http://host/a?b HTTP/1.1\r\n",
            b"GET /a?b\rX: y HTTP/1.1\r\n",
            b"GET /a?\xc3\xa9 HTTP/1.1\r\n",
            b"GET\r\n",
        ] {
            assert_eq!(parted(doubtful), None, "{}", doubtful.escape_ascii());
        }
    }

    #[test]
    fn only_clean_paths_are_paths() {
        let names = |path| parts(path).map(|parts| parts.names.join("|"));
        assert_eq!(names("/api/v1"), Ok("api|v1".to_owned()));
        assert_eq!(names("/a%20b/%C3%A9"), Ok("a b|\u{e9}".to_owned()));
        assert_eq!(names("/"), Ok(String::new()));
        assert!(parts("/a/").unwrap().ends_with_slash && !parts("/a").unwrap().ends_with_slash);
        for path in [
            "",
            "*",
            "a/b",
            "//",
            "///",
            "//a",
            "/a//b",
            "/a//",
            "/./a",
            "/a/../b",
            "/..",
            "/a/.",
            "/%2e/a",
            "/a/%2E%2e/b",
            "/a%2fb",
            "/a/.%2e",
            "/a/%2f",
        ] {
            assert_eq!(names(path), Err(BadPath::NotClean), "{path}");
        }
        assert_eq!(names("/a/%ff"), Err(BadPath::NotText));
    }

    #[test]
    fn only_a_long_query_goes_around() {
        let query_of = |target: &str| {
            let head = head("GET", "host", target, ()).unwrap();
            (head.uri().query().is_some(), query(&head).len())
        };
        assert_eq!(query_of("/a?b=c"), (true, 3));
        assert_eq!(query_of("/a"), (false, 0));
        let long = format!("/a?{}", "b".repeat(100_000));
        assert_eq!(query_of(&long), (false, 100_000));
        assert!(head("GET", "host", &"/a".repeat(50_000), ()).is_err());
    }
}
