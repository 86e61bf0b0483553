//! One viewer's connection: its socket and its session.
use super::session::{SessionContext, ViewerError, ViewerSession};
use super::strangers::{Origin, Stranger};
use crate::fbdev::View;
use bulkhead_bus::ViewerAddress;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Most bytes that are read from, and sent to, a viewer before other work.
const READ_BUDGET: usize = 8 << 10;
const SEND_BUDGET: usize = 512 << 10;

pub(super) struct Viewer {
    pub(super) socket: OwnedFd,
    pub(super) session: ViewerSession,
    pub(super) address: ViewerAddress,
    pub(super) number: u64,
    /// There has been a crowd of strangers while it was one.
    pub(super) crowded: bool,
}

impl Viewer {
    pub(super) fn origin(&self) -> Origin {
        self.address.into()
    }

    /// What is known of it as a stranger, whose address has failed `failures` times; `None` once its handshake is complete.
    pub(super) fn stranger(&self, failures: impl FnOnce(Origin) -> u32) -> Option<Stranger> {
        let progress = self.session.progress()?;
        let origin = self.origin();
        Some(Stranger { number: self.number, origin, failures: failures(origin), progress })
    }

    /// Reads and handles its bytes. True: there may be more. `Err`: it has disconnected (`None`), or must be disconnected.
    pub(super) fn receive(&mut self, context: &mut SessionContext<'_>) -> Result<bool, Option<ViewerError>> {
        // Bytes that arrived before the verdict on the password, or before ServerInit was sent.
        self.session.receive(&[], context).map_err(Some)?;
        let mut bytes = [0; 4096];
        for _ in 0..READ_BUDGET.div_euclid(bytes.len()) {
            // Input is paused until the send buffer drains, because answers to it would accumulate.
            if !self.session.processes_input() || self.session.output_full() {
                return Ok(false);
            }
            match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(None),
                Ok((n, _)) => self.session.receive(bytes.get(..n).unwrap_or_default(), context).map_err(Some)?,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(_) => return Err(None),
            }
        }
        Ok(true)
    }

    /// Sends unsent bytes. True: all have been sent.
    pub(super) fn send(&mut self) -> Result<bool, Option<ViewerError>> {
        while !self.session.unsent().is_empty() {
            match rustix::net::send(&self.socket, self.session.unsent(), SendFlags::NOSIGNAL) {
                Ok(n) => self.session.sent(n),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(_) => return Err(None),
            }
        }
        Ok(true)
    }

    /// Sends pending updates. `size` is the picture's, if it is new enough to begin an update with. True: more is pending.
    pub(super) fn send_updates(
        &mut self,
        view: &dyn View,
        size: Option<(usize, usize)>,
    ) -> Result<bool, Option<ViewerError>> {
        let before = self.session.bytes;
        while self.send()? {
            if self.session.bytes.saturating_sub(before) > SEND_BUDGET as u64 {
                return Ok(true);
            }
            if !self.session.produce(view, size) {
                return Ok(false);
            }
            while self.session.produce(view, size) {}
        }
        Ok(false)
    }
}
