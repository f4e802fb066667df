//! Whether the runtime can be used, asked for at most once a second.

use std::time::Duration;

use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::Client;
use super::messages::{RuntimeCondition, StatusRequest, StatusResponse};
use crate::runtime::Refusal;

/// How long the runtime may take to say how it is: whoever looks after the node gives up soon.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);
/// How long an answer counts, so that nobody can have the runtime asked all the time.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// The condition without which a runtime starts nothing.
const READY: &str = "RuntimeReady";

/// The last answer, and who asks for the next.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<(Instant, Result<(), Refusal>)>>);

impl Health {
    /// Says whether the runtime is ready. Of several that ask at once, one does, and all others
    /// have its answer.
    ///
    /// # Errors
    /// 503 and why it is not.
    pub(super) async fn check(&self, client: &Client) -> Result<(), Refusal> {
        let mut last = self.0.lock().await;
        if let Some((when, answer)) = &*last
            && when.elapsed() < GOOD_FOR
        {
            return answer.clone();
        }
        let answer = ask(client).await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

async fn ask(client: &Client) -> Result<(), Refusal> {
    let unready = |why: String| {
        let endpoint = &client.endpoint;
        Refusal::new(503, format!("the container runtime at {endpoint} is not ready: {why}"))
    };
    let answer = client.call("Status", StatusRequest {}, Some(STATUS_PATIENCE)).await;
    let answer: StatusResponse = answer.map_err(|error| unready(error.to_string()))?;
    let conditions = answer.status.unwrap_or_default().conditions;
    match conditions.iter().find(|condition| condition.name == READY) {
        Some(RuntimeCondition { status: true, .. }) => Ok(()),
        Some(RuntimeCondition { reason, message, .. }) => {
            let said = format!("{READY} is false: {reason}: {message}");
            Err(unready(sanitized(&said, REASON_BYTES).into_owned()))
        }
        None => Err(unready(format!("it does not say whether it has {READY}"))),
    }
}
