//! The web server in the demo pod: one page, for those who want something to talk to.
//! Above: `dev`, as a container's main process. Below: `bowline_io::serve`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bowline_io::serve::{Sessions, body, serve};
use http::{Response, header};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::TcpListener;

use crate::say;

/// The hidden command that starts it, followed by an address.
pub const COMMAND: &str = "__web";

const PAGE: &str = "<!doctype html>\n<title>Bowline</title>\n<h1>It holds.</h1>\n";

/// Serves the page until the process is ended, or `dev` is: killed, it cannot end its children.
pub async fn run(address: SocketAddr) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("follow dev's end")?;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    say::notice(format_args!("serving on http://{address}"));
    let service = |_peer, _request| async {
        let mut reply = Response::new(body(PAGE));
        let html = header::HeaderValue::from_static("text/html; charset=utf-8");
        reply.headers_mut().insert(header::CONTENT_TYPE, html);
        reply
    };
    serve(listener, None, Sessions::default(), service).await;
    Ok(())
}
