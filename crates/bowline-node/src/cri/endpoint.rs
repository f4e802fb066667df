//! The address of a runtime, as the kubelet's `--container-runtime-endpoint` takes it, to the path
//! of its socket.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

/// The address of a runtime's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

/// An address that is none of a runtime's socket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadEndpoint {
    /// It is of another protocol than `unix`.
    #[error("the container runtime's endpoint {0:?} is no unix socket: unix:///PATH is expected")]
    NotUnix(String),
    /// It has no absolute path.
    #[error("the container runtime's endpoint {0:?} has no absolute path")]
    NoPath(String),
}

impl Endpoint {
    /// Reads `unix:///PATH`, or a path alone, which the kubelet takes as well.
    ///
    /// # Errors
    /// [`BadEndpoint`] for anything else.
    pub fn parse(text: &str) -> Result<Endpoint, BadEndpoint> {
        let no_path = || BadEndpoint::NoPath(text.to_owned());
        let (scheme, path) = text.split_once("://").unwrap_or(("unix", text));
        if scheme != "unix" {
            return Err(BadEndpoint::NotUnix(text.to_owned()));
        }
        // The kubelet passes over what stands before the path, and dials something that was not
        // meant: `/x.sock` for `unix://run/x.sock`.
        if !path.starts_with('/') {
            return Err(no_path());
        }
        let url = Url::parse(&format!("unix://{path}")).map_err(|_| no_path())?;
        let path = percent_decode_str(url.path()).decode_utf8().map_err(|_| no_path())?;
        // No path has a zero in it.
        if path.contains('\0') {
            return Err(no_path());
        }
        Ok(Endpoint(path.into_owned().into()))
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        for (text, path) in [
            ("unix:///run/containerd/containerd.sock", "/run/containerd/containerd.sock"),
            ("/run/crio/crio.sock", "/run/crio/crio.sock"),
            ("unix:///run/a%20b.sock", "/run/a b.sock"),
            ("/run/a%20b c.sock", "/run/a b c.sock"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().path(), Path::new(path));
        }
        for text in ["", "run/x.sock", "unix://run/x.sock", "unix://", "unix:///%00", "unix:///%ff"]
        {
            assert_eq!(Endpoint::parse(text), Err(BadEndpoint::NoPath(text.to_owned())));
        }
        for text in ["tcp://127.0.0.1:1", "npipe:////./pipe/containerd"] {
            assert_eq!(Endpoint::parse(text), Err(BadEndpoint::NotUnix(text.to_owned())));
        }
    }
}
