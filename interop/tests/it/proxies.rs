//! What stands before servers in the world, with our gateway behind it and before it, and without.
//!
//! The table in docs/proxies.md is what this says; `BLESS=1` writes it anew.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::client::{Client, Input, Left, left_within};
use bowline_interop::cluster::Cluster;
use bowline_interop::forward::app::App;
use bowline_interop::parts::root;
use bowline_interop::proxies::{Proxy, ROWS, Row, Suite, Trust, version};
use bowline_interop::server::Server;
use http::StatusCode;

use crate::extended_connect::{self, Outcome};
use crate::forward::host_pod;
use crate::gateway::{gateway, kubeconfig, token};
use crate::parts::kubectl;

/// A proxy that passes a handshake and then no byte holds kubectl for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many proxies are tried at the same time.
const AT_ONCE: usize = 3;
const OLD: &str = "1.20";
const NEW: &str = "1.37";
const BEGIN: &str = "<!-- made by interop/tests/it/proxies.rs: begin -->\n";
const END: &str = "<!-- end -->\n";

/// What passed.
#[derive(Clone, Debug)]
struct Cells {
    alone: [bool; 2],
    behind: [bool; 2],
    over_http2: Outcome,
    before: [bool; 2],
}

/// What all of them have.
struct Place<'a> {
    cluster: &'a Cluster,
    trust: Trust,
    token: String,
    app: App,
    gateway: Server,
}

#[test]
fn every_proxy_passes_what_it_can_with_a_gateway_on_either_side() {
    let cluster = Cluster::shared();
    host_pod(&cluster);
    let place = Place::new(&cluster);
    let only = std::env::var("BOWLINE_PROXIES").unwrap_or_default();
    let rows = ROWS.iter().enumerate().filter(|(_, row)| row.name().contains(&only));
    let queue = Mutex::new(rows);
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((index, row)) = queue.lock().unwrap().next() else { return };
                    let begun = Instant::now();
                    let cells = place.cells(row, index);
                    let took = begun.elapsed().as_secs_f64();
                    println!("{}: {cells:?}, {took:.1} s", row.name());
                    found.lock().unwrap().push((index, cells));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(index, _)| *index);
    for (index, cells) in &found {
        judge(&ROWS[*index], cells);
    }
    if only.is_empty() {
        compare(&found);
    }
}

/// What is promised of every row, whatever the proxy does.
fn judge(row: &Row, cells: &Cells) {
    let [old, new] = cells.alone;
    let name = row.name();
    if new {
        assert_eq!(cells.before, [true; 2], "{name}: a gateway before it: {cells:?}");
        assert!(cells.behind[1], "{name}: a gateway behind it: {cells:?}");
    }
    assert!(!old || cells.behind[0], "{name}: a gateway behind it: {cells:?}");
    match &cells.over_http2 {
        Outcome::NotOffered => {}
        // Over HTTP/1.1 it sends on no key, without which no server may take a WebSocket.
        Outcome::Refused(code) if new => {
            assert_eq!((row.program, code), ("Envoy", &Some(StatusCode::BAD_REQUEST)), "{name}");
        }
        Outcome::Refused(_) => {}
        outcome => assert!(is_whole(outcome), "{name}: {outcome:?}"),
    }
}

fn is_whole(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Ended(output, status)
        if output == "magic" && status.contains("\"Success\""))
}

impl<'a> Place<'a> {
    fn new(cluster: &'a Cluster) -> Place<'a> {
        let pki = |name: &str| cluster.path("pki").join(name);
        let (certificate, key) = (pki("apiserver.crt"), pki("apiserver.key"));
        let trust = Trust { authority: pki("ca.crt"), certificate, key };
        let token = token(cluster);
        let upstream = kubeconfig(cluster, "upstream", &cluster.address(), &token);
        let gateway = gateway(cluster, &["--http2-websockets", "--upstream", &upstream]);
        Place { cluster, trust, token, app: App::start(), gateway }
    }

    fn cells(&self, row: &Row, index: usize) -> Cells {
        let write = |name: &str, address: &str| {
            kubeconfig(self.cluster, &format!("{name}-{index}"), address, &self.token)
        };
        let proxy = Proxy::start(row, port(&self.cluster.address()), &self.trust);
        let direct = write("alone", &proxy.address);
        let gateway = gateway(self.cluster, &["--upstream", &direct]);
        // Before anything hangs in it.
        let before = self.both(&write("before", &gateway.address()));
        let alone = self.both(&direct);
        drop((proxy, gateway));
        let proxy = Proxy::start(row, port(&self.gateway.address()), &self.trust);
        let behind = self.both(&write("behind", &proxy.address));
        let over_http2 = self.over_http2(&proxy.address);
        Cells { alone, behind, over_http2, before }
    }

    fn both(&self, kubeconfig: &str) -> [bool; 2] {
        let of = |age| kubectl(age, kubeconfig, &["box"]).named(kubeconfig);
        [OLD, NEW].map(|age| self.passes(&of(age)))
    }

    /// An exit code, the end of an input, and a port-forward.
    fn passes(&self, client: &Client) -> bool {
        let script = ["sh", "-c", "echo magic; exit 7"];
        let ended = run(client, &[], &script, Input::Nothing);
        let read = || run(client, &["-i"], &["cat"], Input::Bytes(b"magic"));
        is(client, "exec", &ended, 7, b"magic\n")
            && is(client, "exec -i", &read(), 0, b"magic")
            && forwards(client, self.app.port)
    }

    fn over_http2(&self, address: &str) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = extended_connect::cat(address, &self.token, "magic");
        let within = async { tokio::time::timeout(PATIENCE, asked).await };
        runtime.block_on(within).unwrap_or(Outcome::Refused(None))
    }
}

fn run(client: &Client, flags: &[&str], command: &[&str], input: Input<'_>) -> Option<Left> {
    let mut process = client.process(flags, command);
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    left_within(PATIENCE, process.spawn().unwrap(), input, true)
}

fn is(client: &Client, what: &str, left: &Option<Left>, code: i32, output: &[u8]) -> bool {
    let ends = |left: &Left| left.status.code() == Some(code) && left.stdout == output;
    let passes = left.as_ref().is_some_and(ends);
    if !passes {
        let said = left.as_ref().map_or("hangs", |left| left.stderr.trim());
        println!("{}: {what}: {said}", client.name);
    }
    passes
}

/// One request to a port of the pod on this machine's network.
fn forwards(client: &Client, port: u16) -> bool {
    let client = client.forwarding();
    let mut process = Command::new(&client.program);
    process.args(&client.words).args(["host", &format!(":{port}")]);
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = process.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let (sender, line) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        let mut stdout = BufReader::new(stdout);
        let _ = stdout.read_line(&mut text);
        let _ = sender.send(text);
        // It writes of each connection, and must find a reader.
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
    });
    let line = line.recv_timeout(PATIENCE).unwrap_or_default();
    let answer = line.strip_prefix("Forwarding from ").and_then(|rest| {
        let (address, _) = rest.split_once(" -> ")?;
        let mut socket = TcpStream::connect(address).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    });
    let _ = child.kill();
    let _ = child.wait();
    let passes = answer.as_ref().is_some_and(|answer| answer.starts_with("HTTP/1."));
    if !passes {
        println!("{}: {line:?} {answer:?}", client.name);
    }
    passes
}

fn port(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// The page has to say what was found.
fn compare(found: &[(usize, Cells)]) {
    let path = root().join("docs/proxies.md");
    let page = fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (table, tail) = rest.split_once(END).expect("the table has an end");
    let made = tabled(found);
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, [head, BEGIN, &made, END, tail].concat()).unwrap();
    }
    report(&path, table, &made);
}

fn report(path: &Path, table: &str, made: &str) {
    // Which version the newest one is, is the day's affair.
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("The newest were "));
        lines.map(ToOwned::to_owned).collect()
    };
    let (table, made) = (lines(table), lines(made));
    let others: Vec<_> = made.iter().filter(|line| !table.contains(line)).collect();
    assert!(
        others.is_empty() && made.len() == table.len(),
        "{} says otherwise than this (BLESS=1 writes it): {others:#?}",
        path.display()
    );
}

fn tabled(found: &[(usize, Cells)]) -> String {
    let mut text = String::from(
        "| proxy | configuration | alone: 1.20 | 1.37 | gateway behind it: 1.20 | 1.37 | browser \
         over HTTP/2 | gateway before it: 1.20 | 1.37 |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut newest = Vec::new();
    for (index, cells) in found {
        let row = &ROWS[*index];
        let version = version(row);
        let program = if row.suite == Suite::Sid {
            let one = format!("{} {version}", row.program);
            if !newest.contains(&one) {
                newest.push(one);
            }
            format!("{}, newest", row.program)
        } else {
            format!("{} {version}", row.program)
        };
        let word = |passes: bool| if passes { "yes" } else { "–" };
        let over_http2 = match &cells.over_http2 {
            Outcome::NotOffered => "not offered",
            Outcome::Refused(_) => "refused",
            Outcome::Ended(..) => "yes",
        };
        let [a, b] = cells.alone.map(word);
        let [c, d] = cells.behind.map(word);
        let [e, f] = cells.before.map(word);
        let configuration = row.configuration;
        let _ = writeln!(
            text,
            "| {program} | {configuration} | {a} | {b} | {c} | {d} | {over_http2} | {e} | {f} |"
        );
    }
    let _ = writeln!(text, "\nThe newest were {}.", newest.join(", "));
    text
}
