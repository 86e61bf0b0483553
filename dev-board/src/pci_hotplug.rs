//! PCI hot-plug registers as in libacpi's DSDT (tools/libacpi/mk_dsdt.c of Xen): added devices, devices to eject, and the register
//! with which the guest's `_EJ0` ejects them. Bit n stands for device n on bus 0.
use crate::state::{PciState, PlugState};
use bulkhead_bus::{BoardError, Context, IoError, IoResult, StateError};
use std::collections::BTreeMap;

/// Offset of the added devices (PCIU). Bits stay set, because the event's method reads them one by one.
pub(crate) const UP: u16 = 0x00;
/// Offset of the devices that the guest is asked to eject (PCID).
pub(crate) const DOWN: u16 = 0x04;
/// Offset of the register that ejects devices (B0EJ).
pub(crate) const EJECT: u16 = 0x08;
/// Offset of the devices that can be ejected.
pub(crate) const REMOVABLE: u16 = 0x0c;
/// Bytes of the registers.
pub(crate) const LEN: u16 = 0x18;

/// Devices that were plugged in while the guest ran: names by device number.
#[derive(Default)]
pub(crate) struct PciHotplug {
    plugged: BTreeMap<u8, String>,
    down: u32,
}

impl PciHotplug {
    /// Adds a device under a name.
    pub(crate) fn plug(&mut self, device: u8, id: &str) -> Result<(), BoardError> {
        if !(1..32).contains(&device) {
            return Err(BoardError::NoPlace(device));
        }
        if self.plugged.values().any(|known| known == id) {
            return Err(BoardError::Named(id.to_owned()));
        }
        if self.plugged.contains_key(&device) {
            return Err(BoardError::Taken(device));
        }
        self.plugged.insert(device, id.to_owned());
        Ok(())
    }

    /// Asks the guest to eject the device of this name.
    pub(crate) fn request_eject(&mut self, id: &str) -> Result<(), BoardError> {
        let device = self.plugged.iter().find(|(_, known)| *known == id).map(|(device, _)| *device);
        self.down |= 1 << device.ok_or_else(|| BoardError::Unknown(id.to_owned()))?;
        Ok(())
    }

    fn up(&self) -> u32 {
        self.plugged.keys().fold(0, |up, device| up | 1 << device)
    }

    pub(crate) fn read(&self, offset: u16, size: u8) -> IoResult<u32> {
        match (offset, size) {
            (UP | REMOVABLE, 4) => Ok(self.up()),
            (DOWN, 4) => Ok(self.down),
            (o, 4) if o.is_multiple_of(4) && o < LEN => Ok(0),
            _ => Err(IoError::Size),
        }
    }

    pub(crate) fn write(&mut self, offset: u16, size: u8, value: u32, cx: &mut Context) -> IoResult<()> {
        if size != 4 || !offset.is_multiple_of(4) || offset >= LEN {
            return Err(IoError::Size);
        }
        let ejected = if offset == EJECT { value & self.up() } else { 0 };
        if ejected != 0 {
            self.plugged.retain(|device, _| ejected >> device & 1 == 0);
            self.down &= !ejected;
            cx.effects.bits.set_eject(true);
            // A string of writes is one access: its effects add up.
            cx.effects.mask |= ejected;
        }
        Ok(())
    }

    /// Clears pending requests; added devices survive a reset of the machine.
    pub(crate) fn reset(&mut self) {
        self.down = 0;
    }

    pub(crate) fn save(&self) -> PlugState {
        PlugState {
            devices: self
                .plugged
                .iter()
                .map(|(device, id)| PciState { device: u32::from(*device), id: id.clone() })
                .collect(),
            down: self.down,
        }
    }

    pub(crate) fn load(s: &PlugState) -> Result<Self, StateError> {
        let mut this = Self::default();
        for saved in &s.devices {
            let device = u8::try_from(saved.device).map_err(|_| StateError::Value("plugged device"))?;
            this.plug(device, &saved.id).map_err(|_| StateError::Value("plugged device"))?;
        }
        this.down = s.down & this.up();
        Ok(this)
    }

    /// Numbers and names, for `inspect`.
    pub(crate) fn shown(&self) -> String {
        let shown: Vec<String> = self
            .plugged
            .iter()
            .map(|(d, id)| format!("{id} at {d:02x}.0{}", if self.down >> d & 1 != 0 { ", to be ejected" } else { "" }))
            .collect();
        shown.join("; ")
    }
}
