//! A client of ours, told things by a server that speaks as the kubelet and Go's library do.

use std::time::Duration;

use bowline_proto::limits::{PAIR_PATIENCE, WINDOW_BYTES};
use bowline_proto::portforward::{Forward, Id};
use bowline_proto::session::{Cause, Side};
use bowline_proto::spdy::{Connection, Event as Frame, Role, StreamId};
use bowline_proto::{Machine, Time};
use bytes::Bytes;

use super::{Carrier, End, NOW, Seen, bytes};
use crate::wire::Cuts;

const CANCEL: u32 = 5;
const REFUSED_STREAM: u32 = 3;

/// A server of SPDY, as a kubelet is, and our client with one connection.
struct Pair {
    now: Time,
    client: Forward,
    seen: Seen,
    server: Connection,
    /// The kinds of streams that were opened, with their numbers and what they say of a window.
    opened: Vec<(String, StreamId, Option<String>)>,
    heard: Vec<Frame>,
    cuts: Cuts,
    id: Id,
    error: StreamId,
    data: StreamId,
}

impl Pair {
    /// With streams that nobody has answered.
    fn unanswered() -> Pair {
        let mut client = Carrier::Plain.forward(Side::Client);
        let id = client.connect(NOW, 8080).expect("a connection");
        let mut server = Connection::new(Role::Server);
        server.receive(crate::wire::all(client.outbox()));
        let mut opened = Vec::new();
        let mut heard = Vec::new();
        while let Some(frame) = server.poll() {
            match frame {
                Frame::Opened { id, headers } => {
                    let of = |name: &str| headers.get(name).map(str::to_owned);
                    assert_eq!(of("port").as_deref(), Some("8080"));
                    assert_eq!(of("requestid").as_deref(), Some("0"));
                    opened.push((of("streamtype").expect("a kind"), id, of("window")));
                }
                frame => heard.push(frame),
            }
        }
        let (error, data) = (opened[0].1, opened[1].1);
        Pair {
            now: NOW,
            client,
            seen: Seen::default(),
            server,
            opened,
            heard,
            cuts: Cuts::new(&[11, 3, 1000]),
            id,
            error,
            data,
        }
    }

    fn new() -> Pair {
        let mut pair = Pair::unanswered();
        pair.server.reply(pair.error);
        pair.server.reply(pair.data);
        pair.settle();
        assert_eq!(pair.seen.connected, [pair.id]);
        pair
    }

    /// With a server that counts.
    fn counting() -> Pair {
        let mut pair = Pair::unanswered();
        pair.server.reply(pair.error);
        pair.server.reply_with(pair.data, &[("window", "1000")]);
        pair.settle();
        pair
    }

    fn settle(&mut self) {
        loop {
            self.seen.poll(&mut self.client, self.now);
            let up = self.cuts.piece(self.client.outbox());
            let down = self.cuts.piece(self.server.outbox());
            if up.is_empty() && down.is_empty() {
                return;
            }
            self.server.receive(up);
            while let Some(frame) = self.server.poll() {
                self.heard.push(frame);
            }
            if !down.is_empty() {
                self.client.receive(self.now, down);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.settle();
    }

    fn end(&self) -> Option<End> {
        self.seen.end(self.id)
    }

    fn was_reset(&self) -> bool {
        self.heard.contains(&Frame::Reset(self.data, CANCEL))
    }
}

#[test]
fn a_connection_is_an_error_stream_that_ends_at_once_and_a_data_stream() {
    let pair = Pair::unanswered();
    let window = Some(WINDOW_BYTES.to_string());
    let expected = [("error".into(), pair.error, None), ("data".into(), pair.data, window)];
    assert_eq!(pair.opened, expected);
    assert_eq!(pair.heard, [Frame::Finished(pair.error)]);
}

#[test]
fn an_answer_to_the_error_stream_alone_is_no_connection() {
    let mut pair = Pair::unanswered();
    pair.server.reply(pair.error);
    pair.settle();
    assert!(pair.seen.connected.is_empty());
    assert_eq!(pair.client.room(pair.id), 0);
    pair.pass(PAIR_PATIENCE);
    assert_eq!(pair.end(), Some(End::Failed("Timeout occurred".into())));
    assert!(pair.was_reset());
}

#[test]
fn the_end_of_the_data_is_believed_once_the_error_stream_has_ended_without_a_word() {
    for error_first in [false, true] {
        for resets in [false, true] {
            let mut pair = Pair::new();
            pair.server.send(pair.data, bytes("answer"));
            let end_error = |pair: &mut Pair| match resets {
                true => pair.server.reset(pair.error, CANCEL),
                false => pair.server.finish(pair.error),
            };
            if error_first {
                end_error(&mut pair);
            } else {
                pair.server.finish(pair.data);
            }
            pair.settle();
            assert_eq!(pair.seen.data(pair.id), b"answer");
            assert_eq!(pair.end(), None, "half of it is not the end");
            if error_first {
                pair.server.finish(pair.data);
            } else {
                end_error(&mut pair);
            }
            pair.settle();
            assert_eq!(pair.end(), Some(End::Eof), "{error_first} {resets}");
            // Our own direction is still open.
            assert_eq!(pair.client.connections(), 1);
            pair.client.finish(pair.now, pair.id);
            assert_eq!(pair.client.connections(), 0);
        }
    }
}

/// As containerd, which ends the data before it reports that it could not connect.
#[test]
fn an_end_of_the_data_that_words_follow_is_a_failure() {
    for how in ["finish", "reset the data", "reset the error"] {
        let mut pair = Pair::new();
        pair.server.finish(pair.data);
        pair.settle();
        assert_eq!(pair.end(), None);
        pair.server.send(pair.error, bytes("connection "));
        pair.settle();
        pair.server.send(pair.error, bytes("refused"));
        match how {
            "finish" => pair.server.finish(pair.error),
            "reset the data" => pair.server.reset(pair.data, CANCEL),
            _ => pair.server.reset(pair.error, CANCEL),
        }
        pair.settle();
        assert_eq!(pair.end(), Some(End::Failed("connection refused".into())), "{how}");
        assert_eq!(pair.client.connections(), 0, "{how}");
        assert!(how == "reset the data" || pair.was_reset(), "{how}");
    }
}

#[test]
fn an_end_of_the_data_that_nothing_follows_is_a_reset_at_the_end_of_its_patience() {
    let mut pair = Pair::new();
    pair.pass(Duration::from_secs(3600));
    assert_eq!(pair.end(), None, "a connection may be idle for as long as it likes");
    pair.server.finish(pair.data);
    pair.settle();
    pair.pass(PAIR_PATIENCE - Duration::from_secs(1));
    assert_eq!(pair.end(), None);
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.end(), Some(End::Reset));
    assert!(pair.was_reset() && pair.client.connections() == 0);
    assert!(pair.seen.lost.is_none());
}

#[test]
fn an_end_that_is_counted_is_believed_at_once() {
    let mut pair = Pair::counting();
    pair.server.send(pair.data, bytes("answer"));
    pair.server.finish(pair.data);
    pair.settle();
    assert_eq!(pair.end(), Some(End::Eof));
    // The window is the server's to name.
    assert_eq!(pair.client.room(pair.id), 1000);
    // Words may follow, as long as our direction is open.
    pair.server.send(pair.error, bytes("the pod is gone"));
    pair.server.finish(pair.error);
    pair.settle();
    assert_eq!(pair.end(), Some(End::Failed("the pod is gone".into())));
}

#[test]
fn a_server_that_counts_gets_word_of_what_was_taken_and_any_other_does_not() {
    for counts in [false, true] {
        let mut pair = if counts { Pair::counting() } else { Pair::new() };
        pair.server.send(pair.data, Bytes::from(vec![7; 500_000]));
        pair.settle();
        pair.client.taken(pair.id, 300_000);
        pair.settle();
        let told = pair.heard.contains(&Frame::Window(pair.data, 300_000));
        assert_eq!(told, counts);
    }
}

#[test]
fn words_are_told_once_their_stream_has_ended_though_the_data_has_not() {
    let mut pair = Pair::new();
    pair.server.send(pair.data, bytes("some"));
    pair.server.send(pair.error, bytes("no such pod"));
    pair.settle();
    assert_eq!(pair.end(), None);
    pair.server.finish(pair.error);
    pair.server.send(pair.data, bytes("nobody reads this"));
    pair.settle();
    assert_eq!(pair.seen.data(pair.id), b"some");
    assert_eq!(pair.end(), Some(End::Failed("no such pod".into())));
    assert!(pair.was_reset());
}

#[test]
fn words_that_are_no_text_are_told_none_the_less() {
    let mut pair = Pair::new();
    pair.server.send(pair.error, Bytes::from_static(b"no \xff port"));
    pair.server.finish(pair.error);
    pair.settle();
    assert_eq!(pair.end(), Some(End::Failed("no \u{fffd} port".into())));
}

#[test]
fn a_stream_that_is_reset_before_its_answer_is_a_connection_that_failed() {
    for error in [false, true] {
        let mut pair = Pair::unanswered();
        let stream = if error { pair.error } else { pair.data };
        pair.server.reset(stream, REFUSED_STREAM);
        pair.settle();
        assert_eq!(pair.end(), Some(End::Failed("Stream reset".into())));
        assert_eq!((pair.client.connections(), pair.was_reset()), (0, error));
    }
}

#[test]
fn a_reset_of_the_data_without_words_is_a_reset() {
    for ended in [false, true] {
        let mut pair = Pair::new();
        pair.server.send(pair.data, bytes("some"));
        if ended {
            pair.server.finish(pair.data);
        }
        pair.server.reset(pair.data, CANCEL);
        pair.settle();
        assert_eq!((pair.seen.data(pair.id), pair.end()), (&b"some"[..], Some(End::Reset)));
        assert_eq!(pair.client.connections(), 0);
    }
}

#[test]
fn a_server_opens_no_streams() {
    let mut pair = Pair::new();
    let stream = pair.server.open(&[("streamtype", "data"), ("port", "80")]);
    pair.settle();
    assert!(pair.heard.contains(&Frame::Reset(stream, REFUSED_STREAM)));
    assert!(pair.seen.lost.is_none() && pair.seen.asked.is_empty());
}

#[test]
fn a_goaway_ends_the_forward_and_every_connection_without_its_peers_word() {
    for (status, detail) in [(0, ""), (2, "code 2")] {
        let mut pair = Pair::new();
        pair.server.send(pair.data, bytes("some"));
        pair.server.goaway(status);
        pair.settle();
        let loss = pair.seen.lost.clone().expect("an end");
        assert_eq!((loss.cause, &*loss.detail), (Cause::Closed, detail));
        assert_eq!((pair.seen.data(pair.id), pair.end()), (&b"some"[..], None));
        assert_eq!(pair.client.connect(pair.now, 80), None);
        assert!(pair.seen.done, "there is nothing to wait for");
    }
}

#[test]
fn answers_of_a_server_to_what_is_gone_change_nothing() {
    let mut pair = Pair::unanswered();
    pair.client.reset(NOW, pair.id);
    pair.server.reply(pair.error);
    pair.server.reply(pair.data);
    pair.server.send(pair.data, bytes("late"));
    pair.server.send(pair.error, bytes("late"));
    pair.server.finish(pair.data);
    pair.server.finish(pair.error);
    pair.settle();
    assert!(pair.seen.connected.is_empty() && pair.seen.data.is_empty() && pair.end().is_none());
    assert!(pair.seen.lost.is_none() && pair.client.connections() == 0);
}
