//! A path to what it names.

use std::borrow::Cow;

use bowline_io::record::{Record, Requester};
use bowline_io::request_target::{BadPath, parts};

use crate::health::Question;
use crate::runtime::{PodTarget, Refusal, Target};

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Health(Question),
    Exec(Target),
    Attach(Target),
    Run(Target),
    Logs(Target),
    PortForward(PodTarget),
}

impl Route {
    /// Whether it lets a client do something in a container, and not only read.
    pub(super) fn is_stream(&self) -> bool {
        match self {
            Route::Exec(_) | Route::Attach(_) | Route::Run(_) | Route::PortForward(_) => true,
            Route::Health(_) | Route::Logs(_) => false,
        }
    }
}

pub(super) fn record(verb: &'static str, requester: &Requester, target: &Target) -> Record {
    let Target { pod, container } = target;
    Record { container: container.clone(), ..requester.record(verb, &pod.namespace, &pod.name) }
}

/// Reads `/exec/NAMESPACE/POD/CONTAINER`, or with a uid before the container, `/attach` and `/run`
/// likewise; `/containerLogs/NAMESPACE/POD/CONTAINER`; `/portForward/NAMESPACE/POD`, or with a uid
/// behind the pod.
pub(super) fn route(path: &str) -> Result<Route, Refusal> {
    let unknown = || Refusal::new(404, "404 page not found");
    let path = parts(path).map_err(|bad| match bad {
        BadPath::NotText => Refusal::new(400, bad.to_string()),
        // The kubelet redirects to a path that may be the right one; no stream follows that.
        BadPath::NotClean => unknown(),
    })?;
    if let Some(question) = Question::read(&path) {
        return Ok(Route::Health(question));
    }
    let names: Vec<String> = path.names.into_iter().map(Cow::into_owned).collect();
    let (verb, parts) = names.split_first().ok_or_else(unknown)?;
    let pod = |namespace: &String, name: &String, uid: Option<&String>| PodTarget {
        namespace: namespace.clone(),
        name: name.clone(),
        uid: uid.cloned(),
    };
    let target = |namespace, name, uid, container: &String| Target {
        pod: pod(namespace, name, uid),
        container: container.clone(),
    };
    match (verb.as_str(), parts) {
        ("exec", [namespace, name, uid @ .., container]) if uid.len() <= 1 => {
            Ok(Route::Exec(target(namespace, name, uid.first(), container)))
        }
        ("attach", [namespace, name, uid @ .., container]) if uid.len() <= 1 => {
            Ok(Route::Attach(target(namespace, name, uid.first(), container)))
        }
        ("run", [namespace, name, uid @ .., container]) if uid.len() <= 1 => {
            Ok(Route::Run(target(namespace, name, uid.first(), container)))
        }
        ("containerLogs", [namespace, name, container]) => {
            Ok(Route::Logs(target(namespace, name, None, container)))
        }
        ("portForward", [namespace, name, uid @ ..]) if uid.len() <= 1 => {
            Ok(Route::PortForward(pod(namespace, name, uid.first())))
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let pod = |uid: Option<&str>| PodTarget {
            namespace: "ns".into(),
            name: "p".into(),
            uid: uid.map(Into::into),
        };
        let named = |uid| Target { pod: pod(uid), container: "c d".into() };
        assert_eq!(route("/exec/ns/p/c%20d"), Ok(Route::Exec(named(None))));
        assert_eq!(route("/exec/ns/p/u/c%20d"), Ok(Route::Exec(named(Some("u")))));
        assert_eq!(route("/attach/ns/p/c%20d"), Ok(Route::Attach(named(None))));
        assert_eq!(route("/attach/ns/p/u/c%20d"), Ok(Route::Attach(named(Some("u")))));
        assert_eq!(route("/run/ns/p/c%20d"), Ok(Route::Run(named(None))));
        assert_eq!(route("/run/ns/p/u/c%20d"), Ok(Route::Run(named(Some("u")))));
        assert_eq!(route("/containerLogs/ns/p/c%20d"), Ok(Route::Logs(named(None))));
        assert_eq!(route("/healthz"), Ok(Route::Health(Question::Healthz)));
        assert_eq!(route("/healthz/ping"), Ok(Route::Health(Question::Healthz)));
        assert_eq!(route("/readyz"), Ok(Route::Health(Question::Readyz)));
        assert_eq!(route("/exec/ns/p/c%20d/"), Ok(Route::Exec(named(None))));
        let forward = |uid| Route::PortForward(pod(uid));
        assert_eq!(route("/portForward/ns/p"), Ok(forward(None)));
        assert_eq!(route("/portForward/ns/p/u"), Ok(forward(Some("u"))));
        for (path, code) in [
            ("/", 404),
            ("/exec/a/b", 404),
            ("/exec/a/b/c/d/e", 404),
            ("/containerLogs/a/b", 404),
            ("/containerLogs/a/b/c/d", 404),
            ("/portForward/a", 404),
            ("/portForward/a/b/c/d", 404),
            ("/other/a/b/c", 404),
            ("/portforward/a/b", 404),
            ("/exec/a//c", 404),
            ("//exec/a/b/c", 404),
            ("/exec/../exec/a/b/c", 404),
            ("/exec/%2e%2e/b/c", 404),
            ("/exec/a/b%2fc/d", 404),
            ("//healthz", 404),
            ("/healthz/", 404),
            ("/healthz/x", 404),
            ("/readyz/", 404),
            ("/readyz/ping", 404),
            ("/exec/%ff/b/c", 400),
        ] {
            assert_eq!(route(path).unwrap_err().code, code, "{path}");
        }
    }
}
