//! Watches of a server that is the tests' own and says what it is told, on virtual time.

mod sockets;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, advance};

use super::event::{Event, read};
use super::lines::Lines;
use super::run::SILENCE;
use super::server::{Page, Server};
use super::state::{BETWEEN, FRESH};
use super::*;
use crate::api::ApiError;

/// An object with one field.
#[derive(Debug, Deserialize)]
struct Thing {
    metadata: ThingMetadata,
    #[serde(default)]
    color: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThingMetadata {
    name: String,
    #[serde(default)]
    resource_version: String,
}

impl Watchable for Thing {
    const PATH: &'static [&'static str] = &["api", "v1", "things"];

    fn name(&self) -> &str {
        &self.metadata.name
    }

    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

fn thing(name: &str, version: u64, color: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version.to_string(), "other": [1]},
           "color": color, "status": {"much": "more"}})
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn bookmark(version: u64) -> String {
    event("BOOKMARK", &json!({"metadata": {"resourceVersion": version.to_string()}}))
}

/// What a test tells the stream to give.
#[derive(Debug)]
enum Give {
    Text(String),
    Break,
}

/// A stream that gives what it is told; its end is that nobody tells it anything any more.
#[derive(Debug)]
struct Told(UnboundedReceiver<Give>);

impl Body for Told {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|given| {
            given.map(|given| match given {
                Give::Text(text) => Ok(Frame::data(text.into())),
                Give::Break => Err(std::io::ErrorKind::ConnectionReset.into()),
            })
        })
    }
}

/// What the server is asked.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Page(String),
    Watch(String),
}

/// A server that answers as it is told, in order.
struct Script {
    asked: UnboundedSender<(Asked, Duration)>,
    pages: Mutex<VecDeque<Result<Value, u16>>>,
    streams: Mutex<VecDeque<Result<Told, u16>>>,
    begun: Instant,
}

fn status(code: u16) -> ApiError {
    ApiError::Status { code, reason: String::new(), message: format!("no: {code}") }
}

impl Server<Thing> for Script {
    type Stream = Told;

    async fn page(&self, next: &str) -> Result<Page<Thing>, ApiError> {
        let _ = self.asked.send((Asked::Page(next.to_owned()), self.begun.elapsed()));
        let page = self.pages.lock().unwrap().pop_front();
        page.unwrap_or(Err(500)).map_err(status).map(|page| serde_json::from_value(page).unwrap())
    }

    async fn watch(&self, version: &str, seconds: u64) -> Result<Told, ApiError> {
        assert!((300..=600).contains(&seconds));
        let _ = self.asked.send((Asked::Watch(version.to_owned()), self.begun.elapsed()));
        let stream = self.streams.lock().unwrap().pop_front();
        stream.unwrap_or(Err(503)).map_err(status)
    }
}

/// A watch of a scripted server, and what tells its streams.
struct Watching {
    watched: Watched<Thing>,
    asked: UnboundedReceiver<(Asked, Duration)>,
    streams: Vec<Option<UnboundedSender<Give>>>,
}

impl Watching {
    /// The codes are those with which a stream is refused; 0 is one that is opened.
    fn begin(pages: impl IntoIterator<Item = Result<Value, u16>>, streams: &[u16]) -> Watching {
        let (tell, asked) = unbounded_channel();
        let (mut tells, mut bodies) = (Vec::new(), VecDeque::new());
        for &code in streams {
            let (give, given) = unbounded_channel();
            tells.push((code == 0).then_some(give));
            bodies.push_back(if code == 0 { Ok(Told(given)) } else { Err(code) });
        }
        let server = Script {
            asked: tell,
            pages: Mutex::new(pages.into_iter().collect()),
            streams: Mutex::new(bodies),
            begun: Instant::now(),
        };
        let state = Arc::new(State::default());
        let told = state.clone();
        let mut watching = JoinSet::new();
        watching.spawn(async move { run(&server, &told).await });
        Watching { watched: Watched { state, _watching: watching }, asked, streams: tells }
    }

    fn give(&self, stream: usize, text: impl Into<String>) {
        self.streams[stream].as_ref().unwrap().send(Give::Text(text.into())).unwrap();
    }

    async fn asked(&mut self) -> Asked {
        self.asked.recv().await.unwrap().0
    }

    /// What is asked next, and how many milliseconds after the beginning.
    async fn asked_at(&mut self) -> (Asked, u128) {
        let (asked, at) = self.asked.recv().await.unwrap();
        (asked, at.as_millis())
    }

    fn color(&self, name: &str) -> Result<Option<String>, String> {
        let found = self.watched.get(name).map_err(|error| error.why)?;
        Ok(found.map(|thing| thing.color.clone()))
    }
}

/// Lets all that can go on do so, and no time pass.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn page(version: u64, next: &str, things: &[Value]) -> Result<Value, u16> {
    Ok(json!({"metadata": {"resourceVersion": version.to_string(), "continue": next},
              "items": things}))
}

fn listed() -> [Result<Value, u16>; 1] {
    [page(10, "", &[thing("a", 1, "red")])]
}

fn watch(version: u64) -> Asked {
    Asked::Watch(version.to_string())
}

fn first_page() -> Asked {
    Asked::Page(String::new())
}

#[tokio::test(start_paused = true)]
async fn a_list_in_pages_is_followed() {
    let pages = [page(9, "more", &[thing("a", 1, "red")]), page(9, "", &[thing("b", 2, "blue")])];
    let mut watching = Watching::begin(pages, &[0]);
    assert!(watching.color("a").is_err() && !watching.watched.is_connected());
    assert_eq!(watching.asked().await, first_page());
    assert_eq!(watching.asked().await, Asked::Page("more".into()));
    assert_eq!(watching.asked().await, watch(9));
    assert_eq!(watching.color("a"), Ok(Some("red".into())));
    assert_eq!(watching.color("b"), Ok(Some("blue".into())));
    assert!(watching.watched.is_connected());
    // In pieces, as they come; and two in one.
    let added = event("ADDED", &thing("c", 11, "green"));
    let (one, two) = added.split_at(17);
    watching.give(0, one);
    settle().await;
    assert_eq!(watching.color("c"), Ok(None));
    let changed = event("MODIFIED", &thing("a", 12, "white"));
    watching.give(0, format!("{two}{changed}{}", event("DELETED", &thing("b", 13, ""))));
    settle().await;
    assert_eq!(watching.color("c"), Ok(Some("green".into())));
    assert_eq!(watching.color("a"), Ok(Some("white".into())));
    assert_eq!(watching.color("b"), Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_opened_where_it_ended() {
    let mut watching = Watching::begin(listed(), &[0, 0]);
    assert_eq!(watching.asked().await, first_page());
    assert_eq!(watching.asked().await, watch(10));
    watching.give(0, bookmark(20));
    settle().await;
    advance(Duration::from_secs(60)).await;
    watching.give(0, bookmark(30));
    settle().await;
    watching.streams[0] = None;
    // At once, and nothing is unknown meanwhile.
    assert_eq!(watching.asked_at().await, (watch(30), 60_000));
    assert_eq!(watching.color("a"), Ok(Some("red".into())));
    advance(FRESH - Duration::from_secs(1)).await;
    assert_eq!(watching.color("a"), Ok(Some("red".into())));
}

#[tokio::test(start_paused = true)]
async fn what_was_cut_counts_again_only_after_a_word() {
    let mut watching = Watching::begin(listed(), &[0, 503, 0]);
    assert_eq!(watching.asked().await, first_page());
    assert_eq!(watching.asked().await, watch(10));
    settle().await;
    // Within an event.
    watching.give(0, "{\"type\":\"ADD");
    watching.streams[0] = None;
    settle().await;
    assert_eq!(watching.color("a"), Err("it was cut off".into()));
    assert!(!watching.watched.is_connected());
    let (asked, first) = watching.asked_at().await;
    assert_eq!(asked, watch(10));
    assert!((800..=1600).contains(&first), "{first}");
    settle().await;
    assert!(watching.color("a").unwrap_err().contains("no: 503"));
    let (asked, second) = watching.asked_at().await;
    assert_eq!(asked, watch(10));
    assert!((1600..=3200).contains(&(second - first)), "{first} {second}");
    settle().await;
    // It is open. Whether something was missed is not known before it says something.
    assert!(watching.watched.is_connected());
    assert_eq!(watching.color("a"), Err("it is silent".into()));
    watching.give(2, bookmark(11));
    settle().await;
    assert_eq!(watching.color("a"), Ok(Some("red".into())));
}

#[tokio::test(start_paused = true)]
async fn all_is_listed_again_where_nobody_knows_what_happened() {
    let gone = event("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired"}));
    let other = event("ERROR", &json!({"kind": "Status", "code": 500, "message": "oh\nno"}));
    for (text, why) in [
        (gone, "too much has happened since"),
        (other, "oh no"),
        ("nonsense\n".into(), "an event is not understood"),
        ("[]\n".into(), "an event is not understood"),
        ("{\"type\":\"ADDED\",\"object\":{}}\n".into(), "an event is not understood"),
        (event("CHANGED", &thing("a", 11, "")), "an event is of no known kind"),
    ] {
        let pages = [listed()[0].clone(), page(40, "", &[thing("b", 2, "blue")])];
        let mut watching = Watching::begin(pages, &[0, 0]);
        assert_eq!(watching.asked().await, first_page());
        assert_eq!(watching.asked().await, watch(10));
        watching.give(0, text);
        settle().await;
        let said = watching.color("a").unwrap_err();
        assert!(said.contains(why), "{said}");
        let (asked, at) = watching.asked_at().await;
        assert_eq!(asked, first_page());
        assert!((800..=1600).contains(&at), "{at}");
        assert_eq!(watching.asked().await, watch(40));
        assert_eq!(watching.color("a"), Ok(None));
        assert_eq!(watching.color("b"), Ok(Some("blue".into())));
    }
    // Instead of a stream.
    for code in [410, 400, 403] {
        let pages = [listed()[0].clone(), listed()[0].clone()];
        let mut watching = Watching::begin(pages, &[code, 0]);
        for expected in [first_page(), watch(10), first_page(), watch(10)] {
            assert_eq!(watching.asked().await, expected, "{code}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_counts_for_longer_than_the_server_was_heard_of() {
    let mut watching = Watching::begin(listed(), &[0, 0]);
    assert_eq!(watching.asked().await, first_page());
    assert_eq!(watching.asked().await, watch(10));
    settle().await;
    advance(FRESH - Duration::from_millis(1)).await;
    assert!(watching.color("a").is_ok());
    // A piece of an event is no word.
    watching.give(0, "{");
    settle().await;
    advance(Duration::from_millis(1)).await;
    assert_eq!(watching.color("a"), Err("it is silent".into()));
    assert!(!watching.watched.is_connected());
    let (asked, at) = watching.asked_at().await;
    assert_eq!(asked, watch(10));
    let silence = SILENCE.as_millis();
    assert!((silence..=silence + 1600).contains(&at), "{at}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_streams_at_once_is_asked_ever_more_slowly() {
    let mut watching = Watching::begin(listed(), &[0, 0, 0, 0]);
    for stream in &mut watching.streams {
        *stream = None;
    }
    assert_eq!(watching.asked().await, first_page());
    let (_, mut last) = watching.asked_at().await;
    settle().await;
    assert!(watching.color("a").is_ok(), "it ended as it should");
    advance(BETWEEN).await;
    assert!(watching.color("a").is_err());
    let mut shortest = 800;
    // They are opened until there are none; then they are refused.
    for _ in 0..9 {
        let (asked, at) = watching.asked_at().await;
        assert_eq!(asked, watch(10));
        let pause = at - last;
        assert!(pause >= shortest.min(30_000), "{pause}");
        assert!(pause <= 2 * shortest.min(30_000) + BETWEEN.as_millis(), "{pause}");
        (last, shortest) = (at, shortest * 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_does_not_end_is_given_up() {
    let endless = (0..3).map(|_| page(1, "more", &[]));
    let mut watching = Watching::begin(endless, &[]);
    assert_eq!(watching.asked().await, first_page());
    assert_eq!(watching.asked().await, first_page());
    assert!(watching.color("a").unwrap_err().contains("more than"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_its_owner() {
    let mut watching = Watching::begin(listed(), &[0]);
    assert_eq!(watching.asked().await, first_page());
    assert_eq!(watching.asked().await, watch(10));
    drop(watching.watched);
    assert!(watching.asked.recv().await.is_none());
    assert!(watching.streams[0].as_ref().unwrap().is_closed());
}

#[tokio::test]
async fn lines_have_a_bound_and_an_end() {
    let (give, given) = unbounded_channel();
    let mut lines = Lines::new(Told(given));
    give.send(Give::Text("\n\na\nb".into())).unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "a");
    give.send(Give::Text("c\n\n".into())).unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "bc");
    give.send(Give::Text("cut".into())).unwrap();
    give.send(Give::Break).unwrap();
    assert!(lines.next().await.unwrap_err().to_string().contains("connection reset"));

    let (give, given) = unbounded_channel();
    let mut lines = Lines::new(Told(given));
    let piece = "x".repeat(1024 * 1024);
    for _ in 0..17 {
        give.send(Give::Text(piece.clone())).unwrap();
    }
    let error = lines.next().await.unwrap_err();
    assert_eq!(error.to_string(), "an event is longer than 16777216 bytes");

    let (give, given) = unbounded_channel();
    drop(give);
    assert!(Lines::new(Told(given)).next().await.unwrap().is_none());
}

#[test]
fn an_events_kind_may_stand_behind_its_object() {
    let line = r#"{"object":{"metadata":{"name":"a"},"type":"DELETED"},"type":"ADDED"}"#;
    assert!(matches!(read::<Thing>(line.as_bytes()), Ok(Event::Is(_))));
    let mut deep = String::from(r#"{"type":"ADDED","object":"#);
    for _ in 0..100_000 {
        let _ = write!(deep, "[");
    }
    assert!(read::<Thing>(deep.as_bytes()).is_err());
}
