//! Ways into a cluster: what a kubeconfig may say, each against a server that checks it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use bowline_interop::server::Server;
use serde_json::{Value, json};

use super::bowline;

/// `dev`, and its kubeconfig to be changed.
struct Place {
    dev: Server,
    config: Value,
    files: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dev = Server::dev(bowline(), &[]);
        let text = std::fs::read_to_string(dev.kubeconfig()).unwrap();
        let config = serde_json::from_str(&text).unwrap();
        Place { dev, config, files: tempfile::tempdir().unwrap() }
    }

    fn token(&self) -> String {
        self.config["users"][0]["user"]["token"].as_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Runs `exec nginx -- echo in` with these kubeconfigs and flags.
    fn exec(&self, kubeconfig: &str, flags: &[&str]) -> Output {
        let mut process = Command::new(bowline());
        process.env("KUBECONFIG", kubeconfig).arg("exec").args(flags);
        process.args(["nginx", "--", "echo", "in"]).output().unwrap()
    }

    fn gets_in(&self, kubeconfig: &str, flags: &[&str]) {
        let output = self.exec(kubeconfig, flags);
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"in\n"[..]), "{output:?}");
    }

    #[track_caller]
    fn is_refused(&self, kubeconfig: &str, flags: &[&str], why: &str) {
        let output = self.exec(kubeconfig, flags);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn a_plugin_is_run_once() {
    let mut place = Place::new();
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": place.token()},
    });
    let runs = place.path("runs");
    let script = format!("#!/bin/sh\necho run >> {runs}\necho '{credential}'\n");
    let plugin = place.write("plugin", &script);
    Command::new("chmod").args(["+x", &plugin]).status().unwrap();
    place.config["users"][0]["user"] = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": plugin,
        "interactiveMode": "Never"}});
    let kubeconfig = place.write("config", &place.config.to_string());
    place.gets_in(&kubeconfig, &[]);
    // It served the request for the pod and the stream.
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
    place.write("plugin", "#!/bin/sh\nexit 7\n");
    place.is_refused(&kubeconfig, &[], "failed with exit code 7");
    std::fs::remove_file(&plugin).unwrap();
    place.is_refused(&kubeconfig, &[], "not found");
}

#[test]
fn a_token_may_be_in_a_file_and_a_file_beside_others() {
    let mut place = Place::new();
    let token = place.write("token", &format!("{}\n", place.token()));
    // As from a kubeconfig in the same directory.
    assert!(Path::new(&token).is_absolute());
    place.config["users"][0]["user"] = json!({"tokenFile": "token"});
    let kubeconfig = place.write("config", &place.config.to_string());
    place.gets_in(&kubeconfig, &[]);
    // The first file says who, the second where; a third is not there.
    let mut first = place.config.clone();
    let mut second = place.config.clone();
    first["clusters"] = json!([]);
    second["users"] = json!([]);
    let first = place.write("first", &first.to_string());
    let second = place.write("second", &second.to_string());
    place.gets_in(&format!("{first}:{second}:{}", place.path("missing")), &[]);
    place.write("token", "wrong");
    place.is_refused(&kubeconfig, &[], "You must be logged in to the server");
}

#[test]
fn who_one_acts_as_decides() {
    let place = Place::new();
    let kubeconfig = place.dev.kubeconfig();
    place.is_refused(&kubeconfig, &["--as", "nobody"], "nobody");
    place.gets_in(&kubeconfig, &["--as", "nobody", "--as-group", "system:masters"]);
    place.is_refused(&kubeconfig, &["--context", "viewer", "--as", "admin"], "impersonate");
}

#[test]
fn a_servers_certificate_is_checked() {
    let mut place = Place::new();
    let kubeconfig = place.dev.kubeconfig();
    place.is_refused(&kubeconfig, &["--tls-server-name", "elsewhere"], "elsewhere");
    place.gets_in(&kubeconfig, &["--tls-server-name", "localhost"]);
    // Another cluster's CA.
    let other = Place::new();
    let ca = other.config["clusters"][0]["cluster"]["certificate-authority-data"].clone();
    place.config["clusters"][0]["cluster"]["certificate-authority-data"] = ca;
    let kubeconfig = place.write("config", &place.config.to_string());
    place.is_refused(&kubeconfig, &[], "x509: certificate signed by unknown authority");
    place.gets_in(&kubeconfig, &["--insecure-skip-tls-verify"]);
}

/// A proxy that connects whoever asks, and gives the head of each request.
fn proxy() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:secret@{}", listener.local_addr().unwrap());
    let (sender, heads) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for near in listener.incoming() {
            let mut near = near.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && near.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let far = TcpStream::connect(target).unwrap();
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let _ = sender.send(head);
            let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            for (mut from, mut to) in [(near, far), (far_too, near_too)] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (url, heads)
}

#[test]
fn a_clusters_proxy_is_used_for_the_stream_too() {
    let mut place = Place::new();
    let (url, heads) = proxy();
    place.config["clusters"][0]["cluster"]["proxy-url"] = json!(url);
    let kubeconfig = place.write("config", &place.config.to_string());
    place.gets_in(&kubeconfig, &[]);
    let heads: Vec<_> = heads.try_iter().collect();
    assert_eq!(heads.len(), 2, "{heads:?}");
    for head in heads {
        assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", place.dev.address())));
        assert!(head.to_lowercase().contains("proxy-authorization: basic "), "{head}");
        assert!(!head.contains("Bearer"), "{head}");
    }
}
