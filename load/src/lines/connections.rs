//! Clients that take what they may not even ask for: room, time, and the speed of others.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bowline_io::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::slow::{percentile, terminal};
use super::{Baseline, finish, start, warm};
use crate::client::{Clients, Taken, success};
use crate::place::{Place, TOKEN};
use crate::table::Row;

const PATIENCE: Duration = Duration::from_secs(60);
/// Handshakes at once.
const OPENING: usize = 32;

const UNREAD: usize = 1000;
/// Sent at once by those who read nothing.
const PIPELINED: usize = 100;
/// A client that has not taken a byte for so long will not.
const BLOCKED: Duration = Duration::from_millis(300);
/// What a client asks its kernel to keep, so that it is soon full.
const ROOM_BYTES: usize = 4096;
/// A connection whose client is not known: TLS, one head, one answer, a task.
const UNKNOWN_KIB: f64 = 96.0;
/// The allocator's, and what is not counted by the connection.
const ROUNDING_KIB: f64 = 8.0 * 1024.0;

const SILENT: usize = 2000;
const TERMINALS: usize = 100;
const TYPING: Duration = Duration::from_secs(8);
const ECHO_P99_MS: f64 = 100.0;
/// Before somebody who was sent away comes again.
const AWAY: Duration = Duration::from_secs(1);

const READERS: usize = 20;
/// How long the container's output is measured, and how often with and without readers, in turns.
const MEASURED: Duration = Duration::from_secs(2);
const TURNS: usize = 4;
/// What the readers may take of its rate.
const TAKEN_PERCENT: f64 = 10.0;

/// Asks for what everybody may ask for, again and again, until nothing moves.
async fn ask_and_never_read(clients: Clients) -> Result<Stream> {
    let mut stream = clients.dial().await?;
    clients.small_room(&stream, ROOM_BYTES);
    let many = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(PIPELINED);
    // It may have to go for a newer one, which is as good.
    while let Ok(Ok(())) = timeout(BLOCKED, stream.write_all(many.as_bytes())).await {}
    Ok(stream)
}

pub async fn unread(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = start(place).await?;
    row.begin();
    let (mut opening, mut held) = (JoinSet::new(), Vec::new());
    let mut left = place.count(UNREAD);
    while left > 0 || !opening.is_empty() {
        while left > 0 && opening.len() < OPENING {
            opening.spawn(ask_and_never_read(clients.clone()));
            left -= 1;
        }
        if let Some(opened) = opening.join_next().await {
            held.push(opened??);
            // Others are served all the while.
            if held.len().is_multiple_of(100) {
                row.session(session(&clients).await);
            }
        }
    }
    for _ in 0..OPENING {
        row.session(session(&clients).await);
    }
    let now = Baseline::of(&roles)?;
    let grown = now.gateway.peak_kib.saturating_sub(before.gateway.peak_kib) as f64;
    let bound = UNKNOWN_KIB * held.len() as f64 + ROUNDING_KIB;
    row.note(format!("bound {UNKNOWN_KIB} KiB for each of {} and {ROUNDING_KIB}", held.len()));
    row.at_most("gateway grew by", grown, bound, "KiB");
    drop(held);
    finish(row, roles, before).await
}

async fn session(clients: &Clients) -> Result<(), String> {
    let taken = Taken::default();
    let session = clients.library(&["true"], false, None, &taken);
    success(timeout(PATIENCE, session).await.map_err(|_| "it hangs".to_owned())?)
}

/// Connects and says nothing; who is sent away comes again.
async fn say_nothing(clients: Clients) {
    loop {
        if let Ok(mut tcp) = clients.tcp().await {
            let _ = tcp.read(&mut [0; 1]).await;
        }
        sleep(AWAY).await;
    }
}

pub async fn silent(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = start(place).await?;
    row.begin();
    let mut silent = JoinSet::new();
    let count = place.count(SILENT);
    for _ in 0..count {
        silent.spawn(say_nothing(clients.clone()));
    }
    let deadline = Instant::now() + TYPING;
    let mut terminals = JoinSet::new();
    for number in 0..TERMINALS {
        let pause = Duration::from_millis(number as u64);
        terminals.spawn(terminal(clients.clone(), pause, deadline));
    }
    let mut echoes = Vec::new();
    for result in terminals.join_all().await {
        row.session(result.map(|mut found| echoes.append(&mut found)));
    }
    echoes.sort_unstable();
    let half = percentile(&echoes, 0.5);
    row.note(format!("{count} silent, {} echoes, p50 {half:.1} ms", echoes.len()));
    row.at_most("p99", percentile(&echoes, 0.99), ECHO_P99_MS, "ms");
    silent.shutdown().await;
    finish(row, roles, before).await
}

/// The container's main process writes without an end.
const LOUD: &str = "[{name: box, command: [\"yes\"]}]";

/// Opens a log and reads none of it.
async fn follow(clients: &Clients) -> Result<Stream> {
    let mut stream = clients.dial().await?;
    let request = format!(
        "GET /api/v1/namespaces/default/pods/box/log?follow=true HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// What a process writes in a second, by the kernel's count.
async fn rate(process: u32) -> Result<f64> {
    let written = || -> Result<u64> {
        let counts = fs::read_to_string(format!("/proc/{process}/io"))?;
        let line = counts.lines().find_map(|line| line.strip_prefix("wchar: "));
        Ok(line.context("the kernel counts")?.parse()?)
    };
    let (begun, before) = (Instant::now(), written()?);
    sleep(MEASURED).await;
    Ok((written()? - before) as f64 / begun.elapsed().as_secs_f64())
}

pub async fn log_readers(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = warm(place, place.start(LOUD)?).await?;
    let process = roles.node.children()?.into_iter().next().context("the container runs")?;
    row.begin();
    // In turns, so that a busy machine is busy for both; the best of each counts.
    let (mut alone, mut beside) = (0.0, 0.0);
    for _ in 0..TURNS {
        alone = rate(process).await?.max(alone);
        let mut readers = Vec::new();
        for _ in 0..READERS {
            readers.push(follow(&clients).await?);
            row.session(Ok(()));
        }
        // New ones every second, as who tries it would do.
        beside = rate(process).await?.max(beside);
        for _ in 0..READERS {
            readers.push(follow(&clients).await?);
            row.session(Ok(()));
        }
        beside = rate(process).await?.max(beside);
    }
    row.note(format!("{:.0} MB/s alone, {:.0} MB/s beside", alone / 1e6, beside / 1e6));
    let taken = 100.0 * (1.0 - beside / alone);
    row.at_most("readers take", taken.max(0.0), TAKEN_PERCENT, "% of its rate");
    finish(row, roles, before).await
}
