//! Those who are asked for, and told of, each session, from outside of the crate.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_io::record::{Admission, Denied, End, Ended, Hook, Record, Requester, Traffic};
use bowline_io::serve::Sessions;

/// So many sessions at once; keeps what it was told.
#[derive(Debug)]
struct AtMost {
    sessions: usize,
    held: Arc<AtomicUsize>,
    told: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug)]
struct Held {
    held: Arc<AtomicUsize>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AtMost {
    fn new(sessions: usize) -> Arc<AtMost> {
        Arc::new(AtMost { sessions, held: Arc::default(), told: Arc::default() })
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

impl Admission for AtMost {
    fn admit(&self, record: &Record) -> Result<Box<dyn Hook>, Denied> {
        if self.held() == self.sessions {
            let why = format!("{} has too many sessions", record.pod);
            return Err(Denied { why, retry_after: Duration::from_secs(7) });
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Held { held: self.held.clone(), told: self.told.clone() }))
    }
}

impl Hook for Held {
    fn begun(&mut self, record: &Record) {
        self.told.lock().unwrap().push(format!("{} of {} begins", record.verb, record.pod));
    }

    fn ended(self: Box<Self>, ended: &Ended) {
        let bytes = ended.traffic.map(|traffic| traffic.to_client);
        let line =
            format!("{} of {}: {}, {bytes:?}", ended.record.verb, ended.record.pod, ended.end);
        self.told.lock().unwrap().push(line);
    }
}

fn record() -> Record {
    Requester::at(([127, 0, 0, 1], 1).into()).record("exec", "ns", "web")
}

#[test]
fn a_session_is_told_from_its_beginning_to_its_end() {
    let limit = AtMost::new(1);
    let sessions = Sessions::default().with(limit.clone());
    let running = sessions.admit(record()).unwrap().begin();
    let denied = sessions.admit(record()).unwrap_err();
    assert_eq!((&*denied.why, denied.seconds()), ("web has too many sessions", 7));
    let traffic = Traffic { from_client: 1, to_client: 2 };
    let ended = running.end(End::Over, Some(traffic)).unwrap();
    assert_eq!((&*ended.record.pod, ended.end), ("web", End::Over));
    assert_eq!(limit.told(), ["exec of web begins", "exec of web: over, Some(2)"]);
    assert_eq!(limit.held(), 0);
    // One that is given up has an end as well.
    drop(sessions.admit(record()).unwrap().begin());
    assert_eq!(limit.told().pop().unwrap(), "exec of web: lost: it was given up, None");
    assert_eq!(limit.held(), 0);
}

#[test]
fn what_did_not_come_about_holds_nothing() {
    let (first, second) = (AtMost::new(1), AtMost::new(0));
    let sessions = Sessions::default().with(first.clone());
    drop(sessions.admit(record()).unwrap());
    // One of two says no: the other one does not hold its session.
    let sessions = sessions.with(second);
    assert!(sessions.admit(record()).is_err());
    assert_eq!(first.held(), 0);
    assert!(first.told().is_empty());
}
