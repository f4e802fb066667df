//! Base64 channels: what a message in frames decodes to, against the library's decoder.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_proto::session::protocol::WEBSOCKET_V4_BASE64;
use bowline_proto::session::{Channel, Event, Session, Side, Wants};
use bowline_proto::{Machine, Next, Time};
use bytes::BytesMut;

use crate::cuts::choose;

/// The target.
pub fn target(data: &[u8]) {
    let (choices, text) = choose(data);
    let pieces = choices.pieces(text);
    let wants = Wants { stdin: true, stdout: true, stderr: false, tty: false };
    let mut session = Session::new(Side::Server, &WEBSOCKET_V4_BASE64, wants, [7; 32]);
    let mut message = BytesMut::new();
    frame(&mut message, 0x01, b"0");
    for piece in &pieces {
        frame(&mut message, 0x00, piece);
    }
    frame(&mut message, 0x80, b"");
    session.receive(Time::ZERO, message);
    let (mut bytes, mut lost) = (Vec::new(), false);
    while let Next::Event(event) = session.poll(Time::ZERO) {
        match event {
            Event::Data(Channel::Stdin, piece) => bytes.extend_from_slice(&piece),
            Event::Lost(_) => lost = true,
            _ => {}
        }
    }
    // Text frames are UTF-8 before they are anything else.
    let model = std::str::from_utf8(text).ok().and_then(|text| {
        // Line ends are passed over, as Go's decoder does.
        STANDARD.decode(text.replace(['\r', '\n'], "")).ok()
    });
    match model {
        Some(model) => assert_eq!((bytes, lost), (model, false)),
        None => assert!(lost, "{} is no base64", text.escape_ascii()),
    }
}

/// A frame that is masked with zeros.
fn frame(message: &mut BytesMut, first: u8, payload: &[u8]) {
    // Lengths are written in the shortest way there is.
    match payload.len() {
        length @ 0..126 => message.extend_from_slice(&[first, 0x80 | length as u8]),
        length @ 126..0x1_0000 => {
            message.extend_from_slice(&[first, 0x80 | 126]);
            message.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            message.extend_from_slice(&[first, 0x80 | 127]);
            message.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(payload);
}
