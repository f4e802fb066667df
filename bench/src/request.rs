//! A plain request through our gateway, next to the same one through HAProxy and without any of
//! them: at a real API server, and at a server that does nothing but answer, since an API server
//! takes more for each request than either of the two.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_interop::cluster::Cluster;
use bowline_interop::proxies::{HAPROXY, Proxy, Row, Suite, Trust, version};
use bowline_interop::server::Server;
use bowline_io::dial::{Endpoint, Tls, dial};
use bowline_io::stream::Stream;
use bowline_io::tls;
use rustix::process::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::measure::{cpu, median, progress};
use crate::systems::bowline;

const TOKEN: &str = "bench";
const PATH: &str = "/api/v1/namespaces/default/configmaps/bench";
/// Requests one after the other on one connection, in turns with the other ways.
const REQUESTS: usize = 300;
const ROUNDS: usize = 9;
/// Requests of many connections, as fast as they are answered.
const AT_ONCE: usize = 32;
const MANY: usize = 5_000;
const MANY_ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(20);

/// An HAProxy that answers by itself.
const ORIGIN: Row = Row {
    files: &["../../bench/origin.cfg"],
    commands: &[&["haproxy", "-db", "-f", "/etc/bowline/origin.cfg"]],
    ..HAPROXY.from(Suite::Sid)
};

/// One way to a server.
struct Way {
    name: &'static str,
    endpoint: Endpoint,
    /// Who is between the client and the server, if there is somebody.
    proxy: Option<u32>,
    server: u32,
}

/// What one round took for each request, in milliseconds.
#[derive(Default)]
struct Round {
    /// Sorted.
    wall: Vec<f64>,
    per_second: f64,
    /// CPU of this program, of the proxy and of the server.
    cpu: [f64; 3],
}

/// Everything that is kept until the end.
struct Place {
    cluster: Cluster,
    trust: Trust,
}

pub fn run(runtime: &Runtime) -> Result<()> {
    let place = Place::new()?;
    let (port, server) = (place.cluster.env("APISERVER_PORT").parse()?, number(place.server()));
    println!("### A plain request, through HAProxy {} as well\n", version(&HAPROXY));
    place.measured(runtime, "API server", port, server)?;
    let origin = Proxy::start(&ORIGIN, 0, &place.trust);
    let port = origin.address.rsplit(':').next().context("an address has a port")?.parse()?;
    let server = origin.id().context("the server runs")?;
    place.measured(runtime, "a server that does nothing", port, number(server))
}

impl Place {
    fn new() -> Result<Place> {
        let dir = tempfile::tempdir()?;
        let tokens = dir.path().join("tokens.csv");
        fs::write(&tokens, format!("{TOKEN},bench,bench,system:masters\n"))?;
        let flag = format!("--token-auth-file={}", tokens.display());
        let cluster = Cluster::up(&[("NO_KUBELET", "1"), ("APISERVER_ARGS", &flag)]);
        let text = "--from-literal=text=0123456789abcdef0123456789abcdef0123456789abcdef";
        cluster.kubectl(&["create", "configmap", "bench", text]);
        let trust = Trust {
            authority: cluster.path("pki/ca.crt"),
            certificate: cluster.path("pki/apiserver.crt"),
            key: cluster.path("pki/apiserver.key"),
        };
        Ok(Place { cluster, trust })
    }

    fn server(&self) -> Pid {
        self.cluster.id("kube-apiserver")
    }

    /// The way to a port of this machine.
    fn endpoint(&self, port: u16) -> Result<Endpoint> {
        let trust = tls::Trust::Ca(tls::read(&self.trust.authority)?);
        let tls = Tls { config: tls::client(&trust, None)?, server_name: None };
        Ok(Endpoint { host: "127.0.0.1".to_owned(), port, tls: Some(tls), proxy: None })
    }

    fn gateway(&self, port: u16) -> Result<Server> {
        let kubeconfig = self.cluster.path("bench.kubeconfig");
        let authority = self.trust.authority.display();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: b\nclusters: [{{name: b, cluster: \
             {{server: \"https://127.0.0.1:{port}\", certificate-authority: \"{authority}\"}}}}]\n\
             contexts: [{{name: b, context: {{cluster: b, user: b}}}}]\nusers: [{{name: b, user: \
             {{token: \"{TOKEN}\"}}}}]\n"
        );
        fs::write(&kubeconfig, text)?;
        let mut gateway = Command::new(bowline()?);
        gateway.args(["gateway", "--secure-port", "0", "--bind-address", "127.0.0.1"]);
        gateway.arg("--upstream").arg(&kubeconfig);
        let flags: [(&str, &Path); 2] = [
            ("--tls-cert-file", &self.trust.certificate),
            ("--tls-private-key-file", &self.trust.key),
        ];
        for (flag, file) in flags {
            gateway.arg(flag).arg(file);
        }
        Ok(Server::start(&mut gateway))
    }

    /// Measures the three ways to the server at this port, and prints what was found.
    fn measured(&self, runtime: &Runtime, name: &str, port: u16, server: u32) -> Result<()> {
        let gateway = self.gateway(port)?;
        let haproxy = Proxy::start(&HAPROXY, port, &self.trust);
        let of = |address: &str| -> Result<Endpoint> {
            let port = address.rsplit(':').next().unwrap_or_default();
            self.endpoint(port.parse()?)
        };
        let through = number(haproxy.id().context("HAProxy runs")?);
        let ways = [
            Way { name: "straight", endpoint: self.endpoint(port)?, proxy: None, server },
            Way {
                name: "through our gateway",
                endpoint: of(&gateway.address())?,
                proxy: Some(number(gateway.id())),
                server,
            },
            Way {
                name: "through HAProxy",
                endpoint: of(&haproxy.address)?,
                proxy: Some(through),
                server,
            },
        ];
        for (at_once, count, rounds) in [(1, REQUESTS, ROUNDS), (AT_ONCE, MANY, MANY_ROUNDS)] {
            let found = runtime.block_on(interleaved(&ways, at_once, count, rounds))?;
            let order = if at_once == 1 { "one after the other" } else { "32 at a time" };
            println!("{name}, {count} requests {order}, {rounds} rounds\n");
            print(&ways, &found);
        }
        gateway.stop();
        Ok(())
    }
}

/// All ways in turns; the first round of each is thrown away.
async fn interleaved(
    ways: &[Way],
    at_once: usize,
    count: usize,
    rounds: usize,
) -> Result<Vec<Vec<Round>>> {
    let mut found: Vec<Vec<Round>> = ways.iter().map(|_| Vec::new()).collect();
    for number in 0..=rounds {
        progress(&format!("round {number} of {rounds}"));
        for (way, found) in ways.iter().zip(&mut found) {
            let round = round(way, at_once, count).await.with_context(|| way.name)?;
            if number > 0 {
                found.push(round);
            }
        }
    }
    progress("");
    Ok(found)
}

/// Prints medians of all rounds, and the rate of the best.
fn print(ways: &[Way], found: &[Vec<Round>]) {
    println!(
        "| way | p50, ms | p99, ms | requests/s, best round | median | CPU of the client, µs | of \
         the proxy | of the server |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    );
    for (way, rounds) in ways.iter().zip(found) {
        let of = |what: &dyn Fn(&Round) -> f64| median(rounds.iter().map(what).collect());
        let share = |share: usize| of(&|round| round.wall[round.wall.len() * share / 100]);
        let best = rounds.iter().map(|round| round.per_second).fold(0.0, f64::max);
        let [client, proxy, server] = [0, 1, 2].map(|of_| of(&|round| round.cpu[of_] * 1000.0));
        let proxy = if way.proxy.is_some() { format!("{proxy:.0}") } else { "–".to_owned() };
        println!(
            "| {} | {:.3} | {:.3} | {best:.0} | {:.0} | {client:.0} | {proxy} | {server:.0} |",
            way.name,
            share(50),
            share(99),
            of(&|round| round.per_second),
        );
    }
    println!();
}

/// So many requests, on so many connections that are there already.
async fn round(way: &Way, at_once: usize, count: usize) -> Result<Round> {
    let mut connections = Vec::new();
    for _ in 0..at_once {
        let mut connection = Connection::to(&way.endpoint).await?;
        connection.get().await?;
        connections.push(connection);
    }
    let used = || -> Result<[f64; 3]> {
        let of = |id| Ok::<_, anyhow::Error>(cpu(id)?.as_secs_f64());
        let proxy = way.proxy.map_or(Ok(0.0), of)?;
        Ok([of(std::process::id())?, proxy, of(way.server)?])
    };
    let (before, begun) = (used()?, Instant::now());
    let (left, mut running) = (Arc::new(AtomicUsize::new(count)), JoinSet::new());
    for mut connection in connections {
        let left = left.clone();
        running.spawn(async move {
            let mut wall = Vec::new();
            let one = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_ok() {
                let begun = Instant::now();
                connection.get().await?;
                wall.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(wall)
        });
    }
    let mut wall = Vec::new();
    while let Some(done) = running.join_next().await {
        wall.extend(done??);
    }
    let (took, now) = (begun.elapsed().as_secs_f64(), used()?);
    wall.sort_by(f64::total_cmp);
    let cpu = [0, 1, 2].map(|of| (now[of] - before[of]) * 1000.0 / count as f64);
    Ok(Round { wall, per_second: count as f64 / took, cpu })
}

/// A client that does as little as a client can: the same request again and again.
struct Connection {
    stream: Stream,
    request: String,
    read: Vec<u8>,
}

impl Connection {
    async fn to(endpoint: &Endpoint) -> Result<Connection> {
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nUser-Agent: bench\r\nAccept: \
             application/json\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
            endpoint.port
        );
        let stream = dial(endpoint, PATIENCE).await?;
        Ok(Connection { stream, request, read: vec![0; 64 * 1024] })
    }

    async fn get(&mut self) -> Result<()> {
        self.stream.write_all(self.request.as_bytes()).await?;
        self.stream.flush().await?;
        let (mut filled, mut whole) = (0, None);
        while whole.is_none_or(|whole| filled < whole) {
            let count = self.stream.read(&mut self.read[filled..]).await?;
            ensure!(count > 0, "the connection ended");
            filled += count;
            if whole.is_none() {
                whole = length(&self.read[..filled])?;
            }
        }
        ensure!(whole == Some(filled), "more came than was asked for");
        Ok(())
    }
}

/// How long an answer is, once its head is there.
fn length(read: &[u8]) -> Result<Option<usize>> {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 200"), "{}", head.lines().next().unwrap_or_default());
    match head.lines().find_map(|line| line.strip_prefix("content-length:")) {
        Some(length) => Ok(Some(end + 4 + length.trim().parse::<usize>()?)),
        None => bail!("an answer of no length"),
    }
}

fn number(process: Pid) -> u32 {
    process.as_raw_nonzero().get().cast_unsigned()
}
