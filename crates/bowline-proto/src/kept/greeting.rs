//! The beginning of a connection at a host: what the client asks for, before it is known whose
//! matter it is.

use bytes::BytesMut;

use super::link::Link;
use super::{Frame, Instance, Refused, Resume, Start, refused};
use crate::limits::KEPT_GREETING;
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::session::{Cause, Loss};
use crate::time::Time;

/// A connection whose client has not said yet what it wants.
#[derive(Debug)]
pub struct Greeting {
    pub(super) link: Link,
    instance: Instance,
    /// When the host has said hello: before that, nothing was asked for.
    pub(super) began: Time,
    /// The turn that the client says it had; 0 for none.
    pub(super) turn: u64,
    /// When it has asked, and when it has its answer, at the latest.
    until: Time,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asking,
    /// It has asked; what follows is for whoever answers.
    Asked,
    /// It was answered, or is of no use.
    Over,
}

/// What a client wants. Given once; then the connection belongs to a [`Host`](super::Host), or is
/// [refused](Greeting::refuse) or [listed](Greeting::list) to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To start a command.
    Start(Start),
    /// To go on with a session.
    Resume(Resume),
    /// To know which sessions there are.
    List,
    /// Nothing any more: the connection ended, or what came is no request.
    Nothing(Loss),
}

impl Greeting {
    /// A connection right after its upgrade, at this host.
    #[must_use]
    pub fn new(now: Time, instance: Instance) -> Greeting {
        let link = Link::new(now, Some(instance));
        let until = now + KEPT_GREETING;
        Greeting { link, instance, began: now, turn: 0, until, stage: Stage::Asking }
    }

    /// Answers that it cannot be, and ends the connection.
    pub fn refuse(&mut self, code: u64, text: impl Into<alloc::string::String>) {
        self.link.send(&Frame::Refused(Refused { code, text: text.into() }));
        self.end();
    }

    /// Answers with all sessions, and ends the connection.
    pub fn list(&mut self, entries: impl IntoIterator<Item = alloc::vec::Vec<u8>>) {
        entries.into_iter().for_each(|entry| self.link.send(&Frame::Listed(entry)));
        self.link.send(&Frame::ListedAll);
        self.end();
    }

    fn end(&mut self) {
        self.link.outbox.finish();
        self.stage = Stage::Over;
    }

    fn ask(&mut self) -> Result<Option<Asked>, Loss> {
        while let Some(frame) = self.link.next()? {
            match frame {
                Frame::Hello { .. } => {}
                Frame::Start(start) if start.instance != self.instance => {
                    self.refuse(refused::OTHER_HOST, "this is another host than the one meant");
                    return Err(Loss::new(Cause::Closed, "it meant another host"));
                }
                Frame::Start(start) => return Ok(Some(Asked::Start(start))),
                Frame::Resume(resume) => {
                    self.turn = resume.turn;
                    return Ok(Some(Asked::Resume(resume)));
                }
                Frame::List => return Ok(Some(Asked::List)),
                _ => {
                    self.refuse(refused::BAD_REQUEST, "nothing was asked for yet");
                    return Err(Loss::new(Cause::Fault, "it asked for nothing"));
                }
            }
        }
        Ok(None)
    }
}

impl Machine for Greeting {
    type Event = Asked;

    fn receive(&mut self, now: Time, input: BytesMut) {
        self.link.receive(now, input.freeze());
    }

    fn receive_end(&mut self, _now: Time) {
        self.link.receive_end();
    }

    fn poll(&mut self, now: Time) -> Next<Asked> {
        match self.stage {
            Stage::Asking => {}
            Stage::Asked => return Next::Idle(Some(self.until)),
            Stage::Over if now < self.until && self.link.outbox.is_undelivered() => {
                return Next::Idle(Some(self.until));
            }
            Stage::Over => return Next::Done,
        }
        match self.ask() {
            Ok(Some(asked)) => {
                self.stage = Stage::Asked;
                Next::Event(asked)
            }
            Err(loss) => {
                self.end();
                Next::Event(Asked::Nothing(loss))
            }
            Ok(None) if now >= self.until => {
                self.end();
                Next::Event(Asked::Nothing(Loss::new(Cause::Silent, "it asked for nothing")))
            }
            Ok(None) => Next::Idle(Some(self.until)),
        }
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.link.outbox
    }

    fn wants_read(&self) -> bool {
        self.stage == Stage::Asking
    }
}
