//! Handles control's requests.
use super::Data;
use crate::trace::Trace;
use crate::{Call, Called, ControlRequest, Done, FacetError, Facts, LoadError};
use bulkhead_bus::{Ready, Reset};
use bulkhead_plan::Activity;
use rustix::fd::OwnedFd;

impl Data {
    pub(super) fn control(&mut self) {
        // The eventfd is edge-triggered and never read; its 64-bit counter cannot overflow in practice.
        while let Some(request) = self.control.take() {
            self.counters.control_calls = self.counters.control_calls.saturating_add(1);
            self.stale = true;
            match request {
                ControlRequest::Ping(answer) => drop(answer.send(())),
                ControlRequest::GuestLogLines(n) => self.log_limit.per_second = n.min(10_000),
                ControlRequest::Running(running, answer) => self.set_running(running, answer),
                ControlRequest::Reset(answer) => {
                    self.device.reset(Reset::Machine, &mut self.cx);
                    self.config_dirty = true;
                    let _ = answer.send(());
                }
                ControlRequest::Save(answer) => drop(answer.send(Ok(self.device.save()))),
                ControlRequest::Load(state, answer) => {
                    let done = self.device.load(&state, &mut self.cx).map_err(LoadError::from);
                    self.config_dirty = true;
                    let _ = answer.send(done);
                }
                ControlRequest::Inspect(answer) => {
                    let mut out = bulkhead_bus::Inspect::default();
                    self.device.inspect(&mut out);
                    let _ = answer.send(out.items);
                }
                ControlRequest::Statistics(answer) => drop(answer.send(self.statistics())),
                ControlRequest::Facts(answer) => drop(answer.send(self.facts())),
                ControlRequest::Call(call, answer) => drop(answer.send(self.call(call))),
            }
        }
    }

    /// Stops the device, or lets it go on. A stop is answered when nothing of the device is under way any more; one that is overtaken by
    /// a start is not answered.
    fn set_running(&mut self, running: bool, answer: Done) {
        if !self.stops || (running && self.running) {
            let _ = answer.send(());
            return;
        }
        if self.running != running {
            self.running = running;
            self.device.running(running, &mut self.cx);
        }
        if running {
            if std::mem::take(&mut self.arriving)
                && let Some(card) = self.device.card()
            {
                card.arrived(&mut self.cx);
            }
            self.stopping.clear();
            let _ = answer.send(());
            // What became ready meanwhile.
            for (number, _) in &self.polled {
                self.device.poll(Ready::Fd(*number), &mut self.cx);
            }
        } else {
            // Who asks again waits for its earlier answer no more.
            self.stopping.retain(|earlier| !earlier.is_closed());
            self.stopping.push(answer);
        }
    }

    /// Whether the device is polled: it runs, or has yet to come to rest.
    pub(super) fn works(&self) -> bool {
        self.running || !self.device.at_rest()
    }

    /// Answers stops, once the device is at rest.
    pub(super) fn rest(&mut self) {
        if !self.stopping.is_empty() && !self.works() {
            self.flush();
            for answer in self.stopping.drain(..) {
                let _ = answer.send(());
            }
        }
    }

    fn facts(&mut self) -> Facts {
        let device = &mut self.device;
        Facts {
            drives: device.drives().map(|d| d.facts()).unwrap_or_default(),
            vcpus: device.board().map(|b| b.vcpus()).unwrap_or_default(),
            dropped: device.card().map(|c| c.dropped()).unwrap_or_default(),
            viewers: device.viewers().map(|v| v.connected()).unwrap_or_default(),
            functions: Vec::new(),
            lights: device.input_device().and_then(|i| i.lights()),
            activity: Activity {
                accesses: Some(self.counters.accesses),
                posted: self.counters.posted,
                wakeups: self.counters.wakeups,
                doorbells: Some(self.counters.doorbells),
            },
        }
    }

    /// The descriptor with this token. Its message may still be unread, because it arrives on another socket than the call.
    fn token(&mut self, token: u32) -> Result<OwnedFd, FacetError> {
        let _ = self.link();
        self.tokens.remove(&token).ok_or(FacetError::NoDescriptor)
    }

    fn call(&mut self, call: Call) -> Result<Called, FacetError> {
        /// Refuses a call to a facet that the device does not have.
        fn has<T>(facet: Option<T>, what: &'static str) -> Result<T, FacetError> {
            facet.ok_or(FacetError::Missing(what))
        }
        match call {
            Call::Screenshot { token } => {
                let to = self.token(token)?;
                let display = has(self.device.display(), "picture")?;
                if let Some(surface) = &mut self.surface {
                    display.refresh(surface);
                }
                let png = display.screenshot().ok_or(FacetError::Blank)?;
                return Ok(Called::Write(png, to));
            }
            // As with keys of a machine that is switched off.
            Call::Input(_) if !self.running => {}
            Call::Input(events) => {
                let device = has(self.device.input_device(), "keys and no pointer")?;
                for event in events {
                    device.input(event, &mut self.cx);
                }
            }
            Call::Eject { drive, force } => has(self.device.drives(), "drives")?.eject(drive, force, &mut self.cx)?,
            Call::Insert { drive, token } => {
                let medium = self.token(token)?;
                has(self.device.drives(), "drives")?.insert(drive, medium, &mut self.cx)?;
            }
            Call::SetNic(settings) => has(self.device.card(), "network cable")?.set_nic(&settings, &mut self.cx),
            Call::Trace { token: 0 } => self.trace = None,
            Call::Trace { token } => {
                let to = self.token(token)?;
                self.trace = Some(Trace::new(to, self.device.declaration()));
            }
            Call::Capture { token } => {
                let to = if token == 0 { None } else { Some(self.token(token)?) };
                has(self.device.card(), "network cable")?.capture(to);
            }
            Call::SetPassword(password) => has(self.device.viewers(), "viewers")?.set_password(&password)?,
            Call::PlugUsb { id, device } => {
                has(self.device.usb_bus(), "USB bus")?.plug_usb(&id, device, &mut self.cx)?;
            }
            Call::PlugPci { device, id } => {
                has(self.device.board(), "slots")?.plug_pci(device, &id, &mut self.cx)?;
            }
            Call::LogDirty(_) => return Err(FacetError::Missing("log")),
            Call::PlugCpu(cpu) => has(self.device.board(), "slots")?.plug_cpu(cpu, &mut self.cx)?,
        }
        Ok(Called::Done)
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
