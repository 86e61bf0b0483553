//! What control asks.
use super::Data;
use crate::ControlRequest;
use crate::trace::Trace;
use bulkhead_bus::Reset;

impl Data {
    pub(super) fn control(&mut self) {
        // The eventfd is edge-triggered and never read; its counter cannot overflow in any life.
        while let Some(request) = self.control.take() {
            self.counters.control_calls = self.counters.control_calls.saturating_add(1);
            self.stale = true;
            match request {
                ControlRequest::Ping(answer) => drop(answer.send(())),
                ControlRequest::GuestLogLines(n) => self.log_limit.per_second = n.min(10_000),
                ControlRequest::Running(running, answer) => {
                    self.running = running;
                    self.device.running(running, &mut self.cx);
                    let _ = answer.send(());
                }
                ControlRequest::Reset(answer) => {
                    self.device.reset(Reset::Machine, &mut self.cx);
                    self.config_dirty = true;
                    let _ = answer.send(());
                }
                ControlRequest::Save(answer) => drop(answer.send(self.device.save())),
                ControlRequest::Load(state, answer) => {
                    let done = self.device.load(&state, &mut self.cx).map_err(|e| e.to_string());
                    self.config_dirty = true;
                    let _ = answer.send(done);
                }
                ControlRequest::Inspect(answer) => {
                    let mut out = bulkhead_bus::Inspect::default();
                    self.device.inspect(&mut out);
                    let _ = answer.send(out.items);
                }
                ControlRequest::Statistics(answer) => drop(answer.send(self.statistics())),
                ControlRequest::Screenshot(token, answer) => {
                    // The launcher's message and the call travel on different sockets.
                    let _ = self.link();
                    if let Some(surface) = &mut self.surface {
                        self.device.refresh(surface);
                    }
                    let picture = self.tokens.remove(&token).and_then(|fd| Some((self.device.screenshot()?, fd)));
                    let _ = answer.send(picture);
                }
                ControlRequest::Eject(drive, force, answer) => {
                    drop(answer.send(self.device.eject(drive, force, &mut self.cx)))
                }
                ControlRequest::Insert(drive, token, answer) => {
                    let _ = self.link();
                    let medium =
                        self.tokens.remove(&token).ok_or_else(|| "no descriptor came under this token".to_owned());
                    let _ = answer.send(medium.and_then(|fd| self.device.insert(drive, fd, &mut self.cx)));
                }
                ControlRequest::Trace(0, answer) => {
                    self.trace = None;
                    let _ = answer.send(Ok(()));
                }
                ControlRequest::Trace(token, answer) => {
                    let _ = self.link();
                    let pipe =
                        self.tokens.remove(&token).ok_or_else(|| "no descriptor came under this token".to_owned());
                    let declaration = self.device.declaration();
                    let _ = answer.send(pipe.map(|to| self.trace = Some(Trace::new(to, declaration))));
                }
                ControlRequest::PlugUsb(id, device, answer) => {
                    drop(answer.send(self.device.plug_usb(&id, device, &mut self.cx)))
                }
                ControlRequest::PlugPci(device, id, answer) => {
                    drop(answer.send(self.device.plug_pci(device, &id, &mut self.cx)))
                }
                ControlRequest::PlugCpu(cpu, answer) => drop(answer.send(self.device.plug_cpu(cpu, &mut self.cx))),
                ControlRequest::SetPassword(password, answer) => drop(answer.send(self.device.set_password(&password))),
                ControlRequest::SetNic(settings, answer) => {
                    drop(answer.send(self.device.set_nic(&settings, &mut self.cx)))
                }
                ControlRequest::Capture(0, answer) => drop(answer.send(self.device.capture(None, &mut self.cx))),
                ControlRequest::Capture(token, answer) => {
                    let _ = self.link();
                    let pipe =
                        self.tokens.remove(&token).ok_or_else(|| "no descriptor came under this token".to_owned());
                    let _ = answer.send(pipe.and_then(|fd| self.device.capture(Some(fd), &mut self.cx)));
                }
                ControlRequest::Input(events) => {
                    for event in events {
                        self.device.input(event, &mut self.cx);
                    }
                }
            }
        }
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("requests", c.requests),
            ("accesses", c.accesses),
            ("posted writes", c.posted),
            ("wake-ups", c.wakeups),
            ("doorbells rung", c.doorbells),
            ("accesses refused", c.refused),
            ("guest lines logged", c.guest_lines),
            ("guest lines dropped", c.guest_lines_dropped.saturating_add(self.cx.log.dropped)),
            ("descriptors polled", self.polled.len() as u64),
            ("control calls", c.control_calls),
            ("pictures drawn for a viewer", c.frames),
            ("trace lines lost", self.trace.as_ref().map_or(0, |t| t.lost)),
            ("log records lost", crate::log::lost()),
        ]
    }
}
