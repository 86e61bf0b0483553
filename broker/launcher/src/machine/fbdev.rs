//! The picture on a stub domain's frame buffer, and the keys and the pointer of its front end.
use super::Machine;
use super::host::Part;
use crate::stubdom::Stubdom;
use bulkhead_plan::{DeviceConfig, FdUse};

/// The viewer on the frame buffer, if the machine has a display and the stub domain a frame buffer.
pub(crate) fn open(machine: &Machine, stubdom: &mut Stubdom) -> Option<Part> {
    machine.video?;
    let screen = stubdom.screen.take()?;
    let events = stubdom.events.drain(..).map(|fd| (FdUse::Events, fd));
    let kept = [(FdUse::Screen, screen)].into_iter().chain(events).collect();
    Some(Part { kept, ..Part::new(DeviceConfig::Fbdev { spread: stubdom.spread }) })
}
