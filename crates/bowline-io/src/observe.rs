//! Observers of the requests and answers before a session begins, such as `-v`.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// Observes requests and their answers. Methods are called by the task that sends them and must not
/// block.
pub trait Observer: Send + Sync {
    /// Called when a request is sent. `headers` have credentials, which must be masked.
    fn request(&self, method: &str, url: &str, headers: &HeaderMap);
    /// Called when the head of an answer came, `took` after its request.
    fn response(
        &self,
        method: &str,
        url: &str,
        status: StatusCode,
        headers: &HeaderMap,
        took: Duration,
    );
    /// Called with the body of an answer, if it was read.
    fn body(&self, body: &[u8]);
    /// Called with a decision, of interest from this level of `-v` on.
    fn note(&self, level: u8, text: &str);
}
