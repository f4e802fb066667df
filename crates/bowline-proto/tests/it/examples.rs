//! The examples do what they say.

use bowline_proto::session::Outcome;

#[path = "../../examples/session.rs"]
#[expect(dead_code, reason = "it has a `main`")]
mod session;

#[test]
fn a_session_without_a_socket() {
    assert_eq!(session::cat(b"hello"), Some((b"hello".to_vec(), Outcome::Success)));
}
