//! A path to what it names.

use bowline_io::record::{Asker, Record};
use bowline_io::target::{BadPath, Parts, parts};

use super::answers::Plain;

/// The part of a URL that says what is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Healthz,
    Exec(Named),
    Attach(Named),
    Logs(Named),
    PortForward { namespace: String, pod: String, uid: Option<String> },
}

/// A container, as a URL names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: Option<String>,
    pub(super) container: String,
}

impl Named {
    pub(super) fn record(&self, verb: &'static str, asker: &Asker) -> Record {
        let container = self.container.clone();
        Record { container, ..asker.record(verb, &self.namespace, &self.pod) }
    }
}

/// `/exec/NAMESPACE/POD/CONTAINER`, or with a uid before the container, and `/attach` likewise;
/// `/containerLogs/NAMESPACE/POD/CONTAINER`; `/portForward/NAMESPACE/POD`, or with a uid behind the
/// pod.
pub(super) fn route(path: &str) -> Result<Route, Plain> {
    let unknown = || Plain::new(404, "404 page not found");
    let Parts { names, ends_with_slash } = parts(path).map_err(|bad| match bad {
        BadPath::NotText => Plain::new(400, bad.to_string()),
        // The kubelet redirects to a path that may be the right one; no stream follows that.
        BadPath::NotClean => unknown(),
    })?;
    let (verb, parts) = names.split_first().ok_or_else(unknown)?;
    if verb == "healthz" {
        let is_health =
            !ends_with_slash && matches!(parts, [] | [_] if parts.iter().all(|one| one == "ping"));
        return is_health.then_some(Route::Healthz).ok_or_else(unknown);
    }
    let named =
        |namespace: &String, pod: &String, uid: Option<&String>, container: &String| Named {
            namespace: namespace.clone(),
            pod: pod.clone(),
            uid: uid.cloned(),
            container: container.clone(),
        };
    let forward = |namespace: &String, pod: &String, uid: Option<&String>| Route::PortForward {
        namespace: namespace.clone(),
        pod: pod.clone(),
        uid: uid.cloned(),
    };
    match (verb.as_str(), parts) {
        ("exec", [namespace, pod, container]) => {
            Ok(Route::Exec(named(namespace, pod, None, container)))
        }
        ("exec", [namespace, pod, uid, container]) => {
            Ok(Route::Exec(named(namespace, pod, Some(uid), container)))
        }
        ("attach", [namespace, pod, container]) => {
            Ok(Route::Attach(named(namespace, pod, None, container)))
        }
        ("attach", [namespace, pod, uid, container]) => {
            Ok(Route::Attach(named(namespace, pod, Some(uid), container)))
        }
        ("containerLogs", [namespace, pod, container]) => {
            Ok(Route::Logs(named(namespace, pod, None, container)))
        }
        ("portForward", [namespace, pod]) => Ok(forward(namespace, pod, None)),
        ("portForward", [namespace, pod, uid]) => Ok(forward(namespace, pod, Some(uid))),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let named = |uid: Option<&str>| Named {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: uid.map(Into::into),
            container: "c d".into(),
        };
        assert_eq!(route("/exec/ns/p/c%20d"), Ok(Route::Exec(named(None))));
        assert_eq!(route("/exec/ns/p/u/c%20d"), Ok(Route::Exec(named(Some("u")))));
        assert_eq!(route("/attach/ns/p/c%20d"), Ok(Route::Attach(named(None))));
        assert_eq!(route("/attach/ns/p/u/c%20d"), Ok(Route::Attach(named(Some("u")))));
        assert_eq!(route("/containerLogs/ns/p/c%20d"), Ok(Route::Logs(named(None))));
        assert_eq!(route("/healthz"), Ok(Route::Healthz));
        assert_eq!(route("/healthz/ping"), Ok(Route::Healthz));
        assert_eq!(route("/exec/ns/p/c%20d/"), Ok(Route::Exec(named(None))));
        let forward = |uid: Option<&str>| Route::PortForward {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: uid.map(Into::into),
        };
        assert_eq!(route("/portForward/ns/p"), Ok(forward(None)));
        assert_eq!(route("/portForward/ns/p/u"), Ok(forward(Some("u"))));
        for (path, code) in [
            ("/", 404),
            ("/exec/a/b", 404),
            ("/portforward/a/b", 404),
            ("/exec/a//c", 404),
            ("//exec/a/b/c", 404),
            ("/exec/../exec/a/b/c", 404),
            ("/exec/%2e%2e/b/c", 404),
            ("/exec/a/b%2fc/d", 404),
            ("//healthz", 404),
            ("/healthz/", 404),
            ("/healthz/x", 404),
            ("/exec/%ff/b/c", 400),
        ] {
            assert_eq!(route(path).unwrap_err().code, code, "{path}");
        }
    }
}
