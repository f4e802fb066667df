//! Who watches what goes over the wire before a session begins: `-v`, and programs of their own.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// Watches requests and their answers. It is called on the way: do not block.
pub trait Observer: Send + Sync {
    /// A request is sent. `headers` hold credentials: mask them.
    fn request(&self, method: &str, url: &str, headers: &HeaderMap);
    /// Its answer came after `took`.
    fn response(
        &self,
        method: &str,
        url: &str,
        status: StatusCode,
        headers: &HeaderMap,
        took: Duration,
    );
    /// The answer's body, if it was read.
    fn body(&self, body: &[u8]);
    /// A decision was made, of interest from this level of `-v` on.
    fn note(&self, level: u8, text: &str);
}
