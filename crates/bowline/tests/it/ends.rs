//! Every bad end that is known of real servers and boxes: never 0, and one line that says what was
//! lost. What kubectl makes of each is in docs/compatibility.md.

use std::io::Write;
use std::net::TcpListener;

use bowline_interop::client::{Input, Left};
use bowline_proto::session::protocol::Carrier;

use super::bad_server::{self, Live, Request, client};

const BOTH: [Carrier; 2] = [Carrier::WebSocket, Carrier::Spdy];

/// Runs a client against a server that does this after the upgrade.
pub fn after_upgrade(carrier: Carrier, script: impl Fn(Live) + Send + Sync + 'static) -> Left {
    against(carrier, move |request| script(request.upgrade()))
}

pub fn against(carrier: Carrier, script: impl Fn(Request) + Send + Sync + 'static) -> Left {
    let (client, _pod) = client(bad_server::start(script), carrier);
    client.run(&[], &["anything"], Input::Nothing)
}

#[track_caller]
pub fn is_lost(left: &Left, why: &str) {
    assert_eq!(left.status.code(), Some(255), "{left:?}");
    assert_eq!(left.stderr.lines().count(), 1, "{left:?}");
    assert!(left.stderr.starts_with("error: the command's outcome is unknown: "), "{left:?}");
    assert!(left.stderr.contains(why), "{left:?}");
    assert!(left.stderr.contains("the command may still be running"), "{left:?}");
}

#[test]
fn a_connection_that_ends_in_mid_output_is_a_loss() {
    for carrier in BOTH {
        let left = after_upgrade(carrier, |mut live| live.send(1, b"half"));
        assert_eq!(left.stdout, b"half");
        is_lost(&left, "the connection was cut (on the way to 127.0.0.1:");
        is_lost(&left, "after 4 bytes of output");
        // A reset may overtake the output.
        let left = after_upgrade(carrier, |mut live| {
            live.send(1, b"half");
            live.abort();
        });
        is_lost(&left, "the connection was cut");
    }
}

#[test]
fn spdy_that_ends_in_good_order_without_a_status_is_a_loss() {
    let left = after_upgrade(Carrier::Spdy, |mut live| {
        live.send(1, b"half");
        live.finish(None);
        live.stay();
    });
    assert_eq!(left.stdout, b"half");
    is_lost(&left, "without a status");
    let left = after_upgrade(Carrier::Spdy, |mut live| {
        live.finish(Some("error"));
        live.send(1, b"half");
        live.finish(Some("stdout"));
        live.finish(Some("stderr"));
        live.stay();
    });
    is_lost(&left, "without a status");
    let left = after_upgrade(Carrier::Spdy, |mut live| {
        live.goaway();
        live.stay();
    });
    is_lost(&left, "closed");
}

#[test]
fn spdy_whose_error_stream_is_reset_is_a_loss() {
    let left = after_upgrade(Carrier::Spdy, |mut live| {
        live.reset_stream("error");
        live.stay();
    });
    is_lost(&left, "its stream was reset");
}

#[test]
fn bytes_that_are_no_protocol_are_a_loss() {
    let left = after_upgrade(Carrier::Spdy, |mut live| {
        live.raw(&[0x80, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        live.stay();
    });
    is_lost(&left, "broke the protocol");
    let left = after_upgrade(Carrier::WebSocket, |mut live| {
        live.raw(&[0xff; 64]);
        live.stay();
    });
    is_lost(&left, "broke the protocol");
}

#[test]
fn a_websocket_close_without_a_status_is_a_loss_whatever_its_code() {
    for code in [1000, 1001, 1006, 1011] {
        let left = after_upgrade(Carrier::WebSocket, move |mut live| {
            live.send(1, b"half");
            live.close(code, "boom");
            live.stay();
        });
        assert_eq!(left.stdout, b"half");
        is_lost(&left, "");
    }
}

#[test]
fn a_status_that_contradicts_itself_is_a_loss() {
    let exit = |code: &str| {
        format!(
            "{{\"status\":\"Failure\",\"reason\":\"NonZeroExitCode\",\"details\":{{\"causes\":\
             [{{\"reason\":\"ExitCode\",\"message\":\"{code}\"}}]}}}}"
        )
    };
    let bad =
        [exit("0"), exit("300"), exit("x"), "{".to_owned(), "{\"status\":\"Maybe\"}".to_owned()];
    for json in bad {
        for carrier in BOTH {
            let json = json.clone();
            let left = after_upgrade(carrier, move |mut live| {
                live.status(&json);
                live.finish(None);
                live.good_bye();
                live.stay();
            });
            is_lost(&left, "status");
        }
    }
}

#[test]
fn a_status_is_the_outcome_even_if_the_connection_then_breaks() {
    for carrier in BOTH {
        let left = after_upgrade(carrier, |mut live| {
            live.send(1, b"whole");
            live.status("{\"status\":\"Success\"}");
            live.finish(None);
        });
        assert_eq!(left.stdout, b"whole");
        assert!(left.status.success(), "{left:?}");
    }
}

#[test]
fn a_version_that_nobody_offered_is_refused() {
    let left = against(Carrier::Spdy, |request| {
        request.answer(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
              X-Stream-Protocol-Version: v9.channel.k8s.io\r\n\r\n",
        );
    });
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    assert!(left.stderr.contains("v9.channel.k8s.io"), "{left:?}");
}

#[test]
fn a_redirect_is_not_followed() {
    for carrier in BOTH {
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = elsewhere.local_addr().unwrap();
        let left = against(carrier, move |request| {
            let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{to}/\r\n");
            request.answer(format!("{head}Content-Length: 0\r\n\r\n").as_bytes());
        });
        assert_eq!(left.status.code(), Some(1), "{left:?}");
        assert!(left.stderr.contains("which is not followed"), "{left:?}");
        elsewhere.set_nonblocking(true).unwrap();
        let came = elsewhere.accept();
        assert!(came.is_err(), "somebody came: {came:?}");
    }
}

#[test]
fn what_a_server_says_gives_the_terminal_no_orders() {
    let text = "boom\\u001b[2J\\u001b]0;owned\\u0007\\nline";
    for carrier in BOTH {
        let status = format!("{{\"status\":\"Failure\",\"message\":\"{text}\"}}");
        let left = after_upgrade(carrier, move |mut live| {
            live.status(&status);
            live.finish(None);
            live.good_bye();
            live.stay();
        });
        harmless(&left);
        let body = format!("{{\"kind\":\"Status\",\"message\":\"{text}\"}}");
        let left = against(carrier, move |request| {
            let head = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n";
            let length = body.len();
            request.answer(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes());
        });
        harmless(&left);
    }
}

#[track_caller]
fn harmless(left: &Left) {
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    assert!(left.stderr.contains("boom"), "{left:?}");
    assert!(!left.stderr.contains(['\u{1b}', '\u{7}']), "{left:?}");
    assert_eq!(left.stderr.lines().count(), 1, "{left:?}");
}

/// More than this is more than any of these needs: the program alone takes about 15.
const MEMORY_MIB: u64 = 64;

#[track_caller]
pub fn is_modest(left: &Left) {
    assert!(left.memory_mib < MEMORY_MIB, "{} MiB: {left:?}", left.memory_mib);
    assert!(left.stderr.len() < 8192, "{} bytes of text", left.stderr.len());
}

#[test]
fn a_status_without_end_is_a_loss_and_costs_little() {
    for carrier in BOTH {
        let left = after_upgrade(carrier, |mut live| {
            live.send(3, b"{\"status\":\"Failure\",\"message\":\"");
            for _ in 0..100 {
                live.send(3, &vec![b'x'; 1024 * 1024]);
            }
            live.status("\"}");
            live.good_bye();
            live.finish(None);
        });
        assert_eq!(left.status.code(), Some(255), "{:?}", left.status);
        is_modest(&left);
    }
}

#[test]
fn a_huge_refusal_is_shown_in_part_and_costs_little() {
    for carrier in BOTH {
        let left = against(carrier, |mut request| {
            let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 10000000\r\n\r\n";
            let _ = request.stream.write_all(head.as_bytes());
            let _ = request.stream.write_all(&vec![b'x'; 10_000_000]);
        });
        assert_eq!(left.status.code(), Some(1), "{left:?}");
        is_modest(&left);
    }
}

#[test]
fn headers_without_end_end() {
    for carrier in BOTH {
        let left = against(carrier, |mut request| {
            let _ = request.stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n");
            while request.stream.write_all(b"X-More: and more and more and more\r\n").is_ok() {}
        });
        assert_eq!(left.status.code(), Some(1), "{left:?}");
        is_modest(&left);
    }
}

/// A SYN_STREAM whose block is 60 KB of deflate that inflates to 60 MB of zeros.
pub fn bomb() -> Vec<u8> {
    let mut block = vec![0; 1 << 17];
    let zeros = vec![0; 60_000_000];
    let (block, _) = zlib_rs::compress_slice(&mut block, &zeros, zlib_rs::DeflateConfig::new(9));
    let mut frame = vec![0x80, 3, 0, 1, 0];
    frame.extend(&u32::try_from(block.len() + 10).unwrap().to_be_bytes()[1..]);
    frame.extend([0, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(block);
    frame
}

#[test]
fn a_spdy_header_bomb_costs_little() {
    let left = against(Carrier::Spdy, |request| {
        let mut live = request.upgrade_bare();
        live.raw(&bomb());
        live.stay();
    });
    is_lost(&left, "broke the protocol");
    is_modest(&left);
    // Once the streams are there, no header is of interest, and none is inflated.
    let left = after_upgrade(Carrier::Spdy, |mut live| {
        live.raw(&bomb());
        live.send(1, b"whole");
        live.status("{\"status\":\"Success\"}");
        live.finish(None);
        live.stay();
    });
    assert_eq!(left.stdout, b"whole");
    assert!(left.status.success(), "{left:?}");
    is_modest(&left);
}
