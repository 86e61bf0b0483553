//! A Linux frame buffer (linux/fb.h), written with write(): it is never mapped into this process.
use rustix::fd::{AsRawFd, OwnedFd};

const FBIOGET_VSCREENINFO: libc::c_ulong = 0x4600;
const FBIOPUT_VSCREENINFO: libc::c_ulong = 0x4601;
const FBIOGET_FSCREENINFO: libc::c_ulong = 0x4602;

/// struct fb_var_screeninfo as 40 words; the constants are indexes of the fields that are used.
type Variable = [u32; 40];
const XRES: usize = 0;
const YRES: usize = 1;
const XRES_VIRTUAL: usize = 2;
const YRES_VIRTUAL: usize = 3;
const BITS_PER_PIXEL: usize = 6;
/// Offset of line_length in struct fb_fix_screeninfo.
const LINE_LENGTH: usize = 48;

/// Why a frame buffer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FrameBufferError {
    /// A request of linux/fb.h failed.
    #[error("the frame buffer: {0}")]
    Io(std::io::Error),
    /// It has another depth than 32 bits a pixel.
    #[error("the frame buffer has {0} bits a pixel, not 32")]
    Depth(usize),
}

/// An open frame buffer of 32 bits a pixel.
#[derive(Debug)]
pub struct FrameBuffer {
    fd: OwnedFd,
    variable: Variable,
    width: usize,
    height: usize,
    stride: u64,
}

impl FrameBuffer {
    /// A frame buffer from its open device node.
    ///
    /// # Errors
    /// The node is no frame buffer, or has another depth.
    pub fn new(fd: OwnedFd) -> Result<Self, FrameBufferError> {
        let mut variable: Variable = [0; 40];
        let mut fixed = [0u8; 80];
        // SAFETY: the requests write the structures of linux/fb.h: 160 and 80 bytes.
        let r = unsafe {
            libc::ioctl(fd.as_raw_fd(), FBIOGET_VSCREENINFO, variable.as_mut_ptr())
                | libc::ioctl(fd.as_raw_fd(), FBIOGET_FSCREENINFO, fixed.as_mut_ptr())
        };
        if r != 0 {
            return Err(FrameBufferError::Io(std::io::Error::last_os_error()));
        }
        let field = |i: usize| variable.get(i).copied().unwrap_or(0) as usize;
        if field(BITS_PER_PIXEL) != 32 {
            return Err(FrameBufferError::Depth(field(BITS_PER_PIXEL)));
        }
        let stride = fixed.get(LINE_LENGTH..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
        Ok(Self { fd, variable, width: field(XRES), height: field(YRES), stride: u64::from(stride) })
    }

    /// Its largest size in pixels: the one that it had when it was opened.
    pub fn limits(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Changes the visible size. False: the driver refuses it.
    pub fn resize(&mut self, width: usize, height: usize) -> bool {
        let mut wanted = self.variable;
        for (i, value) in [(XRES, width), (YRES, height), (XRES_VIRTUAL, width), (YRES_VIRTUAL, height)] {
            if let Some(field) = wanted.get_mut(i) {
                *field = value as u32;
            }
        }
        // SAFETY: the request reads and writes a struct fb_var_screeninfo.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), FBIOPUT_VSCREENINFO, wanted.as_mut_ptr()) == 0 }
    }

    /// Writes the beginning of line `y`; pixels beyond its end are left out.
    pub fn write(&self, y: usize, pixels: &[u8]) {
        if y < self.height {
            let pixels = pixels.get(..self.width.saturating_mul(4)).unwrap_or(pixels);
            let _ = rustix::io::pwrite(&self.fd, pixels, self.stride.saturating_mul(y as u64));
        }
    }
}
