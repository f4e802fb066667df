//! The calls whose answers have a URL, each with its request, and with its answer until that is
//! whole.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Range;

use super::Kept;
use super::frames::{Content, HEAD_BYTES, Head};
use super::messages::{self, PREFIX_BYTES, Request};
use super::method::Method;
use crate::limits::{CRI_ANSWER_BYTES, CRI_HELD_BYTES};

/// The calls that are watched, by their streams.
#[derive(Debug, Default)]
pub(super) struct Calls {
    watched: BTreeMap<u32, Watched>,
    /// How many bytes of answers are held.
    held: usize,
    /// Those that the client has cancelled, whose answers have yet to go.
    cancelled: BTreeSet<u32>,
}

/// A call.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) request: Request,
    pub(super) answer: Answer,
}

/// An answer that is held.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Its frames, as they came; the last one may go on.
    frames: Vec<u8>,
    /// How much of the client's windows they take.
    pub(super) flow: usize,
    prefix: [u8; PREFIX_BYTES],
    /// How many bytes of content have come.
    seen: usize,
}

/// How far an answer is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Its message has yet to end.
    Partial,
    /// Its message has ended.
    Whole,
    /// It will not be exchanged.
    Kept(Kept),
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    pub(super) fn insert(&mut self, stream: u32, method: Method) {
        let (request, answer) = (Request::new(method), Answer::default());
        self.watched.insert(stream, Watched { request, answer });
    }

    /// Whether something on the stream is looked at.
    pub(super) fn is_watched(&self, stream: u32) -> bool {
        self.watched.contains_key(&stream)
    }

    pub(super) fn get(&mut self, stream: u32) -> Option<&mut Watched> {
        self.watched.get_mut(&stream)
    }

    /// Takes a call out: it is not watched any more.
    pub(super) fn remove(&mut self, stream: u32) -> Option<Watched> {
        let watched = self.watched.remove(&stream)?;
        self.held -= watched.answer.frames.len();
        Some(watched)
    }

    /// Takes any call out, but for `last` while there is another.
    pub(super) fn remove_any(&mut self, last: Option<u32>) -> Option<Watched> {
        let other = self.watched.keys().find(|stream| Some(**stream) != last).copied();
        self.remove(other.or(last)?)
    }

    /// Records that the client wants no answer any more.
    pub(super) fn cancel(&mut self, stream: u32) {
        match self.watched.get(&stream) {
            Some(watched) if watched.answer.frames.is_empty() => drop(self.remove(stream)),
            Some(_) => drop(self.cancelled.insert(stream)),
            None => {}
        }
    }

    /// A call that the client has cancelled.
    pub(super) fn next_cancelled(&mut self) -> Option<u32> {
        self.cancelled.pop_first()
    }

    /// Holds the head of a frame of an answer.
    pub(super) fn hold_head(&mut self, stream: u32, head: Head) -> Progress {
        if let Some(watched) = self.watched.get_mut(&stream) {
            watched.answer.flow += head.length();
        }
        self.hold(stream, &head.0, &[])
    }

    /// Holds a piece of a frame's payload, with the content in it.
    pub(super) fn hold(&mut self, stream: u32, bytes: &[u8], content: &[u8]) -> Progress {
        let Some(watched) = self.watched.get_mut(&stream) else { return Progress::Partial };
        let answer = &mut watched.answer;
        answer.frames.extend_from_slice(bytes);
        self.held += bytes.len();
        let progress = answer.take(content);
        match progress {
            Progress::Partial if answer.frames.len() > CRI_ANSWER_BYTES => {
                Progress::Kept(Kept::TooLong)
            }
            Progress::Partial if self.held > CRI_HELD_BYTES => Progress::Kept(Kept::TooMany),
            _ => progress,
        }
    }
}

impl Answer {
    fn take(&mut self, content: &[u8]) -> Progress {
        if let Some(missing) = self.prefix.get_mut(self.seen..) {
            let more = missing.len().min(content.len());
            missing[..more].copy_from_slice(&content[..more]);
        }
        self.seen += content.len();
        if self.seen < PREFIX_BYTES {
            return Progress::Partial;
        }
        match messages::prefix(self.prefix) {
            Err(messages::Unreadable) => Progress::Kept(Kept::Unreadable),
            Ok((true, _)) => Progress::Kept(Kept::Compressed),
            Ok((false, _)) if self.whole() > CRI_ANSWER_BYTES => Progress::Kept(Kept::TooLong),
            Ok((false, _)) if self.seen >= self.whole() => Progress::Whole,
            Ok((false, _)) => Progress::Partial,
        }
    }

    /// Whether something of it has come.
    pub(super) fn has_begun(&self) -> bool {
        !self.frames.is_empty()
    }

    /// How long the message is, its prefix included.
    pub(super) fn whole(&self) -> usize {
        let [_, a, b, c, d] = self.prefix;
        PREFIX_BYTES.saturating_add(u32::from_be_bytes([a, b, c, d]) as usize)
    }

    /// How many bytes of content have come.
    pub(super) fn content_length(&self) -> usize {
        self.seen
    }

    /// The frames as they came.
    pub(super) fn into_frames(self) -> Vec<u8> {
        self.frames
    }

    /// All content that has come, behind the message what follows it.
    pub(super) fn content(&self) -> Vec<u8> {
        self.places().flat_map(|place| &self.frames[place]).copied().collect()
    }

    /// The frames with other content, which is as long.
    pub(super) fn with_content(mut self, content: &[u8]) -> Vec<u8> {
        let mut content = content.iter();
        for place in self.places().collect::<Vec<_>>() {
            for (byte, other) in self.frames[place].iter_mut().zip(&mut content) {
                *byte = *other;
            }
        }
        self.frames
    }

    /// Where the content is.
    fn places(&self) -> impl Iterator<Item = Range<usize>> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let (head, rest) = self.frames.get(at..)?.split_first_chunk::<HEAD_BYTES>()?;
            let head = Head(*head);
            let payload = &rest[..rest.len().min(head.length())];
            // Padding was judged when it came.
            let length = Content::of(head).of_piece(payload).map_or(0, <[u8]>::len);
            let from = at + HEAD_BYTES + usize::from(head.is_padded());
            at += HEAD_BYTES + payload.len();
            Some(from..from + length)
        })
    }
}
