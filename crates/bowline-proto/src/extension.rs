//! What two Bowlines agree on beyond Kubernetes' protocols, as a table.
//!
//! Others pass over what they do not know. So an extension is asked for where that harms nobody,
//! and is in force only where the answer says that it was heard. A row is all that a gateway needs
//! to hand one on.

/// One extension.
#[derive(Debug, PartialEq, Eq)]
pub struct Extension {
    /// The subresource that has it: `attach`, `exec`, `portforward`.
    pub on: &'static str,
    /// Where it is asked for and answered.
    pub scope: Scope,
    /// The name by which it is asked for.
    pub asked: &'static str,
    /// The name of the header that answers.
    pub answered: &'static str,
}

/// Where an extension is asked for and answered, and so on which hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// By a parameter of the query and a header of the 101, on each hop from the client to the
    /// node: gateways hand on both.
    Handshake,
    /// By headers of a SPDY stream and of its reply, from one end of the connection to the other:
    /// gateways do not read them.
    Stream,
}

/// An attach begins with so many lines of the log (a decimal number, said back).
pub const REPLAY: Extension = Extension {
    on: "attach",
    scope: Scope::Handshake,
    asked: "replay",
    answered: "Bowline-Replay",
};

/// Both ends of a forwarded connection count what was taken: so many bytes may be sent ahead (a
/// decimal number; the answer is the other end's own).
pub const WINDOW: Extension =
    Extension { on: "portforward", scope: Scope::Stream, asked: "window", answered: "window" };

/// All of them.
pub const EXTENSIONS: [&Extension; 2] = [&REPLAY, &WINDOW];

/// Those of a subresource that gateways hand on.
pub fn handed_on(subresource: &str) -> impl Iterator<Item = &'static Extension> {
    EXTENSIONS.into_iter().filter(move |one| one.scope == Scope::Handshake && one.on == subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_hands_on_what_is_asked_in_the_handshake() {
        assert_eq!(handed_on("attach").collect::<alloc::vec::Vec<_>>(), [&REPLAY]);
        assert_eq!(handed_on("portforward").count(), 0);
        for (at, one) in EXTENSIONS.into_iter().enumerate() {
            let others = EXTENSIONS.into_iter().skip(at + 1);
            assert!(others.into_iter().all(|other| (other.on, other.asked) != (one.on, one.asked)));
        }
    }
}
