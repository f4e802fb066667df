//! Clients that begin more connections of a forward than there may be: what was begun counts until
//! it has ended, and everything else goes on.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_client::PortForward;
use bowline_io::local_sockets::{Failure, Local};
use bowline_io::stream::{Connection, Upgraded};
use bowline_node::forward;
use bowline_node::runtime::Ports;
use bowline_proto::portforward::{Forward, OverSpdy};
use bowline_proto::session::Side;
use bowline_proto::spdy;
use bowline_proto::tunnel::Wire;
use bytes::BytesMut;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::hostile::{Hostile, written};

/// Both ends are in this process.
struct Joined(DuplexStream);

impl Connection for Joined {
    fn is_peer_gone(&self) -> bool {
        false
    }

    fn unacknowledged(&self) -> usize {
        0
    }

    fn reset_on_drop(&self) {}
}

impl Local for Joined {
    fn abort(self, _why: Failure) {}
}

impl AsyncRead for Joined {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Joined {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Counts what is begun and has not ended.
#[derive(Clone, Default)]
struct Pod {
    /// Its ports echo; else they are never reached.
    echoes: bool,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

struct Begun(Arc<AtomicUsize>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Display for Pod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("pod")
    }
}

impl Ports for Pod {
    type Stream = Joined;

    async fn dial(self, _port: u16) -> Result<Joined, String> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        let begun = Begun(self.now.clone());
        self.most.fetch_max(now, Ordering::Relaxed);
        self.all.fetch_add(1, Ordering::Relaxed);
        if !self.echoes {
            std::future::pending::<()>().await;
        }
        let (ours, mut theirs) = duplex(1024);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(&mut theirs);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            drop(begun);
        });
        Ok(Joined(ours))
    }
}

fn served() -> Forward {
    Forward::Spdy(OverSpdy::new(Side::Server, Wire::plain()))
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_reset_at_once_are_dropped_as_fast() {
    const RESETS: usize = 20_000;
    /// So many are made at a time.
    const DIALS: usize = 64;
    let mut client = spdy::Connection::new(spdy::Role::Client);
    for number in 0..RESETS {
        let number = number.to_string();
        let headers = |lane| [("streamtype", lane), ("port", "80"), ("requestid", &*number)];
        client.open(&headers("error"));
        let data = client.open(&headers("data"));
        client.reset(data, 5);
    }
    let (pod, end) = (Pod::default(), CancellationToken::new());
    let client = Hostile::says(written(client.outbox()), Vec::new(), 0);
    let run = forward::run(pod.clone(), served(), client, 1000, end);
    assert!(timeout(Duration::from_secs(5), run).await.is_err(), "the forward is over");
    let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
    assert!(count(&pod.most) <= DIALS, "{} at a time", count(&pod.most));
    assert_eq!(count(&pod.now), 0);
}

#[tokio::test(start_paused = true)]
async fn a_forward_has_so_many_connections_and_no_more() {
    const MOST: usize = 100;
    let (client, node) = duplex(64 * 1024);
    let upgraded = |stream| Upgraded { stream: Joined(stream), early: BytesMut::new() };
    let pod = Pod { echoes: true, ..Pod::default() };
    let end = CancellationToken::new();
    let node = tokio::spawn(forward::run(pod.clone(), served(), upgraded(node), MOST, end.clone()));
    let forward = PortForward::over(upgraded(client), Wire::plain());
    for round in 0..3 {
        let mut open = Vec::new();
        for number in 0..MOST {
            let mut stream = forward.connect(80).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'x', "{number} in round {round}");
            open.push(stream);
        }
        for _ in 0..MOST {
            let mut refused = forward.connect(80).await.unwrap();
            let error = refused.read_u8().await.unwrap_err().to_string();
            assert!(error.contains("100 connections are open already"), "{error}");
        }
        // The others go on, and make room when they end.
        for mut stream in open {
            stream.write_all(b"y").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'y');
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        }
    }
    assert_eq!(pod.most.load(Ordering::Relaxed), MOST);
    forward.close().await;
    node.await.unwrap();
}
