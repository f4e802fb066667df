//! A session that is wanted to a connection to its host: by the node itself, or by an exec of a
//! program in the container.

use std::sync::{Arc, Mutex, PoisonError};

use bowline_io::random;
use bowline_io::stream::Upgraded;
use bowline_proto::kept::{Carrier, Refused as Gone, refused};
use bowline_proto::negotiate::Offer;
use bowline_proto::session::Wants;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use bytes::Bytes;

use super::place::{PlaceError, Placed, place};
use super::pod::over;
use crate::client::Client;
use crate::command::open;
use crate::error::Error;
use crate::request::{Options, Verb};
use crate::upgrade::{Refused, UpgradeError, UpgradeRequest};

/// The words of a request that resumes a session: whoever audits requests sees what it is.
const RESUME: [&str; 2] = ["@bowline", "resume"];

/// Makes the connections of one session.
pub(super) struct Connector {
    client: Client,
    options: Options,
    wants: Wants,
    program: Option<Bytes>,
    way: Way,
    found: Found,
    /// The program was looked for again, because it was not where it had been.
    has_looked_again: bool,
}

/// How the host of one container's sessions is reached, for those that come after the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found(Arc<Mutex<Way>>);

impl Found {
    fn get(&self) -> Way {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, way: &Way) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(way);
    }
}

/// How the host is reached.
#[derive(Clone, Debug, Default)]
enum Way {
    /// Not known yet.
    #[default]
    Unknown,
    /// The node keeps sessions itself.
    Node,
    /// A program in the container does, which has its place or needs one.
    Program(Option<Placed>),
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// There may be one later.
    ForNow(Error),
    /// There will not be one.
    Ever(Error),
}

impl Connector {
    pub(super) fn new(
        client: Client,
        options: Options,
        wants: Wants,
        program: Option<Bytes>,
        found: Found,
    ) -> Connector {
        let way = found.get();
        Connector { client, options, wants, program, way, found, has_looked_again: false }
    }

    /// Makes the next connection, which starts the session or resumes it.
    pub(super) async fn connect(
        &mut self,
        resumes: bool,
    ) -> Result<(Upgraded, Carrier), NoConnection> {
        let connected = self.connect_by_its_way(resumes).await?;
        self.found.set(&self.way);
        Ok(connected)
    }

    async fn connect_by_its_way(
        &mut self,
        resumes: bool,
    ) -> Result<(Upgraded, Carrier), NoConnection> {
        match &self.way {
            Way::Unknown => match self.node(resumes).await {
                Err(error) if leads_to_a_program(&error, resumes) => {
                    self.way = Way::Program(None);
                    match self.program().await {
                        Err(NoConnection::Ever(Error::NoProgram)) if says_more(&error) => {
                            Err(error.into())
                        }
                        result => result,
                    }
                }
                Ok(connected) => {
                    self.way = Way::Node;
                    Ok(connected)
                }
                Err(error) => Err(error.into()),
            },
            Way::Node => Ok(self.node(resumes).await?),
            Way::Program(_) => self.program().await,
        }
    }

    /// What a refusal means for a session that there may be: nobody can come back to one that a
    /// program has kept in a container that is over for good.
    pub(super) async fn judged(&self, error: Error) -> NoConnection {
        let is_answer =
            matches!(error, Error::Upgrade(UpgradeError::Refused(_)) | Error::NoPlace(_));
        if !is_answer || !matches!(self.way, Way::Program(_)) {
            return NoConnection::ForNow(error);
        }
        let Options { pod, container, .. } = &self.options;
        match over(&self.client, pod, container.as_deref()).await {
            Some(why) => {
                let text = format!("the session is gone: {why}");
                NoConnection::Ever(Error::NotKept(Gone { code: refused::UNKNOWN, text }))
            }
            None => NoConnection::ForNow(error),
        }
    }

    /// What is tried after the host was reached and is not there any more. Returns whether that may
    /// be as it was found: once, it may just have left, with the last of its sessions.
    pub(super) fn look_again(&mut self) -> bool {
        if let Way::Program(placed) = &mut self.way {
            *placed = None;
        }
        self.found.set(&self.way);
        !std::mem::replace(&mut self.has_looked_again, true)
    }

    async fn node(&self, resumes: bool) -> Result<(Upgraded, Carrier), Error> {
        let mut options = self.options.clone();
        if resumes {
            options.verb = Verb::Exec(RESUME.map(ToOwned::to_owned).to_vec());
        }
        let url = options.url(&self.client, self.wants);
        let upgrade = UpgradeRequest { client: &self.client, url: &url };
        let offer = Offer::kept(random::bytes());
        let switched = upgrade.alone(&offer).await?;
        if !resumes {
            options.demand_env(&switched.headers)?;
        }
        let wire = Wire::in_order(Role::Client, random::bytes());
        Ok((switched.connection, Carrier::Bytes(wire)))
    }

    async fn program(&mut self) -> Result<(Upgraded, Carrier), NoConnection> {
        let client = self.client.clone();
        let Way::Program(placed) = &mut self.way else { return Err(Error::NoProgram.into()) };
        let placed = match placed {
            Some(placed) => placed,
            None => {
                let program = self.program.as_deref().ok_or(Error::NoProgram)?;
                let Options { pod, container, .. } = &self.options;
                placed.insert(place(&client, pod, container.as_deref(), program).await?)
            }
        };
        let words = [&placed.path, "connect", &placed.dir].map(ToOwned::to_owned).to_vec();
        let options = Options {
            verb: Verb::Exec(words),
            tty: false,
            env: Vec::new(),
            stderr: true,
            ..self.options.clone()
        };
        let opened = open(&client, &options, true).await?;
        Ok((opened.connection, Carrier::Exec(opened.session)))
    }
}

/// Whether the node does not keep the session, and a program in the container may. That gets the
/// environment which something on the way has left out.
fn leads_to_a_program(error: &Error, resumes: bool) -> bool {
    match error {
        Error::NoEnv => true,
        Error::Upgrade(error) => does_not_know(error, resumes),
        _ => false,
    }
}

/// Whether who has no program has more need of this than of one.
fn says_more(error: &Error) -> bool {
    match error {
        Error::NoEnv => true,
        Error::Upgrade(error) => is_forbidden(error),
        _ => false,
    }
}

/// Whether this is how a server answers that does not know the protocol, or a box on the way. A
/// session that is there is not looked for elsewhere because of a connection that was cut.
fn does_not_know(error: &UpgradeError, resumes: bool) -> bool {
    match error {
        UpgradeError::NotUpgraded(_) => true,
        UpgradeError::Refused(refused) => {
            matches!(refused.code, 400 | 403 | 404 | 405 | 426 | 501) && !is_final(refused)
        }
        UpgradeError::Redirected(_) => !resumes,
        UpgradeError::Http(error) => error.is_cut() && !resumes,
        _ => false,
    }
}

/// Whether the answer is about the user's rights. Another way may want others. A bare 403 is what a
/// runtime's server says of subprotocols that it does not know.
fn is_forbidden(error: &UpgradeError) -> bool {
    matches!(error, UpgradeError::Refused(refused) if refused.reason == "Forbidden")
}

/// Whether a refusal says that there is no such pod, and not only that something on the way to it
/// is not ready. An API server that has just started knows nobody's rights yet.
fn is_final(refused: &Refused) -> bool {
    refused.code == 404 && refused.reason == "NotFound" && refused.message.starts_with("pods \"")
}

impl From<Error> for NoConnection {
    fn from(error: Error) -> NoConnection {
        match error {
            Error::Upgrade(UpgradeError::Refused(refused)) if is_final(&refused) => {
                NoConnection::Ever(Error::Upgrade(UpgradeError::Refused(refused)))
            }
            error @ (Error::NoPlace(_) | Error::NoProgram | Error::NoEnv) => {
                NoConnection::Ever(error)
            }
            error => NoConnection::ForNow(error),
        }
    }
}

impl From<PlaceError> for NoConnection {
    fn from(error: PlaceError) -> NoConnection {
        match error {
            PlaceError::Error(error) => error.into(),
            // In a container that begins anew, nothing can be run for a while.
            error @ PlaceError::NotRun(_) => {
                NoConnection::ForNow(Error::NoPlace(error.to_string()))
            }
            error => NoConnection::Ever(Error::NoPlace(error.to_string())),
        }
    }
}
