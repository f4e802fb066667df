//! The client's library from outside, with peers that the tests hold in their hands. One binary
//! for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]
#![allow(clippy::disallowed_methods, reason = "tests play peers and start programs")]

mod authorized;
mod completed;
mod copy;
mod silence;

/// The head of the request that a peer is sent.
async fn head(stream: &mut tokio::net::TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::io::AsyncReadExt::read_u8(stream).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
