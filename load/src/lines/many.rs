//! Many sessions: in turns, at once, idle, in a row, killed.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bowline_proto::limits::PING_EVERY;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::{Baseline, HELD, UP_BYTES, finish, quiet_client, start};
use crate::client::{Clients, Taken, success};
use crate::place::Place;
use crate::table::Row;

/// No session of these takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same without input: it ends with its client.
const SLEEPS: [&str; 3] = ["sh", "-c", "echo up; exec sleep 86400"];
/// Handshakes at once.
const OPENING: usize = 32;
/// A session, beyond the process itself (design goal of the project).
const GATEWAY_KIB: f64 = 32.0;
const NODE_KIB: f64 = 64.0;
/// A client's own memory: its program's text is a file's, and shared.
const CLIENT_MIB: f64 = 2.0;

/// Runs `count` sessions, `at_once` at a time.
pub async fn each<F>(row: &mut Row, count: usize, at_once: usize, session: impl Fn(usize) -> F)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() == at_once
            && let Some(done) = running.join_next().await
        {
            row.session(done.unwrap_or_else(|error| Err(error.to_string())));
        }
        let session = session(number);
        running.spawn(async move {
            timeout(PATIENCE, session).await.unwrap_or_else(|_| Err("it hangs".into()))
        });
    }
    while let Some(done) = running.join_next().await {
        row.session(done.unwrap_or_else(|error| Err(error.to_string())));
    }
}

pub async fn execs(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = start(place).await?;
    row.begin();
    each_as_process(row, &clients, place.count(1000)).await;
    finish(row, roles, before).await
}

/// Runs so many commands, each with a client process of its own, 10 at a time.
pub async fn each_as_process(row: &mut Row, clients: &Clients, count: usize) {
    each(row, count, 10, |number| {
        let code = (number % 200) as i32;
        let script = format!("echo {number}; exit {code}");
        let mut process = clients.process(&[], &["sh", "-c", &script]);
        process.stdout(Stdio::piped());
        async move {
            let output = process.output().await.map_err(|error| error.to_string())?;
            let right = output.stdout == format!("{number}\n").into_bytes();
            match output.status.code() {
                Some(found) if found == code && right => Ok(()),
                other => Err(format!("{other:?} instead of {code}; output right: {right}")),
            }
        }
    })
    .await;
}

pub async fn opened_and_closed(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = start(place).await?;
    row.begin();
    each_opened_and_closed(row, &clients, place.count(20_000)).await;
    finish(row, roles, before).await
}

/// Runs so many commands, one after the other in some rows.
pub async fn each_opened_and_closed(row: &mut Row, clients: &Clients, count: usize) {
    each(row, count, OPENING, |_| {
        let clients = clients.clone();
        async move {
            let taken = Taken::default();
            success(clients.library(&["echo", "up"], false, None, &taken).await)?;
            if taken.bytes() == UP_BYTES { Ok(()) } else { Err("output is missing".into()) }
        }
    })
    .await;
}

/// A session that is up and waits.
pub struct Waiting {
    /// Dropped, its input ends.
    _input: Option<DuplexStream>,
    handle: AbortHandle,
}

/// Opens `count` sessions that wait, with or without input.
pub async fn open(
    clients: &Clients,
    count: usize,
    input: bool,
    running: &mut JoinSet<Result<(), String>>,
) -> Result<Vec<Waiting>> {
    open_at_once(clients, count, OPENING, input, running).await
}

/// The same, so many of them `at_once`.
pub async fn open_at_once(
    clients: &Clients,
    count: usize,
    at_once: usize,
    input: bool,
    running: &mut JoinSet<Result<(), String>>,
) -> Result<Vec<Waiting>> {
    let slots = Arc::new(Semaphore::new(at_once));
    let mut opened: Vec<(Waiting, Taken)> = Vec::new();
    for number in 0..count {
        let slot = slots.clone().acquire_owned().await?;
        let (near, far) = duplex(64);
        let (clients, taken) = (clients.clone(), Taken::default());
        let said = taken.clone();
        let handle = running.spawn(async move {
            let held = if input { &HELD } else { &SLEEPS };
            let stdin = input.then(|| Box::new(far) as _);
            let first = taken.clone();
            let release = async {
                first.reaches(UP_BYTES).await;
                drop(slot);
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                ended = clients.library(held, false, stdin, &taken) => ended,
                () = release => return Err("never".into()),
            };
            taken.end();
            success(ended)?;
            if taken.bytes() == UP_BYTES { Ok(()) } else { Err("output is not right".into()) }
        });
        opened.push((Waiting { _input: input.then_some(near), handle }, said));
        if number % 50 == 0 {
            crate::table::progress(&format!("{number} of {count} are opened"));
        }
    }
    // All have said so once all slots are free again.
    let all = timeout(PATIENCE, slots.acquire_many(at_once as u32)).await;
    drop(all??);
    let down = opened.iter().filter(|(_, said)| said.bytes() < UP_BYTES).count();
    if down > 0 {
        bail!("{down} of {count} sessions did not come up");
    }
    Ok(opened.into_iter().map(|(waiting, _)| waiting).collect())
}

pub async fn held(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = start(place).await?;
    row.begin();
    let mut running = JoinSet::new();
    let waiting = open(&clients, place.count(1000), true, &mut running).await?;
    let during = Baseline::of(&roles)?;
    row.note(format!("{} processes at once", during.node.children));
    drop(waiting);
    while let Some(done) = running.join_next().await {
        row.session(done.unwrap_or_else(|error| Err(error.to_string())));
    }
    finish(row, roles, before).await
}

pub async fn idle(place: &Place, row: &mut Row) -> Result<()> {
    let count = place.count(5000);
    let (roles, clients, before) = start(place).await?;
    row.begin();
    let mut running = JoinSet::new();
    let waiting = open(&clients, count, false, &mut running).await?;
    // Longer than a heartbeat: what the first pings leave behind belongs to an idle session.
    tokio::time::sleep(2 * PING_EVERY).await;
    let during = Baseline::of(&roles)?;
    let each = |before: u64, now: u64| now.saturating_sub(before) as f64 / count as f64;
    let (gateway, node) = (
        each(before.gateway.rss_kib, during.gateway.rss_kib),
        each(before.node.rss_kib, during.node.rss_kib),
    );
    row.at_most("gateway per session", gateway, GATEWAY_KIB, "KiB");
    row.at_most("node per session", node, NODE_KIB, "KiB");
    row.at_most(
        "client",
        quiet_client(&clients, 2 * PING_EVERY).await?.own_kib as f64 / 1024.0,
        CLIENT_MIB,
        "MiB",
    );
    // They have no input that could end them: their clients go away.
    let all = waiting.iter().filter(|session| !session.handle.is_finished());
    let alive = all.count() as u64;
    drop(waiting);
    row.sessions = count as u64;
    row.failed = count as u64 - alive;
    running.shutdown().await;
    finish(row, roles, before).await
}

pub async fn killed(place: &Place, row: &mut Row) -> Result<()> {
    const WAVE: usize = 100;
    let (roles, clients, before) = start(place).await?;
    row.begin();
    let mut left = place.count(1000);
    while left > 0 {
        let mut wave = JoinSet::new();
        for _ in 0..left.min(WAVE) {
            let mut process = clients.process(&["-i"], &HELD);
            process.stdin(Stdio::piped()).stdout(Stdio::piped());
            wave.spawn(async move {
                let mut child = process.spawn().map_err(|error| error.to_string())?;
                let mut up = [0; UP_BYTES as usize];
                let stdout = child.stdout.as_mut().ok_or("stdout is piped")?;
                stdout.read_exact(&mut up).await.map_err(|error| error.to_string())?;
                Ok(child)
            });
        }
        // All of a wave are up before the first is killed.
        for child in timeout(PATIENCE, wave.join_all()).await? {
            let killed = match child {
                Ok(mut child) => child.kill().await.map_err(|error| error.to_string()),
                Err(fault) => Err(fault),
            };
            row.session(killed);
            left -= 1;
        }
    }
    finish(row, roles, before).await
}
