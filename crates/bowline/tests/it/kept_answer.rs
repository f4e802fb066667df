//! Terminals that answer a kept session's command as soon as they have been written to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bowline_client::Ends;
use bowline_client::kept::Goodbye;
use bowline_proto::kept::{Frame, Stream};
use bowline_proto::session::Wants;
use bytes::Bytes;
use tokio::io::{AsyncWrite, DuplexStream, duplex};
use tokio::sync::Notify;

use super::bad_server;
use super::kept_left::{Host, session};

/// A terminal whose answer is there before its program hears that the question was written.
struct Terminal {
    keys: DuplexStream,
    /// How often it is asked whether all was written before it was.
    late: u32,
}

impl AsyncWrite for Terminal {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        assert!(Pin::new(&mut self.keys).poll_write(cx, b"answer").is_ready());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.late == 0 {
            return Poll::Ready(Ok(()));
        }
        self.late -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Without that, another client's terminal would be asked again.
#[tokio::test]
async fn what_a_terminal_answers_comes_behind_the_acknowledgement_of_the_question() {
    let (answered, in_order) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (tell, order) = (answered.clone(), in_order.clone());
    let address = bad_server::start(move |request| {
        let wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };
        let mut host = Host::of(request.upgrade_kept(), wants);
        host.says(&Frame::Data(Stream::Stdout, 0, Bytes::from_static(b"asked")));
        let mut is_acknowledged = false;
        host.until(|frame| {
            is_acknowledged |= *frame == Frame::Ack(Stream::Stdout, 5);
            matches!(frame, Frame::Data(Stream::Stdin, ..))
        });
        order.store(is_acknowledged, Ordering::Relaxed);
        tell.notify_one();
        host.until(|frame| matches!(frame, Frame::Leave(_)));
        host.says(&Frame::Left);
    });
    let (keys, stdin) = duplex(64);
    let mut ends = Ends::default();
    ends.stdin = Some(Box::new(stdin));
    ends.stdout = Box::new(Terminal { keys, late: 20 });
    let left = session(address).ends(ends).run_until(async move {
        answered.notified().await;
        Goodbye::HangUp
    });
    assert!(matches!(left.await, Ok(None)));
    assert!(in_order.load(Ordering::Relaxed));
}
