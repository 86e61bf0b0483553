//! The bus master's registers (Intel, Programming Interface for Bus Master IDE Controller 1.0). Start only arms the engine; a
//! command that waits for it transfers the data.
use crate::ide::spec::{BusMasterCommand, BusMasterStatus};
use crate::ide::state::ChannelState;
use bulkhead_bus::StateError;

/// The state of the engine, or the result of the last transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::ide) enum Progress {
    /// The table has unused entries, and no command transfers data.
    #[default]
    Waiting,
    /// A job reads or writes guest memory.
    UnderWay,
    /// The table was as long as the transfer.
    Equal,
    /// The table was longer than the transfer.
    Longer,
    /// The table was shorter than the transfer.
    Shorter,
    /// The drive has ended its command with an error.
    Failed,
    /// The table or a buffer is no RAM, or the direction bit is wrong.
    Refused,
}

/// The bits of the status register for a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ide) struct Shown {
    pub(in crate::ide) active: bool,
    /// The drive interrupts.
    pub(in crate::ide) interrupt: bool,
    pub(in crate::ide) error: bool,
}

/// The table "Interrupt/Activity Status Combinations", with the error bit beside it; `start` is the command register's bit.
///
/// Active is 0 once Start is 0, with one exception: while a job may still access guest memory it stays 1, because 0 promises that
/// memory is not accessed any more.
pub(in crate::ide) fn shown(progress: Progress, start: bool) -> Shown {
    let (active, interrupt, error) = match progress {
        Progress::Waiting => (start, false, false),
        Progress::UnderWay => (true, false, false),
        Progress::Equal => (false, true, false),
        Progress::Longer => (start, true, false),
        Progress::Shorter => (false, false, false),
        Progress::Failed => (false, true, false),
        Progress::Refused => (false, true, true),
    };
    Shown { active, interrupt, error }
}

/// The registers of one channel.
#[derive(Debug, Default)]
pub(in crate::ide) struct BusMaster {
    command: BusMasterCommand,
    /// The latched bits; Active is computed from the other fields.
    latched: BusMasterStatus,
    table: u32,
    progress: Progress,
    /// The result of the transfer in progress, if nothing fails.
    planned: Progress,
    /// Start was set again while a job was in progress: the engine is armed when the job has ended.
    armed_again: bool,
    /// Address of the next entry, and the number of its used bytes; `None`: the table's first entry.
    position: Option<(u32, u32)>,
}

impl BusMaster {
    pub(in crate::ide) fn command(&self) -> BusMasterCommand {
        self.command
    }

    pub(in crate::ide) fn status(&self) -> BusMasterStatus {
        self.latched.with_active(shown(self.progress, self.command.start()).active)
    }

    /// The status for a saved state, in which no job is in progress; `aborted`: the command is saved as aborted, `risen`: and so
    /// INTRQ rises.
    pub(super) fn saved_status(&self, aborted: bool, risen: bool) -> BusMasterStatus {
        let progress = match self.progress {
            // What it becomes when the job ends.
            Progress::UnderWay if self.armed_again && !aborted => Progress::Waiting,
            _ if aborted => Progress::Failed,
            Progress::UnderWay => Progress::Failed,
            other => other,
        };
        self.latched
            .with_active(shown(progress, self.command.start()).active)
            .with_interrupt(self.latched.interrupt() || risen)
    }

    pub(in crate::ide) fn table(&self) -> u32 {
        self.table
    }

    /// Address of the entry at which the next transfer begins, and the number of its used bytes.
    pub(super) fn position(&self) -> (u32, u32) {
        self.position.unwrap_or((self.table, 0))
    }

    /// The same for a saved state, where both numbers are 0 for the table's first entry.
    pub(super) fn saved_position(&self) -> (u32, u32) {
        self.position.unwrap_or_default()
    }

    /// Whether a command's data may be transferred now. After the table's end or an error, Start must be set again.
    pub(super) fn may_transfer(&self) -> bool {
        self.command.start() && matches!(self.progress, Progress::Waiting | Progress::Longer)
    }

    /// Begins a transfer that will end with `planned` at this position of the table.
    pub(super) fn begin(&mut self, planned: Progress, position: (u32, u32)) {
        self.progress = Progress::UnderWay;
        self.planned = planned;
        self.position = Some(position);
    }

    /// The transfer has succeeded.
    pub(super) fn done(&mut self) {
        self.ended(self.planned);
    }

    /// A transfer has ended, or cannot begin.
    pub(super) fn ended(&mut self, how: Progress) {
        let again = std::mem::take(&mut self.armed_again);
        self.progress = if again { Progress::Waiting } else { how };
        self.latched.set_error(self.latched.error() || shown(how, true).error);
    }

    /// The command was abandoned; only a job that may still access memory is waited for.
    pub(super) fn abandoned(&mut self) {
        self.armed_again = false;
        if self.progress != Progress::UnderWay {
            self.progress = Progress::Failed;
        }
    }

    /// An abandoned job has ended, or there was none.
    pub(super) fn abandoned_job_ended(&mut self) {
        if self.progress == Progress::UnderWay {
            self.ended(Progress::Failed);
        }
    }

    /// INTRQ has risen.
    pub(super) fn interrupted(&mut self) {
        self.latched.set_interrupt(true);
    }

    /// Reads a register.
    pub(in crate::ide) fn read(&self, offset: u64, size: u8) -> u32 {
        let [t0, t1, t2, t3] = self.table.to_le_bytes();
        let bytes = [self.command.into_bits(), 0xff, self.status().into_bits(), 0xff, t0, t1, t2, t3];
        let mut value = [0xff; 4];
        for (to, from) in value.iter_mut().zip(bytes.iter().skip(offset as usize)).take(usize::from(size)) {
            *to = *from;
        }
        u32::from_le_bytes(value)
    }

    /// Writes a register. Returns whether Start has changed from 0 to 1.
    pub(super) fn write(&mut self, offset: u64, size: u8, value: u32) -> bool {
        let mut started = false;
        for (i, byte) in (offset..8).zip(value.to_le_bytes()).take(usize::from(size)) {
            match i {
                0 => {
                    let new = BusMasterCommand::from_bits(byte & 0x09);
                    started |= new.start() && !self.command.start();
                    self.command = new;
                }
                2 => {
                    let new = BusMasterStatus::from_bits(byte);
                    self.latched = self
                        .latched
                        .with_error(self.latched.error() && !new.error())
                        .with_interrupt(self.latched.interrupt() && !new.interrupt())
                        .with_capable(new.capable());
                }
                4..=7 => {
                    let shift = (i as u32).wrapping_sub(4).wrapping_mul(8);
                    let kept = self.table & !(0xffu32 << (shift & 31));
                    self.table = (kept | u32::from(byte) << (shift & 31)) & !3;
                }
                _ => {}
            }
        }
        if started {
            self.position = None;
            if self.progress == Progress::UnderWay {
                self.armed_again = true;
            } else {
                self.progress = Progress::Waiting;
            }
        }
        started
    }

    /// Restores a saved state. A transfer that was in progress is not continued, because its command is aborted.
    pub(super) fn load(s: &ChannelState) -> Result<Self, StateError> {
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        let command = BusMasterCommand::from_bits(byte(s.bm_command, "bus master command")? & 0x09);
        let status = BusMasterStatus::from_bits(byte(s.bm_status, "bus master status")? & 0x66);
        let active = byte(s.bm_status, "bus master status")? & 1 != 0;
        let table = s.bm_table & !3;
        Ok(Self {
            command,
            latched: status,
            table,
            progress: if active && !s.busy { Progress::Waiting } else { Progress::Failed },
            planned: Progress::Failed,
            armed_again: false,
            position: (s.bm_next != 0 || s.bm_used != 0).then_some((s.bm_next & !3, s.bm_used.min(0x1_0000))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state and result of a transfer, with and without Start (BM-IDE 1.0, "Interrupt/Activity Status Combinations").
    #[test]
    fn the_status_register_is_the_specifications_table() {
        use Progress::*;
        // Active with Start, active without, interrupt, error.
        let table = [
            (Waiting, (true, false), false, false),
            (UnderWay, (true, true), false, false),
            (Equal, (false, false), true, false),
            (Longer, (true, false), true, false),
            (Shorter, (false, false), false, false),
            (Failed, (false, false), true, false),
            (Refused, (false, false), true, true),
        ];
        for (progress, (with, without), interrupt, error) in table {
            for (start, active) in [(true, with), (false, without)] {
                assert_eq!(shown(progress, start), Shown { active, interrupt, error }, "{progress:?}, start {start}");
            }
        }
    }
}
