//! Kubernetes' feature gates as a table: what exists, what is on, what a flag changes.
//! Above: `server`, the help of `--feature-gates`. Below: nothing.

use thiserror::Error;

/// One gate.
#[derive(Debug)]
pub struct Gate {
    /// Its Kubernetes name.
    pub name: &'static str,
    /// Whether it is on if nothing is said.
    pub default: bool,
    /// What it does here.
    pub about: &'static str,
}

/// All of them.
pub static TABLE: [Gate; 4] = [
    Gate {
        name: "TranslateStreamCloseWebsocketRequests",
        default: true,
        about: "serve exec over WebSocket v5 and translate it for the node; \
                off: refuse v5 as an old cluster does, so that clients fall back to SPDY",
    },
    Gate {
        name: "PortForwardWebsockets",
        default: true,
        about: "tunnel port-forward through WebSocket",
    },
    Gate {
        name: "ExtendWebSocketsToKubelet",
        default: true,
        about: "speak WebSocket to nodes that declare this feature in their status",
    },
    Gate {
        name: "AuthorizePodWebsocketUpgradeCreatePermission",
        default: true,
        about: "demand `create` for streams over WebSocket, which are GET requests",
    },
];

/// Which gates are on.
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
    /// Not `name=bool`.
    #[error("missing bool value for feature gate {0:?}")]
    NoValue(String),
    /// Not a Boolean.
    #[error(
        "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
    )]
    Value {
        /// The gate.
        name: String,
        /// What was given.
        value: String,
    },
    /// Not in the table.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
}

impl Gates {
    /// Whether the gate of this name is on; false for a name that is not in the table.
    #[must_use]
    pub fn is_on(self, name: &str) -> bool {
        let index = TABLE.iter().position(|gate| gate.name == name);
        index.is_some_and(|index| self.0[index])
    }

    /// `A=true,B=false` on top of the defaults.
    ///
    /// # Errors
    /// [`GateError`].
    pub fn parse(text: &str) -> Result<Gates, GateError> {
        let mut gates = Gates::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            let (name, value) = (name.trim(), value.trim());
            if value.is_empty() {
                return Err(GateError::NoValue(name.to_owned()));
            }
            let index = TABLE.iter().position(|gate| gate.name == name);
            let index = index.ok_or_else(|| GateError::Unknown(name.to_owned()))?;
            gates.0[index] = match value {
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
    fn flags_change_what_they_name() {
        let translate = TABLE[0].name;
        assert!(Gates::parse("").unwrap().is_on(translate));
        let off = Gates::parse(&format!("{translate}=false, ExtendWebSocketsToKubelet=true"));
        assert!(!off.unwrap().is_on(translate));
        assert!(!Gates::default().is_on("Nope"));
        for (text, expected) in [
            ("X=true", "unrecognized feature gate: X"),
            ("X", "missing bool value for feature gate \"X\""),
        ] {
            assert_eq!(Gates::parse(text).unwrap_err().to_string(), expected);
        }
        assert!(Gates::parse(&format!("{translate}=maybe")).is_err());
    }
}
