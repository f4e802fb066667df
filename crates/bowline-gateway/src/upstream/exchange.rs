//! The API server's kept connections, for what this gateway asks as itself.

use bowline_io::pool::{Body, Pool, PoolError};
use bowline_kube::exchange::{Answer, Exchange, ExchangeError};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

/// Requests of the gateway's own over kept connections.
pub(super) struct Kept(pub(super) Pool);

impl Exchange for Kept {
    fn exchange(&self, request: Request<Bytes>, bytes: usize) -> Answer<'_> {
        Box::pin(async move {
            let request = request.map(|object| -> Body {
                Full::new(object).map_err(|never| match never {}).boxed_unsync()
            });
            let answer = self.0.send(request).await.map_err(|error| no_answer(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, bytes).collect().await.map_err(|error| {
                let is_long = error.is::<LengthLimitError>();
                let why =
                    if is_long { format!("longer than {bytes} bytes") } else { error.to_string() };
                let text = format!("the response is not whole: {why}");
                ExchangeError { text, may_pass: !is_long }
            })?;
            Ok((head, body.to_bytes()))
        })
    }
}

/// As for a connection of one request: what was cut, or refused by a server that is not there, may
/// pass.
fn no_answer(error: &PoolError) -> ExchangeError {
    let may_pass = match error {
        PoolError::Dial(error) => error.is_refused() || error.is_cut(),
        PoolError::Http(error) => error.is_cut(),
        PoolError::Http2(_) | PoolError::Broken(_) | PoolError::Silent | PoolError::Busy => true,
        PoolError::Access(_) | PoolError::Request(_) => false,
    };
    ExchangeError { text: error.to_string(), may_pass }
}
