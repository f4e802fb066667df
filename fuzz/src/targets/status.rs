//! Statuses: what is understood means the same when it is passed on, and 0 is never a failure.

use bowline_proto::session::{Outcome, Status};
use bytes::Bytes;

/// The target.
pub fn target(data: &[u8]) {
    let Ok(status) = Status::parse(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(&status.json()[..], data, "a Status is passed on as it is");
    let again = Status::parse(status.json().clone()).unwrap();
    assert_eq!(again.outcome(), status.outcome());
    match status.outcome() {
        Outcome::Exited(code) => {
            assert_ne!(*code, 0, "a failure with the code of success");
            let made = Status::exited(*code, "why");
            assert_eq!(Status::parse(made.json().clone()).unwrap().outcome(), status.outcome());
        }
        Outcome::Success => {
            assert!(String::from_utf8_lossy(data).contains("Success"), "success out of nothing");
        }
        Outcome::Failed { .. } => {}
    }
}
