//! Servers that break the protocol towards the client: a loss that says so, one line, in time and
//! at little cost; and no output that is none.

use bowline_interop::client::Left;
use bowline_proto::session::protocol::Carrier;

use super::bad_server::Live;
use super::ends::{after_upgrade, against, is_lost, is_modest};

/// A server that sends this in a session, and stays.
fn says(carrier: Carrier, bytes: &[u8]) -> Left {
    let bytes = bytes.to_vec();
    after_upgrade(carrier, move |mut live: Live| {
        live.raw(&bytes);
        live.stay();
    })
}

#[test]
fn frames_that_are_wrong_are_a_loss() {
    let cases: [(&str, &[u8]); 9] = [
        ("a mask", &[0x82, 0x82, 0, 0, 0, 0, 1, b'x']),
        ("a reserved bit", &[0xc2, 2, 1, b'x']),
        ("an unknown opcode", &[0x83, 1, 1]),
        ("a continuation of nothing", &[0x80, 1, 1]),
        ("a fragmented ping", &[0x09, 0]),
        ("a ping that is too long", &[0x89, 126, 0, 200]),
        ("a length of 2^63", &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ("a length that is longer than it needs to be", &[0x82, 126, 0, 2, 1, b'x']),
        ("a close of one byte", &[0x88, 1, 3]),
    ];
    for (what, bytes) in cases {
        let left = says(Carrier::WebSocket, bytes);
        assert!(left.stdout.is_empty(), "{what}: {left:?}");
        is_lost(&left, "broke the protocol");
    }
    for (what, bytes) in [
        ("version 2", &[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..]),
        ("an unknown type", &[0x80, 3, 0, 5, 0, 0, 0, 0]),
        ("a short RST_STREAM", &[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1]),
        ("data of stream 0", &[0, 0, 0, 0, 0, 0, 0, 4, b'e', b'v', b'i', b'l']),
        ("a control frame of 16 MiB", &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
    ] {
        let left = says(Carrier::Spdy, bytes);
        assert!(left.stdout.is_empty(), "{what}: {left:?}");
        is_lost(&left, "broke the protocol");
    }
}

/// What was announced and never came is a loss, and what came of it is output.
#[test]
fn half_a_frame_is_a_loss() {
    let halves: [(Carrier, &[u8]); 3] = [
        (Carrier::WebSocket, &[0x82, 127, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, b'x']),
        (Carrier::WebSocket, &[0x02, 2, 1, b'x']),
        // stdout is the second stream.
        (Carrier::Spdy, &[0, 0, 0, 3, 0, 0xff, 0xff, 0xff, b'x']),
    ];
    for (carrier, bytes) in halves {
        let bytes = bytes.to_vec();
        let left = after_upgrade(carrier, move |mut live| live.raw(&bytes));
        assert_eq!(left.stdout, b"x", "{left:?}");
        is_lost(&left, "the connection was cut");
        is_lost(&left, "after 1 bytes of output");
    }
}

#[test]
fn floods_cost_little() {
    const MANY: usize = 100_000;
    let cases: [(Carrier, Vec<u8>); 4] = [
        (Carrier::WebSocket, [&[0x89, 125][..], &[7; 125]].concat().repeat(MANY)),
        (Carrier::WebSocket, [0x8a, 0].repeat(MANY)),
        // Fragments of nothing, of a message that has no end.
        (Carrier::WebSocket, [&[0x02, 1, 1][..], &[0x00, 0].repeat(MANY)].concat()),
        (Carrier::Spdy, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2].repeat(MANY)),
    ];
    for (carrier, bytes) in cases {
        let left = after_upgrade(carrier, move |mut live| live.raw(&bytes));
        assert!(left.stdout.is_empty(), "{left:?}");
        assert_eq!(left.status.code(), Some(255), "{left:?}");
        is_modest(&left);
    }
}

/// Before the 101 nothing but an answer may come.
#[test]
fn bytes_before_the_101_are_no_answer() {
    for carrier in [Carrier::WebSocket, Carrier::Spdy] {
        for bytes in
            [&b"\x82\x02\x01x"[..], b"HTTP/1.1 1", b"HTTP/1.1 101 Switching Protocols\r\nUp"]
        {
            let bytes = bytes.to_vec();
            let left = against(carrier, move |request| request.answer(&bytes));
            assert!(left.stdout.is_empty() && !left.status.success(), "{left:?}");
            assert_eq!(left.stderr.lines().count(), 1, "{left:?}");
        }
    }
}
