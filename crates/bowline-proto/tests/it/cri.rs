//! The face in front of a container runtime: what passes, what is exchanged, and what is not.

mod ends;
mod model;
mod wire;

use bowline_proto::cri::{Asked, Face, Kept};
use bowline_proto::limits::{CRI_ANSWER_BYTES, CRI_CALLS, CRI_HELD_BYTES};
use bowline_proto::session::Wants;
use bowline_proto::{Intermediary, Leg, Next, Time};
use bytes::BytesMut;
use proptest::prelude::*;

use self::wire::*;
use crate::wire::{all, vector};

const NOW: Time = Time::ZERO;
const NOTHING: [u8; 0] = [];

/// A face between a client and a runtime that say what a test says.
struct Between<'a>(Face<&'a mut Louder>);

impl Between<'_> {
    fn new(louder: &mut Louder) -> Between<'_> {
        let mut between = Between(Face::new(louder));
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        assert_eq!(between.client(&hello), hello);
        let hello = frame(SETTINGS, 0, 0, &[]);
        assert_eq!(between.runtime(&hello), hello);
        between
    }

    /// What the runtime gets of what a client says.
    fn client(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.says(Leg::Near, bytes)
    }

    /// What the client gets of what the runtime says.
    fn runtime(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.says(Leg::Far, bytes)
    }

    fn says(&mut self, leg: Leg, bytes: &[u8]) -> Vec<u8> {
        self.0.receive(NOW, leg, BytesMut::from(bytes));
        assert_eq!(self.0.poll(NOW), Next::Idle(None));
        self.waits(if leg == Leg::Near { Leg::Far } else { Leg::Near })
    }

    fn waits(&mut self, leg: Leg) -> Vec<u8> {
        all(self.0.outbox(leg)).to_vec()
    }

    /// A client calls, all at once, and the runtime gets that.
    fn call(&mut self, stream: u32, path: &str, request: &[u8]) {
        let call = [headers(stream, path), frame(DATA, END_STREAM, stream, request)].concat();
        assert_eq!(self.client(&call), call);
    }
}

/// The frames of a good answer.
fn answered(stream: u32, url: &str) -> Vec<u8> {
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]);
    let data = frame(DATA, 0, stream, &answer(url));
    [frame(HEADERS, END_HEADERS, stream, &[0x88]), data, trailers].concat()
}

#[test]
fn the_url_in_an_answer_is_exchanged_and_nothing_else_changes() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.call(1, EXEC, &request("one"));
    between.call(3, EXEC, &request("leave"));
    between.call(5, LIST, &request("five"));
    between.call(7, ATTACH, &request("seven"));
    assert_eq!(between.runtime(&answered(1, URL)), answered(1, &wire::louder(URL, 0)));
    assert_eq!(between.runtime(&answered(3, URL)), answered(3, URL));
    assert_eq!(between.runtime(&answered(5, URL)), answered(5, URL));
    assert_eq!(between.runtime(&answered(7, URL)), answered(7, &wire::louder(URL, 0)));
    assert_eq!(louder.calls[..2], [asked("one"), asked("leave")]);
    assert!(matches!(louder.calls[2].asked, Asked::Attach(_)));
    assert_eq!(louder.kept, vec![]);
}

#[test]
fn a_port_forward_says_its_ports() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.call(1, PORT_FORWARD, &message(b"\x0a\x03pod\x10\x50\x10\x51"));
    between.runtime(&answered(1, URL));
    assert_eq!(louder.calls[0].asked, Asked::PortForward { ports: vec![80, 81] });
}

#[test]
fn headers_are_read_behind_padding_and_priority_and_over_several_frames() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    let block = block(EXEC);
    let (first, rest) = block.split_at(10);
    let (second, third) = rest.split_at(10);
    let payload = [&[3], &[0, 0, 0, 1, 9][..], first, &[0; 3]].concat();
    let call = [
        frame(HEADERS, PADDED | PRIORITY, 1, &payload),
        frame(CONTINUATION, 0, 1, second),
        frame(CONTINUATION, END_HEADERS, 1, third),
        padded(0, 1, &request("one")[..9], 200),
        padded(END_STREAM, 1, &request("one")[9..], 0),
    ]
    .concat();
    assert_eq!(between.client(&call), call);
    assert_eq!(between.runtime(&answered(1, URL)), answered(1, &wire::louder(URL, 0)));
    assert_eq!(louder.calls, [asked("one")]);
}

#[test]
fn an_answer_keeps_its_frames_and_their_padding() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.call(1, EXEC, &request("one"));
    let frames = |content: &[u8]| {
        let more = [&content[20..], b"behind"].concat();
        [
            frame(DATA, 0, 1, &content[..1]),
            frame(DATA, 0, 1, &[]),
            padded(0, 1, &content[1..20], 7),
            padded(END_STREAM, 1, &more, 255),
        ]
        .concat()
    };
    let passed = between.runtime(&frames(&answer(URL)));
    assert_eq!(passed, frames(&answer(&wire::louder(URL, 0))));
}

#[test]
fn others_do_not_wait_behind_an_answer_that_is_held() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.call(1, EXEC, &request("one"));
    between.call(3, EXEC, &request("three"));
    let data = frame(DATA, 0, 1, &answer(URL));
    assert_eq!(between.runtime(&data[..20]), NOTHING);
    assert_eq!(between.runtime(&data[20..30]), NOTHING);
    assert_eq!(between.runtime(&data[30..]), frame(DATA, 0, 1, &answer(&wire::louder(URL, 0))));
    let data = frame(DATA, 0, 3, &answer(URL)[..20]);
    assert_eq!(between.runtime(&data), NOTHING);
    let others = [frame(PING, 0, 0, &[7; 8]), update(3, 7), frame(DATA, 0, 9, &[7; 100])].concat();
    assert_eq!(between.runtime(&others), others);
    let rest = frame(DATA, 0, 3, &answer(URL)[20..]);
    assert_eq!(between.runtime(&rest).len(), data.len() + rest.len());
}

/// What is not one message with a URL passes as it came, and nobody is asked for another URL.
#[test]
fn what_is_no_answer_with_a_url_passes_as_it_came() {
    let good = answer(URL);
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
    let compressed = [&[1], &good[1..]].concat();
    let long = [&[0, 0, 1, 0, 0][..], b"\x0a\x05"].concat();
    let cases = [
        (frame(DATA, 0, 1, &compressed), Some(Kept::Compressed)),
        (frame(DATA, 0, 1, b"<html>"), Some(Kept::Unreadable)),
        (frame(DATA, 0, 1, &long), Some(Kept::TooLong)),
        (frame(DATA, 0, 1, &message(b"\x0a\x05a")), Some(Kept::Unreadable)),
        (frame(DATA, 0, 1, &message(b"\x0a\x00")), None),
        (frame(DATA, END_STREAM, 1, &good[..20]), Some(Kept::Unreadable)),
        ([frame(DATA, 0, 1, &good[..20]), trailers.clone()].concat(), Some(Kept::Unreadable)),
        (
            [frame(DATA, 0, 1, &good[..20]), frame(0xbe, 0, 1, &[7])].concat(),
            Some(Kept::Unreadable),
        ),
        (trailers, None),
        (frame(DATA, PADDED, 1, &[9, 0, 0]), Some(Kept::Unreadable)),
        (frame(DATA, PADDED, 1, &[]), Some(Kept::Unreadable)),
        ([frame(DATA, 0, 1, &good[..20]), frame(RST_STREAM, 0, 1, &[0; 4])].concat(), None),
    ];
    for (frames, why) in cases {
        let mut louder = Louder::default();
        let mut between = Between::new(&mut louder);
        between.call(1, EXEC, &request("one"));
        assert_eq!(between.runtime(&frames), frames);
        let late = frame(DATA, 0, 1, &good);
        assert_eq!(between.runtime(&late), late);
        assert_eq!(louder.calls, vec![], "{frames:x?}");
        assert_eq!(louder.kept, Vec::from_iter(why), "{frames:x?}");
    }
}

/// Each piece costs: a head of nine bytes between two payloads as much as these do.
#[test]
fn what_is_nobodys_answer_leaves_in_one_piece() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.call(1, LIST, &request("box"));
    let piece = frame(DATA, 0, 1, &[b'.'; 16_384]);
    let end = frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x88");
    let said = [frame(HEADERS, END_HEADERS, 1, b"\x88"), piece.repeat(8), end].concat();
    // Of the second read, the first piece is the rest of a payload.
    let (one, other) = said.split_at(70_000);
    for (read, pieces) in [(one, 1), (other, 2)] {
        between.0.receive(NOW, Leg::Far, BytesMut::from(read));
        assert_eq!(between.0.outbox(Leg::Near).chunks().count(), pieces);
        assert_eq!(between.waits(Leg::Near), read);
    }
}

#[test]
fn what_was_not_asked_for_in_full_is_not_exchanged() {
    let compressed = [&[1], &request("one")[1..]].concat();
    for (request, why) in [
        (&compressed[..], Kept::Compressed),
        (&request("one")[..9], Kept::Unreadable),
        (b"\x00\x00\x00\x00\x01\x07", Kept::Unreadable),
    ] {
        let mut louder = Louder::default();
        let mut between = Between::new(&mut louder);
        between.call(1, EXEC, request);
        assert_eq!(between.runtime(&answered(1, URL)), answered(1, URL));
        assert_eq!((&louder.calls[..], &louder.kept[..]), (&[][..], &[why][..]));
    }
}

#[test]
fn a_request_with_bad_padding_is_for_the_runtime_to_judge() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.client(&headers(1, EXEC));
    let bad = frame(DATA, END_STREAM | PADDED, 1, &[&[200], &request("one")[..]].concat());
    assert_eq!([between.client(&bad[..12]), between.client(&bad[12..])].concat(), bad);
    assert_eq!(between.runtime(&answered(1, URL)), answered(1, URL));
    assert_eq!((&louder.calls[..], &louder.kept[..]), (&[][..], &[Kept::Unreadable][..]));
}

#[test]
fn a_call_that_the_client_cancels_is_forgotten_at_once() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    let data = |stream| frame(DATA, 0, stream, &answer(URL));
    for stream in [1, 3, 5] {
        between.call(stream, EXEC, &request("one"));
    }
    // Nothing of the answer has come.
    assert_eq!(between.client(&reset(1)), reset(1));
    assert_eq!(between.runtime(&data(1)), data(1));
    // Half of it has: it counts in the client's window, and goes as it came.
    assert_eq!(between.runtime(&data(3)[..20]), NOTHING);
    assert_eq!(between.client(&reset(3)), reset(3));
    assert_eq!(between.waits(Leg::Near), data(3)[..20]);
    assert_eq!(between.runtime(&data(3)[20..]), data(3)[20..]);
    // The same inside of another frame: at its end.
    let half = frame(DATA, 0, 5, &answer(URL)[..20]);
    let other = frame(DATA, 0, 9, &[7; 100]);
    assert_eq!(between.runtime(&half), NOTHING);
    assert_eq!(between.runtime(&other[..50]), other[..50]);
    for _ in 0..3 {
        between.client(&reset(5));
        assert_eq!(between.waits(Leg::Near), NOTHING);
    }
    assert_eq!(between.runtime(&other[50..]), [&other[50..], &half].concat());
    assert_eq!((louder.calls.len(), louder.kept.len()), (0, 0));
}

#[test]
fn of_two_calls_that_are_cancelled_the_one_whose_frame_comes_goes_to_its_end() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.call(1, EXEC, &request("one"));
    between.call(3, EXEC, &request("three"));
    let (comes, half) = (frame(DATA, 0, 1, &answer(URL)), frame(DATA, 0, 3, &answer(URL)[..20]));
    assert_eq!(between.runtime(&[&half, &comes[..20]].concat()), NOTHING);
    let resets = [1, 3].map(|stream| frame(RST_STREAM, 0, stream, &[0; 4])).concat();
    assert_eq!(between.client(&resets), resets);
    assert_eq!(between.waits(Leg::Near), comes[..20]);
    assert_eq!(between.runtime(&comes[20..]), [&comes[20..], &half].concat());
}

#[test]
fn a_stream_is_opened_once() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.call(1, LIST, &request("one"));
    // Trailers of a request, whatever is in them, and a stream that is not new.
    between.client(&[headers(1, EXEC), headers(3, LIST), headers(1, EXEC)].concat());
    assert_eq!(between.runtime(&answered(1, URL)), answered(1, URL));
}

#[test]
fn a_longer_url_is_taken_from_what_the_client_grants_next() {
    let mut louder = Louder { extra: 100, ..Louder::default() };
    let mut between = Between::new(&mut louder);
    between.call(1, EXEC, &request("one"));
    let (old, new) = (answer(URL), answer(&wire::louder(URL, 100)));
    // One more byte of length.
    let extra = new.len() - old.len();
    assert_eq!(extra, 101);
    let expected = [frame(DATA, 0, 1, &new[..extra]), frame(DATA, 0, 1, &new[extra..])].concat();
    assert_eq!(between.runtime(&frame(DATA, 0, 1, &old)), expected);
    assert_eq!(between.client(&update(0, 60)), NOTHING);
    assert_eq!(between.client(&update(3, 60)), update(3, 60), "another stream");
    assert_eq!(between.client(&update(0, 60)), update(0, 19));
    assert_eq!(between.client(&update(0, 60)), update(0, 60));
    assert_eq!(between.client(&update(1, 0x8000_0065)), NOTHING);
    assert_eq!(between.client(&update(1, 0x8000_0065)), update(1, 0x8000_0065));
    assert_eq!(between.client(&update(0, 0)), update(0, 0), "the runtime judges it");
    let odd = frame(WINDOW_UPDATE, 0, 0, &[1, 2, 3]);
    assert_eq!(between.client(&odd), odd);
}

#[test]
fn what_the_clients_window_cannot_take_waits_for_it() {
    let mut louder = Louder { extra: 100, ..Louder::default() };
    let mut between = Between::new(&mut louder);
    between.call(1, EXEC, &request("one"));
    let (old, new) = (answer(URL), answer(&wire::louder(URL, 100)));
    between.runtime(&frame(DATA, 0, 1, &old));
    // All that the runtime believes to be left, and a frame that needs no window.
    let content = vec![7; 65_535 - old.len()];
    let left = 65_535 - new.len();
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0x88]);
    let says = [frame(DATA, END_STREAM, 3, &content), trailers.clone()].concat();
    // The first half of the frame's part has gone: the rest of it has to come.
    let came = between.runtime(&says[..30_000]);
    assert!(between.0.wants_read(Leg::Far));
    let came = [came, between.runtime(&says[30_000..])].concat();
    assert_eq!(came, frame(DATA, 0, 3, &content[..left]));
    assert!(!between.0.wants_read(Leg::Far));
    assert_eq!(between.client(&update(0, 1)), NOTHING);
    assert_eq!(between.waits(Leg::Near), frame(DATA, 0, 3, &[7]));
    assert_eq!(between.client(&update(0, 200)), update(0, 100));
    let rest = frame(DATA, END_STREAM, 3, &content[left + 1..]);
    assert_eq!(between.waits(Leg::Near), [rest, trailers].concat());
    assert!(between.0.wants_read(Leg::Far));
}

#[test]
fn a_clients_window_for_a_call_that_takes_no_longer_answer_leaves_the_url() {
    let old = answer(URL);
    for (initial, grant, fits) in
        [(old.len() + 100, 0, false), (old.len() + 101, 0, true), (old.len(), 101, true)]
    {
        let mut louder = Louder { extra: 100, ..Louder::default() };
        let mut between = Between::new(&mut louder);
        let initial = [&[0, 4, 0, 0], &(initial as u16).to_be_bytes()[..]].concat();
        between.client(&frame(SETTINGS, 0, 0, &initial));
        between.call(1, EXEC, &request("one"));
        between.client(&update(1, grant));
        let came = between.runtime(&frame(DATA, 0, 1, &old));
        assert_eq!(came.len(), 9 + old.len() + if fits { 110 } else { 0 });
        assert_eq!(louder.kept, if fits { vec![] } else { vec![Kept::NoWindow] });
    }
}

#[test]
fn headers_that_cannot_be_read_are_for_the_runtime_to_judge() {
    let bad = [
        frame(HEADERS, END_HEADERS, 1, &[0x80]),
        frame(HEADERS, END_HEADERS, 1, &[0x40, 3]),
        frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x83]),
        frame(CONTINUATION, END_HEADERS, 1, &[0x83]),
        [frame(HEADERS, 0, 1, &[0x83]), frame(PING, 0, 0, &[0; 8])].concat(),
        [frame(HEADERS, 0, 1, &[0x83]), frame(CONTINUATION, 0, 3, &[0x86])].concat(),
    ];
    for bad in bad {
        let mut louder = Louder::default();
        let mut between = Between::new(&mut louder);
        assert_eq!(between.client(&bad), bad);
        between.call(5, EXEC, &request("five"));
        assert_eq!(between.runtime(&answered(5, URL)), answered(5, URL));
        assert_eq!((&louder.calls[..], &louder.kept[..]), (&[][..], &[Kept::Headers][..]));
    }
}

#[test]
fn the_table_of_headers_is_as_large_as_the_runtime_says() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9, 0, 1, 0, 0, 0x20, 0]);
    assert_eq!(between.runtime(&settings), settings);
    let block = [&[0x3f, 0xe1, 0x3f][..], &block(EXEC)].concat();
    between.client(&frame(HEADERS, END_HEADERS, 1, &block));
    between.client(&frame(DATA, END_STREAM, 1, &request("one")));
    between.runtime(&answered(1, URL));
    assert_eq!(louder.calls, [asked("one")]);
}

#[test]
fn no_more_calls_are_watched_and_no_more_bytes_held_than_the_bounds() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    let streams: Vec<u32> = (0..=CRI_CALLS as u32).map(|call| call * 2 + 1).collect();
    for stream in &streams {
        between.call(*stream, EXEC, &request("one"));
    }
    let last = *streams.last().unwrap();
    assert_eq!(between.runtime(&answered(last, URL)), answered(last, URL));
    // Half an answer each, until no more is held.
    let half = &[&[0, 0, 0, 0xff, 0xf0][..], &[0x0a; 20_000]].concat();
    let mut held = 0;
    for stream in &streams[..CRI_CALLS] {
        let frame = frame(DATA, 0, *stream, half);
        let passed = between.runtime(&frame);
        held += frame.len() - passed.len();
        assert!(passed.is_empty() || passed == frame);
    }
    assert!(held > CRI_HELD_BYTES - 30_000 && held <= CRI_HELD_BYTES, "{held}");
    // Of one answer, however many frames it comes in.
    let mut held = 0;
    while between.runtime(&frame(DATA, 0, 1, &[])).is_empty() {
        held += 9;
        assert!(held <= CRI_ANSWER_BYTES);
    }
    assert!(louder.kept.iter().all(|why| *why == Kept::TooMany));
}

#[test]
fn what_is_not_http2_passes() {
    let mut louder = Louder::default();
    let mut between = Between(Face::new(&mut louder));
    let request = b"PRI * HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert_eq!(between.client(&request[..5]), request[..5]);
    assert_eq!(between.client(&request[5..]), request[5..]);
}

/// The client has one table for headers, which its later requests refer to.
#[test]
fn calls_of_go_are_read_and_their_answers_exchanged() {
    let client = vector(include_str!("../vectors/grpc-go-client.hex")).concat();
    let server = vector(include_str!("../vectors/grpc-go-server.hex")).concat();
    let mut louder = Louder::default();
    let mut between = Between(Face::new(&mut louder));
    assert_eq!(between.client(&client), client);
    let exchanged =
        String::from_utf8_lossy(&between.runtime(&server)).replace("HTTP://", "http://");
    let expected = String::from_utf8_lossy(&server)
        .replace("127.0.0.1:10010/exec/AbCdEfGh", "127.0.0.1:10010/EXEC/ABCDEFGH");
    assert_eq!(exchanged, expected);
    let wants = |tty, stderr| Wants { stdin: true, stdout: true, stderr, tty };
    let expected = [
        (Asked::Exec(wants(false, true)), "ab"),
        (Asked::Attach(wants(true, false)), "cd"),
        (Asked::PortForward { ports: vec![80, 8080] }, "ef"),
        (Asked::Exec(wants(true, false)), "ab"),
    ];
    let calls = louder.calls.iter().map(|call| (call.asked.clone(), call.id.clone()));
    let expected = expected.map(|(asked, id)| (asked, id.repeat(32)));
    assert_eq!(calls.collect::<Vec<_>>(), expected);
    assert_eq!(louder.kept, []);
}

/// What a test says, leg by leg.
fn script() -> Vec<(Leg, Vec<u8>)> {
    let longer = [frame(DATA, 0, 7, &answer(URL)), frame(DATA, 0, 9, &[7; 1000])].concat();
    let calls = [1, 3, 5, 7].map(|stream| {
        [headers(stream, EXEC), padded(END_STREAM, stream, &request("id"), 3)].concat()
    });
    vec![
        (Leg::Near, [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0])].concat()),
        (Leg::Far, frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 2, 0])),
        (Leg::Near, calls.concat()),
        (Leg::Far, [answered(1, URL), frame(0xbb, 0xff, 3, &[1; 300])].concat()),
        (Leg::Near, frame(RST_STREAM, 0, 5, &[0; 4])),
        (Leg::Far, frame(DATA, 0, 3, &answer(URL)[..30])),
        (Leg::Far, [longer, frame(DATA, END_STREAM, 3, &answer(URL)[30..])].concat()),
        (Leg::Near, [update(0, 3), update(0, 500), update(3, 7), update(7, 100)].concat()),
        (Leg::Far, frame(DATA, 0, 9, &[8; 16_384]).repeat(4)),
        (Leg::Near, [update(0, 66_000), headers(11, "/a"), frame(PING, 0, 0, &[])].concat()),
    ]
}

proptest! {
    #[test]
    fn any_cut_of_the_bytes_gives_the_same_bytes(
        sizes in prop::collection::vec(1usize..400, 1..20),
        extra in 0usize..200,
    ) {
        let play = |sizes: &[usize]| {
            let mut louder = Louder { extra, ..Louder::default() };
            let mut face = Face::new(&mut louder);
            let (mut far, mut near) = (vec![], vec![]);
            let mut sizes = sizes.iter().cycle();
            for (leg, bytes) in script() {
                let mut bytes = &bytes[..];
                while !bytes.is_empty() {
                    let (piece, rest) = bytes.split_at((*sizes.next().unwrap()).min(bytes.len()));
                    bytes = rest;
                    face.receive(NOW, leg, piece.into());
                    far.extend(all(face.outbox(Leg::Far)));
                    near.extend(all(face.outbox(Leg::Near)));
                }
            }
            drop(face);
            (far, near, louder.calls, louder.kept)
        };
        prop_assert_eq!(play(&sizes), play(&[usize::MAX]));
    }
}
