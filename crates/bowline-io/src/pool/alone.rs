//! A request whose query is too long for the HTTP library, on a connection of its own.

use std::sync::Arc;

use http::{Response, Version};
use hyper_util::rt::TokioIo;

use super::body::{Coming, Lending, PoolAnswer};
use super::connect::{http1_builder, send_http1};
use super::connections::{PATIENCE, Shared};
use super::error::PoolError;
use super::target::Target;
use super::{Failed, Head};
use crate::dial::dial;
use crate::request_target::LongTarget;

/// Sends a request on a connection that is made for it, in HTTP/1.1.
pub(super) async fn send(
    shared: &Arc<Shared>,
    target: &Target,
    head: &Head,
    lending: &Lending,
) -> Result<Response<PoolAnswer>, Failed> {
    let open = shared.open()?;
    let dialled = dial(&target.access.endpoint, PATIENCE).await;
    let stream = dialled.map_err(|error| PoolError::Dial(Arc::new(error)))?;
    let request = target.request(Version::HTTP_11, head, lending.lend());
    let request = request.map_err(|error| PoolError::Request(Arc::new(error)))?;
    let asking = TokioIo::new(LongTarget::asking(stream, &request));
    let (mut sender, connection) =
        http1_builder().handshake(asking).await.map_err(PoolError::of)?;
    // The task ends when the body was read or dropped.
    #[expect(clippy::disallowed_methods, reason = "it ends with the connection")]
    tokio::spawn(async move {
        let _ = connection.await;
        drop(open);
    });
    let answer = send_http1(&mut sender, request).await?;
    Ok(answer.map(|body| PoolAnswer::new(Coming::Http1(body), None)))
}
