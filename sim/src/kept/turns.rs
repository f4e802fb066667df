//! What happens to a session from outside.

use std::time::Duration;

use bowline_proto::kept::{Instance, Leave, Mode};
use rand::RngExt;

use super::host::Place;
use super::scenario::{Have, Turn};
use super::user::Last;
use super::world::{Arrival, World};

impl World<'_> {
    pub(super) fn turn(&mut self, turn: Turn) {
        let taker = self.users.iter().rposition(|user| user.takes() && user.last.is_none());
        let link = taker.and_then(|taker| self.users[taker].link);
        match turn {
            Turn::Outage(pause) => self.outage = self.now + pause,
            // Of two clients that start it, none knows where the other one has.
            Turn::Restart | Turn::Beside if self.is_twice => {}
            Turn::StartAgain if self.places.len() > 1 => {}
            Turn::Restart => self.restart(),
            Turn::Beside => self.open_place(),
            Turn::TakeOver(have) => self.resume(Mode::Take, have),
            Turn::TakeOverAway(have) => {
                self.strike(link, Turn::Reset);
                self.resume(Mode::Take, have);
            }
            Turn::Look(have) => self.resume(Mode::Look, have),
            Turn::StartAgain => {
                self.is_twice = true;
                self.start();
            }
            Turn::Kill(after, have) => self.replace(taker, None, after, have),
            Turn::Leave(how, after, have) => self.replace(taker, Some(how), after, have),
            _ => self.strike(link, turn),
        }
    }

    fn strike(&mut self, link: Option<usize>, turn: Turn) {
        let Some(Some(link)) = link.and_then(|link| self.links.get_mut(link)) else { return };
        let (up, down) = (link.up.pieces(), link.down.pieces());
        let (up, down) = (self.chance.random_range(0..=up), self.chance.random_range(0..=down));
        match turn {
            Turn::End => {
                link.up.end();
                link.down.end();
            }
            Turn::ResetAtClient => {
                link.up.lose_all();
                link.down.cut(down);
            }
            Turn::ResetAtHost => {
                link.up.cut(up);
                link.down.lose_all();
            }
            Turn::Late(pause) => {
                link.up.stall(self.now, pause);
                // Its HELLO, its request, and something more.
                link.breaks_after = self.chance.random_range(1..=3);
            }
            Turn::Stall(pause) => {
                link.up.stall(self.now, pause);
                link.down.stall(self.now, pause);
            }
            _ => {
                link.up.cut(up);
                link.down.cut(down);
            }
        }
    }

    fn open_place(&mut self) {
        let number = self.places.len() as u8;
        self.places.push(Place::new(Instance([number + 1; 16])));
    }

    /// All hosts end as if they were killed, and a new one comes.
    fn restart(&mut self) {
        for place in &mut self.places {
            (place.lives, place.session) = (false, None);
        }
        for link in self.links.iter_mut().flatten() {
            let pieces = self.chance.random_range(0..=link.down.pieces());
            link.forsake(pieces);
        }
        self.open_place();
    }

    /// A client goes, with or without a word, and another one comes.
    fn replace(&mut self, taker: Option<usize>, how: Option<Leave>, after: Duration, have: Have) {
        let Some(taker) = taker else { return };
        let user = &mut self.users[taker];
        user.last = Some(Last::Gone);
        user.connects_at = None;
        if let Some(how) = how {
            user.client.leave(how);
        } else if let Some(link) = user.link.take() {
            self.abandon(link);
        }
        self.arrivals.push(Arrival { at: self.now + after, mode: Mode::Take, have });
    }
}
