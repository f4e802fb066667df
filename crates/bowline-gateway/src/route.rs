//! A request's path to what it names. Nothing behind this looks at a path again.

use std::borrow::Cow;

use bowline_io::auth::{Attributes, ResourceAttributes};
use bowline_io::request_target::{BadPath, Parts, parts};
use http::Method;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    Api,
    /// `/api/v1`.
    Core,
    /// `/apis`.
    Groups,
    /// A command in a pod.
    Exec {
        /// Its namespace.
        namespace: String,
        /// The pod.
        name: String,
    },
    /// The console of a pod's main process.
    Attach {
        /// Its namespace.
        namespace: String,
        /// The pod.
        name: String,
    },
    /// What a container has written.
    Log {
        /// Its namespace.
        namespace: String,
        /// The pod.
        name: String,
    },
    /// Connections to a pod's ports.
    PortForward {
        /// Its namespace.
        namespace: String,
        /// The pod.
        name: String,
    },
    /// Objects of one kind.
    List {
        /// Their kind.
        kind: Kind,
        /// Their namespace; `None` is all namespaces.
        namespace: Option<String>,
    },
    /// One object.
    Get {
        /// Its kind.
        kind: Kind,
        /// Its namespace; `None` for kinds that have none.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// A path that the gateway does not know; its `rest` may know it.
    Other {
        /// The path as it came.
        path: String,
    },
}

/// More names than a path has of which anything is known here.
const NAMES: usize = 8;

/// The kinds of objects that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pods.
    Pods,
    /// Nodes.
    Nodes,
    /// Namespaces.
    Namespaces,
    /// Events; there are none, but `describe` asks for them.
    Events,
    /// Services.
    Services,
}

impl Kind {
    /// All kinds, with the names of their resources.
    pub const ALL: [(&'static str, Kind); 5] = [
        ("pods", Kind::Pods),
        ("nodes", Kind::Nodes),
        ("namespaces", Kind::Namespaces),
        ("events", Kind::Events),
        ("services", Kind::Services),
    ];

    fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|row| row.0 == name).map(|row| row.1)
    }

    /// Returns the name of its resource.
    #[must_use]
    pub fn resource(self) -> &'static str {
        Kind::ALL.into_iter().find(|row| row.1 == self).map_or("", |row| row.0)
    }

    /// Returns whether its objects are in namespaces.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        matches!(self, Kind::Pods | Kind::Events | Kind::Services)
    }
}

impl Route {
    /// Reads a path.
    ///
    /// # Errors
    /// [`BadPath`] if the path could be read in more than one way, or is no text.
    pub fn parse(path: &str) -> Result<Route, BadPath> {
        let Parts { names, ends_with_slash } = parts(path)?;
        let mut first = [""; NAMES];
        for (first, name) in first.iter_mut().zip(&names) {
            *first = name;
        }
        let found = match first[..names.len().min(NAMES)] {
            ["healthz" | "livez" | "readyz"] | ["healthz" | "livez" | "readyz", "ping"] => {
                (!ends_with_slash).then_some(Route::Health)
            }
            ["version"] => Some(Route::Version),
            ["api"] => Some(Route::Api),
            ["api", "v1"] => Some(Route::Core),
            ["apis"] => Some(Route::Groups),
            ["api", "v1", "namespaces", namespace, "pods", name, "exec"] => {
                Some(Route::Exec { namespace: namespace.into(), name: name.into() })
            }
            ["api", "v1", "namespaces", namespace, "pods", name, "attach"] => {
                Some(Route::Attach { namespace: namespace.into(), name: name.into() })
            }
            ["api", "v1", "namespaces", namespace, "pods", name, "log"] => {
                Some(Route::Log { namespace: namespace.into(), name: name.into() })
            }
            ["api", "v1", "namespaces", namespace, "pods", name, "portforward"] => {
                Some(Route::PortForward { namespace: namespace.into(), name: name.into() })
            }
            ["api", "v1", "namespaces", namespace, kind] => Kind::named(kind)
                .filter(|kind| kind.is_namespaced())
                .map(|kind| Route::List { kind, namespace: Some(namespace.into()) }),
            ["api", "v1", "namespaces", namespace, kind, name] => {
                Kind::named(kind).filter(|kind| kind.is_namespaced()).map(|kind| Route::Get {
                    kind,
                    namespace: Some(namespace.into()),
                    name: name.into(),
                })
            }
            ["api", "v1", kind] => {
                Kind::named(kind).map(|kind| Route::List { kind, namespace: None })
            }
            ["api", "v1", kind, name] => Kind::named(kind)
                .filter(|kind| !kind.is_namespaced())
                .map(|kind| Route::Get { kind, namespace: None, name: name.into() }),
            _ => None,
        };
        Ok(found.unwrap_or_else(|| Route::Other { path: path.to_owned() }))
    }

    /// Whether it is a stream that a gateway joins to another one.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self, Route::Exec { .. } | Route::Attach { .. } | Route::PortForward { .. })
    }

    /// Returns what a request for it with this method has to be allowed.
    #[must_use]
    pub fn attributes(&self, method: &Method, path: &str) -> Attributes {
        let (resource, subresource, namespace, name) = match self {
            Route::Exec { namespace, name } => ("pods", "exec", &**namespace, &**name),
            Route::Attach { namespace, name } => ("pods", "attach", &**namespace, &**name),
            Route::PortForward { namespace, name } => {
                ("pods", "portforward", &**namespace, &**name)
            }
            Route::Log { namespace, name } => ("pods", "log", &**namespace, &**name),
            Route::List { kind, namespace } => {
                (kind.resource(), "", namespace.as_deref().unwrap_or_default(), "")
            }
            Route::Get { kind, namespace, name } => {
                (kind.resource(), "", namespace.as_deref().unwrap_or_default(), &**name)
            }
            _ => return path_attributes(method, path),
        };
        // A namespace is an object in itself.
        let namespace = match self {
            Route::Get { kind: Kind::Namespaces, name, .. } => name,
            _ => namespace,
        };
        Attributes::Resource(ResourceAttributes {
            verb: verb(method, name.is_empty()).into(),
            group: "".into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// Returns what a request for an upgrade has to be allowed if its path leads through an API server
/// to the streams of a kubelet: those run commands in every pod of a node. `None` for other paths.
#[must_use]
pub fn kubelet_stream(method: &Method, path: &str) -> Option<Attributes> {
    const STREAMS: [&str; 5] = ["exec", "attach", "portforward", "run", "cri"];
    let parts = parts(path).ok()?;
    let names: Vec<&str> = parts.names.iter().map(|name| &**name).collect();
    let (node, to) = match names[..] {
        ["api", "v1", "nodes", node, "proxy", to, ..] => (node, to),
        // As old API servers had it.
        ["api", "v1", "proxy", "nodes", node, to, ..] => (node, to),
        _ => return None,
    };
    STREAMS.contains(&&*to.to_ascii_lowercase()).then(|| {
        Attributes::Resource(ResourceAttributes {
            verb: verb(method, false).into(),
            group: "".into(),
            version: "v1".into(),
            resource: "nodes".into(),
            subresource: "proxy".into(),
            namespace: String::new(),
            name: node.to_owned(),
        })
    })
}

/// Returns what a request for a path that names no resource has to be allowed.
#[must_use]
pub fn path_attributes(method: &Method, path: &str) -> Attributes {
    Attributes::NonResource {
        verb: match *method {
            Method::GET => Cow::Borrowed("get"),
            _ => method.as_str().to_ascii_lowercase().into(),
        },
        path: path.to_owned(),
    }
}

/// Returns Kubernetes' verb for a method.
fn verb(method: &Method, is_list: bool) -> &'static str {
    match (method.as_str(), is_list) {
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", false) => "delete",
        ("DELETE", true) => "deletecollection",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) => "get",
        // No verb, so that only a policy for all verbs fits.
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_kubelets_are_found_behind_nodes() {
        let found = |path| match kubelet_stream(&Method::GET, path)? {
            Attributes::Resource(found) => Some(found),
            Attributes::NonResource { .. } => None,
        };
        for path in [
            "/api/v1/nodes/n/proxy/exec/ns/p/c?command=x",
            "/api/v1/nodes/n/proxy/attach/ns/p/c",
            "/api/v1/nodes/n/proxy/portForward/ns/p",
            "/api/v1/nodes/n/proxy/run/ns/p/c",
            "/api/v1/nodes/n/proxy/cri/exec/token",
            "/api/v1/nodes/n/proxy/%65xec/ns/p/c",
            "/api/v1/nodes/n/proxy/exec/",
            "/api/v1/proxy/nodes/n/exec/ns/p/c",
        ] {
            let path = path.split('?').next().unwrap_or_default();
            let found = found(path).unwrap();
            let what = (&*found.resource, &*found.subresource, &*found.name, &*found.verb);
            assert_eq!(what, ("nodes", "proxy", "n", "get"), "{path}");
        }
        for path in [
            "/api/v1/nodes/n/proxy/logs/x",
            "/api/v1/nodes/n/proxy/metrics",
            "/api/v1/nodes/n/proxy",
            "/api/v1/nodes/n",
            "/api/v1/namespaces/ns/pods/p/proxy/exec",
            "/api/v1/namespaces/ns/services/p/proxy/exec/a/b/c",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn paths() {
        let exec = Route::Exec { namespace: "ns".into(), name: "p q".into() };
        assert_eq!(Route::parse("/api/v1/namespaces/ns/pods/p%20q/exec"), Ok(exec));
        let forward = Route::PortForward { namespace: "ns".into(), name: "p".into() };
        assert_eq!(Route::parse("/api/v1/namespaces/ns/pods/p/portforward"), Ok(forward));
        let attach = Route::Attach { namespace: "ns".into(), name: "p".into() };
        assert_eq!(Route::parse("/api/v1/namespaces/ns/pods/p/attach"), Ok(attach));
        let log = Route::Log { namespace: "ns".into(), name: "p".into() };
        assert_eq!(Route::parse("/api/v1/namespaces/ns/pods/p/log"), Ok(log));
        let list = Route::List { kind: Kind::Pods, namespace: None };
        assert_eq!(Route::parse("/api/v1/pods"), Ok(list));
        assert_eq!(Route::parse("/api/v1/pods/"), Route::parse("/api/v1/pods"));
        assert_eq!(Route::parse("/readyz"), Ok(Route::Health));
        assert_eq!(Route::parse("/livez/ping"), Ok(Route::Health));
        for path in [
            "/api/v1/namespaces/ns/pods/p/portForward",
            "/api/v1/pods/x",
            "/apis/apps/v1",
            "/",
            "/healthz/",
            "/healthz/x",
        ] {
            assert_eq!(Route::parse(path), Ok(Route::Other { path: path.into() }));
        }
        assert_eq!(Route::parse("/api/v1/namespaces/ns/pods/%ff"), Err(BadPath::NotText));
        for path in [
            "/api/v1/namespaces/a%2fb/pods",
            "/api/v1/namespaces/ns/pods/../exec",
            "/api/v1/namespaces/ns/pods/%2e%2e/exec",
            "//api/v1/pods",
            "/api//v1/pods",
            "/api/./v1/pods",
            "/api/v1/pods//",
            "//healthz",
        ] {
            assert_eq!(Route::parse(path), Err(BadPath::NotClean), "{path}");
        }
    }
}
