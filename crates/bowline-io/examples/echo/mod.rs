//! The loop of both echo examples: whole messages come back as they came.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bowline_io::drive::{Socket, SocketEvent};
use bowline_io::random;
use bowline_io::stream::{Connection as _, Upgraded};
use bowline_proto::websocket::{Config, Connection, Continuation, Event, Kind, Role};
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

/// The longest message that is kept to be sent back.
const MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// How long a peer may take to end the connection once both have said Close.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);
/// RFC 6455 §7.4.1.
const TOO_BIG: u16 = 1009;

/// Answers each message with what `answer` makes of it, until the connection has ended.
///
/// # Errors
/// If the connection breaks before its peer has said Close.
pub async fn run(
    connection: Upgraded,
    role: Role,
    mut answer: impl FnMut(Kind, Bytes) -> Option<(Kind, Bytes)>,
) -> io::Result<()> {
    let config = Config { role, continuation: Continuation::Join };
    let mut websocket = Connection::new(config, random::bytes());
    let mut socket = Socket::new(connection.stream, connection.early);
    let mut message = BytesMut::new();
    let mut over = false;
    loop {
        while let Some(event) = websocket.poll() {
            match event {
                Event::Chunk(chunk) if message.len() + chunk.payload.len() > MESSAGE_BYTES => {
                    websocket.close(TOO_BIG, "");
                }
                Event::Chunk(chunk) => {
                    message.extend_from_slice(&chunk.payload);
                    if chunk.last {
                        let whole = message.split().freeze();
                        if let Some((kind, bytes)) = answer(chunk.kind, whole) {
                            websocket.message(kind, &[], bytes);
                        }
                    }
                }
                Event::Pong(_) => {}
                Event::Closed(_) => over = true,
            }
        }
        let next = poll_fn(|cx| socket.poll(cx, websocket.outbox(), true));
        // Who has said Close and has nothing to write waits for the peer to hang up, not for ever.
        let moment = if over {
            match timeout(CLOSING_PATIENCE, next).await {
                Ok(moment) => moment,
                Err(_) => return Ok(()),
            }
        } else {
            next.await
        };
        match moment {
            SocketEvent::Read(bytes) => websocket.receive(bytes),
            SocketEvent::Wrote => {}
            SocketEvent::Ended(_) if over => return Ok(()),
            SocketEvent::Ended(error) => {
                websocket.receive_end();
                if let Some(error) = error {
                    return Err(error);
                }
            }
        }
        if over && websocket.outbox().is_empty() && socket.stream().is_peer_gone() {
            return Ok(());
        }
    }
}
