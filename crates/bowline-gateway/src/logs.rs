//! A container's log: the API server's request to the kubelet's, and the answer passed on as it
//! comes.

use bowline_io::record::Pending;
use bowline_io::serve::Reply;
use http::{HeaderMap, HeaderValue, Method, Response, header};

use crate::backend::Target;
use crate::components::Caller;
use crate::options::LogOptions;
use crate::server::Gateway;
use crate::status::Refusal;

/// Answers a request for a log. If the node's answer is cut off, so is this one.
///
/// # Errors
/// The refusal to answer with, if there is no such container, too many logs are read, or the node
/// refuses or cannot be reached.
pub(crate) async fn answer(
    gateway: &Gateway,
    caller: &Caller,
    session: Pending,
    query: &str,
    headers: &HeaderMap,
) -> Result<Reply, Refusal> {
    let sessions = &gateway.sessions;
    let options = LogOptions::parse(query);
    let (namespace, pod) = (&*session.record.namespace, &*session.record.pod);
    let container = Some(&*options.container);
    let method = &Method::GET;
    let target = Target { namespace, pod, container, method, query, headers };
    let destination = gateway.components.backend.find(caller, target).await?;
    let place = sessions.long_answer().map_err(Refusal::too_many_requests)?;
    let body = destination.log(&options).await?;
    let mut reply = Response::new(session.begin().body(body, place, sessions.end.clone()));
    let plain = HeaderValue::from_static("text/plain");
    reply.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(reply)
}
