//! Commands by containerd's own interface, with a shim that is played here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_node::cri::{CriRuntime, CriSettings, Endpoint, ExecBy, Hangup};
use bowline_node::runtime::Runtime;
use bowline_proto::session::Outcome;
use bowline_proto::session::protocol::Carrier;
use prost::Message;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{CARRIERS, Ended, exec, refused, run, run_until_output};
use crate::cri_server::{CriServer, Reply};
use crate::node::Node;

const GET_CONTAINER: &str = "containerd.services.containers.v1.Containers/Get";
const GET: &str = "containerd.services.tasks.v1.Tasks/Get";
const EXEC: &str = "containerd.services.tasks.v1.Tasks/Exec";
const START: &str = "containerd.services.tasks.v1.Tasks/Start";
const WAIT: &str = "containerd.services.tasks.v1.Tasks/Wait";
const CLOSE: &str = "containerd.services.tasks.v1.Tasks/CloseIO";
const KILL: &str = "containerd.services.tasks.v1.Tasks/Kill";
const DELETE: &str = "containerd.services.tasks.v1.Tasks/DeleteProcess";

/// No process has this id.
const NOBODY: u32 = i32::MAX as u32;

// ── Messages ────────────────────────────────────────────────────────────────────────────────────

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerAnswer {
    #[prost(message, optional, tag = "1")]
    container: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(message, optional, tag = "4")]
    runtime: Option<Named>,
    #[prost(message, optional, tag = "5")]
    spec: Option<Any>,
}

/// A container's runtime, by name; or a process, by its container and its own id.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    exec_id: String,
    #[prost(uint32, tag = "3")]
    signal: u32,
}

#[derive(Clone, PartialEq, Message)]
struct GetAnswer {
    #[prost(message, optional, tag = "1")]
    process: Option<Process>,
}

#[derive(Clone, PartialEq, Message)]
struct Process {
    #[prost(uint32, tag = "3")]
    pid: u32,
    #[prost(int32, tag = "4")]
    status: i32,
    #[prost(string, tag = "6")]
    stdout: String,
}

#[derive(Clone, PartialEq, Message)]
struct ExecProcess {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    stdin: String,
    #[prost(string, tag = "3")]
    stdout: String,
    #[prost(string, tag = "4")]
    stderr: String,
    #[prost(bool, tag = "5")]
    terminal: bool,
    #[prost(message, optional, tag = "6")]
    spec: Option<Any>,
    #[prost(string, tag = "7")]
    exec_id: String,
}

/// A process's id, or its exit code.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(uint32, tag = "1")]
    number: u32,
}

// ── A container ─────────────────────────────────────────────────────────────────────────────────

/// The container `id`, whose shim has commands read their input to its end and say it again.
struct Shim {
    cri: CriServer,
    io: PathBuf,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// What the last command is.
    exec: Mutex<ExecProcess>,
    /// Its end is told once this is.
    exit: Notify,
    /// The shim's own end of stdin.
    stdin: Mutex<Option<Sender>>,
    deleted: Notify,
    /// Its input is read no more.
    enough: CancellationToken,
}

impl Shim {
    fn start() -> Shim {
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

    fn container(&self, runtime: &str, spec: &Value) -> &Shim {
        let runtime = Some(Named { name: runtime.into(), ..Named::default() });
        let spec = Some(Any { type_url: String::new(), value: spec.to_string().into() });
        let container = Some(Container { runtime, spec });
        self.cri.other(GET_CONTAINER, Reply::message(&ContainerAnswer { container }));
        self
    }

    fn main(&self, status: i32, stdout: &Path) {
        let stdout = stdout.to_str().unwrap().to_owned();
        let process = Some(Process { pid: NOBODY, status, stdout });
        self.cri.other(GET, Reply::message(&GetAnswer { process }));
    }

    fn tasks(&self) {
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
    fn mortal(&self) -> Arc<Mutex<Vec<u32>>> {
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

    async fn node(&self) -> Node {
        Node::start(Arc::new(self.runtime(ExecBy::Auto))).await
    }

    fn runtime(&self, by: ExecBy) -> CriRuntime {
        let hangup = Hangup::End { grace: Duration::from_secs(2) };
        CriRuntime::new(CriSettings { exec: by, hangup, ..self.settings() })
    }

    /// All as by default: what has lost its client runs on.
    fn settings(&self) -> CriSettings {
        CriSettings::new(Endpoint::parse(self.cri.path().to_str().unwrap()).unwrap())
    }

    /// Which methods were asked, without those that come with every command.
    fn asked(&self) -> Vec<String> {
        let asked = self.cri.others_asked().into_iter().map(|asked| asked.0);
        let method = |path: String| path.rsplit('/').next().unwrap().to_owned();
        asked.map(method).filter(|method| method != "Get").collect()
    }

    fn spec(&self) -> Value {
        let exec = self.state.exec.lock().unwrap();
        serde_json::from_slice(&exec.spec.as_ref().unwrap().value).unwrap()
    }

    /// The pipes that have names, but for the main process's.
    fn names(&self) -> usize {
        fs::read_dir(&self.io).unwrap().count() - 1
    }
}

/// Opens the pipes of a command as a shim does, and runs it.
fn begin(state: &Arc<State>) {
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

fn outcome(ended: &Ended) -> (&str, &str, &Result<Outcome, String>) {
    (&ended.stdout, &ended.stderr, &ended.end)
}

// ── Tests ───────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_command_is_started_and_waited_for_at_containerd() {
    let shim = Shim::start();
    let node = shim.node().await;
    for carrier in CARRIERS {
        let ended = run(node.address, &exec(&["a b", "c"]), carrier, "hello").await.unwrap();
        let expected = ("begun hello", "over", &Ok(Outcome::Exited(7)));
        assert_eq!(outcome(&ended), expected, "{carrier:?}");
        shim.state.deleted.notified().await;
        let mut asked = shim.asked();
        asked.sort();
        assert_eq!(asked, ["CloseIO", "DeleteProcess", "Exec", "Start", "Wait"]);
        let spec = json!({"args": ["a b", "c"], "cwd": "/", "terminal": false, "env": ["A=1"]});
        assert_eq!(shim.spec(), spec);
        assert_eq!(shim.names(), 0);
        assert!(!shim.cri.methods().iter().any(|path| path.ends_with("Exec")));
    }
    assert_eq!(shim.cri.connections(), 1);
}

#[tokio::test]
async fn output_that_others_hold_is_cut_off_in_time() {
    let shim = Shim::start();
    let (held, state) = (Mutex::new(Vec::new()), shim.state.clone());
    let start = move |_| -> crate::cri_server::BoxFuture<Reply> {
        let ExecProcess { stdout, stderr, .. } = state.exec.lock().unwrap().clone();
        let open = |name| OpenOptions::new().open_sender(name).unwrap();
        held.lock().unwrap().extend([stdout, stderr].map(open));
        state.exit.notify_one();
        Box::pin(async { Reply::message(&Number { number: NOBODY }) })
    };
    shim.cri.other(START, Reply::made(start));
    let drain = Some(Duration::from_millis(1));
    let runtime = CriRuntime::new(CriSettings { drain, ..shim.settings() });
    let node = Node::start(Arc::new(runtime)).await;
    let ended = run(node.address, &exec(&["x"]), Carrier::Spdy, "").await.unwrap();
    assert_eq!(ended.end, Ok(Outcome::Exited(7)));
    assert!(ended.stderr.starts_with("the output is cut off"), "{}", ended.stderr);
    shim.state.deleted.notified().await;
}

#[tokio::test]
async fn why_a_command_does_not_start_is_in_containerds_words() {
    let shim = Shim::start();
    let node = shim.node().await;
    let cases = [(EXEC, "failed to create exec"), (START, "failed to start exec")];
    for (method, beginning) in cases {
        shim.tasks();
        let why = "OCI runtime exec failed: exec: \"x\": executable file not found in $PATH";
        shim.cri.other(method, Reply::Status(2, why.into()));
        let ended = run(node.address, &exec(&["x"]), Carrier::WebSocket, "").await.unwrap();
        let id = shim.state.exec.lock().unwrap().exec_id.clone();
        let Ok(Outcome::Failed { message, .. }) = ended.end else { panic!("{ended:?}") };
        let expected = format!(
            "Internal error occurred: error executing command in container: failed to exec in \
             container: {beginning} {id:?}: {why}"
        );
        if method == START {
            assert_eq!(message, expected);
            assert_eq!(shim.asked(), ["Exec", "Start", "DeleteProcess"]);
        } else {
            assert!(message.contains(beginning) && message.ends_with(why), "{message}");
            assert_eq!(shim.asked(), ["Exec"]);
        }
        assert_eq!(shim.names(), 0);
    }
}

/// Runs a command until it has written something, and returns what has become of it when `then` is
/// done.
async fn cut(
    shim: &mut Shim,
    carrier: Carrier,
    then: impl AsyncFnOnce(&mut Shim),
) -> Result<Outcome, String> {
    let node = shim.node().await;
    let begun = CancellationToken::new();
    let path = exec(&["x"]);
    let session = run_until_output(node.address, &path, carrier, "", &begun);
    let cut = async {
        begun.cancelled().await;
        then(shim).await;
    };
    let (ended, ()) = tokio::join!(session, cut);
    ended.unwrap().end
}

#[tokio::test]
async fn a_session_without_containerd_is_lost() {
    for carrier in CARRIERS {
        let mut shim = Shim::start();
        let end = cut(&mut shim, carrier, async |shim: &mut Shim| {
            // The time that it has to come back passes at once.
            tokio::time::pause();
            shim.cri.kill().await;
        });
        let end = end.await;
        tokio::time::resume();
        let expected = format!("containerd at unix://{} is gone", shim.cri.path().display());
        assert!(end.as_ref().is_err_and(|why| why.contains(&expected)), "{end:?}");
    }
}

#[tokio::test]
async fn a_session_outlives_a_restart_of_containerd() {
    let mut shim = Shim::start();
    let end = cut(&mut shim, Carrier::Spdy, async |shim: &mut Shim| {
        shim.cri.kill().await;
        shim.cri.restart();
        shim.state.enough.cancel();
    });
    assert_eq!(end.await, Ok(Outcome::Exited(7)));
}

#[tokio::test]
async fn the_end_of_input_is_told_again_after_a_restart() {
    let shim = Shim::start();
    let node = shim.node().await;
    let (tries, state) = (AtomicUsize::new(0), shim.state.clone());
    let close = move |_| -> crate::cri_server::BoxFuture<Reply> {
        if tries.fetch_add(1, Ordering::Relaxed) < 2 {
            return Box::pin(async { Reply::Status(14, "shutting down".into()) });
        }
        *state.stdin.lock().unwrap() = None;
        Box::pin(async { Reply::Message(vec![]) })
    };
    shim.cri.other(CLOSE, Reply::made(close));
    let ended = run(node.address, &exec(&["x"]), Carrier::Spdy, "hello").await.unwrap();
    assert_eq!(outcome(&ended), ("begun hello", "over", &Ok(Outcome::Exited(7))));
}

#[tokio::test]
async fn a_command_that_cannot_be_told_the_end_of_its_input_is_lost() {
    let shim = Shim::start();
    let node = shim.node().await;
    shim.cri.other(CLOSE, Reply::Status(2, "no more".into()));
    let ended = run(node.address, &exec(&["x"]), Carrier::WebSocket, "").await.unwrap();
    let end = ended.end;
    assert!(end.as_ref().is_err_and(|why| why.contains("containerd: no more")), "{end:?}");
}

#[tokio::test]
async fn a_command_whose_client_has_gone_is_hung_up_and_forgotten() {
    let shim = Shim::start();
    let node = shim.node().await;
    let killed = shim.mortal();
    let begun = CancellationToken::new();
    let path = exec(&["x"]);
    let session = run_until_output(node.address, &path, Carrier::WebSocket, "", &begun);
    tokio::select! {
        ended = session => panic!("{ended:?}"),
        () = begun.cancelled() => {}
    }
    shim.state.deleted.notified().await;
    assert_eq!(*killed.lock().unwrap(), [1, 9]);
}

#[tokio::test]
async fn a_command_that_is_about_to_start_keeps_its_pipes_names_until_it_has() {
    let shim = Shim::start();
    let runtime = Arc::new(shim.runtime(ExecBy::Auto));
    let node = Node::start(runtime.clone()).await;
    let killed = shim.mortal();
    let (asked, answer) = (CancellationToken::new(), CancellationToken::new());
    let (is_asked, may_answer, state) = (asked.clone(), answer.clone(), shim.state.clone());
    let start = move |_| -> crate::cri_server::BoxFuture<Reply> {
        let (may_answer, state) = (may_answer.clone(), state.clone());
        is_asked.cancel();
        Box::pin(async move {
            may_answer.cancelled().await;
            begin(&state);
            Reply::message(&Number { number: NOBODY })
        })
    };
    shim.cri.other(START, Reply::made(start));
    let path = exec(&["x"]);
    let session = run(node.address, &path, Carrier::WebSocket, "");
    let stop = async {
        asked.cancelled().await;
        node.stop().await;
        assert_eq!(shim.names(), 1);
        answer.cancel();
        runtime.shut_down().await;
    };
    let (ended, ()) = tokio::join!(session, stop);
    assert!(ended.unwrap().end.is_err());
    assert_eq!(*killed.lock().unwrap(), [1, 9]);
    assert!(shim.asked().ends_with(&["DeleteProcess".to_owned()]));
    assert_eq!(shim.names(), 0);
}

#[tokio::test]
async fn a_command_that_never_began_is_forgotten_also_where_others_run_on() {
    let shim = Shim::start();
    let main = shim.io.join("1/id-stdout").to_str().unwrap().to_owned();
    let get = move |message| -> crate::cri_server::BoxFuture<Reply> {
        let Named { exec_id, .. } = Named::decode(message).unwrap();
        let status = if exec_id.is_empty() { 2 } else { 1 };
        let process = Some(Process { pid: NOBODY, status, stdout: main.clone() });
        Box::pin(async { Reply::message(&GetAnswer { process }) })
    };
    let (tries, state) = (AtomicUsize::new(0), shim.state.clone());
    let delete = move |_| -> crate::cri_server::BoxFuture<Reply> {
        if tries.fetch_add(1, Ordering::Relaxed) == 0 {
            return Box::pin(async { Reply::Status(9, "not now".into()) });
        }
        state.deleted.notify_one();
        Box::pin(async { Reply::Message(vec![]) })
    };
    shim.cri
        .other(GET, Reply::made(get))
        .other(START, Reply::Status(2, "no".into()))
        .other(DELETE, Reply::made(delete));
    let node = Node::start(Arc::new(CriRuntime::new(shim.settings()))).await;
    let ended = run(node.address, &exec(&["x"]), Carrier::WebSocket, "").await.unwrap();
    assert!(matches!(ended.end, Ok(Outcome::Failed { .. })), "{ended:?}");
    shim.state.deleted.notified().await;
    assert_eq!(shim.asked(), ["Exec", "Start", "DeleteProcess", "DeleteProcess"]);
}

#[tokio::test]
async fn a_command_of_which_nobody_knows_whether_it_began_is_looked_for() {
    let mut shim = Shim::start();
    let killed = shim.mortal();
    let asked = CancellationToken::new();
    let is_asked = asked.clone();
    let start = move |_| -> crate::cri_server::BoxFuture<Reply> {
        is_asked.cancel();
        Box::pin(async { Reply::Never })
    };
    shim.cri.other(START, Reply::made(start));
    let node = shim.node().await;
    let path = exec(&["x"]);
    let session = run(node.address, &path, Carrier::Spdy, "");
    let cut = async {
        asked.cancelled().await;
        shim.cri.kill().await;
    };
    let (ended, ()) = tokio::join!(session, cut);
    let end = ended.unwrap().end;
    assert!(end.as_ref().is_err_and(|why| why.contains("is gone")), "{end:?}");
    shim.cri.restart();
    shim.state.deleted.notified().await;
    assert_eq!(*killed.lock().unwrap(), [1, 9]);
}

#[tokio::test]
async fn what_is_not_runcs_or_not_here_is_left_to_the_runtime() {
    let shim = Shim::start();
    shim.cri.reply("Exec", &crate::cri_server::url(""));
    let is_left = async |by: ExecBy| {
        let node = Node::start(Arc::new(shim.runtime(by))).await;
        let answer = run(node.address, &exec(&["x"]), Carrier::Spdy, "").await;
        assert_eq!(refused(answer), (500, "URL is not set".into()));
        assert_eq!(shim.asked(), [""; 0]);
    };
    is_left(ExecBy::Runtime).await;
    let spec = json!({"process": {}});
    shim.container("io.containerd.runsc.v1", &spec);
    is_left(ExecBy::Auto).await;
    shim.container("io.containerd.runc.v2", &json!({"linux": {}}));
    is_left(ExecBy::Auto).await;
    shim.container("io.containerd.runc.v2", &spec).main(2, &shim.io.join("2/id-stdout"));
    is_left(ExecBy::Auto).await;
    shim.main(3, &shim.io.join("1/id-stdout"));
    is_left(ExecBy::Auto).await;
    shim.cri.other(GET_CONTAINER, Reply::Status(5, "container \"id\": not found".into()));
    is_left(ExecBy::Auto).await;
    shim.cri.other(GET_CONTAINER, Reply::Status(7, "no".into()));
    is_left(ExecBy::Auto).await;
}

/// Begins a command and ends the node. Returns how long its runtime takes to end after `then`.
async fn end_node(shim: &Shim, runtime: CriRuntime, then: impl FnOnce()) -> Duration {
    let runtime = Arc::new(runtime);
    let node = Node::start(runtime.clone()).await;
    let begun = CancellationToken::new();
    let path = exec(&["x"]);
    shim.cri.other(KILL, Reply::Message(vec![]));
    let session = run_until_output(node.address, &path, Carrier::WebSocket, "", &begun);
    let stop = async {
        begun.cancelled().await;
        node.stop().await;
        then();
        let asked = Instant::now();
        runtime.shut_down().await;
        asked.elapsed()
    };
    let (ended, took) = tokio::join!(session, stop);
    assert!(ended.unwrap().end.is_err());
    took
}

#[tokio::test]
async fn the_node_waits_for_the_end_of_commands() {
    let shim = Shim::start();
    end_node(&shim, shim.runtime(ExecBy::Auto), || shim.state.exit.notify_one()).await;
    assert!(shim.asked().ends_with(&["DeleteProcess".to_owned()]));
}

#[tokio::test]
async fn the_node_does_not_wait_for_what_does_not_end_or_runs_on() {
    let shim = Shim::start();
    let took = end_node(&shim, shim.runtime(ExecBy::Auto), tokio::time::pause).await;
    tokio::time::resume();
    assert!(took < Duration::from_secs(4), "{took:?}");
    let took = end_node(&shim, CriRuntime::new(shim.settings()), tokio::time::pause).await;
    assert_eq!(took, Duration::ZERO);
}
