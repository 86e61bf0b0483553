use super::*;
use bulkhead_bus::fake;
use proptest::prelude::*;

fn board() -> (Platform, Context) {
    let config = Config {
        vcpus: 3,
        online: 2,
        xen_platform: true,
        boot: "dc".into(),
        unsigned_floppy: false,
        disks: Vec::new(),
        serial: true,
        unplug: false,
    };
    (Platform::new(config), fake::context(0))
}

fn read(p: &mut Platform, cx: &mut Context, region: u16, offset: u64, size: u8) -> u64 {
    p.read(Access::new(region, offset, size), cx).unwrap()
}

fn write(p: &mut Platform, cx: &mut Context, region: u16, offset: u64, size: u8, value: u64) {
    p.write(Access::new(region, offset, size), value, cx).unwrap();
}

/// CVE-2021-4158: a selector of a bus that does not exist led to a null pointer in another device model's registers.
#[test]
fn null_dereference_by_a_selector_of_the_pci_hotplug() {
    let (mut p, mut cx) = board();
    p.plug_pci(Some(5), "xenusb-0", &mut cx).unwrap();
    for selector in [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        for offset in 0..u64::from(pci_hotplug::LEN) {
            for size in [1, 2, 4] {
                // Nobody ejects the device: the register for that is left out.
                if offset + u64::from(size) <= 8 || offset > 11 {
                    let _ = p.write(Access::new(region::PCI_HOTPLUG, offset, size), selector, &mut cx);
                }
                let _ = p.read(Access::new(region::PCI_HOTPLUG, offset, size), &mut cx);
            }
        }
        assert_eq!(read(&mut p, &mut cx, region::PCI_HOTPLUG, 0, 4), 1 << 5, "{selector:#x}");
        // Devices that were not plugged in, and the board's own, stay.
        write(&mut p, &mut cx, region::PCI_HOTPLUG, 8, 4, selector & !(1 << 5));
        assert_eq!((cx.effects.bits.eject(), cx.effects.mask), (false, 0), "{selector:#x}");
    }
}

/// The writable bits of each function: command register (82441FX, 3.2; 82371SB, 2.2; 82371AB, 7.1), then the part's own registers.
#[test]
fn configuration_space_has_the_hard_wired_bits_of_the_part() {
    let (mut p, _) = board();
    let mut changeable = |function| bulkhead_bus::exercise::changeable(&mut p, function);
    let [host, isa, pm, xen] = [0, 1, 2, 3].map(&mut changeable);
    for (function, head) in
        [(&host, &[(0x04, 0x0146)][..]), (&isa, &[(0x04, 0x010f)]), (&pm, &[(0x04, 0x01), (0x3c, 0xff)])]
    {
        let (header, own) = function.split_at(head.len());
        assert_eq!(header, head);
        assert!(own.iter().all(|(at, _)| *at >= 0x40), "{own:x?}");
    }
    assert_eq!(xen, [(0x04, 0x03), (0x10, 0xffff_ff00), (0x14, 0xff00_0000), (0x3c, 0xff)]);
}

/// The power-on configuration spaces of the machine that guests know, dword by dword; dwords that are not listed are zero.
#[test]
fn power_on_configuration_spaces() {
    let (p, _) = board();
    let host =
        [(0x00, 0x1237_8086), (0x08, 0x0600_0002), (0x2c, 0x1100_1af4), (0x54, 0x4000_0000), (0x70, 0x0002_0000)];
    let isa = [
        (0x00, 0x7000_8086),
        (0x04, 0x0200_0000),
        (0x08, 0x0601_0000),
        (0x0c, 0x0080_0000),
        (0x2c, 0x1100_1af4),
        (0x4c, 0x0003_004d),
        (0x60, 0x8080_8080),
        (0x68, 0x0000_0200),
        (0x70, 0x0000_0080),
        (0x74, 0x0c0c_0000),
        (0x78, 0x0000_0002),
        (0xa0, 0x0000_0008),
        (0xa8, 0x0000_000f),
    ];
    let pm = [
        (0x00, 0x7113_8086),
        (0x04, 0x0280_0000),
        (0x08, 0x0680_0003),
        (0x2c, 0x1100_1af4),
        (0x3c, 0x0000_0100),
        (0x40, 0x0000_0001),
        (0x5c, 0x1000_0000),
        (0x60, 0x6000_0000),
        (0x64, 0x0800_0000),
        (0x90, 0x0000_b101),
        (0xd0, 0x0009_0000),
    ];
    for (function, want) in [(0, &host[..]), (1, &isa[..]), (2, &pm[..])] {
        let space = p.config(function).unwrap();
        for at in (0..=0xfcu8).step_by(4) {
            let value = want.iter().find(|(a, _)| *a == at).map_or(0, |(_, v)| *v);
            assert_eq!(space.read(at, 4), value, "function {function} register {at:#x}");
        }
    }
}

#[test]
fn hvmloaders_assertions_hold() {
    let (mut p, mut cx) = board();
    write(&mut p, &mut cx, region::APM, 0, 1, 0xf1);
    assert_eq!(read(&mut p, &mut cx, region::PM1_CONTROL, 0, 2) & 1, 1, "SCI_EN after 0xf1");
    p.config_write(2, 0x40, 4, 0xb001, &mut cx);
    p.config_write(2, 0x80, 1, 1, &mut cx);
    assert_eq!(p.config(2).unwrap().read(0x40, 4), 0xb001);
    for link in 0x60..0x64 {
        p.config_write(1, link, 1, 0x0a, &mut cx);
        assert_eq!(p.config(1).unwrap().read(link, 1), 0x0a);
    }
}

#[test]
fn s5_switches_off_and_s3_is_refused_without_a_hang() {
    let (mut p, mut cx) = board();
    write(&mut p, &mut cx, region::PM1_CONTROL, 0, 2, 0x2000 | 1 << 10);
    assert!(!cx.effects.bits.power_off());
    assert!(cx.log.take().unwrap().contains("refused"));
    write(&mut p, &mut cx, region::PM1_CONTROL, 0, 2, 0x2000);
    assert!(cx.effects.bits.power_off());
    assert_eq!(read(&mut p, &mut cx, region::PM1_CONTROL, 0, 2) & 0x2000, 0, "SLP_EN reads as 0");
}

#[test]
fn every_way_to_reset_asks_for_a_reboot() {
    for (region, value) in [(region::PORT92, 1), (region::RESET_CONTROL, 6)] {
        let (mut p, mut cx) = board();
        write(&mut p, &mut cx, region, 0, 1, value);
        assert!(cx.effects.bits.reboot());
    }
    let (mut p, mut cx) = board();
    write(&mut p, &mut cx, region::RESET_CONTROL, 0, 1, 2);
    write(&mut p, &mut cx, region::PORT92, 0, 1, 2);
    assert!(!cx.effects.bits.reboot());
}

#[test]
fn cmos_has_its_own_latch_and_the_boot_order() {
    let (mut p, mut cx) = board();
    let mut cmos = |index: u64| {
        write(&mut p, &mut cx, region::CMOS, 0, 1, index);
        read(&mut p, &mut cx, region::CMOS, 1, 1)
    };
    assert_eq!((cmos(0x3d), cmos(0x38), cmos(0x5f), cmos(0x14) & 6, cmos(0x10)), (0x23, 0, 2, 6, 0));
    write(&mut p, &mut cx, region::CMOS, 0, 1, 0x8f);
    write(&mut p, &mut cx, region::CMOS, 1, 1, 0x5a);
    assert_eq!(read(&mut p, &mut cx, region::CMOS, 1, 1), 0x5a);
}

#[test]
fn a_general_purpose_event_raises_the_sci_while_enabled() {
    let (mut p, mut cx) = board();
    p.pm.load(&state::PmState { gpe_status: 2, ..p.pm.save() }).unwrap();
    write(&mut p, &mut cx, region::GPE, 2, 2, 2);
    assert!(cx.lines.level(SCI));
    assert_eq!(read(&mut p, &mut cx, region::GPE, 0, 2), 2);
    write(&mut p, &mut cx, region::GPE, 0, 2, 2);
    assert!(!cx.lines.level(SCI), "writing 1 clears");
}

#[test]
fn cpu_bitmap_has_a_bit_for_each_vcpu() {
    let (mut p, mut cx) = board();
    assert_eq!(read(&mut p, &mut cx, region::CPU_HOTPLUG, 0, 1), 0b011);
    assert_eq!(read(&mut p, &mut cx, region::CPU_HOTPLUG, 31, 1), 0);
}

#[test]
fn without_a_back_end_the_unplug_protocol_answers_blacklisted_and_does_nothing() {
    let (mut p, mut cx) = board();
    assert_eq!(read(&mut p, &mut cx, region::XEN_PORTS, 0, 2), 0xd249);
    write(&mut p, &mut cx, region::XEN_PORTS, 0, 2, 1);
    assert!(!cx.effects.bits.unplug());
    let config = Config { unplug: true, ..p.config.clone() };
    let mut p = Platform::new(config);
    assert_eq!(read(&mut p, &mut cx, region::XEN_PORTS, 0, 2), 0x49d2);
    assert_eq!(read(&mut p, &mut cx, region::XEN_PORTS, 2, 1), 1);
    write(&mut p, &mut cx, region::XEN_PORTS, 0, 2, 3);
    assert!(cx.effects.bits.unplug());
    assert_eq!(cx.effects.mask, 3);
}

#[test]
fn the_rom_lock_is_an_edge() {
    let (mut p, mut cx) = board();
    write(&mut p, &mut cx, region::XEN_PORTS, 0, 1, 1);
    assert!(std::mem::take(&mut cx.effects).bits.rom_lock());
    write(&mut p, &mut cx, region::XEN_PORTS, 0, 1, 1);
    assert_eq!(cx.effects, bulkhead_bus::Effects::default());
    write(&mut p, &mut cx, region::XEN_BAR0, 0, 1, 0);
    assert!(cx.effects.bits.rom_unlock());
}

#[test]
fn guest_text_goes_to_the_log() {
    let (mut p, mut cx) = board();
    for byte in b"SeaBIOS\n" {
        write(&mut p, &mut cx, region::DEBUG, 0, 1, u64::from(*byte));
    }
    assert_eq!(cx.log.take().as_deref(), Some("SeaBIOS"));
    assert_eq!(read(&mut p, &mut cx, region::DEBUG, 0, 1), 0xe9);
}

#[test]
fn dma_registers_are_written_and_read_low_byte_first() {
    let (mut p, mut cx) = board();
    write(&mut p, &mut cx, region::DMA1, 0x0c, 1, 0);
    write(&mut p, &mut cx, region::DMA1, 4, 1, 0x34);
    write(&mut p, &mut cx, region::DMA1, 4, 1, 0x12);
    write(&mut p, &mut cx, region::DMA1, 0x0c, 1, 0);
    assert_eq!((read(&mut p, &mut cx, region::DMA1, 4, 1), read(&mut p, &mut cx, region::DMA1, 4, 1)), (0x34, 0x12));
    write(&mut p, &mut cx, region::DMA2, 0x0f * 2, 1, 5);
    assert_eq!(read(&mut p, &mut cx, region::DMA2, 0x0f * 2, 1), 0xf5);
}

fn access_size() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![1u8, 2, 4, 8])
}

proptest! {
    #[test]
    fn any_accesses_are_survived_and_the_state_comes_back_equal(
        ops in prop::collection::vec((any::<bool>(), 0u16..18, 0u64..40, access_size(), any::<u32>()), 0..200),
    ) {
        let (mut p, mut cx) = board();
        for (is_write, region, offset, size, value) in ops {
            let at = Access::new(region, offset, size);
            if is_write { let _ = p.write(at, u64::from(value), &mut cx); } else { let _ = p.read(at, &mut cx); }
            p.config_write((region % 5) as u8, offset as u8, size.min(4), value, &mut cx);
            prop_assert_eq!(cx.lines.level(SCI), p.pm.sci());
        }
        let saved = p.save();
        let (mut other, mut cx) = board();
        other.load(&saved, &mut cx).unwrap();
        prop_assert_eq!(other.save(), saved);
    }

    #[test]
    fn a_hostile_state_is_refused_or_harmless(state in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut p, mut cx) = board();
        let before = p.save();
        if p.load(&state, &mut cx).is_err() {
            prop_assert_eq!(p.save(), before);
        }
    }
}

#[test]
fn a_cpu_that_is_plugged_in_is_an_event_until_the_guest_has_seen_it() {
    let (mut p, mut cx) = board();
    assert_eq!(read(&mut p, &mut cx, region::CPU_HOTPLUG, 0, 1), 0b011, "those of the start");
    write(&mut p, &mut cx, region::GPE, 2, 1, 4);
    p.plug_cpu(2, &mut cx).unwrap();
    assert_eq!(read(&mut p, &mut cx, region::CPU_HOTPLUG, 0, 1), 0b111);
    assert!(cx.lines.level(SCI) && read(&mut p, &mut cx, region::GPE, 0, 1) == 4);
    assert!(p.plug_cpu(2, &mut cx).unwrap_err().to_string().contains("there already"));
    assert!(p.plug_cpu(0, &mut cx).unwrap_err().to_string().contains("there already"));
    assert!(p.plug_cpu(3, &mut cx).unwrap_err().to_string().contains("3 vCPUs"));
    write(&mut p, &mut cx, region::GPE, 0, 1, 4);
    assert!(!cx.lines.level(SCI));
    // A restarted process restores it; a state cannot add another one.
    let state = p.save();
    let (mut next, mut cx) = board();
    next.load(&state, &mut cx).unwrap();
    assert_eq!(read(&mut next, &mut cx, region::CPU_HOTPLUG, 0, 1), 0b111);
    let mut hostile = state::PlatformState::decode(state.as_slice()).unwrap();
    hostile.pm.as_mut().unwrap().plugged = vec![100];
    assert!(next.load(&hostile.encode_to_vec(), &mut cx).is_err());
    hostile.pm.as_mut().unwrap().plugged = vec![2];
    hostile.pm.as_mut().unwrap().online = 4;
    assert!(next.load(&hostile.encode_to_vec(), &mut cx).is_err());
}

/// After `xl vcpu-set` libxl restores a guest with the number of its vCPUs, which says nothing of which they are: the saved board was
/// refused.
#[test]
fn a_board_with_plugged_vcpus_is_restored_by_their_count() {
    let config = |online| Config {
        vcpus: 8,
        online,
        xen_platform: true,
        boot: "c".into(),
        unsigned_floppy: false,
        disks: Vec::new(),
        serial: false,
        unplug: false,
    };
    let (mut old, mut cx) = (Platform::new(config(1)), fake::context(0));
    old.plug_cpu(4, &mut cx).unwrap();
    let (mut new, mut cx) = (Platform::new(config(2)), fake::context(0));
    new.load(&old.save(), &mut cx).unwrap();
    assert_eq!(read(&mut new, &mut cx, region::CPU_HOTPLUG, 0, 1), 0b1_0001);
    assert_eq!(new.save(), old.save());
    new.plug_cpu(1, &mut cx).unwrap();
    assert_eq!(read(&mut new, &mut cx, region::CPU_HOTPLUG, 0, 1), 0b1_0011);
}

#[test]
fn a_pci_device_that_is_plugged_in_is_an_event_and_goes_when_the_guest_ejects_it() {
    let (mut p, mut cx) = board();
    let [up, down, eject] = [0, 4, 8];
    write(&mut p, &mut cx, region::GPE, 2, 1, 2);
    assert_eq!(read(&mut p, &mut cx, region::PCI_HOTPLUG, up, 4), 0);
    p.plug_pci(Some(5), "xenusb-0", &mut cx).unwrap();
    assert!(cx.lines.level(SCI) && read(&mut p, &mut cx, region::GPE, 0, 1) == 2);
    for _ in 0..2 {
        assert_eq!(
            read(&mut p, &mut cx, region::PCI_HOTPLUG, up, 4),
            1 << 5,
            "the event's method reads it for each device"
        );
    }
    assert!(p.plug_pci(Some(5), "other", &mut cx).unwrap_err().to_string().contains("there already"));
    assert!(p.plug_pci(Some(6), "xenusb-0", &mut cx).unwrap_err().to_string().contains("already"));
    assert!(p.plug_pci(Some(0), "other", &mut cx).is_err() && p.plug_pci(Some(32), "other", &mut cx).is_err());
    assert!(p.plug_pci(None, "other", &mut cx).unwrap_err().to_string().contains("no device other"));
    write(&mut p, &mut cx, region::GPE, 0, 1, 2);
    // Devices that were not added cannot be ejected.
    write(&mut p, &mut cx, region::PCI_HOTPLUG, eject, 4, 1 << 3);
    assert!(!cx.effects.bits.eject());
    p.plug_pci(None, "xenusb-0", &mut cx).unwrap();
    assert!(cx.lines.level(SCI));
    assert_eq!(read(&mut p, &mut cx, region::PCI_HOTPLUG, down, 4), 1 << 5);
    // A restarted process restores it, and a reset clears only the request.
    let state = p.save();
    let (mut next, mut cx) = board();
    next.load(&state, &mut cx).unwrap();
    assert_eq!(read(&mut next, &mut cx, region::PCI_HOTPLUG, down, 4), 1 << 5);
    next.reset(Reset::Machine, &mut cx);
    assert_eq!(
        (read(&mut next, &mut cx, region::PCI_HOTPLUG, up, 4), read(&mut next, &mut cx, region::PCI_HOTPLUG, down, 4)),
        (1 << 5, 0)
    );
    write(&mut next, &mut cx, region::PCI_HOTPLUG, eject, 4, 0xffff_ffff);
    assert!(cx.effects.bits.eject() && cx.effects.mask == 1 << 5);
    assert_eq!(read(&mut next, &mut cx, region::PCI_HOTPLUG, up, 4), 0);
    next.plug_pci(Some(5), "xenusb-1", &mut cx).unwrap();
    let mut hostile = state::PlatformState::decode(state.as_slice()).unwrap();
    hostile.pm.as_mut().unwrap().pci.as_mut().unwrap().devices[0].device = 32;
    assert!(next.load(&hostile.encode_to_vec(), &mut cx).is_err());
}

/// SeaBIOS translates cylinder addresses according to these bytes; without them a loader that uses such addresses does not find its
/// disk.
#[test]
fn the_cmos_has_the_disks_and_their_address_translation() {
    use bulkhead_bus::{DiskGeometry, Translation};
    let disk =
        |drive, cylinders, heads, translation| DiskGeometry { drive, cylinders, heads, sectors: 63, translation };
    let disks = vec![
        disk(0, 8322, 16, Translation::Lba),
        disk(1, 480, 4, Translation::None),
        disk(3, 1000, 16, Translation::Large),
    ];
    let bytes = |disks, unsigned_floppy| {
        let mut p = Platform::new(Config { disks, unsigned_floppy, ..board().0.config });
        let mut cx = fake::context(0);
        move |index: u64| {
            write(&mut p, &mut cx, region::CMOS, 0, 1, index);
            read(&mut p, &mut cx, region::CMOS, 1, 1)
        }
    };
    let mut cmos = bytes(disks, true);
    assert_eq!((cmos(0x12), cmos(0x19), cmos(0x1a), cmos(0x39), cmos(0x38) & 1), (0xff, 47, 47, 0b1000_0001, 1));
    assert_eq!([0x1b, 0x1c, 0x1d, 0x20, 0x23].map(&mut cmos), [0x82, 0x20, 16, 0xc8, 63]);
    assert_eq!([0x24, 0x25, 0x26, 0x29, 0x2c].map(&mut cmos), [0xe0, 1, 4, 0xc0, 63]);
    let mut cmos = bytes(Vec::new(), false);
    assert_eq!([0x12, 0x19, 0x1a, 0x1b, 0x24, 0x39].map(&mut cmos), [0; 6]);
}

/// A read of an 8237's address moves its byte pointer: a checkpoint must follow, or a restart turns high and low byte around.
#[test]
fn a_read_that_a_restart_forgets() {
    let (mut p, mut cx) = board();
    for (region, shift) in [(region::DMA1, 0), (region::DMA2, 1)] {
        write(&mut p, &mut cx, region, 0x0c << shift, 1, 0);
        for byte in [0x34, 0x12] {
            write(&mut p, &mut cx, region, 4 << shift, 1, byte);
        }
        p.checkpoint().unwrap();
        assert_eq!(read(&mut p, &mut cx, region, 4 << shift, 1), 0x34);
        let state = p.checkpoint().unwrap();
        let (mut next, mut cx) = board();
        next.load(&state, &mut cx).unwrap();
        assert_eq!(read(&mut next, &mut cx, region, 4 << shift, 1), 0x12);
        // An access of a size that the part does not have moves nothing.
        assert!(next.read(Access::new(region, 4 << shift, 2), &mut cx).is_err());
        assert_eq!(read(&mut next, &mut cx, region, 4 << shift, 1), 0x34);
    }
}

/// `rep outs` is one access with one reply: the broker must hear of each device, not only of the last.
#[test]
fn a_request_that_the_next_of_a_string_replaces() {
    let (mut p, mut cx) = board();
    p.plug_pci(Some(5), "xenusb-0", &mut cx).unwrap();
    p.plug_pci(Some(6), "xenusb-1", &mut cx).unwrap();
    let masks = [1u32 << 5, 1 << 6].map(u32::to_le_bytes).concat();
    p.write_string(Access::new(region::PCI_HOTPLUG, 8, 4), &masks, &mut cx).unwrap();
    assert_eq!((cx.effects.bits.eject(), cx.effects.mask), (true, 3 << 5));

    let (p, mut cx) = board();
    let mut p = Platform::new(Config { unplug: true, ..p.config });
    p.write_string(Access::new(region::XEN_PORTS, 0, 2), &[1, 0, 2, 0], &mut cx).unwrap();
    assert_eq!((cx.effects.bits.unplug(), cx.effects.mask), (true, 3));
}

/// The bit that enters a sleep state reads as 0, also after a state that has it.
#[test]
fn a_state_with_a_bit_that_no_register_holds() {
    let (mut p, mut cx) = board();
    let mut state = state::PlatformState::decode(p.save().as_slice()).unwrap();
    state.pm.as_mut().unwrap().control = 0xffff;
    p.load(&state.encode_to_vec(), &mut cx).unwrap();
    assert_eq!(read(&mut p, &mut cx, region::PM1_CONTROL, 0, 2), 0xdfff);
}
