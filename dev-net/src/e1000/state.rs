//! The saved state of the card. It leaves out frames in flight, which a network may lose.
use super::phy::Phy;
use super::spec::reg;
use super::transmit::Checksums;
use super::{E1000, LATE_RECEIVE, LATE_TRANSMIT, transmit};
use crate::eeprom::Bus;
use bulkhead_bus::{Context, StateError};
use prost::Message as _;

/// Version of [`E1000State`].
const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct E1000State {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    config: Vec<u8>,
    /// Registers that are not zero: offset, value.
    #[prost(uint32, repeated, tag = "3")]
    registers: Vec<u32>,
    /// PHY: control, advertisement, 1000BASE-T control, specific control, extended.
    #[prost(uint32, repeated, tag = "4")]
    phy: Vec<u32>,
    /// The EEPROM's bus: bits, their number, word, bits left, lines.
    #[prost(uint32, repeated, tag = "5")]
    bus: Vec<u32>,
    /// The transmit context: the six positions, segment size, flags.
    #[prost(uint32, repeated, tag = "6")]
    context: Vec<u32>,
    #[prost(uint32, tag = "7")]
    window: u32,
    /// Delayed interrupts that are pending: transmit, receive.
    #[prost(bool, tag = "8")]
    late_transmit: bool,
    #[prost(bool, tag = "9")]
    late_receive: bool,
}

impl E1000 {
    /// Encodes the state.
    pub(super) fn encode(&self) -> Vec<u8> {
        // A partly collected frame is collected again from its first descriptor.
        let value = |at: u32, v: u32| if at == reg::TDH { self.begins } else { v };
        let registers = self
            .used
            .iter()
            .map(|at| (*at, value(*at, self.get(*at))))
            .filter(|(_, v)| *v != 0)
            .flat_map(|(at, v)| [at, v])
            .collect();
        let Phy { control, advertise, control_1000, specific, specific_ext } = self.phy;
        let c = self.tx.context;
        E1000State {
            version: VERSION,
            config: self.config.save(),
            registers,
            phy: [control, advertise, control_1000, specific, specific_ext].map(u32::from).into(),
            bus: self.bus.save(),
            context: vec![
                u32::from(c.ip_start),
                u32::from(c.ip_field),
                u32::from(c.ip_end),
                u32::from(c.tcp_start),
                u32::from(c.tcp_field),
                u32::from(c.segment),
                u32::from(c.ipv4) | u32::from(c.tcp) << 1,
            ],
            window: self.window,
            late_transmit: self.late.first().is_some_and(Option::is_some),
            late_receive: self.late.get(1).is_some_and(Option::is_some),
        }
        .encode_to_vec()
    }

    /// Restores a state; on error nothing has changed.
    pub(super) fn decode(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let s = E1000State::decode(state)?;
        if s.version != VERSION {
            return Err(StateError::Version(s.version, VERSION));
        }
        let short = |v: u32, what| u16::try_from(v).map_err(|_| StateError::Value(what));
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        let [control, advertise, control_1000, specific, specific_ext] = *s.phy.as_slice() else {
            return Err(StateError::Value("PHY"));
        };
        let phy = Phy {
            control: short(control, "PHY")?,
            advertise: short(advertise, "PHY")?,
            control_1000: short(control_1000, "PHY")?,
            specific: short(specific, "PHY")?,
            specific_ext: short(specific_ext, "PHY")?,
        };
        let bus = Bus::load(&s.bus).ok_or(StateError::Value("EEPROM bus"))?;
        let [ip_start, ip_field, ip_end, tcp_start, tcp_field, segment, flags] = *s.context.as_slice() else {
            return Err(StateError::Value("transmit context"));
        };
        let what = "transmit context";
        let context = Checksums {
            ip_start: byte(ip_start, what)?,
            ip_field: byte(ip_field, what)?,
            ip_end: short(ip_end, what)?,
            tcp_start: byte(tcp_start, what)?,
            tcp_field: byte(tcp_field, what)?,
            segment: short(segment, what)?,
            ipv4: flags & 1 != 0,
            tcp: flags & 2 != 0,
        };
        let good = |pair: &[u32]| matches!(*pair, [at, _] if at & 3 == 0 && at < reg::END);
        if !s.registers.chunks(2).all(good) {
            return Err(StateError::Value("registers"));
        }
        let mut config = self.config.clone();
        config.load(&s.config)?;
        self.regs = vec![0; (reg::END >> 2) as usize];
        self.used.clear();
        for pair in s.registers.chunks(2) {
            if let [at, value] = *pair {
                self.set(at, value);
            }
        }
        (self.config, self.phy, self.bus, self.window) = (config, phy, bus, s.window & 0x1_ffff);
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
