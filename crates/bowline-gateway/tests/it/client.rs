//! A client in plain HTTP: requests as bytes, and what comes back.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The lines of a request that asks for exec over WebSocket v5.
pub const WEBSOCKET: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
/// The lines of a request that asks for a port-forward over SPDY.
pub const SPDY: &str = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n";

/// Sends the head of a request that asks for an upgrade, and gives the head of the answer with the
/// connection behind it.
pub async fn upgrade(
    address: SocketAddr,
    method: &str,
    target: &str,
    lines: &str,
) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer good\r\n\
         Connection: Upgrade\r\n{lines}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    (head_of(&mut stream).await, stream)
}

/// Sends a whole request and reads the answer to its end: code, and body.
pub async fn ask(address: SocketAddr, method: &str, target: &str, lines: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{lines}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let head = head_of(&mut stream).await;
    let mut body = String::new();
    stream.read_to_string(&mut body).await.unwrap();
    (code(&head), body)
}

/// A request of somebody whom the tests' authenticator knows.
pub async fn get(address: SocketAddr, target: &str) -> (u16, String) {
    ask(address, "GET", target, "Authorization: Bearer good\r\n").await
}

/// Reads the head of an answer.
pub async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// The code of an answer's head.
pub fn code(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The message of the Status in a body.
pub fn message(body: &str) -> String {
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    status["message"].as_str().unwrap().to_owned()
}
