//! Port-forward from outside: the list over each carrier, and what only `bowline` promises.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bowline_interop::attach::pods_file;
use bowline_interop::client::{Client, Input, PATIENCE, noise, noise_digest};
use bowline_interop::forward::app::{App, Read1, drain};
use bowline_interop::forward::{Forward, SMALL, check};
use bowline_interop::pair::{Pair, port};
use bowline_interop::server::{Server, until};

use super::{bowline, client};

#[test]
fn the_list_in_a_tunnel() {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev).forwarding(), &SMALL, &[]);
}

#[test]
fn the_list_over_spdy() {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev).forwarding().over_spdy(), &SMALL, &[]);
}

#[test]
fn the_list_where_the_tunnel_is_refused() {
    let dev = Server::dev(bowline(), &["--feature-gates=PortForwardWebsockets=false"]);
    check(&client(&dev).forwarding(), &SMALL, &[]);
}

/// Neither a local reader that takes nothing nor a pod that does holds up its neighbours, and
/// afterwards nothing of theirs is missing.
#[test]
fn one_that_takes_nothing_holds_up_no_other() {
    let dev = Server::dev(bowline(), &[]);
    for client in [client(&dev).forwarding(), client(&dev).forwarding().over_spdy()] {
        let app = App::start();
        let forward = Forward::start(&client, &[app.port]);
        let stalled = 60_000_000;
        let mut reader = forward.ask(0, &format!("send {stalled}"));
        let mut writer = forward.ask(0, "deaf");
        writer.set_nonblocking(true).unwrap();
        let full = noise(u64::MAX, |piece| writer.write_all(piece)).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    let read = drain(&mut forward.ask(0, "send 2000000"));
                    assert_eq!((read.bytes, read.whole), (2_000_000, true));
                    assert_eq!(read.digest, noise_digest(2_000_000));
                });
            }
        });
        let read = drain(&mut reader);
        assert_eq!((read.bytes, read.whole), (stalled, true), "{}", forward.stderr());
        assert_eq!(read.digest, noise_digest(stalled));
    }
}

fn pair() -> (Pair, Client) {
    let pair = Pair::start(bowline(), port);
    let client = pair.client("bowline", bowline()).forwarding();
    (pair, client)
}

/// The node is killed under load and comes back: nothing is cut short in silence, nothing hangs,
/// and the forward works again by itself.
#[test]
fn a_forward_outlives_its_node() {
    let (mut pair, client) = pair();
    for client in [client.clone(), client.over_spdy()] {
        let app = App::start();
        let forward = Forward::start(&client, &[app.port]);
        let (done, whole, cut) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        let bytes = 3_000_000;
        let expected = noise_digest(bytes);
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let mut socket = forward.connect(0);
                        let _ = socket.write_all(format!("send {bytes}\n").as_bytes());
                        let read: Read1 = drain(&mut socket);
                        if read.whole {
                            assert_eq!((read.bytes, &read.digest), (bytes, &expected));
                            whole.fetch_add(1, Ordering::Relaxed);
                        } else {
                            cut.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let more = |than: usize| {
                until("downloads", PATIENCE, || whole.load(Ordering::Relaxed) > than + 6);
            };
            more(0);
            pair.node.kill();
            until("the loss", PATIENCE, || forward.stderr().contains("lost connection to pod box"));
            pair.restart_node();
            more(whole.load(Ordering::Relaxed));
            done.store(true, Ordering::Relaxed);
        });
        let said = forward.stderr();
        assert!(said.contains("connected again, to pod box\n"), "{said}");
        assert!(cut.load(Ordering::Relaxed) > 0, "nothing was open when the node was killed");
        let first = said.lines().find(|line| line.starts_with("lost connection")).unwrap();
        assert!(first.contains("open connection"), "{said}");
        assert_eq!(forward.interrupt().code(), Some(0));
    }
}

/// Credentials are read anew for every new connection.
#[test]
fn a_forward_that_is_kept_asks_with_the_token_of_now() {
    let (mut pair, _) = pair();
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        // Replaced as a whole, as those do who rotate tokens.
        let new = place.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, place.path().join(name)).unwrap();
    };
    write("token", "t".to_owned());
    write(
        "config",
        format!(
            "{{current-context: x, contexts: [{{name: x, context: {{cluster: c, user: u}}}}], \
             clusters: [{{name: c, cluster: {{server: 'https://{}', insecure-skip-tls-verify: \
             true}}}}], users: [{{name: u, user: {{tokenFile: token}}}}]}}",
            pair.gateway.address()
        ),
    );
    let config = place.path().join("config").to_str().unwrap().to_owned();
    let client = Client::new("bowline", bowline(), &config, &["box"]).forwarding();
    let app = App::start();
    let forward = Forward::start(&client, &[app.port]);
    write("token", "other".to_owned());
    pair.node.kill();
    forward.says("lost connection to pod box");
    forward.says("You must be logged in to the server");
    write("token", "t".to_owned());
    pair.restart_node();
    forward.says("connected again, to pod box\n");
    assert_eq!(forward.interrupt().code(), Some(0));
}

#[test]
fn a_connection_waits_for_a_pod_and_not_for_ever() {
    let (mut pair, client) = pair();
    let app = App::start();
    let forward = Forward::start(&client.with("--reconnect-wait=1s"), &[app.port]);
    let mut open = forward.ask(0, "echo");
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    pair.node.kill();
    // Open ones are reset at once.
    assert!(!drain(&mut open).whole);
    let mut waiting = forward.connect(0);
    assert!(!drain(&mut waiting).whole);
    forward.says("a connection waited too long for a pod and was reset");
    forward.says("not connected yet: ");
    let waiting = thread::scope(|scope| {
        let forward = &forward;
        let waiting = scope.spawn(move || {
            loop {
                // As often as one is reset for having waited too long.
                let mut socket = forward.ask(0, "send 1000");
                let read = drain(&mut socket);
                if read.whole {
                    return read.bytes;
                }
            }
        });
        pair.restart_node();
        waiting.join().unwrap()
    });
    assert_eq!(waiting, 1000);
}

/// A download that has come to its end before the node was killed is complete, however late its
/// reader is; nobody waits for that reader.
#[test]
fn a_late_reader_gets_all_and_delays_nobody() {
    let (mut pair, client) = pair();
    let app = App::start();
    let forward = Forward::start(&client, &[app.port]);
    // Less than the window, more than a socket takes at once.
    let bytes = 900_000;
    let node = format!("/proc/{}/fd", pair.node.id().as_raw_nonzero());
    let descriptors = || std::fs::read_dir(&node).unwrap().count();
    let before = descriptors();
    let mut late = forward.ask(0, &format!("send {bytes}"));
    late.shutdown(Shutdown::Write).unwrap();
    late.peek(&mut [0]).unwrap();
    until("the node is done with it", PATIENCE, || app.open() == 0 && descriptors() == before);
    // And all of it has arrived: what comes later has.
    let mut other = forward.ask(0, "echo");
    other.write_all(b"x").unwrap();
    other.read_exact(&mut [0]).unwrap();
    pair.node.kill();
    pair.restart_node();
    forward.says("connected again, to pod box\n");
    let read = drain(&mut forward.ask(0, "send 1000"));
    assert_eq!((read.bytes, read.whole), (1000, true));
    let read = drain(&mut late);
    assert_eq!((read.bytes, read.whole), (bytes, true), "{}", forward.stderr());
    assert_eq!(read.digest, noise_digest(bytes));
}

#[test]
fn with_exit_on_lost_a_loss_is_the_end() {
    let (mut pair, client) = pair();
    let app = App::start();
    let mut forward = Forward::start(&client.with("--exit-on-lost"), &[app.port]);
    pair.node.kill();
    let mut status = None;
    until("it ends", PATIENCE, || {
        status = forward.has_ended();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(1));
    forward.says("error: lost connection to pod\n");
}

/// At Ctrl-C, what is open is not taken for complete.
#[test]
fn an_interrupted_forward_resets_what_is_open() {
    let dev = Server::dev(bowline(), &[]);
    let app = App::start();
    let forward = Forward::start(&client(&dev).forwarding(), &[app.port]);
    let mut down = forward.ask(0, "endless");
    down.read_exact(&mut [0; 1000]).unwrap();
    let mut up = forward.ask(0, "half 1");
    up.read_exact(&mut [0]).unwrap();
    assert_eq!(forward.interrupt().code(), Some(0));
    assert!(!drain(&mut down).whole, "a download that was cut looks complete");
    assert!(!app.report().whole, "an upload that was cut looks complete to the pod");
    until("the pod's connections end", PATIENCE, || app.open() == 0);
}

/// The same for a wish from elsewhere, at which it ends as everybody does.
#[test]
fn a_terminated_forward_resets_what_is_open() {
    let dev = Server::dev(bowline(), &[]);
    let app = App::start();
    let mut forward = Forward::start(&client(&dev).forwarding(), &[app.port]);
    let mut down = forward.ask(0, "half 1000");
    down.read_exact(&mut [0; 1000]).unwrap();
    rustix::process::kill_process(forward.id(), rustix::process::Signal::TERM).unwrap();
    assert!(!app.report().whole, "an upload that was cut looks complete to the pod");
    let mut status = None;
    until("it ends", PATIENCE, || {
        status = forward.has_ended();
        status.is_some()
    });
    let signal = std::os::unix::process::ExitStatusExt::signal(&status.unwrap());
    assert_eq!(signal, Some(15));
}

/// As after nohup: whoever wants it to outlive the terminal has said so.
#[test]
fn a_forward_that_ignores_hangups_goes_on() {
    let dev = Server::dev(bowline(), &[]);
    let app = App::start();
    let mut client = client(&dev).forwarding();
    let program = std::mem::replace(&mut client.program, "/bin/sh".into());
    let script = "trap '' HUP; exec \"$@\"";
    let head = ["-c", script, "sh", program.to_str().unwrap()].map(str::to_owned);
    client.words.splice(0..0, head);
    let forward = Forward::start(&client, &[app.port]);
    rustix::process::kill_process(forward.id(), rustix::process::Signal::HUP).unwrap();
    assert!(!forward.get(0).is_empty());
    assert_eq!(forward.interrupt().code(), Some(0));
}

/// What a client asks for beside its words is not taken from its neighbours.
#[test]
fn a_local_reset_reaches_the_pod() {
    let dev = Server::dev(bowline(), &[]);
    let app = App::start();
    let forward = Forward::start(&client(&dev).forwarding(), &[app.port]);
    let mut socket = forward.ask(0, "half 1");
    socket.read_exact(&mut [0]).unwrap();
    // Closed with something unread, it is a reset.
    let mut other = forward.ask(0, "echo");
    other.write_all(&[1; 100]).unwrap();
    other.peek(&mut [0]).unwrap();
    drop(other);
    until("the echo is gone", PATIENCE, || app.open() == 1);
    socket.shutdown(Shutdown::Write).unwrap();
    assert!(app.report().whole);
}

/// A server that answers and closes with some of the request unread has answered, and its system
/// resets the connection. Who asked gets both, as without a forward.
#[test]
fn an_answer_to_an_unread_request_arrives_before_the_reset() {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n";
    let dev = Server::dev(bowline(), &[]);
    for client in [client(&dev).forwarding(), client(&dev).forwarding().over_spdy()] {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let forward = Forward::start(&client, &[server.local_addr().unwrap().port()]);
        for _ in 0..50 {
            let mut socket = forward.connect(0);
            socket.write_all(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n").unwrap();
            let (mut accepted, _) = server.accept().unwrap();
            accepted.peek(&mut [0]).unwrap();
            accepted.write_all(ANSWER).unwrap();
            drop(accepted);
            let mut answer = Vec::new();
            let end = socket.read_to_end(&mut answer).map_err(|error| error.kind());
            assert_eq!(answer, ANSWER, "{end:?}: {}", forward.stderr());
            assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
        }
    }
}

/// A pod that is gone is found out once it has ended a connection, also in good order.
#[test]
fn a_pod_that_is_gone_is_said_to_be() {
    let place = tempfile::tempdir().unwrap();
    let dev = Server::dev(bowline(), &["-f", &pods_file(place.path())]);
    let client = Client::new("bowline", bowline(), &dev.kubeconfig(), &["talker"]);
    let app = App::start();
    let stays = Forward::start(&client.forwarding(), &[app.port]);
    let mut ends = Forward::start(&client.forwarding().with("--exit-on-lost"), &[app.port]);
    let left = client.attaching("talker").run(&["-iq"], &[], Input::Bytes(b"end 3\n"));
    assert_eq!(left.status.code(), Some(0), "{left:?}");
    for forward in [&stays, &ends] {
        let read = drain(&mut forward.ask(0, "send 1000"));
        assert_eq!((read.bytes, read.whole), (1000, true));
    }
    stays.says("lost connection to pod talker: the pod is gone; connecting again, ");
    stays.says("not connected yet: ");
    let mut status = None;
    until("it ends", PATIENCE, || {
        status = ends.has_ended();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(1));
    assert_eq!(ends.stderr(), "the pod is gone\nerror: lost connection to pod\n");
}

fn refused(dev: &Server, words: &[&str]) -> (Option<i32>, String) {
    let mut process = std::process::Command::new(bowline());
    process.args(["port-forward", "--kubeconfig", &dev.kubeconfig()]).args(words);
    process.stdin(std::process::Stdio::null());
    process.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let left = bowline_interop::client::left(process.spawn().unwrap(), Input::Nothing, true);
    let left = left.expect("it ends by itself");
    (left.status.code(), left.stderr)
}

#[test]
fn refusals_have_kubectls_words() {
    let dev = Server::dev(bowline(), &[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let both = format!("{port}:80");
    let nobody = format!(
        "Unable to listen on port {port}: Listeners failed to create with the following errors: \
         [unable to create listener: Error listen tcp4 127.0.0.1:{port}: bind: address already in \
         use]\nerror: unable to listen on any of the requested ports: [{{{port} 80}}]\n"
    );
    let usage = "error: TYPE/NAME and list of ports are required for port-forward\nSee 'bowline \
                 port-forward -h' for help and examples\n";
    let forbidden = "error: error upgrading connection: unable to upgrade connection: pods \
                     \"nginx\" is forbidden: User \"viewer\" cannot create resource \
                     \"pods/portforward\" in API group \"\" in the namespace \"default\"\n";
    let table: [(&[&str], &str); 12] = [
        (&["nginx"], usage),
        (&["nginx", "0"], "error: remote port must be > 0\n"),
        (&["nginx", "80:abc"], "error: Pod 'nginx' does not have a named port 'abc'\n"),
        (&["svc/nginx", "99"], "error: Service nginx does not have a service port 99\n"),
        (&["missing", "80"], "Error from server (NotFound): pods \"missing\" not found\n"),
        (&["", "80"], "error: resource name may not be empty\n"),
        (&["nginx", "80", "--address", "foo"], "error: foo is not a valid IP\n"),
        (&["nginx", "80", "--address", "localhost,"], "error:  is not a valid IP\n"),
        (&["nginx", "80", "--address", ""], "error: you must specify at least 1 address\n"),
        (&["nginx", "80", "--context", "viewer"], forbidden),
        (
            &["nginx", "80", "--pod-running-timeout=0s"],
            "error: --pod-running-timeout must be higher than zero\nSee 'bowline port-forward -h' \
             for help and examples\n",
        ),
        (&["nginx", &both, "--address", "127.0.0.1"], &nobody),
    ];
    for (words, expected) in table {
        assert_eq!(refused(&dev, words), (Some(1), expected.to_owned()), "{words:?}");
    }
}

#[test]
fn services_and_named_ports_lead_to_the_demo_pod() {
    let dev = Server::dev(bowline(), &[]);
    for (target, ports) in [("svc/nginx", ":80"), ("service/nginx", ":http"), ("nginx", ":http")] {
        let mut words = client(&dev).forwarding();
        words.target = vec![target.to_owned()];
        let forward = Forward::start_words(&words, &[ports]);
        let mut socket: TcpStream = forward.connect(0);
        socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.read_to_string(&mut text).unwrap();
        assert!(text.contains("It holds."), "{target} {ports}: {text}");
    }
}
