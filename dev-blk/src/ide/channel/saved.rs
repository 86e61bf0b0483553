//! The saved state of a channel, and its registers for `inspect`.
use super::bus_master::BusMaster;
use super::{After, Channel, TransferPhase};
use crate::ata::spec::DeviceRegister;
use crate::ide::spec::DeviceControl;
use crate::ide::state::ChannelState;
use crate::ide::task_file::Attached;
use bulkhead_bus::{Inspect, StateError};

fn control(s: &ChannelState) -> Result<DeviceControl, StateError> {
    u8::try_from(s.control).map(DeviceControl::from_bits).map_err(|_| StateError::Value("device control"))
}

fn device(s: &ChannelState) -> Result<DeviceRegister, StateError> {
    u8::try_from(s.device).map(DeviceRegister::from_bits).map_err(|_| StateError::Value("device register"))
}

impl Channel {
    /// A command in progress is saved as aborted, with its interrupt: that is what a process that takes over can tell the guest.
    pub(crate) fn save(&self) -> ChannelState {
        // The result of a job from before a reset is dropped.
        let busy = !matches!(self.phase, TransferPhase::Idle | TransferPhase::Working(After::Nothing));
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
        BusMaster::load(s).map(drop)
    }

    /// Restores a state; on error nothing has changed.
    pub(crate) fn load(&mut self, s: &ChannelState) -> Result<(), StateError> {
        self.check(s)?;
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
