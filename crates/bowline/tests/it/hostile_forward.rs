//! Clients of a port-forward that mean harm: an end in time and at little cost, nothing of it
//! reaches a port, and the next forward works.

use std::io::Write;
use std::thread;

use bowline_interop::client::PATIENCE;
use bowline_interop::forward::app::App;
use bowline_interop::server::until;
use bowline_proto::spdy::{Connection, Role};
use bytes::Bytes;

use super::hostile_spdy::{control, syn_stream};
use super::raw::{Place, frame, short};

/// The bytes of each step of a good connection: its two streams, words for an echo, its end.
fn steps(app: &App) -> Vec<Vec<u8>> {
    let mut spdy = Connection::new(Role::Client);
    let mut steps = Vec::new();
    let mut taken = |spdy: &mut Connection| {
        let bytes: Vec<u8> = spdy.outbox().chunks().flatten().copied().collect();
        spdy.outbox().advance(bytes.len());
        steps.push(bytes);
    };
    let port = app.port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "0")];
    let error = spdy.open(&headers("error"));
    spdy.finish(error);
    taken(&mut spdy);
    let data = spdy.open(&headers("data"));
    taken(&mut spdy);
    spdy.send(data, Bytes::from_static(b"echo\ngood"));
    taken(&mut spdy);
    spdy.finish(data);
    taken(&mut spdy);
    steps
}

fn goaway() -> Vec<u8> {
    control(7, 0, &[0; 8])
}

/// A server that has served its client, and the app, to the end of both.
fn answer(place: &Place, upgrade: &[u8], bytes: &[u8]) -> String {
    let all = place.answer(&[upgrade, bytes].concat());
    assert!(all.starts_with(b"HTTP/1.1 101 "), "{}: {all:?}", place.name());
    String::from_utf8_lossy(&all).into_owned()
}

/// Its ports can still be reached, and it has let go of all that was.
fn is_well(place: &Place, app: &App) {
    let mut stream = place.connect();
    let good = [place.forward(None), steps(app).concat()].concat();
    stream.write_all(&good).unwrap();
    let mut seen = Vec::new();
    while !seen.windows(4).any(|part| part == b"good") {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{}: {:?}", place.name(), String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..read]);
    }
    drop(stream);
    until("the app is left alone", PATIENCE, || app.open() == 0);
    place.is_well();
}

#[test]
fn wrong_frames_resets_and_goodbyes_end_a_forward_at_every_point() {
    let wrong: [(&str, Vec<u8>); 8] = [
        ("nothing but a goodbye", vec![]),
        ("a reset of the data", control(3, 0, &[0, 0, 0, 3, 0, 0, 0, 5])),
        ("a reset of the error stream", control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 5])),
        ("version 2", vec![0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]),
        ("an unknown type", control(5, 0, &[0; 4])),
        ("2^31 headers", syn_stream(99, &[0x80, 0, 0, 0])),
        ("a window of 2^31", control(9, 0, &[0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff])),
        ("a control frame of 16 MiB", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
    ];
    for place in &Place::both() {
        let app = App::start();
        let steps = steps(&app);
        thread::scope(|scope| {
            for (_, bytes) in &wrong {
                for point in 0..=steps.len() {
                    let all = [&steps[..point].concat()[..], bytes, &goaway()].concat();
                    scope.spawn(move || answer(place, &place.forward(None), &all));
                }
            }
        });
        is_well(place, &app);
    }
}

#[test]
fn streams_that_are_no_pair_are_refused_and_hold_up_no_other() {
    let odd = |streams: &[(&str, &[(&str, &str)])]| -> Vec<u8> {
        let mut spdy = Connection::new(Role::Client);
        // The good pair has the numbers 1 and 3; these come behind it.
        for (kind, headers) in streams {
            let all: Vec<_> = [&[("streamtype", *kind)], *headers].concat();
            spdy.open(&all);
        }
        spdy.outbox().chunks().flatten().copied().collect()
    };
    let long = "9".repeat(1000);
    let same = [("port", "1"), ("requestid", "7")];
    let cases = [
        odd(&[("data", &[("port", "0")]), ("error", &[("port", "65536")]), ("x", &[])]),
        odd(&[("data", &[("port", "80"), ("requestid", &long)]), ("data", &[("port", "80x")])]),
        odd(&[("error", &same), ("error", &same), ("error", &same)]),
    ];
    for place in Place::both() {
        let app = App::start();
        for bytes in &cases {
            answer(&place, &place.forward(None), &[&bytes[..], &goaway()].concat());
        }
        is_well(&place, &app);
    }
}

#[test]
fn tunnels_that_are_none_are_closed() {
    for place in Place::both() {
        let app = App::start();
        let good = steps(&app).concat();
        let tunnel = place.forward(Some("SPDY/3.1+portforward.k8s.io"));
        // Each byte in a message of its own, with empty ones in between, is as good as all in one.
        let bytes: Vec<u8> = good
            .iter()
            .flat_map(|byte| [short(0x82, &[*byte]), short(0x82, &[])].concat())
            .collect();
        let ending = [short(0x82, &goaway()), short(0x88, &[3, 0xe8])].concat();
        answer(&place, &tunnel, &[&bytes[..], &ending].concat());
        let unmasked = [&[0x82, 9][..], b"evil-evil"].concat();
        for wrong in [
            short(0x81, b"text"),
            unmasked,
            short(0xc2, b"reserved"),
            short(0x83, b"opcode"),
            short(0x80, b"stray"),
            frame(0x82, &[0xff; 2000]),
            vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
            short(0x88, &[3, 0xe8]),
        ] {
            // What is legal here is so for the one that says goodbye behind it.
            let bytes = [&short(0x82, &good)[..], &wrong, &ending].concat();
            let mut stream = place.connect();
            stream.write_all(&[&tunnel[..], &bytes].concat()).unwrap();
            drop(stream);
        }
        is_well(&place, &app);
    }
}

#[test]
fn floods_of_a_forward_cost_little() {
    let unpaired: Vec<u8> = {
        let mut spdy = Connection::new(Role::Client);
        for number in 0..30_000 {
            let number = number.to_string();
            spdy.open(&[("streamtype", "data"), ("port", "1"), ("requestid", &number)]);
        }
        spdy.outbox().chunks().flatten().copied().collect()
    };
    let refused: Vec<u8> = {
        let mut spdy = Connection::new(Role::Client);
        for number in 0..10_000 {
            let number = number.to_string();
            for kind in ["error", "data"] {
                spdy.open(&[("streamtype", kind), ("port", "1"), ("requestid", &number)]);
            }
        }
        spdy.outbox().chunks().flatten().copied().collect()
    };
    let pings = control(6, 0, &[0, 0, 0, 1]).repeat(300_000);
    let empties = short(0x82, &[]).repeat(300_000);
    let tunnel = "SPDY/3.1+portforward.k8s.io";
    for place in Place::both() {
        let app = App::start();
        for (upgrade, flood) in [
            (place.forward(None), &unpaired),
            (place.forward(None), &refused),
            (place.forward(None), &pings),
            (place.forward(Some(tunnel)), &empties),
        ] {
            let mut stream = place.connect();
            stream.write_all(&upgrade).unwrap();
            // Nobody reads the answers: at some point they are not taken any more.
            let _ = stream.write_all(flood);
        }
        is_well(&place, &app);
    }
}

#[test]
fn channels_that_are_none_are_passed_over() {
    for place in Place::both() {
        let app = App::start();
        let upgrade = place.channels(app.port, "v4.channel.k8s.io");
        for bytes in [
            [short(0x82, &[9, b'x']), short(0x82, b"\x01evil"), short(0x82, &[])].concat(),
            [short(0x82, b"\x00echo\n"), short(0x81, b"\x00good")].concat(),
            frame(0x02, b"\x00half a message"),
        ] {
            let close = short(0x88, &[3, 0xe8]);
            let all = answer(&place, &upgrade, &[&bytes[..], &close].concat());
            assert!(!all.contains("evil"), "{}: {all:?}", place.name());
        }
        is_well(&place, &app);
    }
}
