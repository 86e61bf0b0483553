//! The handshake of a PV device: both ends publish their states in xenstore (xen/include/public/io/xenbus.h). The front end is
//! hostile: its nodes may have any value at any time.
use crate::Context;

/// Ready number of a back end's event channel.
pub const EVENTS: u32 = 0;
/// Ready number of the socket to `xenbus`.
pub const NODES: u32 = 1;
/// The mark that survives a back end's process: the local port of the event channel, 0 if none is bound.
pub const PORT: usize = 0;

/// Pages of the buffer that a back end shares with `grant`.
pub const BUFFER_PAGES: usize = 1024;

/// Most warnings that one process logs.
const MOST_WARNINGS: u32 = 20;

/// State of one end of a device (enum xenbus_state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// There is no state node, or its value is unknown.
    Unknown = 0,
    /// The end is being set up.
    Initialising = 1,
    /// The end has published its features and waits for the other end.
    InitWait = 2,
    /// The end has published the place of its ring.
    Initialised = 3,
    /// The end is connected.
    Connected = 4,
    /// The end requests a disconnection.
    Closing = 5,
    /// The end is disconnected.
    Closed = 6,
}

impl State {
    /// The state of a `state` node's value; `Unknown` for other values.
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

/// The owner of a device's directory in xenstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// The back end's directory: it reads and writes there.
    Back = 0,
    /// The front end's directory: the back end only reads there.
    Front = 1,
}

/// A part of a granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The page's grant reference.
    pub gref: u32,
    /// Offset of the first byte in the page.
    pub offset: u16,
    /// Number of bytes, at least one and not beyond the page's end.
    pub len: u16,
}

/// The front end, as a back end reaches it: nodes through `xenbus`, pages through `grant`, signals by the back end's own event
/// channel. Addresses are bytes in one range of pages: the mapped pages, beginning with the ring, and after them a buffer for
/// copies.
pub trait Frontend: Send {
    /// The value of a node; `None` also if `xenbus` does not answer.
    fn node(&mut self, side: Side, name: &str) -> Option<String>;
    /// Sets a node of the back end's directory.
    fn set(&mut self, name: &str, value: &str);
    /// Whether `xenbus` has left a request unanswered since the last call. If so, a missing node has no meaning.
    fn unanswered(&mut self) -> bool;
    /// Whether nodes have changed since the last call. `ready`: the socket to `xenbus` may have unread packets.
    fn changed(&mut self, ready: bool) -> bool;
    /// Maps granted pages from page `page` of the range on; all of them or none.
    fn map(&mut self, page: usize, grefs: &[u32]) -> bool;
    /// Unmaps all granted pages.
    fn unmap(&mut self);
    /// Whether this process may map too few pages for another connection: see [`super::Means::life`].
    fn is_spent(&self) -> bool;
    /// Ends this process, and the launcher starts another. The handshake goes on with its state in xenstore.
    fn end_life(&mut self);
    /// Copies pieces of granted pages to or from the buffer at `address`.
    fn copy(&mut self, to_guest: bool, address: u64, pieces: &[Piece]) -> bool;
    /// Binds the guest's event channel, and returns the local port.
    fn bind(&mut self, port: u32) -> Option<u32>;
    /// Uses a local port that a previous process has bound.
    fn adopt(&mut self, local: u32);
    /// Unbinds the event channel.
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

/// The progress of a back end's handshake.
#[derive(Debug)]
pub struct Handshake {
    /// This end's state.
    pub state: State,
    begun: Begun,
    /// `xenbus` has not answered the write of this end's state.
    unpublished: bool,
    /// `xenbus` has not answered a request for a node that a connection needs.
    missed: bool,
    /// The local port that a previous process has bound, if any.
    former: Option<u32>,
    warnings: u32,
}

/// Whether a handshake has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// It begins at the next turn.
    No,
    /// `xenbus` has not answered; it begins at the next notice.
    Unanswered,
    /// This end's state has been read.
    Yes,
}

impl Default for Handshake {
    fn default() -> Self {
        let state = State::Unknown;
        Self { state, begun: Begun::No, unpublished: false, missed: false, former: None, warnings: 0 }
    }
}

/// Why a back end cannot connect to its front end. The text ends a line of the log, and is the value of the node `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFault {
    /// The node of this name has no grant reference.
    #[error("{0} is no grant reference")]
    NoReference(&'static str),
    /// The ring's page cannot be mapped.
    #[error("its page is not granted")]
    NotGranted,
    /// The node that should have the event channel's port has none.
    #[error("the node of the event channel is no port")]
    NoPort,
    /// Xen does not bind the event channel.
    #[error("the event channel cannot be bound")]
    NotBound,
    /// A node could not be read. It is no fault of the guest's: the connection is made at the next notice.
    #[error("xenbus does not answer")]
    Unanswered,
}

/// A back end: its own part of the handshake; the provided methods are the common part.
pub trait BackEnd {
    /// Why this kind of back end cannot connect.
    type Fault: std::error::Error + From<ConnectFault>;
    /// The front end.
    fn front(&mut self) -> &mut dyn Frontend;
    /// The state of the handshake.
    fn handshake(&mut self) -> &mut Handshake;
    /// Whether the front end has a state node. A domain's first console has none, and is connected from the start.
    fn has_front_state(&self) -> bool {
        true
    }
    /// Publishes the back end's features in its nodes.
    fn offer(&mut self);
    /// Connects to the ring and, with [`Self::bind_event_channel`], to the event channel that the front end's nodes name.
    ///
    /// # Errors
    /// The front end's nodes are invalid. The fault's text is one line.
    fn connect(&mut self, cx: &mut Context) -> Result<(), Self::Fault>;
    /// Name of the node that has the port of the guest's event channel.
    fn event_channel_node(&self) -> &'static str {
        "event-channel"
    }
    /// Stops the use of the ring. Returns whether that is complete; if not, the back end calls [`Self::nodes`] once it is.
    fn release(&mut self) -> bool;
    /// Whether the toolstack has removed this back end's device, or replaced it by another.
    fn is_gone(&mut self) -> bool {
        self.front().node(Side::Back, "frontend").is_none()
    }

    /// Logs a warning, up to a limit, because the guest can cause them.
    fn warn_limited(&mut self, line: &str) {
        let said = &mut self.handshake().warnings;
        if *said < MOST_WARNINGS {
            *said = said.saturating_add(1);
            tracing::warn!("{line}{}", if *said == MOST_WARNINGS { " (more of this is only counted)" } else { "" });
        }
    }

    /// Publishes this end's state.
    fn set_state(&mut self, state: State) {
        if self.handshake().state != state {
            self.handshake().state = state;
            self.publish();
        }
    }

    /// Writes this end's state. If that has no answer, the next notice repeats it.
    fn publish(&mut self) {
        let state = self.handshake().state;
        self.front().set("state", &(state as u8).to_string());
        let unpublished = self.front().unanswered();
        self.handshake().unpublished = unpublished;
    }

    /// Whether a node that a connection needs could not be read.
    fn missed(&mut self) -> bool {
        let unanswered = self.front().unanswered();
        std::mem::take(&mut self.handshake().missed) | unanswered
    }

    /// Puts the handshake off until the next notice. A `xenbus` that answers again sends one.
    fn put_off(&mut self, begun: bool) {
        if !begun {
            self.handshake().begun = Begun::Unanswered;
        }
        self.warn_limited("xenbus does not answer");
    }

    /// Called before the process enters its sandbox: nothing that the guest can write is read yet. [`Self::changes`] begins the
    /// handshake.
    fn prepare(&mut self, cx: &mut Context) {
        self.handshake().former =
            cx.marks.former(PORT).and_then(|port| u32::try_from(port).ok()).filter(|port| *port != 0);
        if let Some(port) = self.handshake().former {
            // For the next process, if this one ends before it has bound the port.
            cx.marks.set(PORT, u64::from(port));
        }
        cx.again();
    }

    /// Begins the handshake, and continues a previous process's connection.
    fn begin(&mut self, cx: &mut Context) {
        // Pages that a previous process has added to the gntdev are not used again.
        self.front().unmap();
        self.missed();
        if !self.has_front_state() {
            match self.connect(cx) {
                Ok(()) => self.set_state(State::Connected),
                Err(_) if self.front().is_spent() => self.front().end_life(),
                Err(_) if self.missed() => self.put_off(false),
                Err(e) => self.warn_limited(&format!("the domain's end cannot be connected: {e}")),
            }
            return;
        }
        let own = State::of(self.front().node(Side::Back, "state").as_deref());
        if own == State::InitWait {
            // The launcher may have set this state; it does not publish features.
            self.offer();
        }
        if self.missed() {
            return self.put_off(false);
        }
        self.handshake().state = match own {
            State::Connected if self.handshake().former.is_some() => State::InitWait,
            State::InitWait => State::InitWait,
            // The front end came before there was a back end, and was closed. Its nodes are stale; it starts again.
            State::Closed => State::Closed,
            _ => State::Unknown,
        };
        self.nodes(cx);
    }

    /// Called whenever a descriptor is ready: begins the handshake at the first call, and handles changed nodes. It requests
    /// another call after each change, because a further notice may have arrived while it read nodes.
    fn changes(&mut self, ready: bool, cx: &mut Context) {
        let changed = self.front().changed(ready);
        let begun = self.handshake().begun;
        if begun == Begun::No || (changed && begun == Begun::Unanswered) {
            self.handshake().begun = Begun::Yes;
            self.begin(cx);
            cx.again();
        } else if changed && (self.has_front_state() || self.handshake().unpublished) {
            self.nodes(cx);
            cx.again();
        }
    }

    /// Binds the event channel that the front end's nodes name, or uses the one that a previous process has bound.
    ///
    /// # Errors
    /// The node has no port, or Xen does not bind it.
    fn bind_event_channel(&mut self, cx: &mut Context) -> Result<(), ConnectFault> {
        let node = self.event_channel_node();
        let former = self.handshake().former;
        let port = if former.is_none() { number(self.front(), node) } else { None };
        if self.missed() {
            // Another node may be missing too, for which its default was taken.
            self.handshake().missed = true;
            return Err(ConnectFault::Unanswered);
        }
        self.handshake().former = None;
        let local = match former {
            Some(local) => {
                self.front().adopt(local);
                local
            }
            None => self.front().bind(port.ok_or(ConnectFault::NoPort)?).ok_or(ConnectFault::NotBound)?,
        };
        cx.marks.set(PORT, u64::from(local));
        Ok(())
    }

    /// Disconnects from the front end. Returns whether that is complete.
    fn disconnect(&mut self, cx: &mut Context) -> bool {
        let gone = self.release();
        if gone {
            self.front().unbind();
            cx.marks.set(PORT, 0);
            self.handshake().former = None;
            self.front().unmap();
        }
        gone
    }

    /// Handles changed nodes of the front end or of the toolstack.
    fn nodes(&mut self, cx: &mut Context) {
        let own = self.handshake().state;
        self.missed();
        let gone = self.is_gone();
        let here = State::of(self.front().node(Side::Back, "state").as_deref());
        let there = State::of(self.front().node(Side::Front, "state").as_deref());
        if self.missed() {
            // No change is made. A restarted xenbus reports all directories as changed.
            return self.put_off(true);
        }
        if gone {
            // The toolstack has removed the device. A write to a node would create its directory again.
            if self.disconnect(cx) {
                self.handshake().state = State::Closed;
            }
            return;
        }
        // The toolstack's request below is no state to be replaced, but by the end that it asks for.
        let replaces = here != own && (here != State::Closing || own == State::Closed);
        if self.handshake().unpublished && replaces {
            self.publish();
            if self.handshake().unpublished {
                return self.put_off(true);
            }
        }
        self.handshake().unpublished = false;
        if !self.has_front_state() {
            return;
        }
        // The toolstack requests a disconnection by setting this end's state. A connected front end sees that state itself and
        // closes first.
        let wanted = here == State::Closing;
        if wanted && !matches!(own, State::Connected | State::Closing | State::Closed) {
            if self.disconnect(cx) {
                self.set_state(State::Closed);
            }
            return;
        }
        match there {
            State::Initialising | State::InitWait => match own {
                State::Unknown | State::Initialising => {
                    self.offer_and_wait();
                }
                // The front end starts again, with or without an orderly close.
                State::Connected | State::Closing | State::Closed => {
                    if self.disconnect(cx) {
                        self.offer_and_wait();
                    }
                }
                State::InitWait | State::Initialised => {}
            },
            State::Initialised | State::Connected
                if matches!(own, State::Unknown | State::Initialising | State::InitWait) =>
            {
                if own != State::InitWait && !self.offer_and_wait() {
                    return;
                }
                if self.front().is_spent() {
                    return self.front().end_life();
                }
                match self.connect(cx) {
                    Ok(()) => self.set_state(State::Connected),
                    // A restarted `grant` has found that out only now.
                    Err(_) if self.front().is_spent() => self.front().end_life(),
                    Err(_) if self.missed() => {
                        self.front().unmap();
                        self.put_off(true);
                    }
                    Err(e) => {
                        self.warn_limited(&format!("the guest's end cannot be connected: {e}"));
                        self.front().set("error", &e.to_string());
                        self.disconnect(cx);
                        self.set_state(State::Closing);
                    }
                }
            }
            front @ (State::Closing | State::Closed | State::Unknown)
                if own != State::Unknown || front == State::Closing =>
            {
                let gone = self.disconnect(cx);
                match front {
                    State::Closing if gone => self.set_state(State::Closing),
                    _ if gone => self.set_state(State::Closed),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Publishes the features and waits for the front end. False: `xenbus` does not answer, and the next notice repeats it.
    fn offer_and_wait(&mut self) -> bool {
        self.missed();
        self.offer();
        if self.missed() {
            self.handshake().state = State::Unknown;
            self.put_off(true);
            return false;
        }
        self.set_state(State::InitWait);
        true
    }
}

/// The number in a node of the front end; `None` if it is no number.
pub fn number(front: &mut dyn Frontend, name: &str) -> Option<u32> {
    front.node(Side::Front, name).and_then(|value| value.trim().parse().ok())
}
