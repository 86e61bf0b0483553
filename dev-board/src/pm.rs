//! The parts of PIIX4 power management that Xen does not emulate: PM1a control, general purpose events, APM, and the hot-plug
//! registers that libacpi's DSDT reads. Xen emulates the PM1a event block and the timer (HVM_PARAM_ACPI_IOPORTS_LOCATION 1).
use crate::pci_hotplug::PciHotplug;
use crate::state::{PlugState, PmState};
use bitfield_struct::bitfield;
use bulkhead_bus::{BoardError, Context, Inspect, IoError, IoResult, StateError};
use std::collections::BTreeSet;

/// PM1a_CNT_BLK of Xen's FADT.
pub(crate) const PM1A_CONTROL: u16 = 0xb004;
/// Base of GPE0_BLK, as Xen's FADT has it.
pub(crate) const GPE0: u16 = 0xafe0;
/// PCI hot-plug registers of the DSDT.
pub(crate) const PCI_HOTPLUG: u16 = 0xae00;
/// CPU hot-plug bitmap of the DSDT.
pub(crate) const CPU_HOTPLUG: u16 = 0xaf00;

/// The general purpose event of PCI hot-plug: the DSDT's _E01.
pub(crate) const PCI_EVENT: u16 = 1 << 1;
/// The general purpose event of CPU hot-plug: the DSDT's _L02.
pub(crate) const CPU_EVENT: u16 = 1 << 2;

/// PM1 control (ACPI 6.5, 4.8.3.2.1).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(crate) struct Pm1Control {
    /// ACPI mode is enabled.
    pub(crate) sci_enable: bool,
    pub(crate) bus_master_reload: bool,
    pub(crate) global_release: bool,
    #[bits(7)]
    __: u8,
    /// SLP_TYP: Xen's DSDT gives 0 for S5, 1 for S3, 2 for S4.
    #[bits(3)]
    pub(crate) sleep_type: u8,
    /// Enter the sleep state; reads as 0.
    pub(crate) sleep_enable: bool,
    #[bits(2)]
    __: u8,
}

/// The registers of power management and of hot-plug, which raise the same interrupt.
pub(crate) struct Pm {
    vcpus: u16,
    /// vCPUs that are plugged in at the start.
    online: u16,
    /// Numbers of the vCPUs that were plugged in later.
    plugged: BTreeSet<u16>,
    pub(crate) pci: PciHotplug,
    control: Pm1Control,
    gpe_status: u16,
    gpe_enable: u16,
    apm_control: u8,
    apm_status: u8,
    refused_sleeps: u32,
}

impl Pm {
    pub(crate) fn new(vcpus: u16, online: u16) -> Self {
        Self {
            vcpus,
            online,
            plugged: BTreeSet::new(),
            pci: PciHotplug::default(),
            control: Pm1Control::new(),
            gpe_status: 0,
            gpe_enable: 0,
            apm_control: 0,
            apm_status: 0,
            refused_sleeps: 0,
        }
    }

    /// The level of the system control interrupt.
    pub(crate) fn sci(&self) -> bool {
        self.gpe_status & self.gpe_enable != 0
    }

    pub(crate) fn control_read(&self, offset: u16, size: u8) -> IoResult<u16> {
        let value = self.control.into_bits();
        match (offset, size) {
            (0, 2) => Ok(value),
            (0, 1) => Ok(value & 0xff),
            (1, 1) => Ok(value >> 8),
            _ => Err(IoError::Size),
        }
    }

    pub(crate) fn control_write(&mut self, offset: u16, size: u8, value: u16, cx: &mut Context) -> IoResult<()> {
        let old = self.control.into_bits();
        let new = Pm1Control::from_bits(match (offset, size) {
            (0, 2) => value,
            (0, 1) => old & 0xff00 | value & 0xff,
            (1, 1) => old & 0x00ff | value << 8,
            _ => return Err(IoError::Size),
        });
        self.control = new.with_sleep_enable(false);
        if new.sleep_enable() {
            match new.sleep_type() {
                0 | 2 => cx.power_off(),
                other => {
                    // Waking from S3 needs the toolstack, which does not support it: the request is logged and refused.
                    self.refused_sleeps = self.refused_sleeps.saturating_add(1);
                    for byte in format!(
                        "[platform] the guest asked for sleep type {other} (S3 is 1): refused, it stays awake\n"
                    )
                    .bytes()
                    {
                        cx.log.push(byte);
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn gpe_read(&self, offset: u16, size: u8) -> IoResult<u32> {
        let all = u32::from(self.gpe_status) | u32::from(self.gpe_enable) << 16;
        match (size, offset) {
            (4, 0) => Ok(all),
            (2, 0 | 2) | (1, 0..=3) => Ok(all >> (u32::from(offset) << 3) & if size == 2 { 0xffff } else { 0xff }),
            _ => Err(IoError::Size),
        }
    }

    pub(crate) fn gpe_write(&mut self, offset: u16, size: u8, value: u32) -> IoResult<()> {
        let bytes = value.to_le_bytes();
        if offset.saturating_add(u16::from(size)) > 4 || !matches!(size, 1 | 2 | 4) {
            return Err(IoError::Size);
        }
        for (i, byte) in (offset..4).zip(bytes.iter().take(usize::from(size))) {
            let byte = u16::from(*byte);
            match i {
                0 => self.gpe_status &= !byte,
                1 => self.gpe_status &= !(byte << 8),
                2 => self.gpe_enable = self.gpe_enable & 0xff00 | byte,
                _ => self.gpe_enable = self.gpe_enable & 0x00ff | byte << 8,
            }
        }
        Ok(())
    }

    /// Reports a new PCI device to the guest, or asks it to eject the one of this name, by an event.
    pub(crate) fn plug_pci(&mut self, device: Option<u8>, id: &str) -> Result<(), BoardError> {
        match device {
            Some(device) => self.pci.plug(device, id)?,
            None => self.pci.request_eject(id)?,
        }
        self.gpe_status |= PCI_EVENT;
        Ok(())
    }

    /// Returns to the power-on state; added devices stay.
    pub(crate) fn reset(&mut self) {
        let mut pci = std::mem::take(&mut self.pci);
        pci.reset();
        *self = Self { pci, ..Self::new(self.vcpus, self.online) };
    }

    fn has_cpu(&self, cpu: u16) -> bool {
        cpu < self.online || self.plugged.contains(&cpu)
    }

    /// Plugs in a vCPU. The DSDT's handler of the event reads the bitmap.
    pub(crate) fn plug_cpu(&mut self, cpu: u16) -> Result<(), BoardError> {
        if cpu >= self.vcpus {
            return Err(BoardError::NoCpuPlace { vcpus: self.vcpus, cpu });
        }
        if self.has_cpu(cpu) {
            return Err(BoardError::CpuThere(cpu));
        }
        self.plugged.insert(cpu);
        self.gpe_status |= CPU_EVENT;
        Ok(())
    }

    /// Reads the bitmap of vCPUs that are plugged in.
    pub(crate) fn cpu_hotplug_read(&self, offset: u16) -> u8 {
        let first = offset.saturating_mul(8);
        (0..8u16).filter(|bit| self.has_cpu(first.saturating_add(*bit))).fold(0, |byte, bit| byte | 1 << bit)
    }

    pub(crate) fn apm_read(&self, offset: u16) -> u8 {
        if offset == 0 { self.apm_control } else { self.apm_status }
    }

    /// 0xf1 in the control port enables ACPI mode. hvmloader checks SCI_EN after it.
    pub(crate) fn apm_write(&mut self, offset: u16, value: u8) {
        if offset != 0 {
            self.apm_status = value;
            return;
        }
        self.apm_control = value;
        match value {
            0xf1 => self.control.set_sci_enable(true),
            0xf0 => self.control.set_sci_enable(false),
            _ => {}
        }
    }

    pub(crate) fn save(&self) -> PmState {
        PmState {
            control: u32::from(self.control.into_bits()),
            gpe_status: u32::from(self.gpe_status),
            gpe_enable: u32::from(self.gpe_enable),
            apm_control: u32::from(self.apm_control),
            apm_status: u32::from(self.apm_status),
            plugged: self.plugged.iter().map(|cpu| u32::from(*cpu)).collect(),
            pci: Some(self.pci.save()).filter(|pci| *pci != PlugState::default()),
            online: if self.plugged.is_empty() { 0 } else { u32::from(self.online) },
        }
    }

    pub(crate) fn load(&mut self, s: &PmState) -> Result<(), StateError> {
        let word = |v: u32, what| u16::try_from(v).map_err(|_| StateError::Value(what));
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        self.control = Pm1Control::from_bits(word(s.control, "PM1 control")?).with_sleep_enable(false);
        self.gpe_status = word(s.gpe_status, "GPE status")?;
        self.gpe_enable = word(s.gpe_enable, "GPE enable")?;
        self.apm_control = byte(s.apm_control, "APM control")?;
        self.apm_status = byte(s.apm_status, "APM status")?;
        if s.online != 0 {
            let online = u16::try_from(s.online).ok().filter(|n| *n <= self.vcpus);
            self.online = online.ok_or(StateError::Value("vCPUs at the start"))?;
        }
        let plugged: Option<BTreeSet<u16>> = s
            .plugged
            .iter()
            .map(|c| u16::try_from(*c).ok().filter(|c| (self.online..self.vcpus).contains(c)))
            .collect();
        self.plugged = plugged.ok_or(StateError::Value("plugged vCPUs"))?;
        self.pci = PciHotplug::load(&s.pci.clone().unwrap_or_default())?;
        Ok(())
    }

    /// Numbers of the vCPUs that are plugged in.
    pub(crate) fn vcpus(&self) -> Vec<u16> {
        (0..self.vcpus).filter(|cpu| self.has_cpu(*cpu)).collect()
    }

    pub(crate) fn inspect(&self, out: &mut Inspect) {
        out.hex("control", self.control.into_bits())
            .hex("GPE status", self.gpe_status)
            .hex("GPE enable", self.gpe_enable);
        let cpus: Vec<String> = self.vcpus().iter().map(u16::to_string).collect();
        out.value("vCPUs", cpus.join(","))
            .value("sleeps refused", self.refused_sleeps)
            .value("PCI devices added", self.pci.shown());
    }
}
