//! A runtime's CRI socket with answers that no real runtime can be made to give. Its messages are
//! written down here once more, from the interface's own `api.proto`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};

/// What a method answers.
#[derive(Clone, Debug)]
pub enum Reply {
    Message(Vec<u8>),
    /// A code of gRPC, and its text.
    Status(u16, String),
    /// These bytes as the body, whatever they are, and success.
    Raw(Vec<u8>),
    /// None.
    Never,
    /// What this makes of the message.
    Made(Make),
}

/// A method of a service that does something.
#[derive(Clone)]
pub struct Make(Arc<dyn Fn(Bytes) -> BoxFuture<Reply> + Send + Sync>);

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Debug for Make {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Make")
    }
}

impl Reply {
    pub fn message(message: &impl Message) -> Reply {
        Reply::Message(message.encode_to_vec())
    }

    pub fn made(make: impl Fn(Bytes) -> BoxFuture<Reply> + Send + Sync + 'static) -> Reply {
        Reply::Made(Make(Arc::new(make)))
    }
}

/// What is asked: the path, and the message.
pub type Asked = (String, Bytes);

#[derive(Debug, Default)]
struct Script {
    /// By method, for the version at which the runtime is.
    replies: HashMap<&'static str, Reply>,
    version: &'static str,
    asked: Vec<Asked>,
    /// By service and method, for other services.
    others: HashMap<&'static str, Reply>,
    /// What those that are there were asked.
    others_asked: Vec<Asked>,
    connections: usize,
}

/// A socket in a directory of its own. Dropped, it and its connections are gone.
#[derive(Debug)]
pub struct CriServer {
    directory: TempDir,
    script: Arc<Mutex<Script>>,
    serving: Option<JoinHandle<()>>,
}

impl CriServer {
    /// Makes a runtime that is not there yet.
    pub fn absent() -> CriServer {
        let script = Script { version: "runtime.v1", ..Script::default() };
        let directory = tempfile::tempdir().unwrap();
        CriServer { directory, script: Arc::new(Mutex::new(script)), serving: None }
    }

    /// Makes a runtime with one pod and no streaming server.
    pub fn start() -> CriServer {
        let mut server = CriServer::absent();
        server.listen();
        server
            .reply("ListPodSandbox", &sandboxes(&[("p", "u", 0, 1)]))
            .reply("ListContainers", &containers(&[("id", "c", "u", RUNNING, 1)]));
        server
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("cri.sock")
    }

    pub fn listen(&mut self) {
        let listener = UnixListener::bind(self.path()).unwrap();
        self.serving = Some(tokio::spawn(serve(listener, self.script.clone())));
    }

    /// Ends as a runtime that is killed: the socket stays, and nobody is there.
    pub async fn kill(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    /// Comes back.
    pub fn restart(&mut self) {
        std::fs::remove_file(self.path()).unwrap();
        self.listen();
    }

    pub fn version(&self, version: &'static str) -> &CriServer {
        self.script.lock().unwrap().version = version;
        self
    }

    pub fn answer(&self, method: &'static str, reply: Reply) -> &CriServer {
        self.script.lock().unwrap().replies.insert(method, reply);
        self
    }

    pub fn reply(&self, method: &'static str, message: &impl Message) -> &CriServer {
        self.answer(method, Reply::Message(message.encode_to_vec()))
    }

    /// Answers a method of another service, `service/method`.
    pub fn other(&self, path: &'static str, reply: Reply) -> &CriServer {
        self.script.lock().unwrap().others.insert(path, reply);
        self
    }

    /// Returns what other services were asked since the last time, without those that are not
    /// there.
    pub fn others_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.script.lock().unwrap().others_asked)
    }

    /// Returns what was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.script.lock().unwrap().asked)
    }

    /// The same, without the messages.
    pub fn methods(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.0).collect()
    }

    pub fn connections(&self) -> usize {
        self.script.lock().unwrap().connections
    }
}

impl Drop for CriServer {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn serve(listener: UnixListener, script: Arc<Mutex<Script>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        script.lock().unwrap().connections += 1;
        let script = script.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, script.clone()));
            let server = http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    script: Arc<Mutex<Script>>,
) -> Result<Response<Body>, Infallible> {
    assert_eq!(request.uri().authority().map(|one| one.as_str()), Some("localhost"));
    let path = request.uri().path().to_owned();
    let namespace = request.headers().get("containerd-namespace");
    let namespace = namespace.map(|name| name.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let reply = {
        let mut script = script.lock().unwrap();
        let asked = (path.clone(), body.slice(5..));
        if path.starts_with("/runtime.") {
            script.asked.push(asked);
            let service = format!("/{}.RuntimeService/", script.version);
            let method = path.strip_prefix(&service);
            method.and_then(|method| script.replies.get(method)).cloned()
        } else {
            let reply = script.others.get(&path[1..]).cloned();
            if reply.is_some() {
                assert_eq!(namespace.as_deref(), Some("k8s.io"));
                script.others_asked.push(asked);
            }
            reply
        }
    };
    let unknown = || Reply::Status(12, format!("unknown service or method {path}"));
    let mut reply = reply.unwrap_or_else(unknown);
    while let Reply::Made(make) = reply {
        reply = make.0(body.slice(5..)).await;
    }
    Ok(match reply {
        Reply::Message(message) => {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            success([&[0], &length[..], &message].concat())
        }
        Reply::Raw(body) => success(body),
        Reply::Status(code, text) => Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", code)
            .header(
                "grpc-message",
                percent_encoding::utf8_percent_encode(&text, ESCAPED).to_string(),
            )
            .body(Empty::new().boxed())
            .unwrap(),
        Reply::Never | Reply::Made(_) => std::future::pending().await,
    })
}

/// What gRPC escapes in texts.
const ESCAPED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

fn success(body: Vec<u8>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    let body = Full::new(Bytes::from(body)).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
}

// ── Messages ────────────────────────────────────────────────────────────────────────────────────

pub const RUNNING: i32 = 1;
pub const EXITED: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Sandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct Sandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(map = "string, string", tag = "5")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Metadata>,
    #[prost(int32, tag = "6")]
    state: i32,
    #[prost(int64, tag = "7")]
    created_at: i64,
    #[prost(map = "string, string", tag = "8")]
    labels: HashMap<String, String>,
}

/// Exec's, Attach's and PortForward's.
#[derive(Clone, PartialEq, Message)]
pub struct Url {
    #[prost(string, tag = "1")]
    pub url: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Exec {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    #[prost(bool, tag = "3")]
    pub tty: bool,
    #[prost(bool, tag = "4")]
    pub stdin: bool,
    #[prost(bool, tag = "5")]
    pub stdout: bool,
    #[prost(bool, tag = "6")]
    pub stderr: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attach {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(bool, tag = "2")]
    pub stdin: bool,
    #[prost(bool, tag = "3")]
    pub tty: bool,
    #[prost(bool, tag = "4")]
    pub stdout: bool,
    #[prost(bool, tag = "5")]
    pub stderr: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct PortForward {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    #[prost(int32, repeated, tag = "2")]
    pub port: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExecSync {
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatus {
    #[prost(message, optional, tag = "1")]
    status: Option<State>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(string, tag = "15")]
    log_path: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(message, optional, tag = "1")]
    status: Option<Conditions>,
}

#[derive(Clone, PartialEq, Message)]
struct Conditions {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    message: String,
}

fn labels(uid: &str, pod: &str) -> HashMap<String, String> {
    let labels = [("uid", uid), ("name", pod), ("namespace", "ns")];
    labels.map(|(name, value)| (format!("io.kubernetes.pod.{name}"), value.to_owned())).into()
}

/// Name, uid, state and time of each. The id is the uid and the time.
pub fn sandboxes(items: &[(&str, &str, i32, i64)]) -> Sandboxes {
    let sandbox = |&(name, uid, state, created_at): &(&str, &str, i32, i64)| Sandbox {
        id: format!("{uid}-{created_at}"),
        metadata: Some(Metadata { name: name.into(), uid: uid.into(), namespace: "ns".into() }),
        state,
        created_at,
        labels: labels(uid, name),
    };
    Sandboxes { items: items.iter().map(sandbox).collect() }
}

/// Id, name, the pod's uid, state and time of each. The pod is `p`.
pub fn containers(items: &[(&str, &str, &str, i32, i64)]) -> Containers {
    let container =
        |&(id, name, uid, state, created_at): &(&str, &str, &str, i32, i64)| Container {
            id: id.into(),
            metadata: Some(Metadata { name: name.into(), ..Metadata::default() }),
            state,
            created_at,
            labels: labels(uid, "p"),
        };
    Containers { containers: items.iter().map(container).collect() }
}

pub fn url(url: impl Into<String>) -> Url {
    Url { url: url.into() }
}

pub fn verbose(info: &str) -> ContainerStatus {
    ContainerStatus { status: None, info: [("info".to_owned(), info.to_owned())].into() }
}

/// A container's state, and where its log is.
pub fn logged(state: i32, log_path: &Path) -> ContainerStatus {
    let log_path = log_path.to_str().unwrap().to_owned();
    ContainerStatus { status: Some(State { state, log_path }), info: HashMap::new() }
}

/// A runtime's condition, and whether it holds.
pub fn condition(name: &str, status: bool) -> Status {
    let (reason, message) = (String::new(), String::new());
    let condition = if status {
        Condition { name: name.into(), status, reason, message }
    } else {
        let (reason, message) = ("Broken".into(), "no\nrunc".into());
        Condition { name: name.into(), status, reason, message }
    };
    Status { status: Some(Conditions { conditions: vec![condition] }) }
}
