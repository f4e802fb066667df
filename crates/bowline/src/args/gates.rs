//! `--feature-gates` to the gates of a gateway.

pub use bowline_gateway::gates::Gates;

use super::BadUsage;
use super::pflag::Values;
use super::table::{Flag, Kind};

/// The flag. The gates have the names of Kubernetes.
pub const FLAG: Flag = Flag {
    long: "feature-gates",
    short: None,
    kind: Kind::List,
    value: "GATE=BOOL",
    default: "",
    help: "Open or close Kubernetes feature gates: TranslateStreamCloseWebsocketRequests, \
           ExtendWebSocketsToKubelet, AuthorizePodWebsocketUpgradeCreatePermission, \
           PortForwardWebsockets. All are open unless said otherwise.",
};

/// Reads the flag.
///
/// # Errors
/// [`BadUsage::Gate`].
pub fn read(values: &Values) -> Result<Gates, BadUsage> {
    Ok(Gates::parse(&values.list(FLAG.long).join(","))?)
}
