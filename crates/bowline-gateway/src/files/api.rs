//! A small API to read a cluster of files: version, discovery, pods, nodes, namespaces, services.

use std::future::ready;
use std::sync::Arc;

use bowline_io::request_target::query;
use bowline_io::serve::{Reply, Sessions};
use http::{HeaderValue, Method, Request, header};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::{discovery, select, table};
use crate::components::{Answer, Caller};
use crate::rest::Rest;
use crate::route::{Kind, Route};
use crate::status::{self, Refusal};

/// The version of Kubernetes that is shown; clients check their skew against it.
const GIT_VERSION: &str = concat!("v1.37.0+bowline-", env!("CARGO_PKG_VERSION"));

/// Answers requests for the objects of a cluster.
#[derive(Debug)]
pub struct Api {
    /// The objects.
    pub cluster: Arc<Cluster>,
    /// The server's own address, for discovery.
    pub address: String,
}

/// The parts of a request that an answer depends on.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    query: &'a str,
    /// `Accept`.
    accept: &'a str,
}

impl Rest for Api {
    fn answer<'a>(
        &'a self,
        _: &'a Caller,
        route: &'a Route,
        request: Request<Incoming>,
        _: &'a Sessions,
    ) -> Answer<'a, Reply> {
        let accept = request.headers().get(header::ACCEPT);
        let asked = Asked {
            query: query(&request),
            accept: accept.and_then(|accept| accept.to_str().ok()).unwrap_or_default(),
        };
        Box::pin(ready(self.read(request.method(), route, asked)))
    }
}

impl Api {
    fn read(&self, method: &Method, route: &Route, asked: Asked<'_>) -> Result<Reply, Refusal> {
        let Api { cluster, address } = self;
        // A path that is not there is so for every method.
        if let Route::Other { .. } = route {
            return Err(Refusal::no_such_path());
        }
        if method != Method::GET {
            return Err(Refusal::method_not_allowed());
        }
        let aggregated = discovery::is_aggregated(asked.accept);
        let body = match route {
            Route::Version => version(),
            Route::Api if aggregated => return Ok(aggregate(&discovery::aggregated_core())),
            Route::Groups if aggregated => return Ok(aggregate(&discovery::aggregated_groups())),
            Route::Api => discovery::versions(address),
            Route::Core => discovery::core(),
            Route::Groups => discovery::groups(),
            Route::List { kind, namespace } => list(cluster, *kind, namespace.as_deref(), asked)?,
            Route::Get { kind, namespace, name } => {
                let object = one(cluster, *kind, namespace.as_deref(), name)?;
                if wants_table(asked.accept) {
                    #[expect(clippy::disallowed_methods, reason = "ages are shown")]
                    table::table(*kind, &[object], Timestamp::now(), wants_objects(asked.query))
                } else {
                    object
                }
            }
            // The gateway answers for streams itself.
            _ => return Err(Refusal::no_such_path()),
        };
        Ok(status::json(200, &body))
    }
}

fn aggregate(body: &Value) -> Reply {
    let mut reply = status::json(200, body);
    let kind = HeaderValue::from_static(discovery::AGGREGATED_TYPE);
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "37",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn wants_table(accept: &str) -> bool {
    accept.split(',').next().is_some_and(|best| {
        best.contains("as=Table") && best.contains("g=meta.k8s.io") && best.contains("v=v1")
    }) || accept.contains("as=Table;v=v1;g=meta.k8s.io")
}

/// Returns whether whole objects go into a table's rows: `includeObject=Object`.
fn wants_objects(query: &str) -> bool {
    parameter(query, "includeObject").is_some_and(|include| include == "Object")
}

fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|pair| pair.0 == name)
        .map(|pair| pair.1.into_owned())
}

fn list(
    cluster: &Cluster,
    kind: Kind,
    namespace: Option<&str>,
    asked: Asked<'_>,
) -> Result<Value, Refusal> {
    let watch = parameter(asked.query, "watch");
    if watch.is_some_and(|watch| watch != "0" && watch != "false") {
        return Err(Refusal::bad_request("this server does not serve watches"));
    }
    let labels = parameter(asked.query, "labelSelector").unwrap_or_default();
    let fields = parameter(asked.query, "fieldSelector").unwrap_or_default();
    let mut objects = Vec::new();
    for object in all(cluster, kind, namespace) {
        let fits = select::labels(&labels, &object).ok_or_else(|| {
            Refusal::bad_request(format!("unable to parse requirement: {labels:?}"))
        })?;
        if fits && select::fields(&fields, &object) {
            objects.push(object);
        }
    }
    if wants_table(asked.accept) {
        let whole = wants_objects(asked.query);
        #[expect(clippy::disallowed_methods, reason = "ages are shown")]
        return Ok(table::table(kind, &objects, Timestamp::now(), whole));
    }
    let name = match kind {
        Kind::Pods => "PodList",
        Kind::Nodes => "NodeList",
        Kind::Namespaces => "NamespaceList",
        Kind::Events => "EventList",
        Kind::Services => "ServiceList",
    };
    Ok(json!({
        "kind": name,
        "apiVersion": "v1",
        "metadata": { "resourceVersion": "1" },
        "items": objects,
    }))
}

fn all(cluster: &Cluster, kind: Kind, namespace: Option<&str>) -> Vec<Value> {
    match kind {
        Kind::Pods => cluster.pods(namespace),
        Kind::Nodes => cluster.nodes(),
        Kind::Namespaces => {
            cluster.namespaces().iter().map(|name| namespace_object(name)).collect()
        }
        Kind::Events => Vec::new(),
        Kind::Services => cluster.services(namespace),
    }
}

fn one(
    cluster: &Cluster,
    kind: Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Value, Refusal> {
    let found = match kind {
        Kind::Pods => cluster.pod(namespace.unwrap_or_default(), name),
        Kind::Nodes => cluster.node(name).cloned(),
        Kind::Namespaces => {
            cluster.namespaces().iter().any(|one| one == name).then(|| namespace_object(name))
        }
        Kind::Events => None,
        Kind::Services => cluster.service(namespace.unwrap_or_default(), name),
    };
    found.ok_or_else(|| Refusal::not_found(kind.resource(), name))
}

fn namespace_object(name: &str) -> Value {
    json!({
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": { "name": name, "resourceVersion": "1" },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}
