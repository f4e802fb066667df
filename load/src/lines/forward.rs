//! Port-forwards: many connections at once, many in a row, one that nobody reads, killed clients
//! and a killed gateway.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_client::{ForwardedStream, PortForward};
use bowline_proto::limits;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::{Baseline, finish, start};
use crate::place::Place;
use crate::table::Row;

const PATIENCE: Duration = Duration::from_secs(60);
/// Connections of one forward that are made at once.
const OPENING: usize = 64;
/// A connection that waits, beyond the process itself: a socket or a pipe at each end of it, and
/// the two streams in between.
const NODE_KIB: f64 = 8.0;
/// What a part may hold for a connection that nobody reads: its window, and what else is under way
/// then in the one session that all share.
const STALLED_KIB: f64 =
    ((limits::WINDOW_BYTES as usize + 3 * limits::OUTBOX_BYTES) / 1024 + 2048) as f64;

/// What listens at the pod's port: an echo, or noise without an end for who asks for it.
pub struct Pod {
    pub port: u16,
    serving: JoinHandle<()>,
}

impl Pod {
    pub async fn start() -> Result<Pod> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Pod { port, serving })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut socket: TcpStream) {
    let mut first = [0];
    if socket.read_exact(&mut first).await.is_err() {
        return;
    }
    if first == *b"!" {
        let noise = vec![b'n'; 64 * 1024];
        while socket.write_all(&noise).await.is_ok() {}
        return;
    }
    let (mut reader, mut writer) = socket.split();
    if writer.write_all(&first).await.is_ok() {
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    }
}

/// Says something and hears it again.
pub async fn echo(stream: &mut ForwardedStream) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    stream.write_all(b"hello").await.map_err(words)?;
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.map_err(words)?;
    if heard == *b"hello" { Ok(()) } else { Err(format!("{heard:?} came back")) }
}

/// The same, and then both ends come to their end.
async fn whole(forward: Arc<PortForward>, port: u16) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let mut stream = forward.connect(port).await.map_err(|loss| loss.to_string())?;
    echo(&mut stream).await?;
    stream.shutdown().await.map_err(words)?;
    match stream.read(&mut [0]).await.map_err(words)? {
        0 => Ok(()),
        _ => Err("more came back".into()),
    }
}

pub async fn held(place: &Place, row: &mut Row) -> Result<()> {
    let count = place.count(4000);
    let (roles, clients, before) = start(place).await?;
    let pod = Pod::start().await?;
    row.begin();
    let forward = Arc::new(clients.forward().await?);
    let slots = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let (forward, slots, port) = (forward.clone(), slots.clone(), pod.port);
        opening.spawn(async move {
            let _slot = slots.acquire_owned().await.map_err(|error| error.to_string())?;
            let mut stream = forward.connect(port).await.map_err(|loss| loss.to_string())?;
            timeout(PATIENCE, echo(&mut stream)).await.map_err(|_| "it hangs".to_owned())??;
            Ok::<_, String>(stream)
        });
    }
    let mut streams = Vec::new();
    while let Some(opened) = opening.join_next().await {
        match opened? {
            Ok(stream) => streams.push(stream),
            Err(fault) => row.session(Err(fault)),
        }
    }
    let during = Baseline::of(&roles)?;
    let kib = during.node.rss_kib.saturating_sub(before.node.rss_kib) as f64 / count as f64;
    row.at_most("node per connection", kib, NODE_KIB, "KiB");
    row.note(format!("{} at once on one session", streams.len()));
    // All of them once more, then all end.
    for mut stream in streams {
        let again = timeout(PATIENCE, echo(&mut stream)).await;
        row.session(again.unwrap_or_else(|_| Err("it hangs".into())));
    }
    if let Some(forward) = Arc::into_inner(forward) {
        forward.close().await;
    }
    drop(pod);
    finish(row, roles, before).await
}

pub async fn row_of_them(place: &Place, row: &mut Row) -> Result<()> {
    let count = place.count(50_000);
    let (roles, clients, before) = start(place).await?;
    let pod = Pod::start().await?;
    row.begin();
    let forward = Arc::new(clients.forward().await?);
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() == OPENING
            && let Some(done) = running.join_next().await
        {
            row.session(done.unwrap_or_else(|error| Err(error.to_string())));
        }
        let (forward, port) = (forward.clone(), pod.port);
        running.spawn(async move {
            let one = timeout(PATIENCE, whole(forward, port)).await;
            one.unwrap_or_else(|_| Err("it hangs".into()))
        });
        if number % 500 == 0 {
            crate::table::progress(&format!("{number} of {count} connections"));
        }
    }
    while let Some(done) = running.join_next().await {
        row.session(done.unwrap_or_else(|error| Err(error.to_string())));
    }
    if let Some(forward) = Arc::into_inner(forward) {
        forward.close().await;
    }
    drop(pod);
    finish(row, roles, before).await
}

/// One connection of endless noise that nobody reads, beside neighbours that go on.
pub async fn stalled(place: &Place, row: &mut Row) -> Result<()> {
    let (roles, clients, before) = start(place).await?;
    let pod = Pod::start().await?;
    row.begin();
    let forward = Arc::new(clients.forward().await?);
    let mut deaf = forward.connect(pod.port).await.map_err(|loss| anyhow::anyhow!("{loss}"))?;
    deaf.write_all(b"!").await?;
    deaf.read_exact(&mut [0]).await?;
    for _ in 0..place.count(2000) {
        let one = timeout(PATIENCE, whole(forward.clone(), pod.port)).await;
        row.session(one.unwrap_or_else(|_| Err("it is held up".into())));
    }
    let now = Baseline::of(&roles)?;
    for (name, peak, base) in [
        ("gateway", now.gateway.peak_kib, before.gateway.peak_kib),
        ("node", now.node.peak_kib, before.node.peak_kib),
    ] {
        let grown = peak.saturating_sub(base) as f64;
        row.at_most(&format!("{name} grew by"), grown, STALLED_KIB, "KiB");
    }
    drop(deaf);
    if let Some(forward) = Arc::into_inner(forward) {
        forward.close().await;
    }
    drop(pod);
    finish(row, roles, before).await
}

/// Clients as processes, each with connections that wait, killed.
pub async fn killed(place: &Place, row: &mut Row) -> Result<()> {
    const WAVE: usize = 50;
    const EACH: usize = 4;
    let (roles, clients, before) = start(place).await?;
    let pod = Pod::start().await?;
    row.begin();
    let mut left = place.count(500);
    while left > 0 {
        let mut wave = JoinSet::new();
        for _ in 0..left.min(WAVE) {
            let mut process = clients.forward_process(pod.port);
            wave.spawn(async move {
                let words = |error: std::io::Error| error.to_string();
                let mut child = process.spawn().map_err(words)?;
                let stdout = child.stdout.take().ok_or("stdout is piped")?;
                let mut line = String::new();
                BufReader::new(stdout).read_line(&mut line).await.map_err(words)?;
                let local = line.split_once(" -> ").and_then(|(from, _)| from.rsplit_once(':'));
                let local = local.and_then(|(_, port)| port.parse::<u16>().ok());
                let local = local.ok_or_else(|| format!("{line:?} is no port"))?;
                let mut sockets = Vec::new();
                for _ in 0..EACH {
                    let mut socket =
                        TcpStream::connect(("127.0.0.1", local)).await.map_err(words)?;
                    socket.write_all(b"x").await.map_err(words)?;
                    socket.read_exact(&mut [0]).await.map_err(words)?;
                    sockets.push(socket);
                }
                Ok::<_, String>((child, sockets))
            });
        }
        for up in timeout(PATIENCE, wave.join_all()).await? {
            let ended = match up {
                Ok((mut child, _sockets)) => child.kill().await.map_err(|error| error.to_string()),
                Err(fault) => Err(fault),
            };
            row.session(ended);
            left -= 1;
        }
    }
    drop(pod);
    finish(row, roles, before).await
}

/// The gateway is killed under a forward: every connection ends at once and not well, the node lets
/// go of all.
pub async fn hop(place: &Place, row: &mut Row) -> Result<()> {
    let count = place.count(200);
    let (mut roles, clients, before) = start(place).await?;
    let pod = Pod::start().await?;
    row.begin();
    let forward = clients.forward().await?;
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream =
            forward.connect(pod.port).await.map_err(|loss| anyhow::anyhow!("{loss}"))?;
        echo(&mut stream).await.map_err(|fault| anyhow::anyhow!(fault))?;
        streams.push(stream);
    }
    roles.gateway.kill();
    let loss = timeout(PATIENCE, forward.lost()).await.context("the loss is not seen")?;
    row.note(format!("lost: {loss}"));
    for mut stream in streams {
        let end = timeout(PATIENCE, stream.read(&mut [0])).await;
        row.session(match end {
            Ok(Err(_)) => Ok(()),
            Ok(Ok(read)) => Err(format!("it ends well, with {read} bytes")),
            Err(_) => Err("it hangs".into()),
        });
    }
    drop(pod);
    // Another gateway, so that both can be looked at; the node is the one that had it all.
    roles.gateway = place.start_gateway(roles.node.port)?;
    let fresh = Baseline::of(&roles)?.gateway;
    finish(row, roles, Baseline { gateway: fresh, ..before }).await
}
