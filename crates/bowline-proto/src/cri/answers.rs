//! What the runtime says to its client: passed as it comes, but for answers that are exchanged.

use alloc::vec::Vec;

use bytes::Bytes;

use super::frames::{Content, HEADER_TABLE_SIZE, Head, Part, Reader, Settings, kind};
use super::held::{Progress, Watched};
use super::{Exchange, Face, Kept, messages};
use crate::limits::CRI_ANSWER_BYTES;

/// The largest payload that every client takes (RFC 9113 §6.5.2).
const PAYLOAD_BYTES: usize = 16_384;

/// The runtime's direction.
#[derive(Debug, Default)]
pub(super) struct Answers {
    frames: Reader,
    looked_at: LookedAt,
}

/// What happens to the payload of the frame that comes.
#[derive(Clone, Copy, Debug, Default)]
enum LookedAt {
    /// It passes.
    #[default]
    Nothing,
    /// It passes and is read.
    Settings(Settings),
    /// It is held.
    Held { head: Head, content: Content },
}

impl Answers {
    /// Whether all frames that were passed were passed to their end.
    fn is_at_boundary(&self) -> bool {
        matches!(self.looked_at, LookedAt::Held { .. }) || self.frames.left() == 0
    }
}

impl<X: Exchange> Face<X> {
    pub(super) fn runtime_said(&mut self, mut input: Bytes) {
        while let Some(part) = self.answers.frames.next(&mut input, |head| {
            head.kind() != kind::SETTINGS && !self.calls.is_watched(head.stream())
        }) {
            match part {
                Part::Passing(frames) => self.to_near.push(frames),
                Part::Head(head) => self.answer_head(head),
                Part::Payload(piece) => self.answer_payload(piece),
            }
            if self.answers.frames.left() == 0 {
                self.answer_frame_ended();
            }
        }
    }

    /// Nothing more comes. What is held goes as it came, unless a frame was cut: a client takes
    /// nothing behind that.
    pub(super) fn runtime_ended(&mut self) {
        let is_at_boundary = self.answers.is_at_boundary();
        let last = match self.answers.looked_at {
            LookedAt::Held { head, .. } => Some(head.stream()),
            _ => None,
        };
        while let Some(call) = self.calls.remove_any(last) {
            if is_at_boundary {
                self.to_near.push(call.answer.into_frames().into());
            }
        }
        self.to_near.push(Bytes::copy_from_slice(self.answers.frames.unfinished()));
    }

    fn answer_head(&mut self, head: Head) {
        let stream = head.stream();
        let watched = self.calls.get(stream);
        let is_held = watched.is_some() && head.kind() == kind::DATA;
        let has_begun = watched.is_some_and(|call| call.answer.has_begun());
        if is_held {
            self.answers.looked_at = LookedAt::Held { head, content: Content::of(head) };
            let progress = self.calls.hold_head(stream, head);
            return self.answer_came(stream, progress);
        }
        match head.kind() {
            kind::SETTINGS if stream == 0 && !head.is_ack() => {
                self.answers.looked_at = LookedAt::Settings(Settings::default());
            }
            kind::RST_STREAM => self.keep(stream, None),
            // It is about the other direction.
            kind::WINDOW_UPDATE => {}
            // Trailers before the message was whole, or what nobody knows: behind what is held.
            _ if has_begun => self.keep(stream, Some(Kept::Unreadable)),
            kind::HEADERS if head.ends_stream() => self.keep(stream, None),
            _ => {}
        }
        self.to_near.push(Bytes::copy_from_slice(&head.0));
    }

    fn answer_payload(&mut self, piece: Bytes) {
        match &mut self.answers.looked_at {
            LookedAt::Nothing => self.to_near.push(piece),
            LookedAt::Settings(settings) => {
                if let Some(headers) = &mut self.requests.headers {
                    settings.take(&piece, |setting, value| {
                        if setting == HEADER_TABLE_SIZE {
                            headers.allow_table(value);
                        }
                    });
                }
                self.to_near.push(piece);
            }
            LookedAt::Held { head, content } => {
                let stream = head.stream();
                let progress = match content.of_piece(&piece) {
                    Ok(content) => self.calls.hold(stream, &piece, content),
                    Err(_) => {
                        self.calls.hold(stream, &piece, &[]);
                        Progress::Kept(Kept::Unreadable)
                    }
                };
                self.answer_came(stream, progress);
            }
        }
    }

    fn answer_frame_ended(&mut self) {
        if let LookedAt::Held { head, content } = self.answers.looked_at
            && (head.ends_stream() || !content.is_whole())
        {
            self.keep(head.stream(), Some(Kept::Unreadable));
        }
        self.answers.looked_at = LookedAt::Nothing;
        self.release_cancelled();
    }

    fn answer_came(&mut self, stream: u32, progress: Progress) {
        match progress {
            Progress::Partial => {}
            Progress::Kept(why) => self.keep(stream, Some(why)),
            Progress::Whole => self.exchange(stream),
        }
    }

    /// Watches a call no more, and passes what is held of its answer as it came.
    fn keep(&mut self, stream: u32, why: Option<Kept>) {
        let Some(call) = self.calls.remove(stream) else { return };
        if let Some(why) = why {
            self.exchange.kept(why);
        }
        self.pass(stream, call.answer.into_frames());
    }

    /// Passes what was held, at the end of a frame. If its last frame goes on, so does the rest.
    fn pass(&mut self, stream: u32, frames: Vec<u8>) {
        if matches!(self.answers.looked_at, LookedAt::Held { head, .. } if head.stream() == stream)
        {
            self.answers.looked_at = LookedAt::Nothing;
        }
        self.to_near.push(frames.into());
    }

    /// Passes what was held of calls that the client has cancelled: it still counts in the windows
    /// of the connection. Inside of a frame it waits for the end of that.
    pub(super) fn release_cancelled(&mut self) {
        // One of them may be the call whose frame comes: the others are behind it then.
        while self.answers.is_at_boundary()
            && let Some(stream) = self.calls.next_cancelled()
        {
            self.keep(stream, None);
        }
    }

    fn exchange(&mut self, stream: u32) {
        let Some(call) = self.calls.remove(stream) else { return };
        let frames = match self.exchanged(stream, &call) {
            Ok(Some(content)) => self.with_content(stream, call, &content),
            Ok(None) => call.answer.into_frames(),
            Err(why) => {
                self.exchange.kept(why);
                call.answer.into_frames()
            }
        };
        self.pass(stream, frames);
    }

    /// The content of an answer with another URL, behind it what follows the message.
    fn exchanged(&mut self, stream: u32, call: &Watched) -> Result<Option<Vec<u8>>, Kept> {
        let mut content = call.answer.content();
        let whole = call.answer.whole();
        let message = content.get(messages::PREFIX_BYTES..whole).ok_or(Kept::Unreadable)?;
        let Ok(url) = messages::url(message) else { return Err(Kept::Unreadable) };
        let Some(url) = url else { return Ok(None) };
        let asked = call.request.call()?;
        let Some(other) = self.exchange.exchange(asked, url.text) else { return Ok(None) };
        let exchanged = messages::with_url(message, &url, &other);
        let extra = exchanged.len().checked_sub(whole).ok_or(Kept::Shorter)?;
        if exchanged.len() > CRI_ANSWER_BYTES {
            return Err(Kept::TooLong);
        }
        let windows = &self.to_near.windows;
        if extra > 0 && !windows.has_room(stream, call.answer.flow + extra) {
            return Err(Kept::NoWindow);
        }
        content.splice(..whole, exchanged);
        Ok(Some(content))
    }

    /// The frames of an answer with other content. What does not fit goes before them, in frames of
    /// its own: so each of theirs keeps its length, its flags and its padding.
    fn with_content(&mut self, stream: u32, call: Watched, content: &[u8]) -> Vec<u8> {
        let extra = content.len() - call.answer.content_length();
        let (before, rest) = content.split_at(extra);
        let mut frames = Vec::new();
        for piece in before.chunks(PAYLOAD_BYTES) {
            frames.extend_from_slice(&Head::data(stream, piece.len()).0);
            frames.extend_from_slice(piece);
        }
        // It is bounded by the length of an answer.
        self.to_near.windows.lend(stream, extra as u32);
        frames.extend(call.answer.with_content(rest));
        frames
    }
}
