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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::args::{gateway, pflag};

    fn asked(words: &str) -> Result<Sessions, String> {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let values = pflag::read(&gateway::COMMAND, &words).unwrap();
        read(&values).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_limited_that_is_not_said() {
        let usual = asked("").unwrap();
        assert_eq!(usual.living.bounds, Bounds::default());
        assert_eq!(usual.living.ping_every, Some(Duration::from_secs(30)));
        assert!(usual.caps().is_none());
        let zero = "--ping-interval=0 --idle-timeout=0s --silence-timeout=0 --max-session-age=0h \
                    --max-bytes-per-second=0 --max-sessions-per-user=0 \
                    --max-sessions-per-namespace=0 --max-sessions-per-pod=0 --drain-delay=0 \
                    --drain=0";
        let none = Living { ping_every: None, ..usual.living };
        assert_eq!(asked(zero), Ok(Sessions { living: none, ..usual }));
    }

    #[test]
    fn each_flag_sets_its_own_limit() {
        let seconds = |count| Some(Duration::from_secs(count));
        let all = "--ping-interval=1s --idle-timeout=2s --silence-timeout=3s --max-session-age=4s \
                   --max-bytes-per-second=5 --max-sessions-per-user=6 \
                   --max-sessions-per-namespace=7 --max-sessions-per-pod=8 --drain-delay=9s \
                   --drain=10s";
        let expected = Sessions {
            living: Living {
                bounds: Bounds {
                    idle: seconds(2),
                    silence: seconds(3),
                    age: seconds(4),
                    bytes_per_second: NonZeroU64::new(5),
                },
                ping_every: seconds(1),
            },
            per_user: Some(6),
            per_namespace: Some(7),
            per_pod: Some(8),
            drain: Drain { delay: Duration::from_secs(9), patience: Duration::from_secs(10) },
        };
        assert_eq!(asked(all), Ok(expected));
        let caps = expected.caps().unwrap();
        let numbers = [caps.per_user, caps.per_namespace, caps.per_pod];
        assert_eq!(numbers, [Some(6), Some(7), Some(8)]);
        for alone in ["user", "namespace", "pod"] {
            let words = format!("--max-sessions-per-{alone}=1");
            assert!(asked(&words).unwrap().caps().is_some(), "{alone}");
        }
    }

    #[test]
    fn what_is_below_zero_is_refused() {
        for flag in [PING, IDLE, SILENCE, AGE, DRAIN_DELAY, DRAIN] {
            let words = format!("--{}=-1s", flag.long);
            assert!(asked(&words).unwrap_err().contains(flag.long), "{words}");
        }
        for flag in [RATE, PER_USER, PER_NAMESPACE, PER_POD] {
            let words = format!("--{}=-1", flag.long);
            assert!(asked(&words).unwrap_err().contains(flag.long), "{words}");
        }
    }
}
