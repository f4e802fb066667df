//! The flags of `gateway` that say how its sessions live and end.

use std::num::NonZeroU64;
use std::time::Duration;

use bowline_gateway::server::Living;
use bowline_io::drive::Bounds;
use bowline_io::record::Caps;
use bowline_io::serve::Drain;

use super::pflag::{BadFlag, Values};
use super::table::Flag;

/// How sessions live and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// While they run.
    pub living: Living,
    /// How many of one user, at once.
    pub per_user: Option<usize>,
    /// In one namespace.
    pub per_namespace: Option<usize>,
    /// Of one pod.
    pub per_pod: Option<usize>,
    /// How much time they have after the signal to end.
    pub drain: Drain,
}

impl Sessions {
    /// The numbers as what keeps to them, if there are any.
    pub fn caps(&self) -> Option<Caps> {
        let Sessions { per_user, per_namespace, per_pod, .. } = *self;
        let any = per_user.or(per_namespace).or(per_pod).is_some();
        any.then(|| Caps::new(per_user, per_namespace, per_pod))
    }
}

/// `--ping-interval`.
pub const PING: Flag = Flag::duration(
    "ping-interval",
    "Ping a client that has sent nothing for this long, so that no proxy closes its connection. 0 \
     is never. Nodes and API servers are pinged every 5 s.",
)
.default("30s");

/// `--idle-timeout`.
pub const IDLE: Flag = Flag::duration(
    "idle-timeout",
    "End a session in which nothing passed for this long. Pings do not count, but in a \
     port-forward. \
     0 is never.",
)
.default("0s");

/// `--silence-timeout`.
pub const SILENCE: Flag = Flag::duration(
    "silence-timeout",
    "End a session whose client sent nothing at all for this long, not even the answer to a ping. \
     A stopped client (Ctrl-Z) is as silent as one that is gone. 0 is never; a host that is gone \
     is found in any case.",
)
.default("0s");

/// `--max-session-age`.
pub const AGE: Flag =
    Flag::duration("max-session-age", "End a session that is this old. 0 is never.").default("0s");

/// `--max-bytes-per-second`.
pub const RATE: Flag = Flag::number(
    "max-bytes-per-second",
    "BYTES",
    "The bandwidth of one session in each direction. 0 is no limit.",
)
.default("0");

/// `--max-sessions-per-user`.
pub const PER_USER: Flag = Flag::number(
    "max-sessions-per-user",
    "COUNT",
    "How many sessions a user may have at once: exec, attach, port-forward. 0 is no limit.",
)
.default("0");

/// `--max-sessions-per-namespace`.
pub const PER_NAMESPACE: Flag = Flag::number(
    "max-sessions-per-namespace",
    "COUNT",
    "How many there may be in a namespace. 0 is no limit.",
)
.default("0");

/// `--max-sessions-per-pod`.
pub const PER_POD: Flag =
    Flag::number("max-sessions-per-pod", "COUNT", "How many there may be of a pod. 0 is no limit.")
        .default("0");

/// `--drain-delay`.
pub const DRAIN_DELAY: Flag = Flag::duration(
    "drain-delay",
    "How long requests are still served after SIGTERM, while /readyz says no: until all who send \
     some know.",
)
.default("0s");

/// `--drain`.
pub const DRAIN: Flag = Flag::duration(
    "drain",
    "How long sessions may go on after that. Those that are left then are told that the gateway \
     ends, which is no success.",
)
.default("0s");

/// Reads them.
///
/// # Errors
/// [`BadFlag`] for a value below zero.
pub fn read(values: &Values) -> Result<Sessions, BadFlag> {
    let duration = |flag: &Flag| values.not_negative(flag, Duration::ZERO);
    let limit = |flag: &Flag| Ok(Some(duration(flag)?).filter(|limit| !limit.is_zero()));
    let count = |flag: &Flag| Ok(Some(values.count(flag, 0)?).filter(|count| *count > 0));
    let rate = NonZeroU64::new(values.count(&RATE, 0)? as u64);
    let bounds = Bounds {
        idle: limit(&IDLE)?,
        silence: limit(&SILENCE)?,
        age: limit(&AGE)?,
        bytes_per_second: rate,
    };
    let ping = values.not_negative(&PING, Duration::from_secs(30))?;
    Ok(Sessions {
        living: Living { bounds, ping_every: Some(ping).filter(|every| !every.is_zero()) },
        per_user: count(&PER_USER)?,
        per_namespace: count(&PER_NAMESPACE)?,
        per_pod: count(&PER_POD)?,
        drain: Drain { delay: duration(&DRAIN_DELAY)?, patience: duration(&DRAIN)? },
    })
}
