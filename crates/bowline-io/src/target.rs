//! Requests whose target is longer than the HTTP library takes: 64 KiB, while command lines travel
//! in it and Go's servers take 1 MiB.
//! Above: `http`, `serve`. Below: `stream`.
//!
//! hyper sees such a request with its path alone. The query goes around it: a client puts it into
//! the request line as the line passes, a server takes it out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::stream::{Stream, Upgraded};
use crate::tls_words;

/// The longest target that the HTTP library takes.
const SHORT: usize = u16::MAX as usize - 1;
const VERSION: &[u8] = b" HTTP/1.1\r\n";
/// Of one read. A usual head fits.
const PIECE: usize = 8 * 1024;

/// A query that went around the HTTP library.
#[derive(Clone, Debug)]
pub(crate) struct Query(String);

/// The query of a request, of whatever length; empty if it has none.
#[must_use]
pub fn query<B>(request: &Request<B>) -> &str {
    let around = request.extensions().get::<Query>();
    around.map(|query| &*query.0).or_else(|| request.uri().query()).unwrap_or_default()
}

/// The head of a request for `target`: a path and perhaps a query.
///
/// # Errors
/// [`http::Error`] if HTTP cannot carry one of them.
pub fn head<B>(method: &str, host: &str, target: &str, body: B) -> Result<Request<B>, http::Error> {
    let (path, around) = match target.split_once('?') {
        Some((path, query)) if target.len() > SHORT => (path, Some(Query(query.to_owned()))),
        _ => (target, None),
    };
    let head = Request::builder().method(method).uri(path).header(http::header::HOST, host);
    match around {
        Some(query) => head.extension(query).body(body),
        None => head.body(body),
    }
}

/// A connection that differs at its beginning from what the HTTP library sees of it.
#[derive(Debug)]
pub(crate) struct Around {
    stream: Stream,
    /// What it reads first.
    read_first: BytesMut,
    /// How much of what it writes first is left out,
    skip: usize,
    /// and what is written instead.
    write_first: Bytes,
}

impl Around {
    /// For a client that will send `request` first.
    pub(crate) fn asking<B>(stream: Stream, request: &Request<B>) -> Around {
        let (mut skip, mut write_first) = (0, Bytes::new());
        if let Some(Query(query)) = request.extensions().get() {
            let (method, path) = (request.method().as_str(), request.uri().path());
            skip = method.len() + 1 + path.len() + VERSION.len();
            let line = [method.as_bytes(), b" ", path.as_bytes(), b"?", query.as_bytes(), VERSION];
            write_first = line.concat().into();
        }
        Around { stream, read_first: BytesMut::new(), skip, write_first }
    }

    /// The connection, and what was read of it and is nobody's yet.
    pub(crate) fn into_upgraded(self, read: &[u8]) -> Upgraded {
        let mut early = BytesMut::from(read);
        early.extend_from_slice(&self.read_first);
        Upgraded { stream: self.stream, early }
    }
}

/// How a connection begins, for a server.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// With a request that the HTTP library may read, and its query if that is too long for it.
    Request(Around, Option<Query>),
    /// With a request line that is longer than the limit.
    TooLong(Stream),
}

/// Reads the beginning of a connection: more than `limit` bytes of request line are too long.
///
/// # Errors
/// If the connection fails.
pub(crate) async fn begin(mut stream: Stream, limit: usize) -> io::Result<Beginning> {
    let mut read_first = BytesMut::new();
    let line = loop {
        let known = read_first.len();
        if known >= limit {
            return Ok(Beginning::TooLong(stream));
        }
        read_first.reserve(PIECE);
        // An end in mid-line is for the HTTP library to judge.
        if stream.read_buf(&mut read_first).await? == 0 {
            break 0;
        }
        if let Some(end) = read_first[known..].iter().position(|&byte| byte == b'\n') {
            break known + end + 1;
        }
    };
    let mut query = None;
    if line > SHORT
        && let Some((short, long)) = parted(&read_first[..line])
    {
        let rest = read_first.split_off(line);
        read_first = BytesMut::from(&*short);
        read_first.extend_from_slice(&rest);
        query = Some(Query(long));
    }
    Ok(Beginning::Request(Around { stream, read_first, skip: 0, write_first: Bytes::new() }, query))
}

/// A request line without its query, and the query. `None` for all that is not just a method, a
/// path, a query and the version: that stays as it is, for the HTTP library to refuse.
fn parted(line: &[u8]) -> Option<(Vec<u8>, String)> {
    let line = str::from_utf8(line.strip_suffix(VERSION)?).ok()?;
    let (method, target) = line.split_once(' ')?;
    let (path, query) = target.split_once('?')?;
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    let fits = path.starts_with('/') && path.len() <= SHORT && target.bytes().all(plain);
    fits.then(|| ([method.as_bytes(), b" ", path.as_bytes(), VERSION].concat(), query.to_owned()))
}

impl Query {
    /// Gives a request the query that it came with.
    pub(crate) fn put_back<B>(self, request: &mut Request<B>) {
        request.extensions_mut().insert(self);
    }
}

impl AsyncRead for Around {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let around = self.get_mut();
        if around.read_first.is_empty() {
            return Pin::new(&mut around.stream).poll_read(cx, buffer);
        }
        let length = around.read_first.len().min(buffer.remaining());
        buffer.put_slice(&around.read_first.split_to(length));
        if around.read_first.is_empty() {
            around.read_first = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl Around {
    /// A write that failed, and why: the other side may have said it before it went away, as an
    /// alert that nobody has read.
    fn explained<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = written else { return written };
        let mut piece = [0; PIECE];
        // What it sent beside belongs to nobody any more.
        let said = loop {
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.stream).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {}
                Poll::Ready(Err(said)) => break Some(said),
                _ => break None,
            }
        };
        let said = said.filter(|said| tls_words::at_the_bottom_of(said).is_some());
        Poll::Ready(Err(said.unwrap_or(error)))
    }
}

impl AsyncWrite for Around {
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
