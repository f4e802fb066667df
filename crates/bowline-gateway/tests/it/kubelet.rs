//! A kubelet that is a listener: it keeps the head of each request and answers as it is told.

use std::net::Ipv4Addr;

use bowline_proto::websocket::accept_key;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A 101 to SPDY for a port-forward.
pub const SPDY: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
     Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n";
/// A 101 to WebSocket v5. `KEY` becomes what the request's key is answered with.
pub const WEBSOCKET: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
     Upgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\n\
     Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n";

pub struct Kubelet {
    /// Where it listens.
    pub port: u16,
    /// The heads of the requests, in order.
    pub asked: mpsc::UnboundedReceiver<String>,
}

impl Kubelet {
    /// One that answers with `answer` and then `bytes`, and gives back what it gets after that.
    pub async fn start(answer: &'static str, bytes: &'static [u8]) -> Kubelet {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = crate::client::head_of(&mut stream).await;
                let key = head.lines().find_map(|line| line.strip_prefix("Sec-Websocket-Key: "));
                let answer = answer.replace("KEY", &key.map(accept_key).unwrap_or_default());
                tell.send(head).unwrap();
                stream.write_all(&[answer.as_bytes(), bytes].concat()).await.unwrap();
                if answer.starts_with("HTTP/1.1 101 ") {
                    let mut piece = [0; 1024];
                    while let Ok(read @ 1..) = stream.read(&mut piece).await {
                        stream.write_all(&piece[..read]).await.unwrap();
                    }
                }
            }
        });
        Kubelet { port, asked }
    }

    /// The request line of the next request.
    pub async fn line(&mut self) -> String {
        let head = self.asked.recv().await.unwrap();
        head.lines().next().unwrap().to_owned()
    }
}
