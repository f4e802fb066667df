//! An answer that redirects, as the client may have it.
//!
//! The gateway follows none. An API server redirects to paths of its own, and passes on those of
//! applications behind `/proxy/`; what a client sends to such a path is a new request, which is
//! judged as one. A redirect to another server is how an extension of an API server would have
//! clients bring it their credentials (CVE-2022-3172): API servers since 1.25.1 answer 502 instead,
//! and for older ones the gateway does.

use bowline_io::request_target::parts;
use url::{Position, Url};

/// What becomes of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// It is passed on, to here.
    To(String),
    /// It is refused.
    Refused,
}

/// Judges the `Location` of an answer to a request for `path`. `base` is the API server's URL for
/// that request, `own_prefix` the path in front of its API, and `prefix` what was taken off the
/// client's path.
pub(super) fn judge(
    location: &str,
    base: &Url,
    path: &str,
    own_prefix: &str,
    prefix: &str,
) -> Redirect {
    let is_application = is_application(path);
    let Ok(target) = base.join(location) else {
        return Redirect::Refused;
    };
    let is_own = target[..Position::BeforePath] == base[..Position::BeforePath];
    if !is_own {
        return if is_application { Redirect::To(location.to_owned()) } else { Redirect::Refused };
    }
    // What is relative to the client's path stays right, and so does what has nothing around it.
    let is_path = location.starts_with('/') && !location.starts_with("//");
    if !is_path && !location.contains("//") || is_path && own_prefix == prefix {
        return Redirect::To(location.to_owned());
    }
    let there = &target[Position::BeforePath..];
    match there.strip_prefix(own_prefix) {
        Some(rest) => Redirect::To(format!("{prefix}{rest}")),
        None => Redirect::Refused,
    }
}

/// Whether a path is one of an application behind an API server's own proxy. An extension of the
/// API may have paths that look like those.
fn is_application(path: &str) -> bool {
    let names = parts(path).map(|parts| parts.names).unwrap_or_default();
    match names.iter().map(|name| &**name).collect::<Vec<_>>()[..] {
        ["api", "v1", "namespaces", _, kind, _, "proxy", ..] => {
            matches!(kind, "pods" | "services")
        }
        ["api", "v1", "nodes", _, "proxy", ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_applications_lead_to_other_servers() {
        let judged = |location: &str, path: &str, own: &str, prefix: &str| {
            let base = Url::parse("https://api:6443").unwrap().join(&format!("{own}{path}"));
            match judge(location, &base.unwrap(), path, own, prefix) {
                Redirect::To(location) => Some(location),
                Redirect::Refused => None,
            }
        };
        let proxied = "/api/v1/namespaces/a/pods/b/proxy/c";
        for (location, path, own, prefix, expected) in [
            ("/a/b/", "/a/b", "", "", Some("/a/b/")),
            ("/a/b/", "/a/b", "", "/clusters/x", Some("/clusters/x/a/b/")),
            ("b/?c", "/a/b", "", "/clusters/x", Some("b/?c")),
            ("https://api:6443/a?b", "/a", "", "/clusters/x", Some("/clusters/x/a?b")),
            ("/k8s/1/a/", "/a", "/k8s/1", "", Some("/a/")),
            ("/k8s/2/a/", "/a", "/k8s/1", "", None),
            ("https://evil/", "/apis/e.io/v1/x", "", "", None),
            ("//evil/", "/apis/e.io/v1/x", "", "", None),
            ("/\\evil/", "/apis/e.io/v1/x", "", "", None),
            ("\\\\evil/", "/apis/e.io/v1/x", "", "", None),
            ("http://api:6443/", "/a", "", "", None),
            ("https://:0:0/", "/a", "", "", None),
            ("https://evil/", "/apis/e.io/v1/proxy/x", "", "", None),
            ("https://evil/", "/api/v1/namespaces/a/pods/b/log/proxy/x", "", "", None),
            ("https://sso/login", proxied, "", "", Some("https://sso/login")),
        ] {
            let judged = judged(location, path, own, prefix);
            assert_eq!(judged.as_deref(), expected, "{location} of {path}");
        }
    }
}
