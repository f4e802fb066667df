//! WebSocket over HTTP/2 (RFC 8441), as a browser asks for it: many of them in one connection.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_io::tls::{self, Trust};
use bowline_proto::websocket::accept_key;
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
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
    let Some(browser) = Browser::at(address, token).await else { return Outcome::NotOffered };
    let path = "/api/v1/namespaces/default/pods/box/exec?command=cat&stdin=true&stdout=true";
    let mut socket = match browser.opens(path, "v5.channel.k8s.io").await {
        Ok(socket) => socket,
        Err(refused) => return Outcome::Refused(refused.map(|said| said.status())),
    };
    for message in [[b"\x00", input.as_bytes()].concat(), b"\xff\x00".to_vec()] {
        socket.sends(BINARY, &message);
    }
    let (output, status) = socket.rest().await;
    Outcome::Ended(output, status)
}

/// A connection of HTTP/2 to a server that takes WebSockets over it, and a user's token.
#[derive(Clone)]
pub struct Browser {
    requests: SendRequest<Bytes>,
    address: String,
    token: String,
}

impl Browser {
    /// One to this server, if it offers that.
    pub async fn at(address: &str, token: &str) -> Option<Browser> {
        let mut config = Arc::unwrap_or_clone(tls::client(&Trust::Anybody, None).unwrap());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let tls = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return None;
        }
        let (requests, connection) = h2::client::handshake(tls).await.unwrap();
        // It ends with the last one who could ask.
        tokio::spawn(connection);
        let browser = Browser { requests, address: address.to_owned(), token: token.to_owned() };
        // With an answer, the server's settings have come.
        let _ = browser.gets("/readyz").await;
        browser.requests.is_extended_connect_protocol_enabled().then_some(browser)
    }

    /// The same connection with another token.
    pub fn with_token(&self, token: &str) -> Browser {
        Browser { token: token.to_owned(), ..self.clone() }
    }

    /// The answer to a plain request.
    pub async fn gets(&self, target: &str) -> Result<Response<RecvStream>, h2::Error> {
        let request = Request::get(format!("https://{}{target}", self.address));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let mut requests = self.requests.clone().ready().await?;
        requests.send_request(request.body(()).unwrap(), true)?.0.await
    }

    /// Opens a WebSocket with this subprotocol; `Err` is what came instead, `None` a reset.
    pub async fn opens(
        &self,
        target: &str,
        protocol: &str,
    ) -> Result<Socket, Option<Response<RecvStream>>> {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("https://{}{target}", self.address))
            .extension(Protocol::from_static("websocket"))
            .header("authorization", format!("Bearer {}", self.token))
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", protocol)
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, sender) = requests.send_request(request, false).unwrap();
        let response = response.await.map_err(|_| None)?;
        if response.status() != StatusCode::OK {
            return Err(Some(response));
        }
        let chosen = response.headers().get("sec-websocket-protocol");
        assert_eq!(chosen.map(|name| name.to_str().unwrap()), Some(protocol));
        Ok(Socket { sender, body: response.into_body(), bytes: BytesMut::new() })
    }

    /// Serves WebSockets over HTTP/1.1 out of this connection, for clients that know no other way.
    /// Nothing else that is asked by an upgrade is passed on. Gives where it listens.
    pub async fn serves(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let browser = self.clone();
                tokio::spawn(async move { browser.serves_one(stream).await });
            }
        });
        address
    }

    async fn serves_one(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap();
        let header = |name: &str| {
            let line = |line: &str| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            };
            head.lines().find_map(line).unwrap_or_default()
        };
        let answer = match &*header("upgrade") {
            "" => self.gets(target).await.ok(),
            "websocket" => match self.opens(target, &header("sec-websocket-protocol")).await {
                Ok(socket) => {
                    let accept = accept_key(&header("sec-websocket-key"));
                    let protocol = header("sec-websocket-protocol");
                    let switched = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: \
                         websocket\r\nSec-WebSocket-Accept: {accept}\r\n\
                         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
                    );
                    if stream.write_all(switched.as_bytes()).await.is_ok() {
                        socket.joined(stream).await;
                    }
                    return;
                }
                Err(refused) => refused,
            },
            _ => None,
        };
        let (code, body) = match answer {
            Some(answer) => (answer.status().as_u16(), whole(answer.into_body()).await),
            None => (501, BytesMut::new()),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {code} x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
    }
}

async fn whole(mut body: RecvStream) -> BytesMut {
    let mut all = BytesMut::new();
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    all
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// A WebSocket in a stream of HTTP/2.
pub struct Socket {
    sender: SendStream<Bytes>,
    body: RecvStream,
    bytes: BytesMut,
}

impl Socket {
    /// Sends a short message.
    pub fn sends(&mut self, opcode: u8, message: &[u8]) {
        let length = u8::try_from(message.len()).ok().filter(|length| *length < 126);
        let length = length.expect("messages here are short");
        let mut frame = vec![0x80 | opcode, 0x80 | length];
        frame.extend_from_slice(&MASK);
        frame.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.sender.send_data(frame.into(), false).unwrap();
    }

    /// The next message, as long as there is one.
    pub async fn next(&mut self) -> Option<(u8, BytesMut)> {
        loop {
            if let Some((opcode, message)) = frame(&mut self.bytes) {
                if opcode == CLOSE {
                    let _ = self.sender.send_data(Bytes::new(), true);
                }
                return Some((opcode, message));
            }
            let piece = self.body.data().await?.ok()?;
            self.body.flow_control().release_capacity(piece.len()).unwrap();
            self.bytes.extend_from_slice(&piece);
        }
    }

    /// What a command writes from here on, and its Status: in binary messages, or in text ones of
    /// base64.
    pub async fn rest(&mut self) -> (String, String) {
        let (mut output, mut status) = (Vec::new(), Vec::new());
        while let Some((opcode, message)) = self.next().await {
            let Some((channel, bytes)) = message.split_first() else { continue };
            let (channel, bytes) = match opcode {
                BINARY => (*channel, bytes.to_vec()),
                TEXT => (channel - b'0', STANDARD.decode(bytes).unwrap()),
                _ => continue,
            };
            match channel {
                1 => output.extend(bytes),
                3 => status.extend(bytes),
                _ => {}
            }
        }
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output), text(status))
    }

    /// Passes bytes both ways until either side has ended.
    async fn joined(mut self, stream: TcpStream) {
        let (mut read, mut write) = stream.into_split();
        let mut sender = self.sender;
        let up = tokio::spawn(async move {
            let mut bytes = BytesMut::with_capacity(64 * 1024);
            while matches!(read.read_buf(&mut bytes).await, Ok(1..)) {
                while !bytes.is_empty() {
                    sender.reserve_capacity(bytes.len());
                    let room = std::future::poll_fn(|context| sender.poll_capacity(context)).await;
                    let Some(Ok(room)) = room else { return };
                    let piece = bytes.split_to(room.min(bytes.len())).freeze();
                    if sender.send_data(piece, false).is_err() {
                        return;
                    }
                }
            }
            let _ = sender.send_data(Bytes::new(), true);
        });
        while let Some(Ok(piece)) = self.body.data().await {
            self.body.flow_control().release_capacity(piece.len()).unwrap();
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
        let _ = up.await;
    }
}

/// A whole frame of a server's: its opcode and its message.
fn frame(bytes: &mut BytesMut) -> Option<(u8, BytesMut)> {
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
