//! Commands: passes them to a drive and begins to carry out its reply.
use super::{After, Channel, TransferPhase};
use crate::ata::drive::Drive;
use crate::ata::spec::command;
use crate::ata::transfer::{Data, Protocol, Reply};
use crate::backend::Executor;
use bulkhead_bus::Context;

impl Channel {
    pub(super) fn command(&mut self, code: u8, io: &mut dyn Executor, cx: &mut Context) {
        // DEVICE RESET affects the selected drive; the other one continues its command.
        let other_works = self.current != self.device.dev() && matches!(self.phase, TransferPhase::Working(_));
        if code == command::DEVICE_RESET && other_works {
            let mut device = self.device;
            let selected = self.drives.get_mut(usize::from(device.dev())).and_then(Option::as_mut);
            if let Some(attached) = selected.filter(|a| a.drive.present && a.drive.cdrom) {
                attached.with(&mut device, Drive::device_reset);
            }
            self.device = device;
            return;
        }
        // Data that the last command still offered is discarded.
        self.abandon();
        self.current = self.device.dev();
        if code == command::EXECUTE_DIAGNOSTIC {
            // It sets the signature and keeps all settings; device 0 interrupts (ATA/ATAPI-5, 8.9).
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

    /// Begins to carry out the drive's reply.
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
