//! The device trait.
use crate::facets::{Board, Card, Display, Drives, Input, UsbBus, Viewers};
use crate::{Context, Declaration, Inspect, RegionId};

/// One access, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which of its regions.
    pub region: RegionId,
    /// First byte in the region.
    pub offset: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
}

impl Access {
    /// Shorthand for tests and dispatch tables.
    pub const fn new(region: RegionId, offset: u64, size: u8) -> Self {
        Self { region, offset, size }
    }
}

/// Why an access was not for this device. The caller answers as hardware would: reads return all ones, writes do
/// nothing. What goes wrong *inside* a device (a disk error) is no `IoError`; the guest sees it in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// Nothing is there.
    #[error("no register there")]
    NoRegister,
    /// The register does not take accesses of this size.
    #[error("wrong access size")]
    Size,
    /// The access is not aligned as the register wants.
    #[error("unaligned access")]
    Unaligned,
}

/// Result of an access.
pub type IoResult<T> = Result<T, IoError>;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// The timer's deadline has come.
    Timer(crate::TimerId),
    /// The descriptor that the device registered under this number is readable.
    Fd(u32),
    /// Work that the device left for later (see [`Context::again`]).
    Again,
}

/// Kinds of reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The machine is being reset: everything goes to its power-on state.
    Machine,
}

/// Why a state was refused. A state is hostile input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It is not such a message.
    #[error("the state does not decode: {0}")]
    Decode(String),
    /// A value that cannot be.
    #[error("the state's {0} is impossible")]
    Value(&'static str),
    /// Written by a version that this one does not know.
    #[error("the state has version {0}, this device knows up to {1}")]
    Version(u32, u32),
}

impl From<prost::DecodeError> for StateError {
    fn from(e: prost::DecodeError) -> Self {
        Self::Decode(e.to_string())
    }
}

/// Where a device publishes what the broker may answer for it.
#[derive(Debug)]
pub struct Shadows<'a> {
    /// One word for each shadow of its declaration; `None`: a read has side effects now, ask the device.
    pub registers: &'a mut [Option<u32>],
}

impl Shadows<'_> {
    /// Sets one shadow.
    pub fn set(&mut self, index: usize, value: Option<u32>) {
        if let Some(slot) = self.registers.get_mut(index) {
            *slot = value;
        }
    }
}

/// The picture that viewers see. Only lines that changed are drawn.
pub trait Surface: Send {
    /// Begins an update of a picture of this size. False: it does not fit, and nothing may be drawn.
    fn begin(&mut self, width: usize, height: usize) -> bool;
    /// Draws line `y`: three bytes, red, green, blue, for each pixel.
    fn line(&mut self, y: usize, pixels: &[u32]);
    /// Ends the update.
    fn end(&mut self);
}

/// An emulated device. All methods are called by one thread.
pub trait Device: Send {
    /// What it has; the same as its `declare` function gave the broker.
    fn declaration(&self) -> Declaration;

    /// Reads a register. Bits above `at.size` bytes are ignored.
    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64>;

    /// Writes a register. Bits of `value` above `at.size` bytes are zero.
    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()>;

    /// Reads `data.len() / at.size` elements from one port. A device with a data port may do better than one by one.
    fn read_string(&mut self, at: Access, data: &mut [u8], cx: &mut Context) -> IoResult<()> {
        let size = usize::from(at.size).max(1);
        for element in data.chunks_exact_mut(size) {
            let bytes = self.read(at, cx).unwrap_or(u64::MAX).to_le_bytes();
            element.copy_from_slice(bytes.get(..size).unwrap_or(&[0xff; 8]));
        }
        Ok(())
    }

    /// Writes `data.len() / at.size` elements to one port.
    fn write_string(&mut self, at: Access, data: &[u8], cx: &mut Context) -> IoResult<()> {
        let size = usize::from(at.size).max(1);
        for element in data.chunks_exact(size) {
            let mut bytes = [0; 8];
            if let Some(low) = bytes.get_mut(..size) {
                low.copy_from_slice(element);
            }
            let _ = self.write(at, u64::from_le_bytes(bytes), cx);
        }
        Ok(())
    }

    /// Reads configuration space of function `function`: one of the four dwords' bytes, `size` 1, 2 or 4.
    fn config_read(&mut self, function: u8, offset: u8, size: u8) -> u32 {
        self.config(function).map_or(u32::MAX, |space| space.read(offset, size))
    }

    /// Writes configuration space.
    fn config_write(&mut self, function: u8, offset: u8, size: u8, value: u32, cx: &mut Context) {
        let _ = (function, offset, size, value, cx);
    }

    /// The configuration space of function `function`, for publication.
    fn config(&self, function: u8) -> Option<&crate::pci::ConfigSpace> {
        let _ = function;
        None
    }

    /// Writes to region `region` have reached nobody while this device's process was away, the last one to the register at `offset`.
    /// Called first in a new life, for each such region: what the guest believes to have set up is not there.
    fn lost_writes(&mut self, region: crate::RegionId, offset: u64, cx: &mut Context) {
        let _ = (region, offset, cx);
    }

    /// A timer, descriptor or left-over work became ready.
    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let _ = (ready, cx);
    }

    /// Goes to its power-on state.
    fn reset(&mut self, kind: Reset, cx: &mut Context);

    /// The unplug protocol with this mask. Returns whether it is done; otherwise it is called again after each `poll`.
    fn unplug(&mut self, mask: u16, cx: &mut Context) -> bool {
        let _ = (mask, cx);
        true
    }

    /// Whether no worker of the device uses guest memory now. Asked before mappings are dropped.
    fn quiescent(&self) -> bool {
        true
    }

    /// The machine is stopped (no DMA, no timers) or runs again.
    fn running(&mut self, running: bool, cx: &mut Context) {
        let _ = (running, cx);
    }

    /// Publishes the shadowed registers.
    fn shadows(&self, out: &mut Shadows<'_>) {
        let _ = out;
    }

    /// The state if it changed since the last call, for the state page.
    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// The whole state, encoded.
    fn save(&self) -> Vec<u8>;

    /// Takes a state over. On error the device is unchanged.
    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError>;

    /// Every register by name, for people.
    fn inspect(&self, out: &mut Inspect);

    /// Its drives, if it is a controller of drives.
    fn drives(&mut self) -> Option<&mut dyn Drives> {
        None
    }

    /// Its cable, if it is a network card.
    fn card(&mut self) -> Option<&mut dyn Card> {
        None
    }

    /// Its bus, if it is a USB controller.
    fn usb_bus(&mut self) -> Option<&mut dyn UsbBus> {
        None
    }

    /// Its slots, if it is the board.
    fn board(&mut self) -> Option<&mut dyn Board> {
        None
    }

    /// Its picture, if it is a display.
    fn display(&mut self) -> Option<&mut dyn Display> {
        None
    }

    /// Its keys or pointer, if it is such a device.
    fn input_device(&mut self) -> Option<&mut dyn Input> {
        None
    }

    /// Its viewers, if it shows the picture to some.
    fn viewers(&mut self) -> Option<&mut dyn Viewers> {
        None
    }
}
