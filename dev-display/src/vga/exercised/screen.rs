//! A viewer's surface that checks how it is used.
use crate::frame::Frame;
use crate::vga::render::PIXELS;
use crate::vga::spec::dispi;
use bulkhead_bus::Surface;

/// What a picture costs besides its pixels, as pixels: a text's fonts are read.
const PICTURE: usize = 1 << 14;

/// A surface, and what was drawn on it.
#[derive(Default)]
pub(super) struct Screen {
    pub(super) accepts: bool,
    /// Pixels of all pictures of the run.
    pub(super) drawn: usize,
    /// A violation of the surface's protocol.
    pub(super) wrong: Option<String>,
    /// An update has begun.
    open: bool,
    picture: Frame,
}

impl Screen {
    fn check(&mut self, holds: bool, what: &str) {
        if !holds && self.wrong.is_none() {
            self.wrong = Some(format!("surface of {}x{}: {what}", self.picture.width, self.picture.height));
        }
    }

    /// The device has returned.
    pub(super) fn finished(&mut self) {
        self.check(!self.open, "an update that has no end");
        self.open = false;
    }

    /// Whether the picture is this one.
    pub(super) fn shows(&self, frame: &Frame) -> bool {
        self.picture == *frame
    }
}

impl Surface for Screen {
    fn begin(&mut self, width: usize, height: usize) -> bool {
        let pixels = width.saturating_mul(height);
        self.check(!self.open, "an update within an update");
        self.check(
            width <= dispi::MAX_X.into() && height <= dispi::MAX_Y.into() && pixels <= PIXELS && pixels > 0,
            &format!("a picture of {width}x{height}"),
        );
        self.drawn = self.drawn.saturating_add(pixels).saturating_add(PICTURE);
        self.open = self.accepts;
        if self.open && (self.picture.width, self.picture.height) != (width, height) {
            self.picture = Frame::new(width, height);
        }
        self.open
    }

    fn line(&mut self, y: usize, pixels: &[u32]) {
        self.check(self.open, "a line without an update");
        self.check(y < self.picture.height && pixels.len() == self.picture.width, "a line outside");
        if let Some(line) = self.picture.pixels.get_mut(y.saturating_mul(pixels.len())..)
            && let Some(line) = line.get_mut(..pixels.len())
        {
            line.copy_from_slice(pixels);
        }
    }

    fn end(&mut self) {
        self.check(self.open, "an end without a begin");
        self.open = false;
    }
}
