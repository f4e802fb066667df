//! The loop: lists, follows, opens streams again, waits where that fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_io::text::sanitized;
use tokio::time::{Instant, timeout_at};

use super::Watchable;
use super::backoff::Backoff;
use super::event::{self, Event, GONE};
use super::lines::{Broken, Lines};
use super::server::Server;
use super::state::{OBJECTS, State, TooMany};
use crate::api::ApiError;

/// For how many seconds a stream is asked for: at random, so that they do not end all at once.
const SECONDS: std::ops::RangeInclusive<u64> = 300..=600;
/// How much later than that the server may end it.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a server may say nothing: three of its bookmarks.
pub(super) const SILENCE: Duration = Duration::from_secs(180);
/// A stream that lasted for so long was one: what fails after it is the first failure.
const LASTING: Duration = Duration::from_secs(30);
/// How many bytes of a server's words are shown.
const WORDS: usize = 1024;

/// How a stream has ended.
enum End {
    /// As it should. The next one begins where it ended.
    Over,
    /// In another way, for this reason. The next one begins where it ended.
    Cut(String),
    /// Nobody knows what happened since, for this reason: all has to be listed.
    Unknown(String),
}

/// Follows for ever.
pub(super) async fn run<T: Watchable>(server: &impl Server<T>, state: &State<T>) {
    let mut backoff = Backoff::new();
    loop {
        match list(server).await {
            Ok((objects, version)) => {
                state.list(objects);
                follow(server, state, version, &mut backoff).await;
            }
            Err(why) => state.lost(why),
        }
        backoff.pause().await;
    }
}

/// Lists all objects, and returns them with the version of the list.
async fn list<T: Watchable>(
    server: &impl Server<T>,
) -> Result<(HashMap<String, Arc<T>>, String), String> {
    let (mut objects, mut next) = (HashMap::new(), String::new());
    loop {
        let page = server.page(&next).await.map_err(|error| error.to_string())?;
        let is_last = page.metadata.next.is_empty();
        // Every page adds something, so that there is an end.
        if objects.len() + page.items.len() > OBJECTS || page.items.is_empty() && !is_last {
            return Err(too_many());
        }
        objects.extend(page.items.into_iter().map(|one| (one.name().to_owned(), Arc::new(one))));
        if is_last {
            return Ok((objects, page.metadata.resource_version));
        }
        next = page.metadata.next;
    }
}

/// Follows what happens after a list, until that has to be made anew.
async fn follow<T: Watchable>(
    server: &impl Server<T>,
    state: &State<T>,
    mut version: String,
    backoff: &mut Backoff,
) {
    loop {
        let begun = Instant::now();
        let end = stream(server, state, &mut version).await;
        let has_lasted = begun.elapsed() >= LASTING;
        if has_lasted {
            backoff.reset();
        }
        match end {
            End::Over => {
                state.paused();
                if has_lasted {
                    continue;
                }
            }
            End::Cut(why) => state.lost(why),
            End::Unknown(why) => return state.lost(why),
        }
        backoff.pause().await;
    }
}

/// Opens one stream and follows it to its end. `version` is where it begins, and then where it has
/// ended.
async fn stream<T: Watchable>(
    server: &impl Server<T>,
    state: &State<T>,
    version: &mut String,
) -> End {
    let seconds = rand::random_range(SECONDS);
    let body = match server.watch(version, seconds).await {
        Ok(body) => body,
        Err(error) => return not_opened(&error),
    };
    state.opened();
    let mut lines = Lines::new(body);
    let last = Instant::now() + Duration::from_secs(seconds) + MARGIN;
    loop {
        let patience = last.min(Instant::now() + SILENCE);
        let line = match timeout_at(patience, lines.next()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return End::Over,
            Ok(Err(error @ Broken::TooLong)) => return End::Unknown(error.to_string()),
            Ok(Err(error)) => return End::Cut(error.to_string()),
            Err(_) if patience == last => return End::Over,
            Err(_) => return End::Cut(format!("it was silent for {} s", SILENCE.as_secs())),
        };
        match event::read(&line) {
            Ok(event) => {
                if let Some(end) = happened(state, version, event) {
                    return end;
                }
            }
            Err(error) => return End::Unknown(error.to_string()),
        }
    }
}

/// Whether the same stream may be opened a moment later, or all is to be listed.
fn not_opened(error: &ApiError) -> End {
    let why = error.to_string();
    match error {
        ApiError::Status { .. } if !error.may_pass() => End::Unknown(why),
        _ => End::Cut(why),
    }
}

/// Keeps what an event says; returns the end of the stream, if it is one.
fn happened<T: Watchable>(state: &State<T>, version: &mut String, event: Event<T>) -> Option<End> {
    match event {
        Event::Is(object) => {
            version.clear();
            version.push_str(object.resource_version());
            if let Err(TooMany) = state.put(object) {
                return Some(End::Unknown(too_many()));
            }
        }
        Event::IsNot(object) => {
            version.clear();
            version.push_str(object.resource_version());
            state.remove(object.name());
        }
        Event::Bookmark(at) => {
            *version = at;
            state.heard();
        }
        Event::Failed { code: GONE, .. } => {
            return Some(End::Unknown("too much has happened since".to_owned()));
        }
        Event::Failed { message, .. } => {
            return Some(End::Unknown(sanitized(&message, WORDS).into_owned()));
        }
    }
    None
}

fn too_many() -> String {
    format!("there are more than {OBJECTS}")
}
