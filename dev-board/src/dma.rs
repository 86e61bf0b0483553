//! The two 8237 DMA controllers: registers only, because no device of this machine transfers through them. Intel 8237A data sheet.
use bulkhead_bus::StateError;

/// One controller: base and current registers of four channels.
#[derive(Clone, Copy, Default)]
struct Controller {
    base: [[u16; 2]; 4],
    current: [[u16; 2]; 4],
    /// The next byte of a 16-bit register is the high one.
    high: bool,
    command: u8,
    status: u8,
    mask: u8,
}

/// Both controllers, and the page registers.
pub(crate) struct Dma {
    controllers: [Controller; 2],
    pages: [u8; 16],
}

impl Dma {
    pub(crate) fn new() -> Self {
        Self { controllers: [Controller { mask: 0x0f, ..Controller::default() }; 2], pages: [0; 16] }
    }

    pub(crate) fn read(&mut self, controller: usize, register: u16) -> u8 {
        let Some(c) = self.controllers.get_mut(controller) else { return 0xff };
        match register {
            0..=7 => {
                let word = c.current.get(usize::from(register >> 1)).and_then(|r| r.get(usize::from(register & 1)));
                let bytes = word.copied().unwrap_or(0).to_le_bytes();
                c.high = !c.high;
                if c.high { bytes[0] } else { bytes[1] }
            }
            8 => {
                let status = c.status;
                c.status &= 0xf0;
                status
            }
            0x0f => c.mask | 0xf0,
            _ => 0,
        }
    }

    pub(crate) fn write(&mut self, controller: usize, register: u16, value: u8) {
        let Some(c) = self.controllers.get_mut(controller) else { return };
        match register {
            0..=7 => {
                let (channel, which) = (usize::from(register >> 1), usize::from(register & 1));
                for set in [&mut c.base, &mut c.current] {
                    if let Some(word) = set.get_mut(channel).and_then(|r| r.get_mut(which)) {
                        *word = if c.high {
                            *word & 0x00ff | u16::from(value) << 8
                        } else {
                            *word & 0xff00 | u16::from(value)
                        };
                    }
                }
                c.high = !c.high;
            }
            8 => c.command = value,
            0x0a => {
                let bit = 1u8 << (value & 3);
                c.mask = if value & 4 != 0 { c.mask | bit } else { c.mask & !bit };
            }
            0x0c => c.high = false,
            0x0d => *c = Controller { mask: 0x0f, ..Controller::default() },
            0x0e => c.mask = 0,
            0x0f => c.mask = value & 0x0f,
            _ => {}
        }
    }

    /// Reads a page register: ports 0x81–0x8f, of which 0x84–0x86, 0x88 and 0x8c–0x8e have no function but to store a byte.
    pub(crate) fn page_read(&self, offset: u16) -> u8 {
        self.pages.get(usize::from(offset)).copied().unwrap_or(0xff)
    }

    pub(crate) fn page_write(&mut self, offset: u16, value: u8) {
        if let Some(page) = self.pages.get_mut(usize::from(offset)) {
            *page = value;
        }
    }

    pub(crate) fn save(&self) -> Vec<u8> {
        let mut out = self.pages.to_vec();
        for c in &self.controllers {
            for word in c.base.iter().chain(&c.current).flatten() {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&[u8::from(c.high), c.command, c.status, c.mask]);
        }
        out
    }

    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        if bytes.len() != 16 + 2 * 36 {
            return Err(StateError::Value("DMA registers"));
        }
        let mut next = bytes.iter().copied();
        let mut byte = || next.next().unwrap_or(0);
        self.pages = std::array::from_fn(|_| byte());
        for c in &mut self.controllers {
            for word in c.base.iter_mut().chain(&mut c.current).flatten() {
                *word = u16::from_le_bytes([byte(), byte()]);
            }
            c.high = byte() & 1 != 0;
            c.command = byte();
            c.status = byte();
            c.mask = byte() & 0x0f;
        }
        Ok(())
    }
}
