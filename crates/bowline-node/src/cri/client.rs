//! Calls of the container runtime interface over the runtime's socket, with deadlines and in the
//! version that the runtime has.

use std::borrow::Cow;
use std::error::Error as _;
use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::text::{go_error, sanitized};
use bowline_proto::limits::REASON_BYTES;
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{self, Channel};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::endpoint::Endpoint;
use crate::runtime::Refusal;

/// How long the runtime may take for an answer. None of the calls that have it waits for a process
/// or a disk, so that containerd and CRI-O answer within milliseconds; and all of those that a
/// stream begins with have to fail before the gateway, which waits for 60 s, gives up without
/// knowing why.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection to the socket may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer: the kubelet's limit.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How long a client that comes too early is told to wait, in seconds: a token of the runtime's
/// lives for so long, and is why there are no more.
const RETRY_AFTER_SECONDS: &str = "60";
/// The service's names, in the order in which they are tried. Kubernetes knows the older one up to
/// 1.25, containerd up to 1.7.
const SERVICES: [&str; 2] = ["runtime.v1.RuntimeService", "runtime.v1alpha2.RuntimeService"];

/// The runtime, as something to call. Nothing is connected to before the first call.
#[derive(Debug)]
pub(super) struct Client {
    pub endpoint: Endpoint,
    /// Made where the first call is, since it needs a task.
    channel: OnceLock<Channel>,
    /// Which of [`SERVICES`] the runtime has, as far as is known.
    service: AtomicUsize,
}

/// Why a call brought no answer, in the words that the kubelet has for it.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// The runtime refused, or failed.
    #[error("rpc error: code = {} desc = {}", go_name(.0.code()), shown(.0.message()))]
    Status(Status),
    /// There is no connection to the runtime, or it has broken.
    #[error(
        "rpc error: code = Unavailable desc = connection error: desc = \"the container runtime at \
         {endpoint}: {why}\""
    )]
    Connection {
        /// The runtime's address.
        endpoint: Endpoint,
        /// What is wrong.
        why: String,
    },
    /// The runtime has not answered in time.
    #[error(
        "rpc error: code = DeadlineExceeded desc = context deadline exceeded: the container \
         runtime at {endpoint} did not answer {method} within {} s", patience.as_secs()
    )]
    Late {
        /// The runtime's address.
        endpoint: Endpoint,
        /// What it was asked.
        method: &'static str,
        /// For how long it was waited for.
        patience: Duration,
    },
}

impl Client {
    pub(super) fn new(endpoint: Endpoint) -> Client {
        Client { endpoint, channel: OnceLock::new(), service: AtomicUsize::new(0) }
    }

    /// Whether a process id that the runtime says is the same process's for this program. In
    /// another namespace of processes it is another one's.
    pub(super) async fn names_the_same_processes(&self) -> bool {
        let connecting = UnixStream::connect(self.endpoint.path());
        let Ok(Ok(socket)) = timeout(CONNECT_PATIENCE, connecting).await else { return false };
        let Some(runtime) = socket.peer_cred().ok().and_then(|peer| peer.pid()) else {
            return false;
        };
        // What is mounted there may be of another namespace than this program's own.
        let own = fs::read_link("/proc/self").unwrap_or_default();
        let namespace = |process: &Path| fs::read_link(process.join("ns/pid"));
        let its = namespace(&Path::new("/proc").join(runtime.to_string()));
        own.as_os_str() == &*std::process::id().to_string()
            && its.is_ok_and(|its| namespace(Path::new("/proc/self")).is_ok_and(|own| own == its))
    }

    /// Calls a method of the runtime. Dropped, the call is cancelled.
    ///
    /// # Errors
    /// [`CallError`] if there is no answer within `patience`; `None` is without a limit.
    pub(super) async fn call<Q, A>(
        &self,
        method: &'static str,
        request: Q,
        patience: Option<Duration>,
    ) -> Result<A, CallError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let asked = self.in_known_version(method, request, patience);
        self.within(method, patience, asked).await
    }

    /// Calls a method of another service behind the same socket, with a line of metadata. Dropped,
    /// the call is cancelled.
    ///
    /// # Errors
    /// [`CallError`] if there is no answer within `patience`; `None` is without a limit.
    pub(super) async fn call_other<Q, A>(
        &self,
        (service, method): (&'static str, &'static str),
        metadata: (&'static str, &'static str),
        request: Q,
        patience: Option<Duration>,
    ) -> Result<A, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = Request::new(request);
        request.metadata_mut().insert(metadata.0, MetadataValue::from_static(metadata.1));
        self.within(method, patience, self.send(service, method, request, patience)).await
    }

    async fn within<A>(
        &self,
        method: &'static str,
        patience: Option<Duration>,
        asked: impl Future<Output = Result<A, Status>>,
    ) -> Result<A, CallError> {
        let begun = Instant::now();
        let late = |patience| CallError::Late { endpoint: self.endpoint.clone(), method, patience };
        let Some(patience) = patience else { return asked.await.map_err(|s| self.error(s)) };
        match timeout(patience, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            // The runtime has the same deadline, and both ends look at their own clock.
            Ok(Err(status)) if status.code() == Code::DeadlineExceeded => Err(late(patience)),
            Ok(Err(_)) if begun.elapsed() >= patience => Err(late(patience)),
            Ok(Err(status)) => Err(self.error(status)),
            Err(_) => Err(late(patience)),
        }
    }

    /// Asks in the version that is known to work, and in the other one if the runtime does not have
    /// that: one that is updated while the node runs may have lost what it had. A method that is
    /// not implemented has done nothing.
    async fn in_known_version<Q, A>(
        &self,
        method: &'static str,
        request: Q,
        patience: Option<Duration>,
    ) -> Result<A, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let known = self.service.load(Ordering::Relaxed);
        let first = self.unary(known, method, request.clone(), patience).await;
        let Err(refused) = &first else { return first };
        if refused.code() != Code::Unimplemented {
            return first;
        }
        let other = (known + 1) % SERVICES.len();
        match self.unary(other, method, request, patience).await {
            Err(status) if status.code() == Code::Unimplemented => first,
            answer => {
                self.service.store(other, Ordering::Relaxed);
                answer
            }
        }
    }

    async fn unary<Q, A>(
        &self,
        service: usize,
        method: &str,
        request: Q,
        patience: Option<Duration>,
    ) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.send(SERVICES[service], method, Request::new(request), patience).await
    }

    async fn send<Q, A>(
        &self,
        service: &str,
        method: &str,
        mut request: Request<Q>,
        patience: Option<Duration>,
    ) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        if let Some(patience) = patience {
            request.set_timeout(patience);
        }
        let path = format!("/{service}/{method}");
        let path = PathAndQuery::try_from(path).map_err(|bad| Status::internal(bad.to_string()))?;
        let mut grpc = Grpc::new(self.channel()).max_decoding_message_size(ANSWER_BYTES);
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(grpc.unary(request, path, ProstCodec::default()).await?.into_inner())
    }

    /// Returns the connection, for calls of other services on the same socket.
    pub(super) fn channel(&self) -> Channel {
        self.channel.get_or_init(|| channel(&self.endpoint)).clone()
    }

    fn error(&self, status: Status) -> CallError {
        // Only what did not come from the runtime has a source.
        if status.source().is_none() {
            return CallError::Status(status);
        }
        let why = shown(&root_cause(&status)).into_owned();
        CallError::Connection { endpoint: self.endpoint.clone(), why }
    }
}

/// Makes a connection that is made again whenever it is needed and has gone. Its tasks end with it.
/// No pings: Go's servers end connections because of them.
fn channel(endpoint: &Endpoint) -> Channel {
    let connector = Connector { endpoint: endpoint.clone() };
    // Servers built on h2 take nothing else for an authority than what is one.
    transport::Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_PATIENCE)
        .connect_with_connector_lazy(connector)
}

/// Connects to a socket.
struct Connector {
    endpoint: Endpoint,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<UnixStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.endpoint.path().to_owned();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}

/// The text of the last of an error's sources, which is the only one that says something.
fn root_cause(status: &Status) -> String {
    let mut error = status.source();
    while let Some(next) = error.and_then(std::error::Error::source) {
        error = Some(next);
    }
    match error {
        None => status.message().to_owned(),
        Some(error) => {
            error.downcast_ref::<io::Error>().map_or_else(|| error.to_string(), go_error)
        }
    }
}

fn shown(text: &str) -> Cow<'_, str> {
    sanitized(text, REASON_BYTES)
}

/// A code's name in Go's texts.
fn go_name(code: Code) -> String {
    if code == Code::Cancelled { "Canceled".to_owned() } else { format!("{code:?}") }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Refusal {
        let text = error.to_string();
        match &error {
            CallError::Status(status) if status.code() == Code::NotFound => Refusal::new(404, text),
            CallError::Status(status) if status.code() == Code::ResourceExhausted => {
                let headers = vec![("Retry-After", RETRY_AFTER_SECONDS.to_owned())];
                Refusal { headers, ..Refusal::new(429, text) }
            }
            _ => Refusal::new(500, text),
        }
    }
}
