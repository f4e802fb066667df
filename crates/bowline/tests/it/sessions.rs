//! Sessions that end well, over both carriers: the list, in small amounts.

use bowline_interop::client::Input;
use bowline_interop::list::{POINTS, SMALL, check};
use bowline_interop::server::Server;

use super::{bowline, client};

#[test]
fn the_list_over_websocket() {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev), &SMALL, &[]);
}

#[test]
fn the_list_over_spdy() {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev).over_spdy(), &SMALL, &[]);
}

#[test]
fn the_list_where_websocket_is_refused() {
    let dev =
        Server::dev(bowline(), &["--feature-gates=TranslateStreamCloseWebsocketRequests=false"]);
    let client = client(&dev).with("-v=6");
    let left = client.run(&[], &["true"], Input::Nothing);
    assert!(left.stderr.contains("RemoteCommand fallback"), "{left:?}");
    assert!(left.stderr.contains("POST https://"), "{left:?}");
    check(&super::client(&dev), &SMALL, &POINTS[8..]);
}

#[test]
fn dev_ends_within_a_second_children_included() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let script = format!("echo $$ > {path}; exec sleep 600");
    let mut process = client.process(&[], &["sh", "-c", &script]).spawn().unwrap();
    let mut text = String::new();
    bowline_interop::server::until("the command runs", bowline_interop::client::PATIENCE, || {
        text = std::fs::read_to_string(&path).unwrap();
        text.ends_with('\n')
    });
    let id = text.trim();
    assert!(std::path::Path::new("/proc").join(id).exists());
    let took = dev.stop();
    assert!(!std::path::Path::new("/proc").join(id).exists(), "the command lives on");
    assert_eq!(process.wait().unwrap().code(), Some(255));
    assert!(took.as_secs_f64() < 1.5, "{took:?}");
}
