//! Refusals to Kubernetes' Status objects, keys in the API server's order.

use std::borrow::Cow;

use bowline_io::auth::Unavailable;
use bowline_io::record::Denied;
use bowline_io::serve::{Reply, body};
use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::names::quoted;

/// A refusal, as Kubernetes says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// The `reason` of the Status, for programs; empty if there is none.
    pub reason: &'static str,
    /// The `message` of the Status, for people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// Header lines that go with it.
    pub headers: Vec<(&'static str, String)>,
    /// What only this program's log says; empty if that is the message.
    pub cause: String,
    /// Whether the answer has no body, as some of Kubernetes' have none.
    pub is_bare: bool,
    /// The Status that another server gave, to be passed on as it came.
    pub status: Option<Box<Bytes>>,
    /// Whether another carrier may do: the destination has refused this one's upgrade.
    pub falls_back: bool,
    /// Whether the destination has said so itself.
    pub is_answer: bool,
}

/// What a refusal is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object; empty if it is about none.
    pub name: String,
    /// The API group; empty for the core's.
    pub group: Cow<'static, str>,
    /// The resource; empty if it is about none.
    pub kind: Cow<'static, str>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, reason, message: message.into(), ..Refusal::default() }
    }

    /// Makes a 400.
    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "BadRequest", message)
    }

    /// Makes a 401, whose text does not say why. The cause is for the log.
    pub fn unauthorized(cause: impl Into<String>) -> Refusal {
        Refusal { cause: cause.into(), ..Refusal::new(401, "Unauthorized", "Unauthorized") }
    }

    /// Makes a refusal without a body, as Kubernetes' WebSocket servers do.
    #[must_use]
    pub fn bare(code: u16, cause: impl Into<String>) -> Refusal {
        Refusal { cause: cause.into(), is_bare: true, ..Refusal::new(code, "", "") }
    }

    /// Makes a 403 about `details`.
    #[must_use]
    pub fn forbidden(details: Details, why: &str) -> Refusal {
        let Details { name, group, kind } = &details;
        let dot = if group.is_empty() { "" } else { "." };
        let message = match (kind.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{kind}{dot}{group} is forbidden: {why}"),
            (false, false) => {
                format!("{kind}{dot}{group} {} is forbidden: {why}", quoted(name))
            }
        };
        Refusal { details: Some(Box::new(details)), ..Refusal::new(403, "Forbidden", message) }
    }

    /// Makes a 404 for an object.
    #[must_use]
    pub fn not_found(kind: &'static str, name: &str) -> Refusal {
        let details =
            Some(Box::new(Details { name: name.to_owned(), group: "".into(), kind: kind.into() }));
        let message = format!("{kind} {} not found", quoted(name));
        Refusal { details, ..Refusal::new(404, "NotFound", message) }
    }

    /// Makes a 404 for a path.
    #[must_use]
    pub fn no_such_path() -> Refusal {
        let message = "the server could not find the requested resource";
        Refusal::new(404, "NotFound", message)
    }

    /// Makes a 405.
    #[must_use]
    pub fn method_not_allowed() -> Refusal {
        let message = "the server does not allow this method on the requested resource";
        Refusal::new(405, "MethodNotAllowed", message)
    }

    /// Makes a 429 that says when to ask again.
    #[must_use]
    pub fn too_many_requests(denied: Denied) -> Refusal {
        let headers = vec![("Retry-After", denied.seconds().to_string())];
        Refusal { headers, ..Refusal::new(429, "TooManyRequests", denied.why) }
    }

    /// Makes a 500 without a `reason`, as for a node that cannot be reached.
    pub fn internal(message: impl Into<String>) -> Refusal {
        Refusal::new(500, "", message)
    }

    /// Makes a 500 for what could not be found out, in Kubernetes' words. It is no 403 and no 404:
    /// nobody has said so.
    #[must_use]
    pub fn unavailable(error: &Unavailable) -> Refusal {
        let error = error.to_string();
        let message = format!("Internal error occurred: {}", sanitized(&error, REASON_BYTES));
        Refusal::new(500, "InternalError", message)
    }

    /// Makes a refusal of what a node answered instead of an upgrade.
    pub fn of_node(code: u16, message: impl Into<String>) -> Refusal {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            429 => "TooManyRequests",
            500.. => "InternalError",
            _ => "",
        };
        Refusal::new(code, reason, message)
    }

    fn body(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(Details { name, group, kind }) = self.details.as_deref() {
            let said = [("name", &**name), ("group", &**group), ("kind", &**kind)];
            let said = said.into_iter().filter(|one| !one.1.is_empty());
            status["details"] =
                said.map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
        }
        status["code"] = self.code.into();
        status
    }

    /// Makes the answer.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let mut reply = match &self.status {
            _ if self.is_bare => text(self.code, ""),
            Some(status) => json_text(self.code, Bytes::clone(status)),
            None => json(self.code, &self.body()),
        };
        set_headers(&mut reply, &self.headers);
        reply
    }

    /// Returns what a log says of it.
    #[must_use]
    pub fn log_text(&self) -> &str {
        if self.cause.is_empty() { &self.message } else { &self.cause }
    }
}

/// Adds header lines to an answer.
pub fn set_headers(reply: &mut Reply, headers: &[(&'static str, String)]) {
    for (name, value) in headers {
        let name = HeaderName::try_from(*name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            reply.headers_mut().append(name, value);
        }
    }
}

/// Makes an answer of JSON.
#[must_use]
pub fn json(code: u16, value: &Value) -> Reply {
    json_text(code, format!("{value}\n").into())
}

fn json_text(code: u16, text: Bytes) -> Reply {
    let mut reply = Response::new(body(text));
    *reply.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(header::CONTENT_TYPE, json);
    let uncached = HeaderValue::from_static("no-cache, private");
    reply.headers_mut().insert(header::CACHE_CONTROL, uncached);
    reply
}

/// Makes an answer of plain text.
#[must_use]
pub fn text(code: u16, text: &str) -> Reply {
    let mut reply = Response::new(body(text.to_owned()));
    *reply.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, plain);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_those_of_the_api_server() {
        let expected = concat!(
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
            r#""message":"Upgrade request required","reason":"BadRequest","code":400}"#
        );
        assert_eq!(Refusal::bad_request("Upgrade request required").body().to_string(), expected);
        let expected = concat!(
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
            r#""message":"pods \"x\" not found","reason":"NotFound","#,
            r#""details":{"name":"x","kind":"pods"},"code":404}"#
        );
        assert_eq!(Refusal::not_found("pods", "x").body().to_string(), expected);
        let path = Refusal::forbidden(Details::default(), "why");
        assert_eq!(path.message, "forbidden: why");
        assert!(path.body().to_string().contains(r#""details":{},"code":403"#));
        let group = Details { name: "7".into(), group: "g.io".into(), kind: "uids".into() };
        let group = Refusal::forbidden(group, "why");
        assert_eq!(group.message, "uids.g.io \"7\" is forbidden: why");
        let details = r#""details":{"name":"7","group":"g.io","kind":"uids"}"#;
        assert!(group.body().to_string().contains(details));
        assert!(!Refusal::internal("x").body().to_string().contains("reason"));
    }
}
