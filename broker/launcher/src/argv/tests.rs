use super::*;
use crate::machine::Socket;
use crate::machine::boot::Kernel;
use crate::machine::nics::NicOther;
use crate::machine::serial::Serial;
use crate::machine::video::Video;
use crate::machine::viewers::Vnc;
use bulkhead_bus::BootMenu;
use bulkhead_plan::{DriveId, NicModel, VncAddress};
use proptest::prelude::*;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

const LIBXL: &str = "-xen-domid 7 -no-shutdown
    -chardev socket,id=libxl-cmd,path=/var/run/xen/qmp-libxl-7,server=on,wait=off -mon chardev=libxl-cmd,mode=control
    -chardev socket,id=libxenstat-cmd,path=/var/run/xen/qmp-libxenstat-7,server=on,wait=off
    -mon chardev=libxenstat-cmd,mode=control -nodefaults -no-user-config -name win10 -vnc 127.0.0.1:0,to=99
    -display none -serial pty -device VGA,vgamem_mb=16 -boot order=dc -smp 2,maxcpus=4 -net none
    -machine xenfv,suppress-vmdesc=on -m 2032
    -drive file=/dev/vg/win10,if=ide,index=0,media=disk,format=raw,cache=writeback
    -drive if=none,readonly=on,id=ide-5632,file=/iso/win.iso,format=raw
    -device ide-cd,id=ide-5632,drive=ide-5632,bus=ide.1,unit=0";

/// A drive of the PIIX3, as arguments place it.
fn ide(port: u8) -> Option<DriveId> {
    Some(DriveId::ide(port))
}

#[test]
fn what_libxl_4_17_emits_for_a_bios_guest() {
    let Parsed { machine, notes } = parse(words(LIBXL)).unwrap();
    assert_eq!(
        (machine.domid, machine.name.as_str(), machine.online, machine.vcpus, machine.memory_mib),
        (Some(7), "win10", 2, 4, 2032)
    );
    assert_eq!(machine.monitors.len(), 2);
    assert_eq!(machine.serials, [Serial::Pty]);
    assert_eq!(machine.video, Some(Video { mib: 16 }));
    assert_eq!(machine.boot, "dc");
    assert!(machine.xen_platform && !machine.stopped && !machine.probe);
    let drives: Vec<_> = machine.drives.iter().map(|d| (d.at, d.cdrom, d.read_only, d.id.as_str())).collect();
    assert_eq!(drives, [(ide(0), false, false, "ide0-hd0"), (ide(2), true, true, "ide-5632")]);
    assert!(notes.iter().any(|n| n.starts_with("-display")), "{notes:?}");
    let local = |port| VncAddress::Tcp { host: "127.0.0.1".into(), port, ipv6: false };
    assert_eq!(machine.vnc, Some(Vnc { at: local(5900), last: 5999, password: false }));
}

#[test]
fn where_viewers_connect() {
    let vnc = |text: &str| parse(words(&format!("-xen-domid 7 -vnc {text}"))).map(|p| p.machine.vnc);
    let tcp = |host: &str, port, ipv6| VncAddress::Tcp { host: host.into(), port, ipv6 };
    for (text, want) in [
        ("none", None),
        ("0.0.0.0:7,password=on", Some(Vnc { at: tcp("0.0.0.0", 5907, false), last: 5907, password: true })),
        ("[::1]:1,to=3", Some(Vnc { at: tcp("::1", 5901, true), last: 5903, password: false })),
        (":0", Some(Vnc { at: tcp("", 5900, false), last: 5900, password: false })),
        ("unix:/run/vnc:1,password", Some(Vnc { at: VncAddress::Unix("/run/vnc:1".into()), last: 0, password: true })),
    ] {
        assert_eq!(vnc(text).unwrap(), want, "{text}");
    }
    for (text, why) in [
        ("localhost", "HOST:DISPLAY"),
        ("h:x", "no number"),
        ("h:60000", "no such display"),
        (":0,to=x", "to="),
        (":0,tls-creds=c", "no encryption"),
        (":0,websocket=on", "no WebSocket"),
    ] {
        let error = vnc(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert_eq!(parse(words("-xen-domid 7 -k de")).unwrap().machine.layout, "de");
    let unknown = parse(words("-xen-domid 7 -k xx")).unwrap();
    assert_eq!((unknown.machine.layout.as_str(), unknown.notes.len()), ("en-us", 1));
}

#[test]
fn the_probe_of_4_20() {
    let text = "-S -no-user-config -nodefaults -nographic -machine none,accel=xen
        -chardev socket,id=libxl-cmd,fd=12,server=on,wait=off -mon chardev=libxl-cmd,mode=control";
    let machine = parse(words(text)).unwrap().machine;
    assert!(machine.probe && machine.stopped);
    assert_eq!(machine.monitors[0].socket, Socket::Fd(12));
}

/// xl's name of a guest that has not run here is none that an operator knows.
#[test]
fn a_guest_that_arrives_has_its_own_name() {
    let name = |text: &str| parse(words(&format!("-xen-domid 7 {text}"))).unwrap().machine.name;
    assert_eq!(name("-name web--incoming,debug-threads=on -incoming fd:9"), "web");
    assert_eq!(name("-name web -incoming fd:9"), "web");
    assert_eq!(name("-incoming fd:9 -name --incoming"), "--incoming");
    assert_eq!(name("-name web--incoming"), "web--incoming");
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    for (text, why) in [
        ("-device e1000,id=nic0,netdev=net0,mac=00:16:3e:11:22:33", "there is no -netdev"),
        ("-netdev type=tap,id=net0,ifname=vif7.0-emu", "network cards: no -device"),
        ("-netdev type=user,id=net0", "network cards on anything but a tap or a stream"),
        ("-netdev stream,id=net0,server=on,addr.type=unix,addr.path=/s", "server=off"),
        ("-netdev stream,id=net0,addr.type=inet,addr.host=::1", "addr.host= is not known"),
        ("-nic-rules id=nic3,level=guard", "no network card of this id"),
        ("-nic-rules guard", "level=off"),
        ("-nic-lease id=nic0,ip=10.0.0.5", "1 to 30 bits"),
        ("-nic-lease ip=10.0.0.5/24", "id=nicN"),
        ("-nic-lease id=nic3,ip=10.0.0.5/24", "no network card"),
        ("-device ne2k_pci,id=nic0,netdev=net0,mac=00:16:3e:11:22:33", "no such device"),
        ("-device e1000,id=nic0,netdev=net0,mac=01:16:3e:11:22:33", "mac="),
        ("-device e1000,id=nic0,netdev=net0,mac=00:16:3e", "mac="),
        ("-usbdevice host:1.2", "USB devices other than"),
        ("-usbdevice tablet -usbdevice mouse -usbdevice keyboard", "two ports"),
        ("-device usb-tablet", "no controller"),
        ("-device nec-usb-xhci,id=usb", "USB 2 and 3"),
        ("-device ahci,id=ahci0", "AHCI"),
        ("-device ide-hd,bus=ahci0.0,unit=0,drive=ahcidisk-0", "there is no such drive"),
        ("-initrd /boot/initrd", "there is no -kernel"),
        ("-boot order=c,menu=perhaps", "menu is on or off"),
        ("-boot order=c,splash-time=99999", "0 to 65535"),
        ("-boot once=z", "letters"),
        ("-incoming tcp:0:4444", "fd:N"),
        ("-incoming fd:x", "fd:N"),
        ("-device no-such-thing", "no such device"),
        ("-no-such-option", "unknown option"),
        ("-m", "a value must follow"),
        ("-m lots", "not a number"),
        ("-smp 200", "1 to 128"),
        ("-boot order=xyz", "letters"),
        ("-drive file=/x,if=ide,index=9,format=raw", "index"),
        ("-drive file=/x,if=ide,index=0,format=vmdk", "format"),
        ("-drive file=/x,if=ide,index=0,format=raw,throttling.iops-total=5", "throttling.iops-total= is not known"),
        ("-drive file=/x,if=ide,index=0,format=raw,cache=unsafe", "cache"),
        ("-machine xenfv,igd-passthru=on", "igd-passthru"),
        ("-device VGA,vgamem_mb=4096", "1 to 256"),
        ("-sandbox maybe", "level=strict or level=kernel"),
        ("-sandbox level=none", "level=strict or level=kernel"),
        ("-qmp tcp:localhost:4444,server,nowait", "unix:PATH"),
        ("-qmp unix:/run/q", "server=on,wait=off"),
        ("-parallel /dev/parport0", "parallel ports"),
        ("-daemonize", "background"),
        ("-vga qxl", "this display"),
        ("-loadvm /x", "restoring"),
        ("-netdev tap,id=net0,ifname=a,fd=3", "one of ifname= and fd="),
        ("-drive file=/x,if=none,id=a,format=raw", "no -device ide-cd or ide-hd"),
        ("-drive if=none,id=a -device ide-hd,drive=a,bus=ide.0,unit=0", "a disk needs file="),
        ("-machine q35", "xenfv, xenpv, pc or none"),
        ("-machine pcx-1.0", "xenfv, xenpv, pc or none"),
        ("-m 5X", "not a number"),
        ("-qubes-other:a=b", "unknown option"),
        ("bare", "unknown option"),
    ] {
        let error = parse(words(&format!("-xen-domid 7 {text}"))).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
        assert!(!error.contains('\n'), "one line");
    }
}

#[test]
fn network_cards_are_paired_with_their_taps_in_libxls_order() {
    let text = "-xen-domid 7 -device e1000,id=nic0,netdev=net0,mac=00:16:3e:11:22:33 -netdev type=tap,id=net0,ifname=vif7.0-emu,br=xenbr0,script=no,downscript=no
        -device rtl8139,id=nic1,netdev=net1,mac=00:16:3e:11:22:34 -netdev type=tap,id=net1,ifname=vif7.1-emu,br=xenbr0,script=no,downscript=no";
    let Parsed { machine, notes } = parse(words(text)).unwrap();
    let tap = |name: &str| NicOther::Tap(name.to_owned());
    let nics: Vec<_> = machine.nics.iter().map(|n| (n.model, n.index, n.mac[5], n.end.clone())).collect();
    assert_eq!(
        (nics, notes),
        (vec![(NicModel::E1000, 0, 0x33, tap("vif7.0-emu")), (NicModel::Rtl8139, 1, 0x34, tap("vif7.1-emu"))], vec![])
    );
    let rules = format!("{text} -nic-rules level=guard -nic-rules id=nic1,level=addresses,ip=10.0.0.5,link=off");
    let nics = parse(words(&rules)).unwrap().machine.nics;
    assert_eq!((nics[0].settings.link, nics[1].settings.link, nics[0].settings.rules.guard), (true, false, true));
    assert!(nics[0].settings.rules.addresses.is_none() && nics[1].settings.rules.addresses.is_some());
    assert!(
        parse(words(&format!("{text} -nic-rules level=strict")))
            .unwrap_err()
            .to_string()
            .contains("off, guard or addresses")
    );
    let text = "-xen-domid 7 -device e1000,id=nic0,netdev=net0,mac=00:16:3e:11:22:33 -netdev stream,id=net0,server=off,addr.type=unix,addr.path=/run/passt";
    assert_eq!(parse(words(text)).unwrap().machine.nics[0].end, NicOther::Stream("/run/passt".to_owned()));
}

#[test]
fn a_kernel_and_the_menu() {
    let all = [
        "-xen-domid",
        "7",
        "-kernel",
        "/boot/a,b",
        "-initrd",
        "/boot/i",
        "-append",
        "root=/dev/xvda1 quiet",
        "-boot",
        "order=dc,once=n,menu=on,splash-time=500,reboot-timeout=-1",
    ];
    let machine = parse(all.map(str::to_owned)).unwrap().machine;
    let kernel = Kernel {
        file: "/boot/a,b".into(),
        initrd: Some("/boot/i".into()),
        command_line: "root=/dev/xvda1 quiet".into(),
    };
    assert_eq!((machine.kernel, machine.boot.as_str()), (Some(kernel), "n"));
    assert_eq!(machine.menu, BootMenu { shown: true, wait: Some(500), retry: Some(u32::MAX) });
    let parsed = parse(words("-xen-domid 7 -append quiet")).unwrap();
    assert_eq!((parsed.machine.kernel, parsed.notes.len()), (None, 1));
}

#[test]
fn dm_restrict_as_libxl_4_17_and_4_20_say_it() {
    for text in [
        "-xen-domid 7 -S -xen-domid-restrict -chroot /var/run/xen/qemu-root-7 -runas 131079:131072",
        "-xen-domid 7 -S -xen-domid-restrict -run-with chroot=/var/run/xen/qemu-root-7 -run-with user=131079:131072",
    ] {
        let machine = parse(words(text)).unwrap().machine;
        assert_eq!(
            (machine.user.as_deref(), machine.chroot.as_deref(), machine.stopped),
            (Some("131079:131072"), Some("/var/run/xen/qemu-root-7"), true)
        );
    }
    assert!(parse(words("-xen-domid 7 -run-with async-teardown=on")).is_err());
}

/// What libvirt's and XCP-ng's users say of disks.
#[test]
fn a_disk_says_of_itself_what_it_is_told_to() {
    let text = "-xen-domid 1 -global ide-hd.ver=0.10.2 -drive file=/a,if=ide,index=0,format=raw
        -drive file=/b,if=none,id=b,format=raw -device ide-hd,drive=b,bus=ide.0,unit=1,serial=S1,ver=2,bios-chs-trans=lba
        -drive if=ide,index=2,media=cdrom -no-fd-bootchk";
    let machine = parse(words(text)).unwrap().machine;
    let said: Vec<_> = machine.drives.iter().map(|d| (d.at, &d.properties.identity)).collect();
    let identity = |serial: Option<&str>, version: Option<&str>| bulkhead_bus::DiskIdentity {
        serial: serial.map(str::to_owned),
        version: version.map(str::to_owned),
        model: None,
    };
    let (first, second, cd) = (identity(None, Some("0.10.2")), identity(Some("S1"), Some("2")), identity(None, None));
    assert_eq!(said, [(ide(0), &first), (ide(1), &second), (ide(2), &cd)]);
    assert_eq!(machine.drives[1].properties.translation, Some(bulkhead_bus::Translation::Lba));
    assert!(machine.unsigned_floppy);
    for wrong in ["-global ide-hd.serial=", "-global ide-hd.cyls=3"] {
        assert!(parse(words(&format!("-xen-domid 1 {wrong}"))).is_err(), "{wrong}");
    }
}

#[test]
fn cirrus_is_served_by_the_standard_vga_and_logged() {
    let parsed = parse(words("-xen-domid 1 -device cirrus-vga,vgamem_mb=8")).unwrap();
    assert_eq!(parsed.machine.video, Some(Video { mib: 8 }));
    assert_eq!(parsed.notes.len(), 1);
}

/// A `-device` whose driver is behind the implied key of another option, or is given twice, was a controller or another card.
#[test]
fn a_device_is_what_its_driver_says() {
    for device in [
        "type=usb-tablet",
        "backend=usb-mouse",
        "type=piix3-usb-uhci",
        "driver=usb-kbd,driver=no-such",
        "driver=e1000,driver=VGA,mac=00:16:3e:00:00:01,netdev=net0",
    ] {
        let error = parse(words(&format!("-xen-domid 1 -usb -device {device}"))).unwrap_err();
        assert!(matches!(error, ArgumentError::Refused { .. }), "{device}: {error}");
    }
}

#[test]
fn each_option_stands_once_in_the_table() {
    for (i, o) in options().enumerate() {
        assert!(options().skip(i + 1).all(|p| p.name != o.name), "{}", o.name);
    }
}

proptest! {
    #[test]
    fn mutated_arguments_give_a_machine_or_one_line(at in 0usize..60, what in ".{0,12}", cut in any::<bool>()) {
        let mut all = words(LIBXL);
        let at = at % all.len();
        if cut { all.remove(at); } else { all[at] = what; }
        if let Err(e) = parse(all) {
            prop_assert!(!e.to_string().is_empty());
        }
    }
}
