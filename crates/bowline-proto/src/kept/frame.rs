//! Bytes to frames and back (docs/protocols/kept-session.md, 11.2).
//!
//! A frame is its length, its kind and a body; lengths, kinds and numbers are LEB128. The bytes of
//! DATA are given as they come, without waiting for the frame's end.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::{fmt, mem};

use bytes::{Buf, Bytes, BytesMut};

use super::{Id, Instance, Stream, Total};
use crate::limits::{KEPT_DATA_BYTES, KEPT_FRAME_BYTES, KEPT_WORDS};
use crate::outbox::Outbox;
use crate::session::{Size, Wants};

/// One frame, but for those whose kind is not known, which are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Both: the first frame of each direction.
    Hello {
        /// The highest version of the protocol that is spoken; both go on with the lower one.
        version: u64,
        /// How many bytes of each stream may be sent ahead of what is acknowledged.
        window: u64,
        /// Which host it is; none from a client.
        instance: Option<Instance>,
    },
    /// Client: start this command, or join it if it was started.
    Start(Start),
    /// Client: go on with a session.
    Resume(Resume),
    /// Client: say which sessions there are.
    List,
    /// Host: the answer to a start or a resumption, before anything else of the session.
    State {
        /// The streams that the command was started with, and whether it has a terminal.
        wants: Wants,
        /// How many bytes of stdin have come.
        stdin: u64,
        /// Whether its end has come.
        stdin_over: bool,
        /// Where stdout and stderr go on.
        outputs: [u64; 2],
        /// Whether the command was started by this request.
        started: bool,
        /// Which client has the session, counted from 1: the one that hears this, unless it looks.
        turn: u64,
    },
    /// Bytes of a stream at an offset.
    Data(Stream, u64, Bytes),
    /// A stream ends at this offset.
    End(Stream, u64),
    /// Host: bytes of a stream are not there any more.
    Gap {
        /// Which one.
        stream: Stream,
        /// The offset of the first of them.
        from: u64,
        /// The offset behind the last of them.
        to: u64,
        /// How far whoever had the session has taken the stream: what is behind that and missing
        /// has come to nobody.
        taken: u64,
    },
    /// So much of a stream was taken; one more than its length if its end was.
    Ack(Stream, u64),
    /// Client: the terminal has this size.
    Resize(Size),
    /// Client: goodbye.
    Leave(Leave),
    /// Host: it has heard the goodbye. Nothing follows.
    Left,
    /// Both: answer this.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// Host: how the command ended, behind all of its output.
    Outcome {
        /// A Status as JSON, or why the outcome is not known.
        end: Result<Bytes, String>,
        /// What stdout and stderr had.
        totals: [Total; 2],
    },
    /// Client: the outcome has come.
    Received,
    /// Host: no, and why. Nothing follows.
    Refused(Refused),
    /// Host: one of its sessions.
    Listed(Vec<u8>),
    /// Host: that were all of them.
    ListedAll,
    /// Host: what brings any terminal to where the bytes of stdout have brought one that go before
    /// those that follow.
    Screen {
        /// Whether the program is to write its screen anew.
        anew: bool,
        /// What is written to the terminal.
        bytes: Bytes,
    },
}

/// A request for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The session's id, which the client has chosen at random.
    pub id: Id,
    /// The host that is meant; another one refuses.
    pub instance: Instance,
    /// The streams that there are, and whether there is a terminal.
    pub wants: Wants,
    /// How long the session is kept without a client, and after its end, in seconds.
    pub keep_for: u64,
    /// The first size of its terminal.
    pub size: Option<Size>,
    /// The command's words.
    pub command: Vec<String>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
}

/// What a client wants of a session that it resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To go on in place of any other client.
    Take,
    /// To see its output beside another client.
    Look,
}

/// A request to go on with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Its id.
    pub id: Id,
    /// As whom.
    pub mode: Mode,
    /// How much of stdout and stderr the client has; `None` is as much as was acknowledged.
    pub have: Option<[u64; 2]>,
    /// The turn that this client had, so that it does not take the session from one that has come
    /// after it; 0 if it had none.
    pub turn: u64,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The command goes on.
    Running,
    /// The command is hung up.
    HungUp,
}

/// Why a host refuses: a code, one of [`refused`], and words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The code.
    pub code: u64,
    /// The words; a peer's are bounded and not sanitized.
    pub text: String,
}

/// The codes of refusals.
pub mod refused {
    /// What was asked for cannot be understood.
    pub const BAD_REQUEST: u64 = 1;
    /// There is no session with this id: never begun, over for long, or lost with its host.
    pub const UNKNOWN: u64 = 2;
    /// There is a session with this id that was started with another command.
    pub const CONFLICT: u64 = 3;
    /// The start was meant for another host, so it may have been carried out there.
    pub const OTHER_HOST: u64 = 4;
    /// There are too many sessions.
    pub const TOO_MANY: u64 = 5;
    /// Another client has gone on with the session.
    pub const TAKEN_OVER: u64 = 6;
    /// The command cannot be run here.
    pub const NOT_STARTED: u64 = 7;
    /// The host ends.
    pub const HOST_ENDS: u64 = 8;
}

mod kind {
    pub(super) const HELLO: u64 = 0;
    pub(super) const START: u64 = 1;
    pub(super) const RESUME: u64 = 2;
    pub(super) const LIST: u64 = 3;
    pub(super) const STATE: u64 = 4;
    pub(super) const DATA: u64 = 5;
    pub(super) const END: u64 = 6;
    pub(super) const GAP: u64 = 7;
    pub(super) const ACK: u64 = 8;
    pub(super) const RESIZE: u64 = 9;
    pub(super) const LEAVE: u64 = 10;
    pub(super) const PING: u64 = 11;
    pub(super) const PONG: u64 = 12;
    pub(super) const OUTCOME: u64 = 13;
    pub(super) const RECEIVED: u64 = 14;
    pub(super) const REFUSED: u64 = 15;
    pub(super) const LISTED: u64 = 16;
    pub(super) const LISTED_ALL: u64 = 17;
    pub(super) const SCREEN: u64 = 18;
    pub(super) const LEFT: u64 = 19;
}

/// Offsets end here, so that sums of them are numbers.
const LAST_OFFSET: u64 = 1 << 62;

/// As many pieces as a read is mostly made of.
const FEW_PIECES: usize = 16;
/// Four numbers are in front of the bytes of DATA.
const HEAD_BYTES: usize = 4 * NUMBER_BYTES;
/// As long as a number can be.
const NUMBER_BYTES: usize = 10;

const STDIN: u64 = 1;
const STDOUT: u64 = 2;
const STDERR: u64 = 4;
const TTY: u64 = 8;

fn flags(Wants { stdin, stdout, stderr, tty }: Wants) -> u64 {
    let flags = [(stdin, STDIN), (stdout, STDOUT), (stderr, STDERR), (tty, TTY)];
    flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum()
}

/// Writes a body.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn of(kind: u64) -> Writer {
        let mut writer = Writer::default();
        writer.number(kind);
        writer
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn size(&mut self, size: Option<Size>) {
        // A terminal without a size is one of 0 by 0, as the kernel has it.
        let size = size.unwrap_or(Size { width: 0, height: 0 });
        self.number(size.width.into());
        self.number(size.height.into());
    }

    fn start(&mut self, start: &Start) {
        self.0.extend_from_slice(&start.id.0);
        self.0.extend_from_slice(&start.instance.0);
        self.number(flags(start.wants));
        self.number(start.keep_for);
        self.size(start.size);
        self.number(start.command.len() as u64);
        start.command.iter().for_each(|word| self.bytes(word.as_bytes()));
        self.number(start.env.len() as u64);
        for (name, value) in &start.env {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    fn resume(&mut self, resume: &Resume) {
        self.0.extend_from_slice(&resume.id.0);
        self.number(u64::from(resume.mode == Mode::Look));
        self.number(u64::from(resume.have.is_some()));
        resume.have.unwrap_or_default().into_iter().for_each(|have| self.number(have));
        self.number(resume.turn);
    }

    fn outcome(&mut self, end: &Result<Bytes, String>, totals: &[Total; 2]) {
        self.number(u64::from(end.is_err()));
        match end {
            Ok(json) => self.bytes(json),
            Err(why) => self.bytes(why.as_bytes()),
        }
        for total in totals {
            self.number(total.bytes);
            self.0.extend_from_slice(&total.sum.to_le_bytes());
        }
    }
}

impl Frame {
    /// Queues the frame. One with more bytes than a peer takes is not made by the machines here.
    pub fn write(&self, outbox: &mut Outbox) {
        let (body, payload) = self.body();
        let mut head = Writer::default();
        head.number((body.0.len() + payload.len()) as u64);
        head.0.extend_from_slice(&body.0);
        outbox.frame(&head.0, payload);
    }

    fn body(&self) -> (Writer, Bytes) {
        let numbers = |kind, numbers: &[u64]| {
            let mut body = Writer::of(kind);
            numbers.iter().for_each(|number| body.number(*number));
            body
        };
        let with = |kind, fill: &dyn Fn(&mut Writer)| {
            let mut body = Writer::of(kind);
            fill(&mut body);
            body
        };
        let body = match self {
            Frame::Hello { version, window, instance } => with(kind::HELLO, &|body| {
                body.number(*version);
                body.number(*window);
                instance.iter().for_each(|instance| body.0.extend_from_slice(&instance.0));
            }),
            Frame::Start(start) => with(kind::START, &|body| body.start(start)),
            Frame::Resume(resume) => with(kind::RESUME, &|body| body.resume(resume)),
            Frame::List => Writer::of(kind::LIST),
            Frame::State { wants, stdin, stdin_over, outputs: [stdout, stderr], started, turn } => {
                let (over, started) = (u64::from(*stdin_over), u64::from(*started));
                let state = [flags(*wants), *stdin, over, *stdout, *stderr, started, *turn];
                numbers(kind::STATE, &state)
            }
            Frame::Data(stream, offset, bytes) => {
                let body = numbers(kind::DATA, &[stream.number().into(), *offset]);
                return (body, bytes.clone());
            }
            Frame::End(stream, at) => numbers(kind::END, &[stream.number().into(), *at]),
            Frame::Gap { stream, from, to, taken } => {
                numbers(kind::GAP, &[stream.number().into(), *from, *to, *taken])
            }
            Frame::Ack(stream, at) => numbers(kind::ACK, &[stream.number().into(), *at]),
            Frame::Resize(size) => with(kind::RESIZE, &|body| body.size(Some(*size))),
            Frame::Leave(how) => numbers(kind::LEAVE, &[u64::from(*how == Leave::HungUp)]),
            Frame::Left => Writer::of(kind::LEFT),
            Frame::Ping(number) => numbers(kind::PING, &[*number]),
            Frame::Pong(number) => numbers(kind::PONG, &[*number]),
            Frame::Outcome { end, totals } => {
                with(kind::OUTCOME, &|body| body.outcome(end, totals))
            }
            Frame::Received => Writer::of(kind::RECEIVED),
            Frame::Refused(Refused { code, text }) => with(kind::REFUSED, &|body| {
                body.number(*code);
                body.bytes(text.as_bytes());
            }),
            Frame::Listed(entry) => with(kind::LISTED, &|body| body.0.extend_from_slice(entry)),
            Frame::ListedAll => Writer::of(kind::LISTED_ALL),
            Frame::Screen { anew, bytes } => {
                return (numbers(kind::SCREEN, &[u64::from(*anew)]), bytes.clone());
            }
        };
        (body, Bytes::new())
    }
}

/// What a [`Reader`] found.
pub type Flow = Result<Option<Frame>, &'static str>;

/// Bytes to frames. DATA comes in as many pieces as it was read in.
#[derive(Default)]
pub struct Reader {
    /// Shared with whoever read it: most of it is data, which goes on as it is.
    input: Bytes,
    /// What came behind that.
    more: VecDeque<Bytes>,
    /// What is left of the bytes of DATA, and where they belong.
    data: Option<(Stream, u64, usize)>,
    /// What is wrong with what came.
    fault: Option<&'static str>,
}

impl fmt::Debug for Reader {
    /// Without its bytes: an id may be among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more: usize = self.more.iter().map(Bytes::len).sum();
        write!(f, "Reader({} bytes, {:?})", self.input.len() + more, self.data)
    }
}

impl Reader {
    /// Takes the next bytes.
    pub fn receive(&mut self, input: impl Into<Bytes>) {
        if self.fault.is_some() {
            return;
        }
        if self.input.is_empty() && self.more.is_empty() {
            self.input = input.into();
        } else {
            self.more.push_back(input.into());
        }
    }

    /// Returns the next frame, if it is there.
    ///
    /// # Errors
    /// What is wrong with the bytes. Nothing can be read behind it.
    pub fn frame(&mut self) -> Flow {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let next = self.next_frame();
        if let Err(fault) = next {
            self.fault = Some(fault);
            (self.input, self.more) = (Bytes::new(), VecDeque::new());
        }
        next
    }

    fn next_frame(&mut self) -> Flow {
        loop {
            while self.input.is_empty()
                && let Some(next) = self.more.pop_front()
            {
                self.input = next;
            }
            if self.more.is_empty() {
                // One that sends little in many pieces does not keep room for as many.
                self.more.shrink_to(FEW_PIECES);
            }
            if let Some((stream, offset, left)) = self.data.take() {
                if self.input.is_empty() {
                    self.data = Some((stream, offset, left));
                    return Ok(None);
                }
                let bytes = self.input.split_to(left.min(self.input.len()));
                if bytes.len() < left {
                    self.data = Some((stream, offset + bytes.len() as u64, left - bytes.len()));
                }
                return Ok(Some(Frame::Data(stream, offset, bytes)));
            }
            let Some([(length, head), (kind, kind_bytes)]) = numbers(&self.input)? else {
                if self.join(HEAD_BYTES) {
                    continue;
                }
                return Ok(None);
            };
            let length = usize::try_from(length).map_err(|_| "a frame is too long")?;
            if length < kind_bytes {
                return Err("a frame has no kind");
            }
            if kind == kind::DATA {
                if self.begin_data(head + kind_bytes, length - kind_bytes)? || self.join(HEAD_BYTES)
                {
                    continue;
                }
                return Ok(None);
            }
            if length > KEPT_FRAME_BYTES {
                return Err("a frame is too long");
            }
            if self.input.len() < head + length {
                if self.join(head + length) {
                    continue;
                }
                return Ok(None);
            }
            self.input.advance(head + kind_bytes);
            let body = self.input.split_to(length - kind_bytes);
            if let Some(frame) = Body(body).frame(kind).ok_or("a frame's body is not complete")? {
                return Ok(Some(frame));
            }
        }
    }

    /// Puts what has come of a head or a frame in one piece, up to so many bytes; whether that is
    /// more than it was. What is behind it goes on as it came.
    fn join(&mut self, bytes: usize) -> bool {
        let before = self.input.len();
        if before >= bytes || self.more.is_empty() {
            return false;
        }
        // The second time this is its only owner, and no byte of it is moved.
        let mut joined = BytesMut::from(mem::take(&mut self.input));
        while joined.len() < bytes
            && let Some(next) = self.more.front_mut()
        {
            joined.extend_from_slice(&next.split_to(next.len().min(bytes - joined.len())));
            if next.is_empty() {
                self.more.pop_front();
            }
        }
        self.input = joined.freeze();
        self.input.len() > before
    }

    /// Reads the head of DATA whose body begins at `at`; whether it was there.
    fn begin_data(&mut self, at: usize, length: usize) -> Result<bool, &'static str> {
        let Some([(stream, first), (offset, second)]) = numbers(&self.input[at..])? else {
            return Ok(false);
        };
        let stream = Stream::from_number(stream).ok_or("bytes of an unknown stream")?;
        let left = length.checked_sub(first + second).ok_or("a frame's body is not complete")?;
        if left > KEPT_DATA_BYTES || offset > LAST_OFFSET {
            return Err("a frame is too long");
        }
        self.input.advance(at + first + second);
        self.data = (left > 0).then_some((stream, offset, left));
        Ok(true)
    }
}

/// A number in front of `bytes` and how long it is; `None` if more bytes are needed.
fn number(bytes: &[u8]) -> Result<Option<(u64, usize)>, &'static str> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(NUMBER_BYTES) {
        let part = u64::from(byte & 0x7f);
        if at == NUMBER_BYTES - 1 && part > 1 {
            return Err("a number is too large");
        }
        number |= part << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((number, at + 1)));
        }
    }
    if bytes.len() < NUMBER_BYTES { Ok(None) } else { Err("a number is too large") }
}

/// Two numbers in front of `bytes`.
fn numbers(bytes: &[u8]) -> Result<Option<[(u64, usize); 2]>, &'static str> {
    let Some(first) = number(bytes)? else { return Ok(None) };
    Ok(number(&bytes[first.1..])?.map(|second| [first, second]))
}

/// What is left of a body. Bytes behind what is known are a newer peer's, and are passed over.
struct Body(Bytes);

impl Body {
    /// Reads a frame; `Some(None)` if its kind is not known.
    fn frame(&mut self, kind: u64) -> Option<Option<Frame>> {
        Some(Some(match kind {
            kind::HELLO => Frame::Hello {
                version: self.number()?,
                window: self.number()?,
                // Fewer bytes than one has are a newer client's, which has none.
                instance: self.array().map(Instance),
            },
            kind::START => Frame::Start(self.start()?),
            kind::RESUME => Frame::Resume(self.resume()?),
            kind::LIST => Frame::List,
            kind::STATE => Frame::State {
                wants: self.wants()?,
                stdin: self.offset()?,
                stdin_over: self.number()? != 0,
                outputs: [self.offset()?, self.offset()?],
                started: self.number()? != 0,
                turn: self.number()?,
            },
            kind::END => Frame::End(self.stream()?, self.offset()?),
            kind::GAP => Frame::Gap {
                stream: self.stream()?,
                from: self.offset()?,
                to: self.offset()?,
                taken: self.offset()?,
            },
            kind::ACK => Frame::Ack(self.stream()?, self.offset()?),
            kind::RESIZE => Frame::Resize(self.size()?),
            kind::LEAVE => Frame::Leave(match self.number()? {
                1 => Leave::HungUp,
                // Whatever a newer client says with it, it does not ask for that.
                _ => Leave::Running,
            }),
            kind::LEFT => Frame::Left,
            kind::PING => Frame::Ping(self.number()?),
            kind::PONG => Frame::Pong(self.number()?),
            kind::OUTCOME => self.outcome()?,
            kind::RECEIVED => Frame::Received,
            kind::REFUSED => {
                let code = self.number()?;
                Frame::Refused(Refused { code, text: self.text()? })
            }
            kind::LISTED => Frame::Listed(mem::take(&mut self.0).to_vec()),
            kind::LISTED_ALL => Frame::ListedAll,
            kind::SCREEN => {
                Frame::Screen { anew: self.number()? != 0, bytes: mem::take(&mut self.0) }
            }
            _ => return Some(None),
        }))
    }

    fn number(&mut self) -> Option<u64> {
        let (number, length) = number(&self.0).ok().flatten()?;
        self.0.advance(length);
        Some(number)
    }

    fn offset(&mut self) -> Option<u64> {
        self.number().filter(|offset| *offset <= LAST_OFFSET)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = self.0.first_chunk().copied()?;
        self.0.advance(N);
        Some(array)
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.number()?).ok()?;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    /// Words and names are those of a request's query, which are characters.
    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn stream(&mut self) -> Option<Stream> {
        Stream::from_number(self.number()?)
    }

    fn size(&mut self) -> Option<Size> {
        let (width, height) = (self.number()?, self.number()?);
        Some(Size { width: width.try_into().ok()?, height: height.try_into().ok()? })
    }

    fn wants(&mut self) -> Option<Wants> {
        let flags = self.number()?;
        let has = |flag| flags & flag != 0;
        let stderr = has(STDERR) && !has(TTY);
        Some(Wants { stdin: has(STDIN), stdout: has(STDOUT), stderr, tty: has(TTY) })
    }

    fn start(&mut self) -> Option<Start> {
        let (id, instance) = (Id(self.array()?), Instance(self.array()?));
        let wants = self.wants()?;
        let keep_for = self.number()?;
        let size = Some(self.size()?).filter(|size| size.width > 0 && size.height > 0);
        let command = (0..self.count()?).map(|_| self.text()).collect::<Option<_>>()?;
        let env = (0..self.count()?)
            .map(|_| Some((self.text()?, self.text()?)))
            .collect::<Option<_>>()?;
        Some(Start { id, instance, wants, keep_for, size, command, env })
    }

    fn count(&mut self) -> Option<u64> {
        self.number().filter(|count| *count <= KEPT_WORDS)
    }

    fn resume(&mut self) -> Option<Resume> {
        let id = Id(self.array()?);
        let mode = if self.number()? == 0 { Mode::Take } else { Mode::Look };
        let has = self.number()? != 0;
        let have = [self.offset()?, self.offset()?];
        Some(Resume { id, mode, have: has.then_some(have), turn: self.number()? })
    }

    fn outcome(&mut self) -> Option<Frame> {
        let is_lost = self.number()? != 0;
        let bytes = self.bytes()?;
        let end =
            if is_lost { Err(String::from_utf8_lossy(&bytes).into_owned()) } else { Ok(bytes) };
        let mut totals = [Total::default(); 2];
        for total in &mut totals {
            *total = Total { bytes: self.offset()?, sum: u64::from_le_bytes(self.array()?) };
        }
        Some(Frame::Outcome { end, totals })
    }
}
