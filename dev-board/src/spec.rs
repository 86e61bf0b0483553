//! The board's registers, by name, for fuzzing and for reports.
use crate::pci_hotplug::{DOWN, EJECT, REMOVABLE, UP};
use crate::pm::{CPU_EVENT, PCI_EVENT, Pm1Control};
use crate::xen_platform::{ROM_LOCK, UNPLUG_DISKS, UNPLUG_NICS};
use crate::{cmos, region};
use bulkhead_bus::exercise::Register;

const fn register(name: &'static str, section: &'static str, region: u16, offset: u16, size: u8) -> Register {
    Register::new(name, section, region as u8, offset as u32, size)
}

/// PM1 control with a sleep type, and with the bit that enters it.
const fn sleep(kind: u8) -> u64 {
    Pm1Control::new().with_sci_enable(true).with_sleep_type(kind).with_sleep_enable(true).into_bits() as u64
}

/// Indices of CMOS RAM: those that firmware reads, the borders of the clock, the last, and the bit that masks NMIs.
const INDICES: &[u64] = &[
    0x00,
    0x0a,
    0x0d,
    0x0e,
    0x0f,
    cmos::DISK_TYPES as u64,
    cmos::EQUIPMENT as u64,
    0x19,
    0x1a,
    0x1b,
    0x24,
    cmos::BOOT_1 as u64,
    cmos::TRANSLATIONS as u64,
    cmos::BOOT_2 as u64,
    cmos::CPUS as u64,
    0x7f,
    0x80,
    0x8f,
    0xff,
];

/// Sections of the specifications.
const ACPI_PM1: &str = "ACPI 6.5, 4.8.3.2.1";
const ACPI_GPE: &str = "ACPI 6.5, 4.8.4.1";
const DSDT: &str = "libacpi, mk_dsdt.c";
const UNPLUG: &str = "hvm-emulated-unplug.pandoc";
const PIIX: &str = "82371SB, 2.5";
const PIIX_APM: &str = "82371SB, 2.5.4";
const DMA: &str = "8237A, Register Description";
const DMA_COMMANDS: &str = "8237A, Software Commands";

/// A channel's halves, and words of any page.
const ADDRESSES: &[u64] = &[0, 1, 0xff];

/// Registers of the board. The controllers' channels are those with disks: 2 and 5.
pub(crate) const REGISTERS: &[Register] = &[
    register("CMOS index", PIIX, region::CMOS, 0, 1).words(INDICES),
    register("CMOS data", PIIX, region::CMOS, 1, 1),
    register("Port 92", PIIX, region::PORT92, 0, 1).words(&[0, 1, 2, 3]),
    register("Reset Control", PIIX, region::RESET_CONTROL, 0, 1).words(&[0, 2, 4, 6, 0x0e]),
    register("APM Control", PIIX_APM, region::APM, 0, 1).words(&[0xf0, 0xf1]),
    register("APM Status", PIIX_APM, region::APM, 1, 1),
    register("PM1a_CNT", ACPI_PM1, region::PM1_CONTROL, 0, 2).words(&[
        0,
        1,
        sleep(0),
        sleep(1),
        sleep(2),
        sleep(5),
        sleep(7),
    ]),
    register("PM1a_CNT, high byte", ACPI_PM1, region::PM1_CONTROL, 1, 1).words(&[
        sleep(0) >> 8,
        sleep(1) >> 8,
        sleep(2) >> 8,
    ]),
    register("GPE0_STS", ACPI_GPE, region::GPE, 0, 2).words(&[PCI_EVENT as u64, CPU_EVENT as u64, 0xffff]),
    register("GPE0_EN", ACPI_GPE, region::GPE, 2, 2).words(&[PCI_EVENT as u64, CPU_EVENT as u64, 0xffff]),
    register("GPE0", ACPI_GPE, region::GPE, 0, 4).words(&[0xffff, 0xffff_0000, 0xffff_ffff]),
    register("PCIU", DSDT, region::PCI_HOTPLUG, UP, 4),
    register("PCID", DSDT, region::PCI_HOTPLUG, DOWN, 4),
    register("B0EJ", DSDT, region::PCI_HOTPLUG, EJECT, 4).words(&[1 << 5, 1 << 6, 1 << 31, 1, 0xffff_ffff]),
    register("removable devices", DSDT, region::PCI_HOTPLUG, REMOVABLE, 4),
    register("PRS, vCPUs 0 to 7", DSDT, region::CPU_HOTPLUG, 0, 1),
    register("PRS, the last vCPUs", DSDT, region::CPU_HOTPLUG, 0x1f, 1),
    register("POST", PIIX, region::POST, 0, 1),
    register("Coprocessor Error", PIIX, region::FERR, 0, 1),
    register("debug console", "SeaBIOS, Debugging.md", region::DEBUG, 0, 1).words(&[0x0a, 0x41, 0x1b]),
    register("Address, channel 0", DMA, region::DMA1, 0, 1).words(ADDRESSES),
    register("Word Count, channel 0", DMA, region::DMA1, 1, 1).words(ADDRESSES),
    register("Address, channel 2", DMA, region::DMA1, 4, 1).words(ADDRESSES),
    register("Word Count, channel 2", DMA, region::DMA1, 5, 1).words(ADDRESSES),
    register("Word Count, channel 3", DMA, region::DMA1, 7, 1).words(ADDRESSES),
    register("Command, Status", DMA, region::DMA1, 8, 1).words(&[0, 1, 4, 0x10]),
    register("Request", DMA, region::DMA1, 9, 1).words(&[0, 4, 6]),
    register("Single Mask", DMA, region::DMA1, 0x0a, 1).words(&[0, 2, 4, 6, 7]),
    register("Mode", DMA, region::DMA1, 0x0b, 1).words(&[0x46, 0x4a, 0x56, 0xc0]),
    register("Clear Byte Pointer", DMA_COMMANDS, region::DMA1, 0x0c, 1).words(&[0]),
    register("Master Clear", DMA_COMMANDS, region::DMA1, 0x0d, 1).words(&[0]),
    register("Clear Mask", DMA_COMMANDS, region::DMA1, 0x0e, 1).words(&[0]),
    register("All Mask", DMA, region::DMA1, 0x0f, 1).words(&[0, 0x0f, 0xff]),
    register("Page, channel 2", PIIX, region::DMA_PAGES, 0, 1),
    register("Page, refresh", PIIX, region::DMA_PAGES, 0x0e, 1),
    register("Address, channel 5", DMA, region::DMA2, 4, 1).words(ADDRESSES),
    register("Word Count, channel 5", DMA, region::DMA2, 6, 1).words(ADDRESSES),
    register("Command, Status 2", DMA, region::DMA2, 0x10, 1).words(&[0, 4]),
    register("Single Mask 2", DMA, region::DMA2, 0x14, 1).words(&[0, 1, 5]),
    register("Clear Byte Pointer 2", DMA_COMMANDS, region::DMA2, 0x18, 1).words(&[0]),
    register("All Mask 2", DMA, region::DMA2, 0x1e, 1).words(&[0, 0x0f]),
    register("unplug: magic, mask", UNPLUG, region::XEN_PORTS, 0, 2).words(&[
        UNPLUG_DISKS as u64,
        UNPLUG_NICS as u64,
        UNPLUG_DISKS as u64 | UNPLUG_NICS as u64,
        4,
        8,
        0xffff,
    ]),
    register("unplug: build", UNPLUG, region::XEN_PORTS, 0, 4),
    register("unplug: product", UNPLUG, region::XEN_PORTS, 2, 2).words(&[1, 2, 3, 0xffff]),
    register("unplug: version, log", UNPLUG, region::XEN_PORTS, 2, 1).words(&[0x0a, 0x41]),
    register("ROM lock", UNPLUG, region::XEN_PORTS, 0, 1).words(&[0, ROM_LOCK as u64, 0xff]),
    register("BAR 0: ROM lock", UNPLUG, region::XEN_BAR0, 0, 1).words(&[0, ROM_LOCK as u64]),
    register("BAR 0: unplug all", UNPLUG, region::XEN_BAR0, 4, 1).words(&[0, 1]),
    register("BAR 0: unplug or log", UNPLUG, region::XEN_BAR0, 8, 1).words(&[1, 2, 0x41]),
    register("BAR 1", UNPLUG, region::XEN_BAR1, 0, 4),
];
