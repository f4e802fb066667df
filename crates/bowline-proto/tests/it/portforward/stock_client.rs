//! A server of ours, told things by a client that speaks as kubectl and Go's library do.

use bowline_proto::limits::{EARLY_BYTES, PAIR_PATIENCE};
use bowline_proto::portforward::{Forward, Id};
use bowline_proto::session::{Cause, Side};
use bowline_proto::spdy::{Connection, Event as Frame, Role, StreamId};
use bowline_proto::{Machine, Next, Time};
use bytes::Bytes;

use super::{Carrier, End, NOW, Seen, bytes};
use crate::wire::{Cuts, all, taken};

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// A client of SPDY, as kubectl is, and our server.
struct Pair {
    client: Connection,
    server: Forward,
    seen: Seen,
    cuts: Cuts,
    /// What the client heard, with the answers to its streams left out.
    heard: Vec<Frame>,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            client: Connection::new(Role::Client),
            server: Carrier::Plain.forward(Side::Server),
            seen: Seen::default(),
            cuts: Cuts::new(&[7, 1, 50, 20_000]),
            heard: vec![],
        }
    }

    fn open(&mut self, kind: &str, request: &str) -> StreamId {
        self.client.open(&[("streamtype", kind), ("port", "80"), ("requestid", request)])
    }

    /// The two streams of a connection, the error stream first, and finished at once.
    fn connect(&mut self, request: &str) -> (StreamId, StreamId) {
        let error = self.open("error", request);
        self.client.finish(error);
        (error, self.open("data", request))
    }

    /// What each says goes to the other, in pieces; gives which streams were reset.
    fn pass(&mut self, now: Time) -> Vec<(StreamId, u32)> {
        let before = self.heard.len();
        loop {
            self.seen.poll(&mut self.server, now);
            let up = self.cuts.piece(self.client.outbox());
            let down = self.cuts.piece(self.server.outbox());
            if up.is_empty() && down.is_empty() {
                break;
            }
            if !up.is_empty() {
                self.server.receive(now, up);
            }
            self.client.receive(down);
            while let Some(frame) = self.client.poll() {
                if !matches!(frame, Frame::Replied { .. }) {
                    self.heard.push(frame);
                }
            }
        }
        let resets = self.heard[before..].iter().filter_map(|frame| match frame {
            Frame::Reset(stream, code) => Some((*stream, *code)),
            _ => None,
        });
        resets.collect()
    }

    fn asked(&self) -> Vec<Id> {
        self.seen.asked.iter().map(|asked| asked.0).collect()
    }

    /// What came on a stream.
    fn text(&self, stream: StreamId) -> String {
        let data = self.heard.iter().filter_map(|frame| match frame {
            Frame::Data(id, bytes) if *id == stream => Some(&bytes[..]),
            _ => None,
        });
        String::from_utf8(data.collect::<Vec<_>>().concat()).unwrap()
    }

    /// Where in what was heard this frame is.
    fn at(&self, frame: &Frame) -> usize {
        self.heard.iter().position(|heard| heard == frame).unwrap_or_else(|| panic!("{frame:?}"))
    }
}

/// As the kubelet, which forgets an id once both streams are there.
#[test]
fn a_request_id_can_be_used_again_once_its_pair_is_complete() {
    let mut pair = Pair::new();
    let mut first = None;
    for number in 1..=3 {
        let (_, data) = pair.connect("7");
        assert_eq!(pair.pass(NOW), []);
        assert_eq!(pair.asked().len(), number);
        // The first one stays open beside the others.
        match first {
            None => first = Some(data),
            Some(_) => pair.client.reset(data, CANCEL),
        }
    }
    pair.client.send(first.unwrap(), Bytes::from_static(b"still here"));
    assert_eq!(pair.pass(NOW), []);
    let first = pair.asked()[0];
    assert_eq!((pair.seen.data.len(), pair.seen.data(first)), (1, &b"still here"[..]));
    assert_eq!(pair.server.connections(), 1);
}

#[test]
fn the_two_streams_of_a_pair_may_come_in_either_order() {
    for data_first in [false, true] {
        let mut pair = Pair::new();
        for kind in if data_first { ["data", "error"] } else { ["error", "data"] } {
            assert_eq!(pair.asked(), []);
            pair.open(kind, "0");
            assert_eq!(pair.pass(NOW), []);
        }
        assert_eq!(pair.seen.asked.iter().map(|asked| asked.1).collect::<Vec<_>>(), [80]);
    }
}

/// As the kubelet does it (docs/protocols/port-forward.md, 5.2).
#[test]
fn clients_without_request_ids_are_paired_by_the_numbers_of_their_streams() {
    let mut pair = Pair::new();
    let mut streams = Vec::new();
    for port in ["80", "81"] {
        for kind in ["error", "data"] {
            streams.push(pair.client.open(&[("streamtype", kind), ("port", port)]));
        }
    }
    assert_eq!(pair.pass(NOW), []);
    assert_eq!(pair.seen.asked.iter().map(|asked| asked.1).collect::<Vec<_>>(), [80, 81]);
    pair.client.send(streams[3], bytes("second"));
    pair.pass(NOW);
    assert_eq!(pair.seen.data(pair.asked()[1]), b"second");
}

#[test]
fn the_port_is_the_one_of_the_data_stream() {
    let mut pair = Pair::new();
    pair.client.open(&[("streamtype", "error"), ("port", "81"), ("requestid", "0")]);
    pair.client.open(&[("streamtype", "data"), ("port", "82"), ("requestid", "0")]);
    pair.pass(NOW);
    assert_eq!(pair.seen.asked.iter().map(|asked| asked.1).collect::<Vec<_>>(), [82]);
}

#[test]
fn a_stream_without_a_port_or_a_kind_is_reset_without_words() {
    let wrong: [&[(&str, &str)]; 8] = [
        &[("streamtype", "data")],
        &[("streamtype", "data"), ("port", "")],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "error"), ("port", "-1")],
        &[("streamtype", "error"), ("port", "http")],
        &[("port", "80")],
        &[("streamtype", "stdin"), ("port", "80")],
    ];
    for headers in wrong {
        let mut pair = Pair::new();
        let kept = pair.connect("0").1;
        let stream = pair.client.open(headers);
        assert_eq!(pair.pass(NOW), [(stream, CANCEL)], "{headers:?}");
        assert_eq!(pair.server.connections(), 1, "{headers:?}");
        pair.client.send(kept, bytes("on"));
        pair.pass(NOW);
        assert_eq!(pair.seen.data(pair.asked()[0]), b"on", "{headers:?}");
    }
}

#[test]
fn a_second_stream_of_a_kind_is_refused_and_the_first_one_stays() {
    for kind in ["error", "data"] {
        let other = if kind == "data" { "error" } else { "data" };
        let mut pair = Pair::new();
        pair.open(kind, "0");
        let second = pair.open(kind, "0");
        assert_eq!(pair.pass(NOW), [(second, PROTOCOL_ERROR)], "{kind}");
        pair.open(other, "0");
        assert_eq!(pair.pass(NOW), []);
        assert_eq!(pair.asked().len(), 1, "{kind}");
    }
}

#[test]
fn a_request_id_that_is_too_long_is_not_kept() {
    let mut pair = Pair::new();
    pair.open("error", &"1".repeat(64));
    let long = pair.open("error", &"1".repeat(65));
    assert_eq!(pair.pass(NOW), [(long, PROTOCOL_ERROR)]);
    assert_eq!(pair.server.connections(), 1);
}

#[test]
fn what_comes_before_its_error_stream_is_given_behind_the_request_end_included() {
    for ends in [false, true] {
        let mut pair = Pair::new();
        let data = pair.open("data", "0");
        pair.client.send(data, bytes("early "));
        pair.client.send(data, bytes("bytes"));
        if ends {
            pair.client.finish(data);
        }
        assert_eq!(pair.pass(NOW), []);
        assert!(pair.seen.data.is_empty() && pair.seen.ends.is_empty());
        pair.open("error", "0");
        if !ends {
            pair.client.send(data, bytes(" and more"));
        }
        pair.pass(NOW);
        let id = pair.asked()[0];
        let all: &[u8] = if ends { b"early bytes" } else { b"early bytes and more" };
        assert_eq!(pair.seen.data(id), all);
        assert_eq!(pair.seen.end(id), ends.then_some(End::Eof));
    }
}

#[test]
fn what_comes_too_early_is_bounded_for_the_whole_forward() {
    let mut pair = Pair::new();
    let piece = Bytes::from(vec![7; EARLY_BYTES / 4]);
    let streams: Vec<StreamId> = (0..5).map(|n| pair.open("data", &n.to_string())).collect();
    for stream in &streams {
        pair.client.send(*stream, piece.clone());
    }
    assert_eq!(pair.pass(NOW), [(streams[4], REFUSED_STREAM)]);
    // Whatever is complete makes room, and so does what is reset.
    pair.open("error", "0");
    pair.client.reset(streams[1], CANCEL);
    for request in ["8", "9"] {
        let late = pair.open("data", request);
        pair.client.send(late, piece.clone());
    }
    assert_eq!(pair.pass(NOW), []);
    assert_eq!((pair.seen.data.len(), pair.seen.data(pair.asked()[0])), (1, &piece[..]));
}

#[test]
fn a_pair_that_is_not_complete_in_time_is_told_so_where_it_can_be() {
    for kind in ["error", "data"] {
        let mut pair = Pair::new();
        let stream = pair.open(kind, "12");
        let kept = pair.connect("13").1;
        pair.pass(NOW);
        let early = Time::from_micros(PAIR_PATIENCE.as_micros() as u64 - 1);
        assert_eq!(pair.pass(early), []);
        assert_eq!(pair.server.connections(), 2);
        let resets = pair.pass(NOW + PAIR_PATIENCE);
        assert_eq!(resets.iter().map(|reset| reset.0).collect::<Vec<_>>(), [stream], "{kind}");
        if kind == "error" {
            assert_eq!(pair.text(stream), "(request=12) timed out waiting for streams");
        }
        assert_eq!((pair.server.connections(), pair.asked().len()), (1, 1), "{kind}");
        assert!(
            pair.heard.iter().all(|frame| !matches!(frame, Frame::Reset(id, _) if *id == kept))
        );
    }
}

#[test]
fn what_is_reset_at_once_leaves_nothing() {
    let mut pair = Pair::new();
    // Others wait for it, were they kept.
    pair.open("error", "incomplete");
    for number in 0..1000 {
        let (error, data) = pair.connect(&number.to_string());
        pair.client.reset(data, CANCEL);
        pair.client.reset(error, CANCEL);
        pair.pass(NOW);
    }
    assert_eq!((pair.asked().len(), pair.server.connections()), (1000, 1));
    pair.pass(NOW + PAIR_PATIENCE);
    assert_eq!(pair.server.connections(), 0);
}

/// Without a count of both ends, the client would take words on an error stream for the end of all.
#[test]
fn what_is_refused_is_told_to_its_own_connection_alone() {
    let mut pair = Pair::new();
    let (error, data) = pair.connect("0");
    pair.pass(NOW);
    let id = pair.asked()[0];
    pair.server.refuse(NOW, id, "too many");
    assert_eq!(pair.pass(NOW), [(error, REFUSED_STREAM), (data, REFUSED_STREAM)]);
    assert_eq!((pair.text(error).len(), pair.server.connections()), (0, 0));
}

#[test]
fn a_failure_is_words_then_a_reset_of_the_data() {
    let mut pair = Pair::new();
    let (error, data) = pair.connect("0");
    pair.pass(NOW);
    let id = pair.asked()[0];
    pair.server.send(id, bytes("some"));
    pair.server.fail(NOW, id, "error forwarding port 80");
    pair.pass(NOW);
    assert_eq!((pair.text(data), &*pair.text(error)), ("some".into(), "error forwarding port 80"));
    assert!(pair.at(&Frame::Finished(error)) < pair.at(&Frame::Reset(data, CANCEL)));
    assert_eq!(pair.server.connections(), 0);
}

/// Kubectl before 1.32 waits for the error stream once the data has ended.
#[test]
fn the_end_of_the_ports_bytes_is_the_end_of_the_error_stream_and_then_of_the_data() {
    let mut pair = Pair::new();
    let (error, data) = pair.connect("0");
    pair.client.send(data, bytes("question"));
    pair.pass(NOW);
    let id = pair.asked()[0];
    pair.server.send(id, bytes("answer"));
    pair.server.finish(NOW, id);
    pair.pass(NOW);
    assert_eq!((&*pair.text(data), &*pair.text(error)), ("answer", ""));
    assert!(pair.at(&Frame::Finished(error)) < pair.at(&Frame::Finished(data)));
    // The other direction goes on.
    pair.client.send(data, bytes(" and more"));
    pair.client.finish(data);
    pair.pass(NOW);
    assert_eq!(pair.seen.data(id), b"question and more");
    assert_eq!((pair.seen.end(id), pair.server.connections()), (Some(End::Eof), 0));
}

#[test]
fn a_reset_by_a_client_that_has_heard_our_end_is_an_end_and_any_other_is_a_reset() {
    for finished in [false, true] {
        for ended in [false, true] {
            let mut pair = Pair::new();
            let (_, data) = pair.connect("0");
            pair.pass(NOW);
            let id = pair.asked()[0];
            if finished {
                pair.server.finish(NOW, id);
                pair.pass(NOW);
            }
            if ended && !finished {
                pair.client.finish(data);
            }
            pair.client.reset(data, CANCEL);
            pair.pass(NOW);
            let end = if finished { End::Eof } else { End::Reset };
            assert_eq!(pair.seen.end(id), Some(end), "{finished} {ended}");
            assert_eq!(pair.server.connections(), 0);
        }
    }
}

#[test]
fn an_error_stream_that_is_reset_ends_only_what_is_not_complete() {
    let mut pair = Pair::new();
    let (error, data) = pair.connect("0");
    pair.pass(NOW);
    pair.client.reset(error, CANCEL);
    pair.client.send(data, bytes("on"));
    assert_eq!(pair.pass(NOW), []);
    assert_eq!((pair.seen.data(pair.asked()[0]), pair.seen.ends.len()), (&b"on"[..], 0));

    let mut pair = Pair::new();
    let error = pair.open("error", "0");
    pair.pass(NOW);
    pair.client.reset(error, CANCEL);
    assert_eq!(pair.pass(NOW), []);
    assert_eq!(pair.server.connections(), 0);
}

#[test]
fn the_window_that_a_client_names_is_the_one_that_is_kept() {
    for (window, room) in [("1000", 1000), ("0", 0), ("many", usize::MAX), ("-1", usize::MAX)] {
        let mut pair = Pair::new();
        pair.open("error", "0");
        let kind = [("streamtype", "data"), ("port", "80"), ("requestid", "0")];
        let data = pair.client.open(&[kind[0], kind[1], kind[2], ("window", window)]);
        pair.pass(NOW);
        let id = pair.asked()[0];
        assert_eq!(pair.server.room(id), room, "{window}");
        pair.client.taken(data, 500);
        pair.pass(NOW);
        let more = if room == usize::MAX { room } else { room + 500 };
        assert_eq!(pair.server.room(id), more, "{window}");
        assert_eq!(pair.seen.room.len(), usize::from(room != usize::MAX), "{window}");
        pair.client.taken(data, 0x7fff_ffff);
        pair.client.taken(data, 0x7fff_ffff);
        pair.pass(NOW);
        assert!(pair.seen.lost.is_none() && pair.server.room(id) >= room);
    }
}

#[test]
fn early_bytes_count_for_the_window_as_all_others_do() {
    let mut pair = Pair::new();
    let kind = [("streamtype", "data"), ("port", "80"), ("requestid", "0")];
    let data = pair.client.open(&[kind[0], kind[1], kind[2], ("window", "1000")]);
    pair.client.send(data, Bytes::from(vec![7; EARLY_BYTES]));
    pair.pass(NOW);
    let error = pair.open("error", "0");
    pair.client.finish(error);
    let window = bowline_proto::limits::WINDOW_BYTES as usize;
    pair.client.send(data, Bytes::from(vec![7; window - EARLY_BYTES]));
    assert_eq!(pair.pass(NOW), []);
    pair.client.send(data, bytes("x"));
    assert_eq!(pair.pass(NOW), [(data, CANCEL)]);
    let id = pair.asked()[0];
    assert_eq!((pair.seen.data(id).len(), pair.seen.end(id)), (window, Some(End::Reset)));
}

#[test]
fn a_goaway_is_the_end_of_a_forward() {
    for (status, detail) in [(0, ""), (1, "code 1"), (2, "code 2")] {
        let mut pair = Pair::new();
        let (_, data) = pair.connect("0");
        pair.client.send(data, bytes("last words"));
        pair.client.goaway(status);
        pair.pass(NOW);
        let loss = pair.seen.lost.clone().expect("an end");
        assert_eq!((loss.cause, &*loss.detail), (Cause::Closed, detail));
        assert_eq!(pair.seen.data(pair.asked()[0]), b"last words");
        assert!(pair.seen.ends.is_empty(), "nobody said that its bytes are all");
        assert_eq!(pair.server.connections(), 0);
        // What the client has to hear goes before TCP's end.
        assert!(matches!(pair.server.poll(NOW), Next::Idle(Some(_))));
        pair.server.receive_end(NOW);
        assert_eq!(pair.server.poll(NOW), Next::Done);
    }
}

#[test]
fn who_has_left_is_told_nothing_more_and_takes_no_new_stream() {
    let mut pair = Pair::new();
    let data = pair.open("data", "0");
    pair.client.send(data, bytes("early"));
    pair.pass(NOW);
    pair.open("error", "0");
    pair.server.receive(NOW, all(pair.client.outbox()));
    let Next::Event(event) = pair.server.poll(NOW) else { panic!("it was asked for") };
    pair.seen.take(event);
    // The early bytes would be next.
    pair.server.leave(NOW, "");
    let (_, late) = pair.connect("1");
    pair.client.send(late, bytes("late"));
    assert_eq!(pair.pass(NOW).first().map(|reset| reset.1), Some(CANCEL));
    assert_eq!((pair.asked().len(), pair.seen.data.len()), (1, 0));
    assert!(pair.seen.lost.is_none() && pair.server.connections() == 0);
}

#[test]
fn nothing_is_said_to_a_client_that_has_said_nothing() {
    let mut server = Carrier::Plain.forward(Side::Server);
    server.leave(NOW, "the node shuts down");
    assert!(all(server.outbox()).is_empty() && server.outbox().is_finishing());
}

#[test]
fn a_client_that_asks_without_reading_is_not_read_once_its_answers_fill_their_bound() {
    let mut pair = Pair::new();
    for number in 0.. {
        if !pair.server.wants_read() {
            break;
        }
        let stream = pair.client.open(&[("streamtype", "data")]);
        assert_eq!(stream.number(), 2 * number + 1);
        pair.server.receive(NOW, all(pair.client.outbox()));
        pair.seen.poll(&mut pair.server, NOW);
        assert!(pair.server.unsent() < 5 << 20, "{number}");
    }
    taken(pair.server.outbox(), 1 << 20);
    assert!(pair.server.wants_read());
}
