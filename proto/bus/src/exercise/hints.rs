//! What a device's specification tells the mutator and the reader of a report: registers with their names and sections, and the
//! structures in guest memory that the device reads.

/// A register, or a field that has an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its name in the specification.
    pub name: &'static str,
    /// The section that describes it.
    pub section: &'static str,
    /// Index of its region.
    pub region: u8,
    /// Offset in the region.
    pub offset: u32,
    /// Bytes of an ordinary access.
    pub size: u8,
    /// Values that mean something: commands, masks, addresses of structures ([`home`]).
    pub words: &'static [u64],
}

impl Register {
    /// A register without special values.
    pub const fn new(name: &'static str, section: &'static str, region: u8, offset: u32, size: u8) -> Self {
        Self { name, section, region, offset, size, words: &[] }
    }

    /// With values that mean something.
    #[must_use]
    pub const fn words(mut self, words: &'static [u64]) -> Self {
        self.words = words;
        self
    }
}

/// What a field of a structure holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The address of a buffer.
    Buffer,
    /// The address of another structure: the shape's index, and bits to add.
    Link(u8, &'static [u64]),
    /// A number of bytes, up to this one.
    Length(u64),
    /// Bits; one of these, or a mixture.
    Flags(&'static [u64]),
    /// Anything.
    Any,
}

/// A field of a structure in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Offset in the structure.
    pub offset: u8,
    /// Bytes: 1 to 8.
    pub size: u8,
    /// What it holds.
    pub holds: Holds,
}

impl Field {
    /// A field of `size` bytes.
    pub const fn new(offset: u8, size: u8, holds: Holds) -> Self {
        Self { offset, size, holds }
    }
}

/// A structure that the device reads from guest memory: a descriptor, a table's entry, a frame list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its name in the specification.
    pub name: &'static str,
    /// Bytes of one.
    pub len: u8,
    /// Its fields.
    pub fields: &'static [Field],
}

/// The address at which the mutator puts structures of the shape with this index, one after the other.
pub const fn home(shape: u8) -> u64 {
    0x1000u64.saturating_mul((shape as u64).saturating_add(1))
}

/// Where the mutator puts buffers.
pub const BUFFERS: u64 = 0x9000;
