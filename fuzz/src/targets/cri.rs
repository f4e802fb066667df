//! The face in front of a container runtime, between peers that say anything: any cut gives the
//! same bytes and the same calls, and where nothing is exchanged nothing changes.

use std::collections::BTreeMap;

use bowline_proto::cri::{Call, Exchange, Face, Kept};
use bowline_proto::limits::{CRI_ID_BYTES, CRI_PORTS};
use bowline_proto::{Intermediary, Leg, Next, Time};

use super::written;
use crate::cuts::{Choices, choose};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Gives URLs that are so much longer, or none.
#[derive(Debug, Default, PartialEq)]
struct Other {
    extra: Option<usize>,
    calls: Vec<(Call, String)>,
    kept: Vec<Kept>,
}

impl Exchange for &mut Other {
    fn exchange(&mut self, call: Call, url: &str) -> Option<String> {
        assert!(call.id.len() <= CRI_ID_BYTES);
        if let bowline_proto::cri::Asked::PortForward { ports } = &call.asked {
            assert!(ports.len() <= CRI_PORTS);
        }
        self.calls.push((call, url.to_owned()));
        let other = url.bytes().map(|byte| if byte.is_ascii() { 'x' } else { 'y' });
        self.extra.map(|extra| other.chain("!".repeat(extra).chars()).collect())
    }

    fn kept(&mut self, why: Kept) {
        self.kept.push(why);
    }
}

/// All that is said, leg by leg, and what comes of it.
#[derive(Debug, Default, PartialEq)]
struct Said {
    near: Vec<u8>,
    far: Vec<u8>,
    endings: Vec<Leg>,
}

/// The target. The bytes are records: a leg and a length, then what that leg's peer says.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let extra = [None, Some(0), Some(1), Some(200)][usize::from(choices.form >> 1) % 4];
    let mut script = Vec::new();
    if choices.form & 1 == 0 {
        script.push((Leg::Near, PREFACE));
    }
    let mut bytes = bytes;
    while let [record, rest @ ..] = bytes {
        let leg = if record & 1 == 0 { Leg::Near } else { Leg::Far };
        let (said, rest) = rest.split_at(usize::from(record >> 1).min(rest.len()));
        bytes = rest;
        script.push((leg, said));
    }
    let mut whole = Other { extra, ..Other::default() };
    let mut pieces = Other { extra, ..Other::default() };
    let came = play(&script, &mut whole, None);
    assert_eq!(came, play(&script, &mut pieces, Some(choices)), "cuts change what comes");
    assert_eq!(whole, pieces, "cuts change the calls");
    assert!(came.endings.len() <= 1);
    let said = |leg| script.iter().filter(move |said| said.0 == leg).flat_map(|said| said.1);
    if extra.is_none() {
        let near: Vec<u8> = said(Leg::Near).copied().collect();
        assert_eq!(came.far, near, "the client's bytes change");
        let far: Vec<u8> = said(Leg::Far).copied().collect();
        let (came, far) = (by_stream(&came.near), by_stream(&far));
        for (stream, bytes) in came {
            assert!(far.get(&stream).is_some_and(|all| all.starts_with(&bytes)));
        }
    } else {
        let longest = 220 * whole.calls.len();
        assert!(came.near.len() <= said(Leg::Far).count() + longest, "bytes out of nothing");
    }
}

fn play(script: &[(Leg, &[u8])], other: &mut Other, cuts: Option<Choices>) -> Said {
    let mut face = Face::new(other);
    let mut came = Said::default();
    for (leg, said) in script {
        let pieces = match cuts {
            Some(choices) => choices.pieces(said),
            None => vec![(*said).into()],
        };
        for piece in pieces {
            face.receive(Time::ZERO, *leg, piece);
            turn(&mut face, &mut came);
        }
    }
    for leg in [Leg::Far, Leg::Near] {
        face.receive_end(Time::ZERO, leg, false);
        turn(&mut face, &mut came);
    }
    came
}

fn turn(face: &mut Face<&mut Other>, came: &mut Said) {
    while let Next::Event(ending) = face.poll(Time::ZERO) {
        came.endings.push(ending);
    }
    face.wants_read(Leg::Near);
    face.wants_read(Leg::Far);
    came.near.extend(written(face.outbox(Leg::Near)));
    came.far.extend(written(face.outbox(Leg::Far)));
}

/// The frames of each stream one behind the other, its updates of windows apart, and what is cut
/// off at the end.
fn by_stream(mut bytes: &[u8]) -> BTreeMap<Option<(u32, bool)>, Vec<u8>> {
    let mut streams: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    while let [a, b, c, kind, _, d, e, f, g, ..] = bytes {
        let length = 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (frame, rest) = bytes.split_at(length.min(bytes.len()));
        let stream = u32::from_be_bytes([*d & 0x7f, *e, *f, *g]);
        streams.entry(Some((stream, *kind == 8))).or_default().extend(frame);
        bytes = rest;
    }
    streams.entry(None).or_default().extend(bytes);
    streams
}
