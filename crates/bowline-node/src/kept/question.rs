//! Questions to the node in the form of commands, for clients that know no kept sessions:
//! `kubectl exec POD -- @bowline list`, `resume ID`, `result ID`.
//!
//! The node answers them itself. One that goes on with a session is a client of it, within the
//! node.

use std::collections::VecDeque;
use std::fmt::{self, Display, Formatter};
use std::task::{Context, Poll};

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Socket, SocketEvent, WriteQueue};
use bowline_io::random;
use bowline_proto::kept::{
    Carried, Carrier, Client, ClientEvent, Entry, Id, Mode, Refused, Retry, Stream, WORD,
};
use bowline_proto::limits::{KEPT_PIECE_BYTES, KEPT_SILENCE};
use bowline_proto::session::{Outcome, Size, Status, Wants};
use bowline_proto::tunnel::Wire;
use bowline_proto::{Machine, Next};
use bytes::{Bytes, BytesMut};
use tokio::io::{DuplexStream, duplex};

use super::line::Line;
use super::visit::visit_on;
use super::{Asking, Keeper, Place};
use crate::runtime::{Act, Command, ExitStatus, Process, StartError};

/// How much may be under way between the two ends within the node.
const UNDERWAY_BYTES: usize = 64 * 1024;

/// A question, as a command.
pub(crate) struct Question {
    keeper: Keeper,
    place: Place,
    words: Vec<String>,
    wants: Wants,
}

impl Question {
    /// The question that these words are, about the sessions of a container.
    pub(crate) fn new(keeper: &Keeper, place: Place, words: Vec<String>, wants: Wants) -> Question {
        Question { keeper: keeper.clone(), place, words, wants }
    }

    fn list(&self) -> Answering {
        let end = if self.wants.tty { "\r\n" } else { "\n" };
        let line = |Entry { name, command, has_ended, has_client }: Entry| {
            let state = if has_ended { "ended" } else { "running" };
            let client = if has_client { "connected" } else { "alone" };
            format!("{name}  {state}  {client}  {command}{end}")
        };
        let text: String = self.keeper.list(&self.place).into_iter().map(line).collect();
        Answering::Text(Some(text.into()))
    }

    fn go_on(&self, id: &str, mode: Mode, size: Option<Size>) -> Result<Answering, StartError> {
        let id = Id::parse(id);
        let id = id.ok_or_else(|| StartError("a session's id has 32 hexadecimal digits".into()))?;
        let (ours, theirs) = duplex(UNDERWAY_BYTES);
        let (place, command) = (self.place.clone(), self.words.clone());
        let asking = Asking { place, command, wants: self.wants, env: Vec::new(), session: None };
        let sessions = &self.keeper.0.sessions;
        let visit = visit_on(self.keeper.clone(), asking, Line::here(theirs), sessions.end.clone());
        // What comes of it is logged as this question's own end.
        sessions.spawn(async move { drop(Box::pin(visit).await) });
        let retry = Retry { give_up_after: KEPT_SILENCE, seed: random::bytes() };
        let clock = Clock::start();
        let mut client = Client::resume(clock.now(), id, mode, None, retry);
        if let Some(size) = size {
            client.resize(size);
        }
        // It asks for its connection, which is there.
        while let Next::Event(_) = client.poll(clock.now()) {}
        let carried = Carried::new(clock.now(), client, Carrier::Bytes(Wire::plain()));
        Ok(Answering::Session(Box::new(Follower {
            carried,
            socket: Socket::new(ours, BytesMut::new()),
            clock,
            alarm: Alarm::default(),
            wants: self.wants,
            looks: mode == Mode::Look,
            session: None,
            input_ended: false,
            untaken_bytes: 0,
            outputs: VecDeque::new(),
            last: None,
            resized: std::cell::Cell::new(None),
        })))
    }
}

impl Display for Question {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // What follows may be a session's id.
        write!(f, "{WORD}")
    }
}

impl Command for Question {
    type Process = Answering;

    fn start(&mut self, size: Option<Size>) -> Result<Answering, StartError> {
        if !self.keeper.keeps() {
            return Err(StartError("this node keeps no sessions".into()));
        }
        let words: Vec<&str> = self.words.iter().skip(1).map(String::as_str).collect();
        match words[..] {
            ["list"] => Ok(self.list()),
            ["resume", id] => self.go_on(id, Mode::Take, size),
            ["result", id] => self.go_on(id, Mode::Look, size),
            _ => Err(StartError(format!("{WORD} knows list, resume ID and result ID"))),
        }
    }
}

/// The answer to a question.
pub(crate) enum Answering {
    /// A text, until it was given.
    Text(Option<Bytes>),
    /// What a session says, and in the end how its command has ended.
    Session(Box<Follower>),
}

/// A client of a session, within the node.
pub(crate) struct Follower {
    carried: Carried,
    socket: Socket<DuplexStream>,
    clock: Clock,
    alarm: Alarm,
    /// What its client wants.
    wants: Wants,
    /// It only looks, and input is for nobody.
    looks: bool,
    /// What the session has, once it is there.
    session: Option<Wants>,
    input_ended: bool,
    /// How much of the output has come to nobody, and never will.
    untaken_bytes: u64,
    /// Output that was not asked for yet: at most what the host sends ahead.
    outputs: VecDeque<Piece>,
    /// What the session has ended with.
    last: Option<Last>,
    resized: std::cell::Cell<Option<Size>>,
}

/// A piece of an output.
struct Piece {
    stream: Stream,
    bytes: Bytes,
    /// The session has none of it: it is for people, and counts for nothing.
    is_said: bool,
}

enum Last {
    Exit(ExitStatus),
    Act(Option<Act>),
}

impl Process for Answering {
    fn resize(&self, size: Size) {
        if let Answering::Session(follower) = self {
            follower.resized.set(Some(size));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Act> {
        match self {
            Answering::Text(text) => {
                stdin.discard();
                let text = if room { text.take() } else { None };
                text.map_or(Poll::Pending, |text| Poll::Ready(Act::Stdout(text)))
            }
            Answering::Session(follower) => follower.poll(cx, stdin, room),
        }
    }

    fn output_ended(&self) -> bool {
        match self {
            Answering::Text(text) => text.is_none(),
            Answering::Session(follower) => follower.exit().is_some(),
        }
    }

    fn poll_exit(&mut self, _: &mut Context<'_>) -> Poll<ExitStatus> {
        let exit = match self {
            Answering::Text(text) => text.is_none().then_some(ExitStatus::Exited(0)),
            Answering::Session(follower) => follower.exit(),
        };
        exit.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Follower {
    fn exit(&self) -> Option<ExitStatus> {
        match &self.last {
            Some(Last::Exit(exit)) if self.outputs.is_empty() => Some(*exit),
            _ => None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Act> {
        loop {
            if room && let Some(piece) = self.outputs.pop_front() {
                match self.passed_on(piece) {
                    Some(act) => return Poll::Ready(act),
                    None => continue,
                }
            }
            match &mut self.last {
                Some(Last::Act(act)) if self.outputs.is_empty() => {
                    return act.take().map_or(Poll::Pending, Poll::Ready);
                }
                Some(_) => stdin.discard(),
                None => {}
            }
            if let Some(size) = self.resized.take() {
                self.carried.client().resize(size);
            }
            match self.carried.poll(self.clock.now()) {
                Next::Event(event) => {
                    self.event(event);
                    continue;
                }
                Next::Done if self.last.is_some() && self.carried.outbox().is_empty() => {
                    return Poll::Pending;
                }
                Next::Done => self.alarm.set(&self.clock, None),
                Next::Idle(deadline) => self.alarm.set(&self.clock, deadline),
            }
            if self.last.is_none() && self.feed(stdin) {
                return Poll::Ready(Act::TookInput);
            }
            let wants_read = self.carried.wants_read();
            match self.socket.poll(cx, self.carried.outbox(), wants_read) {
                Poll::Ready(SocketEvent::Read(bytes)) => {
                    self.carried.receive(self.clock.now(), bytes);
                }
                Poll::Ready(SocketEvent::Ended(_)) => self.carried.receive_end(self.clock.now()),
                Poll::Ready(SocketEvent::Wrote) => {}
                Poll::Pending if self.alarm.poll(cx).is_ready() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What its client gets of a piece.
    fn passed_on(&mut self, Piece { stream, bytes, is_said }: Piece) -> Option<Act> {
        // It goes to the connection's outbox: how much of that gets to the client's screen cannot
        // be known here.
        if !is_said {
            self.carried.client().took(self.clock.now(), stream, bytes.len());
        }
        let wants = self.wants;
        let bytes =
            if wants.tty && !is_said && !self.is_terminal() { for_terminal(bytes) } else { bytes };
        match stream {
            Stream::Stderr if wants.stderr => Some(Act::Stderr(bytes)),
            // A client with a terminal cannot ask for it, and has one place for both.
            Stream::Stderr if wants.tty && wants.stdout => Some(Act::Stdout(bytes)),
            Stream::Stdout if wants.stdout => Some(Act::Stdout(bytes)),
            // Its client could have asked for it.
            _ => None,
        }
    }

    /// Gives the session input, where it takes some. Whether any was taken.
    fn feed(&mut self, stdin: &mut WriteQueue) -> bool {
        if self.looks {
            let has_come = !stdin.is_empty();
            stdin.discard();
            return has_come;
        }
        let client = self.carried.client();
        let mut is_fed = false;
        while client.has_room()
            && let Some(bytes) = stdin.pop(KEPT_PIECE_BYTES)
        {
            client.send(bytes);
            is_fed = true;
        }
        if client.has_room() && stdin.is_over() && !self.input_ended {
            self.input_ended = true;
            client.finish();
            is_fed = true;
        }
        is_fed
    }

    fn event(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Up(up) => self.session = Some(up.wants),
            ClientEvent::Data(stream, bytes) => {
                self.outputs.push_back(Piece { stream, bytes, is_said: false });
            }
            ClientEvent::Gap(gap) => {
                self.untaken_bytes += gap.untaken_bytes;
                self.say(&format!("{} bytes are missing here", gap.bytes));
            }
            ClientEvent::Screen(bytes) if self.wants.tty => {
                self.outputs.push_back(Piece { stream: Stream::Stdout, bytes, is_said: true });
            }
            ClientEvent::Ended(_) if self.untaken_bytes > 0 && !self.is_terminal() => {
                self.lost(format!("{} bytes of output are missing", self.untaken_bytes));
            }
            ClientEvent::Ended(status) => self.last = Some(last(&status)),
            ClientEvent::Refused(Refused { text, .. }) if self.session.is_none() => {
                self.last = Some(Last::Act(Some(Act::NotStarted(StartError(text)))));
            }
            ClientEvent::Refused(Refused { text, .. }) => self.lost(text),
            // There is no other way to it than the one that is lost.
            ClientEvent::Down(loss) | ClientEvent::Lost(loss) => self.lost(loss.to_string()),
            ClientEvent::Connect | ClientEvent::Eof(_) | ClientEvent::Screen(_) => {}
        }
    }

    /// Whether what comes is what a terminal showed, for another one to show. Of a command without
    /// one, all of the output counts, whatever its client has.
    fn is_terminal(&self) -> bool {
        self.wants.tty && self.session.is_some_and(|session| session.tty)
    }

    fn lost(&mut self, why: String) {
        self.last.get_or_insert(Last::Act(Some(Act::Lost(why))));
    }

    /// Says something to people, where that does the least harm.
    fn say(&mut self, what: &str) {
        let (stream, text) = if self.wants.stderr {
            (Stream::Stderr, format!("{what}\n"))
        } else {
            (Stream::Stdout, format!("\r\n{what}\r\n"))
        };
        self.outputs.push_back(Piece { stream, bytes: text.into(), is_said: true });
    }
}

/// Output as the command's terminal would have written it, had it one: its client's is raw by now.
fn for_terminal(bytes: Bytes) -> Bytes {
    let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    if lines == 0 {
        return bytes;
    }
    let mut written = Vec::with_capacity(bytes.len() + lines);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                written.extend_from_slice(line);
                written.extend_from_slice(b"\r\n");
            }
            None => written.extend_from_slice(line),
        }
    }
    written.into()
}

fn last(status: &Status) -> Last {
    match status.outcome() {
        Outcome::Success => Last::Exit(ExitStatus::Exited(0)),
        Outcome::Exited(code) => Last::Exit(ExitStatus::Exited(*code)),
        Outcome::Failed { message, .. } => Last::Act(Some(Act::Broken(message.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::Pin;
    use std::time::Duration;

    use bowline_io::serve::Sessions;
    use bowline_proto::kept::{Instance, Start};
    use tokio::time::{Sleep, sleep, timeout};

    use super::*;
    use crate::kept::{Job, Limits};

    const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };

    const PIPES: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };

    /// Writes something, and ends after so long or runs on.
    struct Writes {
        stdout: &'static str,
        stderr: &'static str,
        ends: Option<Duration>,
    }

    struct Writing {
        acts: VecDeque<Act>,
        end: Option<Pin<Box<Sleep>>>,
    }

    impl Display for Writes {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("writes")
        }
    }

    impl Command for Writes {
        type Process = Writing;

        fn start(&mut self, _: Option<Size>) -> Result<Writing, StartError> {
            let mut acts = VecDeque::from([Act::Stdout(self.stdout.into())]);
            if !self.stderr.is_empty() {
                acts.push_back(Act::Stderr(self.stderr.into()));
            }
            Ok(Writing { acts, end: self.ends.map(|after| Box::pin(sleep(after))) })
        }
    }

    impl Process for Writing {
        fn resize(&self, _: Size) {}

        fn poll(&mut self, _: &mut Context<'_>, _: &mut WriteQueue, room: bool) -> Poll<Act> {
            let act = if room { self.acts.pop_front() } else { None };
            act.map_or(Poll::Pending, Poll::Ready)
        }

        fn output_ended(&self) -> bool {
            self.end.is_some() && self.acts.is_empty()
        }

        fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<ExitStatus> {
            let Some(end) = &mut self.end else { return Poll::Pending };
            end.as_mut().poll(cx).map(|()| ExitStatus::Exited(7))
        }
    }

    /// All that an answer has.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Whole {
        stdout: String,
        stderr: String,
        exit: Option<ExitStatus>,
        loss: Option<String>,
    }

    async fn whole(answering: &mut Answering, stdin: &mut WriteQueue) -> Whole {
        let mut whole = Whole::default();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        while whole.exit.is_none() && whole.loss.is_none() {
            let next = poll_fn(|cx| match answering.poll(cx, stdin, true) {
                Poll::Ready(act) => Poll::Ready(Ok(act)),
                Poll::Pending => answering.poll_exit(cx).map(Err),
            });
            match timeout(Duration::from_secs(60), next).await.unwrap() {
                Ok(Act::Stdout(bytes)) => whole.stdout += &text(bytes),
                Ok(Act::Stderr(bytes)) => whole.stderr += &text(bytes),
                Ok(Act::TookInput) => {}
                Ok(Act::Lost(why)) => whole.loss = Some(why),
                Ok(act) => panic!("{act:?}"),
                Err(exit) => whole.exit = Some(exit),
            }
        }
        whole
    }

    async fn output(answering: &mut Answering) -> String {
        let mut stdin = WriteQueue::default();
        let act = poll_fn(|cx| answering.poll(cx, &mut stdin, true));
        let Act::Stdout(bytes) = timeout(Duration::from_secs(60), act).await.unwrap() else {
            panic!("something else than output");
        };
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    async fn takes_nothing(answering: &mut Answering) {
        let mut stdin = WriteQueue::default();
        let more = poll_fn(|cx| answering.poll(cx, &mut stdin, false));
        assert!(timeout(Duration::from_secs(2), more).await.is_err());
    }

    const ID: Id = Id([1; 16]);

    /// A session of a keeper's that has so much room, kept for so long.
    fn begun(replay_bytes: usize, keep_for: u64, ends: Option<Duration>) -> (Keeper, Place) {
        let limits = Limits { replay_bytes, ..Limits::default() };
        let keeper = Keeper::new(Sessions::default(), limits);
        let writes = Writes { stdout: "0123456789abcdef", stderr: "", ends };
        let place = begin(&keeper, WANTS, keep_for, writes);
        (keeper, place)
    }

    fn begin(keeper: &Keeper, wants: Wants, keep_for: u64, writes: Writes) -> Place {
        let place = Place { name: "ns/p/c".into(), uid: None };
        let (instance, command) = (Instance([0; 16]), vec!["writes".to_owned()]);
        let (size, env) = (None, Vec::new());
        let start = Start { id: ID, instance, wants, keep_for, size, command, env };
        let began = keeper.start(&place, &start, || Job::new(writes, wants));
        assert!(began.is_ok_and(|(_, began)| began));
        place
    }

    fn asked(keeper: &Keeper, place: &Place, word: &str) -> Answering {
        asked_with(keeper, place, word, WANTS, None)
    }

    fn asked_with(
        keeper: &Keeper,
        place: &Place,
        word: &str,
        wants: Wants,
        size: Option<Size>,
    ) -> Answering {
        let words = ["@bowline", word, &ID.secret()].map(str::to_owned).to_vec();
        let mut question = Question::new(keeper, place.clone(), words, wants);
        question.start(size).unwrap_or_else(|error| panic!("{error}"))
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_there_when_its_time_is_over_is_the_last() {
        let (keeper, place) = begun(1024, 10, Some(Duration::from_secs(3)));
        let mut last = asked(&keeper, &place, "result");
        takes_nothing(&mut last).await;
        // It does not answer any more while the command ends, and its time after that.
        sleep(Duration::from_secs(12)).await;
        assert_eq!(keeper.list(&place).len(), 1);
        drop(last);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(keeper.list(&place).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_says_itself_counts_for_nothing() {
        let (keeper, place) = begun(8, 600, None);
        sleep(Duration::from_secs(1)).await;
        let mut first = asked(&keeper, &place, "resume");
        let missing = "\r\n8 bytes are missing here\r\n";
        let is_screen = |text: &str| text.starts_with('\x18') && text.ends_with("01234567");
        // Everything has come when the first is taken. Nothing else is, for longer than an
        // acknowledgement waits.
        takes_nothing(&mut first).await;
        assert_eq!(output(&mut first).await, missing);
        assert!(is_screen(&output(&mut first).await));
        takes_nothing(&mut first).await;
        drop(first);
        // The next one gets what that one has not.
        let mut second = asked(&keeper, &place, "resume");
        assert_eq!(output(&mut second).await, missing);
        assert!(is_screen(&output(&mut second).await));
        assert_eq!(output(&mut second).await, "89abcdef");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_terminals_output_may_be_missing_on_a_terminal() {
        for (session, client, is_loss) in [
            (PIPES, WANTS, true),
            (PIPES, PIPES, true),
            (WANTS, PIPES, true),
            (WANTS, WANTS, false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("kept-sessions");
            let node = || Keeper::recording(Sessions::default(), Limits::default(), &path).unwrap();
            let keeper = node();
            let ends = Some(Duration::from_secs(1));
            let place = begin(&keeper, session, 600, Writes { stdout: "out", stderr: "", ends });
            sleep(Duration::from_secs(2)).await;
            // It knows how the command has ended, and has none of its output.
            let keeper = node();
            let mut answering = asked_with(&keeper, &place, "resume", client, None);
            let whole = whole(&mut answering, &mut WriteQueue::default()).await;
            let (exit, loss) = if is_loss {
                (None, Some("3 bytes of output are missing".to_owned()))
            } else {
                (Some(ExitStatus::Exited(7)), None)
            };
            assert_eq!((whole.exit, &whole.loss), (exit, &loss), "{whole:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_shows_both_outputs_of_a_command_without_one() {
        let keeper = Keeper::new(Sessions::default(), Limits::default());
        let ends = Some(Duration::from_secs(1));
        let writes = Writes { stdout: "one\ntwo\n", stderr: "an error\n", ends };
        let place = begin(&keeper, PIPES, 600, writes);
        let no_input = &mut WriteQueue::default();
        let exit = Some(ExitStatus::Exited(7));
        for word in ["result", "resume"] {
            let whole = whole(&mut asked(&keeper, &place, word), no_input).await;
            // They come in any order.
            let both = ["one\r\ntwo\r\nan error\r\n", "an error\r\none\r\ntwo\r\n"];
            assert!(both.contains(&&*whole.stdout), "{whole:?}");
            assert_eq!((whole.stderr.as_str(), whole.exit), ("", exit), "{word}");
        }
        // It counts as taken by the bytes that the session has of it.
        let mut again = asked_with(&keeper, &place, "resume", PIPES, None);
        let whole = whole(&mut again, no_input).await;
        assert_eq!(whole, Whole { exit, ..Whole::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_terminal_gets_each_output_as_it_is_and_none_it_did_not_ask_for() {
        let keeper = Keeper::new(Sessions::default(), Limits::default());
        let ends = Some(Duration::from_secs(1));
        let place = begin(&keeper, PIPES, 600, Writes { stdout: "one\n", stderr: "two\n", ends });
        for (wants, stderr) in [(PIPES, "two\n"), (Wants { stderr: false, ..PIPES }, "")] {
            let mut answering = asked_with(&keeper, &place, "result", wants, None);
            let whole = whole(&mut answering, &mut WriteQueue::default()).await;
            assert_eq!((&*whole.stdout, &*whole.stderr), ("one\n", stderr));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_looks_sends_nothing_whatever_its_client_has() {
        let (size, resized) = (Size { width: 90, height: 30 }, Size { width: 80, height: 24 });
        let (keeper, place) = begun(1024, 600, Some(Duration::from_secs(3)));
        let mut answering = asked_with(&keeper, &place, "result", WANTS, Some(size));
        takes_nothing(&mut answering).await;
        answering.resize(resized);
        let mut stdin = WriteQueue::default();
        stdin.push("input".into());
        stdin.end();
        let whole = whole(&mut answering, &mut stdin).await;
        assert_eq!(whole.stdout, "0123456789abcdef");
        assert_eq!((whole.exit, whole.loss), (Some(ExitStatus::Exited(7)), None));
        assert!(stdin.is_empty());
    }
}
