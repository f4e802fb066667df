//! A server that upgrades a stream and then does as a test says: what no good server does.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use bowline_interop::client::Client;
use bowline_proto::negotiate::{Accepted, Accepts, Lines, accept, accept_kept, requested_carrier};
use bowline_proto::session::protocol::Carrier;
use bowline_proto::spdy::{Connection, Event, Role, StreamId};
use bytes::{Bytes, BytesMut};

use super::bowline;

/// A pod as `-f` takes it: no server is asked for it.
const POD: &str =
    "{apiVersion: v1, kind: Pod, metadata: {name: box}, spec: {containers: [{name: box}]}}";

/// Starts it; `script` runs for each connection whose request has come.
pub fn start(script: impl Fn(Request) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Some(request) = Request::read(stream.unwrap()) else { continue };
            script(request);
        }
    });
    address
}

/// A client of such a server, over WebSocket alone or SPDY alone, and the file that it needs.
pub fn client(address: SocketAddr, carrier: Carrier) -> (Client, tempfile::NamedTempFile) {
    let mut pod = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    pod.write_all(POD.as_bytes()).unwrap();
    let mut client = Client::new("bowline", bowline(), "/dev/null", &[]);
    let flags = [format!("--server=http://{address}"), format!("-f={}", pod.path().display())];
    client.words.extend(flags);
    let client = if carrier == Carrier::Spdy { client.over_spdy() } else { client };
    (client, pod)
}

/// The library's client of such a server. It leaves a kubeconfig in the place.
pub fn library(address: SocketAddr, place: &Path) -> bowline_client::Client {
    let kubeconfig = place.join("kubeconfig");
    let text = format!(
        "{{clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}], contexts: [{{name: c, \
         context: {{cluster: c}}}}], current-context: c}}\n"
    );
    fs::write(&kubeconfig, text).unwrap();
    bowline_client::Client::from_kubeconfig(&kubeconfig, None).unwrap()
}

/// A request for a stream.
pub struct Request {
    /// The connection.
    pub stream: TcpStream,
    /// `GET` or `POST`.
    pub method: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn read(mut stream: TcpStream) -> Option<Request> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let text = String::from_utf8(head).unwrap();
        let mut lines = text.lines();
        let method = lines.next()?.split(' ').next()?.to_owned();
        let pairs = lines.filter_map(|line| line.split_once(": "));
        let headers = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Request { stream, method, headers })
    }

    /// Whether it is for a stream.
    pub fn is_upgrade(&self) -> bool {
        self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade"))
    }

    /// Whether a header of it speaks of this.
    pub fn offers(&self, what: &str) -> bool {
        self.headers.iter().any(|(_, value)| value.contains(what))
    }

    /// Answers with these bytes; that is all.
    pub fn answer(mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Says yes, and waits until the session's streams are there.
    pub fn upgrade(self) -> Live {
        let mut live = self.upgrade_bare();
        live.streams();
        live
    }

    /// Says yes to a connection of a kept session.
    pub fn upgrade_kept(mut self) -> TcpStream {
        let lines: Vec<_> = self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        switch(&mut self.stream, accept_kept(&self.method, Lines(&lines)).unwrap());
        self.stream
    }

    /// Says yes.
    pub fn upgrade_bare(mut self) -> Live {
        let lines: Vec<_> = self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let accepted = accept(&self.method, Lines(&lines), Accepts { websocket_v5: true }).unwrap();
        switch(&mut self.stream, accepted);
        let spdy = match requested_carrier(Lines(&lines)).unwrap() {
            Carrier::WebSocket => None,
            Carrier::Spdy => Some((Connection::new(Role::Server), HashMap::new())),
        };
        Live { stream: self.stream, spdy }
    }
}

fn switch(stream: &mut TcpStream, accepted: Accepted) {
    let mut text = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
    for (name, value) in accepted.response {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
}

/// A session that has begun, without stdin.
pub struct Live {
    /// The connection.
    pub stream: TcpStream,
    spdy: Option<(Connection, HashMap<String, StreamId>)>,
}

impl Live {
    fn streams(&mut self) {
        let Some((connection, ids)) = &mut self.spdy else { return };
        while ids.len() < 3 {
            let mut piece = [0; 4096];
            let read = self.stream.read(&mut piece).unwrap();
            assert_ne!(read, 0, "the client went away");
            connection.receive(BytesMut::from(&piece[..read]));
            while let Some(event) = connection.poll() {
                if let Event::Opened { id, headers } = event {
                    connection.reply(id);
                    ids.insert(headers.get("streamtype").unwrap().to_owned(), id);
                }
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        let Some((connection, _)) = &mut self.spdy else { return };
        let bytes: Vec<u8> = connection.outbox().chunks().flatten().copied().collect();
        connection.outbox().advance(bytes.len());
        let _ = self.stream.write_all(&bytes);
    }

    /// Sends on a channel: 1 is stdout, 3 the Status'.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) {
        match &mut self.spdy {
            Some((connection, ids)) => {
                let name = ["stdin", "stdout", "stderr", "error"][usize::from(channel)];
                connection.send(ids[name], Bytes::copy_from_slice(bytes));
                self.flush();
            }
            None => self.frame(2, &[&[channel], bytes].concat()),
        }
    }

    /// Sends a Status in full.
    pub fn status(&mut self, json: &str) {
        self.send(3, json.as_bytes());
    }

    /// A WebSocket frame.
    pub fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            short @ 0..126 => frame.push(u8::try_from(short).unwrap()),
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        self.raw(&frame);
    }

    /// A WebSocket Close.
    pub fn close(&mut self, code: u16, reason: &str) {
        self.frame(8, &[&code.to_be_bytes(), reason.as_bytes()].concat());
    }

    /// The end of a good session: a Close or a GOAWAY.
    pub fn good_bye(&mut self) {
        if self.spdy.is_none() {
            self.close(1000, "");
        } else {
            self.goaway();
        }
    }

    /// Ends our direction of all SPDY streams, or of one.
    pub fn finish(&mut self, only: Option<&str>) {
        let Some((connection, ids)) = &mut self.spdy else { return };
        for (_, id) in ids.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
            connection.finish(*id);
        }
        self.flush();
    }

    /// Resets a SPDY stream.
    pub fn reset_stream(&mut self, name: &str) {
        let Some((connection, ids)) = &mut self.spdy else { return };
        connection.reset(ids[name], 2);
        self.flush();
    }

    /// Says that the SPDY connection ends.
    pub fn goaway(&mut self) {
        let Some((connection, _)) = &mut self.spdy else { return };
        connection.goaway(0);
        self.flush();
    }

    /// Any bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Ends the connection with a reset, as a killed box does.
    pub fn abort(self) {
        rustix::net::sockopt::set_socket_linger(
            &self.stream,
            Some(std::time::Duration::from_secs(0)),
        )
        .unwrap();
    }

    /// Stays until the client has gone.
    pub fn stay(mut self) {
        let mut piece = [0; 4096];
        while matches!(self.stream.read(&mut piece), Ok(1..)) {}
    }
}
