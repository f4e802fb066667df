//! Watches through a gateway before a real API server: each of them has to see every change, once
//! and in its order.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bowline_io::pool::{Body, Pool};
use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::upstream::Front;
use crate::client::Clients;
use crate::place::Place;
use crate::table::Row;

/// Half of them share connections of HTTP/2, the others have one of HTTP/1.1 each.
const WATCHES: usize = 100;
const EVENTS: usize = 10_000;
/// Objects, each changed by one writer.
const OBJECTS: usize = 8;
const PATH: &str = "/api/v1/namespaces/default/configmaps";
/// How many watches an API server says that it has ended, since their clients did not keep up.
const ENDED: &str = "apiserver_terminated_watchers_total{";
/// Those that are followed here, as one label of the line.
const OF_OBJECTS: &str = "resource=\"configmaps\"";
/// Nothing is silent for as long while there are changes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is read of an object, or of a list.
#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Object,
}

impl Metadata {
    fn version(&self) -> Result<u64> {
        self.resource_version.parse().context("a resourceVersion that is no number")
    }
}

/// How a watch is asked for.
#[derive(Clone)]
enum Way {
    Shared(Pool),
    Alone(Box<Clients>),
}

pub async fn run(place: &Place, row: &mut Row) -> Result<()> {
    let front = Front::start(place).await?;
    let straight = Clients::of_cluster(place.bowline(), &front.cluster)?.pool();
    for number in 0..OBJECTS {
        let object = format!(
            "{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{}\"}}}}",
            name(number)
        );
        ask(&straight, Method::POST, PATH, "application/json", object).await?;
    }
    let list = ask(&straight, Method::GET, PATH, "application/json", String::new()).await?;
    let first = serde_json::from_slice::<Object>(&list)?.metadata.version()?;

    row.begin();
    let count = place.count(EVENTS) / OBJECTS * OBJECTS;
    let (shared, again) = (front.clients.pool(), Again::default());
    let (mut watches, mut begun) = (JoinSet::new(), Vec::new());
    for number in 0..WATCHES {
        let way = match number % 2 {
            0 => Way::Shared(shared.clone()),
            _ => Way::Alone(Box::new(front.clients.clone())),
        };
        let (tell, told) = oneshot::channel();
        watches.spawn(watch(way, first, count, again.clone(), tell));
        begun.push(told);
    }
    for begun in begun {
        timeout(PATIENCE, begun).await?.context("a watch does not begin")?;
    }
    let written = written(&straight, count / OBJECTS).await?;
    let took = row.wall().as_secs_f64();
    row.note(format!("{:.0} changes a second", count as f64 / took));
    while let Some(seen) = watches.join_next().await {
        row.session(match seen? {
            Ok(seen) => alike(&seen, &written),
            Err(error) => Err(format!("{error:#}")),
        });
    }
    row.note(format!("{} events through the gateway", count * WATCHES));
    let metrics = ask(&straight, Method::GET, "/metrics", "text/plain", String::new()).await?;
    again.judge(row, &metrics);
    drop(shared);
    front.finish(row).await
}

/// How many events each watch had given that was begun again.
#[derive(Clone, Default)]
struct Again(Arc<Mutex<Vec<usize>>>);

impl Again {
    fn noted(&self, seen: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    /// Says how many there were, and that the API server has ended as many: the gateway ends none.
    fn judge(&self, row: &mut Row, metrics: &[u8]) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = String::from_utf8_lossy(metrics);
        let is_counted = |line: &&str| line.starts_with(ENDED) && line.contains(OF_OBJECTS);
        let ended = metrics.lines().filter(is_counted);
        let ended = ended.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        // Alone, the sum of none is -0.
        let ended = 0.0 + ended.sum::<f64>();
        let least = seen.iter().min().copied().unwrap_or_default();
        let most = seen.iter().max().copied().unwrap_or_default();
        if !seen.is_empty() {
            row.note(format!("watches begun again after {least} to {most} events"));
        }
        row.at_most("watches begun again", seen.len() as f64, ended, "ended by the API server");
    }
}

fn name(number: usize) -> String {
    format!("watched-{number}")
}

/// Changes every object so many times; the versions that this made, in their order.
async fn written(pool: &Pool, times: usize) -> Result<Vec<u64>> {
    let mut writers = JoinSet::new();
    for number in 0..OBJECTS {
        let (pool, path) = (pool.clone(), format!("{PATH}/{}", name(number)));
        writers.spawn(async move {
            let mut versions = Vec::with_capacity(times);
            for time in 0..times {
                let change = format!("{{\"data\":{{\"time\":\"{time}\"}}}}");
                let merge = "application/merge-patch+json";
                let object = ask(&pool, Method::PATCH, &path, merge, change).await?;
                versions.push(serde_json::from_slice::<Object>(&object)?.metadata.version()?);
            }
            anyhow::Ok(versions)
        });
    }
    let mut all = Vec::new();
    while let Some(versions) = writers.join_next().await {
        all.extend(versions??);
    }
    all.sort_unstable();
    Ok(all)
}

async fn ask(
    pool: &Pool,
    method: Method,
    path: &str,
    content_type: &str,
    body: String,
) -> Result<Bytes> {
    let body: Body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", content_type).body(body)?;
    let answer = timeout(PATIENCE, pool.send(request)).await??;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

/// Follows all objects from `first` on, until so many changes have been seen; their versions.
async fn watch(
    way: Way,
    first: u64,
    count: usize,
    again: Again,
    begun: oneshot::Sender<()>,
) -> Result<Vec<u64>> {
    let (mut seen, mut begun) = (Vec::with_capacity(count), Some(begun));
    while seen.len() < count {
        let from = seen.last().copied().unwrap_or(first);
        let target = format!("{PATH}?watch=1&timeoutSeconds=3600&resourceVersion={from}");
        let mut body = opened(&way, &target).await?;
        // API servers send a head at once, also where nothing changes.
        match begun.take() {
            Some(begun) => drop(begun.send(())),
            None => again.noted(seen.len()),
        }
        let mut read = BytesMut::new();
        while seen.len() < count {
            // The watch has come to its end, and the next one goes on from there.
            let Some(frame) = timeout(PATIENCE, body.frame()).await? else { break };
            let Ok(data) = Frame::into_data(frame?) else { continue };
            read.extend_from_slice(&data);
            while let Some(end) = read.iter().position(|&byte| byte == b'\n') {
                seen.push(version(&read[..end])?);
                read.advance(end + 1);
            }
        }
    }
    Ok(seen)
}

async fn opened(way: &Way, target: &str) -> Result<Body> {
    let (status, body) = match way {
        Way::Shared(pool) => {
            let body: Body = Full::default().map_err(|never| match never {}).boxed_unsync();
            let request = Request::builder().uri(target).body(body)?;
            let answer = timeout(PATIENCE, pool.send(request)).await??;
            (answer.status(), answer.into_body().boxed_unsync())
        }
        Way::Alone(clients) => {
            let answer = clients.get_alone(target).await?;
            (answer.status(), answer.into_body().map_err(io::Error::other).boxed_unsync())
        }
    };
    ensure!(status == StatusCode::OK, "a watch is answered with {status}");
    Ok(body)
}

/// The version of a change in a line of a watch.
fn version(line: &[u8]) -> Result<u64> {
    let event: Event = serde_json::from_slice(line).with_context(|| {
        let text = String::from_utf8_lossy(line);
        format!("an event: {}", text.chars().take(200).collect::<String>())
    })?;
    if event.r#type != "MODIFIED" {
        bail!("an event of the kind {}", event.r#type);
    }
    event.object.metadata.version()
}

/// Whether a watch has seen what was written, each change once and in order.
fn alike(seen: &[u64], written: &[u64]) -> Result<(), String> {
    let differs = seen.iter().zip(written).position(|(seen, written)| seen != written);
    match differs {
        Some(at) => {
            Err(format!("event {at} has version {}, and {} was written", seen[at], written[at]))
        }
        None if seen.len() == written.len() => Ok(()),
        None => Err(format!("{} events of {} were seen", seen.len(), written.len())),
    }
}
