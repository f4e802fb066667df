//! Tokens that stand for a stream that was asked for: used once, and not for long.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Debug, Formatter};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_io::random;
use bowline_proto::Time;

/// How long a token can be used, as in Kubernetes' library for runtimes (docs/protocols,
/// endpoints.md, 1.4).
const LIFETIME: Duration = Duration::from_secs(60);
/// How many tokens may wait to be used, as there.
pub(super) const TOKENS: usize = 1000;
/// The length of a token, in characters, as there: 48 bits.
const LENGTH: usize = 8;
/// The longest token: 192 bits.
const MAX_LENGTH: usize = 32;

/// What was asked for, by its token.
pub(super) struct Tokens<T> {
    offered: HashMap<String, T>,
    /// The tokens by their age, with the time at which each of them ends. Those that were used
    /// are in it until then.
    by_age: VecDeque<(Time, String)>,
}

impl<T> Default for Tokens<T> {
    fn default() -> Tokens<T> {
        Tokens { offered: HashMap::new(), by_age: VecDeque::new() }
    }
}

impl<T> Tokens<T> {
    /// Makes a token for `offered`, of `length` characters where that is 8 to 32, else the nearest
    /// of these. `None` if too many of them wait.
    pub(super) fn insert(&mut self, now: Time, offered: T, length: usize) -> Option<String> {
        self.expire(now);
        if self.offered.len() >= TOKENS {
            return None;
        }
        let mut token = URL_SAFE_NO_PAD.encode(random::bytes::<{ MAX_LENGTH * 3 / 4 }>());
        token.truncate(length.clamp(LENGTH, MAX_LENGTH));
        self.offered.insert(token.clone(), offered);
        self.by_age.push_back((now + LIFETIME, token.clone()));
        Some(token)
    }

    /// Returns what a token stands for, and ends the token.
    pub(super) fn take(&mut self, now: Time, token: &str) -> Option<T> {
        self.expire(now);
        self.offered.remove(token)
    }

    /// Ends the tokens whose time has come, and forgets used ones once they are most of the list.
    fn expire(&mut self, now: Time) {
        while let Some((until, token)) = self.by_age.front()
            && *until <= now
        {
            self.offered.remove(token);
            self.by_age.pop_front();
        }
        if self.by_age.len() > 2 * TOKENS {
            let offered = &self.offered;
            self.by_age.retain(|(_, token)| offered.contains_key(token));
        }
    }
}

impl<T> Debug for Tokens<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // Whoever knows a token may use it.
        f.debug_struct("Tokens").field("waiting", &self.offered.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_token_is_used_once_and_within_a_minute() {
        let mut tokens = Tokens::default();
        let first = tokens.insert(at(0), 1, 0).unwrap();
        let second = tokens.insert(at(30), 2, 0).unwrap();
        let third = tokens.insert(at(30), 3, 0).unwrap();
        assert_eq!(tokens.take(at(59), &first), Some(1));
        assert_eq!(tokens.take(at(59), &first), None);
        assert_eq!(tokens.take(at(89), &second), Some(2));
        assert_eq!(tokens.take(at(90), &third), None);
        assert_eq!(tokens.take(at(90), ""), None);
        assert!(tokens.by_age.is_empty());
    }

    #[test]
    fn only_so_many_wait() {
        let mut tokens = Tokens::default();
        let all: Vec<_> =
            (0..TOKENS).map(|number| tokens.insert(at(0), number, 0).unwrap()).collect();
        assert_eq!(tokens.insert(at(59), 0, 0), None);
        assert_eq!(tokens.take(at(59), &all[7]), Some(7));
        assert!(tokens.insert(at(59), 0, 0).is_some());
        assert_eq!(tokens.insert(at(59), 0, 0), None);
        assert!(tokens.insert(at(60), 0, 0).is_some());
    }

    #[test]
    fn used_tokens_take_no_room() {
        let mut tokens = Tokens::default();
        for number in 0..10 * TOKENS {
            let token = tokens.insert(at(0), number, 0).unwrap();
            assert_eq!(tokens.take(at(0), &token), Some(number));
            assert!(tokens.by_age.len() <= 2 * TOKENS + 1);
        }
    }

    #[test]
    fn a_token_is_as_long_as_is_wished_within_its_bounds() {
        let mut tokens = Tokens::default();
        for (wished, length) in [(0, 8), (8, 8), (13, 13), (32, 32), (99, 32)] {
            let token = tokens.insert(at(0), (), wished).unwrap();
            assert_eq!(token.len(), length);
            let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert!(token.bytes().all(is_safe), "{token}");
        }
    }
}
