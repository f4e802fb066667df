//! The keys that leave an attached session: text to bytes, and input that ends once they came.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;

/// kubectl's default.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// A key that there is none of.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("could not bind detach keys: Unknown character: '{0}'")]
pub struct UnknownKey(String);

/// Reads keys, divided by commas: single characters, `ctrl-` and one of `@a-z[\]^_`, `DEL`. Nothing
/// at all means the default.
///
/// # Errors
/// [`UnknownKey`].
pub fn keys(text: &str) -> Result<Vec<u8>, UnknownKey> {
    let text = if text.is_empty() { DEFAULT } else { text };
    text.split(',')
        .map(|key| match key.as_bytes() {
            [key] => Ok(*key),
            b"DEL" => Ok(127),
            [b'c', b't', b'r', b'l', b'-', key @ (b'@' | b'a'..=b'z' | b'['..=b'_')] => {
                Ok(key & 0x1f)
            }
            _ => Err(UnknownKey(key.to_owned())),
        })
        .collect()
}

/// Input that ends at the keys. What may be their beginning is held back until that is clear.
pub struct Detachable<R> {
    input: R,
    keys: Vec<u8>,
    /// So many of the keys have come.
    pressed: usize,
    /// For the reader.
    waiting: Vec<u8>,
    given: usize,
    ended: bool,
    /// Behind the keys is no end.
    waits: bool,
    detached: Option<oneshot::Sender<()>>,
}

impl<R> Detachable<R> {
    /// Also gives what resolves once the keys came, or never will.
    pub fn new(input: R, keys: Vec<u8>) -> (Detachable<R>, oneshot::Receiver<()>) {
        let (detached, receiver) = oneshot::channel();
        let detachable = Detachable {
            input,
            keys,
            pressed: 0,
            waiting: Vec::new(),
            given: 0,
            ended: false,
            waits: false,
            detached: Some(detached),
        };
        (detachable, receiver)
    }

    /// Input that neither goes on nor ends behind the keys: a command that goes on is not to hear
    /// that it gets no more.
    pub fn without_end(mut self) -> Detachable<R> {
        self.waits = true;
        self
    }

    fn take(&mut self, typed: &[u8]) {
        for &byte in typed {
            loop {
                if self.keys.get(self.pressed) == Some(&byte) {
                    self.pressed += 1;
                    break;
                }
                if self.pressed == 0 {
                    self.waiting.push(byte);
                    break;
                }
                // The longest part of what came that may still be a beginning stays.
                let came = &self.keys[..self.pressed];
                let kept = (0..self.pressed).rev().find(|&kept| came.ends_with(&self.keys[..kept]));
                let kept = kept.unwrap_or(0);
                self.waiting.extend_from_slice(&came[..self.pressed - kept]);
                self.pressed = kept;
            }
            if self.pressed == self.keys.len() {
                self.ended = true;
                if let Some(detached) = self.detached.take() {
                    let _ = detached.send(());
                }
                return;
            }
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Detachable<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.given < this.waiting.len() {
                let length = buffer.remaining().min(this.waiting.len() - this.given);
                buffer.put_slice(&this.waiting[this.given..this.given + length]);
                this.given += length;
                return Poll::Ready(Ok(()));
            }
            this.waiting.clear();
            this.given = 0;
            if this.ended && this.waits && this.detached.is_none() {
                return Poll::Pending;
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let mut typed = [0; 4096];
            let mut typed = ReadBuf::new(&mut typed);
            ready!(Pin::new(&mut this.input).poll_read(cx, &mut typed))?;
            if typed.filled().is_empty() {
                this.ended = true;
                let held = this.keys[..this.pressed].to_vec();
                this.waiting.extend_from_slice(&held);
            } else {
                this.take(typed.filled());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn keys_have_names() {
        assert_eq!(keys(""), Ok(vec![16, 17]));
        assert_eq!(keys("ctrl-@,a,DEL,ctrl-_,ctrl-["), Ok(vec![0, b'a', 127, 31, 27]));
        for bad in ["nonsense", "ctrl-", "ctrl-A", "a,", "ctrl-1"] {
            let error = keys(bad).unwrap_err().to_string();
            assert!(error.starts_with("could not bind detach keys: Unknown character: '"));
        }
    }

    /// What is read of `pieces`, and whether the keys came.
    async fn read(pieces: &[&[u8]], keys: &[u8]) -> (Vec<u8>, bool) {
        let (mut keyboard, input) = tokio::io::duplex(4096);
        let (mut detachable, mut detached) = Detachable::new(input, keys.to_vec());
        for piece in pieces {
            tokio::io::AsyncWriteExt::write_all(&mut keyboard, piece).await.unwrap();
        }
        drop(keyboard);
        let mut found = Vec::new();
        detachable.read_to_end(&mut found).await.unwrap();
        (found, detached.try_recv().is_ok())
    }

    #[tokio::test]
    async fn input_ends_at_the_keys() {
        assert_eq!(read(&[b"ab\x10\x11cd"], &[16, 17]).await, (b"ab".to_vec(), true));
        assert_eq!(read(&[b"ab\x10", b"\x11cd"], &[16, 17]).await, (b"ab".to_vec(), true));
        assert_eq!(read(&[b"a\x10b\x10"], &[16, 17]).await, (b"a\x10b\x10".to_vec(), false));
        assert_eq!(read(&[b"xaab"], b"aab").await, (b"x".to_vec(), true));
        assert_eq!(read(&[b"aaab!"], b"aab").await, (b"a".to_vec(), true));
    }

    #[tokio::test]
    async fn without_end_nothing_comes_behind_the_keys() {
        for (typed, expected, is_left) in [("ab\x10\x11cd", "ab", true), ("ab", "ab", false)] {
            let (mut keyboard, input) = tokio::io::duplex(4096);
            let (detachable, mut detached) = Detachable::new(input, vec![16, 17]);
            let mut detachable = detachable.without_end();
            tokio::io::AsyncWriteExt::write_all(&mut keyboard, typed.as_bytes()).await.unwrap();
            drop(keyboard);
            let (mut found, mut piece) = (Vec::new(), [0; 100]);
            let ended = loop {
                let read = detachable.read(&mut piece);
                tokio::select! {
                    biased;
                    read = read => match read.unwrap() {
                        0 => break true,
                        read => found.extend_from_slice(&piece[..read]),
                    },
                    () = std::future::ready(()) => break false,
                }
            };
            assert_eq!((&*found, detached.try_recv().is_ok()), (expected.as_bytes(), is_left));
            assert_eq!(ended, !is_left);
        }
    }

    proptest! {
        /// However the input is divided, and whatever the keys are: all up to the first place where
        /// they stand, and nothing else.
        #[test]
        fn nothing_but_the_keys_is_taken(
            typed in prop::collection::vec(0u8..3, 0..40),
            keys in prop::collection::vec(0u8..3, 1..4),
            size in 1usize..5,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let pieces: Vec<&[u8]> = typed.chunks(size).collect();
            let (found, detached) = runtime.block_on(read(&pieces, &keys));
            let place = typed.windows(keys.len()).position(|part| part == keys);
            prop_assert_eq!(detached, place.is_some());
            prop_assert_eq!(&found[..], &typed[..place.unwrap_or(typed.len())]);
        }
    }
}
