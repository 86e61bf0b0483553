//! The card for its fuzz target and its corpus test.
mod recipes;

use super::{RETRY, Rtl8139, spec};
use crate::backend::Backend;
use crate::exercised::{ARRIVING, Action, MAC, Outside, SEGMENTS, Setup};
use bulkhead_bus::Device;
use bulkhead_bus::exercise::{Host, Restart, Stage, Target};
use bulkhead_bus::nic::NicSettings;

fn build(setup: &Setup, back: Box<dyn Backend>, nic: &NicSettings) -> Box<dyn Device> {
    Box::new(Rtl8139::new(4, setup.rom, MAC, back, nic).with_lease(setup.lease.clone()))
}

fn make(stage: &Stage) -> Box<dyn Host> {
    Box::new(Outside::new(stage, RETRY, build))
}

/// Most calls to guest memory for one record. A poll command passes at most 128 descriptors in each ring, which are read with their
/// buffers and written back; while time passes there are at most 64 polls. Frames arrive from the wire, or wait in loopback; the
/// largest ones become segments, for each of which as many descriptors as a ring has are read, and written back twice with their
/// buffers, if each has room for a few bytes only. Most frames of a segment's size need one of them, so a fourth of a ring is
/// allowed here.
const WORK: u64 = 64 * 2 * 128 * 3 + (ARRIVING + SEGMENTS) * (spec::RING as u64 / 4) * 4;

/// A card to which sent frames are returned, and whose DHCP requests are answered, if the settings want no other.
///
/// A new process has no frames in flight (arrived ones that wait for descriptors, sent ones that wait for the back end): the guest
/// sees a network that has lost them. It goes on with a poll command that the dead process has not completed.
pub static TARGET: Target = Target {
    work: WORK,
    registers: spec::REGISTERS,
    shapes: spec::SHAPES,
    actions: Action::ALL.len() as u8,
    recipes: recipes::ALL,
    // A network may lose what is in flight, and interrupts that are put off come at once.
    moved: Restart::Documented,
    ..Target::new("rtl8139", make)
};
