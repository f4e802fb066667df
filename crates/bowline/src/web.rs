//! The web server in the demo pod: one page, for those who want something to talk to.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bowline_io::serve::{Limits, Peer, Sessions, body, serve};
use http::{Response, header};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::TcpSocket;

use crate::print;

/// The hidden command that starts it, followed by an address.
pub const COMMAND: &str = "__web";

const PAGE: &str = "<!doctype html>\n<title>Bowline</title>\n<h1>It holds.</h1>\n";

/// What it says once it listens.
pub const READY: &str = "serving on";
/// Connections that nobody has accepted yet.
const BACKLOG: u32 = 1024;

/// A socket at an address that nobody else gets, but who reserves it in the same way: whoever
/// chooses a port for this server keeps it until the server is there.
pub fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves the page until the process is ended, or `dev` is: killed, it cannot end its children.
pub async fn run(address: SocketAddr) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("follow dev's end")?;
    let socket = reserve(address).with_context(|| format!("listen on {address}"))?;
    let listener = socket.listen(BACKLOG).with_context(|| format!("listen on {address}"))?;
    print::notice(format_args!("{READY} http://{address}"));
    let service = |peer: Peer, _request| async move {
        peer.mark_authenticated();
        let mut reply = Response::new(body(PAGE));
        let html = header::HeaderValue::from_static("text/html; charset=utf-8");
        reply.headers_mut().insert(header::CONTENT_TYPE, html);
        reply
    };
    serve(listener, None, Limits::default(), Sessions::default(), service).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_reserved_port_is_its_servers_alone() {
        let reserved = reserve(([127, 0, 0, 1], 0).into()).unwrap();
        let address = reserved.local_addr().unwrap();
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let listener = reserve(address).unwrap().listen(BACKLOG).unwrap();
        let (near, far) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        assert!(near.is_ok() && far.is_ok());
    }
}
