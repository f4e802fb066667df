//! How many sessions there may be at once: of a user, in a namespace, of a pod.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Admission, Denied, Hook, Record};

/// When it may be worth to ask again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Refuses sessions beyond these numbers. Each may be absent.
#[derive(Debug, Default)]
pub struct Caps {
    /// Of one user; of one credential where only an API server knows whose it is.
    pub per_user: Option<usize>,
    /// In one namespace.
    pub per_namespace: Option<usize>,
    /// Of one pod.
    pub per_pod: Option<usize>,
    running: Arc<Mutex<HashMap<Counted, usize>>>,
}

/// What sessions are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counted {
    User(String),
    Credential(u64),
    Namespace(String),
    Pod(String, String),
}

impl Caps {
    /// Makes it with these numbers.
    #[must_use]
    pub fn new(
        per_user: Option<usize>,
        per_namespace: Option<usize>,
        per_pod: Option<usize>,
    ) -> Caps {
        Caps { per_user, per_namespace, per_pod, running: Arc::default() }
    }

    /// What a session counts for, with the most that there may be and whose they are.
    fn counted(&self, record: &Record) -> Vec<(Counted, usize, &'static str)> {
        let requester = &record.requester;
        let user = match (&requester.user, requester.credential) {
            (Some(user), _) => {
                let name = user.by.as_ref().unwrap_or(&user.name);
                Some(Counted::User(name.clone()))
            }
            (None, Some(credential)) => Some(Counted::Credential(credential)),
            (None, None) => None,
        };
        let is_in_one = !record.namespace.is_empty();
        let namespace = is_in_one.then(|| Counted::Namespace(record.namespace.clone()));
        let pod = || Counted::Pod(record.namespace.clone(), record.pod.clone());
        let pod = (is_in_one && !record.pod.is_empty()).then(pod);
        let all = [
            (user, self.per_user, "this user"),
            (namespace, self.per_namespace, "this namespace"),
            (pod, self.per_pod, "this pod"),
        ];
        all.into_iter().filter_map(|(counted, most, of)| Some((counted?, most?, of))).collect()
    }
}

impl Admission for Caps {
    fn admit(&self, record: &Record) -> Result<Box<dyn Hook>, Denied> {
        let all = self.counted(record);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (counted, most, of) in &all {
            if running.get(counted).is_some_and(|running| running >= most) {
                let why = format!("{of} has {most} sessions already, please try again later");
                return Err(Denied { why, retry_after: RETRY_AFTER });
            }
        }
        let counted: Vec<Counted> = all.into_iter().map(|one| one.0).collect();
        for one in &counted {
            *running.entry(one.clone()).or_default() += 1;
        }
        Ok(Box::new(Places { counted, running: self.running.clone() }))
    }
}

/// The places of one session, which are free again once it is dropped.
#[derive(Debug)]
struct Places {
    counted: Vec<Counted>,
    running: Arc<Mutex<HashMap<Counted, usize>>>,
}

impl Hook for Places {}

impl Drop for Places {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for one in &self.counted {
            if let Some(count) = running.get_mut(one) {
                *count -= 1;
                if *count == 0 {
                    running.remove(one);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Requester, Subject};

    fn record(user: Option<&str>, credential: Option<u64>, namespace: &str, pod: &str) -> Record {
        let user = user.map(|name| Subject { name: name.to_owned(), ..Subject::default() });
        let requester = Requester::at(([127, 0, 0, 1], 1).into());
        Requester { user, credential, ..requester }.record("exec", namespace, pod)
    }

    #[test]
    fn each_counts_for_itself_and_a_place_is_free_again() {
        let caps = Caps::new(Some(2), Some(3), Some(2));
        let admit = |user: Option<&str>, credential, pod: &str| {
            caps.admit(&record(user, credential, "ns", pod)).map_err(|denied| denied.why)
        };
        let first = admit(Some("a"), None, "p").unwrap();
        let _second = admit(Some("a"), None, "q").unwrap();
        let full = "this user has 2 sessions already, please try again later";
        assert_eq!(admit(Some("a"), None, "r").unwrap_err(), full);
        let _third = admit(None, Some(1), "p").unwrap();
        let full = "this namespace has 3 sessions already, please try again later";
        assert_eq!(admit(Some("b"), None, "r").unwrap_err(), full);
        drop(first);
        let _fourth = admit(Some("b"), None, "p").unwrap();
        let other = caps.admit(&record(Some("c"), None, "other", "p")).unwrap();
        drop(other);
        assert_eq!(caps.running.lock().unwrap().get(&Counted::User("c".into())), None);
    }

    #[test]
    fn what_is_in_no_namespace_counts_for_its_user_alone() {
        let caps = Caps::new(None, Some(1), Some(1));
        let asked = record(Some("a"), None, "", "");
        let _held = caps.admit(&asked).unwrap();
        caps.admit(&asked).unwrap();
    }

    #[test]
    fn a_pod_has_its_own_number_and_one_that_acts_as_many_counts_as_one() {
        let caps = Caps::new(Some(1), None, Some(1));
        let mut asked = record(Some("a"), None, "ns", "p");
        let _held = caps.admit(&asked).unwrap();
        asked.requester.user = Some(Subject { name: "b".into(), ..Subject::default() });
        assert!(caps.admit(&asked).unwrap_err().why.starts_with("this pod has 1"));
        asked.pod = "q".into();
        asked.requester.user =
            Some(Subject { name: "b".into(), by: Some("a".into()), ..Subject::default() });
        assert!(caps.admit(&asked).unwrap_err().why.starts_with("this user has 1"));
    }
}
