//! The three methods of a container runtime whose answers are URLs.

/// A method whose answer is a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Exec,
    Attach,
    PortForward,
}

/// The services that have them: the one of today, and that of Kubernetes before 1.26.
const SERVICES: [&[u8]; 2] = [b"/runtime.v1.RuntimeService/", b"/runtime.v1alpha2.RuntimeService/"];

impl Method {
    /// The method that a request's `:path` calls.
    pub(super) fn of_path(path: &[u8]) -> Option<Method> {
        match SERVICES.into_iter().find_map(|service| path.strip_prefix(service))? {
            b"Exec" => Some(Method::Exec),
            b"Attach" => Some(Method::Attach),
            b"PortForward" => Some(Method::PortForward),
            _ => None,
        }
    }
}
