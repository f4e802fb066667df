//! Refusals to Kubernetes' Status objects, keys in the API server's order.
//! Above: everything that answers. Below: nothing.

use bowline_io::serve::{Reply, body};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// A refusal, as Kubernetes says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// The machine's word for it; empty if there is none.
    pub reason: &'static str,
    /// The person's words for it.
    pub message: String,
    /// What it is about.
    pub details: Option<(&'static str, String)>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, reason, message: message.into(), details: None }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "BadRequest", message)
    }

    /// 401; says no more than that.
    #[must_use]
    pub fn unauthorized() -> Refusal {
        Refusal::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403.
    pub fn forbidden(kind: &'static str, name: &str, why: &str) -> Refusal {
        let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let message = format!("{kind}{named} is forbidden: {why}");
        let details = Some((kind, name.to_owned()));
        Refusal { details, ..Refusal::new(403, "Forbidden", message) }
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(kind: &'static str, name: &str) -> Refusal {
        let details = Some((kind, name.to_owned()));
        Refusal { details, ..Refusal::new(404, "NotFound", format!("{kind} \"{name}\" not found")) }
    }

    /// 404 for a path.
    #[must_use]
    pub fn no_such_path() -> Refusal {
        let message = "the server could not find the requested resource";
        Refusal::new(404, "NotFound", message)
    }

    /// 405.
    #[must_use]
    pub fn method_not_allowed() -> Refusal {
        let message = "the server does not allow this method on the requested resource";
        Refusal::new(405, "MethodNotAllowed", message)
    }

    /// 500 without a reason, as for a node that cannot be reached.
    pub fn internal(message: impl Into<String>) -> Refusal {
        Refusal::new(500, "", message)
    }

    /// What a node answered instead of an upgrade.
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
        if let Some((kind, name)) = &self.details {
            status["details"] = if name.is_empty() {
                json!({ "kind": kind })
            } else {
                json!({ "name": name, "kind": kind })
            };
        }
        status["code"] = self.code.into();
        status
    }

    /// The answer.
    #[must_use]
    pub fn reply(&self) -> Reply {
        json(self.code, &self.body())
    }
}

/// An answer of JSON.
#[must_use]
pub fn json(code: u16, value: &Value) -> Reply {
    let mut reply = Response::new(body(format!("{value}\n")));
    *reply.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(header::CONTENT_TYPE, json);
    let uncached = HeaderValue::from_static("no-cache, private");
    reply.headers_mut().insert(header::CACHE_CONTROL, uncached);
    reply
}

/// An answer of plain text.
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
        assert!(!Refusal::internal("x").body().to_string().contains("reason"));
    }
}
