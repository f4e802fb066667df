//! Several clusters behind one address: a request's path or host to the gateway of its cluster.
//!
//! `/clusters/NAME/…` is the cluster of that name, with the rest as its path, and so is every path
//! of a host of that name. All else is the cluster without a name, if there is one.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bowline_io::serve::{Peer, Reply};
use http::uri::PathAndQuery;
use http::{Request, Uri, header};
use hyper::body::Incoming;

use crate::rest::NearLeg;
use crate::server::Gateway;
use crate::status::{self, Refusal};

const PREFIX: &str = "/clusters/";

/// The gateways of some clusters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clusters(Arc<Gateways>);

#[derive(Debug, Default)]
struct Gateways {
    named: BTreeMap<String, Gateway>,
    unnamed: Option<Gateway>,
}

impl Clusters {
    /// Makes it of gateways with their names. The one with an empty name, or else the only one, has
    /// the requests that name none.
    #[must_use]
    pub fn new(gateways: impl IntoIterator<Item = (String, Gateway)>) -> Clusters {
        let mut named: BTreeMap<String, Gateway> = gateways.into_iter().collect();
        let only = if named.len() == 1 { named.values().next().cloned() } else { None };
        let unnamed = named.remove("").or(only);
        Clusters(Arc::new(Gateways { named, unnamed }))
    }

    /// Answers a request, as [`Gateway::answer`] does.
    pub async fn answer(self, peer: Peer, mut request: Request<Incoming>) -> Reply {
        match request.uri().path() {
            "/readyz" if !self.0.is_ready().await => return status::text(503, "not ready"),
            "/healthz" | "/livez" | "/readyz" => return status::text(200, "ok"),
            _ => {}
        }
        match self.0.choose(&mut request) {
            Some(gateway) => gateway.reply(peer, request).await,
            None => Refusal::no_such_path().reply(),
        }
    }
}

impl Gateways {
    /// Whether one of them is: a cluster that is gone must not take the others from their clients.
    async fn is_ready(&self) -> bool {
        let asked = self.named.values().chain(&self.unnamed).map(Gateway::is_ready);
        any(asked.map(Box::pin).collect()).await
    }

    /// Returns the gateway of a request's cluster, and takes the prefix off its path.
    fn choose(&self, request: &mut Request<Incoming>) -> Option<&Gateway> {
        if let Some((name, rest)) = prefixed(request.uri()) {
            let gateway = self.named.get(name)?;
            let prefix = format!("{PREFIX}{name}");
            request.extensions_mut().insert(NearLeg { prefix, ..NearLeg::default() });
            *request.uri_mut() = rest;
            return Some(gateway);
        }
        if self.named.is_empty() {
            return self.unnamed.as_ref();
        }
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| request.uri().host()).unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
        self.named.get(&name).or(self.unnamed.as_ref())
    }
}

/// Waits for the first that says yes, or until all have said no.
async fn any<F: Future<Output = bool> + Unpin>(mut asked: Vec<F>) -> bool {
    poll_fn(|cx| {
        let mut found = false;
        asked.retain_mut(|one| match Pin::new(one).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(is_so) => {
                found |= is_so;
                false
            }
        });
        if found || asked.is_empty() { Poll::Ready(found) } else { Poll::Pending }
    })
    .await
}

/// Returns the name in the path of a target, and the target without it.
fn prefixed(target: &Uri) -> Option<(&str, Uri)> {
    let whole = target.path_and_query()?.as_str();
    let behind = whole.strip_prefix(PREFIX)?;
    let (name, rest) = behind.split_at(behind.find(['/', '?']).unwrap_or(behind.len()));
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let mut parts = target.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Some((name, Uri::from_parts(parts).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_name_is_taken_off_its_path_and_all_else_stays() {
        let read = |target: &str| {
            let uri: Uri = target.parse().unwrap();
            prefixed(&uri).map(|(name, rest)| format!("{name} {rest}"))
        };
        for (target, expected) in [
            ("/clusters/a/api/v1/pods?x=%2F", Some("a /api/v1/pods?x=%2F")),
            ("/clusters/a//api", Some("a //api")),
            ("/clusters/a/", Some("a /")),
            ("/clusters/a", Some("a /")),
            ("/clusters/a?watch=1", Some("a /?watch=1")),
            ("/clusters/", Some(" /")),
            ("/clusters", None),
            ("/api/clusters/a", None),
            ("/", None),
        ] {
            assert_eq!(read(target).as_deref(), expected, "{target}");
        }
        let read = read("https://gw/clusters/a/api");
        assert_eq!(read.as_deref(), Some("a https://gw/api"));
    }
}
