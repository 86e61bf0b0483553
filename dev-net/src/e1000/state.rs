//! The saved state of the card. It leaves out frames in flight, which a network may lose.
use super::phy::Phy;
use super::spec::{Ctrl, Status, reg};
use super::transmit::Checksums;
use super::{E1000, LATE_RECEIVE, LATE_TRANSMIT, transmit};
use crate::eeprom::{Bus, BusState};
use bulkhead_bus::{Context, StateError};
use prost::Message as _;

/// Version of [`E1000State`]. Version 1 had registers, PHY, EEPROM bus and transmit context in a fixed order.
const VERSION: u32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct E1000State {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    config: Vec<u8>,
    /// Version 1: registers that are not zero: offset, value.
    #[prost(uint32, repeated, tag = "3")]
    old_registers: Vec<u32>,
    /// Version 1: control, advertisement, 1000BASE-T control, specific control, extended.
    #[prost(uint32, repeated, tag = "4")]
    old_phy: Vec<u32>,
    /// Version 1: see [`BusState::of_version_1`].
    #[prost(uint32, repeated, tag = "5")]
    old_bus: Vec<u32>,
    /// Version 1: the five positions, segment size, flags.
    #[prost(uint32, repeated, tag = "6")]
    old_context: Vec<u32>,
    #[prost(uint32, tag = "7")]
    window: u32,
    /// Delayed interrupts that are pending: transmit, receive.
    #[prost(bool, tag = "8")]
    late_transmit: bool,
    #[prost(bool, tag = "9")]
    late_receive: bool,
    #[prost(message, optional, tag = "10")]
    phy: Option<PhyState>,
    #[prost(message, optional, tag = "11")]
    eeprom_bus: Option<BusState>,
    #[prost(message, optional, tag = "12")]
    context: Option<ContextState>,
    /// Registers that are not zero.
    #[prost(message, repeated, tag = "13")]
    registers: Vec<RegisterState>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct RegisterState {
    #[prost(uint32, tag = "1")]
    offset: u32,
    #[prost(uint32, tag = "2")]
    value: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct PhyState {
    #[prost(uint32, tag = "1")]
    control: u32,
    #[prost(uint32, tag = "2")]
    advertise: u32,
    #[prost(uint32, tag = "3")]
    control_1000: u32,
    #[prost(uint32, tag = "4")]
    specific: u32,
    #[prost(uint32, tag = "5")]
    specific_ext: u32,
}

/// The last context descriptor.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ContextState {
    #[prost(uint32, tag = "1")]
    ip_start: u32,
    #[prost(uint32, tag = "2")]
    ip_field: u32,
    #[prost(uint32, tag = "3")]
    ip_end: u32,
    #[prost(uint32, tag = "4")]
    tcp_start: u32,
    #[prost(uint32, tag = "5")]
    tcp_field: u32,
    #[prost(uint32, tag = "6")]
    segment: u32,
    #[prost(bool, tag = "7")]
    ipv4: bool,
    #[prost(bool, tag = "8")]
    tcp: bool,
}

fn short(value: u32, what: &'static str) -> Result<u16, StateError> {
    u16::try_from(value).map_err(|_| StateError::Value(what))
}

fn byte(value: u32, what: &'static str) -> Result<u8, StateError> {
    u8::try_from(value).map_err(|_| StateError::Value(what))
}

impl PhyState {
    fn of(phy: &Phy) -> Self {
        let Phy { control, advertise, control_1000, specific, specific_ext } = *phy;
        Self {
            control: u32::from(control),
            advertise: u32::from(advertise),
            control_1000: u32::from(control_1000),
            specific: u32::from(specific),
            specific_ext: u32::from(specific_ext),
        }
    }

    fn phy(self) -> Result<Phy, StateError> {
        Ok(Phy {
            control: short(self.control, "PHY")?,
            advertise: short(self.advertise, "PHY")?,
            control_1000: short(self.control_1000, "PHY")?,
            specific: short(self.specific, "PHY")?,
            specific_ext: short(self.specific_ext, "PHY")?,
        })
    }
}

impl ContextState {
    fn of(c: &Checksums) -> Self {
        Self {
            ip_start: u32::from(c.ip_start),
            ip_field: u32::from(c.ip_field),
            ip_end: u32::from(c.ip_end),
            tcp_start: u32::from(c.tcp_start),
            tcp_field: u32::from(c.tcp_field),
            segment: u32::from(c.segment),
            ipv4: c.ipv4,
            tcp: c.tcp,
        }
    }

    fn checksums(self) -> Result<Checksums, StateError> {
        let what = "transmit context";
        Ok(Checksums {
            ip_start: byte(self.ip_start, what)?,
            ip_field: byte(self.ip_field, what)?,
            ip_end: short(self.ip_end, what)?,
            tcp_start: byte(self.tcp_start, what)?,
            tcp_field: byte(self.tcp_field, what)?,
            segment: short(self.segment, what)?,
            ipv4: self.ipv4,
            tcp: self.tcp,
        })
    }
}

impl E1000State {
    /// Names what version 1 has in a fixed order.
    fn upgrade(&mut self) -> Result<(), StateError> {
        let [control, advertise, control_1000, specific, specific_ext] = *self.old_phy.as_slice() else {
            return Err(StateError::Value("PHY"));
        };
        self.phy = Some(PhyState { control, advertise, control_1000, specific, specific_ext });
        self.eeprom_bus = BusState::of_version_1(&self.old_bus);
        let [ip_start, ip_field, ip_end, tcp_start, tcp_field, segment, flags] = *self.old_context.as_slice() else {
            return Err(StateError::Value("transmit context"));
        };
        let (ipv4, tcp) = (flags & 1 != 0, flags & 2 != 0);
        self.context = Some(ContextState { ip_start, ip_field, ip_end, tcp_start, tcp_field, segment, ipv4, tcp });
        let (pairs, rest) = self.old_registers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(StateError::Value("registers"));
        }
        self.registers = pairs.iter().map(|[offset, value]| RegisterState { offset: *offset, value: *value }).collect();
        Ok(())
    }
}

impl E1000 {
    /// Encodes the state.
    pub(super) fn encode(&self) -> Vec<u8> {
        // A partly collected frame is collected again from its first descriptor.
        // The link is what the guest wants of it; whether the settings connect it is known to the next process.
        let wanted = Ctrl::from_bits(self.get(reg::CTRL)).set_link_up();
        let value = |at: u32, v: u32| match at {
            reg::TDH => self.begins,
            reg::STATUS => Status::from_bits(v).with_link_up(wanted).into_bits(),
            _ => v,
        };
        let registers = self
            .used
            .iter()
            .map(|at| (*at, value(*at, self.get(*at))))
            .filter(|(_, v)| *v != 0)
            .map(|(offset, value)| RegisterState { offset, value })
            .collect();
        E1000State {
            version: VERSION,
            config: self.config.save(),
            registers,
            phy: Some(PhyState::of(&self.phy)),
            eeprom_bus: Some(self.bus.save()),
            context: Some(ContextState::of(&self.tx.context)),
            window: self.window,
            late_transmit: self.late.first().is_some_and(Option::is_some),
            late_receive: self.late.get(1).is_some_and(Option::is_some),
            ..E1000State::default()
        }
        .encode_to_vec()
    }

    /// Restores a state; on error nothing has changed.
    pub(super) fn decode(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let mut s = E1000State::decode(state)?;
        match s.version {
            1 => s.upgrade()?,
            VERSION => {}
            other => return Err(StateError::Version(other, VERSION)),
        }
        let phy = s.phy.ok_or(StateError::Value("PHY"))?.phy()?;
        let bus = s.eeprom_bus.and_then(Bus::load).ok_or(StateError::Value("EEPROM bus"))?;
        let context = s.context.ok_or(StateError::Value("transmit context"))?.checksums()?;
        if !s.registers.iter().all(|r| r.offset & 3 == 0 && r.offset < reg::END) {
            return Err(StateError::Value("registers"));
        }
        let mut config = self.config.clone();
        config.load(&s.config)?;
        self.regs = vec![0; (reg::END >> 2) as usize];
        self.used.clear();
        for RegisterState { offset, value } in s.registers {
            self.set(offset, value);
        }
        self.config = config;
        self.phy = phy;
        self.bus = bus;
        self.window = s.window & 0x1_ffff;
        self.tx = transmit::Transmit::default();
        self.tx.context = context;
        self.port.clear();
        (self.quiet_until, self.late) = (0, [None; 2]);
        self.update_link();
        self.resume_receive(cx);
        let begins = cx
            .marks
            .former(super::TRANSMIT_MARK)
            .and_then(|at| u32::try_from(at).ok())
            .filter(|at| *at < self.get(reg::TDLEN) >> 4);
        let begins = begins.unwrap_or(self.get(reg::TDH));
        self.set(reg::TDH, begins);
        self.mark_transmit(begins, cx);
        if s.late_transmit {
            self.late = [Some(u64::MAX), None];
            cx.timers.set(LATE_TRANSMIT, Some(cx.now()));
        }
        if s.late_receive {
            self.late = [self.late.first().copied().flatten(), Some(u64::MAX)];
            cx.timers.set(LATE_RECEIVE, Some(cx.now()));
        }
        self.update(cx);
        // The guest may have added descriptors in the meantime.
        cx.again();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::exercise::{loads, refuses};

    /// The same device in both versions, with values that differ from each other where their order could be wrong.
    const STATE: &[u8] = include_bytes!("../../tests/golden/e1000-2-context.state");
    const OLD: &[u8] = include_bytes!("../../tests/golden/e1000-1-context.state");

    #[test]
    fn version_1_has_the_same_values() {
        assert_eq!(loads(&crate::e1000::TARGET, OLD).unwrap(), STATE);
    }

    #[test]
    fn a_refused_state_changes_nothing() {
        let refused = |state: &[u8], change: fn(&mut E1000State)| {
            let mut s = E1000State::decode(state).unwrap();
            change(&mut s);
            refuses(&crate::e1000::TARGET, &s.encode_to_vec()).unwrap()
        };
        assert_eq!(refused(STATE, |s| s.version = 3), StateError::Version(3, VERSION));
        for change in [
            (|s| s.version = 2) as fn(&mut E1000State),
            |s| s.old_phy.push(0),
            |s| s.old_phy[4] = 1 << 16,
            |s| s.old_bus.push(0),
            |s| s.old_bus[1] = 1 << 8,
            |s| s.old_context.push(0),
            |s| s.old_context[0] = 1 << 8,
            |s| s.old_registers.push(0),
            |s| s.old_registers[0] = reg::END,
        ] {
            assert!(matches!(refused(OLD, change), StateError::Value(_)));
        }
        for change in [
            (|s| s.version = 1) as fn(&mut E1000State),
            |s| s.phy = None,
            |s| s.phy.as_mut().unwrap().control = 1 << 16,
            |s| s.phy.as_mut().unwrap().advertise = 1 << 16,
            |s| s.phy.as_mut().unwrap().control_1000 = 1 << 16,
            |s| s.phy.as_mut().unwrap().specific = 1 << 16,
            |s| s.phy.as_mut().unwrap().specific_ext = 1 << 16,
            |s| s.eeprom_bus = None,
            |s| s.eeprom_bus = BusState::of_version_1(&[0, 1 << 8, 0, 0, 0]),
            |s| s.context = None,
            |s| s.context.as_mut().unwrap().ip_start = 1 << 8,
            |s| s.context.as_mut().unwrap().ip_field = 1 << 8,
            |s| s.context.as_mut().unwrap().ip_end = 1 << 16,
            |s| s.context.as_mut().unwrap().tcp_start = 1 << 8,
            |s| s.context.as_mut().unwrap().tcp_field = 1 << 8,
            |s| s.context.as_mut().unwrap().segment = 1 << 16,
            |s| s.registers[0].offset = 2,
            |s| s.registers[0].offset = reg::END,
        ] {
            assert!(matches!(refused(STATE, change), StateError::Value(_)));
        }
    }
}
