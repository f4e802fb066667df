//! A relay between two peers that say anything: it ends once, gives no Status that the far side did
//! not give, and says nothing to the far side that the near side did not say.

use bowline_proto::relay::{Ending, Relay};
use bowline_proto::session::protocol::{SPDY_V4, WEBSOCKET_V4, WEBSOCKET_V5};
use bowline_proto::session::{Outcome, Session, Side, Wants};
use bowline_proto::{Intermediary, Leg, Next, Time};
use bytes::BytesMut;

use super::written;
use crate::cuts::choose;

/// The target. The bytes are records: a leg and a length, then what that leg's peer says.
pub fn target(data: &[u8]) {
    let (choices, mut bytes) = choose(data);
    let fronts = [&WEBSOCKET_V5, &SPDY_V4, &WEBSOCKET_V4];
    let backs = [&WEBSOCKET_V5, &SPDY_V4];
    let front = fronts[usize::from(choices.form) % 3];
    let back = backs[usize::from(choices.form >> 2) % 2];
    let wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
    let near = Session::new(Side::Server, front, wants, [7; 32]);
    let far = Session::new(Side::Client, back, wants, [7; 32]);
    let mut relay = Relay::new(near, far);
    let mut endings = Vec::new();
    let mut said_far = Vec::new();
    let now = Time::ZERO;
    while let [record, rest @ ..] = bytes {
        let leg = if record & 1 == 0 { Leg::Near } else { Leg::Far };
        let (said, rest) = rest.split_at(usize::from(record >> 1).min(rest.len()));
        bytes = rest;
        if leg == Leg::Far {
            said_far.extend_from_slice(said);
        }
        relay.receive(now, leg, BytesMut::from(said));
        turn(&mut relay, &mut endings);
    }
    for leg in [Leg::Near, Leg::Far] {
        relay.receive_end(now, leg, false);
        turn(&mut relay, &mut endings);
    }
    assert!(endings.len() <= 1, "{endings:?}");
    if let Some(Ending::Status(Outcome::Success)) = endings.first() {
        let said = String::from_utf8_lossy(&said_far);
        // Cut up by frames it may not stand there in one piece, but its letters do.
        let letters = said.chars().filter(char::is_ascii_alphabetic).collect::<String>();
        assert!(letters.contains('S'), "a success that nobody reported");
    }
}

fn turn(relay: &mut Relay, endings: &mut Vec<Ending>) {
    while let Next::Event(ending) = relay.poll(Time::ZERO) {
        endings.push(ending);
    }
    for leg in [Leg::Near, Leg::Far] {
        relay.wants_read(leg);
        written(relay.outbox(leg));
    }
}
