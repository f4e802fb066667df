//! Each hop killed at each stage: what remains must say the truth, or that it does not know.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::time::timeout;

use super::{Baseline, left, settle, start};
use crate::client::Clients;
use crate::place::{Place, Roles};
use crate::server::LOOK_EVERY;
use crate::table::Row;

/// What is known of a killed hop within this: patience with silence is part of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// The code of a command that came to its end; no other way leads to it.
const TRUE_CODE: i32 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    Client,
    Gateway,
    Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    BeforeUpgrade,
    After101,
    MidOutput,
    AfterStatus,
}

pub async fn killed(place: &Place, row: &mut Row) -> Result<()> {
    row.baseline = Some(true);
    row.begin();
    let mut codes = Vec::new();
    for hop in [Hop::Client, Hop::Gateway, Hop::Node] {
        for stage in [Stage::BeforeUpgrade, Stage::After101, Stage::MidOutput, Stage::AfterStatus] {
            let result = case(place, row, hop, stage).await;
            let code = result.map_err(|error| format!("{hop:?} {stage:?}: {error:#}"));
            if let Ok(Some(code)) = code {
                codes.push(format!("{hop:?} {stage:?} {code}"));
            }
            row.session(code.map(|_| ()));
        }
    }
    row.note(format!("exit codes: {}", codes.join(", ")));
    row.end();
    Ok(())
}

/// Brings a session to a stage, kills a hop, and judges what remains.
async fn case(place: &Place, row: &mut Row, hop: Hop, stage: Stage) -> Result<Option<i32>> {
    let (mut roles, clients, before) = start(place).await?;
    let mut child = bring(&roles, &clients, before, stage).await?;
    match hop {
        Hop::Client => child.start_kill()?,
        Hop::Gateway => roles.gateway.kill(),
        Hop::Node => roles.node.kill(),
    }
    if stage == Stage::BeforeUpgrade && hop != Hop::Node {
        roles.node.signal(Signal::CONT)?;
    }
    if stage == Stage::AfterStatus && hop != Hop::Client {
        signal(&child, Signal::CONT)?;
    }
    let mut output = child.stdout.take().context("stdout is piped")?;
    let reading = async { tokio::io::copy(&mut output, &mut tokio::io::sink()).await };
    let (_, status) = timeout(PATIENCE, async { tokio::join!(reading, child.wait()) })
        .await
        .context("the client does not end")?;
    let code = status?.code();
    judge(hop, stage, code)?;
    for (is, role, before) in
        [(Hop::Gateway, &roles.gateway, before.gateway), (Hop::Node, &roles.node, before.node)]
    {
        if is == hop {
            continue;
        }
        let after = settle(role, &before).await?;
        let place =
            if is == Hop::Gateway { &mut row.gateway_peak_kib } else { &mut row.node_peak_kib };
        *place = (*place).max(after.peak_kib);
        let left = left(&before, &after);
        if !left.is_empty() {
            row.baseline = Some(false);
            bail!("{is:?}: {}", left.join(", "));
        }
    }
    Ok(code)
}

/// A client whose session is at `stage`.
async fn bring(roles: &Roles, clients: &Clients, before: Baseline, stage: Stage) -> Result<Child> {
    let script = match stage {
        Stage::BeforeUpgrade => "exit 7",
        Stage::After101 => "echo up; cat; exit 7",
        Stage::MidOutput => "echo up; head -c 2000000000 /dev/zero; exit 7",
        Stage::AfterStatus => "echo up; read line; exit 7",
    };
    if stage == Stage::BeforeUpgrade {
        // It has a connection and does not answer.
        roles.node.signal(Signal::STOP)?;
    }
    let mut process = clients.process(&["-i"], &["sh", "-c", script]);
    let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if stage == Stage::BeforeUpgrade {
        // Both legs: the gateway has asked the node.
        let legs = before.gateway.descriptors + 2;
        look("the gateway asks the node", || Ok(roles.gateway.holds()?.descriptors >= legs))
            .await?;
        return Ok(child);
    }
    let stdout = child.stdout.as_mut().context("stdout is piped")?;
    let mut up = [0; 3];
    stdout.read_exact(&mut up).await?;
    match stage {
        Stage::MidOutput => {
            let mut some = vec![0; 4_000_000];
            stdout.read_exact(&mut some).await?;
        }
        Stage::AfterStatus => {
            // The client is held, and its process told to end: the Status is on its way, or there.
            signal(&child, Signal::STOP)?;
            let ids = children(roles.node.id())?;
            for id in ids {
                // `read` is interrupted by none of this: the input's end is what ends it.
                feed(id)?;
            }
            look("the process ends", || Ok(roles.node.holds()?.children == 0)).await?;
            // The node's leg ends once its Status was passed on.
            look("the Status is passed on", || {
                Ok(roles.gateway.holds()?.descriptors < before.gateway.descriptors + 2)
            })
            .await?;
        }
        Stage::After101 | Stage::BeforeUpgrade => {}
    }
    Ok(child)
}

fn judge(hop: Hop, stage: Stage, code: Option<i32>) -> Result<()> {
    match (hop, code) {
        // Killed, it says nothing.
        (Hop::Client, None) => Ok(()),
        (_, Some(0)) => bail!("success that was none"),
        (_, Some(TRUE_CODE)) if stage == Stage::AfterStatus => Ok(()),
        (Hop::Gateway | Hop::Node, Some(255 | 1)) => Ok(()),
        (_, code) => bail!("exit code {code:?}"),
    }
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let id = child.id().and_then(|id| Pid::from_raw(id as i32)).context("it runs")?;
    Ok(kill_process(id, signal)?)
}

fn children(id: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let listed = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    Ok(children)
}

/// Writes a line into a process' input, past its session.
fn feed(id: u32) -> Result<()> {
    std::fs::write(format!("/proc/{id}/fd/0"), b"\n")
        .with_context(|| format!("the input of process {id}"))
}

async fn look(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > deadline {
            bail!("not in time: {what}");
        }
        tokio::time::sleep(LOOK_EVERY / 5).await;
    }
    Ok(())
}
