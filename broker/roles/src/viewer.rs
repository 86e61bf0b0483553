//! The viewer's ends, as [`fbdev`](bulkhead_dev_display::fbdev) wants them.
use bulkhead_dev_display::fbdev::{Screen, View};
use bulkhead_ring::{Picture, SurfaceReader};
use bulkhead_runtime::FrameBuffer;
use rustix::fd::OwnedFd;

/// The surface and the doorbell of the display that draws it.
pub(crate) struct SurfaceView {
    pub(crate) reader: SurfaceReader,
    pub(crate) picture: Picture,
    pub(crate) bell: OwnedFd,
}

impl View for SurfaceView {
    fn want(&mut self) {
        // A full counter means that it rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
    fn update(&mut self) -> bool {
        self.reader.update(&mut self.picture)
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
