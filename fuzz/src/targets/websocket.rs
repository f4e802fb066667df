//! A WebSocket connection in both roles: however its bytes are cut, the same comes out.

use bowline_proto::websocket::{Closed, Config, Connection, Continuation, Event, Role};
use bytes::BytesMut;

use super::written;
use crate::cuts::choose;

/// Past 16 pongs that wait, only the latest ping is answered: that depends on cuts. So many bytes
/// are fewer pongs.
const FEW_ANSWERS_BYTES: usize = 32;

/// What was heard; the chunks of a message are one.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// Whether it is the beginning, the bytes, whether it is the end.
    Message(bool, Vec<u8>, bool),
    Other(Event),
}

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let role = if choices.form & 1 == 0 { Role::Server } else { Role::Client };
    let continuation =
        if choices.form & 2 == 0 { Continuation::Join } else { Continuation::AsMessage };
    let config = Config { role, continuation };
    let mut whole = play(config, vec![BytesMut::from(bytes)]);
    let mut cut = play(config, choices.pieces(bytes));
    if let Some(Heard::Other(Event::Closed(Closed::Fault(_)))) = whole.0.last() {
        // How much of an unfinished message was given before a fault is a matter of cuts.
        for heard in [&mut whole.0, &mut cut.0] {
            heard.retain(|one| !matches!(one, Heard::Message(_, _, false)));
        }
    }
    assert_eq!(whole.0, cut.0, "cuts make a difference");
    if whole.1.len() < FEW_ANSWERS_BYTES {
        assert_eq!(whole.1, cut.1, "cuts make a difference to the answers");
    }
}

fn play(config: Config, pieces: Vec<BytesMut>) -> (Vec<Heard>, Vec<u8>) {
    let mut websocket = Connection::new(config, [7; 32]);
    let (mut heard, mut answers) = (Vec::new(), Vec::new());
    for piece in pieces {
        websocket.receive(piece);
        listen(&mut websocket, &mut heard);
        // Pongs wait for their place in the order of writing: take them as they come.
        answers.extend(written(websocket.outbox()));
    }
    websocket.receive_end();
    listen(&mut websocket, &mut heard);
    answers.extend(written(websocket.outbox()));
    assert_eq!(websocket.poll(), None, "something follows the end");
    let ends = heard.iter().filter(|one| matches!(one, Heard::Other(Event::Closed(_)))).count();
    assert_eq!(ends, 1, "a connection ends once");
    assert!(matches!(heard.last(), Some(Heard::Other(Event::Closed(_)))));
    (heard, answers)
}

fn listen(websocket: &mut Connection, heard: &mut Vec<Heard>) {
    while let Some(event) = websocket.poll() {
        let Event::Chunk(chunk) = event else {
            heard.push(Heard::Other(event));
            continue;
        };
        match heard.iter_mut().rev().find(|one| matches!(one, Heard::Message(..))) {
            Some(Heard::Message(_, bytes, last)) if !*last => {
                assert!(!chunk.first, "a message begins within another");
                bytes.extend_from_slice(&chunk.payload);
                *last = chunk.last;
            }
            _ => {
                assert!(chunk.first, "a message goes on that never began");
                heard.push(Heard::Message(true, chunk.payload.to_vec(), chunk.last));
            }
        }
    }
}
