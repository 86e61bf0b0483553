//! A viewer's input and output, behind the interfaces of [`fbdev`](bulkhead_dev_display::fbdev).
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
    /// The display's sequence number at the last request.
    pub(crate) asked: u32,
}

impl SurfaceView {
    /// A view from the launcher's descriptors.
    pub(crate) fn new(fds: &mut Fds) -> Result<Self, BuildError> {
        let mut require = |what: &FdUse| fds.require(what);
        let reader = SurfaceReader::new(require(&FdUse::SurfaceView)?)?;
        Ok(Self { reader, picture: Picture::default(), bell: require(&FdUse::FrameBell)?, asked: 0 })
    }
}

impl View for SurfaceView {
    fn request_draw(&mut self) {
        // A picture that is being drawn was begun before the request and does not answer it.
        self.asked = self.reader.sequence().wrapping_add(1) & !1;
        // If the counter is full, the doorbell is ringing already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
    fn update(&mut self) -> bool {
        self.reader.update(&mut self.picture)
    }
    fn renew(&mut self, surface: OwnedFd) {
        match SurfaceReader::new(surface) {
            // The old picture belongs to another surface: all lines of the new one are copied, and the viewer compares them.
            Ok(reader) => (self.reader, self.picture, self.asked) = (reader, Picture::default(), 0),
            Err(e) => tracing::warn!("the display's new surface: {e}"),
        }
        self.request_draw();
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
