//! Input of a command to input that waits until the command runs, and then comes in growing pieces.
//! So, if the connection is soon cut again, some input has arrived and is not only in buffers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Sink;
use super::capture::Shared;
use crate::write_fn::WriteFn;

/// The size of the first piece.
const FIRST_BYTES: u64 = 128 * 1024;
/// The size of the last piece; all further input comes without pauses.
const LAST_BYTES: u64 = 64 * 1024 * 1024;
/// The pause between two pieces, each of which is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether a command has begun, and who waits for that.
#[derive(Default)]
struct StartSignal {
    is_given: bool,
    waiting: Option<Waker>,
}

/// Throttled input.
pub(crate) struct Throttled<R> {
    inner: R,
    start: Shared<StartSignal>,
    piece: u64,
    left: u64,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Throttles a command's input, which starts at its first output. Returns the sink for that output,
/// which goes on to `keep`.
pub(crate) fn throttled<R>(
    inner: R,
    mut keep: impl FnMut(&[u8]) + Send + Unpin + 'static,
) -> (Throttled<R>, Sink) {
    let start = Shared::new(StartSignal::default());
    let signal = start.clone();
    let sink = WriteFn(move |bytes: &[u8]| {
        keep(bytes);
        let mut start = signal.lock();
        start.is_given = true;
        if let Some(waiting) = start.waiting.take() {
            waiting.wake();
        }
        Ok(())
    });
    let (piece, left) = (FIRST_BYTES, FIRST_BYTES);
    (Throttled { inner, start, piece, left, pause: None }, Box::new(sink))
}

impl<R: AsyncRead + Unpin> AsyncRead for Throttled<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        {
            let mut start = this.start.lock();
            if !start.is_given {
                start.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        if this.left == 0 {
            let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE)));
            if pause.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.pause = None;
            this.piece *= 2;
            this.left = if this.piece > LAST_BYTES { u64::MAX } else { this.piece };
        }
        let most = usize::try_from(this.left).unwrap_or(usize::MAX).min(buffer.remaining());
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let read = Pin::new(&mut this.inner).poll_read(cx, &mut piece);
        let length = piece.filled().len();
        buffer.advance(length);
        this.left -= length as u64;
        read
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn input_waits_for_its_command_and_grows() {
        let length = 1_000_000;
        let input = vec![1; length];
        let (mut input, mut output) = throttled(&input[..], |_| ());
        let mut piece = vec![0; length];
        let begun = Instant::now();
        assert!(tokio::time::timeout(PAUSE, input.read(&mut piece)).await.is_err());
        output.write_all(b"begun").await.unwrap();
        let mut came = Vec::new();
        let mut all = 0;
        while let read @ 1.. = input.read(&mut piece).await.unwrap() {
            all += read;
            came.push((read as u64 / FIRST_BYTES, (begun.elapsed() - PAUSE).as_millis() / 100));
        }
        assert_eq!(all, length);
        assert_eq!(came, [(1, 0), (2, 1), (4, 2), (0, 3)]);
    }
}
