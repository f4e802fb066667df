//! `--address` and ports to listeners, with kubectl's rules and words.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bowline_client::reconnect::LocalPort;
use bowline_io::text::go_error;
use bowline_kube::ports::ForwardedPort;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that nobody has accepted yet.
const BACKLOG: i32 = 1024;
/// How many ports the system may choose until there is one that is free on all addresses.
const TRIES: usize = 8;

/// An address, and whether it must be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// It was named; the two of `localhost` are a group of which one is enough.
    pub named: bool,
}

/// Reads `--address`. One that is given both ways must be had; the order is that of their texts.
///
/// # Errors
/// kubectl's words.
pub fn addresses(words: &[String]) -> Result<Vec<Address>, String> {
    let mut found: Vec<Address> = Vec::new();
    let mut add = |ip: IpAddr, named: bool| match found.iter_mut().find(|known| known.ip == ip) {
        Some(known) => known.named |= named,
        None => found.push(Address { ip, named }),
    };
    for word in words {
        if word == "localhost" {
            add(Ipv4Addr::LOCALHOST.into(), false);
            add(Ipv6Addr::LOCALHOST.into(), false);
        } else {
            let ip = word.parse::<IpAddr>().map_err(|_| format!("{word} is not a valid IP"))?;
            // As Go takes it: an address of IPv4 in the dress of IPv6 is one of IPv4.
            add(ip.to_canonical(), true);
        }
    }
    found.sort_by_key(|address| address.ip.to_string());
    Ok(found)
}

/// What came of listening for one port.
#[derive(Debug)]
pub struct Listening {
    /// The local port; 0 listeners mean that it cannot be had.
    pub port: LocalPort,
    /// For stdout: what is listened on.
    pub forwarding: Vec<String>,
    /// For stderr: what is not.
    pub problems: Vec<String>,
}

/// Listens for one port on all addresses. A port that the system chooses is the same on all, and
/// one that nobody else has on any of them. Must be called in a tokio runtime with I/O.
pub fn listen(addresses: &[Address], port: ForwardedPort) -> Listening {
    for _ in 1..TRIES {
        let (listening, taken) = once(addresses, port);
        if port.local != 0 || !taken {
            return listening;
        }
    }
    once(addresses, port).0
}

/// The same with one try; whether somebody else has the port.
fn once(addresses: &[Address], port: ForwardedPort) -> (Listening, bool) {
    let (mut number, mut listeners) = (port.local, Vec::new());
    let (mut forwarding, mut errors, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let (mut must, mut taken) = (false, false);
    let mut everywhere = Vec::new();
    for address in addresses {
        // Whom `localhost` means is heard as part of all addresses as well.
        if !address.named && everywhere.contains(&address.ip.is_ipv4()) {
            continue;
        }
        match bind(SocketAddr::new(address.ip, number)) {
            Ok((listener, local)) => {
                number = local.port();
                forwarding.push(format!("Forwarding from {local} -> {}", port.remote));
                listeners.push(listener);
                if address.ip.is_unspecified() {
                    everywhere.push(address.ip.is_ipv4());
                }
            }
            Err(error) => {
                let network = if address.ip.is_ipv4() { "tcp4" } else { "tcp6" };
                let at = SocketAddr::new(address.ip, number);
                errors.push(format!(
                    "unable to create listener: Error listen {network} {at}: bind: {}",
                    go_error(&error)
                ));
                missing.push(format!(
                    "not listening on {at}: {}; connections to it do not reach the pod",
                    go_error(&error)
                ));
                must |= address.named;
                taken |= error.kind() == io::ErrorKind::AddrInUse;
            }
        }
    }
    let mut problems = missing;
    if must || listeners.is_empty() {
        listeners.clear();
        problems = vec![format!(
            "Unable to listen on port {}: Listeners failed to create with the following errors: \
             [{}]",
            port.local,
            errors.join(" ")
        )];
    }
    (Listening { port: LocalPort { number, listeners }, forwarding, problems }, taken)
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // As Go's `tcp6`: `::` is no address of IPv4, which may have a listener of its own.
        socket.set_only_v6(true)?;
    }
    // As Go and tokio do: connections that have ended do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket.into())?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kubectl_reads_them() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            addresses(&words).map(|found| {
                let text =
                    |one: &Address| format!("{}{}", one.ip, if one.named { "!" } else { "" });
                found.iter().map(text).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(read(&["localhost"]).unwrap(), "127.0.0.1 ::1");
        assert_eq!(read(&["localhost", "127.0.0.1"]).unwrap(), "127.0.0.1! ::1");
        assert_eq!(read(&["::1", "localhost", "10.0.0.1"]).unwrap(), "10.0.0.1! 127.0.0.1 ::1!");
        assert_eq!(read(&["::", "0.0.0.0", "::"]).unwrap(), "0.0.0.0! ::!");
        assert_eq!(read(&["::ffff:10.0.0.1", "10.0.0.1"]).unwrap(), "10.0.0.1!");
        for bad in ["foo", "127.0.0.257", "::g", ""] {
            assert_eq!(read(&[bad]).unwrap_err(), format!("{bad} is not a valid IP"));
        }
    }

    #[tokio::test]
    async fn one_of_localhosts_addresses_is_enough_and_the_other_is_spoken_of() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = taken.local_addr().unwrap().port();
        let port = ForwardedPort { local, remote: 80 };
        let both = addresses(&["localhost".to_owned()]).unwrap();
        let listening = listen(&both, port);
        let named = addresses(&["127.0.0.1".to_owned()]).unwrap();
        let refused = listen(&named, port);
        assert!(refused.port.listeners.is_empty());
        let expected = format!(
            "Unable to listen on port {local}: Listeners failed to create with the following \
             errors: [unable to create listener: Error listen tcp4 127.0.0.1:{local}: bind: \
             address already in use]"
        );
        assert_eq!(refused.problems, [expected]);
        // Where this host has IPv6 at all.
        if TcpListener::bind("[::1]:0").await.is_ok() {
            assert_eq!(listening.forwarding, [format!("Forwarding from [::1]:{local} -> 80")]);
            assert!(listening.problems[0].starts_with("not listening on 127.0.0.1:"));
        }
    }

    /// What is printed, with the port that the system chose as `N`, and whether all goes well.
    fn printed(words: &[&str]) -> (Vec<String>, Vec<String>, usize) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let listening = listen(&addresses(&words).unwrap(), ForwardedPort { local: 0, remote: 80 });
        let number = format!(":{} ", listening.port.number);
        let lines = listening.forwarding.iter().map(|line| line.replace(&number, ":N ")).collect();
        (lines, listening.problems, listening.port.listeners.len())
    }

    #[tokio::test]
    async fn all_addresses_of_both_families_are_two() {
        if TcpListener::bind("[::1]:0").await.is_err() {
            return;
        }
        let line = |address: &str| format!("Forwarding from {address}:N -> 80");
        let both = vec![line("0.0.0.0"), line("[::]")];
        assert_eq!(printed(&["0.0.0.0", "::"]), (both.clone(), vec![], 2));
        assert_eq!(printed(&["::", "0.0.0.0"]), (both.clone(), vec![], 2));
        // What `localhost` means is among them.
        assert_eq!(printed(&["localhost", "::", "0.0.0.0"]), (both, vec![], 2));
        let mixed = vec![line("127.0.0.1"), line("[::]")];
        assert_eq!(printed(&["localhost", "::"]), (mixed.clone(), vec![], 2));
        assert_eq!(printed(&["127.0.0.1", "::"]), (mixed, vec![], 2));
        let local = vec![line("127.0.0.1"), line("[::1]")];
        assert_eq!(printed(&["localhost"]), (local.clone(), vec![], 2));
        assert_eq!(printed(&["localhost", "::1", "127.0.0.1", "localhost"]), (local, vec![], 2));
        assert_eq!(printed(&["::"]), (vec![line("[::]")], vec![], 1));
    }
}
