//! `ws-echo-server ADDRESS`: a WebSocket server that sends every message back. Port 0 picks one.

#![expect(clippy::disallowed_macros, reason = "a program of its own, without a peer's text")]

mod echo;

use std::error::Error;

use bowline_io::http::lines;
use bowline_io::serve::{Limits, Reply, Sessions, body, serve, upgraded};
use bowline_proto::negotiate::{Lines, requested_carrier};
use bowline_proto::session::protocol::Carrier;
use bowline_proto::websocket::{Role, accept_key};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: ws-echo-server ADDRESS")?;
    let listener = TcpListener::bind(address).await?;
    println!("serving on ws://{}", listener.local_addr()?);
    let sessions = Sessions::default();
    let spawning = sessions.clone();
    let service = move |_, request| answer(spawning.clone(), request);
    serve(listener, None, Limits::default(), sessions, service).await;
    Ok(())
}

async fn answer(sessions: Sessions, request: Request<Incoming>) -> Reply {
    let mut reply = Response::new(body(Bytes::new()));
    let headers = lines(request.headers());
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let accept = key.and_then(|key| HeaderValue::try_from(accept_key(key)).ok());
    let Some(accept) =
        accept.filter(|_| requested_carrier(Lines(&headers)) == Some(Carrier::WebSocket))
    else {
        *reply.status_mut() = StatusCode::BAD_REQUEST;
        return reply;
    };
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    sessions.spawn(async move {
        let echoed = match upgraded(request).await {
            Ok(connection) => {
                echo::run(connection, Role::Server, |kind, bytes| Some((kind, bytes))).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = echoed {
            eprintln!("{error}");
        }
    });
    reply
}
