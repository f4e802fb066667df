//! A session over any carrier, on either side: however its bytes are cut, the same comes out; and
//! it ends once.

use bowline_proto::session::protocol::{SPDY_OFFER, WEBSOCKET};
use bowline_proto::session::{Cause, Channel, Event, Protocol, Session, Side, Wants};
use bowline_proto::{Machine, Next, Time};
use bytes::{Bytes, BytesMut};

use super::written;
use crate::cuts::choose;

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let side = if choices.form & 1 == 0 { Side::Server } else { Side::Client };
    let all: Vec<&'static Protocol> = WEBSOCKET.into_iter().chain(SPDY_OFFER).collect();
    let protocol = all[usize::from(choices.form >> 1) % all.len()];
    let tty = choices.form & 0x80 != 0;
    let wants = Wants { stdin: true, stdout: true, stderr: !tty, tty };
    let make = || Session::new(side, protocol, wants, [7; 32]);
    let whole = play(make(), vec![BytesMut::from(bytes)]);
    let cut = play(make(), choices.pieces(bytes));
    let at_fault = |event: &Event| matches!(event, Event::Lost(loss) if loss.cause == Cause::Fault);
    if whole.last().is_some_and(at_fault) {
        // How much of what came right before a fault was given already is a matter of cuts; and
        // so is, where two rules are broken at once, which of them is named.
        assert!(cut.last().is_some_and(at_fault), "a fault in one piece alone: {cut:?}");
        let (whole_words, cut_words) = (words(&whole), words(&cut));
        let alike = whole_words.starts_with(&cut_words) || cut_words.starts_with(&whole_words);
        assert!(alike, "cuts make a difference: {whole_words:?}, {cut_words:?}");
        for channel in [Channel::Stdin, Channel::Stdout, Channel::Stderr] {
            let (whole, cut) = (bytes_of(&whole, channel), bytes_of(&cut, channel));
            assert!(whole.starts_with(&cut) || cut.starts_with(&whole), "{channel:?} differs");
        }
    } else {
        assert_eq!(whole, cut, "cuts make a difference");
    }
}

/// All but data and losses.
fn words(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|event| !matches!(event, Event::Data(..) | Event::Lost(_))).collect()
}

fn bytes_of(events: &[Event], channel: Channel) -> Vec<u8> {
    let pieces = events.iter().filter_map(|event| match event {
        Event::Data(of, bytes) if *of == channel => Some(&bytes[..]),
        _ => None,
    });
    pieces.flatten().copied().collect()
}

fn play(mut session: Session, pieces: Vec<BytesMut>) -> Vec<Event> {
    let now = Time::ZERO;
    session.begin(now);
    let mut heard = Vec::new();
    written(session.outbox());
    for piece in pieces {
        session.receive(now, piece);
        listen(&mut session, now, &mut heard);
        written(session.outbox());
    }
    session.receive_end(now);
    listen(&mut session, now, &mut heard);
    written(session.outbox());
    let is_last = |event: &Event| matches!(event, Event::Status(_) | Event::Lost(_));
    if let Some(index) = heard.iter().position(is_last) {
        assert_eq!(index + 1, heard.len(), "something follows the end: {heard:?}");
    }
    heard
}

fn listen(session: &mut Session, now: Time, heard: &mut Vec<Event>) {
    while let Next::Event(event) = session.poll(now) {
        match (event, heard.last_mut()) {
            (Event::Data(channel, bytes), Some(Event::Data(last, before))) if *last == channel => {
                *before = Bytes::from([&before[..], &bytes].concat());
            }
            (event @ Event::Resize(_), _) => {
                // Of many at once the last two are told.
                let resize = |event: &Event| matches!(event, Event::Resize(_));
                if let [.., _, _] = heard[..]
                    && heard[heard.len() - 2..].iter().all(resize)
                {
                    heard.remove(heard.len() - 2);
                }
                heard.push(event);
            }
            (event, _) => heard.push(event),
        }
    }
}
