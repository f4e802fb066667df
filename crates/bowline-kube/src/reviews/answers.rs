//! Questions to answers: kept for a time, asked for once at a time, within a deadline.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_io::auth::Unavailable;
use bowline_io::random;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};

/// How long anybody waits for an answer, all tries together: as long as the kubelet does.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many questions are asked at once. Each is a connection, and whoever can connect to a server
/// can make it ask.
const AT_ONCE: usize = 64;
/// How many answers are kept, as by the kubelet.
const ANSWERS: usize = 8192;
/// How many bytes of them are kept.
const BYTES: usize = 16 * 1024 * 1024;

/// A question's own number: nobody who does not know the secret can make two questions of one key,
/// or find a token in one.
pub(super) type Key = [u8; 32];

/// How long an answer is kept, and how large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// How long.
    pub(super) time: Duration,
    /// About how many bytes.
    pub(super) bytes: usize,
}

/// The answers to questions of one kind.
pub(super) struct Answers<V> {
    secret: [u8; 32],
    state: Mutex<State<V>>,
    places: Semaphore,
}

struct State<V> {
    kept: Kept<V>,
    asked: HashMap<Key, Shared<V>>,
}

/// The answer to a question that is being asked, for all who wait for it.
type Shared<V> = Arc<OnceCell<Result<V, Unavailable>>>;

impl<V> fmt::Debug for Answers<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl<V: Clone> Answers<V> {
    pub(super) fn new() -> Answers<V> {
        Answers {
            secret: random::bytes(),
            state: Mutex::new(State { kept: Kept::default(), asked: HashMap::new() }),
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// Returns the key of a question.
    pub(super) fn key(&self, question: &[u8]) -> Key {
        // Takes keys of any length, so there is no error.
        let mac = Hmac::<Sha256>::new_from_slice(&self.secret);
        mac.map(|mac| mac.chain_update(question).finalize().into_bytes().into()).unwrap_or_default()
    }

    /// Returns the answer that is kept, or what `ask` gives. Of those who ask the same at the same
    /// time one asks, and all get its answer or its error; if that one gives up, the next one asks.
    pub(super) async fn get<F>(&self, key: Key, ask: impl FnOnce() -> F) -> Result<V, Unavailable>
    where
        F: Future<Output = Result<(V, Option<Keep>), Unavailable>>,
    {
        let shared = {
            let mut state = self.lock();
            if let Some(answer) = state.kept.get(&key, Instant::now()) {
                return Ok(answer);
            }
            state.asked.entry(key).or_default().clone()
        };
        let waiting = Waiting { answers: self, key, shared };
        let answer = waiting.shared.get_or_init(|| self.ask(key, ask));
        match timeout(PATIENCE, answer).await {
            Ok(answer) => answer.clone(),
            Err(_) => Err(late()),
        }
    }

    async fn ask<F>(&self, key: Key, ask: impl FnOnce() -> F) -> Result<V, Unavailable>
    where
        F: Future<Output = Result<(V, Option<Keep>), Unavailable>>,
    {
        let asked = timeout(PATIENCE, async {
            let _place = self.places.acquire().await.map_err(Unavailable::new)?;
            ask().await
        });
        let (answer, keep) = asked.await.map_err(|_| late())??;
        if let Some(keep) = keep {
            self.lock().kept.insert(key, answer.clone(), keep, Instant::now());
        }
        Ok(answer)
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn late() -> Unavailable {
    Unavailable::new(format!("no answer within {} s", PATIENCE.as_secs()))
}

/// One who waits for an answer. The last one, or the first after the answer, clears up.
struct Waiting<'a, V: Clone> {
    answers: &'a Answers<V>,
    key: Key,
    shared: Shared<V>,
}

impl<V: Clone> Drop for Waiting<'_, V> {
    fn drop(&mut self) {
        let mut state = self.answers.lock();
        // Given up under the lock, as it was got: who is counted is there.
        let shared = mem::take(&mut self.shared);
        let is_answered = shared.initialized();
        let known = state.asked.get(&self.key).filter(|known| Arc::ptr_eq(known, &shared));
        drop(shared);
        // Only the table has it if nobody else waits.
        if known.is_some_and(|known| is_answered || Arc::strong_count(known) == 1) {
            state.asked.remove(&self.key);
        }
    }
}

/// Answers that are kept. What ends first goes first where there is no room.
struct Kept<V> {
    answers: HashMap<Key, KeptAnswer<V>>,
    /// By their ends, and numbers that make each of these unique.
    ends: BTreeMap<(Instant, u64), Key>,
    number: u64,
    bytes: usize,
}

struct KeptAnswer<V> {
    answer: V,
    end: (Instant, u64),
    bytes: usize,
}

impl<V> Default for Kept<V> {
    fn default() -> Kept<V> {
        Kept { answers: HashMap::new(), ends: BTreeMap::new(), number: 0, bytes: 0 }
    }
}

impl<V: Clone> Kept<V> {
    fn get(&self, key: &Key, now: Instant) -> Option<V> {
        self.answers.get(key).filter(|kept| kept.end.0 > now).map(|kept| kept.answer.clone())
    }

    fn insert(&mut self, key: Key, answer: V, keep: Keep, now: Instant) {
        self.remove(&key);
        let is_full = |kept: &Kept<V>| {
            kept.answers.len() >= ANSWERS || kept.bytes.saturating_add(keep.bytes) > BYTES
        };
        while let Some((&(end, _), &first)) = self.ends.first_key_value() {
            if end > now && !is_full(self) {
                break;
            }
            self.remove(&first);
        }
        if is_full(self) {
            return;
        }
        self.number += 1;
        self.bytes += keep.bytes;
        let end = (now + keep.time, self.number);
        self.ends.insert(end, key);
        self.answers.insert(key, KeptAnswer { answer, end, bytes: keep.bytes });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.answers.remove(key) {
            self.ends.remove(&kept.end);
            self.bytes -= kept.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};
    use std::sync::Barrier;

    use tokio::time::advance;

    use super::*;

    const KEEP: Keep = Keep { time: Duration::from_secs(10), bytes: 1 };

    fn key(number: u64) -> Key {
        let mut key = Key::default();
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn keys_are_the_questions_and_the_secrets() {
        let (one, other) = (Answers::<()>::new(), Answers::<()>::new());
        assert_eq!(one.key(b"a"), one.key(b"a"));
        assert_ne!(one.key(b"a"), one.key(b"b"));
        assert_ne!(one.key(b"a"), other.key(b"a"));
        assert_ne!(one.key(b""), Key::default());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_to_its_end_and_an_error_is_not() {
        let (answers, asked) = (Answers::new(), Cell::new(0));
        let get = async |keep: Option<Keep>, fails: bool| {
            let ask = || {
                asked.set(asked.get() + 1);
                ready(if fails { Err(Unavailable::new("no")) } else { Ok((asked.get(), keep)) })
            };
            answers.get(key(1), ask).await.ok()
        };
        assert_eq!(get(Some(KEEP), true).await, None);
        assert_eq!(get(None, false).await, Some(2), "nothing was kept of the error");
        assert_eq!(get(Some(KEEP), false).await, Some(3), "nor of an answer that is not for it");
        advance(Duration::from_millis(9_999)).await;
        assert_eq!(get(Some(KEEP), false).await, Some(3));
        advance(Duration::from_millis(1)).await;
        assert_eq!(get(Some(KEEP), false).await, Some(4));
        assert!(answers.lock().asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all_and_the_next_one_if_it_goes() {
        let (answers, asked) = (Arc::new(Answers::<u32>::new()), Arc::new(Semaphore::new(0)));
        let (count, end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let all: Vec<_> = (0..10)
            .map(|_| {
                let (answers, asked, count, end) =
                    (answers.clone(), asked.clone(), count.clone(), end.clone());
                tokio::spawn(async move {
                    asked.add_permits(1);
                    let ask = || async {
                        count.add_permits(1);
                        end.acquire().await.unwrap().forget();
                        Err(Unavailable::new("all the same"))
                    };
                    answers.get(key(1), ask).await
                })
            })
            .collect();
        asked.acquire_many(10).await.unwrap().forget();
        count.acquire().await.unwrap().forget();
        assert_eq!(count.available_permits(), 0);
        // Whoever it is that asks goes away.
        all[0].abort();
        count.acquire().await.unwrap().forget();
        end.add_permits(1);
        let mut errors = 0;
        for one in all {
            match one.await {
                Ok(answer) => {
                    assert_eq!(answer.unwrap_err().to_string(), "all the same");
                    errors += 1;
                }
                Err(error) => assert!(error.is_cancelled()),
            }
        }
        assert_eq!((errors, count.available_permits()), (9, 0));
        assert!(answers.lock().asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_longer_than_the_patience() {
        let answers = Answers::<()>::new();
        let begun = Instant::now();
        let one = answers.get(key(1), pending);
        let two = async {
            tokio::time::sleep(PATIENCE / 2).await;
            answers.get(key(1), pending).await
        };
        let (one, two) = tokio::join!(one, two);
        assert_eq!(one.unwrap_err().to_string(), "no answer within 30 s");
        assert_eq!(two.unwrap_err().to_string(), "no answer within 30 s");
        assert_eq!(begun.elapsed(), PATIENCE, "the error is for both");
        assert!(answers.lock().asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_ask_at_once_and_those_who_gave_up_leave_nothing() {
        let answers = Answers::<()>::new();
        let asking = Cell::new(0);
        let many = (0..1000).map(|number| {
            let asking = &asking;
            answers.get(key(number), move || async move {
                asking.set(asking.get() + 1);
                pending().await
            })
        });
        let mut many: Vec<_> = many.map(Box::pin).collect();
        for one in &mut many {
            assert!(futures_poll(one.as_mut()).await.is_none());
        }
        assert_eq!(asking.get(), AT_ONCE);
        assert_eq!(answers.lock().asked.len(), 1000);
        drop(many);
        assert!(answers.lock().asked.is_empty());
    }

    #[test]
    fn those_who_give_up_at_the_same_time_leave_nothing() {
        let answers = Answers::<()>::new();
        for number in 0..2000 {
            let key = key(number);
            let shared = answers.lock().asked.entry(key).or_default().clone();
            let two = [shared.clone(), shared];
            let two = two.map(|shared| Waiting { answers: &answers, key, shared });
            let both = Barrier::new(2);
            std::thread::scope(|scope| {
                for waiting in two {
                    let both = &both;
                    scope.spawn(move || {
                        both.wait();
                        drop(waiting);
                    });
                }
            });
            assert!(answers.lock().asked.is_empty(), "{number}");
        }
    }

    async fn futures_poll<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => Some(value),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_and_what_ends_first_goes_first() {
        let mut kept = Kept::default();
        let now = Instant::now();
        let short = Keep { time: Duration::from_secs(1), bytes: 1 };
        kept.insert(key(0), 0, short, now);
        for number in 1..=ANSWERS as u64 {
            kept.insert(key(number), number, KEEP, now);
        }
        assert_eq!(kept.answers.len(), ANSWERS);
        assert_eq!(kept.get(&key(0), now), None, "it was the first to end");
        assert_eq!(kept.get(&key(1), now), Some(1));
        // The same key again takes no room.
        kept.insert(key(1), 7, KEEP, now);
        assert_eq!((kept.answers.len(), kept.get(&key(2), now)), (ANSWERS, Some(2)));
        let half = Keep { bytes: BYTES / 2, ..KEEP };
        for number in [1 << 32, 1 << 33, 1 << 34] {
            kept.insert(key(number), number, half, now);
            assert!(kept.bytes <= BYTES);
        }
        assert_eq!(kept.answers.len(), 2);
        kept.insert(key(5), 5, Keep { bytes: BYTES + 1, ..KEEP }, now);
        assert_eq!(kept.get(&key(5), now), None);
        let later = now + Duration::from_secs(10);
        kept.insert(key(6), 6, KEEP, later);
        assert_eq!((kept.answers.len(), kept.ends.len(), kept.bytes), (1, 1, 1));
    }
}
