//! Answers of 1xx: a few are passed over, more are no answer, and whoever sends them without end
//! does not keep a client at work.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use bowline_io::http::{HttpError, request, upgrade};
use bowline_io::stream::Stream;
use bytes::Bytes;
use http::Request;

const PATIENCE: Duration = Duration::from_secs(60);
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\nX-Y: z\r\n\r\n";

/// A server that reads one request, sends so many of them, and then a whole answer.
fn server(many: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
        for _ in 0..many {
            if stream.write_all(CONTINUE).is_err() {
                return;
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    address
}

async fn stream(address: SocketAddr) -> Stream {
    Stream::plain(tokio::net::TcpStream::connect(address).await.unwrap())
}

async fn asked(many: usize) -> Result<Bytes, HttpError> {
    let head = Request::get("/").header("host", "h").body(Bytes::new()).unwrap();
    let answer = request(stream(server(many)).await, head, 1024, PATIENCE).await;
    answer.map(|(_, body)| body)
}

#[tokio::test]
async fn a_few_are_passed_over() {
    for many in 0..=5 {
        assert_eq!(asked(many).await.unwrap(), "ok", "{many}");
    }
    assert!(matches!(asked(6).await, Err(HttpError::Informational)));
}

#[tokio::test]
async fn those_without_end_are_an_error_at_once() {
    assert!(matches!(asked(usize::MAX).await, Err(HttpError::Informational)));
    let head = Request::get("/").header("host", "h").body(()).unwrap();
    let answer = upgrade(stream(server(usize::MAX)).await, head, PATIENCE).await;
    assert!(matches!(answer, Err(HttpError::Informational)), "{answer:?}");
}
