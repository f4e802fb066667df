//! A connection that asks for a kept session: to its seat there, or to a refusal.

use bowline_io::record::{End, Traffic};
use bowline_io::serve::CLOSE_PATIENCE;
use bowline_io::stream::Upgraded;
use bowline_proto::Machine;
use bowline_proto::kept::{Asked, Entry, Greeting, Mode, Resume, Start, refused};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::line::Line;
use super::session::{Entrant, For, Seated};
use super::{Asking, Door, Keeper, Refusal, UNKNOWN};

/// What clients are told when the node ends.
pub(super) const ENDS: &str = "the node shuts down";
/// What they are told who go on with a session behind other words: records of requests would not
/// say what was done.
pub(super) const OTHER_REQUEST: &str = "the request is for something else than this session";

/// Serves a connection, right after its 101, until it is over or `end` is cancelled. Returns how
/// that was.
pub(crate) fn visit(
    keeper: Keeper,
    asking: Asking,
    connection: Upgraded,
    end: CancellationToken,
) -> impl Future<Output = (End, Traffic)> {
    visit_on(keeper, asking, Line::new(connection), end)
}

/// The same on any line.
pub(super) async fn visit_on(
    keeper: Keeper,
    asking: Asking,
    line: Line,
    end: CancellationToken,
) -> (End, Traffic) {
    let greeting = Greeting::new(keeper.now(), keeper.0.instance);
    let mut visit = Visit { keeper, line, greeting };
    let asked = tokio::select! {
        biased;
        asked = visit.line.asked(&visit.keeper.0.clock, &mut visit.greeting) => asked,
        () = end.cancelled() => {
            visit.greeting.refuse(refused::HOST_ENDS, ENDS);
            let _ = timeout(CLOSE_PATIENCE, visit.close(End::Shutdown)).await;
            return (End::Shutdown, visit.line.traffic());
        }
    };
    Box::pin(visit.answer(asking, asked)).await
}

/// A client that was not taken to its session yet.
struct Visit {
    keeper: Keeper,
    line: Line,
    greeting: Greeting,
}

impl Visit {
    async fn answer(mut self, asking: Asking, asked: Option<Asked>) -> (End, Traffic) {
        let found = match asked {
            None => return self.close(End::ClientGone(String::new())).await,
            Some(Asked::Nothing(loss)) => {
                return self.close(End::ClientGone(loss.to_string())).await;
            }
            Some(Asked::List) if !asking.is_question(&["list"]) => {
                let text = "the request is not for a list";
                return self.refuse(refused::BAD_REQUEST, text.to_owned()).await;
            }
            Some(Asked::List) => {
                let entries = self.keeper.list(&asking.place);
                self.greeting.list(entries.iter().map(Entry::json));
                return self.close(End::Over).await;
            }
            Some(Asked::Start(start)) => self.start(asking, start),
            Some(Asked::Resume(resume)) => self.resume(asking, resume),
        };
        match found {
            Ok((door, wanted)) => self.enter(door, wanted).await,
            Err((code, text)) => self.refuse(code, text).await,
        }
    }

    fn start(&self, asking: Asking, start: Start) -> Result<(Door, For), Refusal> {
        if !asking.is_for(&start) {
            let text = "the request is for another command than the start";
            return Err((refused::BAD_REQUEST, text.to_owned()));
        }
        let Asking { place, wants, session, .. } = asking;
        let Some(session) = session else {
            let text = "the request is for sessions that there are";
            return Err((refused::BAD_REQUEST, text.to_owned()));
        };
        let job = || session.keep(wants);
        let (door, started) = self.keeper.start(&place, &start, job)?;
        Ok((door, For::Start(Box::new(start), started)))
    }

    fn resume(&self, asking: Asking, resume: Resume) -> Result<(Door, For), Refusal> {
        let words: &[&str] = match resume.mode {
            Mode::Take => &["resume"],
            Mode::Look => &["resume", "result"],
        };
        if asking.session.is_none() && !asking.is_question(words) {
            return Err((refused::BAD_REQUEST, OTHER_REQUEST.to_owned()));
        }
        let door = self.keeper.find(&asking.place, &resume.id)?;
        // A client whose START went to a node before this one comes with its command.
        let command = asking.session.is_some().then(|| Box::new(asking));
        Ok((door, For::Resume(resume, command)))
    }

    /// Takes the client to the session, and waits until it has left.
    async fn enter(self, door: Door, wanted: For) -> (End, Traffic) {
        let Visit { keeper, line, greeting } = self;
        let (left, leaves) = oneshot::channel();
        let greeting = Box::new(greeting);
        let entrant = Box::new(Entrant { line, greeting, wanted, left });
        if let Err(mpsc::error::SendError(entrant)) = door.send(entrant).await {
            let Entrant { line, greeting, .. } = *entrant;
            let visit = Visit { keeper, line, greeting: *greeting };
            return visit.refuse(refused::UNKNOWN, UNKNOWN.to_owned()).await;
        }
        drop(door);
        match leaves.await {
            Ok(Seated::Left(end, traffic)) => (end, traffic),
            Ok(Seated::Refused(line, greeting)) => {
                let refused = End::Lost("the session was refused".to_owned());
                Visit { keeper, line, greeting: *greeting }.close(refused).await
            }
            Err(_) => (End::Shutdown, Traffic::default()),
        }
    }

    async fn refuse(mut self, code: u64, text: String) -> (End, Traffic) {
        let end = End::Lost(format!("refused: {text}"));
        self.greeting.refuse(code, text);
        self.close(end).await
    }

    async fn close(&mut self, end: End) -> (End, Traffic) {
        self.line.close(self.greeting.outbox()).await;
        (end, self.line.traffic())
    }
}
