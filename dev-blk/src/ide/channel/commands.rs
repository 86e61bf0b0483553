//! Commands: a drive is given them with its registers, and what it replies begins to be carried out.
use super::{After, Channel, Phase};
use crate::ata::drive::Drive;
use crate::ata::spec::command;
use crate::ata::transfer::{Data, Protocol, Reply};
use crate::backend::Executor;
use bulkhead_bus::Context;

impl Channel {
    pub(super) fn command(&mut self, code: u8, io: &mut dyn Executor, cx: &mut Context) {
        // DEVICE RESET is for the selected drive; the other one goes on with what it does.
        let other_works = self.current != self.device.dev() && matches!(self.phase, Phase::Working(_));
        if code == command::DEVICE_RESET && other_works {
            let mut device = self.device;
            let selected = self.drives.get_mut(usize::from(device.dev())).and_then(Option::as_mut);
            if let Some(attached) = selected.filter(|a| a.drive.present && a.drive.cdrom) {
                attached.with(&mut device, Drive::device_reset);
            }
            self.device = device;
            return;
        }
        // Whatever the last command still offered is gone.
        self.abandon();
        self.current = self.device.dev();
        if code == command::EXECUTE_DIAGNOSTIC {
            // It leaves the signature, and resets no setting; device 0 interrupts (ATA/ATAPI-5, 8.9).
            self.reset_drives(|drive, r| drive.signature(r));
            self.current = false;
            self.raise();
            return;
        }
        if code == command::DEVICE_RESET && self.selected().is_some_and(|selected| selected.drive.cdrom) {
            self.with(Drive::device_reset);
            self.stale = false;
            return;
        }
        if std::mem::take(&mut self.stale) {
            return self.abort();
        }
        if let Some(reply) = self.with(|drive, r| drive.command(code, r)) {
            self.carry_out(reply, io, cx);
        }
    }

    /// Begins what the drive has replied.
    pub(super) fn carry_out(&mut self, reply: Reply, io: &mut dyn Executor, cx: &mut Context) {
        match reply {
            Reply::Ended => self.ended(),
            Reply::Packet => self.accept_packet(),
            Reply::Job(job) => self.submit(job, After::Done, io),
            Reply::Verify(sectors) => {
                self.sectors = sectors;
                self.fetch(After::Verify, io);
            }
            Reply::Data { what, by: Protocol::Dma } => self.prepare_dma(what, io, cx),
            Reply::Data { what, by: Protocol::Pio { block } } => {
                self.block = block;
                match what {
                    Data::Bytes(data) => self.offer(data),
                    Data::In(sectors) => {
                        self.sectors = sectors;
                        self.fetch(After::PioIn, io);
                    }
                    Data::Out(sectors) => {
                        self.sectors = sectors;
                        self.accept_sectors();
                    }
                    Data::List { list, bytes } => self.accept_list(list, bytes),
                }
            }
        }
    }
}
