//! The back end of a PV frame buffer: a domain's picture for viewers. Protocol: xen/include/public/io/fbif.h.
//!
//! The domain names frames of its own memory, not grants, so this process maps them by a privcmd that is restricted to the domain.
//! Their contents are copied and checked; an impossible picture ends the connection.
mod exercised;
#[cfg(test)]
mod tests;

use crate::frame::Frame;
use bulkhead_bus::pv::{BackEnd, ConnectFault, EVENTS, Frontend, Handshake, NODES, Side, State};
use bulkhead_bus::{Auxiliary, Context, Display, GuestMemory, Inspect, Ready, Surface};
pub use exercised::TARGET;
use std::sync::Arc;

/// Most bytes of a frame buffer: 64 MiB.
const BYTES: u32 = 64 << 20;
/// Most pixels in each direction.
const PIXELS: i32 = 8192;
/// Most pixels of a picture: 4K.
const AREA: usize = 4096 * 2304;
const PAGE: usize = 4096;

/// Offsets in the shared page (struct xenfb_page, of a 64-bit domain).
mod page {
    /// Counter of the events that this end has read.
    pub(super) const OUT_CONS: u64 = 8;
    /// Counter of the events that the domain has written.
    pub(super) const OUT_PROD: usize = 12;
    pub(super) const WIDTH: usize = 16;
    pub(super) const HEIGHT: usize = 20;
    pub(super) const LINE_LENGTH: usize = 24;
    pub(super) const MEM_LENGTH: usize = 28;
    pub(super) const DEPTH: usize = 32;
    /// Frame numbers of the directory's pages, which hold the frame numbers of the picture.
    pub(super) const DIRECTORY: usize = 40;
    /// XENFB_OUT_RING_OFFS.
    pub(super) const OUT: usize = 2048;
    /// XENFB_OUT_RING_LEN.
    pub(super) const OUT_LEN: u32 = 51;
    /// XENFB_OUT_EVENT_SIZE.
    pub(super) const EVENT: usize = 40;
}

/// XENFB_TYPE_*.
mod kind {
    pub(super) const UPDATE: u8 = 2;
    pub(super) const RESIZE: u8 = 3;
}

/// Maps frames of the domain's memory.
pub trait Frames: Send {
    /// Maps these frames, one after the other from address 0; `None` if one of them does not belong to the domain.
    fn map(&self, frames: &[u64]) -> Option<Arc<dyn GuestMemory>>;
}

/// The picture's place in the frame buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Geometry {
    width: usize,
    height: usize,
    /// Bytes from one line to the next.
    stride: usize,
    /// Offset of the first pixel in bytes.
    offset: usize,
    /// Bytes of a pixel: 4 (XRGB) or 2 (565).
    pixel: usize,
}

impl Geometry {
    /// Checks a domain's values; `None` if the picture does not fit in `bytes`.
    fn new(width: i32, height: i32, stride: i32, depth: i32, offset: i32, bytes: u32) -> Option<Self> {
        let pixel = match depth {
            24 | 32 => 4,
            16 => 2,
            _ => return None,
        };
        let size = |n: i32| usize::try_from(n).ok().filter(|n| (1..=PIXELS as usize).contains(n));
        let (width, height) = (size(width)?, size(height)?);
        let (stride, offset) = (usize::try_from(stride).ok()?, usize::try_from(offset).ok()?);
        let line = width.checked_mul(pixel)?;
        let end = stride.checked_mul(height.saturating_sub(1))?.checked_add(line)?.checked_add(offset)?;
        let fits = line <= stride && end <= bytes as usize && width.saturating_mul(height) <= AREA;
        fits.then_some(Self { width, height, stride, offset, pixel })
    }
}

/// Why a domain's frame buffer cannot be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VfbFault {
    /// The node has no frame number.
    #[error("page-ref is no frame")]
    NoFrame,
    /// The page has another layout.
    #[error("protocol is not x86_64-abi")]
    Protocol,
    /// Xen does not map the page.
    #[error("page-ref is no frame of this domain")]
    ForeignPage,
    /// The mapped page cannot be read.
    #[error("its page cannot be read")]
    Unreadable,
    /// The picture's memory is empty or too large.
    #[error("mem_length is 1 to 64 MiB")]
    Length,
    /// The picture does not fit in its memory, or has an unknown form.
    #[error("width, height, line_length and depth do not make a picture in mem_length")]
    Geometry,
    /// Xen does not map a page that lists the picture's pages.
    #[error("a page directory is no frame of this domain")]
    ForeignDirectory,
    /// A mapped page directory cannot be read.
    #[error("a page directory has gone")]
    DirectoryGone,
    /// Xen does not map a page of the picture.
    #[error("a page of the picture is no frame of this domain")]
    ForeignPicture,
    /// A fault that every back end can have.
    #[error(transparent)]
    Connect(#[from] ConnectFault),
}

/// Why a connected domain's events cannot be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum EventFault {
    #[error("its page cannot be read")]
    Unreadable,
    #[error("more events than the page has room for")]
    Overfull,
    #[error("a new size that does not fit into its memory")]
    Size,
}

/// The mappings of a connected domain.
struct Mapped {
    page: Arc<dyn GuestMemory>,
    buffer: Arc<dyn GuestMemory>,
    bytes: u32,
    geometry: Geometry,
    /// Counter of the events that were read.
    read: u32,
}

/// The back end of one frame buffer.
pub struct Vfb {
    front: Box<dyn Frontend>,
    frames: Box<dyn Frames>,
    handshake: Handshake,
    mapped: Option<Mapped>,
    /// The domain has drawn since the last copy.
    drawn: bool,
    shown: Frame,
    updates: u64,
    unknown: u64,
}

impl Vfb {
    /// A frame buffer of the domain of `front`, whose memory `frames` maps.
    pub fn new(front: Box<dyn Frontend>, frames: Box<dyn Frames>) -> Self {
        Self {
            front,
            frames,
            handshake: Handshake::default(),
            mapped: None,
            drawn: false,
            shown: Frame::default(),
            updates: 0,
            unknown: 0,
        }
    }

    fn map(&mut self) -> Result<Mapped, VfbFault> {
        let frame = self
            .front
            .node(Side::Front, "page-ref")
            .and_then(|v| v.trim().parse::<u64>().ok())
            .ok_or(VfbFault::NoFrame)?;
        if !matches!(self.front.node(Side::Front, "protocol").as_deref(), None | Some("" | "x86_64-abi")) {
            return Err(VfbFault::Protocol);
        }
        let page = self.frames.map(&[frame]).ok_or(VfbFault::ForeignPage)?;
        // All fields are read from one copy.
        let mut copy = vec![0; PAGE];
        page.read(0, &mut copy).map_err(|_| VfbFault::Unreadable)?;
        let word = |at: usize| long(&copy, at);
        let bytes = word(page::MEM_LENGTH);
        if bytes == 0 || bytes > BYTES {
            return Err(VfbFault::Length);
        }
        let depth = i32::from(copy.get(page::DEPTH).copied().unwrap_or(0));
        let signed = |at: usize| word(at).cast_signed();
        let geometry =
            Geometry::new(signed(page::WIDTH), signed(page::HEIGHT), signed(page::LINE_LENGTH), depth, 0, bytes);
        let geometry = geometry.ok_or(VfbFault::Geometry)?;
        let pages = (bytes as usize).div_ceil(PAGE);
        let directories: Vec<u64> = (0..pages.div_ceil(PAGE / 8))
            .map(|i| quad(&copy, page::DIRECTORY.saturating_add(i.saturating_mul(8))))
            .collect();
        let directory = self.frames.map(&directories).ok_or(VfbFault::ForeignDirectory)?;
        let mut list = vec![0; pages.saturating_mul(8)];
        directory.read(0, &mut list).map_err(|_| VfbFault::DirectoryGone)?;
        let list: Vec<u64> = list.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        let buffer = self.frames.map(&list).ok_or(VfbFault::ForeignPicture)?;
        Ok(Mapped { page, buffer, bytes, geometry, read: long(&copy, page::OUT_PROD) })
    }

    /// Handles the domain's events: updates and changes of the size.
    fn events(&mut self) -> Result<(), EventFault> {
        let Some(mapped) = &mut self.mapped else { return Ok(()) };
        let mut copy = vec![0; PAGE];
        mapped.page.read(0, &mut copy).map_err(|_| EventFault::Unreadable)?;
        let written = long(&copy, page::OUT_PROD);
        if written.wrapping_sub(mapped.read) > page::OUT_LEN {
            return Err(EventFault::Overfull);
        }
        while mapped.read != written {
            let at = page::OUT.saturating_add(
                (mapped.read.checked_rem(page::OUT_LEN).unwrap_or(0) as usize).saturating_mul(page::EVENT),
            );
            let signed = |word: usize| long(&copy, at.saturating_add(word.saturating_mul(4))).cast_signed();
            match copy.get(at).copied() {
                Some(kind::UPDATE) => {
                    self.updates = self.updates.saturating_add(1);
                    self.drawn = true;
                }
                Some(kind::RESIZE) => {
                    let geometry = Geometry::new(signed(1), signed(2), signed(3), signed(4), signed(5), mapped.bytes);
                    mapped.geometry = geometry.ok_or(EventFault::Size)?;
                    self.drawn = true;
                }
                _ => self.unknown = self.unknown.saturating_add(1),
            }
            mapped.read = mapped.read.wrapping_add(1);
        }
        mapped.page.write(page::OUT_CONS, &mapped.read.to_le_bytes()).map_err(|_| EventFault::Unreadable)
    }

    /// A copy of the current picture.
    fn picture(&self) -> Option<Frame> {
        let Mapped { buffer, geometry: g, .. } = self.mapped.as_ref()?;
        let mut frame = Frame::new(g.width, g.height);
        let mut line = vec![0; g.width.saturating_mul(g.pixel)];
        for y in 0..g.height {
            let at = g.offset.saturating_add(y.saturating_mul(g.stride));
            buffer.read(at as u64, &mut line).ok()?;
            let pixels = frame.line(y).iter_mut();
            if g.pixel == 4 {
                for (to, from) in pixels.zip(line.as_chunks::<4>().0) {
                    *to = u32::from_le_bytes(*from) & 0xff_ffff;
                }
            } else {
                for (to, from) in pixels.zip(line.as_chunks::<2>().0) {
                    let v = u16::from_le_bytes(*from);
                    // The high bits are repeated in the low ones, so that white becomes full white.
                    let (red, green, blue) = (v >> 11, v >> 5 & 0x3f, v & 0x1f);
                    *to = u32::from(red << 3 | red >> 2) << 16
                        | u32::from(green << 2 | green >> 4) << 8
                        | u32::from(blue << 3 | blue >> 2);
                }
            }
        }
        Some(frame)
    }
}

/// A 32-bit number in a page.
fn long(page: &[u8], at: usize) -> u32 {
    page.get(at..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// A 64-bit number in a page.
fn quad(page: &[u8], at: usize) -> u64 {
    page.get(at..).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b))
}

impl BackEnd for Vfb {
    type Fault = VfbFault;

    fn front(&mut self) -> &mut dyn Frontend {
        &mut *self.front
    }

    fn handshake(&mut self) -> &mut Handshake {
        &mut self.handshake
    }

    fn offer(&mut self) {
        for name in ["feature-resize", "feature-update", "request-update"] {
            self.front.set(name, "1");
        }
    }

    fn connect(&mut self, cx: &mut Context) -> Result<(), VfbFault> {
        let mapped = self.map()?;
        self.bind_event_channel(cx)?;
        tracing::info!(width = mapped.geometry.width, height = mapped.geometry.height, "connected");
        self.mapped = Some(mapped);
        self.drawn = true;
        Ok(())
    }

    fn release(&mut self) -> bool {
        self.mapped = None;
        self.drawn = true;
        true
    }
}

impl Auxiliary for Vfb {
    fn start(&mut self, cx: &mut Context) {
        self.prepare(cx);
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        self.changes(ready == Ready::Fd(NODES), cx);
        if ready == Ready::Fd(EVENTS) {
            self.front.signalled();
        }
        if let Err(e) = self.events() {
            self.warn_limited(&format!("the frame buffer is broken: {e}"));
            self.disconnect(cx);
            self.set_state(State::Closing);
        }
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        out.value("state", format!("{:?}", self.handshake.state))
            .value("updates", self.updates)
            .value("unknown events", self.unknown);
        if let Some(Mapped { geometry: g, bytes, .. }) = &self.mapped {
            out.value("width", g.width)
                .value("height", g.height)
                .value("stride", g.stride)
                .value("offset", g.offset)
                .value("bytes of a pixel", g.pixel)
                .value("bytes", bytes);
        }
    }
}

impl Display for Vfb {
    fn refresh(&mut self, surface: &mut dyn Surface) {
        if !std::mem::take(&mut self.drawn) && self.shown.width > 0 {
            return;
        }
        // Without a picture the screen is black, with its last size.
        let empty = || Frame::new(self.shown.width.max(640), self.shown.height.max(400));
        let mut frame = self.picture().unwrap_or_else(empty);
        frame.show(&mut self.shown, surface);
    }

    fn screenshot(&mut self) -> Option<Vec<u8>> {
        self.picture()?.png()
    }
}
