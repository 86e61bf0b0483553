//! What toolstacks always give a device model: never a reason not to start. Each vector has the form that the toolstack's own
//! sources or logs show.
use super::*;
use crate::machine::Socket;
use crate::machine::nics::NicOther;
use crate::machine::serial::Serial;
use bulkhead_plan::DriveId;
use proptest::prelude::*;

/// A drive of the PIIX3, as arguments place it.
fn ide(port: u8) -> Option<DriveId> {
    Some(DriveId::ide(port))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// XenServer and XCP-ng: xenopsd's arguments behind what its qemu-wrapper puts around them; a BIOS guest of the older profile.
const XENOPSD: &str = "-machine pc-0.10,accel=xen,max-ram-below-4g=4026531840,allow-unassigned=true,trad_compat=True
    -vnc unix:/var/run/xen/vnc-7,lock-key-sync=off -monitor null -pidfile /var/run/xen/qemu-dm-7.pid -xen-domid 7
    -m size=248 -boot order=cdn -usb -device usb-tablet,port=2 -smp 1,maxcpus=1 -serial pty -display none -nodefaults
    -trace enable=xen_platform_log -sandbox on,obsolete=deny,elevateprivileges=allow,spawn=deny,resourcecontrol=deny -S
    -global PIIX4_PM.revision_id=0x1 -global ide-hd.ver=0.10.2 -global piix3-ide-xen.subvendor_id=0x5853
    -parallel null -qmp unix:/var/run/xen/qmp-libxl-7,server,nowait -qmp unix:/var/run/xen/qmp-event-7,server,nowait
    -device xen-platform,addr=3,device-id=0x0001,revision=0x2,class-id=0x0100,subvendor_id=0x5853,subsystem_id=0x0001
    -drive file=/dev/sm/backend/a/cd,if=none,id=ide1-cd1,auto-read-only=off,read-only=on,format=raw
    -device ide-cd,drive=ide1-cd1,bus=ide.1,unit=1
    -drive file=/dev/sm/backend/b/disk,if=none,id=ide0-hd0,auto-read-only=off,format=raw
    -device ide-hd,drive=ide0-hd0,bus=ide.0,unit=0,bios-chs-trans=forcelba
    -device rtl8139,netdev=tapnet0,mac=72:11:a1:77:59:b8,addr=4 -netdev tap,id=tapnet0,fd=7
    -device VGA,vgamem_mb=8,addr=2,romfile=,rombar=1,subvendor_id=0x5853,subsystem_id=0x0001,qemu-extended-regs=false
    -vnc-clipboard-socket-fd 4 -xen-domid-restrict -chroot /var/xen/qemu/root-7 -runas 65542:997";

/// libxl 4.14 and older wrote switches in QEMU's older way.
const OLDER_LIBXL: &str = "-xen-domid 7 -chardev socket,id=libxl-cmd,path=/var/run/xen/qmp-libxl-7,server,nowait
    -mon chardev=libxl-cmd,mode=control -nodefaults -no-user-config -name a -vnc none -display none -serial pty
    -device cirrus-vga,vgamem_mb=8 -boot order=cda -smp 1,maxcpus=1 -net none -machine xenfv -m 504";

/// A stub domain of Qubes OS, without its SCSI disks.
const QUBES: &str = "-xen-domid 13 -no-shutdown -nodefaults -no-user-config -name media -display none -append quiet
    -qubes-net:client_ip=10.137.0.9,dns_0=10.139.1.1,gw=10.138.1.1,netmask=255.255.255.255 -qubes-audio:audiovm_xid=0
    -device VGA,vgamem_mb=16 -boot order=dc -device usb-ehci,id=ehci -device usb-tablet,bus=ehci.0 -smp 2,maxcpus=2
    -machine xenfv -m 496 -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
    -chardev socket,server,nowait,path=/tmp/qemu.qmp,id=m2 -mon chardev=m2,mode=control";

/// xenopsd's own words for what its wrapper leaves out, if Bulkhead is in the wrapper's place; an empty CD drive; no card.
const XENOPSD_ALONE: &str = "-std-vga -videoram 8 -vnc unix:/var/run/xen/vnc-9,lock-key-sync=off -acpi -priv -monitor null
    -pidfile /var/run/xen/qemu-dm-9.pid -xen-domid 9 -m size=2040 -boot order=dc -usb -device usb-tablet,port=2 -smp 2,maxcpus=2
    -chardev file,id=serial0,append=on,path=/var/log/consoles/hypervisor.9 -serial chardev:serial0 -display none -nodefaults
    -trace enable=xen_platform_log -sandbox on,obsolete=deny,elevateprivileges=allow,spawn=deny,resourcecontrol=deny -S
    -trad-compat -global PIIX4_PM.revision_id=0x1 -parallel null -qmp unix:/var/run/xen/qmp-libxl-9,server,nowait
    -device xen-platform,addr=3,device-id=0x0002 -drive file=,if=none,id=ide1-cd1,read-only=on -device ide-cd,drive=ide1-cd1,bus=ide.1,unit=1
    -net none --syslog";

/// libxl, for dom0's own PV disks (libxl_dm.c: libxl__spawn_qdisk_backend).
const DOM0: &str = "-xen-domid 0 -xen-attach -name dom0 -nographic -M xenpv -monitor /dev/null -serial /dev/null
    -parallel /dev/null -pidfile /var/run/xen/qdisk.pid";

/// libvirt's xl driver goes through libxl; a domain's own arguments in its XML are those of people.
const LIBVIRT: &str = "-xen-domid 3 -no-shutdown -chardev socket,id=libxl-cmd,path=/var/run/xen/qmp-libxl-3,server=on,wait=off
    -mon chardev=libxl-cmd,mode=control -nodefaults -no-user-config -name debian -vnc 127.0.0.1:0,to=99 -display none -k en-us
    -serial pty -device VGA,vgamem_mb=16 -boot order=c -usb -usbdevice tablet -smp 2,maxcpus=2
    -device e1000,id=nic0,netdev=net0,mac=00:16:3e:00:00:01
    -netdev type=tap,id=net0,ifname=vif3.0-emu,br=virbr0,script=no,downscript=no
    -machine xenfv,suppress-vmdesc=on,max-ram-below-4g=4026531840 -m 1008
    -drive file=/srv/debian.img,if=ide,index=0,media=disk,format=raw,cache=writeback";

#[test]
fn what_toolstacks_always_send_is_no_reason_not_to_start() {
    for (who, text) in [
        ("xenopsd", XENOPSD),
        ("xenopsd alone", XENOPSD_ALONE),
        ("libxl 4.14", OLDER_LIBXL),
        ("Qubes OS", QUBES),
        ("dom0", DOM0),
        ("libvirt", LIBVIRT),
    ] {
        let parsed = parse(words(text)).unwrap_or_else(|e| panic!("{who}: {e}"));
        assert!(parsed.notes.iter().all(|n| !n.contains('\n')), "{who}");
        for verdict in verdicts(&words(text)) {
            assert!(!matches!(verdict.fate.0, "refused" | "unknown"), "{who}: {verdict:?}");
        }
    }
}

#[test]
fn xenopsds_machine_is_what_it_says() {
    let Parsed { machine, notes } = parse(words(XENOPSD)).unwrap();
    let paths: Vec<_> = machine.monitors.iter().map(|m| (m.id.as_str(), m.socket.clone())).collect();
    let path = |p: &str| Socket::Path(format!("/var/run/xen/{p}"));
    assert_eq!(paths, [("compat_monitor0", path("qmp-libxl-7")), ("compat_monitor1", path("qmp-event-7"))]);
    assert_eq!(machine.pid_file.as_deref(), Some("/var/run/xen/qemu-dm-7.pid"));
    assert!(machine.xen_platform && machine.stopped, "its xen-platform is a -device");
    let drives: Vec<_> = machine.drives.iter().map(|d| (d.at, d.cdrom, d.read_only, d.id.as_str())).collect();
    assert_eq!(drives, [(ide(3), true, true, "ide1-cd1"), (ide(0), false, false, "ide0-hd0")]);
    assert_eq!(
        (machine.memory_mib, machine.boot.as_str(), machine.nics[0].end.clone()),
        (248, "cdn", NicOther::OpenTap(7))
    );
    for ignored in ["-trace ", "-global ", "-sandbox on", "-monitor ", "-vnc lock-key-sync", "-device rtl8139 addr"] {
        assert!(notes.iter().any(|n| n.starts_with(ignored)), "{ignored} is in no line of {notes:#?}");
    }
}

#[test]
fn a_serial_port_may_be_a_chardev_by_its_name() {
    let serials = |text: &str| parse(words(&format!("-xen-domid 7 {text}"))).map(|p| p.machine.serials);
    // xenopsd, where the host logs consoles.
    let file = "-chardev file,id=serial0,append=on,path=/var/log/c.7 -serial chardev:serial0";
    assert_eq!(serials(file).unwrap(), [Serial::Append("/var/log/c.7".into())]);
    let four = "-serial null -serial chardev:b -serial chardev:a -serial chardev:c -chardev pty,id=a -chardev file,id=b,path=/f
        -chardev socket,id=c,path=/run/s,server,nowait";
    assert_eq!(
        serials(four).unwrap(),
        [Serial::Null, Serial::File("/f".into()), Serial::Pty, Serial::UnixServer("/run/s".into())]
    );
    assert!(serials("-serial chardev:x").unwrap_err().to_string().contains("no chardev of this id"));
    assert!(serials("-chardev file,id=a -serial chardev:a").unwrap_err().to_string().contains("path="));
}

#[test]
fn what_is_always_sent_may_stand_anywhere() {
    let always = [
        "-trace enable=xen_platform_log",
        "-global PIIX4_PM.revision_id=0x1",
        "-parallel null",
        "-parallel none",
        "-monitor null",
        "-monitor none",
        "-monitor stdio",
        "-monitor unix:/run/m,server,nowait",
        "-sandbox on",
        "-sandbox off",
        "-sandbox enable=on,spawn=deny",
        "-sandbox on,level=kernel",
        "-pidfile /run/p",
        "-qmp unix:/run/q,server=on,wait=off",
        "-qmp-pretty unix:/run/q,server,nowait",
        "-msg timestamp=on",
        "-D /var/log/x",
        "-d guest_errors",
        "-L /usr/share/qemu",
        "-cpu host",
        "-uuid 00000000-0000-0000-0000-000000000001",
        "-rtc base=localtime,clock=host",
        "-localtime",
        "-enable-kvm",
        "-vga none",
        "-nic none",
        "-overcommit mem-lock=off",
        "-no-hpet",
        "-no-reboot",
        "-name guest=a,debug-threads=on",
        "-machine pc-i440fx-8.2,usb=off,igd-passthru=off",
        "-M xenfv-4.2",
        "-smp maxcpus=2",
        "-m 1G",
        "-m 512M",
        "-vnc :0,lock-key-sync=on,websocket=off",
        "-set device.x.y=z",
        "-std-vga",
        "-acpi",
        "-priv",
        "-trad-compat",
        "-videoram 8",
    ];
    for one in always {
        for text in [
            format!("{one} -xen-domid 7"),
            format!("-xen-domid 7 {one}"),
            format!("-xen-domid 7 {}", one.replacen('-', "--", 1)),
        ] {
            parse(words(&text)).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    }
    assert_eq!(
        parse(words("-xen-domid 7 -m 1G -name guest=a,debug-threads=on"))
            .map(|p| (p.machine.memory_mib, p.machine.name)),
        Ok((1024, "a".to_owned()))
    );
    assert_eq!(parse(words("-xen-domid 7 -smp maxcpus=3")).map(|p| (p.machine.online, p.machine.vcpus)), Ok((3, 3)));
}

#[test]
fn without_an_order_the_machine_boots_as_qemus() {
    let boot = |text: &str| parse(words(&format!("-xen-domid 7 {text}"))).map(|p| p.machine.boot).unwrap();
    // QEMU 8.2, hw/i386: disk, floppy, CD; -boot without an order changes nothing of it.
    for text in ["", "-boot menu=on", "-boot strict=on", "-boot splash-time=5"] {
        assert_eq!(boot(text), "cad", "{text}");
    }
    assert_eq!(
        (
            boot("-boot dc").as_str(),
            boot("-boot order=n").as_str(),
            boot("-boot once=d").as_str(),
            boot("-boot order=").as_str()
        ),
        ("dc", "n", "d", "")
    );
}

#[test]
fn without_options_the_machine_is_qemus() {
    let machine = parse(words("-xen-domid 7")).unwrap().machine;
    // QEMU 8.2: -m 128, -smp 1, -k en-us, no menu, no wait; what -nodefaults takes away was never there.
    assert_eq!((machine.memory_mib, machine.vcpus, machine.online, machine.layout.as_str()), (128, 1, 1, "en-us"));
    assert_eq!((machine.menu.shown, machine.menu.wait, machine.menu.retry), (false, None, None));
    assert!(
        machine.video.is_none() && machine.serials.is_empty() && machine.nics.is_empty() && machine.drives.is_empty()
    );
}

#[test]
fn a_question_is_answered_and_a_value_is_none() {
    for (text, want) in [
        ("-version", Some(Question::Version)),
        ("--version", Some(Question::Version)),
        ("-help", Some(Question::Help)),
        ("--help", Some(Question::Help)),
        ("--h", Some(Question::Help)),
        ("-h", Some(Question::Help)),
        ("-S -name a -version", Some(Question::Version)),
        ("-no-such-option -help", Some(Question::Help)),
        ("-name -version", None),
        ("-xen-domid 7 -append -help", None),
        ("-xen-domid 7", None),
        ("", None),
    ] {
        assert_eq!(question(&words(text)), want, "{text}");
    }
    let version = Question::Version.answer();
    assert!(version.starts_with("QEMU emulator version 8.2.0 (Bulkhead ") && version.lines().count() == 1, "{version}");
    let help = Question::Help.answer();
    assert!(help.starts_with(&version) && help.lines().nth(1).is_some_and(|l| l.starts_with("usage: ")), "{help}");
    assert!(!help.contains("Options specific to the Xen version"), "libvirt would take it for another device model");
}

proptest! {
    #[test]
    fn the_order_of_what_a_toolstack_sends_does_not_matter(at in 0usize..40) {
        // Options with their values, those that refer to each other kept in order.
        let all = words(XENOPSD);
        let mut pairs: Vec<Vec<String>> = Vec::new();
        for word in all {
            match pairs.last_mut() {
                Some(last) if !word.starts_with('-') => last.push(word),
                _ => pairs.push(vec![word]),
            }
        }
        let moved = at % pairs.len();
        if !pairs[moved][0].starts_with("-d") && pairs[moved][0] != "-usb" {
            let pair = pairs.remove(moved);
            pairs.push(pair);
        }
        prop_assert!(parse(pairs.concat()).is_ok());
    }
}
