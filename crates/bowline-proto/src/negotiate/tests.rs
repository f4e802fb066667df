//! Handshakes of both sides, and of clients and servers of others.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::session::protocol;

const V5: Accepts = Accepts { websocket_v5: true };
const OLD: Accepts = Accepts { websocket_v5: false };
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn websocket<'a>(protocols: &'a [&'a str]) -> Vec<(&'a str, &'a str)> {
    let mut lines = vec![
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
    ];
    lines.extend(protocols.iter().map(|line| ("sec-websocket-protocol", *line)));
    lines
}

fn spdy<'a>(protocols: &'a [&'a str]) -> Vec<(&'a str, &'a str)> {
    let mut lines = vec![("Connection", "Upgrade"), ("Upgrade", "spdy/3.1")];
    lines.extend(protocols.iter().map(|line| ("x-stream-protocol-version", *line)));
    lines
}

fn name(method: &str, lines: &[(&str, &str)], taken: Accepts) -> Result<&'static str, u16> {
    match accept(method, Lines(lines), taken) {
        Ok(accepted) => Ok(accepted.protocol.name),
        Err(refusal) => Err(refusal.code()),
    }
}

#[test]
fn v5_is_taken_where_it_is_offered_and_else_the_clients_order_decides() {
    type Row = (&'static [&'static str], Result<&'static str, u16>, Result<&'static str, u16>);
    let table: [Row; 12] = [
        (&["v5.channel.k8s.io"], Ok("v5.channel.k8s.io"), Err(403)),
        (
            &["v5.channel.k8s.io,v4.channel.k8s.io"],
            Ok("v5.channel.k8s.io"),
            Ok("v4.channel.k8s.io"),
        ),
        (
            &["v4.channel.k8s.io, v5.channel.k8s.io"],
            Ok("v5.channel.k8s.io"),
            Ok("v4.channel.k8s.io"),
        ),
        (
            &["x,base64.channel.k8s.io,v4.channel.k8s.io,,v5.channel.k8s.io"],
            Ok("v5.channel.k8s.io"),
            Ok("base64.channel.k8s.io"),
        ),
        (
            &["v4.channel.k8s.io", "v5.channel.k8s.io"],
            Ok("v4.channel.k8s.io"),
            Ok("v4.channel.k8s.io"),
        ),
        (
            &["v4.channel.k8s.io, V5.channel.k8s.io"],
            Ok("v4.channel.k8s.io"),
            Ok("v4.channel.k8s.io"),
        ),
        (&["v3.channel.k8s.io"], Err(403), Err(403)),
        (&["v3.channel.k8s.io", "v4.channel.k8s.io"], Err(403), Err(403)),
        (&["channel.k8s.io"], Ok("channel.k8s.io"), Ok("channel.k8s.io")),
        (&["base64.channel.k8s.io"], Ok("base64.channel.k8s.io"), Ok("base64.channel.k8s.io")),
        (&["x", "v4.base64.channel.k8s.io"], Err(403), Err(403)),
        (&[], Ok(""), Ok("")),
    ];
    for (offered, new, old) in table {
        let lines = websocket(offered);
        assert_eq!(name("GET", &lines, V5), new, "{offered:?}");
        assert_eq!(name("GET", &lines, OLD), old, "{offered:?}");
        assert_eq!(name("POST", &lines, V5), Err(405));
    }
}

#[test]
fn the_101_is_that_of_kubernetes() {
    let lines = websocket(&["v5.channel.k8s.io"]);
    let accepted = accept("GET", Lines(&lines), V5).unwrap();
    assert_eq!(
        accepted.response,
        [
            ("Upgrade", "websocket".to_owned()),
            ("Connection", "Upgrade".to_owned()),
            ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()),
            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io".to_owned()),
        ]
    );
    let unnamed = accept("GET", Lines(&websocket(&[])), V5).unwrap();
    assert_eq!(unnamed.response.len(), 3);
}

#[test]
fn bad_handshakes_get_their_code() {
    let without = |name: &str| -> Vec<(&str, &str)> {
        websocket(&["v4.channel.k8s.io"]).into_iter().filter(|line| line.0 != name).collect()
    };
    assert_eq!(name("GET", &without("connection"), V5), Err(400));
    assert_eq!(name("GET", &without("upgrade"), V5), Err(400));
    assert_eq!(name("GET", &without("sec-websocket-key"), V5), Err(400));
    assert_eq!(name("GET", &without("sec-websocket-version"), V5), Err(400));
    assert_eq!(Refusal::Version.headers(), [("Sec-WebSocket-Version", "13".to_owned())]);
    assert_eq!(name("POST", &spdy(&[]), V5), Err(400));
    assert_eq!(name("POST", &[], V5), Err(400));
    assert_eq!(Refusal::NoUpgrade.to_string(), "Upgrade request required");
}

#[test]
fn spdy_takes_lines_and_lists() {
    let all = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
    assert_eq!(name("POST", &spdy(&all), V5), Ok("v4.channel.k8s.io"));
    assert_eq!(
        name("GET", &spdy(&["v2.channel.k8s.io, v3.channel.k8s.io"]), OLD),
        Ok("v2.channel.k8s.io")
    );
    let refusal = accept("POST", Lines(&spdy(&["v5.channel.k8s.io"])), V5).unwrap_err();
    assert_eq!(refusal.code(), 403);
    assert_eq!(refusal.headers().len(), 4);
    assert_eq!(
        refusal.to_string(),
        "unable to upgrade: unable to negotiate protocol: client supports \
         [v5.channel.k8s.io], server accepts [v4.channel.k8s.io v3.channel.k8s.io \
         v2.channel.k8s.io channel.k8s.io]"
    );
}

#[test]
fn spdy_without_a_protocol_is_a_bad_request_and_its_cause_is_told() {
    let both = |lines: &[(&str, &str)]| {
        let command = accept("POST", Lines(lines), V5).unwrap_err();
        let forward = accept_forward("POST", Lines(lines)).unwrap_err();
        assert_eq!(command, forward);
        assert_eq!((command.code(), command.headers().len()), (400, 0));
        command.to_string()
    };
    let lines = [("Host", "x"), ("upgrade", "SPDY/3.1"), ("connection", "upgrade")];
    assert_eq!(
        both(&[&lines[..], &[("Connection", "close")]].concat()),
        "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with 2 \
         headers"
    );
    for (values, shown) in [(&[""][..], "[]"), (&[" , ,"], "[ , ,]"), (&[",", ""], "[, ]")] {
        assert_eq!(
            both(&spdy(values)),
            format!(
                "unable to upgrade: header X-Stream-Protocol-Version contains {shown}, but no \
                 valid protocols"
            )
        );
    }
    let one = spdy(&[",v9.channel.k8s.io,", "", "v4.channel.k8s.io"]);
    assert_eq!(name("POST", &one, V5), Ok("v4.channel.k8s.io"));
}

#[test]
fn what_a_client_offers_a_server_takes_and_the_client_finds_right() {
    for (offer, expected) in
        [(Offer::websocket([7; 16]), "v5.channel.k8s.io"), (Offer::spdy(), "v4.channel.k8s.io")]
    {
        let headers = offer.headers();
        let request: Vec<(&str, &str)> =
            headers.iter().map(|line| (line.0, line.1.as_str())).collect();
        let accepted = accept(offer.method(), Lines(&request), V5).unwrap();
        let response: Vec<(&str, &str)> =
            accepted.response.iter().map(|line| (line.0, line.1.as_str())).collect();
        let protocol = offer.check(101, Lines(&response)).unwrap();
        assert_eq!((protocol.name, protocol.carrier), (expected, offer.carrier));

        assert_eq!(offer.check(403, Lines(&response)), Err(NotUpgraded::Code(403)));
        for missing in 0..response.len() {
            let mut cut = response.clone();
            cut.remove(missing);
            let verdict = offer.check(101, Lines(&cut));
            let version_1 = Ok(&protocol::SPDY_V1);
            assert!(verdict.is_err() || verdict == version_1, "{cut:?}");
        }
    }
}

#[test]
fn a_forward_is_a_tunnel_channels_or_spdy() {
    const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
    let name = |lines: &[(&str, &str)]| match accept_forward("GET", Lines(lines)) {
        Ok(accepted) => Ok(accepted.protocol.name),
        Err(refusal) => Err(refusal.code()),
    };
    let table: [(&[&str], Result<&str, u16>); 6] = [
        (&[TUNNEL], Ok(TUNNEL)),
        (&["v5.channel.k8s.io,v4.channel.k8s.io"], Ok("v4.channel.k8s.io")),
        (&["v5.channel.k8s.io"], Ok("v5.channel.k8s.io")),
        (&["v4.base64.channel.k8s.io"], Ok("v4.base64.channel.k8s.io")),
        (&["portforward.k8s.io"], Err(403)),
        (&[], Ok("")),
    ];
    for (offered, expected) in table {
        let lines = websocket(offered);
        assert_eq!(name(&lines), expected, "{offered:?}");
        assert_eq!(asks_for_tunnel(Lines(&lines)), offered == [TUNNEL]);
    }
    assert_eq!(name(&spdy(&["portforward.k8s.io"])), Ok("portforward.k8s.io"));
    assert_eq!(name(&spdy(&["v4.channel.k8s.io"])), Err(403));
    for offer in [Offer::tunnel([7; 16]), Offer::forward()] {
        let headers = offer.headers();
        let request: Vec<(&str, &str)> =
            headers.iter().map(|line| (line.0, line.1.as_str())).collect();
        let accepted = accept_forward(offer.method(), Lines(&request)).unwrap();
        let response: Vec<(&str, &str)> =
            accepted.response.iter().map(|line| (line.0, line.1.as_str())).collect();
        assert_eq!(offer.check(101, Lines(&response)), Ok(accepted.protocol));
        let unnamed = &response[..response.len() - 1];
        assert!(matches!(offer.check(101, Lines(unnamed)), Err(NotUpgraded::Protocol { .. })));
    }
}

#[test]
fn a_protocol_that_was_not_offered_is_refused() {
    let offer = Offer::spdy();
    let response = spdy(&["v9.channel.k8s.io"]);
    assert!(matches!(offer.check(101, Lines(&response)), Err(NotUpgraded::Protocol { .. })));
}
