//! The lines by name, and what they share: a start with a baseline, and the way back to it.

mod attacks;
mod connections;
mod forward;
mod hops;
mod many;
mod runtime;
mod slow;
mod upstream;
mod upstream_echo;
mod watches;

use std::pin::Pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Clients, Taken, success};
use crate::place::{IDLE, Place, Roles};
use crate::server::{Holds, LOOK_EVERY, Server};
use crate::table::Row;

type Run =
    for<'a> fn(&'a Place, &'a mut Row) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// One line of the table.
pub struct Line {
    pub name: &'static str,
    pub about: &'static str,
    pub run: Run,
}

/// All of them, in the table's order.
pub const LINES: &[Line] = &[
    Line {
        name: "execs",
        about: "1,000 execs as processes, 10 at a time",
        run: |place, row| Box::pin(many::execs(place, row)),
    },
    Line {
        name: "held",
        about: "1,000 sessions held at once",
        run: |place, row| Box::pin(many::held(place, row)),
    },
    Line {
        name: "idle",
        about: "5,000 idle sessions",
        run: |place, row| Box::pin(many::idle(place, row)),
    },
    Line {
        name: "opened-closed",
        about: "20,000 sessions opened and closed",
        run: |place, row| Box::pin(many::opened_and_closed(place, row)),
    },
    Line {
        name: "killed",
        about: "1,000 client processes killed -9",
        run: |place, row| Box::pin(many::killed(place, row)),
    },
    Line {
        name: "echo",
        about: "100 terminals beside a bulk download",
        run: |place, row| Box::pin(slow::echo(place, row)),
    },
    Line {
        name: "slow-reader",
        about: "1 GB to a reader of 200 KB/s",
        run: |place, row| Box::pin(slow::reader(place, row)),
    },
    Line {
        name: "deaf-process",
        about: "1 GB of stdin that is never read",
        run: |place, row| Box::pin(slow::deaf(place, row)),
    },
    Line {
        name: "unread",
        about: "1,000 clients that may nothing, ask, and never read",
        run: |place, row| Box::pin(connections::unread(place, row)),
    },
    Line {
        name: "silent",
        about: "2,000 silent connections beside 100 terminals",
        run: |place, row| Box::pin(connections::silent(place, row)),
    },
    Line {
        name: "log-readers",
        about: "20 readers of a log that read nothing",
        run: |place, row| Box::pin(connections::log_readers(place, row)),
    },
    Line {
        name: "hops",
        about: "each hop killed at each stage",
        run: |place, row| Box::pin(hops::killed(place, row)),
    },
    Line {
        name: "forward-held",
        about: "4,000 connections of one forward at once",
        run: |place, row| Box::pin(forward::held(place, row)),
    },
    Line {
        name: "forward-row",
        about: "50,000 connections of one forward",
        run: |place, row| Box::pin(forward::row_of_them(place, row)),
    },
    Line {
        name: "forward-stalled",
        about: "2,000 connections beside one of endless noise that nobody reads",
        run: |place, row| Box::pin(forward::stalled(place, row)),
    },
    Line {
        name: "forward-killed",
        about: "500 port-forward processes killed -9, 4 connections each",
        run: |place, row| Box::pin(forward::killed(place, row)),
    },
    Line {
        name: "forward-hop",
        about: "the gateway killed under 200 connections of a forward",
        run: |place, row| Box::pin(forward::hop(place, row)),
    },
    Line {
        name: "forward-reset",
        about: "150,000 connections of a forward that are reset at once",
        run: |place, row| Box::pin(attacks::resets(place, row)),
    },
    Line {
        name: "forward-hoard",
        about: "2,000 connections of a forward that are held, at a node with 1,024 descriptors",
        run: |place, row| Box::pin(attacks::hoard(place, row)),
    },
    Line {
        name: "junk",
        about: "1 MiB that is dropped before each little that has to wait",
        run: |place, row| Box::pin(attacks::junk(place, row)),
    },
    Line {
        name: "cri-socket",
        about: "containerd behind our socket: 200 sessions at once, and 1,000 execs",
        run: |place, row| Box::pin(runtime::behind_our_socket(place, row)),
    },
    Line {
        name: "cri-node",
        about: "containerd's pods on our node: 200 sessions at once, and 1,000 execs",
        run: |place, row| Box::pin(runtime::on_our_node(place, row)),
    },
    Line {
        name: "upstream-upgrades",
        about: "500 TLS upgrades at once before a real API server",
        run: |place, row| Box::pin(upstream::upgrades(place, row)),
    },
    Line {
        name: "upstream-held",
        about: "1,000 sessions held before a real API server",
        run: |place, row| Box::pin(upstream::held(place, row)),
    },
    Line {
        name: "upstream-opened-closed",
        about: "20,000 sessions opened and closed before a real API server",
        run: |place, row| Box::pin(upstream::opened_and_closed(place, row)),
    },
    Line {
        name: "upstream-echo",
        about: "100 terminals beside a download, before an API server: p99 under 50 ms",
        run: |place, row| Box::pin(upstream_echo::echo(place, row)),
    },
    Line {
        name: "upstream-watches",
        about: "100 watches of 10,000 events before a real API server",
        run: |place, row| Box::pin(watches::run(place, row)),
    },
];

/// A client with nothing to do ends within this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sessions before the baseline is taken: they make the threads, caches and heaps that every
/// server has once it has served.
const WARM_UP: usize = 64;
/// How long what a line used may take to be given back. Idle threads of the runtime's blocking pool
/// end after 10 s.
const SETTLING: Duration = Duration::from_secs(25);
/// What the allocator may keep of what a line used at its peak. It gives memory back from the top
/// of a heap and in whole pages, so a page with one living object stays, and it keeps some free
/// memory at hand.
const KEPT_SHARE: f64 = 0.25;
/// And this much in any case: M_TRIM_THRESHOLD and the bins of one arena per thread.
const KEPT_KIB: u64 = 4 * 1024;

/// Says that it runs, then waits for the end of its input.
const HELD: [&str; 3] = ["sh", "-c", "echo up; exec cat"];
/// What it says.
const UP_BYTES: u64 = 3;

/// What both roles hold.
#[derive(Clone, Copy, Debug)]
pub struct Baseline {
    pub gateway: Holds,
    pub node: Holds,
}

impl Baseline {
    pub fn of(roles: &Roles) -> Result<Baseline> {
        Ok(Baseline { gateway: roles.gateway.holds()?, node: roles.node.holds()? })
    }
}

/// Roles that have served a few sessions, their clients, and what they hold.
pub async fn start(place: &Place) -> Result<(Roles, Clients, Baseline)> {
    warm(place, place.start(IDLE)?).await
}

/// The same with these roles.
pub async fn warm(place: &Place, roles: Roles) -> Result<(Roles, Clients, Baseline)> {
    let running = roles.node.holds()?.children;
    let clients = place.clients(&roles.gateway)?;
    warm_up(&clients).await?;
    let calm = |holds: &Holds| holds.children == running;
    let deadline = Instant::now() + SETTLING;
    let mut last = Baseline::of(&roles)?;
    loop {
        tokio::time::sleep(LOOK_EVERY * 4).await;
        let now = Baseline::of(&roles)?;
        let descriptors = |b: &Baseline| (b.gateway.descriptors, b.node.descriptors);
        let quiet = descriptors(&now) == descriptors(&last) && calm(&now.node);
        last = now;
        if quiet || Instant::now() > deadline {
            return Ok((roles, clients, last));
        }
    }
}

/// Runs a few sessions.
async fn warm_up(clients: &Clients) -> Result<()> {
    let mut sessions = JoinSet::new();
    for _ in 0..WARM_UP {
        let clients = clients.clone();
        sessions.spawn(async move {
            success(clients.library(&["true"], false, None, &Taken::default()).await)
        });
    }
    for result in sessions.join_all().await {
        result.map_err(|fault| anyhow::anyhow!("warm-up: {fault}"))?;
    }
    Ok(())
}

/// What a client process holds after it has waited for a while with nothing to do.
async fn quiet_client(clients: &Clients, wait: Duration) -> Result<Holds> {
    let mut process = clients.process(&["-i"], &HELD);
    let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut up = [0; UP_BYTES as usize];
    child.stdout.as_mut().context("stdout is piped")?.read_exact(&mut up).await?;
    tokio::time::sleep(wait).await;
    let holds = Holds::of(child.id().context("it runs")?)?;
    drop(child.stdin.take());
    timeout(PATIENCE, child.wait()).await??;
    Ok(holds)
}

/// Waits until both are as they were, says what is not, and stops them.
pub async fn finish(row: &mut Row, roles: Roles, before: Baseline) -> Result<()> {
    finish_within(row, roles, before, SETTLING).await
}

/// The same, with so much time for each to be as it was.
pub async fn finish_within(
    row: &mut Row,
    roles: Roles,
    before: Baseline,
    patience: Duration,
) -> Result<()> {
    row.end();
    row.baseline = Some(true);
    let Roles { gateway, node } = roles;
    for (name, role, before) in [("gateway", gateway, before.gateway), ("node", node, before.node)]
    {
        let after = settle_within(role.id(), &before, patience).await?;
        let peak = after.peak_kib;
        let place =
            if name == "gateway" { &mut row.gateway_peak_kib } else { &mut row.node_peak_kib };
        *place = (*place).max(peak);
        for fault in left(&before, &after) {
            row.baseline = Some(false);
            row.fault(format!("{name}: {fault}"));
        }
        if let Err(error) = role.stop().await {
            row.fault(format!("{name}: {error:#}"));
        }
    }
    Ok(())
}

/// Looks until the process is as `before`, at most for a while.
pub async fn settle(role: &Server, before: &Holds) -> Result<Holds> {
    settle_process(role.id(), before).await
}

/// The same of the process with this id.
async fn settle_process(id: u32, before: &Holds) -> Result<Holds> {
    settle_within(id, before, SETTLING).await
}

async fn settle_within(id: u32, before: &Holds, patience: Duration) -> Result<Holds> {
    let deadline = Instant::now() + patience;
    loop {
        let now = Holds::of(id)?;
        if left(before, &now).is_empty() || Instant::now() > deadline {
            return Ok(now);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is there that was not.
pub fn left(before: &Holds, now: &Holds) -> Vec<String> {
    let mut left = Vec::new();
    let mut more = |what: &str, before: u64, now: u64| {
        if now > before {
            left.push(format!("{now} {what}, {before} before"));
        }
    };
    more("descriptors", before.descriptors, now.descriptors);
    more("threads", before.threads, now.threads);
    more("processes", before.children, now.children);
    let used = now.peak_kib.saturating_sub(before.rss_kib) as f64;
    let kept = KEPT_KIB + (used * KEPT_SHARE) as u64;
    more("KiB resident", before.rss_kib + kept, now.rss_kib);
    left
}
