//! One hop: CPU seconds per GB of a relay, next to a raw copy and to the API server's handlers.

use std::process::Command;

use anyhow::{Context, Result};
use bowline_interop::parts::part;
use bowline_interop::pki::{Authority, Pair};
use bowline_interop::server::Server;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::ends::{self, Job, Target, Way};
use crate::measure::{cpu, median, progress};
use crate::part::Both;

const ROUNDS: usize = 5;
const PIECES: [usize; 3] = [32 * 1024, 4 * 1024, 1024];
const GB: f64 = 1e9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relay {
    Copy,
    Bowline,
    Go,
}

impl Relay {
    const ALL: [Relay; 3] = [Relay::Copy, Relay::Bowline, Relay::Go];

    /// Enough for a steady number, and not more than a few seconds.
    fn bytes(self, piece: usize) -> u64 {
        let full = match self {
            Relay::Copy | Relay::Bowline => 1 << 30,
            Relay::Go => 1 << 29,
        };
        match piece {
            0..4096 => full / 8,
            4096..32768 => full / 4,
            _ => full,
        }
    }
}

/// Relays before one node.
struct Place {
    both: Both,
    relays: [Server; 3],
    _files: TempDir,
}

impl Place {
    fn start(runtime: &Runtime, tls: bool) -> Result<Place> {
        let files = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let Pair { certificate, key } = authority.server()?;
        for (name, text) in
            [("ca.crt", &authority.pem), ("server.crt", &certificate), ("server.key", &key)]
        {
            std::fs::write(files.path().join(name), text)?;
        }
        let both = if tls { Both::read(files.path())? } else { Both::none() };
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port().to_string();
        runtime.spawn(ends::node(listener, both.server.clone()));
        let ours = |what: &str| -> Result<Server> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["part", what, &port]);
            if tls {
                command.arg(files.path());
            }
            Ok(Server::start(&mut command))
        };
        let mut go = Command::new(part("handlers/handlers"));
        let scheme = if tls { "https" } else { "http" };
        go.arg("-kubelet").arg(format!("{scheme}://127.0.0.1:{port}"));
        if tls {
            go.arg("-certificate").arg(files.path().join("server.crt"));
            go.arg("-key").arg(files.path().join("server.key"));
        }
        let relays = [ours("copy")?, ours("relay")?, Server::start(&mut go)];
        Ok(Place { both, relays, _files: files })
    }

    /// CPU seconds per GB of one transfer.
    fn measure(
        &self,
        runtime: &Runtime,
        what: What,
        relay: Relay,
        way: Way,
        piece: usize,
    ) -> Result<f64> {
        let job = Job { way, bytes: relay.bytes(piece), piece };
        let server = &self.relays[relay as usize];
        let port = server.address().rsplit(':').next().unwrap_or_default().parse()?;
        let path = match relay {
            Relay::Bowline if what == What::Forward => {
                "/api/v1/namespaces/default/pods/box/portforward".to_owned()
            }
            Relay::Copy | Relay::Go if what == What::Forward => "/portForward/default/box".into(),
            Relay::Bowline => {
                let query = job.query("stdin", "stdout");
                format!("/api/v1/namespaces/default/pods/box/exec?{query}")
            }
            Relay::Copy | Relay::Go => {
                format!("/exec/default/box/box?{}", job.query("input", "output"))
            }
        };
        // A copy cannot translate: both ends speak what its far side does.
        let websocket = relay != Relay::Copy;
        let target = Target { port, tls: self.both.client.clone(), path, websocket };
        let process = server.id().as_raw_nonzero().get().cast_unsigned();
        let before = cpu(process)?;
        let result = match what {
            What::Exec => runtime.block_on(ends::client(&target, job)),
            What::Forward => runtime.block_on(ends::forward_client(&target, job)),
        };
        result.with_context(|| format!("{relay:?}, {way:?}, {piece} bytes: {}", server.log()))?;
        let used = cpu(process)?.saturating_sub(before);
        Ok(used.as_secs_f64() * GB / job.bytes as f64)
    }
}

/// What goes through the hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A remote command: channels in front, streams behind.
    Exec,
    /// A port-forward: a tunnel in front, what is in it behind.
    Forward,
}

pub fn run(runtime: &Runtime, what: What) -> Result<()> {
    let title = match what {
        What::Exec => "One hop",
        What::Forward => "One hop of a port-forward's tunnel",
    };
    println!("### {title}: CPU seconds per GB, medians of {ROUNDS} rounds\n");
    println!(
        "| legs | payloads | way | raw copy | Bowline | Go handlers | Bowline to copy | Bowline to \
         Go |"
    );
    println!("|---|--:|---|--:|--:|--:|--:|--:|");
    for tls in [false, true] {
        let place = Place::start(runtime, tls)?;
        for piece in PIECES {
            for way in [Way::Down, Way::Up] {
                row(runtime, &place, what, tls, piece, way)?;
            }
        }
    }
    println!();
    Ok(())
}

fn row(
    runtime: &Runtime,
    place: &Place,
    what: What,
    tls: bool,
    piece: usize,
    way: Way,
) -> Result<()> {
    let mut found: [Vec<f64>; 3] = Default::default();
    // In turns, so that a slow minute of the machine is everybody's.
    for round in 0..=ROUNDS {
        progress(&format!("{piece} bytes, {way:?}: round {round} of {ROUNDS}"));
        for relay in Relay::ALL {
            let seconds = place.measure(runtime, what, relay, way, piece)?;
            // The first warms up.
            if round > 0 {
                found[relay as usize].push(seconds);
            }
        }
    }
    progress("");
    let [copy, ours, go] = found.map(median);
    println!(
        "| {} | {} KiB | {} | {copy:.3} | {ours:.3} | {go:.3} | {:.2} | {:.3} |",
        if tls { "TLS" } else { "plain" },
        piece / 1024,
        if way == Way::Down { "to the client" } else { "to the node" },
        ours / copy,
        ours / go,
    );
    Ok(())
}
