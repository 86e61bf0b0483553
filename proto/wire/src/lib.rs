//! The layout of the two memory areas that the broker and one device process share, one for each direction, each writable by one
//! side only.
//!
//! | area | written by | holds |
//! |---|---|---|
//! | *request* | the broker | header, request cells with payload windows, the ring of posted writes |
//! | *reply* | the device | header, reply cells with payload windows, interrupt lines, shadowed registers, the state page |
//!
//! Everything here is plain data: offsets, and structs that are copied out of the shared area as a whole before any field is read.
//! This crate does not access shared memory; `bulkhead-ring` does.
//! All numbers are little endian, the only byte order that Xen HVM guests have.
#![no_std]

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First word of both areas: "BHD" and the number of the layout's major version.
pub const MAGIC: u32 = 0x3144_4842;

/// Version of the layout. Both sides are always the same build (see [`BUILD_ID`]); this number is for people who compare dumps.
pub const PROTOCOL_VERSION: u32 = 1;

/// Identifies the build. A process whose peer's header has another one refuses to work: versions are never mixed.
pub const BUILD_ID: u64 = fnv1a(match option_env!("BULKHEAD_BUILD_ID") {
    Some(id) => id.as_bytes(),
    None => concat!(env!("CARGO_PKG_VERSION"), "-unnamed").as_bytes(),
});

/// The build for people: a commit in a package, else `unnamed`.
pub const BUILD: &str = match option_env!("BULKHEAD_BUILD_ID") {
    Some(id) => id,
    None => "unnamed",
};

/// Bytes of a page of shared memory.
pub const PAGE: usize = 4096;
/// Bytes of payload that a string operation can carry in one request: Xen ends each one at a page boundary.
pub const PAYLOAD: usize = PAGE;
/// Most bytes of the whole state of a device, as a saved machine has it: the IDE controller's, with whole sectors of a CD for both channels.
pub const SAVED: usize = 320 << 10;
/// Bytes from one cell to the next, without the payload windows, which follow all cells.
pub const CELL: usize = 128;
/// Most vCPUs that a domain can have here: one ioreq page has room for so many (xen/include/public/hvm/ioreq.h).
pub const MAX_VCPUS: usize = 128;
/// Entries of the ring of posted writes. A power of two.
pub const POSTED: usize = 512;
/// Interrupt lines that one channel can have.
pub const LINES: usize = 16;
/// PCI functions that one channel can have.
pub const FUNCTIONS: usize = 8;
/// Shadowed registers that one channel can have.
pub const SHADOWS: usize = 64;
/// Bytes in one half of the state page.
pub const STATE: usize = 32 * 1024;

const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    #[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "evaluated at compile time")]
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// The operation of a request. The device's side refuses values that are not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Read `size` bytes at `region`/`offset`; with `count` > 1 a string, whose data goes to the payload window.
    Read = 1,
    /// Write `data`, or the payload window if the flag says so.
    Write = 2,
    /// Drop every mapping of guest memory (Xen's IOREQ_TYPE_INVALIDATE); answered when all are gone.
    Invalidate = 3,
    /// The unplug protocol: `data` is the mask (docs/misc/hvm-emulated-unplug.pandoc); answered when it is done.
    Unplug = 4,
    /// Reset of the machine; the device goes to its power-on state.
    Reset = 5,
    /// Driven clock: answers with the next deadline in nanoseconds, or all ones if there is none.
    NextDeadline = 6,
    /// Driven clock: the time is now `data` nanoseconds.
    Advance = 7,
}

impl Op {
    /// Decodes an operation.
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::Invalidate,
            4 => Self::Unplug,
            5 => Self::Reset,
            6 => Self::NextDeadline,
            7 => Self::Advance,
            _ => return None,
        })
    }
}

/// How the address moves from one element of a string operation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// It stays: ports.
    Stay = 0,
    /// It grows by the element's size.
    Up = 1,
    /// It shrinks by the element's size.
    Down = 2,
}

impl Step {
    /// Decodes a step.
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Stay,
            1 => Self::Up,
            2 => Self::Down,
            _ => return None,
        })
    }
}

/// A request cell's flags.
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RequestFlags {
    /// The data of a write is in the payload window, `count` elements of `size` bytes.
    pub payload: bool,
    #[bits(7)]
    __: u8,
}

/// A request, as copied out of its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// [`Op`].
    pub op: u8,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub size: u8,
    /// [`Step`].
    pub step: u8,
    /// See [`RequestFlags`].
    pub flags: RequestFlags,
    /// Index of the region in the device's declaration, or [`config_region`] of a function.
    pub region: u16,
    /// Zero, for alignment.
    pub pad: u16,
    /// Elements, 1 for all but string operations; `count * size` is at most [`PAYLOAD`].
    pub count: u32,
    /// Position in the ring of posted writes; all writes before it are handled first.
    pub posted: u32,
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Data of a write without payload.
    pub data: u64,
}

impl Request {
    /// A request that concerns the whole device, not a register of it.
    pub fn without_address(op: Op, data: u64) -> Self {
        let (flags, op) = (RequestFlags::new(), op as u8);
        Self { op, size: 1, step: 0, flags, region: 0, pad: 0, count: 1, posted: 0, offset: 0, data }
    }
}

/// What the broker does for the device before it completes the access. The device's declaration says which of these it may request.
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Effects {
    /// The guest has powered itself off.
    pub power_off: bool,
    /// The guest requests a reboot.
    pub reboot: bool,
    /// Make the firmware's memory 0xc0000–0xfffff read-only.
    pub rom_lock: bool,
    /// Make it writable again.
    pub rom_unlock: bool,
    /// Carry out the unplug protocol with the mask in [`Reply::mask`], before the guest continues.
    pub unplug: bool,
    /// The guest ejects the PCI devices on bus 0 whose bits are in [`Reply::mask`]; they are removed before it continues.
    pub eject: bool,
    /// Zero. A device that sets one of these bits breaks the protocol.
    #[bits(26)]
    pub reserved: u32,
}

/// A reply, as copied out of its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// The value read, or the result of another operation.
    pub value: u64,
    /// Actions of the broker before it answers Xen.
    pub effects: Effects,
    /// The unplug protocol's mask, or a bit for each PCI device to eject, if `effects` requests one of these.
    pub mask: u32,
}

/// One posted write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Posted {
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Data; unused high bytes are zero.
    pub data: u64,
    /// Elements; `data` is written `count` times.
    pub count: u32,
    /// Index of the region.
    pub region: u16,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub size: u8,
    /// [`Step`].
    pub step: u8,
}

/// Regions from here on are the configuration spaces of the device's PCI functions, in the order of its declaration.
pub const CONFIG_REGION: u16 = 0xff00;

/// The region of the configuration space of function `function`, an index into the device's declaration.
pub const fn config_region(function: u8) -> u16 {
    CONFIG_REGION | function as u16
}

/// The function whose configuration space `region` is; `None`: it is a region of the declaration.
pub const fn config_function(region: u16) -> Option<u8> {
    if region >= CONFIG_REGION { Some(region as u8) } else { None }
}

/// Region of a posted write that reports lost writes to a new process: while the device was away, guest writes to a region were
/// dropped. `data` is that region, `offset` the register of the last dropped write. Higher than any region, lower than
/// [`CONFIG_REGION`].
pub const LOST_WRITES: u16 = 0xfe00;

/// A shadowed register: the broker answers reads of it while they have no side effect.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Shadow {
    /// What a read returns.
    pub value: u32,
    /// A read has no side effect at present, so the broker may answer it.
    pub valid: bool,
    #[bits(31)]
    __: u32,
}

/// Offsets in the request area.
pub mod request {
    use super::*;
    /// Header: magic u32, version u32, build id u64.
    pub const HEADER: usize = 0;
    /// u32: the broker sleeps; ring its doorbell.
    pub const ASLEEP: usize = 64;
    /// u32: counts the broker's publications; the device compares it before it sleeps.
    pub const BELL: usize = 128;
    /// u32: posted writes put into the ring so far.
    pub const POSTED_HEAD: usize = 132;
    /// The ring of posted writes.
    pub const POSTED_RING: usize = PAGE;
    /// The cells: sequence number u32, then [`Request`] at 8.
    pub const CELLS: usize = POSTED_RING + (POSTED * size_of::<Posted>()).next_multiple_of(PAGE);
}

/// Offsets in the reply area.
pub mod reply {
    use super::*;
    /// Header: magic u32, version u32, build id u64.
    pub const HEADER: usize = 0;
    /// u32: the device sleeps; ring its doorbell.
    pub const ASLEEP: usize = 64;
    /// u32: counts the device's publications; the broker compares it before it sleeps.
    pub const BELL: usize = 128;
    /// u32: posted writes handled so far.
    pub const POSTED_TAIL: usize = 132;
    /// u32: which half of the state page holds the newest state: 0 none, 1 or 2.
    pub const STATE_HALF: usize = 136;
    /// [`super::MARKS`] words u64: positions in the device's rings, newer than the state page. Bit 63: the mark is set.
    pub const MARKS_AT: usize = 192;
    /// Per line: level u32 (0, 1), edges u32 (pulses and rises).
    pub const LINES_AT: usize = 1024;
    /// [`Shadow`] words.
    pub const SHADOWS_AT: usize = 2048;
    /// Configuration spaces, 256 bytes a function.
    pub const CONFIG_AT: usize = PAGE;
    /// The two halves of the state page: length u32, pad u32, bytes.
    pub const STATE_AT: usize = PAGE + (FUNCTIONS * 256).next_multiple_of(PAGE);
    /// The cells: sequence number u32, then [`Reply`] at 8.
    pub const CELLS: usize = STATE_AT + 2 * STATE;
}

/// Number of marks of a device (`reply::MARKS_AT`).
pub const MARKS: usize = 4;

/// Offsets in the surface: the picture that a display draws and viewers read. One sparse memfd of the largest geometry,
/// written by the display only, new for each process of the display.
pub mod surface {
    use super::*;
    /// Header: magic u32, version u32, build id u64.
    pub const HEADER: usize = 0;
    /// u32: odd while the display draws. A reader whose copy began or ended on an odd or another value copies again.
    pub const SEQUENCE: usize = 64;
    /// u32: counts the updates that changed something.
    pub const GENERATION: usize = 68;
    /// u32: pixels of a line.
    pub const WIDTH: usize = 72;
    /// u32: lines.
    pub const HEIGHT: usize = 76;
    /// u32: bytes from one line to the next.
    pub const STRIDE: usize = 80;
    /// u32: [`FORMAT_XRGB8888`].
    pub const FORMAT: usize = 84;
    /// Little-endian words 0x00RRGGBB.
    pub const FORMAT_XRGB8888: u32 = 1;
    /// Most lines.
    pub const LINES: usize = 16384;
    /// Most pixels.
    pub const PIXELS: usize = 16 << 20;
    /// u32 per line: the last generation that changed it. A viewer that has seen generation g sends the lines with a greater
    /// number.
    pub const LINES_AT: usize = PAGE;
    /// The pixels, line after line.
    pub const PIXELS_AT: usize = LINES_AT + LINES * 4;
    /// Bytes of the whole surface.
    pub const LEN: usize = PIXELS_AT + PIXELS * 4;
}

/// The size of a channel's areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Cells: one per vCPU and one for the broker itself.
    pub cells: usize,
}

impl Shape {
    /// The shape for a domain with `vcpus` vCPUs, 1 to [`MAX_VCPUS`].
    pub const fn new(vcpus: usize) -> Option<Self> {
        if vcpus == 0 || vcpus > MAX_VCPUS { None } else { Some(Self { cells: vcpus.saturating_add(1) }) }
    }

    const fn windows(self) -> usize {
        self.cells.saturating_mul(CELL).next_multiple_of(PAGE)
    }

    /// Bytes of the request area.
    pub const fn request_len(self) -> usize {
        request::CELLS.saturating_add(self.windows()).saturating_add(self.cells.saturating_mul(PAYLOAD))
    }

    /// Bytes of the reply area.
    pub const fn reply_len(self) -> usize {
        reply::CELLS.saturating_add(self.windows()).saturating_add(self.cells.saturating_mul(PAYLOAD))
    }

    /// Offset of cell `index` in an area whose cells begin at `base`; `None` beyond the last.
    pub const fn cell(self, base: usize, index: usize) -> Option<usize> {
        if index < self.cells { Some(base.saturating_add(index.saturating_mul(CELL))) } else { None }
    }

    /// Offset of the payload window of cell `index`.
    pub const fn payload(self, base: usize, index: usize) -> Option<usize> {
        if index < self.cells {
            Some(base.saturating_add(self.windows()).saturating_add(index.saturating_mul(PAYLOAD)))
        } else {
            None
        }
    }
}

/// Offset of a cell's struct in the cell, after the sequence number.
pub const CELL_BODY: usize = 8;

const _: () = {
    assert!(size_of::<Request>() == 32);
    assert!(size_of::<Reply>() == 16);
    assert!(size_of::<Posted>() == 24);
    assert!(CELL_BODY + size_of::<Request>() <= CELL);
    assert!(POSTED.is_power_of_two());
    assert!(reply::LINES_AT + LINES * 8 <= reply::SHADOWS_AT);
    assert!(reply::SHADOWS_AT + SHADOWS * 8 <= PAGE);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cells_and_windows_never_overlap_or_leave_the_area(vcpus in 1..=MAX_VCPUS) {
            let shape = Shape::new(vcpus).unwrap();
            for (base, len) in [(request::CELLS, shape.request_len()), (reply::CELLS, shape.reply_len())] {
                let mut end = base;
                for i in 0..shape.cells {
                    let at = shape.cell(base, i).unwrap();
                    prop_assert_eq!(at, end);
                    end = at + CELL;
                }
                end = end.next_multiple_of(PAGE);
                for i in 0..shape.cells {
                    let at = shape.payload(base, i).unwrap();
                    prop_assert_eq!(at, end);
                    end = at + PAYLOAD;
                }
                prop_assert_eq!(end, len);
                prop_assert_eq!(shape.cell(base, shape.cells), None);
                prop_assert_eq!(shape.payload(base, shape.cells), None);
            }
        }

        #[test]
        fn unknown_codes_are_no_operation(value in 8u8..) {
            prop_assert_eq!(Op::from_u8(value), None);
            prop_assert_eq!(Step::from_u8(value), None);
        }
    }

    #[test]
    fn a_domain_has_one_to_128_vcpus() {
        assert_eq!(Shape::new(0), None);
        assert_eq!(Shape::new(MAX_VCPUS + 1), None);
    }
}
