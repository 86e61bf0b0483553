//! The broker's saved state: what the guest has written of PCI registers, and what of devices it has unplugged. Xen and the devices have
//! the rest.
use crate::dirty_log::LATE;
use crate::dispatcher::{Action, Dispatcher};
use crate::edge::Edge;
use crate::presence::Change;
use bulkhead_bus::StateError;
use bulkhead_bus::pci::reg;
use bulkhead_runtime::SaveError;
use prost::Message as _;

/// Version of [`BrokerState`].
const VERSION: u32 = 1;
/// Guest frames are below 2^36: addresses have 48 bits.
const MAX_FRAME: u64 = (1 << 36) - 1;
/// Most functions and devices of a state.
const MOST: usize = 64;
/// Offsets of a function's base address registers.
const BARS: [u8; 6] = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24];

/// What is saved.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BrokerState {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    functions: Vec<FunctionState>,
    #[prost(message, repeated, tag = "3")]
    unplugged: Vec<UnpluggedState>,
    /// The firmware's memory is read-only.
    #[prost(bool, tag = "4")]
    rom_locked: bool,
    /// First guest frame of video RAM.
    #[prost(uint64, tag = "5")]
    video_ram: u64,
    /// The last address that the guest has written to port 0xcf8, as far as the broker has seen it.
    #[prost(uint32, tag = "6")]
    cf8: u32,
    /// Where video RAM goes when another device is decoded at its place.
    #[prost(uint64, tag = "7")]
    video_ram_home: u64,
    /// Where the broker was.
    #[prost(message, optional, tag = "8")]
    server: Option<ServerState>,
    /// Pages that were written after they were sent, and that Xen takes no mark of.
    #[prost(message, repeated, tag = "9")]
    late: Vec<LatePage>,
}

/// A page of guest memory.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct LatePage {
    #[prost(uint64, tag = "1")]
    frame: u64,
    #[prost(bytes = "vec", tag = "2")]
    bytes: Vec<u8>,
}

/// An ioreq server. After a soft reset (kexec in the guest) it is still there, and would get the guest's accesses.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ServerState {
    /// The host's boot, and the domain: a domid is not used twice in one.
    #[prost(string, tag = "1")]
    boot: String,
    #[prost(uint32, tag = "2")]
    domid: u32,
    /// Its number.
    #[prost(uint32, tag = "3")]
    id: u32,
}

/// The domain that a broker serves, to know it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// The host's boot; empty if it is not known.
    pub boot: String,
    /// The domid.
    pub domid: u16,
}

/// The registers of a function that decide what it decodes.
#[derive(Clone, PartialEq, prost::Message)]
struct FunctionState {
    #[prost(uint32, tag = "1")]
    bdf: u32,
    #[prost(uint32, tag = "2")]
    command: u32,
    #[prost(uint32, repeated, tag = "3")]
    bars: Vec<u32>,
    #[prost(uint32, tag = "4")]
    rom: u32,
}

/// What the guest has unplugged of a device.
#[derive(Clone, PartialEq, prost::Message)]
struct UnpluggedState {
    /// The device's name.
    #[prost(string, tag = "1")]
    name: String,
    /// Bits of the protocol's mask; 0: all of the device.
    #[prost(uint32, tag = "2")]
    parts: u32,
}

/// First guest frame of video RAM in a broker's state; `None` if it is no state.
pub fn saved_video_ram(state: &[u8]) -> Option<u64> {
    BrokerState::decode(state).ok().filter(|s| s.version == VERSION).map(|s| s.video_ram)
}

impl<E: Edge> Dispatcher<E> {
    /// The broker's state, of a machine that stands still.
    ///
    /// # Errors
    /// Guest memory is copied meanwhile, and the copy would not be the guest's.
    pub fn save(&mut self) -> Result<Vec<u8>, SaveError> {
        let late = self.end_of_log()?.into_iter().map(|(frame, bytes)| LatePage { frame, bytes }).collect();
        let channels = || self.channels.iter();
        let functions = channels().flat_map(|c| &c.functions).map(|f| FunctionState {
            bdf: u32::from(f.spec.bdf()),
            command: f.register(reg::COMMAND, 2),
            bars: BARS.iter().map(|at| f.register(*at, 4)).collect(),
            rom: f.register(reg::ROM, 4),
        });
        let unplugged = channels().filter(|c| c.presence.unplugged()).map(|c| UnpluggedState {
            name: c.name.clone(),
            parts: if c.declaration.unplug_removes { 0 } else { u32::from(c.unplugged_parts) },
        });
        let state = BrokerState {
            late,
            version: VERSION,
            functions: functions.collect(),
            unplugged: unplugged.collect(),
            rom_locked: self.rom_locked,
            video_ram: self.video_ram.as_ref().map_or(0, |v| v.gfn),
            cf8: self.cf8.as_ref().map_or(0, |cf8| cf8.latched()),
            video_ram_home: self.video_ram.as_ref().map_or(0, |v| v.home),
            server: Some(ServerState {
                boot: self.domain.boot.clone(),
                domid: u32::from(self.domain.domid),
                id: u32::from(self.edge.server()),
            }),
        };
        Ok(state.encode_to_vec())
    }

    /// Brings the machine's addresses to a saved state, before any device is online. The launcher hears of what is unplugged once the
    /// machine runs.
    ///
    /// # Errors
    /// The state is impossible, or of another machine. The machine does not start then.
    pub fn load(&mut self, state: &[u8]) -> Result<(), StateError> {
        let s = BrokerState::decode(state)?;
        if s.version != VERSION {
            return Err(StateError::Version(s.version, VERSION));
        }
        if s.functions.len() > MOST || s.unplugged.len() > MOST {
            return Err(StateError::Value("number of functions"));
        }
        if s.late.len() > LATE || s.late.iter().any(|page| page.bytes.len() != 4096 || page.frame > MAX_FRAME) {
            return Err(StateError::Value("page of memory"));
        }
        if s.video_ram != self.video_ram.as_ref().map_or(0, |v| v.gfn) {
            return Err(StateError::Value("place of video RAM"));
        }
        if let Some(old) = &s.server {
            self.replace(old);
        }
        for page in &s.late {
            self.memory.write(page.frame << 12, &page.bytes).map_err(|_| StateError::Value("page of memory"))?;
        }
        if let Some(vram) = &mut self.video_ram {
            vram.home = s.video_ram_home;
        }
        for one in &s.unplugged {
            self.unplug_again(one)?;
        }
        for function in &s.functions {
            let bdf = u16::try_from(function.bdf).map_err(|_| StateError::Value("function"))?;
            let index = self.channels.iter().position(|c| c.functions.iter().any(|f| f.spec.bdf() == bdf));
            let index = index.ok_or(StateError::Value("function"))?;
            if function.bars.len() != BARS.len() {
                return Err(StateError::Value("number of base addresses"));
            }
            // As the guest has written them: decoding begins with the last one.
            for (at, value) in BARS.into_iter().zip(&function.bars) {
                self.config_written(index, bdf, at, 4, *value);
            }
            self.config_written(index, bdf, reg::ROM, 4, function.rom);
            self.config_written(index, bdf, reg::COMMAND, 2, function.command & 0xffff);
        }
        if s.rom_locked {
            self.set_rom_writable(false);
        }
        self.place_video_ram_again();
        if let Some(cf8) = &mut self.cf8 {
            cf8.set_latched(s.cf8);
        }
        self.restored = true;
        Ok(())
    }

    /// Ends the ioreq server that this domain had, if it is the same domain.
    fn replace(&mut self, old: &ServerState) {
        let same = !old.boot.is_empty() && old.boot == self.domain.boot && old.domid == u32::from(self.domain.domid);
        if let Some(id) = u16::try_from(old.id).ok().filter(|id| same && *id != self.edge.server()) {
            tracing::info!(id, "soft reset: the former ioreq server ends");
            self.edge.replace(id);
        }
    }

    fn unplug_again(&mut self, one: &UnpluggedState) -> Result<(), StateError> {
        let parts = u16::try_from(one.parts).map_err(|_| StateError::Value("unplugged parts"))?;
        let channel = self.channels.iter_mut().find(|c| c.name == one.name && c.declaration.unplug != 0);
        let channel = channel.ok_or(StateError::Value("unplugged device"))?;
        let removes = channel.declaration.unplug_removes;
        if channel.presence.unplugged() {
            return Err(StateError::Value("device that is unplugged twice"));
        }
        if removes != (parts == 0) || parts & !channel.declaration.unplug != 0 {
            return Err(StateError::Value("unplugged parts"));
        }
        if removes {
            channel.presence.change(Change::UnplugAll);
            channel.presence.change(Change::Confirmed);
            self.unplugged.push(Action::Unplugged(channel.slot));
        } else {
            channel.presence.change(Change::UnplugParts);
            channel.unplugged_parts = parts;
            self.unplugged.push(Action::PartsUnplugged(channel.slot, parts));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
