//! Standard VGA with the Bochs DISPI interface (PCI 1234:1111).
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | registers |
//! | `registers.rs`, `status.rs`, `bochs.rs` | effects of their reads and writes |
//! | `mmio.rs` | BAR 2: the same registers in memory |
//! | `memory.rs` | the legacy window: addresses, planes, read and write modes |
//! | `render/` | registers and video RAM → picture |
//! | `edid.rs` | the monitor's description |
//! | `state.rs` | the saved state |
//!
//! Video RAM is guest memory that Xen maps at BAR 0: the guest's writes to the linear frame buffer do not reach this process.
mod bochs;
mod edid;
mod exercised;
mod memory;
mod mmio;
mod registers;
mod render;
mod spec;
mod state;
mod status;

pub use crate::frame::Frame;
use bulkhead_bus::pci::{BarKind, ConfigSpace, FunctionSpec};
use bulkhead_bus::{
    Access, Clock, Context, Declaration, Device, Display, GuestMemory, Inspect, IoError, IoResult, Ready, Region,
    Reset, StateError, Surface,
};
use edid::Size;
pub use exercised::TARGET;
use rustix::fd::OwnedFd;
use spec::{attr, crtc, dispi, gfx, seq};
use std::sync::Arc;

/// Regions, by index.
mod region {
    pub(super) const MONO_CRTC: u16 = 0;
    pub(super) const MONO_STATUS: u16 = 1;
    pub(super) const VGA: u16 = 2;
    pub(super) const COLOR_CRTC: u16 = 3;
    pub(super) const COLOR_STATUS: u16 = 4;
    pub(super) const DISPI: u16 = 5;
    pub(super) const WINDOW: u16 = 6;
    pub(super) const MMIO: u16 = 7;
}

fn function(device: u8, vram: u32, rom: u32) -> FunctionSpec {
    // The function decodes ports and memory, is no bus master, and has no interrupt.
    let mut spec = FunctionSpec::new(device, 0).with_command(0x0003).with_bar(0, BarKind::Ram, vram).with_bar(
        2,
        BarKind::Memory { prefetchable: false },
        4096,
    );
    spec.rom = rom;
    spec
}

/// The declaration of the display at PCI device number `device`.
pub fn declare(device: u8, vram: u32, rom: u32) -> Declaration {
    Declaration {
        regions: vec![
            // Writes to the VGA's own registers may be posted: they affect only the picture and the window, whose writes are posted
            // in the same order. Writes to DISPI may not: enabling a mode clears video RAM, which the guest may write directly as
            // soon as its access is answered.
            Region::ports("CRTC (mono)", 0x3b4, 2).posted(),
            Region::ports("status (mono)", 0x3ba, 1),
            Region::ports("VGA", 0x3c0, 16).posted(),
            Region::ports("CRTC", 0x3d4, 2).posted(),
            Region::ports("status", 0x3da, 1),
            Region::ports("DISPI", 0x1ce, 3),
            Region::memory("VGA window", 0xa_0000, 0x2_0000).posted(),
            Region::bar("VGA registers", 0, 2),
        ],
        functions: vec![function(device, vram, rom)],
        ..Declaration::default()
    }
}

/// Most pixels of a picture whose memory is kept for the next one.
const SPARE: usize = 1 << 20;
/// The mark of the latches, which reads of the window load.
const LATCH_MARK: usize = 0;
/// Nanoseconds of each half of a blink.
const BLINK: u64 = 266_000_000;

/// The VGA card with the Bochs interface.
pub struct Vga {
    device: u8,
    vram_size: u32,
    rom: u32,
    vram: Arc<dyn GuestMemory>,
    config: ConfigSpace,
    sequencer: [u8; seq::COUNT],
    graphics: [u8; gfx::COUNT],
    crtc: [u8; crtc::COUNT],
    attribute: [u8; attr::COUNT],
    palette: [u8; 768],
    dispi: [u16; dispi::COUNT],
    sequencer_index: u8,
    graphics_index: u8,
    crtc_index: u8,
    attribute_index: u8,
    dispi_index: u16,
    dac_read: u8,
    dac_write: u8,
    dac_component: u8,
    dac_reading: bool,
    /// Red and green of a colour whose blue has not been written yet.
    dac_held: [u8; 2],
    dac_mask: u8,
    misc_output: u8,
    feature: u8,
    /// The next write to 0x3c0 is data.
    flip_flop: bool,
    latch: u32,
    /// The monitor's preferred mode.
    preferred: Size,
    /// The pipe of viewers' requested sizes: records of two 16-bit numbers.
    wishes: Option<OwnedFd>,
    shown: Frame,
    /// The bytes from which `shown` was drawn, in a text mode.
    shown_source: Option<Vec<u8>>,
    /// The memory of the previous picture.
    spare: Frame,
    dirty: bool,
}

impl Vga {
    /// A display with video RAM `vram`, from offset 0.
    pub fn new(device: u8, vram_size: u32, rom: u32, vram: Arc<dyn GuestMemory>) -> Self {
        let mut dispi = [0; dispi::COUNT];
        dispi[dispi::ID] = dispi::ID5;
        dispi[dispi::VIDEO_MEMORY_64K] = (vram_size >> 16) as u16;
        Self {
            device,
            vram_size,
            rom,
            vram,
            config: ConfigSpace::new(&function(device, vram_size, rom), 0x1234, 0x1111, 2, 0x03_0000),
            sequencer: [0; seq::COUNT],
            // No bit is masked, as in every mode that a BIOS sets.
            graphics: [0, 0, 0, 0, 0, 0, 0, 0, 0xff],
            crtc: [0; crtc::COUNT],
            attribute: [0; attr::COUNT],
            palette: [0; 768],
            dispi,
            sequencer_index: 0,
            graphics_index: 0,
            crtc_index: 0,
            attribute_index: 0,
            dispi_index: 0,
            dac_read: 0,
            dac_write: 0,
            dac_component: 0,
            dac_reading: false,
            dac_held: [0; 2],
            dac_mask: 0xff,
            misc_output: 0,
            feature: 0,
            flip_flop: false,
            latch: 0,
            preferred: Size::DEFAULT,
            wishes: None,
            shown: Frame::default(),
            shown_source: None,
            spare: Frame::default(),
            dirty: true,
        }
    }

    /// Reads viewers' requested sizes from `wishes`, a non-blocking pipe, four bytes each: width and height. The guest sees the
    /// last one when it reads the EDID again.
    #[must_use]
    pub fn with_wishes(mut self, wishes: Option<OwnedFd>) -> Self {
        self.wishes = wishes;
        self
    }

    fn sequencer(&self, index: usize) -> u8 {
        self.sequencer.get(index).copied().unwrap_or(0)
    }

    fn graphics(&self, index: usize) -> u8 {
        self.graphics.get(index).copied().unwrap_or(0)
    }

    fn crtc(&self, index: usize) -> u8 {
        self.crtc.get(index).copied().unwrap_or(0)
    }

    fn attribute(&self, index: usize) -> u8 {
        self.attribute.get(index).copied().unwrap_or(0)
    }

    fn dispi(&self, index: usize) -> u16 {
        self.dispi.get(index).copied().unwrap_or(0)
    }

    /// Whether the mono or colour addresses are enabled in misc output.
    fn addressed(&self, color: bool) -> bool {
        (self.misc_output & 1 != 0) == color
    }
}

impl Device for Vga {
    fn declaration(&self) -> Declaration {
        declare(self.device, self.vram_size, self.rom)
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        let offset = at.offset as u16;
        let byte = at.size == 1;
        match at.region {
            region::WINDOW => {
                let mut bytes = [0xff; 8];
                for (i, to) in bytes.iter_mut().enumerate().take(usize::from(at.size)) {
                    *to = self.memory_read(at.offset.wrapping_add(i as u64));
                }
                // A checkpoint after each read of the window would cost more than the read.
                cx.marks.set(LATCH_MARK, self.latch.into());
                Ok(u64::from_le_bytes(bytes))
            }
            region::DISPI if at.size == 2 => match offset {
                0 => Ok(u64::from(self.dispi_index)),
                _ => Ok(u64::from(self.dispi_read(self.dispi_index))),
            },
            region::DISPI => Ok(u64::MAX),
            region::MMIO => self.mmio_read(at.offset, at.size, cx.now()),
            _ if !byte => Err(IoError::Size),
            region::VGA => Ok(u64::from(self.vga_read(offset))),
            region::MONO_CRTC | region::MONO_STATUS if !self.addressed(false) => Ok(0xff),
            region::COLOR_CRTC | region::COLOR_STATUS if !self.addressed(true) => Ok(0xff),
            region::MONO_CRTC | region::COLOR_CRTC => Ok(u64::from(self.crtc_read(offset))),
            region::MONO_STATUS | region::COLOR_STATUS => Ok(u64::from(self.status_read(cx.now()))),
            _ => Err(IoError::NoRegister),
        }
    }

    fn write(&mut self, at: Access, value: u64, _: &mut Context) -> IoResult<()> {
        let offset = at.offset as u16;
        if at.region == region::WINDOW {
            for (i, byte) in value.to_le_bytes().into_iter().enumerate().take(usize::from(at.size)) {
                self.memory_write(at.offset.wrapping_add(i as u64), byte);
            }
            return Ok(());
        }
        self.dirty = true;
        match at.region {
            region::DISPI if at.size == 2 => match offset {
                0 => self.dispi_index = value as u16,
                _ => self.dispi_write(self.dispi_index, value as u16),
            },
            region::DISPI => {}
            region::MMIO => return self.mmio_write(at.offset, at.size, value),
            _ if at.size != 1 => return Err(IoError::Size),
            region::VGA => self.vga_write(offset, value as u8),
            region::MONO_CRTC if self.addressed(false) => self.crtc_write(offset, value as u8),
            region::COLOR_CRTC if self.addressed(true) => self.crtc_write(offset, value as u8),
            region::MONO_STATUS if self.addressed(false) => self.feature = value as u8 & 0x10,
            region::COLOR_STATUS if self.addressed(true) => self.feature = value as u8 & 0x10,
            region::MONO_CRTC | region::COLOR_CRTC | region::MONO_STATUS | region::COLOR_STATUS => {}
            _ => return Err(IoError::NoRegister),
        }
        Ok(())
    }

    fn config_write(&mut self, _: u8, offset: u8, size: u8, value: u32, _: &mut Context) {
        self.config.write(offset, size, value);
        self.dirty = true;
    }

    fn config(&self, function: u8) -> Option<&ConfigSpace> {
        (function == 0).then_some(&self.config)
    }

    fn reset(&mut self, _: Reset, cx: &mut Context) {
        cx.marks.set(LATCH_MARK, 0);
        let (wishes, preferred) = (self.wishes.take(), self.preferred);
        *self = Self { wishes, preferred, ..Self::new(self.device, self.vram_size, self.rom, self.vram.clone()) };
    }

    fn poll(&mut self, _: Ready, _: &mut Context) {
        let mut bytes = [0; 4096];
        let Some(Ok(n)) = self.wishes.as_ref().map(|pipe| rustix::io::read(pipe, &mut bytes)) else { return };
        // The last request counts; requests beyond a page are read the next time.
        let last = bytes.get(..n).and_then(|b| b.as_chunks::<4>().0.last());
        if let Some([w0, w1, h0, h1]) = last
            && let Some(size) =
                Size::wished(u16::from_le_bytes([*w0, *w1]), u16::from_le_bytes([*h0, *h1]), self.vram_size)
        {
            (self.preferred, self.dirty) = (size, true);
        }
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.save())
    }

    fn save(&self) -> Vec<u8> {
        self.encode()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        self.decode(state)?;
        if let Some(latch) = cx.marks.former(LATCH_MARK) {
            self.latch = latch as u32;
        }
        cx.marks.set(LATCH_MARK, self.latch.into());
        Ok(())
    }

    fn inspect(&self, out: &mut Inspect) {
        let (width, height) = self.size();
        out.value("screen", format_args!("{width}x{height}"));
        out.value("monitor", format_args!("{}x{}", self.preferred.width, self.preferred.height));
        if let Some(rows) = self.text_rows() {
            out.group("text", |out| {
                for (i, row) in rows.iter().enumerate() {
                    out.value(&format!("{i:02}"), row);
                }
            });
        }
        out.hex("misc output", self.misc_output).hex("latch", self.latch);
        for (name, registers) in [
            ("seq", &self.sequencer[..]),
            ("gfx", &self.graphics[..]),
            ("crtc", &self.crtc[..]),
            ("attr", &self.attribute[..]),
        ] {
            out.group(name, |out| {
                for (i, value) in registers.iter().enumerate() {
                    out.hex(&format!("{i:02x}"), *value);
                }
            });
        }
        out.group("dispi", |out| {
            for (i, value) in self.dispi.iter().enumerate() {
                out.hex(&format!("{i:x}"), *value);
            }
        });
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(self)
    }
}

impl Display for Vga {
    fn refresh(&mut self, surface: &mut dyn Surface) {
        // Blinking follows the host's clock, because only viewers see it.
        let on = Clock::Real.now().div_euclid(BLINK) & 1 == 0;
        let source = self.text_source(on);
        if source.is_some() && source == self.shown_source {
            if surface.begin(self.shown.width, self.shown.height) {
                surface.end();
            }
            return;
        }
        let spare = std::mem::take(&mut self.spare);
        let mut frame = self.frame_in(on, spare);
        let shown = frame.show(&mut self.shown, surface);
        self.shown_source = source.filter(|_| shown);
        if frame.pixels.len() <= SPARE {
            self.spare = frame;
        }
    }

    fn screenshot(&mut self) -> Option<Vec<u8>> {
        self.frame().png()
    }
}

#[cfg(test)]
mod regressions;
#[cfg(test)]
mod tests;
