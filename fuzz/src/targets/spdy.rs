//! A SPDY connection in both roles: however its bytes are cut, the same comes out.

use bowline_proto::spdy::{Closed, Connection, Event, Role};
use bytes::{Bytes, BytesMut};

use super::written;
use crate::cuts::choose;

/// As many are queued before the peer has to read one.
const PONGS_AT_ONCE: usize = 16;
const PONG_BYTES: usize = 12;

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let role = if choices.form & 1 == 0 { Role::Server } else { Role::Client };
    let (whole, answers) = play(role, vec![BytesMut::from(bytes)]);
    let (cut, answers_cut) = play(role, choices.pieces(bytes));
    assert_eq!(whole, cut, "cuts make a difference");
    // Of many PINGs in one piece only the first ones and the last are answered.
    let many = answers >= PONGS_AT_ONCE * PONG_BYTES && answers_cut > answers;
    assert!(many || answers == answers_cut, "cuts make a difference for answers");
}

/// The events, the data of each stream in one piece; and all answers.
fn play(role: Role, pieces: Vec<BytesMut>) -> (Vec<Event>, usize) {
    let mut spdy = Connection::new(role);
    let mut answers = 0;
    if role == Role::Client {
        for name in ["error", "stdin", "stdout"] {
            spdy.open(&[("streamtype", name)]);
        }
        answers += written(spdy.outbox()).len();
    }
    let mut heard = Vec::new();
    for piece in pieces {
        spdy.receive(piece);
        listen(&mut spdy, &mut heard);
        answers += written(spdy.outbox()).len();
    }
    spdy.receive_end();
    listen(&mut spdy, &mut heard);
    answers += written(spdy.outbox()).len();
    assert_eq!(spdy.poll(), None, "something follows the end");
    let ends = heard.iter().filter(|event| matches!(event, Event::Closed(_))).count();
    assert_eq!(ends, 1, "a connection ends once");
    let faulty = matches!(heard.last(), Some(Event::Closed(Closed::Fault(_))));
    assert!(faulty || answers <= 1 << 20, "{answers} bytes of answers");
    (heard, answers)
}

fn listen(spdy: &mut Connection, heard: &mut Vec<Event>) {
    while let Some(event) = spdy.poll() {
        match event {
            Event::Data(id, bytes) => {
                assert!(!bytes.is_empty(), "data of no bytes");
                if let Some(Event::Data(last, before)) = heard.last_mut()
                    && *last == id
                {
                    *before = Bytes::from([&before[..], &bytes].concat());
                } else {
                    heard.push(Event::Data(id, bytes));
                }
            }
            Event::Opened { id, headers } => {
                spdy.reply(id);
                heard.push(Event::Opened { id, headers });
            }
            other => heard.push(other),
        }
    }
}
