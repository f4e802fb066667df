//! Kubernetes' feature gates as a table: what exists, what is on, what a flag changes.

use thiserror::Error;

/// A feature gate, by its Kubernetes name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Exec and attach over WebSocket v5.
    TranslateStreamCloseWebsocketRequests,
    /// Port-forward in a tunnel through WebSocket.
    PortForwardWebsockets,
    /// WebSocket on the far leg.
    ExtendWebSocketsToKubelet,
    /// `create` for streams that are GET requests.
    AuthorizePodWebsocketUpgradeCreatePermission,
}

/// A row of the table of gates.
#[derive(Debug)]
pub struct Row {
    /// The gate.
    pub gate: Gate,
    /// Its Kubernetes name.
    pub name: &'static str,
    /// Whether it is on by default.
    pub default: bool,
    /// What it does here, for the help text.
    pub about: &'static str,
}

/// All gates, in the order of [`Gate`].
pub static TABLE: [Row; 4] = [
    Row {
        gate: Gate::TranslateStreamCloseWebsocketRequests,
        name: "TranslateStreamCloseWebsocketRequests",
        default: true,
        about: "serve exec over WebSocket v5 and translate it for the node; \
                off: refuse v5 as an old cluster does, so that clients fall back to SPDY",
    },
    Row {
        gate: Gate::PortForwardWebsockets,
        name: "PortForwardWebsockets",
        default: true,
        about: "tunnel port-forward through WebSocket",
    },
    Row {
        gate: Gate::ExtendWebSocketsToKubelet,
        name: "ExtendWebSocketsToKubelet",
        default: true,
        about: "speak WebSocket to nodes that declare this feature in their status",
    },
    Row {
        gate: Gate::AuthorizePodWebsocketUpgradeCreatePermission,
        name: "AuthorizePodWebsocketUpgradeCreatePermission",
        default: true,
        about: "demand `create` for streams over WebSocket, which are GET requests",
    },
];

/// Which gates are on, in the order of [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gates([bool; TABLE.len()]);

impl Default for Gates {
    fn default() -> Gates {
        Gates(std::array::from_fn(|index| TABLE[index].default))
    }
}

/// Why `--feature-gates` is not understood, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GateError {
    /// An entry is not `name=bool`.
    #[error("missing bool value for feature gate {0:?}")]
    NoValue(String),
    /// A value is no Boolean.
    #[error(
        "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
    )]
    Value {
        /// The gate.
        name: String,
        /// What was given.
        value: String,
    },
    /// There is no such gate.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
}

impl Gates {
    /// Returns whether a gate is on.
    #[must_use]
    pub fn is_on(self, gate: Gate) -> bool {
        self.0[gate as usize]
    }

    /// Reads `A=true,B=false`; what is not named has its default.
    ///
    /// # Errors
    /// [`GateError`] for the first entry that names no gate, or has no Boolean for it.
    pub fn parse(text: &str) -> Result<Gates, GateError> {
        let mut gates = Gates::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            let (name, value) = (name.trim(), value.trim());
            if value.is_empty() {
                return Err(GateError::NoValue(name.to_owned()));
            }
            let row = TABLE.iter().find(|row| row.name == name);
            let row = row.ok_or_else(|| GateError::Unknown(name.to_owned()))?;
            gates.0[row.gate as usize] = match value {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                _ => {
                    let (name, value) = (name.to_owned(), value.to_owned());
                    return Err(GateError::Value { name, value });
                }
            };
        }
        Ok(gates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gate_has_its_row_at_its_place() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.gate as usize, index);
            assert_eq!(format!("{:?}", row.gate), row.name);
        }
    }

    #[test]
    fn flags_change_what_they_name_and_nothing_else() {
        for row in &TABLE {
            assert_eq!(Gates::parse("").unwrap().is_on(row.gate), row.default);
            for value in [true, false] {
                let gates = Gates::parse(&format!(" {} = {value} ", row.name)).unwrap();
                assert_eq!(gates.is_on(row.gate), value);
                let others = TABLE.iter().filter(|other| other.gate != row.gate);
                assert!(others.into_iter().all(|other| gates.is_on(other.gate) == other.default));
            }
            for bad in ["maybe", "", "yes"] {
                assert!(Gates::parse(&format!("{}={bad}", row.name)).is_err());
            }
        }
        for (text, expected) in [
            ("X=true", "unrecognized feature gate: X"),
            ("portForwardWebsockets=true", "unrecognized feature gate: portForwardWebsockets"),
            ("X", "missing bool value for feature gate \"X\""),
        ] {
            assert_eq!(Gates::parse(text).unwrap_err().to_string(), expected);
        }
    }
}
