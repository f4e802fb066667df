//! Commands by containerd's own interface, with a shim that is played here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_node::cri::{CriRuntime, CriSettings, ExecBy};
use bowline_node::runtime::Runtime;
use bowline_proto::session::Outcome;
use bowline_proto::session::protocol::Carrier;
use prost::Message;
use serde_json::json;
use tokio::net::unix::pipe::OpenOptions;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{CARRIERS, Ended, exec, refused, run, run_until_output};
use crate::cri_server::Reply;
use crate::node::Node;
use crate::shim::{
    CLOSE, DELETE, EXEC, ExecProcess, GET, GET_CONTAINER, GetAnswer, KILL, NOBODY, Named, Number,
    Process, START, Shim, begin,
};

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
