//! The PHY, a Marvell 88E1011: the registers that drivers use (IEEE 802.3 clause 22 and 40; SDM chapter 8).

/// Its address on MDIO.
pub(super) const ADDRESS: u8 = 1;

/// Numbers of the PHY's registers (IEEE 802.3, 22.2.4).
mod reg {
    pub(super) const CONTROL: u8 = 0;
    pub(super) const STATUS: u8 = 1;
    pub(super) const ID1: u8 = 2;
    pub(super) const ID2: u8 = 3;
    pub(super) const ADVERTISE: u8 = 4;
    pub(super) const PARTNER: u8 = 5;
    pub(super) const EXPANSION: u8 = 6;
    pub(super) const CONTROL_1000: u8 = 9;
    pub(super) const STATUS_1000: u8 = 10;
    pub(super) const EXTENDED_STATUS: u8 = 15;
    pub(super) const SPECIFIC_CONTROL: u8 = 16;
    pub(super) const SPECIFIC_STATUS: u8 = 17;
    pub(super) const SPECIFIC_CONTROL_EXT: u8 = 20;
}

/// Control: reset and restart of negotiation, which clear themselves.
const SELF_CLEARING: u16 = 0x8000 | 0x0200;
/// Status: 100 and 10 Mbit/s, extended status, no preamble needed, can negotiate, extended registers.
const STATUS: u16 = 0x7949;
/// Status: link, negotiation complete.
const STATUS_LINK: u16 = 0x0024;
/// Specific status: 1000 Mbit/s, full duplex, resolved, link.
const SPECIFIC_LINK: u16 = 0xac00;

/// The writable registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phy {
    pub(super) control: u16,
    pub(super) advertise: u16,
    pub(super) control_1000: u16,
    pub(super) specific: u16,
    pub(super) specific_ext: u16,
}

impl Default for Phy {
    fn default() -> Self {
        // Negotiation enabled, 1000 Mbit/s full duplex; all modes advertised.
        Self { control: 0x1140, advertise: 0x0de1, control_1000: 0x0e00, specific: 0x0360, specific_ext: 0x0d60 }
    }
}

impl Phy {
    /// Reads a register; unimplemented ones are zero.
    pub(super) fn read(&self, register: u8, link: bool) -> u16 {
        match register {
            reg::CONTROL => self.control,
            reg::STATUS => STATUS | if link { STATUS_LINK } else { 0 },
            reg::ID1 => 0x0141,
            reg::ID2 => 0x0c20,
            reg::ADVERTISE => self.advertise,
            reg::PARTNER if link => 0x45e1,
            reg::EXPANSION => 0x0001,
            reg::CONTROL_1000 => self.control_1000,
            // The partner supports 1000 Mbit/s, and both receivers are ok.
            reg::STATUS_1000 if link => 0x3c00,
            reg::EXTENDED_STATUS => 0x3000,
            reg::SPECIFIC_CONTROL => self.specific,
            reg::SPECIFIC_STATUS if link => SPECIFIC_LINK,
            reg::SPECIFIC_CONTROL_EXT => self.specific_ext,
            _ => 0,
        }
    }

    /// Writes a register. Returns whether the link is negotiated again.
    pub(super) fn write(&mut self, register: u8, value: u16) -> bool {
        match register {
            reg::CONTROL => {
                if value & 0x8000 != 0 {
                    *self = Self::default();
                }
                self.control = value & !SELF_CLEARING;
                return value & SELF_CLEARING != 0;
            }
            reg::ADVERTISE => self.advertise = value,
            reg::CONTROL_1000 => self.control_1000 = value,
            reg::SPECIFIC_CONTROL => self.specific = value,
            reg::SPECIFIC_CONTROL_EXT => self.specific_ext = value,
            _ => {}
        }
        false
    }
}
