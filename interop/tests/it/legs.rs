//! How sessions come to our node, or to our socket in front of a runtime's, as its log has it: what
//! was asked for over WebSocket may have come over SPDY, and nothing else tells.

use std::fs;

use bowline_interop::client::PATIENCE;
use bowline_interop::cluster::Cluster;
use bowline_interop::server::{Server, until};

/// A command, or an attach, of newer clients.
pub const V5: &str = "WebSocket v5.channel.k8s.io";
/// The same of older ones.
pub const SPDY: &str = "SPDY/3.1 v4.channel.k8s.io";
/// A port-forward of newer clients.
pub const TUNNEL: &str = "WebSocket SPDY/3.1+portforward.k8s.io";
/// The same of older ones.
pub const FORWARD_SPDY: &str = "SPDY/3.1 portforward.k8s.io";

const BEGINS: &str = "session begins";
const ENDS: &str = "session ends";

/// The near legs of all sessions of a node, or of the socket in front of a cluster's runtime.
pub struct Legs<'a> {
    cluster: &'a Cluster,
    node: Option<&'a Server>,
}

impl<'a> Legs<'a> {
    /// Those of the node, if there is one.
    pub fn of(cluster: &'a Cluster, node: Option<&'a Server>) -> Legs<'a> {
        Legs { cluster, node }
    }

    pub fn log(&self) -> String {
        let of_face = || fs::read_to_string(self.cluster.path("log/face.log")).unwrap();
        self.node.map_or_else(of_face, Server::log)
    }

    /// Runs sessions to their end, all of which have to come so.
    pub fn come_as<T>(&self, way: &str, who: &str, run: impl FnOnce() -> T) -> T {
        self.come_as_any(&[way], who, run)
    }

    /// The same of sessions of several kinds, of each of which there has to be one.
    pub fn come_as_any<T>(&self, ways: &[&str], who: &str, run: impl FnOnce() -> T) -> T {
        let before = self.over().len();
        let result = run();
        are(ways, who, &self.over()[before..]);
        result
    }

    /// Begins so many sessions, all of which have to come so.
    pub fn begin_as<T>(&self, count: usize, way: &str, who: &str, begin: impl FnOnce() -> T) -> T {
        let before = near(&self.log()).len();
        let result = begin();
        let mut came = Vec::new();
        // What is logged is read a little later.
        until("the sessions are in the log", PATIENCE, || {
            came = near(&self.log()).split_off(before);
            came.len() >= count
        });
        assert_eq!(came.len(), count, "{who}: {came:?}");
        are(&[way], who, &came);
        result
    }

    /// How many have ended.
    pub fn ended(&self) -> usize {
        self.log().matches(ENDS).count()
    }

    /// What each session has come as, once all of them are over.
    fn over(&self) -> Vec<String> {
        let mut log = String::new();
        until("all sessions are over", PATIENCE, || {
            log = self.log();
            log.matches(BEGINS).count() == log.matches(ENDS).count()
        });
        near(&log)
    }
}

fn are(ways: &[&str], who: &str, came: &[String]) {
    println!("{who}: {} sessions as {}", came.len(), ways.join(", "));
    let is_one = |near: &String| ways.contains(&&**near);
    assert!(came.iter().all(is_one), "{who}: not all as {ways:?}: {came:?}");
    for way in ways {
        assert!(came.iter().any(|near| near == way), "{who}: no session as {way}: {came:?}");
    }
}

/// What each session of a log has come as.
pub fn near(log: &str) -> Vec<String> {
    let begun = log.lines().filter(|line| line.contains(BEGINS));
    begun.map(|line| value(line, "near").unwrap_or_default().to_owned()).collect()
}

/// A field of a line of the log.
fn value<'a>(line: &'a str, field: &str) -> Option<&'a str> {
    line.split(&format!(" {field}=\"")).nth(1)?.split('"').next()
}
