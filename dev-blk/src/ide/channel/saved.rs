//! The saved state of a channel, and its registers for `inspect`.
use super::bus_master::BusMaster;
use super::{After, Channel, Out, TransferPhase};
use crate::ata::spec::{DeviceRegister, SECTOR, Status};
use crate::ata::transfer::{BUFFER, Data, FORMED, List, Sectors};
use crate::ide::spec::DeviceControl;
use crate::ide::state::{Awaits, ChannelState, CommandState};
use crate::ide::task_file::Attached;
use bulkhead_bus::{Inspect, StateError};

fn control(s: &ChannelState) -> Result<DeviceControl, StateError> {
    u8::try_from(s.control).map(DeviceControl::from_bits).map_err(|_| StateError::Value("device control"))
}

fn device(s: &ChannelState) -> Result<DeviceRegister, StateError> {
    u8::try_from(s.device).map(DeviceRegister::from_bits).map_err(|_| StateError::Value("device register"))
}

/// A command that is restored.
struct Command {
    phase: TransferPhase,
    buffer: Vec<u8>,
    at: usize,
    block_end: usize,
    block: usize,
    sectors: Sectors,
    /// Device 1 has it.
    of: bool,
    packet_limit: Option<u16>,
}

impl Channel {
    /// The state for the process that takes over when this one dies: it is small. A command in progress is saved as aborted, with its
    /// interrupt: that is what such a process can tell the guest.
    pub(crate) fn save(&self) -> ChannelState {
        self.save_with(None)
    }

    /// The whole state, of a channel without a job: the command that waits for the guest goes on. One whose job is held, because it
    /// waits for space, is aborted.
    pub(crate) fn save_whole(&self) -> ChannelState {
        self.save_with(self.command_state())
    }

    fn command_state(&self) -> Option<CommandState> {
        let (mut sectors, mut list_bytes, mut buffer) = (self.sectors, 0, self.buffer.as_slice());
        let (mut at, mut block_end) = (self.at, self.block_end);
        let awaits = match &self.phase {
            TransferPhase::Idle | TransferPhase::Working(_) => return None,
            TransferPhase::PioIn => {
                // The rest of it: what the guest has read nobody asks for again.
                buffer = buffer.get(at..).unwrap_or_default();
                block_end = block_end.saturating_sub(at);
                at = 0;
                Awaits::Reads
            }
            TransferPhase::PioOut(Out::Sectors) => Awaits::Sectors,
            TransferPhase::PioOut(Out::Packet) => Awaits::Packet,
            TransferPhase::PioOut(Out::List(List::Ranges)) => Awaits::Ranges,
            TransferPhase::PioOut(Out::List(List::Parameters)) => Awaits::Parameters,
            TransferPhase::AwaitDma(data) => {
                (at, block_end, buffer) = (0, 0, &[]);
                match data {
                    Data::Bytes(bytes) => {
                        buffer = bytes.as_slice();
                        Awaits::DmaBytes
                    }
                    Data::In(all) => {
                        sectors = *all;
                        Awaits::DmaIn
                    }
                    Data::Out(all) => {
                        sectors = *all;
                        Awaits::DmaOut
                    }
                    Data::List { list, bytes } => {
                        list_bytes = u32::try_from(*bytes).unwrap_or(u32::MAX);
                        if *list == List::Ranges { Awaits::DmaRanges } else { Awaits::DmaParameters }
                    }
                }
            }
        };
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let current = self.drives.get(usize::from(self.current)).and_then(Option::as_ref);
        let limit = current.and_then(|attached| attached.drive.packet_limit());
        Some(CommandState {
            awaits: awaits.into(),
            of_other: self.current != self.device.dev(),
            buffer: buffer.to_vec(),
            at: number(at),
            block_end: number(block_end),
            block: number(self.block),
            sectors: (!sectors.is_empty()).then(|| sectors.save()),
            list_bytes,
            packet_limit: limit.map_or(0, |limit| u32::from(limit).saturating_add(1)),
        })
    }

    /// The command of a state; it must be one that its drive can have.
    fn saved_command(&self, s: &ChannelState) -> Result<Option<Command>, StateError> {
        let Some(c) = &s.command else { return Ok(None) };
        let wrong = |what| Err(StateError::Value(what));
        let of = device(s)?.dev() != c.of_other;
        let Some(attached) = self.drives.get(usize::from(of)).and_then(Option::as_ref) else {
            return wrong("drive of a command");
        };
        // Saved drives stand in the order of those that there are.
        let place = usize::from(of && self.drives.first().is_some_and(Option::is_some));
        if !s.drives.get(place).is_some_and(|d| d.present) {
            return wrong("drive of a command");
        }
        let drive = &attached.drive;
        let (cd, writes) = (drive.cdrom, !drive.cdrom && !drive.read_only);
        let (at, block_end, block) = (c.at as usize, c.block_end as usize, c.block as usize);
        if c.buffer.len() > FORMED || at > block_end || block_end > c.buffer.len() || block > BUFFER {
            return wrong("buffer of a command");
        }
        let bytes = c.list_bytes as usize;
        if bytes > BUFFER {
            return wrong("list of a command");
        }
        let all = drive.image.as_ref().map_or(0, |image| image.size() >> 9);
        let sectors = c.sectors.as_ref().map_or(Ok(Sectors::NONE), |sectors| Sectors::load(sectors, cd, all))?;
        let list = |list| TransferPhase::AwaitDma(Data::List { list, bytes });
        let (phase, may) = match Awaits::try_from(c.awaits) {
            Ok(Awaits::Reads) => (TransferPhase::PioIn, true),
            Ok(Awaits::Sectors) => {
                // They are written when the block is whole: it has sectors, and no more than are left.
                let len = c.buffer.len();
                let whole = len.is_multiple_of(SECTOR) && len == block_end && at < len && len <= sectors.bytes();
                (TransferPhase::PioOut(Out::Sectors), writes && whole)
            }
            Ok(Awaits::Packet) => (TransferPhase::PioOut(Out::Packet), cd && c.buffer.len() == 12 && block_end == 12),
            Ok(Awaits::Ranges) => (TransferPhase::PioOut(Out::List(List::Ranges)), writes),
            Ok(Awaits::Parameters) => (TransferPhase::PioOut(Out::List(List::Parameters)), cd),
            Ok(Awaits::DmaBytes) => (TransferPhase::AwaitDma(Data::Bytes(c.buffer.clone())), true),
            Ok(Awaits::DmaIn) => (TransferPhase::AwaitDma(Data::In(sectors)), true),
            Ok(Awaits::DmaOut) => (TransferPhase::AwaitDma(Data::Out(sectors)), writes),
            Ok(Awaits::DmaRanges) => (list(List::Ranges), writes),
            Ok(Awaits::DmaParameters) => (list(List::Parameters), cd),
            Ok(Awaits::Nothing) | Err(_) => return wrong("kind of a command"),
        };
        let packet_limit = match c.packet_limit.checked_sub(1) {
            None => None,
            Some(limit) => Some(u16::try_from(limit).map_err(|_| StateError::Value("byte count limit"))?),
        };
        if !may || packet_limit.is_some() && !cd {
            return wrong("kind of a command");
        }
        let dma = matches!(phase, TransferPhase::AwaitDma(_));
        let buffer = if dma { Vec::new() } else { c.buffer.clone() };
        let sectors = if dma { Sectors::NONE } else { sectors };
        Ok(Some(Command { phase, buffer, at, block_end, block, sectors, of, packet_limit }))
    }

    fn save_with(&self, command: Option<CommandState>) -> ChannelState {
        // The result of a job from before a reset is dropped.
        let idle = matches!(self.phase, TransferPhase::Idle | TransferPhase::Working(After::Nothing));
        let busy = !idle && command.is_none();
        let (interrupt, of) = if busy { (true, self.current) } else { (self.interrupt, self.interrupt_of) };
        let level = interrupt && of == self.device.dev() && !self.control.nien();
        let drives = self.drives.iter().zip([false, true]).filter_map(|(attached, number)| {
            let attached = attached.as_ref()?;
            let ends = busy && number == self.current && attached.drive.present;
            Some(if ends { attached.save_aborted(self.device) } else { attached.save() })
        });
        let (bm_next, bm_used) = self.bus_master.saved_position();
        ChannelState {
            control: u32::from(self.control.into_bits()),
            device: u32::from(self.device.into_bits()),
            interrupt,
            bm_command: u32::from(self.bus_master.command().into_bits()),
            bm_status: u32::from(self.bus_master.saved_status(busy, level && !self.line).into_bits()),
            bm_table: self.bus_master.table(),
            bm_next,
            bm_used,
            interrupt_of_other: interrupt && of != self.device.dev(),
            drives: drives.collect(),
            // Only processes of earlier versions have written true.
            busy: false,
            stale: self.stale,
            command,
        }
    }

    /// Fails as [`Self::load`] would.
    pub(crate) fn check(&self, s: &ChannelState) -> Result<(), StateError> {
        if s.drives.len() != self.drives.iter().flatten().count() {
            return Err(StateError::Value("number of drives"));
        }
        s.drives.iter().try_for_each(Attached::check)?;
        control(s)?;
        device(s)?;
        self.saved_command(s)?;
        BusMaster::load(s).map(drop)
    }

    /// Restores a state; on error nothing has changed.
    pub(crate) fn load(&mut self, s: &ChannelState) -> Result<(), StateError> {
        self.check(s)?;
        let command = self.saved_command(s)?;
        // What this process was doing for its guest is not in the state.
        self.abandon();
        let in_reset = control(s)?.srst();
        for (attached, saved) in self.drives.iter_mut().flatten().zip(&s.drives) {
            attached.load(saved, in_reset)?;
        }
        self.control = control(s)?;
        self.device = device(s)?;
        self.interrupt = s.interrupt;
        self.interrupt_of = self.device.dev() != s.interrupt_of_other;
        self.bus_master = BusMaster::load(s)?;
        self.line = self.intrq();
        self.dirty = true;
        self.current = self.device.dev();
        self.stale = s.stale;
        if s.busy {
            self.abort();
        }
        if let Some(Command { phase, buffer, at, block_end, block, sectors, of, packet_limit }) = command {
            let place = usize::from(of && self.drives.first().is_some_and(Option::is_some));
            let status = s.drives.get(place).map_or(0, |d| d.status) as u8;
            (self.phase, self.buffer, self.at, self.block_end) = (phase, buffer, at, block_end);
            (self.block, self.sectors, self.current) = (block, sectors, of);
            if let Some(current) = self.current() {
                current.drive.set_packet_limit(packet_limit);
                current.task_file.status = Status::from_bits(status);
            }
        }
        Ok(())
    }

    pub(crate) fn inspect(&self, out: &mut Inspect) {
        out.hex("status", self.status())
            .hex("control", self.control.into_bits())
            .hex("device", self.device.into_bits());
        out.value("interrupt", self.interrupt)
            .value("phase", format_args!("{:?}", self.phase))
            .value("jobs", self.jobs);
        out.hex("BM command", self.bus_master.command().into_bits())
            .hex("BM status", self.bus_master.status().into_bits())
            .hex("BM table", self.bus_master.table());
        for Attached { drive, task_file } in self.drives.iter().flatten() {
            out.group(&format!("drive{}", drive.index), |out| {
                out.value("kind", if drive.cdrom { "CD" } else { "disk" }).value("present", drive.present);
                out.value("waits for room", drive.image.as_ref().is_some_and(|i| i.waits()));
                drive.counters.inspect(out);
                out.value("sectors", drive.sectors())
                    .hex("error", task_file.error)
                    .value("sense", format_args!("{:?}", drive.sense))
                    .value("settings", format_args!("{:?}", drive.settings))
                    .value("power", format_args!("{:?}", drive.power));
                if drive.cdrom {
                    out.value("tray locked", drive.locked)
                        .value("tray open", drive.tray_open)
                        .value("event", format_args!("{:?}", drive.event));
                }
            });
        }
    }
}
