//! Protocols without a JSON Status: silence is success there, so that everything else has words.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_proto::session::protocol::{self, Encoding, Protocol};
use bowline_proto::session::{Session, Side, Status, Wants};
use bowline_proto::{Machine, Time};
use bytes::Bytes;

const WANTS: Wants = Wants { stdin: false, stdout: true, stderr: false, tty: false };
const ROWS: [&Protocol; 3] =
    [&protocol::WEBSOCKET_V1, &protocol::WEBSOCKET_V1_BASE64, &protocol::WEBSOCKET_UNNAMED];

/// All that a server writes when it has done `last`.
fn written(protocol: &'static Protocol, last: impl FnOnce(&mut Session)) -> Vec<u8> {
    let mut server = Session::new(Side::Server, protocol, WANTS, [0; 32]);
    last(&mut server);
    server.outbox().chunks().flatten().copied().collect()
}

fn message(protocol: &Protocol, text: &str) -> Vec<u8> {
    match protocol.encoding {
        Encoding::Binary => format!("\u{3}{text}").into_bytes(),
        Encoding::Base64 => format!("3{}", STANDARD.encode(text)).into_bytes(),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A client may look at the error channel alone, and not at the code of a Close.
#[test]
fn a_lost_session_is_told_on_the_error_channel() {
    for protocol in ROWS {
        let written = written(protocol, |server| server.lose(Time::ZERO, "the node is gone"));
        let expected = message(protocol, "session lost: the node is gone");
        assert!(contains(&written, &expected), "{protocol:?}: {written:?}");
    }
    let written = written(&protocol::WEBSOCKET_V5, |server| server.lose(Time::ZERO, "gone"));
    assert!(!contains(&written, b"session lost"), "there, silence is no success");
}

#[test]
fn a_failure_without_words_is_not_passed_on_as_silence() {
    let failure = Status::parse(Bytes::from_static(br#"{"status":"Failure"}"#)).unwrap();
    for protocol in ROWS {
        let written = written(protocol, |server| server.status(Time::ZERO, &failure));
        let expected = message(protocol, "the command failed, and the server does not say why");
        assert!(contains(&written, &expected), "{protocol:?}: {written:?}");
    }
}
