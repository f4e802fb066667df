//! Sessions whose connections are killed, and what is left of them.

use bowline_proto::kept::Stream;
use bowline_proto::session::Outcome;

use crate::client::{PIPES, Place, Session, random, read, start};

fn noise(bytes: usize) -> Vec<u8> {
    let block: [u8; 4096] = random();
    (0..bytes).map(|at| block[at % 4096] ^ (at / 4096) as u8).collect()
}

#[test]
fn every_byte_comes_once_though_the_connection_is_killed_many_times() {
    let place = Place::new(&["--linger", "0"]);
    let bytes = noise(20_000_000);
    let script = "echo ran >>ran; cat; echo done >&2; exit 7";
    let mut session = Session::start(&place, start(&["sh", "-c", script], PIPES));
    session = session.type_all(bytes.clone());
    let mut next = 300_000;
    session.until(|session| {
        if session.got() >= next {
            next = session.got() + 600_000;
            session.cut();
        }
        false
    });
    assert_eq!(session.ended(), Outcome::Exited(7));
    assert!(session.out[&Stream::Stdout] == bytes);
    assert_eq!(session.text(Stream::Stderr), "done\n");
    assert!(session.connections > 20, "{}", session.connections);
    assert_eq!(read(&place.file("ran")), "ran\n");
    assert_eq!(place.holders().len(), 1);
    drop(session);
}
