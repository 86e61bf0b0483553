//! The saved state of the card. It leaves out frames in flight, which a network may lose.
use super::{Rtl8139, Tally, spec};
use crate::eeprom::{Bus, BusState};
use bulkhead_bus::{Context, StateError};
use prost::Message as _;

/// Version of [`RtlState`]. Version 1 had positions, EEPROM bus and counters in a fixed order.
const VERSION: u32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct RtlState {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    config: Vec<u8>,
    /// The register file, by offset.
    #[prost(bytes = "vec", tag = "3")]
    registers: Vec<u8>,
    /// Version 1: positions in the C+ rings: transmit, high priority, receive.
    #[prost(uint32, repeated, tag = "4")]
    old_positions: Vec<u32>,
    /// Version 1: see [`BusState::of_version_1`].
    #[prost(uint32, repeated, tag = "5")]
    old_bus: Vec<u32>,
    /// Version 1: the counters in the order of [`Tally`].
    #[prost(uint64, repeated, tag = "6")]
    old_tally: Vec<u64>,
    /// Time in nanoseconds at which the timer was zero.
    #[prost(uint64, tag = "7")]
    timer: u64,
    #[prost(message, optional, tag = "8")]
    positions: Option<PositionsState>,
    #[prost(message, optional, tag = "9")]
    eeprom_bus: Option<BusState>,
    #[prost(message, optional, tag = "10")]
    tally: Option<TallyState>,
}

/// Positions in the C+ rings, in descriptors.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct PositionsState {
    #[prost(uint32, tag = "1")]
    transmit: u32,
    #[prost(uint32, tag = "2")]
    high_priority: u32,
    #[prost(uint32, tag = "3")]
    receive: u32,
}

impl PositionsState {
    fn of([transmit, high_priority, receive]: [u32; 3]) -> Self {
        Self { transmit, high_priority, receive }
    }

    fn positions(self) -> [u32; 3] {
        [self.transmit, self.high_priority, self.receive]
    }
}

/// Frames since the last dump of the counters.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct TallyState {
    #[prost(uint64, tag = "1")]
    sent: u64,
    #[prost(uint64, tag = "2")]
    received: u64,
    #[prost(uint64, tag = "3")]
    sent_with_error: u64,
    #[prost(uint64, tag = "4")]
    received_with_error: u64,
    #[prost(uint64, tag = "5")]
    missed: u64,
    #[prost(uint64, tag = "6")]
    misaligned: u64,
    #[prost(uint64, tag = "7")]
    after_one_collision: u64,
    #[prost(uint64, tag = "8")]
    after_more_collisions: u64,
    #[prost(uint64, tag = "9")]
    to_this_address: u64,
    #[prost(uint64, tag = "10")]
    broadcasts: u64,
    #[prost(uint64, tag = "11")]
    multicasts: u64,
    #[prost(uint64, tag = "12")]
    aborted: u64,
    #[prost(uint64, tag = "13")]
    underruns: u64,
}

impl TallyState {
    fn of(tally: Tally) -> Self {
        let [
            sent,
            received,
            sent_with_error,
            received_with_error,
            missed,
            misaligned,
            after_one_collision,
            after_more_collisions,
            to_this_address,
            broadcasts,
            multicasts,
            aborted,
            underruns,
        ] = tally;
        Self {
            sent,
            received,
            sent_with_error,
            received_with_error,
            missed,
            misaligned,
            after_one_collision,
            after_more_collisions,
            to_this_address,
            broadcasts,
            multicasts,
            aborted,
            underruns,
        }
    }

    fn tally(self) -> Tally {
        let Self {
            sent,
            received,
            sent_with_error,
            received_with_error,
            missed,
            misaligned,
            after_one_collision,
            after_more_collisions,
            to_this_address,
            broadcasts,
            multicasts,
            aborted,
            underruns,
        } = self;
        [
            sent,
            received,
            sent_with_error,
            received_with_error,
            missed,
            misaligned,
            after_one_collision,
            after_more_collisions,
            to_this_address,
            broadcasts,
            multicasts,
            aborted,
            underruns,
        ]
    }
}

impl RtlState {
    /// Names what version 1 has in a fixed order.
    fn upgrade(&mut self) -> Result<(), StateError> {
        let positions = <[u32; 3]>::try_from(self.old_positions.as_slice());
        self.positions = Some(PositionsState::of(positions.map_err(|_| StateError::Value("positions"))?));
        let tally = Tally::try_from(self.old_tally.as_slice());
        self.tally = Some(TallyState::of(tally.map_err(|_| StateError::Value("counters"))?));
        self.eeprom_bus = BusState::of_version_1(&self.old_bus);
        Ok(())
    }
}

impl Rtl8139 {
    pub(super) fn encode(&self) -> Vec<u8> {
        RtlState {
            version: VERSION,
            config: self.config.save(),
            registers: self.bytes.into(),
            timer: self.timer,
            positions: Some(PositionsState::of(self.positions)),
            eeprom_bus: Some(self.bus.save()),
            tally: Some(TallyState::of(self.tally)),
            ..RtlState::default()
        }
        .encode_to_vec()
    }

    /// Restores a state; on error nothing has changed.
    pub(super) fn decode(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let mut s = RtlState::decode(state)?;
        match s.version {
            1 => s.upgrade()?,
            VERSION => {}
            other => return Err(StateError::Version(other, VERSION)),
        }
        let registers = <[u8; 256]>::try_from(s.registers.as_slice()).map_err(|_| StateError::Value("registers"))?;
        let positions = s
            .positions
            .map(PositionsState::positions)
            .filter(|p| p.iter().all(|p| *p < spec::RING))
            .ok_or(StateError::Value("positions"))?;
        let tally = s.tally.ok_or(StateError::Value("counters"))?.tally();
        let bus = s.eeprom_bus.and_then(Bus::load).ok_or(StateError::Value("EEPROM bus"))?;
        let mut config = self.config.clone();
        config.load(&s.config)?;
        self.positions = positions;
        self.bytes = registers;
        self.tally = tally;
        self.bus = bus;
        self.config = config;
        self.timer = s.timer;
        self.port.clear();
        self.resume(cx);
        self.arm(cx);
        self.update(cx);
        cx.again();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::exercise::{loads, refuses};

    /// The same device in both versions, with values that differ from each other where their order could be wrong.
    const STATE: &[u8] = include_bytes!("../../tests/golden/rtl8139-2-rings.state");
    const OLD: &[u8] = include_bytes!("../../tests/golden/rtl8139-1-rings.state");

    #[test]
    fn version_1_has_the_same_values() {
        assert_eq!(loads(&crate::rtl8139::TARGET, OLD).unwrap(), STATE);
    }

    #[test]
    fn a_refused_state_changes_nothing() {
        let refused = |state: &[u8], change: fn(&mut RtlState)| {
            let mut s = RtlState::decode(state).unwrap();
            change(&mut s);
            refuses(&crate::rtl8139::TARGET, &s.encode_to_vec()).unwrap()
        };
        assert_eq!(refused(STATE, |s| s.version = 3), StateError::Version(3, VERSION));
        for change in [
            (|s| s.version = 2) as fn(&mut RtlState),
            |s| s.old_positions.push(0),
            |s| s.old_positions[2] = spec::RING,
            |s| s.old_bus.push(0),
            |s| s.old_bus[1] = 1 << 8,
            |s| s.old_tally.push(0),
        ] {
            assert!(matches!(refused(OLD, change), StateError::Value(_)));
        }
        for change in [
            (|s| s.version = 1) as fn(&mut RtlState),
            |s| s.registers.push(0),
            |s| s.positions = None,
            |s| s.positions.as_mut().unwrap().transmit = spec::RING,
            |s| s.positions.as_mut().unwrap().high_priority = spec::RING,
            |s| s.positions.as_mut().unwrap().receive = spec::RING,
            |s| s.eeprom_bus = None,
            |s| s.eeprom_bus = BusState::of_version_1(&[0, 1 << 8, 0, 0, 0]),
            |s| s.eeprom_bus = BusState::of_version_1(&[0, 0, 1 << 16, 0, 0]),
            |s| s.eeprom_bus = BusState::of_version_1(&[0, 0, 0, 1 << 8, 0]),
            |s| s.tally = None,
        ] {
            assert!(matches!(refused(STATE, change), StateError::Value(_)));
        }
    }
}
