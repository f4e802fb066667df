//! How a face ends: as what it stands before.

use bowline_proto::limits::{CLOSING_PATIENCE, OUTBOX_BYTES, READ_BYTES};
use bowline_proto::{Intermediary, Leg, Next};
use bytes::BytesMut;

use super::wire::*;
use super::{Between, NOTHING, NOW};

#[test]
fn what_ends_one_side_ends_the_other_behind_what_waits_for_it() {
    for leg in [Leg::Near, Leg::Far] {
        let mut louder = Louder::default();
        let mut between = Between::new(&mut louder);
        let other = if leg == Leg::Near { Leg::Far } else { Leg::Near };
        let words = frame(PING, 0, 0, &[7; 8]);
        // A frame that is cut, in its head or behind it.
        for cut in [words.len(), 13, 4] {
            between.0.receive(NOW, leg, BytesMut::from(&words[..cut]));
        }
        between.0.receive_end(NOW, leg, true);
        assert_eq!(between.0.poll(NOW), Next::Event(leg));
        assert!(between.0.outbox(other).is_finishing());
        assert_eq!(between.waits(other), [&words[..], &words[..13], &words[..4]].concat());
        assert_eq!(between.0.poll(NOW), Next::Idle(Some(NOW + CLOSING_PATIENCE)));
        between.0.receive_end(NOW, other, false);
        assert_eq!(between.0.poll(NOW), Next::Done);
        assert!(!between.0.is_cut(other));
    }
}

#[test]
fn what_was_held_when_the_runtime_ends_goes_as_it_came() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.call(1, EXEC, &request("one"));
    between.call(3, EXEC, &request("three"));
    let whole = frame(DATA, 0, 3, &answer(URL)[..20]);
    let cut = &frame(DATA, 0, 1, &answer(URL))[..25];
    assert_eq!(between.runtime(&[&whole, cut].concat()), NOTHING);
    between.0.receive_end(NOW, Leg::Far, true);
    assert_eq!(between.waits(Leg::Near), [&whole, cut].concat());
    assert!(louder.calls.is_empty());
}

#[test]
fn an_update_that_is_cut_goes_as_it_came() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    let cut = &update(0, 7)[..11];
    assert_eq!(between.client(cut), NOTHING);
    between.0.receive_end(NOW, Leg::Near, false);
    assert_eq!(between.waits(Leg::Far), cut);
}

#[test]
fn a_client_with_closed_windows_is_not_waited_for_once_the_runtime_has_ended() {
    let mut louder = Louder { extra: 100, ..Louder::default() };
    let mut between = Between::new(&mut louder);
    between.call(1, EXEC, &request("one"));
    between.runtime(&frame(DATA, 0, 1, &answer(URL)));
    between.runtime(&frame(DATA, 0, 3, &vec![7; 65_535 - answer(URL).len()]));
    between.0.receive_end(NOW, Leg::Far, false);
    assert_eq!(between.0.poll(NOW), Next::Event(Leg::Far));
    assert!(!between.0.outbox(Leg::Near).is_finishing() && between.0.is_cut(Leg::Near));
    assert_eq!(between.0.poll(NOW + CLOSING_PATIENCE), Next::Done);
    // One that grants in time gets all.
    between.client_grants(update(0, 200));
    assert!(between.0.outbox(Leg::Near).is_finishing() && !between.0.is_cut(Leg::Near));
}

impl Between<'_> {
    /// After an end, when polling says so.
    fn client_grants(&mut self, update: Vec<u8>) {
        self.0.receive(NOW, Leg::Near, BytesMut::from(&update[..]));
    }
}

#[test]
fn a_side_whose_other_side_takes_nothing_is_not_read() {
    for leg in [Leg::Near, Leg::Far] {
        let mut louder = Louder::default();
        let mut between = Between::new(&mut louder);
        let other = if leg == Leg::Near { Leg::Far } else { Leg::Near };
        let bytes = frame(DATA, 0, 1, &[7; 100_000]);
        let mut sent = 0;
        while between.0.wants_read(leg) {
            between.0.receive(NOW, leg, BytesMut::from(&bytes[..]));
            sent += bytes.len();
            assert!(sent <= OUTBOX_BYTES + bytes.len(), "{leg:?}");
        }
        assert!(sent >= OUTBOX_BYTES && between.0.wants_read(other), "{leg:?}");
        between.waits(other);
        assert!(between.0.wants_read(leg), "{leg:?}");
    }
}

#[test]
fn no_more_is_held_than_an_outbox_and_a_read_behind_the_end_of_the_side_it_is_for() {
    for leg in [Leg::Near, Leg::Far] {
        let mut louder = Louder::default();
        let mut between = Between::new(&mut louder);
        let other = if leg == Leg::Near { Leg::Far } else { Leg::Near };
        between.0.receive_end(NOW, other, false);
        for _ in 0..20 {
            assert!(between.0.wants_read(leg));
            let read = frame(DATA, 0, 1, &vec![7; READ_BYTES - 9]);
            between.0.receive(NOW, leg, BytesMut::from(&read[..]));
            assert!(between.0.outbox(other).len() <= OUTBOX_BYTES + READ_BYTES, "{leg:?}");
        }
        assert!(between.0.is_cut(other), "{leg:?}");
    }
}

#[test]
fn a_client_that_has_gone_leaves_nothing() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    between.0.receive(NOW, Leg::Near, BytesMut::from(&frame(PING, 0, 0, &[0; 8])[..]));
    between.0.receive(NOW, Leg::Far, BytesMut::from(&frame(PING, 0, 0, &[0; 8])[..]));
    between.0.client_gone(NOW);
    assert_eq!(between.0.poll(NOW), Next::Event(Leg::Near));
    assert_eq!(between.0.poll(NOW), Next::Done);
    assert!(between.0.is_cut(Leg::Far) && !between.0.is_cut(Leg::Near));
}

#[test]
fn an_abort_ends_both_sides_behind_what_waits() {
    let mut louder = Louder::default();
    let mut between = Between::new(&mut louder);
    let words = frame(PING, 0, 0, &[7; 8]);
    between.0.receive(NOW, Leg::Near, BytesMut::from(&words[..]));
    between.0.receive(NOW, Leg::Far, BytesMut::from(&words[..]));
    between.0.abort(NOW, "the node shuts down");
    for leg in [Leg::Near, Leg::Far] {
        between.0.receive(NOW, leg, BytesMut::from(&words[..]));
    }
    for leg in [Leg::Near, Leg::Far] {
        assert_eq!(between.waits(leg), words);
        assert!(between.0.outbox(leg).is_finishing());
    }
    assert_eq!(between.0.poll(NOW), Next::Idle(Some(NOW + CLOSING_PATIENCE)));
    assert_eq!(between.0.poll(NOW + CLOSING_PATIENCE), Next::Done);
}
