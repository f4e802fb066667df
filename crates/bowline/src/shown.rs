//! A terminal that shows a session's output, and is left as it was.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_client::kept::TerminalModes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a terminal may take what leaves it: it may be stopped.
const PATIENCE: Duration = Duration::from_secs(2);

/// Output to a terminal. Clones are the same one.
pub struct Shown<W>(Arc<Mutex<Inner<W>>>);

struct Inner<W> {
    output: W,
    modes: TerminalModes,
}

impl<W> Clone for Shown<W> {
    fn clone(&self) -> Shown<W> {
        Shown(self.0.clone())
    }
}

impl<W: AsyncWrite + Unpin> Shown<W> {
    /// A terminal in no mode.
    pub fn new(output: W) -> Shown<W> {
        Shown(Arc::new(Mutex::new(Inner { output, modes: TerminalModes::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the modes that the session has set. A terminal that does not take it stays in them.
    pub async fn leave(mut self) {
        let end = self.lock().modes.end();
        if end.is_empty() {
            return;
        }
        let _ = timeout(PATIENCE, async {
            self.write_all(&end).await?;
            self.flush().await
        })
        .await;
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Shown<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let Inner { output, modes } = &mut *inner;
        let written = Pin::new(output).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = &written {
            modes.feed(&bytes[..*length]);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().output).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().output).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn it_is_left_behind_all_that_was_written() {
        for (written, end) in [("$ ls\r\n", ""), ("a\x1b[?2004h", "\x1b[?2004l")] {
            let (output, mut terminal) = tokio::io::duplex(100);
            let mut shown = Shown::new(output);
            shown.write_all(written.as_bytes()).await.unwrap();
            shown.leave().await;
            let mut seen = String::new();
            terminal.read_to_string(&mut seen).await.unwrap();
            assert_eq!(seen, format!("{written}{end}"));
        }
    }
}
