//! A runtime's streaming server: URLs that can be used once, and what is behind them.
//!
//! A container runtime answers the kubelet's Exec, Attach and PortForward with a URL of a server of
//! its own ([endpoints.md, 1.4](https://github.com/bowline/bowline/blob/main/docs/protocols/endpoints.md)).
//! This is such a server, which also says whether it runs and whether the runtime is there. It
//! speaks whatever the [kubelet's paths](crate::kubelet) speak, for sessions that are driven here
//! and for those of a [runtime](crate::runtime) that streams by itself. To such a one it can also
//! pass, as it came, what it does not know itself: the runtime may, and if not, the answer is in
//! the runtime's words.

mod tokens;

use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use bowline_io::clock::Clock;
use bowline_io::http::lines;
use bowline_io::record::{Pending, Record, Requester};
use bowline_io::request_target::parts;
use bowline_io::serve::{Peer, Reply, Sessions};
use bowline_io::text::sanitized;
use bowline_proto::kept::is_question;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{
    Accepts, Lines, accept, accept_forward, accept_kept, asks_for_kept,
};
use bowline_proto::session::Wants;
use http::{Method, Request};
use hyper::body::Incoming;
use tracing::debug;

use self::tokens::Tokens;
use crate::answers::{judge, refuse, text, too_many};
use crate::forward::Slots;
use crate::health::{self, Readiness};
use crate::kept::{Asking, Keeper, Place, Question, not_kept};
use crate::relay;
use crate::runtime::{Answer, Attachment, Forwarding, Refusal, Session, Upstream};
use crate::streams;

/// What a URL is for.
pub struct Offer {
    /// What the log calls it: the id of a container or of a pod's sandbox.
    pub name: String,
    /// The stream behind it.
    pub stream: Stream,
    /// Where a request goes as it came, if this server does not know what it asks for. `None`
    /// refuses it.
    pub unknown: Option<Upstream>,
}

/// A stream that was asked for. Who serves it is found once a request for it is good.
pub enum Stream {
    /// A command.
    Exec {
        /// The channels that were asked for.
        wants: Wants,
        /// The words of the command, where they are known.
        command: Option<Vec<String>>,
        /// Who serves it.
        session: Answer<'static, Session>,
    },
    /// A client attached to a main process.
    Attach {
        /// The channels that were asked for.
        wants: Wants,
        /// Who serves it.
        session: Answer<'static, Session>,
    },
    /// Connections to the ports of a pod.
    PortForward {
        /// The ports, where a client that speaks channels named them.
        ports: Vec<u16>,
        /// Who serves them.
        forwarding: Answer<'static, Forwarding>,
    },
}

/// A streaming server, cheap to clone.
#[derive(Clone, Debug)]
pub struct Streaming {
    /// What its URLs begin with: a scheme, an address and a port.
    base: Arc<str>,
    sessions: Sessions,
    forwards: Slots,
    readiness: Readiness,
    keeper: Option<Keeper>,
    clock: Clock,
    tokens: Arc<Mutex<Tokens<Offer>>>,
}

impl Streaming {
    /// Makes a server whose URLs begin with `base`, as in `http://127.0.0.1:10010`. Its sessions
    /// are some of `sessions`, and connections that it makes itself take places in `forwards`. It
    /// is as ready as the runtime of `readiness`.
    #[must_use]
    pub fn new(base: &str, sessions: Sessions, forwards: Slots, readiness: Readiness) -> Streaming {
        let base = base.trim_end_matches('/').into();
        let (clock, tokens) = (Clock::start(), Arc::default());
        Streaming { base, sessions, forwards, readiness, keeper: None, clock, tokens }
    }

    /// Keeps commands whose clients ask for it. By default none is kept.
    #[must_use]
    pub fn keeping(self, keeper: Keeper) -> Streaming {
        Streaming { keeper: Some(keeper), ..self }
    }

    /// Makes a URL that can be used once, within a minute. It has `length` bytes if the token in it
    /// can be made as long, from 8 to 32 characters. `None` if 1,000 others wait to be used.
    #[must_use]
    pub fn url(&self, offer: Offer, length: usize) -> Option<String> {
        let before = format!("{}/{}/", self.base, offer.stream.path());
        let token = length.saturating_sub(before.len());
        let token = self.tokens().insert(self.clock.now(), offer, token)?;
        Some(before + &token)
    }

    /// Answers a request. A stream goes on as a task of the server's sessions after the answer.
    ///
    /// Dropped before it has answered, it starts no session; the token is used in any case.
    pub async fn answer(self, peer: Peer, request: Request<Incoming>) -> Reply {
        let requester = Requester::at(peer.address);
        let method = request.method().clone();
        let question = question(request.uri().path());
        let served = match question {
            Some(question) => self.health(question, &method).await,
            None => self.serve(&peer, &requester, request).await,
        };
        match served {
            Ok(reply) => {
                debug!("{}: {method}: {}", peer.address, reply.status());
                reply
            }
            Err(refusal) => {
                // The path of a stream has the token.
                let what = question.map_or("a stream", health::Question::path);
                let Refusal { code, text, cause, .. } = &refusal;
                let why = sanitized(if cause.is_empty() { text } else { cause }, REASON_BYTES);
                self.sessions.refusals.log(&requester, method.as_str(), what, *code, &why);
                refuse(&refusal)
            }
        }
    }

    /// Whoever asks is asked for nothing: there is no token in it, and it uses none up.
    async fn health(&self, question: health::Question, method: &Method) -> Result<Reply, Refusal> {
        if *method != Method::GET {
            return Err(Refusal::new(405, "405: Method Not Allowed"));
        }
        self.readiness.answer(question).await
    }

    async fn serve(
        &self,
        peer: &Peer,
        requester: &Requester,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        let Some((kind, token)) = route(request.uri().path()) else {
            return Ok(text(404, "404: Page Not Found"));
        };
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Refusal::new(405, "405: Method Not Allowed"));
        }
        let offer = self.tokens().take(self.clock.now(), &token);
        let unknown = || Refusal::new(404, "404 page not found");
        let Offer { name, stream, unknown } =
            offer.filter(|offer| offer.stream.path() == kind).ok_or_else(unknown)?;
        peer.mark_authenticated();
        let record = Record { container: name, ..requester.record(stream.path(), "", "") };
        let pending = self.sessions.admit(record).map_err(too_many)?;
        if let (Stream::Exec { .. }, Some(keeper)) = (&stream, &self.keeper)
            && asks_for_kept(Lines(&lines(request.headers())))
        {
            return self.kept(keeper, pending, request, stream).await;
        }
        self.run(pending, request, stream, unknown).await
    }

    /// Upgrades a request for a command whose client can go and come back, or for one that there
    /// is.
    async fn kept(
        &self,
        keeper: &Keeper,
        pending: Pending,
        request: Request<Incoming>,
        stream: Stream,
    ) -> Result<Reply, Refusal> {
        let Stream::Exec { wants, command: Some(command), session } = stream else {
            return Err(not_kept());
        };
        let accepted = judge(&request, accept_kept)??;
        // Whoever has made the URL is asked in any case: it may hold something for it.
        let session = match session.await {
            _ if is_question(&command) => None,
            Ok(Session::Local(local)) => Some(local),
            Ok(Session::Upstream(_)) => return Err(not_kept()),
            Err(refusal) => return Err(refusal),
        };
        if !keeper.keeps() {
            return Err(not_kept());
        }
        let place = Place { name: pending.record.container.clone(), uid: None };
        let asking = Asking { place, command, wants, env: Vec::new(), session };
        Ok(streams::kept(&self.sessions, keeper, pending, request, &accepted, asking))
    }

    async fn run(
        &self,
        pending: Pending,
        request: Request<Incoming>,
        stream: Stream,
        unknown: Option<Upstream>,
    ) -> Result<Reply, Refusal> {
        let judged = judge(&request, |method, lines| match stream {
            Stream::PortForward { .. } => accept_forward(method, lines),
            _ => accept(method, lines, Accepts { websocket_v5: true }),
        })?;
        let sessions = &self.sessions;
        let question = self.question(&pending, &stream);
        let accepted = match (judged, unknown) {
            (Ok(accepted), _) => accepted,
            (Err(_), Some(at)) => return relay::as_it_is(sessions, pending, request, at).await,
            (Err(refusal), None) => return Err(refusal.into()),
        };
        match stream {
            Stream::Exec { wants, session, .. } | Stream::Attach { wants, session } => {
                let session = match question {
                    Some(question) => {
                        // Whoever has made the URL may hold something for it.
                        drop(session.await);
                        Session::Local(Box::new(question))
                    }
                    None => session.await?,
                };
                let attachment = Attachment { session, replay: None };
                streams::session(sessions, pending, request, accepted, attachment, wants).await
            }
            Stream::PortForward { ports, forwarding } => {
                let at = (forwarding.await?, &*ports);
                streams::forward(sessions, &self.forwards, pending, request, accepted, at).await
            }
        }
    }

    /// The question to this server that a command is, if it is one.
    fn question(&self, pending: &Pending, stream: &Stream) -> Option<Question> {
        let Stream::Exec { wants, command: Some(command), .. } = stream else { return None };
        let keeper = self.keeper.as_ref().filter(|_| is_question(command))?;
        let place = Place { name: pending.record.container.clone(), uid: None };
        Some(Question::new(keeper, place, command.clone(), *wants))
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens<Offer>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// The first part of its path.
    fn path(&self) -> &'static str {
        match self {
            Stream::Exec { .. } => "exec",
            Stream::Attach { .. } => "attach",
            Stream::PortForward { .. } => "portforward",
        }
    }
}

impl Debug for Offer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("name", &self.name).field("stream", &self.stream).finish()
    }
}

impl Debug for Stream {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

/// What a path asks, if that is no stream.
fn question(path: &str) -> Option<health::Question> {
    health::Question::read(&parts(path).ok()?)
}

/// Reads `/exec/TOKEN`, `/attach/TOKEN` or `/portforward/TOKEN`.
fn route(path: &str) -> Option<(&'static str, String)> {
    let names = parts(path).ok()?.names;
    let [kind, token] = <[_; 2]>::try_from(names).ok()?;
    let kinds = ["exec", "attach", "portforward"];
    let kind = kinds.into_iter().find(|known| *known == kind)?;
    Some((kind, token.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let token = |kind| Some((kind, "a-_b0".to_owned()));
        assert_eq!(route("/exec/a-_b0"), token("exec"));
        assert_eq!(route("/attach/a-_b0"), token("attach"));
        assert_eq!(route("/portforward/a-_b0"), token("portforward"));
        for other in ["/", "/exec", "/exec/", "/exec/a/b", "/portForward/a", "/run/a", "exec/a"] {
            assert!(route(other).is_none_or(|found| found.1.is_empty()), "{other}");
        }
    }
}
