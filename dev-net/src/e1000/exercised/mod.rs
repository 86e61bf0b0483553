//! The card for its fuzz target and its corpus test.
mod recipes;

use super::{E1000, RETRY, spec};
use crate::backend::Backend;
use crate::exercised::{Action, MAC, Outside, Setup};
use bulkhead_bus::Device;
use bulkhead_bus::exercise::{Host, Restart, Stage, Target};
use bulkhead_bus::nic::NicSettings;

fn build(setup: &Setup, back: Box<dyn Backend>, nic: &NicSettings) -> Box<dyn Device> {
    Box::new(E1000::new(4, setup.rom, MAC, back, nic).with_lease(setup.lease.clone()))
}

fn make(stage: &Stage) -> Box<dyn Host> {
    Box::new(Outside::new(stage, RETRY, build))
}

/// Most calls to guest memory for one record. Head and tail are indices of 16 bits below the ring's length, and each descriptor of
/// both rings is passed once: one that is sent is read, with its buffer, and written back; one that is filled is read and written
/// back, with its buffer. A new process looks at each descriptor of the receive ring before.
const WORK: u64 = (1 << 16) * (3 + 3 + 1);

/// A card to which sent frames are returned, and whose DHCP requests are answered, if the settings want no other.
///
/// A new process has no frames in flight (arrived ones that wait for descriptors, sent ones that wait for the back end): the guest
/// sees a network that has lost them. It collects a frame of several descriptors again from its first one, and raises delayed
/// interrupts at once.
pub static TARGET: Target = Target {
    work: WORK,
    registers: spec::REGISTERS,
    shapes: spec::SHAPES,
    actions: Action::ALL.len() as u8,
    recipes: recipes::ALL,
    // A network may lose what is in flight, and interrupts that are put off come at once.
    moved: Restart::Documented,
    ..Target::new("e1000", make)
};
