//! Addresses that may be dialled where somebody else says which one: not this machine's own, and
//! none that mean something only beside it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses of other machines, and those in networks that are allowed in any case.
///
/// Refused are, as in Kubernetes, those that no node of a cluster has: loopback, link-local (where
/// clouds tell credentials), unspecified, multicast, broadcast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permitted {
    /// The networks.
    pub networks: Vec<IpNet>,
}

impl Permitted {
    /// Returns whether an address may be dialled.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let meant = meant(address);
        let is_allowed = |one: IpAddr| self.networks.iter().any(|network| network.contains(&one));
        is_of_others(meant) || is_allowed(meant) || is_allowed(address)
    }
}

/// An address of version 4 in one of version 6 is that of version 4, to which the kernel connects.
fn meant(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn is_of_others(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // All of 0.0.0.0/8 is "this network".
            let is_this_network = v4.octets()[0] == 0;
            !(v4.is_loopback()
                || v4.is_link_local()
                || is_this_network
                || v4.is_multicast()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || is_compatible(v6))
        }
    }
}

/// Whether it is `::a.b.c.d`, which nobody has had for twenty years.
fn is_compatible(v6: Ipv6Addr) -> bool {
    v6.segments()[..6] == [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_others_may_be_dialled() {
        let permitted = Permitted::default();
        for (address, expected) in [
            ("10.0.0.1", true),
            ("192.168.1.1", true),
            ("8.8.8.8", true),
            ("100.64.0.1", true),
            ("fd00::1", true),
            ("2001:db8::1", true),
            ("::ffff:10.0.0.1", true),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::127.0.0.1", false),
        ] {
            assert_eq!(permitted.permits(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_network_may_be_allowed() {
        let networks = ["127.0.0.0/8", "fe80::/10"].map(|network| network.parse().unwrap()).into();
        let permitted = Permitted { networks };
        for (address, expected) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("fe80::1", true),
            ("::1", false),
            ("169.254.0.1", false),
            ("10.0.0.1", true),
        ] {
            assert_eq!(permitted.permits(address.parse().unwrap()), expected, "{address}");
        }
    }
}
