//! The viewer's ends, as [`fbdev`](bulkhead_dev_display::fbdev) wants them.
use crate::error::BuildError;
use bulkhead_dev_display::fbdev::{Screen, View};
use bulkhead_plan::FdUse;
use bulkhead_ring::{Picture, SurfaceReader};
use bulkhead_runtime::{Fds, FrameBuffer};
use rustix::fd::OwnedFd;

/// The surface and the doorbell of the display that draws it.
pub(crate) struct SurfaceView {
    pub(crate) reader: SurfaceReader,
    pub(crate) picture: Picture,
    pub(crate) bell: OwnedFd,
    /// What the display had drawn at the last wish.
    pub(crate) asked: u32,
}

impl SurfaceView {
    /// Of the descriptors that the launcher gave.
    pub(crate) fn new(fds: &mut Fds) -> Result<Self, BuildError> {
        let mut want = |what: &FdUse| fds.want(what);
        let reader = SurfaceReader::new(want(&FdUse::SurfaceView)?)?;
        Ok(Self { reader, picture: Picture::default(), bell: want(&FdUse::FrameBell)?, asked: 0 })
    }
}

impl View for SurfaceView {
    fn want(&mut self) {
        // A picture that is being drawn just now is no answer yet.
        self.asked = self.reader.sequence().wrapping_add(1) & !1;
        // A full counter means that it rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
    fn update(&mut self) -> bool {
        self.reader.update(&mut self.picture)
    }
    fn renew(&mut self, surface: OwnedFd) {
        match SurfaceReader::new(surface) {
            // What was known is of another surface: all of the new one is taken, and compared by who shows it.
            Ok(reader) => (self.reader, self.picture, self.asked) = (reader, Picture::default(), 0),
            Err(e) => tracing::warn!("the display's new surface: {e}"),
        }
        self.want();
    }
    fn fresh(&self) -> bool {
        self.picture.sequence.wrapping_sub(self.asked).cast_signed() > 0
    }
    fn size(&self) -> (usize, usize) {
        (self.picture.width, self.picture.height)
    }
    fn dirty(&self) -> &[usize] {
        &self.picture.dirty
    }
    fn row(&self, y: usize) -> &[u8] {
        let bytes = self.picture.width.saturating_mul(4);
        let start = y.saturating_mul(bytes);
        self.picture.pixels.get(start..start.saturating_add(bytes)).unwrap_or_default()
    }
}

pub(crate) struct FbdevScreen(pub(crate) FrameBuffer);

impl Screen for FbdevScreen {
    fn limits(&self) -> (usize, usize) {
        self.0.limits()
    }
    fn resize(&mut self, width: usize, height: usize) -> bool {
        self.0.resize(width, height)
    }
    fn write(&mut self, y: usize, pixels: &[u8]) {
        self.0.write(y, pixels);
    }
}
