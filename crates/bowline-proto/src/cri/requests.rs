//! What a client says to the runtime: passed as it comes, but for what it grants and the runtime
//! has had already.

use alloc::vec::Vec;

use bytes::Bytes;

use super::frames::{
    Content, HEAD_BYTES, Head, INITIAL_WINDOW_SIZE, PREFACE, Part, Reader, Settings, kind,
};
use super::headers;
use super::{Exchange, Face, Kept};
use crate::limits::CRI_CALLS;

/// The client's direction.
#[derive(Debug)]
pub(super) struct Requests {
    /// How much of the preface has come. None: it is not HTTP/2, and not looked at.
    preface: Option<usize>,
    frames: Reader,
    head: Head,
    looked_at: LookedAt,
    /// None once they cannot be read any more.
    pub(super) headers: Option<headers::Reader>,
    /// The header block that has yet to end.
    block: Option<Block>,
    last_stream: u32,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    stream: u32,
    /// It opens its stream; later ones are trailers.
    opens: bool,
}

/// What is looked at in the payload of the frame that comes.
#[derive(Clone, Copy, Debug)]
enum LookedAt {
    Nothing,
    Settings(Settings),
    Block(Content),
    Message(Content),
    /// The frame waits until it is whole.
    Update {
        increment: [u8; 4],
        have: usize,
    },
}

impl Default for Requests {
    fn default() -> Requests {
        Requests {
            preface: Some(0),
            frames: Reader::default(),
            head: Head([0; HEAD_BYTES]),
            looked_at: LookedAt::Nothing,
            headers: Some(headers::Reader::default()),
            block: None,
            last_stream: 0,
        }
    }
}

impl Requests {
    /// What has come of a frame that will never be whole, and was not passed.
    pub(super) fn unfinished(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let LookedAt::Update { increment, have } = &self.looked_at {
            bytes.extend_from_slice(&self.head.0);
            bytes.extend_from_slice(&increment[..*have]);
        }
        bytes.extend_from_slice(self.frames.unfinished());
        bytes
    }

    /// Whether this is the preface of HTTP/2, as far as it has come.
    fn is_preface(&mut self, piece: &[u8]) -> bool {
        let Some(come) = self.preface else { return false };
        let is_preface = PREFACE[come..].starts_with(piece);
        self.preface = is_preface.then_some(come + piece.len());
        is_preface
    }
}

impl<X: Exchange> Face<X> {
    pub(super) fn client_said(&mut self, mut input: Bytes) {
        if let Some(come) = self.requests.preface.filter(|come| *come < PREFACE.len()) {
            let piece = input.split_to(input.len().min(PREFACE.len() - come));
            self.requests.is_preface(&piece);
            self.to_far.frame(&[], piece);
        }
        if self.requests.preface.is_none() {
            return self.to_far.frame(&[], input);
        }
        while let Some(part) = self.requests.frames.next(&mut input, |head| {
            let is_looked_at = match head.kind() {
                kind::DATA => self.calls.is_watched(head.stream()),
                kind::SETTINGS => !head.is_ack(),
                kind::HEADERS | kind::CONTINUATION | kind::RST_STREAM | kind::WINDOW_UPDATE => true,
                _ => false,
            };
            !is_looked_at && self.requests.block.is_none()
        }) {
            match part {
                Part::Passing(frames) => self.to_far.frame(&[], frames),
                Part::Head(head) => self.request_head(head),
                Part::Payload(piece) => self.request_payload(piece),
            }
            if self.requests.frames.left() == 0 {
                self.request_frame_ended();
            }
        }
        self.release_cancelled();
        self.to_near.flush();
    }

    fn request_head(&mut self, head: Head) {
        self.requests.head = head;
        let stream = head.stream();
        let continued = self.requests.block.map(|block| block.stream);
        // Nothing comes between the frames of one block (RFC 9113 §6.10).
        let continues = (head.kind() == kind::CONTINUATION).then_some(stream);
        if continued != continues {
            self.lose_headers();
        }
        self.requests.looked_at = match head.kind() {
            kind::HEADERS => {
                let opens = stream > self.requests.last_stream;
                self.requests.last_stream = self.requests.last_stream.max(stream);
                self.requests.block = Some(Block { stream, opens });
                LookedAt::Block(Content::of(head))
            }
            kind::CONTINUATION => LookedAt::Block(Content::of(head)),
            kind::DATA if self.calls.get(stream).is_some() => LookedAt::Message(Content::of(head)),
            kind::SETTINGS if !head.is_ack() => LookedAt::Settings(Settings::default()),
            kind::WINDOW_UPDATE if head.length() == 4 => {
                LookedAt::Update { increment: [0; 4], have: 0 }
            }
            kind::RST_STREAM => {
                self.calls.cancel(stream);
                self.to_near.windows.close(stream);
                LookedAt::Nothing
            }
            _ => LookedAt::Nothing,
        };
        if !matches!(self.requests.looked_at, LookedAt::Update { .. }) {
            self.to_far.frame(&head.0, Bytes::new());
        }
    }

    fn request_payload(&mut self, piece: Bytes) {
        match &mut self.requests.looked_at {
            LookedAt::Nothing => {}
            LookedAt::Settings(settings) => {
                let windows = &mut self.to_near.windows;
                settings.take(&piece, |setting, value| {
                    if setting == INITIAL_WINDOW_SIZE {
                        windows.set_initial(value);
                    }
                });
            }
            LookedAt::Block(content) => {
                let headers = self.requests.headers.as_mut();
                let is_read = content.of_piece(&piece).is_ok_and(|content| {
                    headers.is_none_or(|headers| headers.take(content).is_ok())
                });
                if !is_read {
                    self.lose_headers();
                }
            }
            LookedAt::Message(content) => {
                let content = content.of_piece(&piece);
                if let Some(call) = self.calls.get(self.requests.head.stream()) {
                    match content {
                        Ok(content) => call.request.take(content),
                        // The runtime refuses it by itself.
                        Err(_) => call.request.lose(),
                    }
                }
            }
            LookedAt::Update { increment, have } => {
                increment[*have..*have + piece.len()].copy_from_slice(&piece);
                *have += piece.len();
                return;
            }
        }
        self.to_far.frame(&[], piece);
    }

    fn request_frame_ended(&mut self) {
        let head = self.requests.head;
        match core::mem::replace(&mut self.requests.looked_at, LookedAt::Nothing) {
            LookedAt::Block(content) if !content.is_whole() => self.lose_headers(),
            LookedAt::Block(_) if head.ends_headers() => self.block_ended(),
            LookedAt::Update { increment, .. } => self.granted(head, increment),
            _ => {}
        }
    }

    fn block_ended(&mut self) {
        let (Some(headers), Some(block)) = (&mut self.requests.headers, self.requests.block.take())
        else {
            return;
        };
        let Ok(method) = headers.end() else { return self.lose_headers() };
        let Some(method) = method.filter(|_| block.opens) else { return };
        if self.calls.len().max(self.to_near.windows.streams()) >= CRI_CALLS {
            return self.exchange.kept(Kept::TooMany);
        }
        self.calls.insert(block.stream, method);
        self.to_near.windows.open(block.stream);
    }

    /// Passes on what the client grants, without what the runtime believes to have.
    fn granted(&mut self, head: Head, increment: [u8; 4]) {
        let granted = u32::from_be_bytes(increment) & 0x7fff_ffff;
        let told = self.to_near.windows.grant(head.stream(), granted);
        if told == granted {
            self.to_far.frame(&head.0, Bytes::new());
            self.to_far.frame(&increment, Bytes::new());
        } else if told > 0 {
            self.to_far.frame(&head.0, Bytes::new());
            self.to_far.frame(&told.to_be_bytes(), Bytes::new());
        }
    }

    /// The runtime judges the client's fault; here no new call is known from now on.
    fn lose_headers(&mut self) {
        self.requests.block = None;
        if self.requests.headers.take().is_some() {
            self.exchange.kept(Kept::Headers);
        }
    }
}
