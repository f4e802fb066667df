//! What two Bowlines agree on beyond Kubernetes' protocols, as a table.
//!
//! Other implementations ignore what they do not know. So an extension is requested where that does
//! no harm, and is in force only if the answer says so. A row of the table is all that a gateway
//! needs to forward one.

/// One extension, as a row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Extension {
    /// The subresource that it belongs to: `attach`, `exec` or `portforward`.
    pub on: &'static str,
    /// Where it is requested and answered.
    pub scope: Scope,
    /// The name of the parameter or the header that requests it.
    pub asked: &'static str,
    /// The name of the header that answers.
    pub answered: &'static str,
}

/// Where an extension is requested and answered, which decides the hops that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A parameter of the query requests it and a header of the 101 answers, on each hop from the
    /// client to the node: gateways forward both.
    Handshake,
    /// A header of a SPDY stream requests it and one of its reply answers, from one end of the
    /// connection to the other: gateways do not read them.
    Stream,
}

/// An attach begins with the last lines of the log. The value is how many, as a decimal number,
/// which the answer repeats.
pub const REPLAY: Extension = Extension {
    on: "attach",
    scope: Scope::Handshake,
    asked: "replay",
    answered: "Bowline-Replay",
};

/// A command is started with these variables (KEP-6035), each as `NAME=VALUE`, repeated. The answer
/// says how many were set. API servers that do not know them leave them out without a word.
pub const ENV: Extension =
    Extension { on: "exec", scope: Scope::Handshake, asked: "env", answered: "Bowline-Env" };

/// Both ends of a forwarded connection count what was taken. The value is how many bytes may be
/// sent ahead, as a decimal number; the answer has the other end's own.
pub const WINDOW: Extension =
    Extension { on: "portforward", scope: Scope::Stream, asked: "window", answered: "window" };

/// All extensions.
pub const EXTENSIONS: [&Extension; 3] = [&REPLAY, &ENV, &WINDOW];

/// The extensions of a subresource that gateways forward.
pub fn handed_on(subresource: &str) -> impl Iterator<Item = &'static Extension> {
    EXTENSIONS.into_iter().filter(move |one| one.scope == Scope::Handshake && one.on == subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_hands_on_what_is_asked_in_the_handshake() {
        assert_eq!(handed_on("attach").collect::<alloc::vec::Vec<_>>(), [&REPLAY]);
        assert_eq!(handed_on("exec").collect::<alloc::vec::Vec<_>>(), [&ENV]);
        assert_eq!(handed_on("portforward").count(), 0);
        for (at, one) in EXTENSIONS.into_iter().enumerate() {
            let others = EXTENSIONS.into_iter().skip(at + 1);
            assert!(others.into_iter().all(|other| (other.on, other.asked) != (one.on, one.asked)));
        }
    }
}
