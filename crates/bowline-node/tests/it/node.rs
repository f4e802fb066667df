//! A runtime to a kubelet that listens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_io::serve::{Limits, Sessions, serve};
use bowline_io::tls::{self, Identity};
use bowline_node::forward::Slots;
use bowline_node::health::Readiness;
use bowline_node::kept::{self, Keeper};
use bowline_node::kubelet::{Access, Kubelet};
use bowline_node::runtime::Runtime;
use bowline_node::streaming::Streaming;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::memory::Memory;

/// How many connections a forward may have.
pub const CONNECTIONS: usize = 4;

/// A kubelet on loopback. Dropped, it ends without a goodbye.
pub struct Node {
    pub address: SocketAddr,
    pub sessions: Sessions,
    serving: JoinHandle<()>,
}

/// What a node keeps, and where it is written down.
struct Keeping {
    limits: kept::Limits,
    path: Option<PathBuf>,
}

impl From<kept::Limits> for Keeping {
    fn from(limits: kept::Limits) -> Keeping {
        Keeping { limits, path: None }
    }
}

impl Node {
    pub async fn start(runtime: Arc<dyn Runtime>) -> Node {
        Node::with(runtime, Sessions::default()).await
    }

    pub async fn with(runtime: Arc<dyn Runtime>, sessions: Sessions) -> Node {
        Node::serve(runtime, sessions, None, None, kept::Limits::default().into()).await
    }

    /// One that speaks TLS, with this certificate.
    pub async fn over_tls(runtime: Arc<dyn Runtime>, identity: &Identity) -> Node {
        let tls = tls::server(identity, None, false).unwrap();
        let kept = kept::Limits::default().into();
        Node::serve(runtime, Sessions::default(), Some(tls), None, kept).await
    }

    /// One that asks who it is.
    pub async fn guarded(
        runtime: Arc<dyn Runtime>,
        sessions: Sessions,
        access: Option<Access>,
    ) -> Node {
        Node::serve(runtime, sessions, None, access, kept::Limits::default().into()).await
    }

    /// One that writes down what becomes of sessions.
    pub async fn recording(runtime: Arc<dyn Runtime>, path: &Path) -> Node {
        let keeping = Keeping { limits: kept::Limits::default(), path: Some(path.to_owned()) };
        Node::serve(runtime, Sessions::default(), None, None, keeping).await
    }

    /// One that keeps so many sessions.
    pub async fn keeping(runtime: Arc<dyn Runtime>, kept: kept::Limits) -> Node {
        Node::serve(runtime, Sessions::default(), None, None, kept.into()).await
    }

    async fn serve(
        runtime: Arc<dyn Runtime>,
        sessions: Sessions,
        tls: Option<tls::Server>,
        access: Option<Access>,
        keeping: Keeping,
    ) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let forwards = Slots::new(CONNECTIONS);
        let readiness = Readiness::new(runtime.clone());
        let Keeping { limits, path } = keeping;
        let keeper = match path {
            None => Keeper::new(sessions.clone(), limits),
            Some(path) => Keeper::recording(sessions.clone(), limits, &path).unwrap(),
        };
        let all = sessions.clone();
        let kubelet = Kubelet { runtime, sessions: all, access, forwards, keeper, readiness };
        let service = move |peer, request| kubelet.clone().answer(peer, request);
        let serving = serve(listener, tls, Limits::default(), sessions.clone(), service);
        Node { address, sessions, serving: tokio::spawn(serving) }
    }

    /// The streaming server of a runtime, on loopback as well.
    pub async fn streaming() -> (Node, Streaming) {
        Node::streaming_of(Arc::new(Memory::default())).await
    }

    /// The same, in front of this runtime.
    pub async fn streaming_of(runtime: Arc<dyn Runtime>) -> (Node, Streaming) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sessions, forwards) = (Sessions::default(), Slots::new(CONNECTIONS));
        let keeper = Keeper::new(sessions.clone(), kept::Limits::default());
        let (base, readiness) = (format!("http://{address}"), Readiness::new(runtime));
        let streaming = Streaming::new(&base, sessions.clone(), forwards, readiness);
        let streaming = streaming.keeping(keeper);
        let answering = streaming.clone();
        let service = move |peer, request| answering.clone().answer(peer, request);
        let serving = serve(listener, None, Limits::default(), sessions.clone(), service);
        (Node { address, sessions, serving: tokio::spawn(serving) }, streaming)
    }

    /// Ends it as a signal does.
    pub async fn stop(mut self) {
        self.sessions.end.cancel();
        (&mut self.serving).await.unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
