//! Streams of pods to an API server: a request of our own, over the carrier that it takes.

use std::sync::Arc;

use bowline_io::http::lines;
use bowline_io::random;
use bowline_io::serve::Body;
use bowline_io::upstream::UpstreamError;
use bowline_proto::negotiate::{Lines, Offer};
use bowline_proto::session::Protocol;
use bowline_proto::session::protocol::Carrier;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::utf8_percent_encode;
use serde_json::Value;

use super::{ApiServer, add_client_headers};
use crate::backend::{Backend, Destination, FarLeg, Ready, Target};
use crate::callers::{Caller, Onward};
use crate::components::Answer;
use crate::kept::not_kept;
use crate::names::UNESCAPED;
use crate::nodes;
use crate::options::{ExecOptions, ForwardOptions, LogOptions, Verb};
use crate::status::Refusal;

impl Backend for Arc<ApiServer> {
    fn is_ready(&self) -> Ready<'_> {
        Box::pin(self.is_there())
    }

    fn find<'a>(
        &'a self,
        caller: &'a Caller,
        target: Target<'a>,
    ) -> Answer<'a, Box<dyn Destination>> {
        let name = |text| utf8_percent_encode(text, UNESCAPED);
        let Target { namespace, pod, container, method, query, headers } = target;
        let pod_path =
            format!("{}/api/v1/namespaces/{}/pods/{}", self.prefix, name(namespace), name(pod));
        let mut client_headers = HeaderMap::new();
        add_client_headers(&mut client_headers, headers);
        let found = PodBehind {
            server: self.clone(),
            onward: caller.onward.clone(),
            pod_path,
            container: container.unwrap_or_default().to_owned(),
            method: method.clone(),
            query: query.to_owned(),
            client_headers,
        };
        Box::pin(async move { Ok(Box::new(found) as Box<dyn Destination>) })
    }
}

/// A pod, of which the API server knows whether it is there.
struct PodBehind {
    server: Arc<ApiServer>,
    onward: Onward,
    pod_path: String,
    container: String,
    /// The client's. SPDY is asked for by it too, so that the API server judges the client's verb.
    method: Method,
    query: String,
    client_headers: HeaderMap,
}

impl PodBehind {
    fn path(&self, subresource: &str) -> String {
        let mark = if self.query.is_empty() { "" } else { "?" };
        format!("{}/{subresource}{mark}{}", self.pod_path, self.query)
    }

    /// Asks for an upgrade with these headers, and once more with other credentials of the
    /// gateway's own after a 401.
    async fn ask(
        &self,
        path: &str,
        method: &str,
        handshake: &[(&'static str, String)],
    ) -> Result<FarLeg, Refusal> {
        let mut may_renew = self.onward.own_identity;
        loop {
            let (upstream, mut headers, access) = self.server.way(&self.onward).await?;
            for (name, value) in &self.client_headers {
                headers.append(name, value.clone());
            }
            for (name, value) in handshake {
                if let (Ok(name), Ok(value)) =
                    (HeaderName::try_from(*name), HeaderValue::try_from(value))
                {
                    headers.append(name, value);
                }
            }
            if method == Method::POST {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            match upstream.pass_on(path, method, &headers).await {
                Ok((head, connection)) => return Ok(FarLeg { headers: head.headers, connection }),
                Err(UpstreamError::Refused(said))
                    if may_renew && said.head.status == StatusCode::UNAUTHORIZED =>
                {
                    may_renew = false;
                    let renewed = self.server.own.renew(&access).await;
                    if !matches!(renewed, Ok(true)) {
                        return Err(refusal(UpstreamError::Refused(said)));
                    }
                }
                Err(error) => {
                    self.server.note_failure(&error);
                    return Err(refusal(error));
                }
            }
        }
    }

    async fn offer(
        &self,
        subresource: &str,
        offer: &Offer,
    ) -> Result<(FarLeg, &'static Protocol), Refusal> {
        let method = match offer.carrier {
            Carrier::WebSocket => offer.method(),
            Carrier::Spdy => self.method.as_str(),
        };
        let far = self.ask(&self.path(subresource), method, &offer.headers()).await?;
        let said = lines(&far.headers);
        let protocol = offer.check(StatusCode::SWITCHING_PROTOCOLS.as_u16(), Lines(&said));
        let protocol = protocol.map_err(|error| refusal(UpstreamError::NotUpgraded(error)))?;
        Ok((far, protocol))
    }
}

impl Destination for PodBehind {
    fn container(&self) -> &str {
        &self.container
    }

    fn hop(&self) -> &'static str {
        "gateway to API server"
    }

    fn forward_carriers(&self, _: Carrier) -> &'static [Carrier] {
        self.server.forwards.carriers()
    }

    fn took(&self, carrier: Carrier) {
        self.server.forwards.took(carrier);
    }

    fn command<'a>(
        &'a self,
        verb: Verb,
        _: &'a ExecOptions,
    ) -> Answer<'a, (FarLeg, &'static Protocol)> {
        Box::pin(async move {
            let mut carriers = self.server.commands.carriers().iter().copied().peekable();
            loop {
                let carrier = carriers.next().unwrap_or(Carrier::Spdy);
                let offer = match carrier {
                    Carrier::WebSocket => Offer::websocket(random::bytes()),
                    Carrier::Spdy => Offer::spdy(),
                };
                match self.offer(verb.word(), &offer).await {
                    Err(refusal) if may_ask_again(verb, &refusal) && carriers.peek().is_some() => {}
                    Err(refusal) => return Err(refusal),
                    Ok(opened) => {
                        self.server.commands.took(carrier);
                        return Ok(opened);
                    }
                }
            }
        })
    }

    fn port_forward<'a>(
        &'a self,
        _: &'a ForwardOptions,
        carrier: Carrier,
    ) -> Answer<'a, (FarLeg, &'static Protocol)> {
        Box::pin(async move {
            let offer = match carrier {
                Carrier::WebSocket => Offer::tunnel(random::bytes()),
                Carrier::Spdy => Offer::forward(),
            };
            self.offer("portforward", &offer).await
        })
    }

    fn pass_port_forward<'a>(
        &'a self,
        _: &'a ForwardOptions,
        method: &'a Method,
        headers: &'a [(&'static str, String)],
    ) -> Answer<'a, FarLeg> {
        Box::pin(async move { self.ask(&self.path("portforward"), method.as_str(), headers).await })
    }

    fn pass_kept<'a>(
        &'a self,
        _: &'a ExecOptions,
        headers: &'a [(&'static str, String)],
    ) -> Answer<'a, FarLeg> {
        Box::pin(async move {
            let asked = self.ask(&self.path("exec"), Method::GET.as_str(), headers).await;
            asked.map_err(|refusal| match refusal {
                // Without a Status it is not the API server that has forbidden it.
                Refusal { code: 403, is_answer: true, status: None, .. } => {
                    not_kept("the node has none")
                }
                refusal => refusal,
            })
        })
    }

    /// Logs are passed on with all other requests.
    fn log<'a>(&'a self, _: &'a LogOptions) -> Answer<'a, Body> {
        Box::pin(async { Err(Refusal::no_such_path()) })
    }
}

/// Makes the client's answer of what came instead of a 101.
fn refusal(error: UpstreamError) -> Refusal {
    let falls_back = match &error {
        UpstreamError::Refused(_) | UpstreamError::NotUpgraded(_) => true,
        // A middlebox may drop a request that it does not know.
        UpstreamError::Http(error) => error.is_cut(),
        UpstreamError::Dial(_) | UpstreamError::Request(_) => false,
    };
    let is_answer = matches!(error, UpstreamError::Refused(_));
    let status = match &error {
        UpstreamError::Refused(said) => status_of(&said.body),
        _ => None,
    };
    let refusal = match error {
        UpstreamError::Dial(error) => super::unreachable_because(&error),
        error => nodes::refusal(error),
    };
    Refusal { falls_back, is_answer, status: status.map(Box::new), ..refusal }
}

/// Whether another carrier may be tried. A command that was asked for without an answer may have
/// begun, and must not run twice: only a refusal says that it has not.
fn may_ask_again(verb: Verb, refusal: &Refusal) -> bool {
    refusal.falls_back && (verb == Verb::Attach || refusal.is_answer)
}

/// Returns the body of a refusal if it is a whole Status: the API server has said why to the client
/// itself.
fn status_of(body: &Bytes) -> Option<Bytes> {
    let said: Value = serde_json::from_slice(body).ok()?;
    (said["kind"] == "Status").then(|| body.clone())
}
