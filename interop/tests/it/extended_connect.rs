//! WebSocket over HTTP/2 (RFC 8441), as a browser asks for it: one remote command.

use std::sync::Arc;

use bowline_io::tls::{self, Trust};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has no HTTP/2, or does not say that it can be asked.
    NotOffered,
    /// It was asked, and answered with this code, or with a reset.
    Refused(Option<StatusCode>),
    /// The command's output, and its Status.
    Ended(String, String),
}

const MASK: [u8; 4] = [1, 2, 3, 4];

/// Runs `cat` in the pod `box` with this input, to its end.
pub async fn cat(address: &str, token: &str, input: &str) -> Outcome {
    let mut config = Arc::unwrap_or_clone(tls::client(&Trust::Anybody, None).unwrap());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Outcome::NotOffered;
    }
    let (mut requests, connection) = h2::client::handshake(tls).await.unwrap();
    let running = tokio::spawn(connection);
    // With an answer, the server's settings have come.
    let ready = Request::get(format!("https://{address}/readyz")).body(()).unwrap();
    let _ = requests.send_request(ready, true).unwrap().0.await;
    let outcome = if requests.is_extended_connect_protocol_enabled() {
        asked(&mut requests, address, token, input).await
    } else {
        Outcome::NotOffered
    };
    running.abort();
    outcome
}

async fn asked(
    requests: &mut SendRequest<Bytes>,
    address: &str,
    token: &str,
    input: &str,
) -> Outcome {
    let path = "/api/v1/namespaces/default/pods/box/exec?command=cat&stdin=true&stdout=true";
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{address}{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("authorization", format!("Bearer {token}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "v5.channel.k8s.io");
    let (response, mut sender) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    let Ok(response) = response.await else { return Outcome::Refused(None) };
    if response.status() != StatusCode::OK {
        return Outcome::Refused(Some(response.status()));
    }
    for message in [[b"\x00", input.as_bytes()].concat(), b"\xff\x00".to_vec()] {
        sender.send_data(frame(&message), false).unwrap();
    }
    read(response, sender).await
}

/// A binary message of a client.
fn frame(message: &[u8]) -> Bytes {
    let length = u8::try_from(message.len()).ok().filter(|length| *length < 126);
    let mut frame = vec![0x82, 0x80 | length.expect("messages here are short")];
    frame.extend_from_slice(&MASK);
    frame.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame.into()
}

/// What the command writes, until its Status.
async fn read(response: Response<RecvStream>, mut sender: SendStream<Bytes>) -> Outcome {
    let (mut body, mut bytes) = (response.into_body(), BytesMut::new());
    let (mut output, mut status) = (Vec::new(), Vec::new());
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
        while let Some((opcode, message)) = next(&mut bytes) {
            match (opcode, message.first()) {
                (2, Some(1)) => output.extend_from_slice(&message[1..]),
                (2, Some(3)) => status.extend_from_slice(&message[1..]),
                (8, _) => {
                    let _ = sender.send_data(Bytes::new(), true);
                }
                _ => {}
            }
        }
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Outcome::Ended(text(output), text(status))
}

/// A whole frame of a server's: its opcode and its message.
fn next(bytes: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let short = usize::from(*bytes.get(1)?);
    let (head, length) = match short {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        _ => (2, short),
    };
    if bytes.len() < head + length {
        return None;
    }
    let opcode = bytes.split_to(head)[0] & 15;
    Some((opcode, bytes.split_to(length)))
}
