//! A runtime that has everything itself.

use std::sync::Arc;
use std::time::Duration;

use bowline_io::record::{Admission, Denied, Hook, Record};
use bowline_io::serve::Sessions;
use bowline_node::runtime::Runtime;
use bowline_proto::session::Outcome;
use bowline_proto::session::protocol::Carrier;
use http_body_util::BodyExt;

use crate::client::{CARRIERS, attach, exec, get, refused, run, server, through};
use crate::memory::Memory;
use crate::node::Node;

const PATIENCE: Duration = Duration::from_secs(30);

async fn node() -> Node {
    Node::start(Arc::new(Memory::default())).await
}

#[tokio::test]
async fn a_command_says_its_input_again_and_ends() {
    let node = node().await;
    for carrier in CARRIERS {
        let ended = run(node.address, &exec(&["exit", "7"]), carrier, "hello").await.unwrap();
        assert_eq!((&*ended.stdout, &*ended.stderr), ("hello", "over"), "{carrier:?}");
        assert_eq!(ended.end, Ok(Outcome::Exited(7)));
        let ended = run(node.address, &exec(&["kill", "9"]), carrier, "").await.unwrap();
        assert_eq!(ended.end, Ok(Outcome::Exited(137)));
        let ended = run(node.address, &exec(&["x"]), carrier, "").await.unwrap();
        assert_eq!(ended.end, Ok(Outcome::Success));
    }
}

#[tokio::test]
async fn a_start_fails_in_the_runtimes_words() {
    let node = node().await;
    for carrier in CARRIERS {
        let ended = run(node.address, &exec(&["fail", "no"]), carrier, "").await.unwrap();
        let Ok(Outcome::Failed { message, .. }) = ended.end else { panic!("{ended:?}") };
        assert_eq!(message, "Internal error occurred: memory does not start it: no");
    }
}

#[tokio::test]
async fn an_attach_says_which_lines_it_begins_with() {
    let node = node().await;
    for carrier in CARRIERS {
        let ended = run(node.address, &attach(""), carrier, "hello").await.unwrap();
        assert_eq!((&*ended.stdout, ended.replay), ("hello", None));
        let ended = run(node.address, &attach("&replay=9"), carrier, "!").await.unwrap();
        assert_eq!((&*ended.stdout, ended.replay), ("one\ntwo\nthree\n!", Some("3".into())));
    }
}

#[tokio::test]
async fn a_port_answers() {
    let node = node().await;
    for carrier in CARRIERS {
        for path in ["/portForward/ns/p", "/portForward/ns/p/u"] {
            let answer = through(node.address, path, carrier, 80, "abc").await.unwrap();
            assert_eq!(answer, "cba");
        }
        let answer = through(node.address, "/portForward/ns/p", carrier, 81, "abc").await.unwrap();
        assert_eq!(answer, "connection reset", "nobody takes it for an empty answer");
    }
}

#[tokio::test]
async fn a_log_is_made_of_records() {
    let node = node().await;
    let log =
        async |query: &str| get(node.address, &format!("/containerLogs/ns/p/c?{query}")).await;
    assert_eq!(log("").await.unwrap(), "one\ntwo\nthree\n");
    assert_eq!(log("tailLines=1&stream=Stderr").await.unwrap(), "two\n");
    assert_eq!(log("limitBytes=5&tailLines=2").await.unwrap(), "two\nt");
    assert_eq!(
        log("timestamps=true&sinceTime=1970-01-01T00:00:05Z").await.unwrap(),
        "1970-01-01T00:00:06.000000000Z three\n"
    );
    let previous = refused(log("previous=true").await);
    assert_eq!(previous, (410, "memory has nothing before this".into()));
}

/// A log whose runtime fails is cut off behind what there was: nobody takes it for complete.
#[tokio::test]
async fn a_log_that_fails_is_cut_off() {
    let node = node().await;
    let path = "/containerLogs/ns/p/c?follow=true";
    let mut body = server(node.address).get(path, PATIENCE).await.unwrap().into_body();
    let mut text = String::new();
    while let Ok(frame) = body.frame().await.expect("no good end") {
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert_eq!(text, "one\ntwo\nthree\n");
}

#[tokio::test]
async fn refusals_are_the_runtimes() {
    let node = node().await;
    let no_pod = (404, "memory has no pod x".to_owned());
    let no_container = (409, "memory has no container x".to_owned());
    for carrier in CARRIERS {
        for verb in ["exec", "attach"] {
            let asked = async |path: &str| {
                let path = format!("/{verb}/{path}?command=a&output=1");
                refused(run(node.address, &path, carrier, "").await)
            };
            assert_eq!(asked("ns/x/c").await, no_pod);
            assert_eq!(asked("ns/p/x").await, no_container);
            assert_eq!(asked("ns/p/v/c").await.0, 404);
        }
        let asked = through(node.address, "/portForward/ns/x", carrier, 80, "").await;
        assert_eq!(refused(asked), no_pod);
    }
    assert_eq!(refused(get(node.address, "/containerLogs/ns/p/x").await), no_container);
}

/// A runtime is asked before the handshake is judged, and nothing has begun by then.
#[tokio::test]
async fn who_cannot_be_upgraded_hears_first_of_what_is_not_there() {
    let memory = Arc::new(Memory::default());
    let node = Node::start(memory.clone()).await;
    assert_eq!(refused(get(node.address, "/exec/ns/x/c?output=1").await).0, 404);
    let (code, _) = refused(get(node.address, &exec(&["x"])).await);
    assert_eq!(code, 500, "the kubelet's answer where no upgrade is asked for");
    assert_eq!(*memory.asked.lock().unwrap(), ["exec", "exec"]);
    // Whoever asks for what is none is not handed to the runtime at all.
    assert_eq!(refused(get(node.address, "/exec/ns/p/c?output=0").await).0, 400);
    assert_eq!(memory.asked.lock().unwrap().len(), 2);
}

#[derive(Debug)]
struct Full;

impl Admission for Full {
    fn admit(&self, record: &Record) -> Result<Box<dyn Hook>, Denied> {
        let why = format!("no room for {}", record.verb);
        Err(Denied { why, retry_after: Duration::from_secs(7) })
    }
}

#[tokio::test]
async fn a_runtime_is_not_asked_for_what_there_is_no_room_for() {
    let memory = Arc::new(Memory::default());
    let node = Node::with(memory.clone(), Sessions::default().with(Arc::new(Full))).await;
    for (path, verb) in [
        (&*exec(&["x"]), "exec"),
        (&attach(""), "attach"),
        ("/portForward/ns/p", "portforward"),
        ("/containerLogs/ns/p/c", "log"),
    ] {
        let answer = refused(get(node.address, path).await);
        assert_eq!(answer, (429, format!("no room for {verb}")));
    }
    assert_eq!(*memory.asked.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_node_is_as_ready_as_its_runtime() {
    assert_eq!(get(node().await.address, "/readyz").await.unwrap(), "ok\n");
    let unready = Memory { unready: Some("memory is full"), ..Memory::default() };
    let unready = Node::start(Arc::new(unready)).await;
    let answer = refused(get(unready.address, "/readyz").await);
    assert_eq!(answer, (503, "memory is full".into()));
    // Whoever restarts what is not healthy would end all sessions because of the runtime.
    assert_eq!(get(unready.address, "/healthz").await.unwrap(), "ok\n");
}

#[tokio::test]
async fn a_runtime_is_shut_down_behind_its_sessions() {
    let memory = Arc::new(Memory::default());
    let node = Node::start(memory.clone()).await;
    run(node.address, &exec(&["x"]), Carrier::Spdy, "").await.unwrap();
    node.stop().await;
    let runtime: Arc<dyn Runtime> = memory.clone();
    runtime.shut_down().await;
    assert_eq!(*memory.asked.lock().unwrap(), ["exec", "shut_down"]);
}
