//! The trait of emulated devices.
use crate::facets::{Board, Callers, Card, Display, Drives, Input, UsbBus, Viewers};
use crate::{Context, Declaration, Inspect, RegionId};

/// One access to a region of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Index of the region in the device's declaration.
    pub region: RegionId,
    /// Offset of the first byte in the region.
    pub offset: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
}

impl Access {
    /// An access of `size` bytes at `offset`.
    pub const fn new(region: RegionId, offset: u64, size: u8) -> Self {
        Self { region, offset, size }
    }
}

/// Why the device does not respond to an access. The caller answers as hardware would: reads return all ones, writes have no
/// effect. A fault *inside* a device (a disk error) is no `IoError`; the guest sees it in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// There is no register at this offset.
    #[error("no register there")]
    NoRegister,
    /// The register does not accept accesses of this size.
    #[error("wrong access size")]
    Size,
    /// The register requires an aligned access.
    #[error("unaligned access")]
    Unaligned,
}

/// Result of an access.
pub type IoResult<T> = Result<T, IoError>;

/// The source of a call of `poll`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// The timer's deadline has passed.
    Timer(crate::TimerId),
    /// The descriptor that the device registered under this number is readable.
    Fd(u32),
    /// Work that the device has deferred (see [`Context::again`]).
    Again,
}

/// Kinds of reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The machine is reset: all devices return to their power-on state.
    Machine,
}

/// Why a state is refused. A state is hostile input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The bytes are not a message of this type.
    #[error("the state does not decode: {0}")]
    Decode(String),
    /// A field has an impossible value.
    #[error("the state's {0} is impossible")]
    Value(&'static str),
    /// The state has a version that this build does not know.
    #[error("the state has version {0}, this device knows up to {1}")]
    Version(u32, u32),
}

impl From<prost::DecodeError> for StateError {
    fn from(e: prost::DecodeError) -> Self {
        Self::Decode(e.to_string())
    }
}

/// The registers that the broker may answer for the device.
#[derive(Debug)]
pub struct Shadows<'a> {
    /// One word for each shadow of its declaration; `None`: a read has side effects at present, so the device must answer it.
    pub registers: &'a mut [Option<u32>],
}

impl Shadows<'_> {
    /// Sets the shadow with this index.
    pub fn set(&mut self, index: usize, value: Option<u32>) {
        if let Some(slot) = self.registers.get_mut(index) {
            *slot = value;
        }
    }
}

/// The picture that viewers see. A display draws only the lines that changed.
pub trait Surface: Send {
    /// Begins an update of a picture of this size in pixels. False: it does not fit, and nothing may be drawn.
    fn begin(&mut self, width: usize, height: usize) -> bool;
    /// Draws line `y`. A pixel is 0x00RRGGBB.
    fn line(&mut self, y: usize, pixels: &[u32]);
    /// Ends the update and publishes it.
    fn end(&mut self);
}

/// An emulated device. All methods are called by one thread.
pub trait Device: Send {
    /// Its declaration; the same that its `declare` function has given the broker.
    fn declaration(&self) -> Declaration;

    /// Reads a register. Bits above `at.size` bytes are ignored.
    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64>;

    /// Writes a register. Bits of `value` above `at.size` bytes are zero.
    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()>;

    /// Reads `data.len() / at.size` elements from one port. A device with a data port may override this with a faster copy.
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

    /// Reads the configuration space of function `function`; `size` is 1, 2 or 4 bytes.
    fn config_read(&mut self, function: u8, offset: u8, size: u8) -> u32 {
        self.config(function).map_or(u32::MAX, |space| space.read(offset, size))
    }

    /// Writes the configuration space of function `function`; `size` is 1, 2 or 4 bytes.
    fn config_write(&mut self, function: u8, offset: u8, size: u8, value: u32, cx: &mut Context) {
        let _ = (function, offset, size, value, cx);
    }

    /// The configuration space of function `function`, which the runtime publishes to the broker.
    fn config(&self, function: u8) -> Option<&crate::pci::ConfigSpace> {
        let _ = function;
        None
    }

    /// Writes to region `region` were dropped while this device had no process; the last one was to the register at `offset`.
    /// Called first in a new process, for each such region: registers may lack values that the guest has written.
    fn lost_writes(&mut self, region: crate::RegionId, offset: u64, cx: &mut Context) {
        let _ = (region, offset, cx);
    }

    /// A timer, a descriptor or deferred work became ready.
    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let _ = (ready, cx);
    }

    /// Returns to the power-on state.
    fn reset(&mut self, kind: Reset, cx: &mut Context);

    /// Carries out the unplug protocol with this mask. Returns whether it is done; if not, it is called again after each `poll`.
    fn unplug(&mut self, mask: u16, cx: &mut Context) -> bool {
        let _ = (mask, cx);
        true
    }

    /// Whether no worker of the device uses guest memory. The runtime asks before it drops mappings.
    fn quiescent(&self) -> bool {
        true
    }

    /// Whether a machine that was stopped by [`Self::running`] has nothing of this device under way: nothing that was begun before is still
    /// written to guest memory, an image or the wire. The answer to a stop waits for it; until then the device is polled.
    fn at_rest(&self) -> bool {
        self.quiescent()
    }

    /// The machine is stopped (no DMA, no timers, nothing from the host) or runs again. A stopped device begins nothing, and is not polled
    /// once it is at rest; all its descriptors are polled when the machine runs again.
    fn running(&mut self, running: bool, cx: &mut Context) {
        let _ = (running, cx);
    }

    /// Publishes the shadowed registers.
    fn shadows(&self, out: &mut Shadows<'_>) {
        let _ = out;
    }

    /// The state for the state page, if it changed since the last call.
    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// The complete state, encoded with its version.
    fn save(&self) -> Vec<u8>;

    /// Restores a state. On error the device is unchanged.
    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError>;

    /// Collects every register by name, for people to read.
    fn inspect(&self, out: &mut Inspect);

    /// The facet of a controller of drives.
    fn drives(&mut self) -> Option<&mut dyn Drives> {
        None
    }

    /// The facet of a network card.
    fn card(&mut self) -> Option<&mut dyn Card> {
        None
    }

    /// The facet of a USB controller.
    fn usb_bus(&mut self) -> Option<&mut dyn UsbBus> {
        None
    }

    /// The facet of the board.
    fn board(&mut self) -> Option<&mut dyn Board> {
        None
    }

    /// The facet of a display.
    fn display(&mut self) -> Option<&mut dyn Display> {
        None
    }

    /// The facet of a keyboard or pointer.
    fn input_device(&mut self) -> Option<&mut dyn Input> {
        None
    }

    /// The facet of a server of viewers.
    fn viewers(&mut self) -> Option<&mut dyn Viewers> {
        None
    }

    /// The facet of a process that serves PV back ends.
    fn callers(&mut self) -> Option<&mut dyn Callers> {
        None
    }
}

/// A guest's read of one element: a register that is narrower than the access is read byte by byte, lowest address first, as the bus
/// does it. Bytes without a register are all ones.
pub fn bus_read(device: &mut dyn Device, at: Access, cx: &mut Context) -> IoResult<u64> {
    match device.read(at, cx) {
        Err(IoError::Size) if at.size > 1 => {}
        other => return other,
    }
    let mut bytes = [0xff; 8];
    let mut last = Err(IoError::Size);
    for (i, byte) in bytes.iter_mut().enumerate().take(usize::from(at.size)) {
        let piece = Access { offset: at.offset.wrapping_add(i as u64), size: 1, ..at };
        if let Ok(value) = device.read(piece, cx) {
            *byte = value as u8;
            last = Ok(());
        }
    }
    last.map(|()| u64::from_le_bytes(bytes))
}

/// A guest's write of one element, in the same way.
pub fn bus_write(device: &mut dyn Device, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
    match device.write(at, value, cx) {
        Err(IoError::Size) if at.size > 1 => {}
        other => return other,
    }
    let mut last = Err(IoError::Size);
    for (i, byte) in value.to_le_bytes().into_iter().enumerate().take(usize::from(at.size)) {
        let piece = Access { offset: at.offset.wrapping_add(i as u64), size: 1, ..at };
        if device.write(piece, u64::from(byte), cx).is_ok() {
            last = Ok(());
        }
    }
    last
}
