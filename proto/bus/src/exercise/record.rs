//! The input of a run: settings of the subject, then records. A record is one operation of guest or host. Records are independent of each
//! other, so an input stays valid when records are inserted, removed or moved.

/// Bytes of settings at an input's begin. Each subject gives them its own meaning.
pub const SETTINGS: usize = 8;
/// Bytes of a record without its data.
pub const HEAD: usize = 16;
/// Most records of one run; the rest of the input is ignored.
pub const RECORDS: usize = 2000;

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The guest reads `size` bytes at `offset` of region `place`.
    Read,
    /// The guest writes `value` there.
    Write,
    /// The guest reads `value` elements from one port (`rep ins`), at most [`ELEMENTS`].
    ReadString,
    /// The guest writes `value` elements to one port (`rep outs`): `data`, repeated.
    WriteString,
    /// The guest reads `size` bytes of the configuration space of function `place` at `offset`.
    ConfigRead,
    /// The guest writes `value` there.
    ConfigWrite,
    /// `value` nanoseconds pass, at most [`LONGEST`].
    Advance,
    /// The guest writes `data` to its memory at `value`; `offset` is the number of bytes if it is not 0: `data` is repeated.
    Memory,
    /// What the device reads of memory that the guest has not written is `data`, repeated; each read adds `size` to the bytes, so that
    /// two reads of one place differ. Without data, memory that was not written is zero.
    Pattern,
    /// A key (`place` 0), a movement (1) or a button (2) of `value`.
    Event,
    /// The host's side of the device does `place` of its own actions, with `value` and `data`.
    Host,
    /// The machine is reset.
    Reset,
    /// The guest unplugs devices with the mask `value`.
    Unplug,
    /// The machine is stopped and runs again.
    StopAndRun,
    /// A picture is taken.
    Screenshot,
    /// A hostile broker reports lost writes to region `place`, the last one at `offset`.
    LostWrites,
    /// The device's registers are read by a person.
    Inspect,
    /// The device's state with changed bytes is loaded: `data` has places (16 bits) and values; with `size` 2 it is cut to `offset` bytes.
    /// It must be refused as a whole or be harmless.
    HostileState,
    /// The state is saved, loaded into a new device and saved again, and must be the same.
    Check,
    /// The process is killed, and another one continues.
    Restart,
    /// Descriptor `place` becomes ready.
    Ready,
    /// The machine is saved, and another process goes on with the whole state. Without restarts it is stopped and runs again.
    Move,
}

/// Most elements of a string access.
pub const ELEMENTS: u64 = 1024;
/// Most nanoseconds of one [`Kind::Advance`]: some minutes.
pub const LONGEST: u64 = 500_000_000_000;

impl Kind {
    /// All kinds; a record's first byte is an index here.
    pub const ALL: [Self; 22] = [
        Self::Read,
        Self::Write,
        Self::ReadString,
        Self::WriteString,
        Self::ConfigRead,
        Self::ConfigWrite,
        Self::Advance,
        Self::Memory,
        Self::Pattern,
        Self::Event,
        Self::Host,
        Self::Reset,
        Self::Unplug,
        Self::StopAndRun,
        Self::Screenshot,
        Self::LostWrites,
        Self::Inspect,
        Self::HostileState,
        Self::Check,
        Self::Restart,
        Self::Ready,
        Self::Move,
    ];

    fn of(byte: u8) -> Self {
        usize::from(byte).checked_rem(Self::ALL.len()).and_then(|i| Self::ALL.get(i)).copied().unwrap_or(Self::Read)
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it does.
    pub kind: Kind,
    /// A region, a function or an action.
    pub place: u8,
    /// Bytes of an access: 1, 2, 4 or 8; with [`Kind::Pattern`] any number.
    pub size: u8,
    /// An offset in a region.
    pub offset: u32,
    /// A value.
    pub value: u64,
    /// Bytes, at most 255.
    pub data: Vec<u8>,
}

impl Record {
    /// A record of `kind` with zeroes.
    pub fn new(kind: Kind) -> Self {
        Self { kind, place: 0, size: 1, offset: 0, value: 0, data: Vec::new() }
    }

    /// A read of `size` bytes.
    pub fn read(region: u8, offset: u32, size: u8) -> Self {
        Self { place: region, size, offset, ..Self::new(Kind::Read) }
    }

    /// A write of `size` bytes.
    pub fn write(region: u8, offset: u32, size: u8, value: u64) -> Self {
        Self { place: region, size, offset, value, ..Self::new(Kind::Write) }
    }

    /// A write to guest memory. Only the first 255 bytes are kept.
    pub fn memory(address: u64, data: &[u8]) -> Self {
        Self { value: address, data: data.iter().take(255).copied().collect(), ..Self::new(Kind::Memory) }
    }

    /// An action of the host.
    pub fn host(action: u8, value: u64, data: &[u8]) -> Self {
        Self { place: action, value, data: data.iter().take(255).copied().collect(), ..Self::new(Kind::Host) }
    }

    /// Time that passes, in nanoseconds.
    pub fn advance(nanoseconds: u64) -> Self {
        Self { value: nanoseconds, ..Self::new(Kind::Advance) }
    }

    /// The size of an access: `size` as a power of two.
    pub fn width(&self) -> u8 {
        match self.size {
            1 => 1,
            2 => 2,
            4 => 4,
            8 => 8,
            other => 1u8 << (other & 3),
        }
    }

    fn put(&self, to: &mut Vec<u8>) {
        let len = u8::try_from(self.data.len()).unwrap_or(u8::MAX);
        to.extend([self.kind as u8, self.place, self.size, len]);
        to.extend(self.offset.to_le_bytes());
        to.extend(self.value.to_le_bytes());
        to.extend(self.data.iter().take(usize::from(len)));
    }
}

/// Settings and records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The subject's settings.
    pub settings: [u8; SETTINGS],
    /// What happens, in order.
    pub records: Vec<Record>,
}

impl Script {
    /// Any bytes are a script: what is missing at their end is zero.
    pub fn of(bytes: &[u8]) -> Self {
        let mut script = Self::default();
        let (head, mut rest) = bytes.split_at_checked(SETTINGS).unwrap_or((bytes, &[]));
        script.settings.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        while !rest.is_empty() && script.records.len() < RECORDS {
            let mut head = [0; HEAD];
            let (mine, after) = rest.split_at_checked(HEAD).unwrap_or((rest, &[]));
            head.iter_mut().zip(mine).for_each(|(to, from)| *to = *from);
            let [kind, place, size, len, o0, o1, o2, o3, value @ ..] = head;
            let (data, after) = after.split_at_checked(usize::from(len)).unwrap_or((after, &[]));
            rest = after;
            script.records.push(Record {
                kind: Kind::of(kind),
                place,
                size,
                offset: u32::from_le_bytes([o0, o1, o2, o3]),
                value: u64::from_le_bytes(value),
                data: data.to_vec(),
            });
        }
        script
    }

    /// The bytes of which [`Self::of`] makes this script.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.settings.to_vec();
        self.records.iter().for_each(|r| r.put(&mut bytes));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_script_and_a_script_is_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let script = Script::of(&bytes);
            let again = Script::of(&script.to_bytes());
            prop_assert_eq!(&again, &script);
            prop_assert!(script.to_bytes().len() <= bytes.len().max(SETTINGS) + HEAD);
        }

        #[test]
        fn records_survive_the_removal_of_others(
            bytes in prop::collection::vec(any::<u8>(), 100..600), index: prop::sample::Index
        ) {
            let mut script = Script::of(&bytes);
            prop_assume!(!script.records.is_empty());
            script.records.remove(index.index(script.records.len()));
            prop_assert_eq!(Script::of(&script.to_bytes()), script);
        }
    }

    #[test]
    fn each_kind_has_the_number_of_its_place() {
        for (i, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i, "{kind:?}");
        }
    }
}
