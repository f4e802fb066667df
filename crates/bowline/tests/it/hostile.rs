//! Clients that mean harm, or cannot do better: a refusal or a close with a reason, in time and at
//! little cost; the process gets nothing that was not meant for it, and others do not notice.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use bowline_interop::client::Input;
use bowline_interop::server::Server;

use super::raw::{DEADLINE, Place, frame, rest, short};
use super::{bowline, client};

#[test]
fn frames_that_are_wrong_close_the_session_with_a_reason() {
    let mut oversized = vec![0x89, 0x80 | 126];
    oversized.extend([0, 200, 0, 0, 0, 0]);
    let huge = [&[0x82, 0xff, 0x80][..], &[0; 11]].concat();
    let cases: [(&str, Vec<u8>, u16); 8] = [
        ("without a mask", vec![0x82, 1, 0], 1002),
        ("a reserved bit", short(0xc2, b"\0x"), 1002),
        ("an unknown opcode", short(0x83, b"x"), 1002),
        ("a ping that is too long", oversized, 1002),
        ("a length of 64 bits with the top one", huge, 1002),
        ("a length that is longer than it needs to be", frame(0x82, b"\0x"), 1002),
        ("a continuation of nothing", short(0x80, b"x"), 1002),
        ("a channel's end in two bytes", short(0x82, &[255, 0, 0]), 1008),
    ];
    for place in Place::both() {
        for (what, bytes, code) in &cases {
            let all = place.answer(&[&place.websocket("cat", "v5")[..], bytes].concat());
            let is_close = |word: &[u8]| word[0] == 0x88 && word[2..4] == code.to_be_bytes();
            let closed = all.windows(4).any(is_close);
            assert!(closed, "{}, {what}: {:?}", place.name(), String::from_utf8_lossy(&all));
        }
        place.is_well();
    }
}

#[test]
fn what_is_not_meant_for_the_process_does_not_reach_it() {
    for place in Place::both() {
        // Unknown channels, the server's own ones, and a second end; then real input and its end.
        let mut bytes = place.websocket("cat", "v5");
        for payload in
            [&b"\x09evil"[..], b"\x01evil", b"\x03evil", b"\x00good", b"\xff\x00", b"\x00evil"]
        {
            bytes.extend(short(0x82, payload));
        }
        let all = String::from_utf8_lossy(&place.answer(&bytes)).into_owned();
        assert!(all.contains("\u{1}good"), "{all:?}");
        assert!(!all.contains("evil"), "{all:?}");
        assert!(all.contains("\"Success\""), "{all:?}");
        place.is_well();
    }
}

#[test]
fn base64_that_is_none_closes_the_session() {
    for place in Place::both() {
        let bytes = [place.websocket("cat", "base64"), short(0x81, b"0!!!!")].concat();
        let all = place.answer(&bytes);
        assert!(String::from_utf8_lossy(&all).contains("not base64"), "{all:?}");
        place.is_well();
    }
}

#[test]
fn requests_that_are_wrong_are_refused() {
    let node = Place::node();
    let text = String::from_utf8(node.websocket("cat", "v5")).unwrap();
    let spdy = "POST /exec/default/box/box?command=cat&input=1&output=1 HTTP/1.1\r\nHost: \
                localhost\r\n\
                Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
                X-Stream-Protocol-Version: v9.channel.k8s.io\r\n\r\n";
    for (request, code) in [
        (text.replace("Version: 13", "Version: 12"), 400),
        (text.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400),
        (text.replace("v5.channel", "v9.channel"), 403),
        (text.replace("&output=1&error=1", "").replace("input=1", "x=1"), 400),
        (text.replace("/box/box", "/nope/box"), 404),
        // The kubelet's own code for it.
        (text.replace("Connection: Upgrade", "Connection: close"), 500),
        (spdy.to_owned(), 403),
        ("GARBAGE\r\n\r\n".to_owned(), 400),
    ] {
        let mut stream = node.connect();
        stream.write_all(request.as_bytes()).unwrap();
        // The connection stays open for another request: the first piece has the answer's head.
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        let all = String::from_utf8_lossy(&piece[..read]).into_owned();
        assert!(all.starts_with(&format!("HTTP/1.1 {code} ")), "{code}: {request}\n{all:?}");
    }
    node.is_well();
}

#[test]
fn heads_without_end_and_clients_without_haste_are_let_go() {
    let node = Place::node();
    let started = b"GET /exec/default/box/box HTTP/1.1\r\n";
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = node.connect();
            let _ = stream.write_all(started);
            while stream.write_all(b"X-More: and more and more\r\n").is_ok() {}
        });
        // Half a head, and then nothing; and nothing at all.
        scope.spawn(|| node.answer(started));
        scope.spawn(|| node.answer(b""));
        // SPDY without streams.
        scope.spawn(|| {
            let request = b"POST /exec/default/box/box?command=cat&input=1&output=1 HTTP/1.1\r\n\
                            Host: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                            X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
            let all = node.answer(request);
            assert!(all.starts_with(b"HTTP/1.1 101 "), "{all:?}");
        });
    });
    node.is_well();
}

/// Bytes of a size that never end, or never say what they are for.
#[test]
fn floods_cost_little() {
    const MANY: usize = 200_000;
    let fragments = [short(0x02, b"\0"), short(0x00, &[b'x'; 100]).repeat(MANY)].concat();
    let empty = [short(0x02, b"\0"), short(0x00, b"").repeat(MANY)].concat();
    let pings = short(0x89, &[7; 125]).repeat(MANY);
    let pongs = short(0x8a, b"").repeat(MANY);
    // 2^62 bytes of input are announced: what comes of it goes to the process, and no more.
    let endless = [&[0x82, 0xff, 0x40][..], &[0; 11], &[0], &[b'x'; 100_000]].concat();
    for place in Place::both() {
        for flood in [&fragments, &empty, &pings, &pongs, &endless] {
            let mut stream = place.connect();
            stream.write_all(&place.websocket("cat+%3E/dev/null", "v5")).unwrap();
            // Nobody reads the answers: at some point they are not taken any more.
            for piece in flood.chunks(1 << 20).take(24) {
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
        }
        place.is_well();
    }
}

#[test]
fn after_sizes_that_are_none_input_goes_on() {
    let mut bytes = Vec::new();
    for size in [&b"{\"Width\":70000,\"Height\":1}"[..], b"{", b"[]", b"null", b"\xff\xfe", b""] {
        bytes.extend(short(0x82, &[b"\x04", size].concat()));
    }
    bytes.extend(frame(0x82, &[&b"\x04"[..], &[b'{'; 60_000]].concat()));
    bytes.extend([short(0x82, b"\0good"), short(0x82, &[255, 0])].concat());
    for place in Place::both() {
        let all = place.answer(&[&place.websocket("cat", "v5")[..], &bytes].concat());
        let all = String::from_utf8_lossy(&all);
        assert!(all.contains("\u{1}good"), "{}: {all:?}", place.name());
        place.is_well();
    }
}

/// Boxes in between may disagree about where such a request ends: what follows must never be
/// another one.
#[test]
fn nothing_is_smuggled_behind_a_request() {
    let hidden = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for place in Place::both() {
        let text = String::from_utf8(place.websocket("cat", "v5")).unwrap();
        let (head, body) = (text.trim_end(), hidden.len());
        for (headers, code) in [
            (format!("Content-Length: {body}"), 400),
            ("Transfer-Encoding: chunked".to_owned(), 400),
            (format!("Transfer-Encoding: chunked\r\nContent-Length: {body}"), 400),
            (format!("Content-Length: {body}\r\nContent-Length: 0"), 400),
            ("Transfer-Encoding: identity".to_owned(), 400),
            // Behind a good one it is a session's first bytes, and no frame.
            ("X-Good: yes".to_owned(), 101),
        ] {
            let request = format!("{head}\r\n{headers}\r\n\r\n{hidden}");
            let mut stream = place.connect();
            stream.write_all(request.as_bytes()).unwrap();
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).unwrap();
            let mut all = piece[..read].to_vec();
            if code == 101 {
                all.extend(rest(stream));
            }
            let all = String::from_utf8_lossy(&all);
            let what = format!("{}: {headers}: {all:?}", place.name());
            assert!(all.starts_with(&format!("HTTP/1.1 {code} ")), "{what}");
            let answers = all.split("HTTP/1.1 ").filter(|rest| rest.starts_with(['1', '2', '4']));
            assert_eq!(answers.count(), 1, "{what}");
        }
        place.is_well();
    }
}

/// Each ends with the server's own patience, or the client's end, and takes its process along.
#[test]
fn halves_are_let_go() {
    for place in Place::both() {
        // Half a frame, and the end: the command is hung up on and its output is nobody's.
        for cut in [1, 3, 8] {
            let mut stream = place.tcp();
            let bytes = [place.websocket("cat", "v5"), short(0x82, b"\0good")[..cut].to_vec()];
            if place.name() == "node" {
                stream.write_all(&bytes.concat()).unwrap();
            } else {
                // A hello of 512 bytes of which these are the first.
                stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..cut]).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
            rest(stream);
        }
        let mut stream = place.connect();
        let request = [place.websocket("cat", "v5"), short(0x82, b"\0good")[..8].to_vec()];
        stream.write_all(&request.concat()).unwrap();
        drop(stream);
        // Half a hello, and silence.
        let mut silent = place.tcp();
        silent.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).unwrap();
        rest(silent);
        place.is_well();
    }
}

#[test]
fn a_session_beside_hostile_ones_does_not_notice() {
    let dev = Server::dev(bowline(), &[]);
    let address = dev.address();
    let left = thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut stream = TcpStream::connect(&address).unwrap();
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    let _ = stream.write_all(&[0x16, 3, 1, 0xff, 0xff, 0, 0, 0, 1, 2, 3, 0xff]);
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = rest(stream);
                }
            });
        }
        client(&dev).hashed(&["-i"], &["cat"], Input::Noise(5_000_000))
    });
    assert_eq!((left.bytes, left.status.code()), (5_000_000, Some(0)), "{left:?}");
}
