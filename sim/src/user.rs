//! The user at the client: types, reads, pauses, checks every byte.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_proto::session::Channel;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::journal::{Journal, byte, lane};
use crate::scenario::{Input, Scenario};

/// Pauses at places of a stream.
#[derive(Debug)]
struct Pauses {
    left: VecDeque<(u64, Duration)>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pauses {
    fn new(pauses: &[(u64, Duration)]) -> Pauses {
        Pauses { left: pauses.iter().copied().collect(), pause: None }
    }

    /// Ready with how far to go at most, from `at` on.
    fn poll(&mut self, cx: &mut Context<'_>, at: u64) -> Poll<u64> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.left.front() {
                Some(&(place, pause)) if place <= at => {
                    self.left.pop_front();
                    self.pause = Some(Box::pin(sleep(pause)));
                }
                Some(&(place, _)) => return Poll::Ready(place - at),
                None => return Poll::Ready(u64::MAX),
            }
        }
    }
}

/// What the user types.
#[derive(Debug)]
pub struct Typist {
    journal: Journal,
    input: Input,
    random: ChaCha8Rng,
    pauses: Pauses,
}

impl Typist {
    /// The one of a scenario.
    #[must_use]
    pub fn new(scenario: &Scenario, journal: &Journal) -> Typist {
        Typist {
            journal: journal.clone(),
            random: ChaCha8Rng::seed_from_u64(scenario.seed ^ 0x74_79_70_65),
            pauses: Pauses::new(&scenario.input.pauses),
            input: scenario.input.clone(),
        }
    }
}

impl AsyncRead for Typist {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let typist = self.get_mut();
        let at = typist.journal.open().stdin_given;
        let until_pause = ready!(typist.pauses.poll(cx, at));
        let left = typist.input.bytes - at;
        if left == 0 {
            if !typist.input.ends {
                // Nobody types any more.
                return Poll::Pending;
            }
            let mut records = typist.journal.open();
            records.stdin_given_end = true;
            records.note(format_args!("user: input ends"));
            return Poll::Ready(Ok(()));
        }
        let piece = typist.random.random_range(1..=typist.input.piece_bytes) as u64;
        let count = left.min(until_pause).min(piece).min(buffer.remaining() as u64);
        let bytes: Vec<u8> = (at..at + count).map(|at| byte(Channel::Stdin, at)).collect();
        buffer.put_slice(&bytes);
        let mut records = typist.journal.open();
        records.stdin_given += count;
        records.note(format_args!("user: types {count}"));
        crate::world::check_bounds(&mut records);
        Poll::Ready(Ok(()))
    }
}

/// The user's side of one output.
#[derive(Debug)]
pub struct Eyes {
    journal: Journal,
    channel: Channel,
    piece_bytes: usize,
    random: ChaCha8Rng,
    pauses: Pauses,
}

impl Eyes {
    /// The ones of a scenario for a channel.
    #[must_use]
    pub fn new(scenario: &Scenario, channel: Channel, journal: &Journal) -> Eyes {
        let number = u64::from(channel.number());
        Eyes {
            journal: journal.clone(),
            channel,
            piece_bytes: scenario.reader.piece_bytes,
            random: ChaCha8Rng::seed_from_u64(scenario.seed ^ (0x65_79_65 + number)),
            pauses: Pauses::new(&scenario.reader.pauses[lane(channel)]),
        }
    }
}

impl AsyncWrite for Eyes {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let eyes = self.get_mut();
        let at = eyes.journal.open().received[lane(eyes.channel)];
        let until_pause = ready!(eyes.pauses.poll(cx, at));
        let piece = eyes.random.random_range(1..=eyes.piece_bytes);
        let until_pause = usize::try_from(until_pause).unwrap_or(usize::MAX);
        let taken = bytes.len().min(piece).min(until_pause);
        let mut records = eyes.journal.open();
        records.check(eyes.channel, at, &bytes[..taken]);
        records.received[lane(eyes.channel)] += taken as u64;
        records.note(format_args!("user: gets {taken} of {:?}", eyes.channel));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
