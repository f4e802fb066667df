//! A containerd that has one container, with a shim that is played here: its own interface, beside
//! that for Kubernetes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_node::cri::{CriRuntime, CriSettings, Endpoint, ExecBy, Hangup};
use prost::Message;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cri_server::{CriServer, Reply};
use crate::node::Node;

pub const GET_CONTAINER: &str = "containerd.services.containers.v1.Containers/Get";
pub const GET: &str = "containerd.services.tasks.v1.Tasks/Get";
pub const EXEC: &str = "containerd.services.tasks.v1.Tasks/Exec";
pub const START: &str = "containerd.services.tasks.v1.Tasks/Start";
pub const WAIT: &str = "containerd.services.tasks.v1.Tasks/Wait";
pub const CLOSE: &str = "containerd.services.tasks.v1.Tasks/CloseIO";
pub const KILL: &str = "containerd.services.tasks.v1.Tasks/Kill";
pub const DELETE: &str = "containerd.services.tasks.v1.Tasks/DeleteProcess";

/// No process has this id.
pub const NOBODY: u32 = i32::MAX as u32;

// ── Messages ────────────────────────────────────────────────────────────────────────────────────

#[derive(Clone, PartialEq, Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerAnswer {
    #[prost(message, optional, tag = "1")]
    pub container: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Container {
    #[prost(message, optional, tag = "4")]
    pub runtime: Option<Named>,
    #[prost(message, optional, tag = "5")]
    pub spec: Option<Any>,
}

/// A container's runtime, by name; or a process, by its container and its own id.
#[derive(Clone, PartialEq, Message)]
pub struct Named {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub exec_id: String,
    #[prost(uint32, tag = "3")]
    pub signal: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetAnswer {
    #[prost(message, optional, tag = "1")]
    pub process: Option<Process>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Process {
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    #[prost(int32, tag = "4")]
    pub status: i32,
    #[prost(string, tag = "6")]
    pub stdout: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExecProcess {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub stdin: String,
    #[prost(string, tag = "3")]
    pub stdout: String,
    #[prost(string, tag = "4")]
    pub stderr: String,
    #[prost(bool, tag = "5")]
    pub terminal: bool,
    #[prost(message, optional, tag = "6")]
    pub spec: Option<Any>,
    #[prost(string, tag = "7")]
    pub exec_id: String,
}

/// A process's id, or its exit code.
#[derive(Clone, PartialEq, Message)]
pub struct Number {
    #[prost(uint32, tag = "1")]
    pub number: u32,
}

// ── A container ─────────────────────────────────────────────────────────────────────────────────

/// The container `id`, whose shim has commands read their input to its end and say it again.
pub struct Shim {
    pub cri: CriServer,
    pub io: PathBuf,
    pub state: Arc<State>,
}

#[derive(Default)]
pub struct State {
    /// What the last command is.
    pub exec: Mutex<ExecProcess>,
    /// Its end is told once this is.
    pub exit: Notify,
    /// The shim's own end of stdin.
    pub stdin: Mutex<Option<Sender>>,
    pub deleted: Notify,
    /// Its input is read no more.
    pub enough: CancellationToken,
}

impl Shim {
    pub fn start() -> Shim {
        let cri = CriServer::start();
        let io = cri.path().parent().unwrap().join("io");
        fs::create_dir_all(io.join("1")).unwrap();
        let main = io.join("1/id-stdout");
        mknodat(CWD, &main, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let shim = Shim { cri, io, state: Arc::default() };
        let spec = json!({"process": {"args": ["sleep"], "env": ["A=1"], "cwd": "/"}});
        shim.container("io.containerd.runc.v2", &spec).main(2, &main);
        shim.tasks();
        shim
    }

    pub fn container(&self, runtime: &str, spec: &Value) -> &Shim {
        let runtime = Some(Named { name: runtime.into(), ..Named::default() });
        let spec = Some(Any { type_url: String::new(), value: spec.to_string().into() });
        let container = Some(Container { runtime, spec });
        self.cri.other(GET_CONTAINER, Reply::message(&ContainerAnswer { container }));
        self
    }

    pub fn main(&self, status: i32, stdout: &Path) {
        let stdout = stdout.to_str().unwrap().to_owned();
        let process = Some(Process { pid: NOBODY, status, stdout });
        self.cri.other(GET, Reply::message(&GetAnswer { process }));
    }

    pub fn tasks(&self) {
        let state = self.state.clone();
        let exec = move |message| -> crate::cri_server::BoxFuture<Reply> {
            *state.exec.lock().unwrap() = ExecProcess::decode(message).unwrap();
            Box::pin(async { Reply::Message(vec![]) })
        };
        let state = self.state.clone();
        let start = move |_| -> crate::cri_server::BoxFuture<Reply> {
            begin(&state);
            Box::pin(async { Reply::message(&Number { number: NOBODY }) })
        };
        let state = self.state.clone();
        let wait = move |_| -> crate::cri_server::BoxFuture<Reply> {
            let state = state.clone();
            Box::pin(async move {
                state.exit.notified().await;
                Reply::message(&Number { number: 7 })
            })
        };
        let state = self.state.clone();
        let close = move |_| -> crate::cri_server::BoxFuture<Reply> {
            *state.stdin.lock().unwrap() = None;
            Box::pin(async { Reply::Message(vec![]) })
        };
        let state = self.state.clone();
        let delete = move |_| -> crate::cri_server::BoxFuture<Reply> {
            state.deleted.notify_one();
            Box::pin(async { Reply::Message(vec![]) })
        };
        self.cri
            .other(EXEC, Reply::made(exec))
            .other(START, Reply::made(start))
            .other(WAIT, Reply::made(wait))
            .other(CLOSE, Reply::made(close))
            .other(DELETE, Reply::made(delete));
    }

    /// Has commands end by SIGKILL alone. Returns the signals that they get.
    pub fn mortal(&self) -> Arc<Mutex<Vec<u32>>> {
        let killed = Arc::new(Mutex::new(Vec::new()));
        let (signals, state) = (killed.clone(), self.state.clone());
        let kill = move |message| -> crate::cri_server::BoxFuture<Reply> {
            let Named { signal, .. } = Named::decode(message).unwrap();
            signals.lock().unwrap().push(signal);
            if signal == 9 {
                state.exit.notify_one();
            }
            Box::pin(async { Reply::Message(vec![]) })
        };
        self.cri.other(KILL, Reply::made(kill));
        killed
    }

    pub async fn node(&self) -> Node {
        Node::start(Arc::new(self.runtime(ExecBy::Auto))).await
    }

    pub fn runtime(&self, by: ExecBy) -> CriRuntime {
        let hangup = Hangup::End { grace: Duration::from_secs(2) };
        CriRuntime::new(CriSettings { exec: by, hangup, ..self.settings() })
    }

    /// All as by default: what has lost its client runs on.
    pub fn settings(&self) -> CriSettings {
        CriSettings::new(Endpoint::parse(self.cri.path().to_str().unwrap()).unwrap())
    }

    /// Which methods were asked, without those that come with every command.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.cri.others_asked().into_iter().map(|asked| asked.0);
        let method = |path: String| path.rsplit('/').next().unwrap().to_owned();
        asked.map(method).filter(|method| method != "Get").collect()
    }

    pub fn spec(&self) -> Value {
        let exec = self.state.exec.lock().unwrap();
        serde_json::from_slice(&exec.spec.as_ref().unwrap().value).unwrap()
    }

    /// The pipes that have names, but for the main process's.
    pub fn names(&self) -> usize {
        fs::read_dir(&self.io).unwrap().count() - 1
    }
}

/// Opens the pipes of a command as a shim does, and runs it.
pub fn begin(state: &Arc<State>) {
    let ExecProcess { stdin, stdout, stderr, .. } = state.exec.lock().unwrap().clone();
    let out = OpenOptions::new().open_sender(stdout).unwrap();
    let err = OpenOptions::new().open_sender(stderr).unwrap();
    let input = OpenOptions::new().open_receiver(&stdin).unwrap();
    *state.stdin.lock().unwrap() = Some(OpenOptions::new().open_sender(stdin).unwrap());
    tokio::spawn(say_again(input, out, err, state.clone()));
}

async fn say_again(mut input: Receiver, mut out: Sender, mut err: Sender, state: Arc<State>) {
    out.write_all(b"begun ").await.unwrap();
    // Told before its end: nothing of it is lost.
    let mut all = Vec::new();
    tokio::select! {
        read = input.read_to_end(&mut all) => drop(read.unwrap()),
        () = state.enough.cancelled() => {}
    }
    state.exit.notify_one();
    out.write_all(&all).await.unwrap();
    err.write_all(b"over").await.unwrap();
}
