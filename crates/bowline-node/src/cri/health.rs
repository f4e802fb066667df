//! Whether the runtime can be used.

use std::time::Duration;

use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;

use super::client::Client;
use super::messages::{RuntimeCondition, StatusRequest, StatusResponse};
use crate::runtime::Refusal;

/// How long the runtime may take to say how it is: whoever looks after the node gives up soon, and
/// the kubelet's endpoints after 5 s, without knowing which runtime it is.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);
/// The condition without which a runtime starts nothing.
const READY: &str = "RuntimeReady";

/// Asks whether the runtime is ready.
///
/// # Errors
/// 503 and why it is not.
pub(super) async fn check(client: &Client) -> Result<(), Refusal> {
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
