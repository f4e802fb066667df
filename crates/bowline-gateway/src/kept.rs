//! A kept session: from an authorized request to bytes between its client and the end that keeps
//! the command. Gateways keep nothing, so that the next connection can come through any of them.

use bowline_io::http::lines;
use bowline_io::record::{End, Pending};
use bowline_io::request_target::query;
use bowline_io::serve::Reply;
use bowline_proto::kept::shown;
use bowline_proto::negotiate::{Lines, accept_kept, asks_for_kept};
use bowline_proto::session::protocol::KEPT;
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::Wire;
use http::{HeaderMap, Request};
use hyper::body::Incoming;

use crate::backend::Target;
use crate::components::Caller;
use crate::forward::{splice, upgrade_lines};
use crate::options::{ExecOptions, Verb};
use crate::server::Gateway;
use crate::status::Refusal;
use crate::stream::{accept, switch};

/// Whether a request asks for a kept session.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    asks_for_kept(Lines(&lines(headers)))
}

/// Serves one connection of a kept session: finds its destination, passes the client's own upgrade
/// there, and the answer to the client.
///
/// Nothing begins by the upgrade alone: what runs is in what the client sends behind it.
pub(crate) async fn kept(
    gateway: &Gateway,
    caller: &Caller,
    mut session: Pending,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let options = ExecOptions::parse(Verb::Exec, query(&request))?;
    let record = &mut session.record;
    let target = Target {
        namespace: &record.namespace,
        pod: &record.pod,
        container: Some(&*options.container),
        method: request.method(),
        query: query(&request),
        headers: request.headers(),
    };
    let destination = gateway.components.backend.find(caller, target).await?;
    accept(&request, accept_kept)?;
    let words = upgrade_lines(request.headers());
    let far = destination.pass_kept(&options, &words).await?;
    let answer = upgrade_lines(&far.headers);
    let chosen = answer.iter().find(|line| line.0 == "Sec-WebSocket-Protocol");
    if chosen.is_none_or(|line| line.1 != KEPT.name) {
        return Err(Refusal::internal("invalid upgrade response: another subprotocol was chosen"));
    }
    record.command = shown(&options.command).to_vec();
    record.container = destination.container().to_owned();
    (record.near, record.far) = (KEPT.label(), KEPT.label());
    let mut running = session.begin();
    if running.tap().is_some() {
        // What is not read here cannot be shown, and must not be a way around who looks.
        running.end(End::Lost("refused: its events could not be shown".to_owned()), None);
        return Err(not_kept("sessions are looked at here"));
    }
    let (bounds, wires) = (gateway.living.bounds, Splice::new(Wire::plain()));
    splice(&gateway.sessions, running, request, bounds, far.connection, wires);
    Ok(switch(&answer))
}

/// The answer of servers that know nothing of kept sessions. Clients go on without.
pub(crate) fn not_kept(why: &str) -> Refusal {
    let cause = format!("no kept sessions: {why}");
    Refusal { is_answer: true, falls_back: true, ..Refusal::bare(403, cause) }
}
