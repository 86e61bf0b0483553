//! The two ends of a PV device find each other by states in xenstore (xen/include/public/io/xenbus.h). The guest's end may say anything
//! at any time.
use super::{Piece, Side};
use crate::Context;

/// Ready number of a back end's event channel.
pub const EVENTS: u32 = 0;
/// Ready number of its nodes.
pub const NODES: u32 = 1;
/// The mark that outlives a back end's process: the local port of the event channel, 0 if none is bound.
pub const PORT: usize = 0;

/// Lines of complaint in a process's life.
const COMPLAINTS: u32 = 20;

/// States of a device's end (enum xenbus_state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nothing is said.
    Unknown = 0,
    /// It is being made.
    Initialising = 1,
    /// It has said what it offers, and waits for the other.
    InitWait = 2,
    /// It has said where its ring is.
    Initialised = 3,
    /// It is at work.
    Connected = 4,
    /// It wants to end.
    Closing = 5,
    /// It has ended.
    Closed = 6,
}

impl State {
    /// What a `state` node says; anything else is as none.
    pub fn of(node: Option<&str>) -> Self {
        match node {
            Some("1") => Self::Initialising,
            Some("2") => Self::InitWait,
            Some("3") => Self::Initialised,
            Some("4") => Self::Connected,
            Some("5") => Self::Closing,
            Some("6") => Self::Closed,
            _ => Self::Unknown,
        }
    }
}

/// The guest's end, as a back end reaches it: nodes through `xenbus`, pages through `grant`, signals by an event channel of its own.
/// Addresses are bytes in one range of pages: first what is mapped, the ring before all, behind it a buffer for copies.
pub trait Frontend: Send {
    /// A node's value.
    fn node(&mut self, side: Side, name: &str) -> Option<String>;
    /// Sets a node of this end.
    fn set(&mut self, name: &str, value: &str);
    /// Whether a question about nodes has got no answer since the last call: then that a node is not there means nothing.
    fn unanswered(&mut self) -> bool;
    /// Whether nodes have changed since the last call. `ready`: something was said, which was not looked at yet.
    fn changed(&mut self, ready: bool) -> bool;
    /// Maps granted pages at a page of the range; all of them or none.
    fn map(&mut self, page: usize, grefs: &[u32]) -> bool;
    /// Unmaps all granted pages.
    fn unmap(&mut self);
    /// Copies pieces of granted pages to or from the range's buffer.
    fn copy(&mut self, to_guest: bool, address: u64, pieces: &[Piece]) -> bool;
    /// Binds the guest's event channel; the local port.
    fn bind(&mut self, port: u32) -> Option<u32>;
    /// Goes on with a port that a former process has bound.
    fn adopt(&mut self, local: u32);
    /// Gives the event channel up.
    fn unbind(&mut self);
    /// Signals the guest.
    fn notify(&mut self);
    /// Whether the guest has signalled since the last call.
    fn signalled(&mut self) -> bool;
    /// A 32-bit number in shared pages; 0 where nothing is mapped.
    fn load(&self, offset: usize) -> u32;
    /// Writes a 32-bit number at `offset`.
    fn store(&self, offset: usize, value: u32);
}

/// How far a back end has come with its guest.
#[derive(Debug)]
pub struct Meeting {
    /// This end's state.
    pub state: State,
    /// It has looked at the guest's end.
    begun: bool,
    /// The local port of a former life, if one was bound.
    former: Option<u32>,
    complaints: u32,
}

impl Default for Meeting {
    fn default() -> Self {
        Self { state: State::Unknown, begun: false, former: None, complaints: 0 }
    }
}

/// A back end: what is its own of the meeting; the rest is provided.
pub trait BackEnd {
    /// The guest's end.
    fn front(&mut self) -> &mut dyn Frontend;
    /// How far it has come.
    fn meeting(&mut self) -> &mut Meeting;
    /// Whether the guest's end has a state; a domain's first console has none, and is there from the start.
    fn meets(&self) -> bool {
        true
    }
    /// Writes what the guest may choose from.
    fn offer(&mut self);
    /// Connects to what the guest's nodes name, with [`Self::listen`] for the event channel.
    ///
    /// # Errors
    /// What is wrong with the guest's nodes, in one line.
    fn connect(&mut self, cx: &mut Context) -> Result<(), &'static str>;
    /// The node that names the guest's event channel.
    fn channel(&self) -> &'static str {
        "event-channel"
    }
    /// Ends the connection, but for the event channel; whether it has ended. If not, [`Self::nodes`] is called again when it has.
    fn leave(&mut self) -> bool;
    /// Whether the device that this was made for is there no more, or another in its place.
    fn is_gone(&mut self) -> bool {
        self.front().node(Side::Back, "frontend").is_none()
    }

    /// A line for the log, as long as there are not too many: the guest can cause them.
    fn complain(&mut self, line: &str) {
        let said = &mut self.meeting().complaints;
        if *said < COMPLAINTS {
            *said = said.saturating_add(1);
            tracing::warn!("{line}{}", if *said == COMPLAINTS { " (more of this is only counted)" } else { "" });
        }
    }

    /// Says what this end's state is.
    fn enter(&mut self, state: State) {
        if self.meeting().state != state {
            self.meeting().state = state;
            self.front().set("state", &(state as u8).to_string());
        }
    }

    /// Before the process's sandbox is closed: nothing that the guest can write is looked at yet. [`Self::changes`] begins.
    fn prepare(&mut self, cx: &mut Context) {
        self.meeting().former =
            cx.marks.former(PORT).and_then(|port| u32::try_from(port).ok()).filter(|port| *port != 0);
        if let Some(port) = self.meeting().former {
            // For the next life, if this one ends before it has come so far.
            cx.marks.set(PORT, u64::from(port));
        }
        cx.again();
    }

    /// Begins; goes on where a former life has left a connection.
    fn begin(&mut self, cx: &mut Context) {
        // What a former life has named is of no use.
        self.front().unmap();
        if !self.meets() {
            match self.connect(cx) {
                Ok(()) => self.enter(State::Connected),
                Err(e) => self.complain(&format!("the domain's end cannot be connected: {e}")),
            }
            return;
        }
        let own = State::of(self.front().node(Side::Back, "state").as_deref());
        self.meeting().state = match own {
            State::Connected if self.meeting().former.is_some() => State::InitWait,
            State::InitWait => {
                // It may be the launcher's word, who offers nothing.
                self.offer();
                State::InitWait
            }
            // A front end that came before there was anybody to serve it was told so. What it has left is of no use: it begins anew.
            State::Closed => State::Closed,
            _ => State::Unknown,
        };
        self.nodes(cx);
    }

    /// Called with everything that becomes ready: begins at the first time, and looks at nodes that have changed. Its own questions may
    /// have been answered after the news of more.
    fn changes(&mut self, ready: bool, cx: &mut Context) {
        let changed = self.front().changed(ready);
        if !std::mem::replace(&mut self.meeting().begun, true) {
            self.begin(cx);
            cx.again();
        } else if changed && self.meets() {
            self.nodes(cx);
            cx.again();
        }
    }

    /// Binds the event channel that the guest's nodes name, or goes on with the one that a former life has bound.
    ///
    /// # Errors
    /// See [`Self::connect`].
    fn listen(&mut self, cx: &mut Context) -> Result<(), &'static str> {
        let local = match self.meeting().former.take() {
            Some(local) => {
                self.front().adopt(local);
                local
            }
            None => {
                let node = self.channel();
                let port = number(self.front(), node).ok_or("the node of the event channel is no port")?;
                self.front().bind(port).ok_or("the event channel cannot be bound")?
            }
        };
        cx.marks.set(PORT, u64::from(local));
        Ok(())
    }

    /// Ends the connection; whether it has ended.
    fn part(&mut self, cx: &mut Context) -> bool {
        let gone = self.leave();
        if gone {
            self.front().unbind();
            cx.marks.set(PORT, 0);
            self.meeting().former = None;
            self.front().unmap();
        }
        gone
    }

    /// The guest's end, or who runs the host, has changed nodes.
    fn nodes(&mut self, cx: &mut Context) {
        let own = self.meeting().state;
        self.front().unanswered();
        let gone = self.is_gone();
        let here = State::of(self.front().node(Side::Back, "state").as_deref());
        let there = State::of(self.front().node(Side::Front, "state").as_deref());
        if self.front().unanswered() {
            // Everything stays as it is; a xenbus that is there again tells of everything.
            self.complain("xenbus does not answer");
            return;
        }
        if gone {
            // Who runs the host has taken the device away: a node written now would make its directory anew.
            if self.part(cx) {
                self.meeting().state = State::Closed;
            }
            return;
        }
        // Who runs the host wants it to end by setting this end's state. A guest that is connected hears that itself, and says when it is done.
        let wanted = here == State::Closing;
        if wanted && !matches!(own, State::Connected | State::Closing | State::Closed) {
            if self.part(cx) {
                self.enter(State::Closed);
            }
            return;
        }
        match there {
            State::Initialising | State::InitWait => match own {
                State::Unknown | State::Initialising => self.wait(),
                // It begins anew, with or without having said good-bye.
                State::Connected | State::Closing | State::Closed => {
                    if self.part(cx) {
                        self.wait();
                    }
                }
                State::InitWait | State::Initialised => {}
            },
            State::Initialised | State::Connected
                if matches!(own, State::Unknown | State::Initialising | State::InitWait) =>
            {
                if own != State::InitWait {
                    self.wait();
                }
                match self.connect(cx) {
                    Ok(()) => self.enter(State::Connected),
                    Err(e) => {
                        self.complain(&format!("the guest's end cannot be connected: {e}"));
                        self.front().set("error", e);
                        self.part(cx);
                        self.enter(State::Closing);
                    }
                }
            }
            front @ (State::Closing | State::Closed | State::Unknown)
                if own != State::Unknown || front == State::Closing =>
            {
                let gone = self.part(cx);
                match front {
                    State::Closing if gone => self.enter(State::Closing),
                    _ if gone => self.enter(State::Closed),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Offers, and waits.
    fn wait(&mut self) {
        self.offer();
        self.enter(State::InitWait);
    }
}

/// A node of the guest's end that is a number.
pub fn number(front: &mut dyn Frontend, name: &str) -> Option<u32> {
    front.node(Side::Front, name).and_then(|value| value.trim().parse().ok())
}
