//! `--address` and ports to listeners, with kubectl's rules and words.
//! Above: `port_forward`. Below: tokio.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bowline_client::keep::LocalPort;
use bowline_io::text::of_system;
use bowline_kube::ports::ForwardedPort;
use tokio::net::TcpListener;

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
            let ip = word.parse().map_err(|_| format!("{word} is not a valid IP"))?;
            add(ip, true);
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
    pub troubles: Vec<String>,
}

/// Listens for one port on all addresses. A port that the system chooses is the same on all.
pub async fn listen(addresses: &[Address], port: ForwardedPort) -> Listening {
    let (mut number, mut listeners) = (port.local, Vec::new());
    let (mut forwarding, mut errors, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut must = false;
    for address in addresses {
        match bind(SocketAddr::new(address.ip, number)).await {
            Ok((listener, local)) => {
                number = local.port();
                forwarding.push(format!("Forwarding from {local} -> {}", port.remote));
                listeners.push(listener);
            }
            Err(error) => {
                let network = if address.ip.is_ipv4() { "tcp4" } else { "tcp6" };
                let at = SocketAddr::new(address.ip, number);
                errors.push(format!(
                    "unable to create listener: Error listen {network} {at}: bind: {}",
                    of_system(&error)
                ));
                missing.push(format!(
                    "not listening on {at}: {}; connections to it do not reach the pod",
                    of_system(&error)
                ));
                must |= address.named;
            }
        }
    }
    let mut troubles = Vec::new();
    if must || listeners.is_empty() {
        listeners.clear();
        troubles.push(format!(
            "Unable to listen on port {}: Listeners failed to create with the following errors: \
             [{}]",
            port.local,
            errors.join(" ")
        ));
    } else {
        troubles = missing;
    }
    Listening { port: LocalPort { number, listeners }, forwarding, troubles }
}

async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
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
        let listening = listen(&both, port).await;
        let named = addresses(&["127.0.0.1".to_owned()]).unwrap();
        let refused = listen(&named, port).await;
        assert!(refused.port.listeners.is_empty());
        let expected = format!(
            "Unable to listen on port {local}: Listeners failed to create with the following \
             errors: [unable to create listener: Error listen tcp4 127.0.0.1:{local}: bind: \
             address already in use]"
        );
        assert_eq!(refused.troubles, [expected]);
        // Where this host has IPv6 at all.
        if TcpListener::bind("[::1]:0").await.is_ok() {
            assert_eq!(listening.forwarding, [format!("Forwarding from [::1]:{local} -> 80")]);
            assert!(listening.troubles[0].starts_with("not listening on 127.0.0.1:"));
        }
    }
}
