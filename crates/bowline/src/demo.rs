//! `bowline demo`: one session of each kind, against a small cluster of its own, on one screen.

#![expect(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "a page for a person, around the output of its own clients and containers"
)]

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use bowline_io::shutdown;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::dev::{Config, Dev};

/// What the second and the third session run: it uses every channel.
const SCRIPT: &str = "wc -l; echo 'to stderr' >&2; exit 7";
/// How `-v` says which protocol was agreed on.
const SUBPROTOCOL: &str = "The subprotocol is ";
const INPUT: &[u8] = b"one\ntwo\nthree\n";

/// Shows them.
pub async fn run() -> Result<()> {
    let end = shutdown::on_signal()?;
    let dev = Dev::start(&Config::default()).await?;
    let shown = tokio::select! {
        shown = show(&dev) => shown,
        () = end.cancelled() => Ok(()),
    };
    dev.stop().await;
    shown
}

async fn show(dev: &Dev) -> Result<()> {
    println!(
        "A node and a gateway are up on {}; now a client talks to them.\n\n\
         1. A command over WebSocket, the default since Kubernetes 1.31:\n\n\
         $ bowline exec -v=8 nginx -- date",
        dev.address
    );
    let output = client(dev, &["-v=8", "nginx", "--", "date"], b"", true).await?;
    ensure!(output.status.success(), "date ended with {}", output.status);
    print!("{}", streaming_part(&String::from_utf8_lossy(&output.stderr)));
    print!("{}", String::from_utf8_lossy(&output.stdout));

    println!("\n2. Input, output, errors and an exit code, each on its own way:\n");
    every_channel(dev, true).await?;
    println!("\n3. The same over SPDY, for clusters and proxies that know nothing newer:\n");
    every_channel(dev, false).await?;
    println!("\n4. A port of the pod, as one of this machine:\n");
    page(dev).await?;
    println!("\n5. What the server in the pod writes, from its first line on:\n");
    attach(dev).await?;
    println!("\n6. A directory into the pod and back, compared by sums:\n");
    copies(dev).await?;
    println!("\nAll is stopped. `bowline dev` keeps such a cluster up for any kubectl.");
    Ok(())
}

async fn every_channel(dev: &Dev, websocket: bool) -> Result<()> {
    let switch = if websocket { "" } else { "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false " };
    println!(
        "$ printf 'one\\ntwo\\nthree\\n' | {switch}\\\n    bowline exec \
         -i nginx -- sh -c \"{SCRIPT}\""
    );
    let words = ["-v=6", "-i", "nginx", "--", "sh", "-c", SCRIPT];
    let output = client(dev, &words, INPUT, websocket).await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let (upgrade, said): (Vec<&str>, Vec<&str>) = errors
        .lines()
        .filter(|line| !line.contains("/pods/nginx 200"))
        .partition(|line| line.contains(" 101 ") || line.starts_with(SUBPROTOCOL));
    let method = upgrade.first().and_then(|line| line.split(' ').next()).unwrap_or_default();
    let protocol = upgrade.last().and_then(|line| line.strip_prefix(SUBPROTOCOL));
    let output_text = String::from_utf8_lossy(&output.stdout);
    println!("upgrade    {method}, 101 Switching Protocols, {}", protocol.unwrap_or_default());
    println!("stdout     {}", output_text.trim());
    for line in said {
        println!("stderr     {line}");
    }
    let code = output.status.code();
    println!("exit code  {}", code.map_or("none".to_owned(), |code| code.to_string()));
    let expected = if websocket { "GET" } else { "POST" };
    ensure!(method == expected, "the upgrade was a {method}, not a {expected}");
    ensure!(output_text.trim() == "3" && code == Some(7), "the session ended otherwise");
    Ok(())
}

/// Gets the demo pod's page through a port-forward.
async fn page(dev: &Dev) -> Result<()> {
    println!("$ bowline port-forward svc/nginx :80");
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(["port-forward", "--address", "127.0.0.1", "svc/nginx", ":80", "--kubeconfig"]);
    command.arg(&dev.kubeconfig).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("start the client")?;
    let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
    let line = lines.next_line().await?.context("it does not say where it listens")?;
    println!("{line}");
    let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
    let address = address.context("it does not say where it listens")?;
    println!("\n$ curl http://{address}/");
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("that is no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    print!("{body}");
    child.kill().await.context("stop the client")
}

/// Attaches to the demo pod's server until its first line has come.
async fn attach(dev: &Dev) -> Result<()> {
    println!("$ bowline attach nginx --replay 1");
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(["attach", "nginx", "--quiet", "--replay", "1", "--kubeconfig"]);
    command.arg(&dev.kubeconfig).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("start the client")?;
    let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
    println!("{}", lines.next_line().await?.context("it shows nothing")?);
    child.kill().await.context("stop the client")
}

/// Copies a directory into the pod, which is this machine, and back.
async fn copies(dev: &Dev) -> Result<()> {
    let place = tempfile::Builder::new().prefix("bowline-demo-").tempdir()?;
    let path = |name: &str| place.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir(path("site"))?;
    std::fs::write(path("site/index.html"), "<h1>It holds.</h1>\n")?;
    let (there, back) = (path("there"), path("back"));
    for (shown, words) in [
        ("site nginx:/srv/site", [path("site"), format!("nginx:{there}")]),
        ("nginx:/srv/site back", [format!("nginx:{there}"), back.clone()]),
    ] {
        println!("$ bowline cp {shown} --verify");
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args(["cp", "--verify", "--kubeconfig"]).arg(&dev.kubeconfig).args(words);
        let status = command.stdin(Stdio::null()).status().await?;
        ensure!(status.success(), "the copy ended with {status}");
    }
    let page = std::fs::read_to_string(Path::new(&back).join("index.html"))?;
    println!("$ cat back/index.html\n{}", page.trim_end());
    Ok(())
}

async fn client(dev: &Dev, words: &[&str], input: &[u8], websocket: bool) -> Result<Output> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.arg("exec").arg("--kubeconfig").arg(&dev.kubeconfig).args(words);
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", if websocket { "true" } else { "false" });
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().context("start the client")?;
    if let Some(mut stdin) = child.stdin.take() {
        // The client that does not read it will say why.
        let _ = stdin.write_all(input).await;
    }
    Ok(child.wait_with_output().await?)
}

/// What `-v=8` says of the stream; before it comes the plain request for the pod.
fn streaming_part(text: &str) -> String {
    let lines = text.lines().skip_while(|line| !line.contains("/exec?"));
    lines.map(|line| format!("{line}\n")).collect()
}
