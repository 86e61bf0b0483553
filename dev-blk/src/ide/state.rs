//! The saved state of the controller.
use crate::ata::state::{DriveState, SectorsState};
use bulkhead_bus::StateError;
use prost::Message as _;

/// Version of [`IdeState`]. Version 1 had a drive's registers in a fixed order, and its sense and translation packed.
pub(crate) const VERSION: u32 = 2;

/// The saved state of the function and both channels.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IdeState {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) channels: Vec<ChannelState>,
}

/// The saved state of one channel.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ChannelState {
    #[prost(uint32, tag = "1")]
    pub(crate) control: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) device: u32,
    #[prost(bool, tag = "3")]
    pub(crate) interrupt: bool,
    #[prost(uint32, tag = "4")]
    pub(crate) bm_command: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) bm_status: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) bm_table: u32,
    #[prost(message, repeated, tag = "7")]
    pub(crate) drives: Vec<DriveState>,
    /// A command was in progress: the drive aborts it, and the driver retries. Later processes save the command as aborted.
    #[prost(bool, tag = "8")]
    pub(crate) busy: bool,
    /// Writes to registers were lost: see `lost_writes`.
    #[prost(bool, tag = "9")]
    pub(crate) stale: bool,
    /// Address of the next entry of the PRD table, and the number of its used bytes; both 0: the table's first entry.
    #[prost(uint32, tag = "10")]
    pub(crate) bm_next: u32,
    #[prost(uint32, tag = "11")]
    pub(crate) bm_used: u32,
    /// The pending interrupt belongs to the drive that is not selected.
    #[prost(bool, tag = "12")]
    pub(crate) interrupt_of_other: bool,
    /// The command for whose next step the drive waits for the guest. A process that takes over after a crash has none.
    #[prost(message, optional, tag = "13")]
    pub(crate) command: Option<CommandState>,
}

/// A command that waits for the guest.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CommandState {
    /// What it waits for.
    #[prost(enumeration = "Awaits", tag = "1")]
    pub(crate) awaits: i32,
    /// It is the command of the drive that is not selected.
    #[prost(bool, tag = "2")]
    pub(crate) of_other: bool,
    /// Bytes for the guest that it has not read, or from it.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) buffer: Vec<u8>,
    /// Bytes of the buffer that the guest has written.
    #[prost(uint32, tag = "4")]
    pub(crate) at: u32,
    /// End of the block that the guest may read or write now.
    #[prost(uint32, tag = "5")]
    pub(crate) block_end: u32,
    /// Bytes of a block.
    #[prost(uint32, tag = "6")]
    pub(crate) block: u32,
    /// Sectors that are still to be transferred.
    #[prost(message, optional, tag = "7")]
    pub(crate) sectors: Option<SectorsState>,
    /// Bytes of a list that comes by DMA.
    #[prost(uint32, tag = "8")]
    pub(crate) list_bytes: u32,
    /// It is a packet command, with this byte count limit and one more.
    #[prost(uint32, tag = "9")]
    pub(crate) packet_limit: u32,
}

/// What a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Awaits {
    /// Nothing: the state is of no command.
    Nothing = 0,
    /// The guest reads the buffer.
    Reads = 1,
    /// It writes sectors.
    Sectors = 2,
    /// It writes a packet.
    Packet = 3,
    /// It writes the ranges of DATA SET MANAGEMENT.
    Ranges = 4,
    /// It writes the parameters of MODE SELECT.
    Parameters = 5,
    /// It starts the bus master for the buffer.
    DmaBytes = 6,
    /// The same for sectors to the guest.
    DmaIn = 7,
    /// The same for sectors from it.
    DmaOut = 8,
    /// The same for ranges.
    DmaRanges = 9,
    /// The same for parameters.
    DmaParameters = 10,
}

impl IdeState {
    /// Decodes a state of any known version.
    pub(crate) fn decoded(state: &[u8]) -> Result<Self, StateError> {
        let mut s = Self::decode(state)?;
        match s.version {
            1 => s.channels.iter_mut().flat_map(|c| &mut c.drives).try_for_each(DriveState::upgrade)?,
            VERSION => {}
            other => return Err(StateError::Version(other, VERSION)),
        }
        Ok(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::exercise::{loads, refuses};

    /// The same device in both versions, with values that differ from each other where their order could be wrong.
    const STATE: &[u8] = include_bytes!("../../tests/golden/ide-2-registers.state");
    const OLD: &[u8] = include_bytes!("../../tests/golden/ide-1-registers.state");

    #[test]
    fn version_1_has_the_same_values() {
        assert_eq!(loads(&crate::ide::TARGET, OLD).unwrap(), STATE);
    }

    #[test]
    fn a_refused_state_changes_nothing() {
        let refused = |state: &[u8], change: fn(&mut IdeState)| {
            let mut s = IdeState::decode(state).unwrap();
            change(&mut s);
            refuses(&crate::ide::TARGET, &s.encode_to_vec()).unwrap()
        };
        assert_eq!(refused(STATE, |s| s.version = 3), StateError::Version(3, VERSION));
        for change in [
            (|s| s.version = 2) as fn(&mut IdeState),
            |s| s.channels[0].drives[0].old_registers.push(0),
            |s| s.channels[0].drives[0].old_translation = 17 << 8 | 1,
            |s| s.channels[0].drives[0].old_translation = 1 << 8,
            |s| s.channels[0].drives[0].old_translation = 1,
            |s| s.channels[0].drives[0].old_translation = 1 << 16 | 1 << 8 | 1,
        ] {
            assert!(matches!(refused(OLD, change), StateError::Value(_)));
        }
        for change in [
            (|s| s.version = 1) as fn(&mut IdeState),
            |s| s.channels[0].drives[0].registers = None,
            |s| s.channels[0].drives[0].registers.as_mut().unwrap().features = 1 << 8,
            |s| s.channels[0].drives[0].registers.as_mut().unwrap().lba_high_before = 1 << 8,
            |s| s.channels[0].drives[0].sense_key = 1 << 8,
            |s| s.channels[0].drives[0].sense_code = 1 << 8,
            |s| s.channels[0].drives[0].sense_qualifier = 1 << 8,
            |s| s.channels[0].drives[0].translation.as_mut().unwrap().heads = 0,
            |s| s.channels[0].drives[0].translation.as_mut().unwrap().heads = 17,
            |s| s.channels[0].drives[0].translation.as_mut().unwrap().sectors = 0,
            |s| s.channels[0].drives[0].translation.as_mut().unwrap().sectors = 1 << 8,
            // Errors behind values that are valid.
            |s| s.channels[0].drives[1].event = 4,
            |s| s.channels[0].bm_status = 1 << 8,
            |s| s.channels[1].drives[0].power = 3,
            |s| s.channels[1].control = 1 << 8,
            |s| drop(s.channels[1].drives.pop()),
        ] {
            assert!(matches!(refused(STATE, change), StateError::Value(_)));
        }
    }
}
