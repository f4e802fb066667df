//! Header lines: a server's yes is one that its client understands, and a no has words.

use bowline_proto::negotiate::{Accepts, Lines, Offer, accept, requested_carrier};

use crate::cuts::choose;

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let method = if choices.form & 1 == 0 { "GET" } else { "POST" };
    let taken = Accepts { websocket_v5: choices.form & 2 == 0 };
    match accept(method, Lines(&lines), taken) {
        Ok(accepted) => {
            assert_eq!(requested_carrier(Lines(&lines)), Some(accepted.protocol.carrier));
            let is_v5 = accepted.protocol.name == "v5.channel.k8s.io";
            assert!(taken.websocket_v5 || !is_v5, "v5 was not taken");
            assert_eq!(
                requested_carrier(Lines(&borrowed(&accepted.response))),
                requested_carrier(Lines(&lines))
            );
        }
        Err(refusal) => {
            assert!((400..600).contains(&refusal.code()), "{refusal:?}");
            assert!(refusal.is_bare() || !refusal.to_string().is_empty());
        }
    }
    client(choices.form, &lines);
}

/// The same lines as an answer: a protocol comes out only if it was offered.
fn client(form: u8, lines: &[(&str, &str)]) {
    let offer = if form & 4 == 0 { Offer::websocket([form; 16]) } else { Offer::spdy() };
    if let Ok(protocol) = offer.check(101, Lines(lines)) {
        assert!(offer.protocols.contains(&protocol), "{protocol:?}");
    }
    assert!(offer.check(200, Lines(lines)).is_err());
    let headers = offer.headers();
    let taken = Accepts { websocket_v5: true };
    let accepted = accept(offer.method(), Lines(&borrowed(&headers)), taken).unwrap();
    let answer = borrowed(&accepted.response);
    assert_eq!(offer.check(101, Lines(&answer)), Ok(accepted.protocol));
}

fn borrowed<'a>(lines: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    lines.iter().map(|(name, value)| (*name, &**value)).collect()
}
