//! Slow ends: terminals beside a bulk download, a slow reader, a process that reads nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bowline_proto::limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Baseline, finish, quiet_client, start};
use crate::client::{Clients, Taken, success};
use crate::place::{Place, Roles};
use crate::server::Holds;
use crate::table::Row;

const GB: u64 = 1_000_000_000;
/// How long people type beside a bulk download.
const TYPING: Duration = Duration::from_secs(6);
/// How long a slow case is watched: longer than peers are patient with one that says nothing.
/// Anything that did not hold back would have taken all of its gigabyte by then.
const WATCHED: Duration = Duration::from_secs(45);
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one part may hold for a session whose bytes do not leave: a full queue, what one more read
/// adds to it, and the buffer for the read after that.
const SESSION_BYTES: usize = limits::OUTBOX_BYTES + 2 * limits::OUTBOX_BYTES;
/// What TLS has sealed for one write (`SEALED_BYTES`), and what was read ahead for it
/// (`AHEAD_BYTES`).
pub const TLS_BYTES: usize = (528 + 256) * 1024;
/// The allocator's: it gives back whole pages, and not at once.
pub const ROUNDING_BYTES: usize = 1024 * 1024;
const BOUND_KIB: u64 = ((SESSION_BYTES + TLS_BYTES + ROUNDING_BYTES) / 1024) as u64;

const TERMINALS: usize = 100;
const ECHO_EVERY: Duration = Duration::from_millis(100);
const ECHO_P99_MS: f64 = 50.0;

pub async fn echo(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = start(place).await?;
    echoes_beside(row, &clients, 8 * GB).await?;
    finish(row, roles, before).await
}

/// People at terminals beside a download of so many bytes, which is to outlast them: 99 of 100
/// echoes are to come in time.
pub async fn echoes_beside(row: &mut Row, clients: &Clients, bytes: u64) -> Result<()> {
    row.begin();
    let echoes = typed_beside(row, clients, bytes).await?;
    row.note(format!("{} echoes, p50 {:.1} ms", echoes.len(), percentile(&echoes, 0.5)));
    row.at_most("p99", percentile(&echoes, 0.99), ECHO_P99_MS, "ms");
    Ok(())
}

/// How long each echo took to such people, sorted.
pub async fn typed_beside(row: &mut Row, clients: &Clients, bytes: u64) -> Result<Vec<Duration>> {
    let size = bytes.to_string();
    let mut bulk = clients.process(&[], &["head", "-c", &size, "/dev/zero"]).spawn()?;
    let deadline = Instant::now() + TYPING;
    let mut terminals = JoinSet::new();
    for number in 0..TERMINALS {
        let pause = ECHO_EVERY * number as u32 / TERMINALS as u32;
        terminals.spawn(terminal(clients.clone(), pause, deadline));
    }
    let mut echoes = Vec::new();
    let ran = bulk.try_wait()?.is_none();
    for result in terminals.join_all().await {
        row.session(result.map(|mut found| echoes.append(&mut found)));
    }
    let still = bulk.try_wait()?.is_none();
    let moved = Instant::now();
    let status = timeout(PATIENCE, bulk.wait()).await??;
    row.session(if status.success() { Ok(()) } else { Err(format!("bulk: {status}")) });
    row.note(format!("bulk went on for {:.1} s more", moved.elapsed().as_secs_f64()));
    if !(ran && still) {
        row.fault("the bulk download ended before the terminals did");
    }
    echoes.sort_unstable();
    Ok(echoes)
}

/// Of sorted times, the one that so many are not above, in milliseconds.
pub fn percentile(echoes: &[Duration], share: f64) -> f64 {
    let place = (echoes.len() as f64 * share) as usize;
    let echo = echoes.get(place.min(echoes.len().saturating_sub(1)));
    echo.map_or(f64::MAX, |echo| echo.as_secs_f64() * 1000.0)
}

/// Types a key at a time and waits for its echo, which the terminal gives.
pub async fn terminal(
    clients: Clients,
    pause: Duration,
    deadline: Instant,
) -> Result<Vec<Duration>, String> {
    let (mut keyboard, stdin) = duplex(64);
    let screen = Taken::default();
    let seen = screen.clone();
    let command = ["sh", "-c", "echo up; exec cat >/dev/null"];
    let session =
        async { success(clients.library(&command, true, Some(Box::new(stdin)), &screen).await) };
    let person = async {
        let mut echoes = Vec::new();
        // "up" and the ends of its line.
        let mut known = 4;
        if !seen.reaches(known).await {
            return Err("no prompt".to_owned());
        }
        tokio::time::sleep(pause).await;
        while Instant::now() < deadline {
            let typed = Instant::now();
            // A line now and then: a terminal holds 4095 bytes of one.
            let key = if echoes.len() % 20 == 19 { b"\n" } else { b"x" };
            keyboard.write_all(key).await.map_err(|error| error.to_string())?;
            known += if key == b"\n" { 2 } else { 1 };
            if !seen.reaches(known).await {
                return Err("no echo".to_owned());
            }
            echoes.push(typed.elapsed());
            tokio::time::sleep(ECHO_EVERY.saturating_sub(typed.elapsed())).await;
        }
        drop(keyboard);
        Ok(echoes)
    };
    let both = async { tokio::join!(session, person) };
    let (ended, echoes) = timeout(PATIENCE, both).await.map_err(|_| "it hangs".to_owned())?;
    ended.and(echoes)
}

/// Holds what the three parts grew by against the bound.
fn bounded(row: &mut Row, roles: &Roles, before: Baseline, client: (u32, u64)) -> Result<()> {
    let now = Baseline::of(roles)?;
    row.note(format!(
        "bound {} KiB a part: OUTBOX_BYTES and two reads of the same {SESSION_BYTES} B, TLS \
         {TLS_BYTES} B, the allocator's rounding {ROUNDING_BYTES} B",
        BOUND_KIB
    ));
    let (id, client_before) = client;
    for (name, peak, base) in [
        ("gateway", now.gateway.peak_kib, before.gateway.peak_kib),
        ("node", now.node.peak_kib, before.node.peak_kib),
        ("client", Holds::of(id)?.peak_kib, client_before),
    ] {
        let grown = peak.saturating_sub(base) as f64;
        row.at_most(&format!("{name} grew by"), grown, BOUND_KIB as f64, "KiB");
    }
    Ok(())
}

pub async fn reader(place: &Place, row: &mut Row) -> Result<()> {
    const STEP: Duration = Duration::from_millis(50);
    const STEP_BYTES: usize = 10_000;
    let (roles, clients, before) = start(place).await?;
    let quiet = quiet_client(&clients, Duration::ZERO).await?.peak_kib;
    row.begin();
    let size = GB.to_string();
    let mut process = clients.process(&[], &["head", "-c", &size, "/dev/zero"]);
    let mut child = process.stdout(Stdio::piped()).spawn()?;
    let id = child.id().context("it runs")?;
    let mut stdout = child.stdout.take().context("stdout is piped")?;
    let mut piece = vec![0; STEP_BYTES];
    let (begun, mut read) = (Instant::now(), 0);
    while begun.elapsed() < WATCHED {
        read += stdout.read_exact(&mut piece).await? as u64;
        tokio::time::sleep(STEP).await;
    }
    row.note(format!("{read} bytes read in {:.1} s, then the rest at once", WATCHED.as_secs_f64()));
    bounded(row, &roles, before, (id, quiet))?;
    // Then at full speed, so that the end can be judged as well.
    let mut piece = vec![0; 1024 * 1024];
    while let more @ 1.. = timeout(PATIENCE, stdout.read(&mut piece)).await?? {
        read += more as u64;
    }
    let status = timeout(PATIENCE, child.wait()).await??;
    row.session(match (status.success(), read) {
        (true, GB) => Ok(()),
        _ => Err(format!("{read} bytes of {GB}, {status}")),
    });
    finish(row, roles, before).await
}

pub async fn deaf(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = start(place).await?;
    let quiet = quiet_client(&clients, Duration::ZERO).await?.peak_kib;
    row.begin();
    let seconds = (WATCHED.as_secs() + 2).to_string();
    let mut process = clients.process(&["-i"], &["sleep", &seconds]);
    let mut child = process.stdin(Stdio::piped()).spawn()?;
    let id = child.id().context("it runs")?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let (piece, mut taken) = (vec![0; 1024 * 1024], 0);
    let offering = async {
        while taken < GB {
            taken += stdin.write(&piece).await? as u64;
            tokio::task::consume_budget().await;
        }
        anyhow::Ok(())
    };
    let all = timeout(WATCHED, offering).await.is_ok_and(|result| result.is_ok());
    row.note(format!("{:.1} MB of 1 GB were taken", taken as f64 / 1e6));
    if all {
        row.fault("all of it was taken, though nobody reads it");
    }
    bounded(row, &roles, before, (id, quiet))?;
    // The process ends by itself, with its input unread: that is a success.
    let status = timeout(PATIENCE, child.wait()).await??;
    row.session(if status.success() { Ok(()) } else { Err(status.to_string()) });
    finish(row, roles, before).await
}
