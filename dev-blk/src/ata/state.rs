//! The saved state of a drive. The transport fills in the registers of a command; a drive leaves them empty.
use bulkhead_bus::StateError;

/// The saved state of one drive.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DriveState {
    /// Version 1: current and previous: features, count, LBA low, mid, high.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) old_registers: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) status: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) error: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) multiple: u32,
    /// Version 1: key, code and qualifier of the sense, a byte each, highest first.
    #[prost(uint32, tag = "5")]
    pub(crate) old_sense: u32,
    #[prost(bool, tag = "6")]
    pub(crate) present: bool,
    #[prost(uint32, tag = "7")]
    pub(crate) dma_mode: u32,
    #[prost(bool, tag = "8")]
    pub(crate) locked: bool,
    #[prost(bool, tag = "9")]
    pub(crate) tray_open: bool,
    #[prost(bool, tag = "10")]
    pub(crate) attention: bool,
    #[prost(uint32, tag = "11")]
    pub(crate) event: u32,
    #[prost(message, optional, tag = "12")]
    pub(crate) counters: Option<CountersState>,
    /// Version 1: heads and sectors per track, a byte each; 0: the default translation.
    #[prost(uint32, tag = "13")]
    pub(crate) old_translation: u32,
    #[prost(bool, tag = "14")]
    pub(crate) no_write_cache: bool,
    #[prost(bool, tag = "15")]
    pub(crate) no_look_ahead: bool,
    /// A software reset keeps all settings.
    #[prost(bool, tag = "16")]
    pub(crate) keep_settings: bool,
    #[prost(uint32, tag = "17")]
    pub(crate) power: u32,
    /// The guest has opened the tray, and the medium is on it.
    #[prost(bool, tag = "18")]
    pub(crate) medium_on_open_tray: bool,
    #[prost(message, optional, tag = "19")]
    pub(crate) registers: Option<RegistersState>,
    #[prost(uint32, tag = "20")]
    pub(crate) sense_key: u32,
    #[prost(uint32, tag = "21")]
    pub(crate) sense_code: u32,
    #[prost(uint32, tag = "22")]
    pub(crate) sense_qualifier: u32,
    /// The translation that the guest has set.
    #[prost(message, optional, tag = "23")]
    pub(crate) translation: Option<TranslationState>,
}

/// The saved registers of a command, each with its previous value.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct RegistersState {
    #[prost(uint32, tag = "1")]
    pub(crate) features: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) features_before: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) count: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) count_before: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) lba_low: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) lba_low_before: u32,
    #[prost(uint32, tag = "7")]
    pub(crate) lba_mid: u32,
    #[prost(uint32, tag = "8")]
    pub(crate) lba_mid_before: u32,
    #[prost(uint32, tag = "9")]
    pub(crate) lba_high: u32,
    #[prost(uint32, tag = "10")]
    pub(crate) lba_high_before: u32,
}

/// A saved translation.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct TranslationState {
    #[prost(uint32, tag = "1")]
    pub(crate) heads: u32,
    /// Sectors per track.
    #[prost(uint32, tag = "2")]
    pub(crate) sectors: u32,
}

impl DriveState {
    /// Names what version 1 has in a fixed order or packed.
    pub(crate) fn upgrade(&mut self) -> Result<(), StateError> {
        let Ok(registers) = <[u8; 10]>::try_from(self.old_registers.as_slice()) else {
            return Err(StateError::Value("drive registers"));
        };
        let [
            features,
            features_before,
            count,
            count_before,
            lba_low,
            lba_low_before,
            lba_mid,
            lba_mid_before,
            lba_high,
            lba_high_before,
        ] = registers.map(u32::from);
        self.registers = Some(RegistersState {
            features,
            features_before,
            count,
            count_before,
            lba_low,
            lba_low_before,
            lba_mid,
            lba_mid_before,
            lba_high,
            lba_high_before,
        });
        let [_, key, code, qualifier] = self.old_sense.to_be_bytes().map(u32::from);
        self.sense_key = key;
        self.sense_code = code;
        self.sense_qualifier = qualifier;
        let heads = self.old_translation >> 8;
        let sectors = self.old_translation & 0xff;
        self.translation = (self.old_translation != 0).then_some(TranslationState { heads, sectors });
        Ok(())
    }
}

/// The saved sectors of a command, and how far it has come.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct SectorsState {
    /// The next sector, and how many are left.
    #[prost(uint64, tag = "1")]
    pub(crate) next: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) left: u32,
    /// They are a CD's.
    #[prost(bool, tag = "3")]
    pub(crate) cd: bool,
    /// The parts of each that the host gets: the byte of READ CD.
    #[prost(uint32, tag = "4")]
    pub(crate) form: u32,
    #[prost(uint64, tag = "5")]
    pub(crate) form_next: u64,
}

/// The saved counts of a drive's operations.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct CountersState {
    #[prost(uint64, tag = "1")]
    pub(crate) reads: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) bytes_read: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) writes: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) bytes_written: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) flushes: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) trims: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) failed: u64,
}
