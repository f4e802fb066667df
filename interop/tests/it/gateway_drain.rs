//! One of two gateways behind a balancer goes away: sessions end as they would have, or say that
//! they are lost; everything new is the other one's.

use std::net::TcpStream;
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bowline_interop::client::{Client, Input, Left, PATIENCE, left, noise_digest};
use bowline_interop::cluster::Cluster;
use bowline_interop::proxies::{Proxy, REPLICAS, Trust};
use bowline_interop::server::{Server, until};
use rustix::process::{Signal, kill_process};

use crate::gateway::{gateway, kubeconfig, token};
use crate::parts::{KUBECTLS, kubectl, ours};
use crate::steady::{Door, Steady};

const SESSIONS: usize = 50;
/// How many of them are begun at the same time.
const AT_ONCE: usize = 8;
/// What a session that ends in time has written after its first line.
const WRITTEN_BYTES: u64 = 300_000;
/// The phases are told by what is seen of them; the last one by a second signal.
const DRAIN: [&str; 2] = ["--drain-delay=5s", "--drain=10m"];

/// A session, and how it shall end.
struct Session {
    client: Client,
    child: Child,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// While the gateway still serves.
    WhileServing,
    /// While it waits for sessions.
    WhileClosing,
    /// It does not.
    Never,
}

/// Each client in turn.
fn clients(kubeconfig: &str) -> Vec<Client> {
    let ours = ours(kubeconfig, &["box"]);
    let kubectls = KUBECTLS.map(|age| kubectl(age, kubeconfig, &["box"]));
    kubectls.into_iter().chain([ours.over_spdy(), ours]).collect()
}

/// Begins all of them.
fn begun(kubeconfig: &str) -> Vec<Session> {
    let (clients, next) = (clients(kubeconfig), AtomicUsize::new(0));
    let sessions = Mutex::new(Vec::new());
    let begin = |number: usize| {
        let client = clients[number % clients.len()].named(&format!("session {number}"));
        let ends = [End::WhileServing, End::Never, End::WhileClosing, End::Never];
        let end = ends[number / clients.len() % ends.len()];
        // To the end of its input: a kubelet that closes with any of it unread may cut its output.
        let script = format!(
            "echo begun; cat >/dev/null; head -c {WRITTEN_BYTES} /dev/zero; exit {}",
            code(number)
        );
        let (child, line) = client.begin(&["-i"], &script);
        assert_eq!(line, "begun", "{}", client.name);
        sessions.lock().unwrap().push(Session { client, child, end });
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SESSIONS {
                        return;
                    }
                    begin(number);
                }
            });
        }
    });
    sessions.into_inner().unwrap()
}

/// Of a session that ends by itself: some succeed, some do not.
fn code(number: usize) -> i32 {
    if number.is_multiple_of(3) { 7 } else { 0 }
}

fn ends(session: Session) {
    let Session { client, child, .. } = session;
    let number = client.name.rsplit(' ').next().unwrap().parse().unwrap();
    let left = left(child, Input::Bytes(b"\n"), false).unwrap();
    let found = (left.status.code(), left.bytes);
    assert_eq!(found, (Some(code(number)), WRITTEN_BYTES), "{}: {left:?}", client.name);
}

/// It had no end, and says so.
fn is_lost(session: Session) {
    let Session { client, mut child, .. } = session;
    // Its input does not end before.
    let input = child.stdin.take();
    let left = left(child, Input::Nothing, false).unwrap();
    drop(input);
    let (expected, words) = if client.name.starts_with("bowline") {
        (255, "outcome is unknown")
    } else {
        (1, "error: ")
    };
    let Left { status, stderr, .. } = &left;
    assert_eq!(status.code(), Some(expected), "{}: {left:?}", client.name);
    let says = stderr.contains(words) && stderr.contains("the gateway shuts down");
    assert!(says, "{}: {left:?}", client.name);
}

/// Takes those that end so.
fn take(sessions: &mut Vec<Session>, end: End) -> Vec<Session> {
    sessions.extract_if(.., |session| session.end == end).collect()
}

/// One command after another, until it is told to stop; counts them.
fn commands(kubeconfig: &str, stop: &AtomicBool, ended: &AtomicUsize) {
    for client in clients(kubeconfig).iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let left = client.run(&["-i"], &["sh", "-c", "sha256sum; exit 3"], Input::Noise(100_000));
        let said = String::from_utf8_lossy(&left.stdout).into_owned();
        let expected = format!("{}  -\n", noise_digest(100_000));
        assert_eq!((left.status.code(), said), (Some(3), expected), "{}", client.name);
        ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_gateway_that_ends_ends_no_session_as_if_it_were_over_and_fails_nothing_that_is_new() {
    let cluster = Cluster::shared();
    let token = token(&cluster);
    let address = cluster.address();
    let direct = kubeconfig(&cluster, "direct", &address, &token);
    let flags = [&["--upstream", &direct][..], &DRAIN].concat();
    let [first, second] = [gateway(&cluster, &flags), gateway(&cluster, &flags)];
    let proxy = before(&cluster, [&first, &second]);
    let through = kubeconfig(&cluster, "replicas", &proxy.address, &token);
    let is = |which: &str, what: &str, times: usize| {
        let words = format!("Server gateways/{which} is {what}");
        until(&words, PATIENCE, || proxy.log().matches(&words).count() == times);
    };

    // All of them are the first one's: the second one answers nobody.
    kill_process(second.id(), Signal::STOP).unwrap();
    is("second", "DOWN", 1);
    let mut sessions = begun(&through);
    let [through, direct] = [(&proxy.address, &through), (&address, &direct)].map(|(at, file)| {
        Door { address: at.clone(), token: token.clone(), kubeconfig: file.clone() }
    });
    let (stop, ended) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| commands(&through.kubeconfig, &stop, &ended));
        // Also if this fails.
        let _stops = Stops(&stop);
        let steady = Steady::begin(&through, &direct);
        kill_process(second.id(), Signal::CONT).unwrap();
        is("second", "UP", 1);
        goes_away(&first, &mut sessions, || is("first", "DOWN", 1));
        // What is new goes on, with one gateway less.
        let before = ended.load(Ordering::Relaxed);
        until("commands end", PATIENCE, || ended.load(Ordering::Relaxed) > before + 6);
        steady.ends();
    });
    first.has_ended();
}

struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One balancer before both.
fn before(cluster: &Cluster, gateways: [&Server; 2]) -> Proxy {
    let pki = |name: &str| cluster.path("pki").join(name);
    let (certificate, key) = (pki("apiserver.crt"), pki("apiserver.key"));
    let trust = Trust { authority: pki("ca.crt"), certificate, key };
    let ports = gateways.map(|gateway| gateway.address().rsplit(':').next().unwrap().parse());
    Proxy::start_before(&REPLICAS, &ports.map(Result::unwrap), &trust)
}

/// Ends a gateway with its sessions, phase by phase.
fn goes_away(gateway: &Server, sessions: &mut Vec<Session>, is_found_out: impl Fn()) {
    kill_process(gateway.id(), Signal::TERM).unwrap();
    take(sessions, End::WhileServing).into_iter().for_each(ends);
    is_found_out();
    let address = gateway.address();
    until("it takes no connections", PATIENCE, || TcpStream::connect(&address).is_err());
    take(sessions, End::WhileClosing).into_iter().for_each(ends);
    let left = take(sessions, End::Never);
    assert!(left.len() > SESSIONS / 3 && sessions.is_empty(), "{} {}", left.len(), sessions.len());
    kill_process(gateway.id(), Signal::TERM).unwrap();
    left.into_iter().for_each(is_lost);
}
