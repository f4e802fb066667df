//! Clients and servers that mean harm: connections that are reset at once or hoarded, and much that
//! is dropped between little that has to wait.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bowline_io::random;
use bowline_io::stream::Upgraded;
use bowline_proto::negotiate::Offer;
use bowline_proto::websocket::accept_key;
use bowline_proto::{limits, spdy};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::forward::{Pod, echo};
use super::slow::{ROUNDING_BYTES, TLS_BYTES};
use super::{Baseline, finish, quiet_client, start, warm};
use crate::client::{Clients, Taken, success, switched};
use crate::place::{Place, Roles};
use crate::server::{Holds, LOOK_EVERY};
use crate::table::Row;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1024 * 1024;

/// Somebody else's session.
async fn other(clients: &Clients) -> Result<(), String> {
    let taken = Taken::default();
    let session = clients.library(&["true"], false, None, &taken);
    timeout(PATIENCE, session).await.map_or(Err("it hangs".into()), success)
}

/// Others' sessions, one after the other, until they are to end.
async fn others(clients: Clients, end: CancellationToken) -> Vec<Result<(), String>> {
    let mut ended = Vec::new();
    while !end.is_cancelled() {
        ended.push(other(&clients).await);
    }
    ended
}

pub async fn resets(place: &Place, row: &mut Row) -> Result<()> {
    /// What one forward makes at a time, its own, and a few of the sessions beside it.
    const DESCRIPTORS: f64 = 64.0 + 64.0;
    const BATCH: usize = 100;
    let count = place.count(150_000);
    let (roles, clients, before) = start(place).await?;
    let pod = Pod::start().await?;
    row.begin();
    let Upgraded { stream, .. } = clients.forward_itself().await?;
    let (mut answers, mut attack) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut piece = vec![0; MIB];
        while matches!(answers.read(&mut piece).await, Ok(1..)) {}
    });
    let end = CancellationToken::new();
    let beside = tokio::spawn(others(clients.clone(), end.clone()));
    let mut client = spdy::Connection::new(spdy::Role::Client);
    let (mut most, mut looked) = (0, Instant::now());
    for number in 0..count {
        let (port, number) = (pod.port.to_string(), number.to_string());
        let headers = |lane| [("streamtype", lane), ("port", &*port), ("requestid", &*number)];
        client.open(&headers("error"));
        let data = client.open(&headers("data"));
        client.reset(data, 5);
        if client.unsent() > BATCH * 100 {
            flush(&mut client, &mut attack).await?;
        }
        if looked.elapsed() > LOOK_EVERY {
            looked = Instant::now();
            most = most.max(roles.node.holds()?.descriptors);
        }
    }
    flush(&mut client, &mut attack).await?;
    end.cancel();
    for result in beside.await? {
        row.session(result);
    }
    let more = most.saturating_sub(before.node.descriptors) as f64;
    row.at_most("node's descriptors", more, DESCRIPTORS, "more");
    grew(row, &roles, before, limits::SESSION_HELD_BYTES)?;
    drop(attack);
    reading.abort();
    let _ = reading.await;
    drop(pod);
    finish(row, roles, before).await
}

async fn flush(client: &mut spdy::Connection, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    let bytes: Vec<u8> = client.outbox().chunks().flatten().copied().collect();
    client.outbox().advance(bytes.len());
    timeout(PATIENCE, to.write_all(&bytes)).await.context("the attack is not taken")??;
    Ok(())
}

pub async fn hoard(place: &Place, row: &mut Row) -> Result<()> {
    const DESCRIPTORS: u32 = 1024;
    const BESIDE: usize = 100;
    let count = place.count(2000);
    let (roles, clients, before) = warm(place, place.start_with_descriptors(DESCRIPTORS)?).await?;
    let pod = Pod::start().await?;
    row.begin();
    let forward = Arc::new(clients.forward().await?);
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..count {
        let mut stream =
            forward.connect(pod.port).await.map_err(|loss| anyhow::anyhow!("{loss}"))?;
        match timeout(PATIENCE, echo(&mut stream)).await {
            Ok(Ok(())) => held.push(stream),
            Ok(Err(why)) if why.contains("no room") => refused += 1,
            Ok(Err(why)) => row.fault(why),
            Err(_) => row.fault("a connection hangs"),
        }
    }
    row.note(format!("{} held, {refused} refused", held.len()));
    row.at_most("held", held.len() as f64, f64::from(DESCRIPTORS / 2), "connections");
    for _ in 0..place.count(BESIDE) {
        row.session(other(&clients).await);
    }
    for stream in &mut held {
        if let Err(why) = echo(stream).await {
            row.fault(format!("one that is held: {why}"));
        }
    }
    drop(held);
    if let Some(forward) = Arc::into_inner(forward) {
        forward.close().await;
    }
    drop(pod);
    finish(row, roles, before).await
}

/// Holds what gateway and node grew by against a bound.
fn grew(row: &mut Row, roles: &Roles, before: Baseline, held: usize) -> Result<()> {
    let bound = bound(row, held);
    let now = Baseline::of(roles)?;
    for (name, peak, base) in [
        ("gateway", now.gateway.peak_kib, before.gateway.peak_kib),
        ("node", now.node.peak_kib, before.node.peak_kib),
    ] {
        row.at_most(&format!("{name} grew by"), peak.saturating_sub(base) as f64, bound, "KiB");
    }
    Ok(())
}

fn bound(row: &mut Row, held: usize) -> f64 {
    let bound = (held + TLS_BYTES + ROUNDING_BYTES) / 1024;
    row.note(format!(
        "bound {bound} KiB: SESSION_HELD_BYTES {held} B, TLS {TLS_BYTES} B, the allocator's \
         rounding {ROUNDING_BYTES} B"
    ));
    bound as f64
}

/// So many bytes are kept of each MiB: gathered ones, and such as are kept apart.
const KEPT: [usize; 2] = [1, 513];

/// A message: masked with nothing where a client says it.
fn message(masked: bool, channel: u8, length: usize) -> Vec<u8> {
    let mask = u8::from(masked) << 7;
    let mut frame = vec![0x82, mask | 127];
    frame.extend((1 + length as u64).to_be_bytes());
    if length < 125 {
        frame = vec![0x82, mask | (1 + length as u8)];
    } else if length < 0xffff {
        frame = vec![0x82, mask | 126];
        frame.extend((1 + length as u16).to_be_bytes());
    }
    frame.extend([0; 4].iter().filter(|_| masked));
    frame.push(channel);
    frame.resize(frame.len() + length, 7);
    frame
}

/// Nobody's channel, and then a channel of the session.
fn round(masked: bool, channel: u8, kept: usize) -> Vec<u8> {
    [message(masked, 9, MIB), message(masked, channel, kept)].concat()
}

pub async fn junk(place: &Place, row: &mut Row) -> Result<()> {
    let rounds = place.count(1000).max(64);
    let (roles, clients, before) = start(place).await?;
    row.begin();
    row.note(format!("{rounds} MiB, {KEPT:?} bytes of each are kept"));
    let (endpoint, node) = place.node_endpoint(&roles.node)?;
    for kept in KEPT {
        let round = round(true, 0, kept);
        let at_gateway = clients.exec_itself(&["sleep", "1000"]).await?;
        row.session(send(at_gateway, &round, rounds).await);
        let url = node.join("/exec/default/box/box?command=sleep&command=1000&input=1&output=1")?;
        let at_node = switched(&endpoint, &url, &Offer::websocket(random::bytes())).await?;
        row.session(send(at_node, &round, rounds).await);
        row.session(at_client(place, &clients, row_bound(), kept, rounds).await?);
    }
    grew(row, &roles, before, limits::SESSION_HELD_BYTES)?;
    finish(row, roles, before).await
}

fn row_bound() -> u64 {
    ((limits::SESSION_HELD_BYTES + TLS_BYTES + ROUNDING_BYTES) / 1024) as u64
}

/// Whether all of it was read: a part that holds no more than it may does not stop to read.
async fn send(to: Upgraded, round: &[u8], rounds: usize) -> Result<(), String> {
    let mut stream = to.stream;
    for number in 0..rounds {
        let sent = timeout(PATIENCE, stream.write_all(round)).await;
        let sent = sent.map_err(|_| format!("round {number} is not taken"))?;
        sent.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A client of a server that says the same to it, with an output that nobody reads.
async fn at_client(
    place: &Place,
    clients: &Clients,
    bound: u64,
    kept: usize,
    rounds: usize,
) -> Result<Result<(), String>> {
    let quiet = quiet_client(clients, Duration::ZERO).await?.peak_kib;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let kubeconfig = place.plain_kubeconfig(listener.local_addr()?.port())?;
    let mut client = Command::new(place.bowline());
    client.args(["exec", "--kubeconfig"]).arg(kubeconfig).args(["box", "--", "true"]);
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut client = client.spawn()?;
    let id = client.id().context("it runs")?;
    let round = round(false, 1, kept);
    let mut serving = JoinSet::new();
    let served = loop {
        tokio::select! {
            accepted = listener.accept() => {
                serving.spawn(serve(accepted?.0, round.clone(), rounds));
            }
            // A session's end; the others are plain requests.
            Some(done) = serving.join_next(), if !serving.is_empty() => match done? {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(format!("client: {error:#}")),
            },
        }
    };
    let grown = Holds::of(id)?.peak_kib.saturating_sub(quiet);
    client.kill().await?;
    Ok(served.and_then(|()| match grown {
        grown if grown > bound => Err(format!("client grew by {grown} KiB of {bound}")),
        _ => Ok(()),
    }))
}

/// Answers requests for the pod, and an upgrade with all of that; whether it was one.
async fn serve(mut socket: TcpStream, round: Vec<u8>, rounds: usize) -> Result<bool> {
    const POD: &str = r#"{"apiVersion":"v1","kind":"Pod",
        "metadata":{"name":"box","namespace":"default"},
        "spec":{"containers":[{"name":"box"}]},"status":{"phase":"Running"}}"#;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return Ok(false),
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let lower = head.to_ascii_lowercase();
        let Some(at) = lower.find("sec-websocket-key:") else {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n\
                 {POD}",
                POD.len()
            );
            socket.write_all(answer.as_bytes()).await?;
            continue;
        };
        let key = head[at..].lines().next().and_then(|line| line.split_once(':'));
        let accept = accept_key(key.context("a key")?.1.trim());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
        );
        socket.write_all(answer.as_bytes()).await?;
        for number in 0..rounds {
            let sent = timeout(PATIENCE, socket.write_all(&round)).await;
            sent.with_context(|| format!("round {number} is not taken"))??;
        }
        return Ok(true);
    }
}
