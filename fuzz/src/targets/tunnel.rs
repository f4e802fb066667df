//! A port-forward's server that is told anything, through a tunnel or bare: it asks for no port 0,
//! tells of no connection that it did not ask for, and of each byte once; and however the bytes are
//! cut, it hears the same.

use std::collections::BTreeSet;

use bowline_proto::portforward::{Event, OverSpdy};
use bowline_proto::session::Side;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use bowline_proto::{Machine, Next, Time};
use bytes::BytesMut;

use super::written;
use crate::cuts::choose;

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let tunnel = choices.form & 1 == 1;
    let whole = heard(tunnel, vec![BytesMut::from(bytes)]);
    let cut = heard(tunnel, choices.pieces(bytes));
    assert_eq!(whole, cut, "cut otherwise, it hears something else");
}

/// What a server hears, with data of one connection that follow each other as one.
fn heard(tunnel: bool, pieces: Vec<BytesMut>) -> Vec<String> {
    let wire = if tunnel { Wire::tunnel(Role::Server, [7; 32]) } else { Wire::plain() };
    let mut server = OverSpdy::new(Side::Server, wire);
    let (mut log, mut known, mut data): (Vec<String>, _, _) = (Vec::new(), BTreeSet::new(), 0);
    let mut last = None;
    let mut turn = |server: &mut OverSpdy| {
        while let Next::Event(event) = server.poll(Time::ZERO) {
            let id = match &event {
                Event::Requested(id, port) => {
                    assert!(*port > 0 && known.insert(*id), "{event:?}");
                    *id
                }
                Event::Data(id, _) | Event::Eof(id) | Event::Reset(id) | Event::Room(id) => *id,
                // Which of two faults in one message is seen first depends on how it comes.
                Event::Lost(loss) => {
                    log.push(format!("lost: {:?}", loss.cause));
                    continue;
                }
                Event::Connected(_) | Event::Failed(..) => panic!("{event:?} at a server"),
            };
            assert!(known.contains(&id), "{event:?} of nobody");
            if let Event::Data(id, bytes) = &event {
                assert!(!bytes.is_empty());
                data += bytes.len();
                if last == Some(*id) {
                    log.pop();
                } else {
                    data = bytes.len();
                }
                last = Some(*id);
                log.push(format!("{id:?}: {data} bytes"));
                continue;
            }
            last = None;
            log.push(format!("{event:?}"));
        }
        assert!(server.connections() <= 1 << 14);
        written(server.outbox());
    };
    for piece in pieces {
        server.receive(Time::ZERO, piece);
        turn(&mut server);
    }
    server.receive_end(Time::ZERO);
    turn(&mut server);
    log
}
