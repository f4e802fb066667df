//! A runtime behind a CRI socket, whose streaming server is another node.

use std::path::Path;
use std::sync::Arc;

use bowline_io::tls::Trust;
use bowline_node::cri::{CriRuntime, CriSettings, Endpoint};
use bowline_node::runtime::{PodTarget, Runtime, Target};
use bowline_proto::session::Outcome;
use bowline_proto::session::protocol::Carrier;
use prost::Message;

use crate::client::{CARRIERS, attach, exec, get, refused, run, server, through};
use crate::cri_server::{
    Attach, CriServer, EXITED, Exec, ExecSync, PortForward, RUNNING, Reply, condition, containers,
    logged, sandboxes, url, verbose,
};
use crate::memory::Memory;
use crate::node::Node;

fn runtime(socket: &Path) -> CriRuntime {
    let endpoint = Endpoint::parse(&format!("unix://{}", socket.display())).unwrap();
    CriRuntime::new(CriSettings::new(endpoint))
}

async fn node(server: &CriServer) -> Node {
    Node::start(Arc::new(runtime(&server.path()))).await
}

async fn memory() -> Node {
    Node::start(Arc::new(Memory::default())).await
}

fn target(container: &str, uid: Option<&str>) -> Target {
    let (namespace, name, uid) = ("ns".into(), "p".into(), uid.map(Into::into));
    Target { pod: PodTarget { namespace, name, uid }, container: container.into() }
}

const LISTS: [&str; 2] =
    ["/runtime.v1.RuntimeService/ListPodSandbox", "/runtime.v1.RuntimeService/ListContainers"];

#[tokio::test]
async fn a_command_runs_at_the_url_that_the_runtime_gives() {
    let (cri, behind) = (CriServer::start(), memory().await);
    let node = node(&cri).await;
    for carrier in CARRIERS {
        // Without a scheme, as cri-dockerd gives them.
        cri.reply("Exec", &url(format!("//{}{}", behind.address, exec(&["exit", "7"]))));
        let ended = run(node.address, &exec(&["a b", "c"]), carrier, "hello").await.unwrap();
        let said = (&*ended.stdout, &*ended.stderr, ended.end);
        assert_eq!(said, ("hello", "over", Ok(Outcome::Exited(7))), "{carrier:?}");
        let asked = cri.asked();
        let paths: Vec<_> = asked.iter().map(|asked| &*asked.0).collect();
        assert_eq!(paths, [LISTS[0], LISTS[1], "/runtime.v1.RuntimeService/Exec"]);
        let expected = Exec {
            container_id: "id".into(),
            cmd: vec!["a b".into(), "c".into()],
            tty: false,
            stdin: true,
            stdout: true,
            stderr: true,
        };
        assert_eq!(Exec::decode(asked[2].1.clone()).unwrap(), expected);
    }
    assert_eq!(cri.connections(), 1);
}

#[tokio::test]
async fn nothing_is_begun_for_a_client_whose_handshake_is_bad() {
    let cri = CriServer::start();
    let node = node(&cri).await;
    assert_eq!(refused(get(node.address, &exec(&["a"])).await).0, 500);
    assert_eq!(cri.methods(), LISTS);
}

#[tokio::test]
async fn ports_are_forwarded_at_the_url_that_the_runtime_gives() {
    let (cri, behind) = (CriServer::start(), memory().await);
    let node = node(&cri).await;
    // The newest sandbox counts, whether it is ready or not.
    cri.reply(
        "ListPodSandbox",
        &sandboxes(&[("p", "u", 0, 1), ("p", "u", 1, 9), ("q", "v", 0, 10)]),
    );
    // Which network the pod has is not said, so that the node cannot enter it itself.
    cri.reply("PodSandboxStatus", &verbose("{}"));
    cri.reply("PortForward", &url(format!("http://{}/portForward/ns/p", behind.address)));
    for carrier in CARRIERS {
        let answer = through(node.address, "/portForward/ns/p", carrier, 80, "abc").await.unwrap();
        assert_eq!(answer, "cba", "{carrier:?}");
        let asked = cri.asked();
        let methods: Vec<_> =
            asked.iter().filter_map(|(path, _)| path.rsplit('/').next()).collect();
        assert_eq!(methods, ["ListPodSandbox", "PodSandboxStatus", "PortForward"]);
        let expected = PortForward { pod_sandbox_id: "u-9".into(), port: vec![] };
        assert_eq!(PortForward::decode(asked[2].1.clone()).unwrap(), expected);
    }
}

/// The terminal is the container's, and so is whether it takes input.
#[tokio::test]
async fn an_attach_has_the_terminal_that_the_container_has() {
    let (cri, behind) = (CriServer::start(), memory().await);
    let node = node(&cri).await;
    cri.reply("Attach", &url(""));
    for (info, stdin, tty, stderr) in [
        (r#"{"config":{"stdin":true}}"#, true, false, true),
        (r#"{"config":{"tty":true}}"#, false, true, false),
        (r#"{"runtimeSpec":{"process":{"terminal":true}}}"#, true, true, false),
        // Nothing that can be read: as the client says.
        ("{{{{", true, false, true),
    ] {
        cri.reply("ContainerStatus", &verbose(info));
        cri.asked();
        let answer = run(node.address, &attach(""), Carrier::Spdy, "!").await;
        assert_eq!(refused(answer), (500, "URL is not set".into()));
        let asked = cri.asked();
        let (path, message) = asked.last().unwrap();
        assert_eq!(path, "/runtime.v1.RuntimeService/Attach");
        let expected = Attach { container_id: "id".into(), stdin, tty, stdout: true, stderr };
        assert_eq!(Attach::decode(message.clone()).unwrap(), expected, "{info}");
    }
    for (info, query) in [
        (r#"{"config":{"stdin":true}}"#, "input=1&output=1&error=1"),
        // The client speaks without a terminal, the runtime with one.
        (r#"{"config":{"stdin":true,"tty":true}}"#, "input=1&output=1&tty=1"),
    ] {
        cri.reply("ContainerStatus", &verbose(info));
        cri.reply("Attach", &url(format!("http://{}/attach/ns/p/c?{query}", behind.address)));
        for carrier in CARRIERS {
            let ended = run(node.address, &attach(""), carrier, "!").await.unwrap();
            assert_eq!((&*ended.stdout, ended.end), ("!", Ok(Outcome::Success)), "{info}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_kubelets_words() {
    let cri = CriServer::start();
    cri.reply("ListPodSandbox", &sandboxes(&[("p", "u", 0, 1), ("ended", "e", 1, 1)]));
    let node = node(&cri).await;
    for (path, code, text) in [
        ("/exec/ns/p/x?command=a&output=1", 500, "container not found (\"x\")"),
        ("/exec/ns/p/other/c?command=a&output=1", 404, "pod not found"),
        ("/exec/ns/x/c?command=a&output=1", 404, "pod does not exist"),
        ("/exec/x/p/c?command=a&output=1", 404, "pod does not exist"),
        ("/exec/ns/ended/c?command=a&output=1", 500, "container not found (\"c\")"),
        ("/attach/ns/p/x?output=1", 500, "container x not found in pod p_ns"),
        ("/attach/ns/x/c?output=1", 404, "pod does not exist"),
        ("/portForward/ns/x", 404, "pod does not exist"),
        ("/portForward/ns/p/other", 404, "pod not found"),
        ("/portForward/ns/ended", 500, "pod not found (\"ended_ns\")"),
        ("/containerLogs/ns/x/c", 404, "pod \"x\" does not exist"),
        ("/containerLogs/ns/p/x", 404, "container \"x\" not found in pod \"p\""),
        (
            "/containerLogs/ns/p/c?previous=true",
            400,
            "previous terminated container \"c\" in pod \"p\" not found",
        ),
    ] {
        assert_eq!(refused(get(node.address, path).await), (code, text.into()), "{path}");
    }
}

/// A container that runs although no sandbox of its pod is ready.
#[tokio::test]
async fn a_container_without_a_sandbox_is_found_by_its_labels() {
    let cri = CriServer::start();
    cri.reply("ListPodSandbox", &sandboxes(&[("p", "u", 1, 1)]));
    cri.reply("ExecSync", &ExecSync { stdout: b"a".into(), stderr: b"b".into(), exit_code: 0 });
    let runtime = runtime(&cri.path());
    for uid in [None, Some("u")] {
        let output = runtime.run(&target("c", uid), vec!["a".into()]).await.unwrap();
        assert_eq!(output, "ab");
    }
    let refusal = runtime.run(&target("c", Some("v")), vec!["a".into()]).await.unwrap_err();
    assert_eq!((refusal.code, &*refusal.text), (404, "pod not found"));
}

#[tokio::test]
async fn of_a_containers_runs_the_one_that_runs_is_found() {
    let cri = CriServer::start();
    cri.reply(
        "ListContainers",
        &containers(&[
            ("old", "c", "u", EXITED, 9),
            ("new", "c", "u", RUNNING, 5),
            ("older", "c", "u", RUNNING, 4),
            ("other", "c", "v", RUNNING, 8),
        ]),
    );
    cri.answer("ExecSync", Reply::Status(5, "gone".into()));
    let runtime = runtime(&cri.path());
    let refusal = runtime.run(&target("c", None), vec![]).await.unwrap_err();
    assert_eq!((refusal.code, &*refusal.text), (500, "rpc error: code = NotFound desc = gone"));
    let asked = cri.asked();
    // The first field of the request.
    assert_eq!(Exec::decode(asked[2].1.clone()).unwrap().container_id, "new");
}

#[tokio::test]
async fn a_command_that_fails_is_a_refusal_of_run() {
    let cri = CriServer::start();
    cri.reply("ExecSync", &ExecSync { stdout: b"a".into(), stderr: b"bad".into(), exit_code: 3 });
    let runtime = runtime(&cri.path());
    let words = vec!["x".into(), "y z".into()];
    let refusal = runtime.run(&target("c", None), words).await.unwrap_err();
    let expected = (500, "command 'x y z' exited with 3: bad");
    assert_eq!((refusal.code, &*refusal.text), expected);
}

#[tokio::test]
async fn errors_of_the_runtime_have_the_kubelets_codes() {
    let cri = CriServer::start();
    let node = node(&cri).await;
    for (code, text, expected, said) in [
        (5, "no such container", 404, "rpc error: code = NotFound desc = no such container"),
        (8, "too many", 429, "rpc error: code = ResourceExhausted desc = too many"),
        (
            2,
            "container is in CONTAINER_EXITED state",
            500,
            "rpc error: code = Unknown desc = container is in CONTAINER_EXITED state",
        ),
        (1, "x", 500, "rpc error: code = Canceled desc = x"),
        (12, "no\u{1b}[2J", 500, "rpc error: code = Unimplemented desc = no\u{fffd}[2J"),
    ] {
        cri.answer("Exec", Reply::Status(code, text.into()));
        let answer = run(node.address, &exec(&["a"]), Carrier::Spdy, "").await;
        assert_eq!(refused(answer), (expected, said.into()));
    }
    cri.answer("Exec", Reply::Status(8, "too many".into()));
    let headers = [
        ("Connection", "Upgrade".into()),
        ("Upgrade", "SPDY/3.1".into()),
        ("X-Stream-Protocol-Version", "v4.channel.k8s.io".into()),
    ];
    let answer = server(node.address).ask(&exec(&["a"]), "POST", &headers).await;
    let bowline_io::upstream::UpstreamError::Refused(said) = answer.unwrap_err() else { panic!() };
    assert_eq!(said.head.headers.get("retry-after").unwrap(), "60");
}

#[tokio::test]
async fn answers_that_are_none_are_failures() {
    let cri = CriServer::start();
    let node = node(&cri).await;
    let length = |bytes: u32| [&[0], &bytes.to_be_bytes()[..]].concat();
    for (reply, expected) in [
        (Reply::Message(url("").encode_to_vec()), "URL is not set"),
        (
            Reply::Message(url("ftp://x/").encode_to_vec()),
            "the runtime's URL for the stream cannot be used",
        ),
        (Reply::Message(vec![0xff; 64]), "rpc error: code = Internal desc = failed to decode"),
        // Of what is only announced nothing is waited for.
        (Reply::Raw(length(u32::MAX)), "rpc error: code = OutOfRange desc = "),
        (Reply::Raw(vec![]), "rpc error: code = Internal desc = Missing response message"),
        (Reply::Raw(vec![1, 0, 0, 0, 0]), "rpc error: code = Internal desc = "),
    ] {
        cri.answer("Exec", reply.clone());
        let answer = run(node.address, &exec(&["a"]), Carrier::Spdy, "").await;
        let (code, text) = refused(answer);
        assert_eq!(code, 500, "{text}");
        assert!(text.starts_with(expected), "{reply:?}: {text}");
    }
}

/// Who follows a log is answered until the container has ended.
#[tokio::test]
async fn a_log_is_where_the_runtime_says() {
    let cri = CriServer::start();
    let node = node(&cri).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "2026-01-31T12:00:00.5Z stdout F one\n").unwrap();
    for (state, query) in [(RUNNING, ""), (EXITED, "?follow=true")] {
        cri.reply("ContainerStatus", &logged(state, file.path()));
        let log = get(node.address, &format!("/containerLogs/ns/p/c{query}")).await.unwrap();
        assert_eq!(log, "one\n");
    }
    cri.answer("ContainerStatus", Reply::Status(5, "gone".into()));
    let answer = refused(get(node.address, "/containerLogs/ns/p/c").await);
    assert_eq!(answer, (404, "rpc error: code = NotFound desc = gone".into()));
    cri.reply("ContainerStatus", &logged(RUNNING, Path::new("")));
    assert_eq!(refused(get(node.address, "/containerLogs/ns/p/c").await).0, 400);
}

#[tokio::test]
async fn an_older_runtime_is_spoken_to_in_its_version() {
    let cri = CriServer::start();
    cri.reply("ExecSync", &ExecSync::default());
    cri.version("runtime.v1alpha2");
    let runtime = runtime(&cri.path());
    let (target, service) = (target("c", None), "/runtime.v1alpha2.RuntimeService/");
    runtime.run(&target, vec![]).await.unwrap();
    let methods = cri.methods();
    assert_eq!(methods[0], LISTS[0]);
    assert_eq!(methods.len(), 4);
    assert!(methods[1..].iter().all(|one| one.starts_with(service)), "{methods:?}");
    // It is remembered, until the runtime is another one.
    runtime.run(&target, vec![]).await.unwrap();
    assert!(cri.methods().iter().all(|one| one.starts_with(service)));
    cri.version("runtime.v1");
    runtime.run(&target, vec![]).await.unwrap();
    runtime.run(&target, vec![]).await.unwrap();
    assert_eq!(cri.methods().iter().filter(|one| one.starts_with(service)).count(), 1);
}

#[tokio::test]
async fn a_runtime_may_come_later_and_come_again() {
    let mut cri = CriServer::absent();
    let runtime = runtime(&cri.path());
    let target = target("c", None);
    let socket = cri.path().display().to_string();
    for why in ["no such file or directory", "connection refused"] {
        let refusal = runtime.run(&target, vec![]).await.unwrap_err();
        let expected = format!(
            "rpc error: code = Unavailable desc = connection error: desc = \"the container runtime \
             at unix://{socket}: {why}\""
        );
        assert_eq!((refusal.code, refusal.text), (500, expected));
        drop(std::os::unix::net::UnixListener::bind(cri.path()));
    }
    cri.restart();
    cri.reply("ListPodSandbox", &sandboxes(&[("p", "u", 0, 1)]))
        .reply("ListContainers", &containers(&[("id", "c", "u", RUNNING, 1)]))
        .reply("ExecSync", &ExecSync::default());
    runtime.run(&target, vec![]).await.unwrap();
    cri.kill().await;
    runtime.run(&target, vec![]).await.unwrap_err();
    cri.restart();
    runtime.run(&target, vec![]).await.unwrap();
    assert_eq!(cri.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_stuck_is_named() {
    let cri = CriServer::start();
    let runtime = runtime(&cri.path());
    cri.answer("ListPodSandbox", Reply::Never);
    let refusal = runtime.run(&target("c", None), vec![]).await.unwrap_err();
    let expected = format!(
        "rpc error: code = DeadlineExceeded desc = context deadline exceeded: the container \
         runtime at unix://{} did not answer ListPodSandbox within 15 s",
        cri.path().display()
    );
    assert_eq!((refusal.code, refusal.text), (500, expected));
}

#[tokio::test(start_paused = true)]
async fn health_is_the_runtimes() {
    let cri = CriServer::start();
    let runtime = runtime(&cri.path());
    let not_ready = |why: &str| {
        format!("the container runtime at unix://{} is not ready: {why}", cri.path().display())
    };
    for (reply, expected) in [
        (condition("RuntimeReady", true), None),
        (condition("RuntimeReady", false), Some("RuntimeReady is false: Broken: no runc")),
        (condition("NetworkReady", true), Some("it does not say whether it has RuntimeReady")),
    ] {
        cri.reply("Status", &reply);
        let expected = expected.map_or(Ok(()), |why| Err((503, not_ready(why))));
        let ready = runtime.ready().await;
        assert_eq!(ready.map_err(|refusal| (refusal.code, refusal.text)), expected);
        assert_eq!(cri.methods(), ["/runtime.v1.RuntimeService/Status"]);
    }
    cri.answer("Status", Reply::Never);
    let refusal = runtime.ready().await.unwrap_err();
    assert!(refusal.text.contains("did not answer Status within 3 s"), "{refusal:?}");
}

/// As the kubelet, which trusts the CAs of the system.
#[tokio::test]
async fn a_streaming_server_with_tls_has_to_be_trusted() {
    let cri = CriServer::start();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["127.0.0.1".into()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().pem();
    let identity = bowline_io::tls::Identity {
        certificate: certificate.clone().into(),
        key: key.serialize_pem().into(),
    };
    let behind = Node::over_tls(Arc::new(Memory::default()), &identity).await;
    let words = exec(&["exit", "7"]);
    cri.reply("Exec", &url(format!("https://{}{words}", behind.address)));
    let answer = run(node(&cri).await.address, &words, Carrier::Spdy, "").await;
    let (code, text) = refused(answer);
    assert_eq!(code, 500);
    assert!(text.contains("x509: certificate signed by unknown authority"), "{text}");
    let endpoint = Endpoint::parse(cri.path().to_str().unwrap()).unwrap();
    let streaming_trust = Trust::Ca(certificate.into());
    let trusting = CriRuntime::new(CriSettings { streaming_trust, ..CriSettings::new(endpoint) });
    let node = Node::start(Arc::new(trusting)).await;
    let ended = run(node.address, &words, Carrier::Spdy, "hello").await.unwrap();
    assert_eq!((&*ended.stdout, ended.end), ("hello", Ok(Outcome::Exited(7))));
}
