//! Frames of HTTP/2 and messages of gRPC, as their peers write them.

use bowline_proto::cri::{Asked, Call, Exchange, Kept};
use bowline_proto::session::Wants;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY: u8 = 0x20;

pub const EXEC: &str = "/runtime.v1.RuntimeService/Exec";
pub const ATTACH: &str = "/runtime.v1alpha2.RuntimeService/Attach";
pub const PORT_FORWARD: &str = "/runtime.v1.RuntimeService/PortForward";
pub const LIST: &str = "/runtime.v1.RuntimeService/ListContainers";

/// What a runtime answers with.
pub const URL: &str = "http://127.0.0.1:10010/exec/AbCdEfGh";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// DATA with so much padding.
pub fn padded(flags: u8, stream: u32, content: &[u8], padding: u8) -> Vec<u8> {
    let payload = [&[padding], content, &vec![0; usize::from(padding)]].concat();
    frame(DATA, flags | PADDED, stream, &payload)
}

/// A header block without any table: POST to a path.
pub fn block(path: &str) -> Vec<u8> {
    [&[0x83, 0x86, 0x04, path.len() as u8], path.as_bytes()].concat()
}

pub fn headers(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(path))
}

pub fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A message of gRPC.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0], &(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// A request of Exec for stdin and stdout of a container.
pub fn request(id: &str) -> Vec<u8> {
    let id = [&[0x0a, id.len() as u8], id.as_bytes()].concat();
    message(&[&id[..], b"\x12\x02sh\x20\x01\x28\x01"].concat())
}

/// An answer with a URL, and a field that nobody knows on either side of it.
pub fn answer(url: &str) -> Vec<u8> {
    let (mut length, mut left) = (vec![], url.len());
    while left >= 0x80 {
        length.push(left as u8 | 0x80);
        left >>= 7;
    }
    length.push(left as u8);
    message(&[b"\x7a\x01x\x0a", &length[..], url.as_bytes(), b"\x78\x05"].concat())
}

pub fn asked(id: &str) -> Call {
    let wants = Wants { stdin: true, stdout: true, stderr: false, tty: false };
    Call { asked: Asked::Exec(wants), id: id.into(), command: Some(vec!["sh".into()]) }
}

/// Gives each URL in capitals, with so many bytes more.
#[derive(Debug, Default)]
pub struct Louder {
    pub extra: usize,
    pub calls: Vec<Call>,
    pub kept: Vec<Kept>,
}

pub fn louder(url: &str, extra: usize) -> String {
    url.to_uppercase() + &"!".repeat(extra)
}

impl Exchange for &mut Louder {
    fn exchange(&mut self, call: Call, url: &str) -> Option<String> {
        let is_wanted = call.id != "leave";
        self.calls.push(call);
        is_wanted.then(|| louder(url, self.extra))
    }

    fn kept(&mut self, why: Kept) {
        self.kept.push(why);
    }
}
