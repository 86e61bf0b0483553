//! PIIX3's IDE function: two channels, four drives, the bus master.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | registers |
//! | `channel.rs`, `channel/` | a channel: commands of its drives, data transfer |
//! | `task_file.rs` | a drive on a channel: its registers |
//! | `state.rs` | the saved state |
mod channel;
mod exercised;
mod spec;
mod state;
mod task_file;

use crate::ata::drive::Drive;
pub use crate::ata::drive::{DriveSpec, Identity};
use crate::backend::{Executor, Image};
use bulkhead_bus::pci::{BarKind, ConfigSpace, FunctionSpec, reg};
use bulkhead_bus::{
    Access, Context, Declaration, Device, DriveError, DriveFacts, Drives, Inspect, IoError, IoResult, Line, Ready,
    Region, RegionId, Reset, Shadows, StateError,
};
use channel::Channel;
pub use exercised::TARGET;
use prost::Message as _;
use rustix::fd::OwnedFd;
use state::{ChannelState, IdeState, VERSION};
use task_file::Attached;

/// Regions: the command block, then the control block, of each channel; the bus master.
const BUS_MASTER: u16 = 4;

/// Ready number of the eventfd that rings when a job has ended.
pub const JOBS: u32 = 1;

/// Shadows, for each channel in turn: alternate status, status, bus master command and status, then the command block's other
/// registers, whose reads have no side effects.
const SHADOW_ALTERNATE: usize = 0;
const SHADOW_STATUS: usize = 2;
const SHADOW_BUS_MASTER: usize = 4;
const SHADOW_BLOCK: usize = 8;
/// Registers of the command block between data and status.
const BLOCK: std::ops::Range<u64> = spec::reg::ERROR_FEATURES..spec::reg::STATUS_COMMAND;

/// 82371SB, function 1: I/O space and bus master in the command register. Memory space, a zero on the part, is stored too: some
/// programs set all three bits and check them. It has no effect, because there is no memory to decode.
fn function() -> FunctionSpec {
    FunctionSpec::new(1, 1).with_command(0x0007).with_bar(4, BarKind::Io, 16)
}

/// The shadow of a register of the command block.
fn block_shadow(channel: usize, register: u64) -> usize {
    SHADOW_BLOCK.saturating_add(channel.saturating_mul(6)).saturating_add(register.saturating_sub(BLOCK.start) as usize)
}

/// The controller's declaration.
pub fn declare() -> Declaration {
    let command = |name, base: u16, channel: u8| {
        BLOCK.fold(Region::ports(name, base, 8).shadow(7, 1, SHADOW_STATUS as u8 | channel), |region, register| {
            region.shadow(register as u16, 1, block_shadow(usize::from(channel), register) as u8)
        })
    };
    let control =
        |name, base: u16, channel: u8| Region::ports(name, base, 1).shadow(0, 1, SHADOW_ALTERNATE as u8 | channel);
    Declaration {
        regions: vec![
            command("primary command block", 0x1f0, 0),
            control("primary control", 0x3f6, 0),
            command("secondary command block", 0x170, 1),
            control("secondary control", 0x376, 1),
            (0..4u8).fold(Region::bar("bus master", 0, 4), |region, i| {
                region.shadow(u16::from(i >> 1) << 3 | u16::from(i & 1) << 1, 1, SHADOW_BUS_MASTER as u8 | i)
            }),
        ],
        functions: vec![function()],
        lines: vec![Line::Isa(14), Line::Isa(15)],
        dma: true,
        unplug: 1 | 4,
        ..Declaration::default()
    }
}

/// PIIX3's IDE controller.
pub struct Ide {
    config: ConfigSpace,
    channels: [Channel; 2],
    executor: Box<dyn Executor>,
    dirty: bool,
}

impl Ide {
    /// A controller with these drives.
    pub fn new(drives: Vec<DriveSpec>, executor: Box<dyn Executor>) -> Self {
        let mut config = ConfigSpace::new(&function(), 0x8086, 0x7010, 0, 0x01_0180);
        config.set(reg::STATUS, 2, 0x0280);
        config.allow(0x40, 4, 0xf3ff_f3ff); // timing; bits 11 and 10 of each channel are reserved
        config.allow(0x44, 1, 0xff); // slave timing
        config.hard_wire(reg::INTERRUPT_LINE, 1, 0xff); // fixed at 0: IRQ 14 and 15 are wired
        let mut places: [Option<Attached>; 4] = [None, None, None, None];
        for spec in drives {
            if let Some(place) = places.get_mut(usize::from(spec.index)) {
                *place = Some(Attached::new(spec));
            }
        }
        let [a, b, c, d] = places;
        let channels = [Channel::new(0, [a, b]), Channel::new(1, [c, d])];
        Self { config, channels, executor, dirty: true }
    }

    fn update(&mut self, cx: &mut Context) {
        for (i, channel) in self.channels.iter().enumerate() {
            cx.lines.set(i, channel.intrq());
        }
    }

    fn finish(&mut self, cx: &mut Context) {
        while let Some((lane, outcome)) = self.executor.take() {
            if let Some(channel) = self.channels.get_mut(lane) {
                channel.finished(outcome, &mut *self.executor, cx);
            }
        }
        self.update(cx);
    }

    fn drive(&mut self, index: u8) -> Result<&mut Drive, DriveError> {
        let drive = self.channels.iter_mut().find_map(|c| c.medium(index));
        drive.ok_or(DriveError::NoDrive(index))
    }

    /// The state for a process that takes over after a crash.
    fn page(&self) -> Vec<u8> {
        self.state(Channel::save)
    }

    fn state(&self, of: fn(&Channel) -> ChannelState) -> Vec<u8> {
        let Self { config, channels, executor: _, dirty: _ } = self;
        IdeState { version: VERSION, config: config.save(), channels: channels.iter().map(of).collect() }
            .encode_to_vec()
    }

    /// The channel of a region, and whether it is the control block.
    fn place(&mut self, region: u16) -> Option<(&mut Channel, &mut dyn Executor, bool)> {
        let channel = self.channels.get_mut(usize::from(region >> 1))?;
        Some((channel, &mut *self.executor, region & 1 != 0))
    }
}

impl Device for Ide {
    fn declaration(&self) -> Declaration {
        declare()
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        if at.region == BUS_MASTER {
            let channel = self.channels.get(usize::from(at.offset >= 8)).ok_or(IoError::NoRegister)?;
            return Ok(u64::from(channel.bus_master.read(at.offset & 7, at.size)));
        }
        let (channel, io, control) = self.place(at.region).ok_or(IoError::NoRegister)?;
        let value = match (control, at.offset, at.size) {
            (true, 0, 1) => u64::from(channel.status()),
            (false, spec::reg::DATA, 1 | 2 | 4) => {
                let mut bytes = [0; 8];
                channel.data_in(bytes.get_mut(..usize::from(at.size)).unwrap_or_default(), io);
                u64::from_le_bytes(bytes)
            }
            (false, offset, 1) => u64::from(channel.read(offset)),
            _ => return Err(IoError::Size),
        };
        self.update(cx);
        Ok(value)
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        if at.region == BUS_MASTER {
            let channel = self.channels.get_mut(usize::from(at.offset >= 8)).ok_or(IoError::NoRegister)?;
            channel.bm_write(at.offset & 7, at.size, value as u32, &mut *self.executor, cx);
            self.update(cx);
            return Ok(());
        }
        let (channel, io, control) = self.place(at.region).ok_or(IoError::NoRegister)?;
        match (control, at.offset, at.size) {
            (true, 0, 1) => channel.write_control(value as u8),
            (false, spec::reg::DATA, 1 | 2 | 4) => {
                channel.data_out(value.to_le_bytes().get(..usize::from(at.size)).unwrap_or_default(), io, cx);
            }
            (false, offset, 1) => channel.write(offset, value as u8, io, cx),
            _ => return Err(IoError::Size),
        }
        self.update(cx);
        Ok(())
    }

    fn read_string(&mut self, at: Access, data: &mut [u8], cx: &mut Context) -> IoResult<()> {
        match self.place(at.region) {
            Some((channel, io, false)) if at.region < BUS_MASTER && at.offset == spec::reg::DATA => {
                channel.data_in(data, io)
            }
            _ => data.fill(0xff),
        }
        self.update(cx);
        Ok(())
    }

    fn write_string(&mut self, at: Access, data: &[u8], cx: &mut Context) -> IoResult<()> {
        match self.place(at.region) {
            Some((channel, io, false)) if at.region < BUS_MASTER && at.offset == spec::reg::DATA => {
                channel.data_out(data, io, cx)
            }
            _ => {}
        }
        self.update(cx);
        Ok(())
    }

    fn config_write(&mut self, _: u8, offset: u8, size: u8, value: u32, _: &mut Context) {
        self.config.write(offset, size, value);
        self.dirty = true;
    }

    fn config(&self, function: u8) -> Option<&ConfigSpace> {
        (function == 0).then_some(&self.config)
    }

    fn poll(&mut self, _: Ready, cx: &mut Context) {
        self.finish(cx);
    }

    fn reset(&mut self, _: Reset, cx: &mut Context) {
        for channel in &mut self.channels {
            channel.reset();
        }
        let fresh = Self::new(Vec::new(), Box::new(crate::backend::Inline::new(cx.memory.clone())));
        self.config = fresh.config;
        self.update(cx);
    }

    fn lost_writes(&mut self, region: RegionId, offset: u64, cx: &mut Context) {
        self.dirty = true;
        let (channel, to_command) = match region {
            BUS_MASTER => (usize::from(offset & 8 != 0), false),
            // Command block and control block of each channel, in turn.
            _ => (usize::from(region >> 1), region & 1 == 0 && offset == spec::reg::STATUS_COMMAND),
        };
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.lost_writes(to_command);
        }
        self.update(cx);
    }

    fn unplug(&mut self, mask: u16, cx: &mut Context) -> bool {
        self.finish(cx);
        if !self.quiescent() {
            // A write that waits for space would block the guest for ever.
            self.channels.iter().for_each(Channel::give_up);
            return false;
        }
        for channel in &mut self.channels {
            channel.unplug(|drive| mask & 1 != 0 || (mask & 4 != 0 && drive.index != 0));
        }
        self.update(cx);
        true
    }

    fn quiescent(&self) -> bool {
        self.channels.iter().all(Channel::quiescent)
    }

    /// A command is carried out up to where it waits for the guest, and its interrupt is set: a saved machine has no job under way. A
    /// write that waits for space is held.
    fn at_rest(&self) -> bool {
        self.channels.iter().all(|c| c.quiescent() || c.is_held())
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        self.channels.iter().for_each(|c| c.hold(!running));
        self.finish(cx);
    }

    fn shadows(&self, out: &mut Shadows<'_>) {
        for (i, channel) in self.channels.iter().enumerate() {
            let status = u32::from(channel.status());
            out.set(SHADOW_ALTERNATE.saturating_add(i), Some(status));
            // Reading the status clears the interrupt, even one that nIEN masks; without a pending interrupt the read has no side
            // effect.
            out.set(SHADOW_STATUS.saturating_add(i), (!channel.pending()).then_some(status));
            for (at, register) in [(0, 0), (1, 2)] {
                out.set(
                    SHADOW_BUS_MASTER.saturating_add(i << 1).saturating_add(at),
                    Some(channel.bus_master.read(register, 1) & 0xff),
                );
            }
            for register in BLOCK {
                out.set(block_shadow(i, register), Some(u32::from(channel.peek(register))));
            }
        }
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        let dirty = std::mem::take(&mut self.dirty)
            | self.channels.iter_mut().fold(false, |d, c| d | std::mem::take(&mut c.dirty));
        dirty.then(|| self.page())
    }

    fn save(&self) -> Vec<u8> {
        self.state(Channel::save_whole)
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let s = IdeState::decoded(state)?;
        let [first, second] = s.channels.as_slice() else { return Err(StateError::Value("number of channels")) };
        let mut config = self.config.clone();
        config.load(&s.config)?;
        // Both are checked first: an error in the second may not leave the first loaded.
        for (channel, saved) in self.channels.iter().zip([first, second]) {
            channel.check(saved)?;
        }
        for (channel, saved) in self.channels.iter_mut().zip([first, second]) {
            channel.load(saved)?;
        }
        self.config = config;
        self.update(cx);
        Ok(())
    }

    fn drives(&mut self) -> Option<&mut dyn Drives> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        for (name, channel) in ["primary", "secondary"].iter().zip(&self.channels) {
            out.group(name, |out| channel.inspect(out));
        }
    }
}

impl Drives for Ide {
    fn eject(&mut self, drive: u8, force: bool, cx: &mut Context) -> Result<(), DriveError> {
        self.finish(cx);
        self.drive(drive)?.eject(force)
    }

    fn insert(&mut self, drive: u8, medium: OwnedFd, _: &mut Context) -> Result<(), DriveError> {
        let image = Image::medium(medium).map_err(|why| DriveError::Medium(why.to_string()))?;
        self.drive(drive)?.insert(image)
    }

    fn facts(&self) -> Vec<DriveFacts> {
        self.channels.iter().flat_map(Channel::facts).collect()
    }
}

#[cfg(test)]
mod tests;
