//! A client's and a server's connection joined in memory, against a plain model of their streams.

use bowline_proto::spdy::{Connection, Event, Role, StreamId};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

/// One direction of one stream, as the test's model has it.
#[derive(Clone, Debug, Default)]
struct Lane {
    sent: Vec<u8>,
    got: Vec<u8>,
    finished: bool,
    saw_finish: bool,
}

#[derive(Debug, Default)]
struct Track {
    /// The client's direction and the server's.
    lanes: [Lane; 2],
    opened: bool,
    reset: bool,
    replies: [usize; 2],
}

struct Pair {
    ends: [Connection; 2],
    streams: Vec<(StreamId, Track)>,
    pings: [usize; 2],
    pongs: [usize; 2],
}

impl Pair {
    fn new() -> Pair {
        let ends = [Connection::new(Role::Client), Connection::new(Role::Server)];
        Pair { ends, streams: Vec::new(), pings: [0; 2], pongs: [0; 2] }
    }

    fn command(&mut self, end: usize, verb: u8, which: usize, bytes: &[u8]) {
        let count = self.streams.len();
        match verb {
            0 | 1 if end == 0 => {
                let number = count.to_string();
                let id = self.ends[0].open(&[("StreamType", &number), ("other", "x")]);
                self.streams.push((id, Track::default()));
            }
            2 => self.pings[end] += usize::from(self.ends[end].ping().is_some()),
            _ if count == 0 => {}
            _ => {
                let (id, track) = &mut self.streams[which % count];
                // A server knows a stream only from its Opened on.
                let known = end == 0 || track.opened;
                let lane = &mut track.lanes[end];
                match verb {
                    3 => self.ends[end].finish(*id),
                    4 => self.ends[end].reset(*id, 5),
                    5 if end == 1 => self.ends[1].reply(*id),
                    _ => self.ends[end].send(*id, Bytes::copy_from_slice(bytes)),
                }
                match verb {
                    3 => lane.finished |= known,
                    4 => track.reset |= known,
                    5 if end == 1 => track.replies[0] += usize::from(known),
                    _ if known && !lane.finished => lane.sent.extend(bytes),
                    _ => {}
                }
            }
        }
    }

    /// Moves up to `size` bytes out of one end and into the other.
    fn carry(&mut self, from: usize, size: usize) -> bool {
        let outbox = self.ends[from].outbox();
        let bytes: Vec<u8> = outbox.chunks().flatten().copied().take(size).collect();
        outbox.advance(bytes.len());
        self.ends[1 - from].receive(BytesMut::from(&bytes[..]));
        while let Some(event) = self.ends[1 - from].poll() {
            self.heard(1 - from, event);
        }
        !bytes.is_empty()
    }

    fn track(&mut self, id: StreamId) -> &mut Track {
        &mut self.streams.iter_mut().find(|stream| stream.0 == id).unwrap().1
    }

    fn heard(&mut self, end: usize, event: Event) {
        match event {
            Event::Opened { id, headers } => {
                assert!(end == 1 && !self.track(id).opened);
                self.track(id).opened = true;
                let index = self.streams.iter().position(|stream| stream.0 == id).unwrap();
                assert_eq!(headers.get("streamtype"), Some(&*index.to_string()));
                assert!(headers.iter().all(|(name, _)| name == name.to_ascii_lowercase()));
            }
            Event::Window(..) => {}
            Event::Replied { id, .. } => self.track(id).replies[1] += 1,
            Event::Data(id, bytes) => {
                let lane = &mut self.track(id).lanes[1 - end];
                assert!(!lane.saw_finish);
                lane.got.extend_from_slice(&bytes);
            }
            Event::Finished(id) => {
                let lane = &mut self.track(id).lanes[1 - end];
                assert!(!std::mem::replace(&mut lane.saw_finish, true));
            }
            Event::Reset(id, code) => assert!(code == 5 && self.track(id).reset),
            Event::Pong(_) => self.pongs[end] += 1,
            Event::Closed(closed) => panic!("{closed:?}"),
        }
    }
}

proptest! {
    #[test]
    fn two_ends_agree_whatever_they_do(
        script in prop::collection::vec(
            (
                0usize..2,
                0u8..12,
                0usize..6,
                prop::collection::vec(any::<u8>(), 0..700),
                0usize..900,
            ),
            0..60,
        ),
    ) {
        let mut pair = Pair::new();
        for (end, verb, which, bytes, size) in script {
            pair.command(end, verb, which, &bytes);
            pair.carry(which % 2, size);
        }
        while pair.carry(0, 777) | pair.carry(1, 333) {}
        for (id, track) in &pair.streams {
            prop_assert!(track.opened);
            for lane in &track.lanes {
                prop_assert!(lane.sent.starts_with(&lane.got), "{:?}", id);
                prop_assert!(track.reset || lane.sent == lane.got, "{:?} {:?}", id, track);
                prop_assert!(track.reset || lane.finished == lane.saw_finish, "{:?}", id);
                prop_assert!(!lane.saw_finish || lane.finished && lane.sent == lane.got);
            }
            prop_assert!(track.replies[1] <= 1);
            let over = track.lanes.iter().all(|lane| lane.finished);
            prop_assert!(
                track.reset || over || track.replies[1] == track.replies[0].min(1),
                "{:?} {:?}", id, track
            );
        }
        prop_assert_eq!(pair.pings, pair.pongs);
    }
}
