//! Answers in plain text, as the kubelet's are, and the 101.

use bowline_io::record::Denied;
use bowline_io::serve::{Reply, body};
use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::Accepted;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::runtime::Refusal;

/// Words a refusal as the kubelet does. The name is sanitized: it is text of others, and clients
/// show the answer as it is.
pub(super) fn forbidden(user: &str, method: &Method) -> String {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let user = sanitized(user, REASON_BYTES);
    format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[proxy])")
}

pub(super) fn too_many(denied: Denied) -> Refusal {
    let headers = vec![("Retry-After", denied.seconds().to_string())];
    Refusal { headers, ..Refusal::new(429, denied.why) }
}

pub(super) fn switch(accepted: &Accepted) -> Reply {
    let mut reply = Response::new(body(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set_headers(&mut reply, &accepted.response);
    reply
}

pub(super) fn refuse(refusal: &Refusal) -> Reply {
    let mut reply = text(refusal.code, &refusal.text);
    set_headers(&mut reply, &refusal.headers);
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
