//! SPDY clients that mean harm, or cannot do better: a GOAWAY or a close, in time and at little
//! cost, and the process gets nothing that was not meant for it.

use std::io::Write;
use std::thread;

use bowline_proto::spdy::{Connection, Role};
use bytes::Bytes;

use super::raw::Place;

/// The streams of a session with stdin, as a good client opens them.
const STREAMS: [&str; 4] = ["error", "stdin", "stdout", "stderr"];
/// stdin is the second one, and a client's numbers are odd.
const STDIN: u8 = 3;

/// The bytes of each step of a good session: four streams, input, its end.
fn steps() -> Vec<Vec<u8>> {
    let mut spdy = Connection::new(Role::Client);
    let mut steps = Vec::new();
    let mut taken = |spdy: &mut Connection| {
        let bytes: Vec<u8> = spdy.outbox().chunks().flatten().copied().collect();
        spdy.outbox().advance(bytes.len());
        steps.push(bytes);
    };
    let ids = STREAMS.map(|name| {
        let id = spdy.open(&[("streamtype", name)]);
        taken(&mut spdy);
        id
    });
    spdy.send(ids[1], Bytes::from_static(b"good"));
    taken(&mut spdy);
    spdy.finish(ids[1]);
    taken(&mut spdy);
    steps
}

pub fn control(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0x80, 3, 0, kind, flags][..], &length[1..], body].concat()
}

fn data(stream: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0, 0, 0, stream, 0][..], &length[1..], bytes].concat()
}

/// SYN_STREAM with a block that is `inflated` before it is compressed. Without the dictionary: who
/// leaves it out is read as well.
pub fn syn_stream(stream: u8, inflated: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 1 << 18];
    let config = zlib_rs::DeflateConfig::new(9);
    let (block, _) = zlib_rs::compress_slice(&mut block, inflated, config);
    control(1, 0, &[&[0, 0, 0, stream, 0, 0, 0, 0, 0, 0][..], block].concat())
}

/// All that a server says to these bytes, until it closes.
fn answer(place: &Place, command: &str, steps: &[&[u8]]) -> String {
    let bytes = [&[&place.spdy(command)[..]], steps].concat().concat();
    let all = place.answer(&bytes);
    assert!(all.starts_with(b"HTTP/1.1 101 "), "{}: {all:?}", place.name());
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn frames_that_are_wrong_end_the_connection_at_every_point() {
    let steps = steps();
    let wrong: [(&str, Vec<u8>); 11] = [
        ("version 2", vec![0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]),
        ("an unknown type", control(5, 0, &[0; 4])),
        ("a short PING", control(6, 0, &[0; 3])),
        ("a long GOAWAY", control(7, 0, &[0; 12])),
        ("RST_STREAM of stream 0", control(3, 0, &[0, 0, 0, 0, 0, 0, 0, 1])),
        ("RST_STREAM with status 0", control(3, 0, &[0, 0, 0, 3, 0, 0, 0, 0])),
        ("data of stream 0", data(0, b"evil")),
        ("SETTINGS of another length", control(4, 0, &[0, 0, 0, 9, 0, 0, 0, 0])),
        ("2^31 headers", syn_stream(99, &[0x80, 0, 0, 0])),
        ("a header of 2^31 bytes", syn_stream(99, &[0, 0, 0, 1, 0x80, 0, 0, 0])),
        ("a control frame of 16 MiB", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
    ];
    for place in Place::both() {
        for (what, bytes) in &wrong {
            for point in 0..=STREAMS.len() {
                // Once all are there, no header is read any more.
                if point == STREAMS.len() && what.contains("header") {
                    continue;
                }
                let good: Vec<&[u8]> = steps[..point].iter().map(|step| &step[..]).collect();
                let evil = data(STDIN, b"evil");
                let all = answer(&place, "cat", &[&good[..], &[bytes, &evil]].concat());
                assert!(!all.contains("evil"), "{}: {what} at {point}: {all:?}", place.name());
            }
        }
        place.is_well();
    }
}

#[test]
fn what_is_merely_odd_is_passed_over() {
    let steps = steps();
    let good = |range: std::ops::Range<usize>| steps[range].concat();
    let odd = [
        // Of streams that nobody opened.
        data(77, b"evil"),
        control(3, 0, &[0, 0, 0, 77, 0, 0, 0, 5]),
        control(9, 0, &[0, 0, 0, 77, 0, 0, 1, 0]),
        control(4, 0, &[0, 0, 0, 0]),
        control(6, 0, &[0, 0, 0, 1]),
        // To the server's own channel.
        data(5, b"evil"),
        // Of a number that a client may not use.
        syn_stream(8, &[0; 4]),
    ];
    for place in Place::both() {
        for bytes in &odd {
            let all = answer(&place, "cat", &[&good(0..4), bytes, &good(4..6)]);
            let name = place.name();
            assert!(all.contains("good") && !all.contains("evil"), "{name}: {bytes:?}: {all:?}");
            assert!(all.contains("\"Success\""), "{name}: {bytes:?}: {all:?}");
        }
        place.is_well();
    }
}

/// A reset or a goodbye at any point ends the session, and the command with it. Who says goodbye is
/// given some seconds to leave, so all do it at once.
#[test]
fn resets_and_goodbyes_are_ends() {
    let steps = steps();
    let goaway = control(7, 0, &[0; 8]);
    let resets = [1, 3, 5, 7].map(|stream| control(3, 0, &[0, 0, 0, stream, 0, 0, 0, 5]));
    for place in &Place::both() {
        thread::scope(|scope| {
            for point in 0..=STREAMS.len() {
                for reset in [&[][..]].into_iter().chain(resets[..point].iter().map(|r| &r[..])) {
                    let bytes = [&steps[..point].concat(), reset, &goaway].concat();
                    scope.spawn(move || answer(place, "cat", &[&bytes]));
                }
            }
        });
        place.is_well();
    }
}

#[test]
fn bombs_and_floods_cost_little() {
    let steps = steps();
    let mut bomb = super::ends::bomb();
    // A client's streams have odd numbers.
    bomb[11] = 1;
    let many_streams: Vec<u8> = {
        let mut spdy = Connection::new(Role::Client);
        for _ in 0..20_000 {
            spdy.open(&[("streamtype", "stdout")]);
        }
        spdy.outbox().chunks().flatten().copied().collect()
    };
    let pings = control(6, 0, &[0, 0, 0, 1]).repeat(500_000);
    for place in Place::both() {
        answer(&place, "cat", &[&bomb]);
        for flood in [&many_streams, &[&steps[..4].concat()[..], &pings].concat()] {
            let mut stream = place.connect();
            stream.write_all(&place.spdy("cat+%3E/dev/null")).unwrap();
            // Nobody reads the answers: at some point they are not taken any more.
            let _ = stream.write_all(flood);
        }
        place.is_well();
    }
}
