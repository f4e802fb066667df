//! Autobahn's test suite against our WebSocket codec, in both roles.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::client::{Input, left_within};
use bowline_interop::server::Server;
use serde_json::{Value, json};

use crate::parts::{example, part};

/// All but compression (12, 13), which is an extension; none is offered.
const SECTIONS: [&str; 9] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];
const CASES: usize = 301;
/// RFC 6455 leaves open what is right: a close in the middle of a message (7.1.6), close codes that
/// nobody has defined (7.13.1, 7.13.2).
const INFORMATIONAL: [&str; 3] = ["7.1.6", "7.13.1", "7.13.2"];
/// The longest that all cases of one role take.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn autobahn_finds_the_server_strict() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(Command::new(example("ws-echo-server")).arg("127.0.0.1:0"));
    let spec = json!({
        "outdir": place.path().join("report"),
        "servers": [{"agent": "bowline", "url": format!("ws://{}", server.address())}],
        "cases": SECTIONS,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    finish(suite("fuzzingclient", &spec, place.path()));
    judge(place.path());
}

#[test]
fn autobahn_finds_the_client_strict() {
    let place = tempfile::tempdir().unwrap();
    // The suite cannot pick a port, so the system picks one that was free just now.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spec = json!({
        "url": format!("ws://127.0.0.1:{port}"),
        "outdir": place.path().join("report"),
        "cases": SECTIONS,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let mut server = Killed(suite("fuzzingserver", &spec, place.path()).spawn().unwrap());
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the suite does not listen");
        assert!(server.0.try_wait().unwrap().is_none(), "the suite has ended");
        thread::yield_now();
    }
    let mut client = Command::new(example("ws-echo-client"));
    client.arg(format!("ws://127.0.0.1:{port}")).stdin(Stdio::null());
    finish(client);
    judge(place.path());
}

fn suite(mode: &str, spec: &Value, place: &Path) -> Command {
    let file = place.join("spec.json");
    std::fs::write(&file, spec.to_string()).unwrap();
    let mut command = Command::new(part("autobahn/bin/wstest"));
    command.args(["-m", mode, "-s"]).arg(file).current_dir(place);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn finish(mut command: Command) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let left = left_within(PATIENCE, child, Input::Nothing, false).expect("it ends in time");
    assert!(left.status.success(), "{left:?}");
}

/// A process that ends with its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every case must be strictly right, and every case must have been run.
fn judge(place: &Path) {
    let text = std::fs::read_to_string(place.join("report/index.json")).unwrap();
    let report: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&text).unwrap();
    let cases = &report["bowline"];
    assert_eq!(cases.len(), CASES);
    let wrong: Vec<_> = cases
        .iter()
        .filter(|(case, seen)| {
            let open = INFORMATIONAL.contains(&case.as_str());
            let right = if open { "INFORMATIONAL" } else { "OK" };
            let close = &seen["behaviorClose"];
            seen["behavior"] != right || close != "OK" && close != right
        })
        .map(|(case, seen)| format!("{case}: {}, {}", seen["behavior"], seen["behaviorClose"]))
        .collect();
    println!("autobahn: {} cases, {} not right", cases.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:?}");
}
