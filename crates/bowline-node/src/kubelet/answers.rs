//! Answers in plain text, as the kubelet's are, and the 101.

use bowline_io::record::Denied;
use bowline_io::serve::{Reply, body};
use bowline_io::text::harmless;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::Accepted;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::runtime::NotFound;

/// An answer that is no upgrade: plain text, as the kubelet's are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) code: u16,
    pub(super) text: String,
    pub(super) headers: Vec<(&'static str, String)>,
    /// For the log, where the text does not say it.
    pub(super) cause: String,
}

impl Plain {
    pub(super) fn new(code: u16, text: impl Into<String>) -> Plain {
        Plain { code, text: text.into(), headers: Vec::new(), cause: String::new() }
    }
}

/// The kubelet's words. A certificate's name is text of others, and the answer is shown as it is.
pub(super) fn forbidden(user: &str, method: &Method) -> String {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let user = harmless(user, REASON_BYTES);
    format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[proxy])")
}

pub(super) fn not_found(missing: &NotFound) -> Plain {
    let code = if *missing == NotFound::Pod { 404 } else { 500 };
    Plain::new(code, missing.to_string())
}

pub(super) fn too_many(denied: Denied) -> Plain {
    let headers = vec![("Retry-After", denied.seconds().to_string())];
    Plain { headers, ..Plain::new(429, denied.why) }
}

pub(super) fn switch(accepted: &Accepted) -> Reply {
    let mut reply = Response::new(body(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set_headers(&mut reply, &accepted.response);
    reply
}

pub(super) fn refuse(plain: &Plain) -> Reply {
    let mut reply = text(plain.code, &plain.text);
    set_headers(&mut reply, &plain.headers);
    reply
}

pub(super) fn text(code: u16, text: &str) -> Reply {
    let said = if text.is_empty() { Bytes::new() } else { Bytes::from(format!("{text}\n")) };
    let mut reply = Response::new(body(said));
    *reply.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    reply
}

pub(super) fn set_headers(reply: &mut Reply, headers: &[(&'static str, String)]) {
    for (name, value) in headers {
        let name = HeaderName::try_from(*name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            reply.headers_mut().append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_name_gives_no_orders_to_who_reads_the_refusal() {
        let text = forbidden("jane\u{1b}]0;x\u{7}\nroot", &Method::GET);
        let expected = "Forbidden (user=jane\u{fffd}]0;x\u{fffd} root, verb=get, resource=nodes, \
                        subresource(s)=[proxy])";
        assert_eq!(text, expected);
    }
}
