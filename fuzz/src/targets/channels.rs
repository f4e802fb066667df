//! A port-forward in numbered channels whose client says anything: nothing is heard of ports that
//! were not asked for, nothing behind an end, and the same however the bytes are cut.

use bowline_proto::portforward::{Event, OverWebSocket};
use bowline_proto::session::protocol::FORWARD_CHANNELS;
use bowline_proto::{Machine, Next, Time};
use bytes::BytesMut;

use super::written;
use crate::cuts::choose;

const PORTS: [u16; 3] = [80, 443, 65_535];

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let form = usize::from(choices.form) % FORWARD_CHANNELS.len();
    let whole = heard(form, vec![BytesMut::from(bytes)]);
    let cut = heard(form, choices.pieces(bytes));
    assert_eq!(whole.1, cut.1, "cut otherwise, it is lost otherwise");
    for (one, other) in whole.0.iter().zip(&cut.0) {
        // Of what ends in a fault, more or less may have been understood before.
        let common = one.0.len().min(other.0.len());
        assert_eq!(one.0[..common], other.0[..common], "cut otherwise, it hears something else");
        assert!(whole.1 || one == other, "cut otherwise, it hears less");
    }
}

/// For each port what came, and whether it ended; and whether the forward was lost.
fn heard(form: usize, pieces: Vec<BytesMut>) -> (Vec<(Vec<u8>, bool)>, bool) {
    let mut server = OverWebSocket::new(FORWARD_CHANNELS[form], &PORTS);
    let (mut ports, mut lost) = (vec![(Vec::new(), false); PORTS.len()], false);
    let mut turn = |server: &mut OverWebSocket| {
        while let Next::Event(event) = server.poll(Time::ZERO) {
            assert!(!lost, "{event:?} behind the end of all");
            match event {
                Event::Requested(id, port) => assert_eq!(port, PORTS[id.number() as usize]),
                Event::Data(id, bytes) => {
                    let port = &mut ports[id.number() as usize];
                    assert!(!port.1 && !bytes.is_empty());
                    port.0.extend_from_slice(&bytes);
                }
                Event::Eof(id) => {
                    let port = &mut ports[id.number() as usize];
                    assert!(!port.1, "ended twice");
                    port.1 = true;
                }
                Event::Lost(_) => lost = true,
                other => panic!("{other:?}"),
            }
        }
        written(server.outbox());
    };
    for piece in pieces {
        server.receive(Time::ZERO, piece);
        turn(&mut server);
    }
    server.receive_end(Time::ZERO);
    turn(&mut server);
    (ports, lost)
}
