//! containerd's own events, which it gives on the socket of its CRI, to the processes of execs.
//!
//! CRI has nothing of the kind. What is subscribed to is containerd's stable API, since 1.0.

use http::uri::PathAndQuery;
use prost::Message;
use rustix::process::RawPid;
use thiserror::Error;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

const SUBSCRIBE: &str = "/containerd.services.events.v1.Events/Subscribe";
/// The namespace of the containers of its CRI.
const NAMESPACE: &str = "k8s.io";
const ADDED: &str = "/tasks/exec-added";
const STARTED: &str = "/tasks/exec-started";

#[derive(Clone, PartialEq, Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(bytes = "bytes", tag = "2")]
    value: bytes::Bytes,
}

/// `TaskExecAdded`, and `TaskExecStarted`, which alone has a pid.
#[derive(Clone, PartialEq, Message)]
struct TaskExec {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    exec_id: String,
    #[prost(uint32, tag = "3")]
    pid: u32,
}

/// What containerd does with an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecEvent {
    pub container: String,
    pub exec: String,
    pub step: Step,
}

/// How far an exec is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is about to be started.
    Added,
    /// It has this process.
    Started(RawPid),
}

/// Why there are no events.
#[derive(Debug, Error)]
pub(super) enum EventsError {
    /// The runtime is none that has them.
    #[error("the runtime tells nothing of the processes that it starts")]
    Unsupported,
    /// They have ended.
    #[error("the runtime's events were interrupted: {0}")]
    Interrupted(String),
}

/// The events of all execs, from when the runtime gets the request.
#[derive(Debug)]
pub(super) struct Events(Streaming<Envelope>);

impl Events {
    /// Subscribes. This returns with the first event, since containerd has no answer before.
    pub(super) async fn subscribe(channel: Channel) -> Result<Events, EventsError> {
        let filter = |topic| format!("namespace=={NAMESPACE},topic==\"{topic}\"");
        let mut request =
            Request::new(SubscribeRequest { filters: vec![filter(ADDED), filter(STARTED)] });
        // Its server reads a namespace of every request.
        let namespace = MetadataValue::from_static(NAMESPACE);
        request.metadata_mut().insert("containerd-namespace", namespace);
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(|error| EventsError::Interrupted(error.to_string()))?;
        let path = PathAndQuery::from_static(SUBSCRIBE);
        let codec = ProstCodec::<SubscribeRequest, Envelope>::default();
        let answer = grpc.server_streaming(request, path, codec).await?;
        Ok(Events(answer.into_inner()))
    }

    /// Waits for the next event.
    pub(super) async fn next(&mut self) -> Result<ExecEvent, EventsError> {
        loop {
            let Some(envelope) = self.0.message().await? else {
                return Err(EventsError::Interrupted("it ended them".to_owned()));
            };
            if let Some(event) = read(envelope) {
                return Ok(event);
            }
        }
    }
}

impl From<Status> for EventsError {
    fn from(status: Status) -> EventsError {
        match status.code() {
            Code::Unimplemented => EventsError::Unsupported,
            _ => EventsError::Interrupted(status.message().to_owned()),
        }
    }
}

fn read(envelope: Envelope) -> Option<ExecEvent> {
    let exec = TaskExec::decode(envelope.event?.value).ok()?;
    let step = match envelope.topic.as_str() {
        ADDED => Step::Added,
        STARTED => Step::Started(RawPid::try_from(exec.pid).ok().filter(|pid| *pid > 0)?),
        _ => return None,
    };
    Some(ExecEvent { container: exec.container_id, exec: exec.exec_id, step })
}
