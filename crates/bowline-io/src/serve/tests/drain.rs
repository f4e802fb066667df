//! How a server goes away: who is told when, and what still goes on.

use h2::Reason;
use http::Method;

use super::http2::{connect, request, settings, tls_server};
use super::*;
use crate::record::Requester;

const DELAY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(600);
const DRAIN: Drain = Drain { delay: DELAY, patience: PATIENCE };

/// A server whose requests the test answers, and its future.
async fn asked_by_hand() -> (SocketAddr, Sessions, UnboundedReceiver<Asked>, JoinHandle<()>) {
    let (asked, requests): (UnboundedSender<Asked>, _) = unbounded_channel();
    let service = move |peer: Peer, request| {
        let (reply, replied) = oneshot::channel();
        peer.mark_authenticated();
        asked.send((request, reply)).unwrap();
        async move { replied.await.unwrap() }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sessions = Sessions::default();
    let serving = tokio::spawn(serve(listener, None, settings(), sessions.clone(), service));
    (address, sessions, requests, serving)
}

fn drain(sessions: &Sessions, drain: Drain) -> JoinHandle<()> {
    let sessions = sessions.clone();
    tokio::spawn(async move { sessions.drain(drain).await })
}

/// Waits for a phase, which is not long: nothing but the clock stands before it.
async fn reaches(sessions: &Sessions, phase: Phase) {
    while sessions.phase() < phase {
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(sessions.phase(), phase);
}

async fn rest(client: &mut TcpStream) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn without_time_it_ends_at_once() {
    let (address, sessions, mut requests, serving) = asked_by_hand().await;
    let mut client = dial(address).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let _asked = requests.recv().await.unwrap();
    assert_eq!(sessions.phase(), Phase::Serving);
    sessions.drain(Drain::default()).await;
    assert_eq!(sessions.phase(), Phase::Ended);
    serving.await.unwrap();
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_and_answers_arrive() {
    let (address, sessions, mut requests, serving) = asked_by_hand().await;
    let mut idle = dial(address).await;
    idle.write_all(GET.as_bytes()).await.unwrap();
    requests.recv().await.unwrap().1.send(ok("one")).unwrap();
    read_answer(&mut idle, "one").await;
    let mut busy = dial(address).await;
    busy.write_all(GET.as_bytes()).await.unwrap();
    let (_request, busy_reply) = requests.recv().await.unwrap();

    let drained = drain(&sessions, DRAIN);
    reaches(&sessions, Phase::GoingAway).await;
    // It still serves, and sends kept connections elsewhere.
    let mut late = dial(address).await;
    late.write_all(GET.as_bytes()).await.unwrap();
    requests.recv().await.unwrap().1.send(ok("late")).unwrap();
    let answer = rest(&mut late).await;
    assert!(answer.contains("Connection: close\r\n") && answer.ends_with("late"), "{answer}");
    // One that has connected, and says so only when it is told.
    let mut new = dial(address).await;

    reaches(&sessions, Phase::Closing).await;
    assert_eq!(rest(&mut idle).await, "");
    drop(idle);
    new.write_all(GET.as_bytes()).await.unwrap();
    requests.recv().await.unwrap().1.send(ok("new")).unwrap();
    let answer = rest(&mut new).await;
    assert!(answer.contains("Connection: close\r\n") && answer.ends_with("new"), "{answer}");
    drop(new);
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!drained.is_finished());

    let begun = Instant::now();
    busy_reply.send(ok("busy")).unwrap();
    let answer = rest(&mut busy).await;
    assert!(answer.contains("Connection: close\r\n") && answer.ends_with("busy"), "{answer}");
    drop(busy);
    drained.await.unwrap();
    serving.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn sessions_go_on_until_they_end_or_their_time_has() {
    for ends in [false, true] {
        let (_address, sessions, _requests, serving) = asked_by_hand().await;
        let (done, is_done) = oneshot::channel::<()>();
        let end = sessions.end.clone();
        sessions.spawn(async move {
            tokio::select! {
                _ = is_done => {}
                () = end.cancelled() => {}
            }
        });
        let begun = Instant::now();
        let drained = drain(&sessions, DRAIN);
        reaches(&sessions, Phase::Closing).await;
        let requester = Requester::at(([127, 0, 0, 1], 1).into());
        let denied = sessions.admit(requester.record("exec", "n", "p")).unwrap_err();
        assert_eq!(denied.seconds(), 1);
        if ends {
            done.send(()).unwrap();
        } else {
            std::mem::forget(done);
        }
        drained.await.unwrap();
        serving.await.unwrap();
        let took = begun.elapsed();
        assert_eq!(took < DELAY + Duration::from_secs(5), ends, "{took:?}");
        assert!(took < DELAY + PATIENCE + Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_end_cuts_it_short() {
    let (_address, sessions, _requests, serving) = asked_by_hand().await;
    let drained = drain(&sessions, DRAIN);
    reaches(&sessions, Phase::GoingAway).await;
    sessions.end.cancel();
    drained.await.unwrap();
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_well_after_a_whole_event_and_a_log_goes_on() {
    let (address, sessions, mut requests, serving) = asked_by_hand().await;
    let mut clients = Vec::new();
    for is_watch in [true, true, false] {
        let mut client = dial(address).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let (_request, reply) = requests.recv().await.unwrap();
        let (pieces, body) = piecewise();
        let body = if is_watch { sessions.until_closing(body, true) } else { body };
        reply.send(Response::new(body)).unwrap();
        pieces.send(Bytes::from("{1}\n")).unwrap();
        read_answer(&mut client, "4\r\n{1}\n\r\n").await;
        clients.push((client, pieces));
    }
    let (mut log, log_pieces) = clients.pop().unwrap();
    let (mut midway, midway_pieces) = clients.pop().unwrap();
    let (mut watch, _pieces) = clients.pop().unwrap();
    midway_pieces.send(Bytes::from("{2")).unwrap();
    let mut piece = [0; 7];
    midway.read_exact(&mut piece).await.unwrap();
    let drained = drain(&sessions, DRAIN);
    reaches(&sessions, Phase::Closing).await;
    assert_eq!(rest(&mut watch).await, "0\r\n\r\n");
    midway_pieces.send(Bytes::from("}\n")).unwrap();
    assert_eq!(rest(&mut midway).await, "2\r\n}\n\r\n0\r\n\r\n");
    drop((watch, midway));
    sleep(PATIENCE / 2).await;
    log_pieces.send(Bytes::from("line\n")).unwrap();
    let mut piece = [0; 10];
    log.read_exact(&mut piece).await.unwrap();
    assert_eq!(&piece, b"5\r\nline\n\r\n");
    drained.await.unwrap();
    // It is cut off: that is no end.
    assert_eq!(rest(&mut log).await, "");
    serving.await.unwrap();
}

/// A body of what is sent to it.
fn piecewise() -> (UnboundedSender<Bytes>, Body) {
    let (pieces, given) = unbounded_channel();
    (pieces, Given(given).boxed_unsync())
}

struct Given(UnboundedReceiver<Bytes>);

impl http_body::Body for Given {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[tokio::test(start_paused = true)]
async fn over_http2_clients_are_told_and_answers_arrive() {
    let (asked, mut requests): (UnboundedSender<Asked>, _) = unbounded_channel();
    let service = move |peer: Peer, request| {
        let (reply, replied) = oneshot::channel();
        peer.mark_authenticated();
        asked.send((request, reply)).unwrap();
        async move { replied.await.unwrap() }
    };
    let (address, sessions) = tls_server(settings(), service).await;
    let mut busy = connect(address).await;
    let (answer, _body) = busy.begin(request(Method::GET, "/")).await;
    let (_request, reply) = requests.recv().await.unwrap();
    let idle = connect(address).await;
    let drained = drain(&sessions, DRAIN);
    reaches(&sessions, Phase::GoingAway).await;
    let mut late = connect(address).await;
    let (late_answer, _body) = late.begin(request(Method::GET, "/")).await;
    requests.recv().await.unwrap().1.send(ok("late")).unwrap();
    assert_eq!(late_answer.await.unwrap().status(), 200);
    drop(late);
    reaches(&sessions, Phase::Closing).await;
    idle.connection.await.unwrap().unwrap();
    let refused = loop {
        // Until it has read what it was told.
        match busy.requests.clone().ready().await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.reason(), Some(Reason::NO_ERROR));
    assert!(!drained.is_finished());
    reply.send(ok("busy")).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    busy.connection.await.unwrap().unwrap();
    drained.await.unwrap();
}
