//! Packet commands: all their ends, claimed abilities, READ CD.
use super::*;

/// The sense that REQUEST SENSE fetches.
fn sense(b: &mut Bench) -> (u8, u8, u8) {
    let data = command(b, &[0x03, 0, 0, 0, 18], 18).unwrap();
    (data[2], data[12], data[13])
}

/// Begins a packet command by DMA with this table, and starts the bus master.
fn by_dma(b: &mut Bench, packet: &[u8], entries: &[(u32, u16, bool)]) {
    b.bm(8, 1, 0);
    b.bm(10, 1, 6);
    b.prd(entries);
    b.bm(12, 4, 0x1000);
    for (port, value) in [(0x176, 0xa0), (0x171, 1), (0x174, 0), (0x175, 0), (0x177, 0xa0)] {
        b.out(port, value);
    }
    let mut bytes = [0; 12];
    bytes[..packet.len()].copy_from_slice(packet);
    b.outsw(0x170, &bytes);
    b.bm(8, 1, 9);
}

/// Status, error, interrupt reason, and the remaining sense.
fn state(b: &mut Bench) -> (u8, u8, u8, (u8, u8, u8)) {
    let seen = (b.inb(0x177), b.inb(0x171), b.inb(0x172));
    b.out(0x171, 0);
    (seen.0, seen.1, seen.2, sense(b))
}

const NONE: (u8, u8, u8) = (0, 0, 0);

/// Every way in which a command can end: the registers, and the sense, which is reported once.
#[test]
fn registers_and_sense_after_every_way_a_command_can_end() {
    let read = |lba: u8| [0x28, 0, 0, 0, 0, lba, 0, 0, 1];
    type Way = (&'static str, fn(&mut Bench), (u8, u8, u8, (u8, u8, u8)));
    let ways: [Way; 12] = [
        ("without data", |b| b.packet(&[0x00], 0), (0x50, 0, 3, NONE)),
        (
            "data by PIO",
            |b| {
                b.packet(&[0x12, 0, 0, 0, 36], 36);
                b.inb(0x177);
                b.insw(0x170, 36);
            },
            (0x50, 0, 3, NONE),
        ),
        ("data by DMA", |b| by_dma(b, &[0x12, 0, 0, 0, 36], &[(0x8000, 36, true)]), (0x50, 0, 3, NONE)),
        ("sectors by DMA", |b| by_dma(b, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1], &[(0x8000, 2048, true)]), (0x50, 0, 3, NONE)),
        ("refused", |b| b.packet(&[0xff], 0), (0x51, 0x54, 3, (5, 0x20, 0))),
        ("refused by DMA", |b| by_dma(b, &[0xff], &[(0x8000, 2048, true)]), (0x51, 0x54, 3, (5, 0x20, 0))),
        (
            "an error of the host",
            |b| {
                b.failures.lock().unwrap().push_back(Some(Errno::IO));
                by_dma(b, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1], &[(0x8000, 2048, true)]);
            },
            (0x51, 0x34, 3, (3, 0x11, 0)),
        ),
        (
            "no memory",
            |b| by_dma(b, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1], &[(0xfff0_0000, 2048, true)]),
            (0x51, 0xb4, 3, (0x0b, 0, 0)),
        ),
        (
            "no memory, sectors with headers",
            |b| by_dma(b, &[0xbe, 0, 0, 0, 0, 1, 0, 0, 1, 0xf8], &[(0xfff0_0000, 2352, true)]),
            (0x51, 0xb4, 3, (0x0b, 0, 0)),
        ),
        ("no byte count limit", |b| b.packet(&[0x12, 0, 0, 0, 36], 0), (0x51, 0x04, 3, NONE)),
        (
            "another medium",
            |b| {
                b.ide.eject(2, true, &mut b.cx).unwrap();
                b.ide.insert(2, file(64 * 2048), &mut b.cx).unwrap();
                b.packet(&[0x00], 0);
            },
            (0x51, 0x64, 3, (6, 0x28, 0)),
        ),
        (
            "given up for a new command",
            |b| {
                b.packet(&[0x12, 0, 0, 0, 36], 36);
                b.packet(&[0x00], 0);
            },
            (0x50, 0, 3, NONE),
        ),
    ];
    for (name, way, want) in ways {
        for before in [&[0x00][..], &[0xff]] {
            let mut b = Bench::new();
            let _ = command(&mut b, before, 0xfffe);
            way(&mut b);
            assert!(b.cx.lines.level(1), "{name}: an interrupt");
            assert_eq!(state(&mut b), want, "{name}");
            assert_eq!(sense(&mut b), NONE, "{name}: told once");
            assert_eq!(command(&mut b, &read(5), 0xfffe).map(|d| d.len()), Ok(2048), "{name}: the next");
        }
    }
    // Resets set the signature and clear the sense.
    let resets: [(&str, fn(&mut Bench)); 3] = [
        ("DEVICE RESET", |b| b.out(0x177, 0x08)),
        ("software reset", |b| {
            b.out(0x376, 4);
            b.out(0x376, 0);
        }),
        ("machine", |b| b.ide.reset(Reset::Machine, &mut b.cx)),
    ];
    for (name, reset) in resets {
        for begun in [&[0xff][..], &read(3), &[0x1e, 0, 0, 0, 1]] {
            let mut b = Bench::new();
            b.packet(begun, 2048);
            reset(&mut b);
            let signature = (b.inb(0x172), b.inb(0x173), b.inb(0x174), b.inb(0x175), b.inb(0x176) & 0x10);
            assert_eq!(signature, (1, 1, 0x14, 0xeb, 0), "{name}");
            assert_eq!((b.inb(0x376), b.inb(0x171)), (0, 1), "{name}");
            assert_eq!(sense(&mut b), NONE, "{name}");
            // Only power-on and a reset of the bus end prevention.
            if begun[0] == 0x1e {
                let want = if name == "machine" { Ok(vec![]) } else { Err(0x54) };
                assert_eq!(command(&mut b, &[0x1b, 0, 0, 0, 2], 0xfffe), want, "{name}");
            }
        }
    }
}

/// A busy drive accepts DEVICE RESET; the command in progress ends without an interrupt.
#[test]
fn device_reset_is_taken_by_a_busy_drive() {
    let mut b = Bench::new();
    let may_end = Arc::new(std::sync::atomic::AtomicBool::new(false));
    b.ide = Ide::new(
        vec![spec(2, true, true, &file(64 * 2048), 64 * 2048)],
        Box::new(Held(Inline::new(b.memory.clone()), may_end.clone())),
    );
    b.packet(&[0x28, 0, 0, 0, 0, 3, 0, 0, 1], 2048);
    assert_eq!(b.inb(0x376) & 0x80, 0x80);
    b.out(0x177, 0xec);
    assert_eq!(b.inb(0x376) & 0x80, 0x80, "another command is not");
    b.out(0x177, 0x08);
    assert_eq!(b.inb(0x376) & 0x80, 0x80, "the job is under way");
    // After a restart at this point the drive is reset, without an interrupt.
    let mut next = Bench::new();
    next.ide =
        Ide::new(vec![spec(2, true, true, &file(64 * 2048), 64 * 2048)], Box::new(Inline::new(next.memory.clone())));
    next.ide.load(&b.ide.save(), &mut next.cx).unwrap();
    assert_eq!((next.inb(0x376), next.inb(0x174), next.inb(0x175), next.cx.lines.level(1)), (0, 0x14, 0xeb, false));
    may_end.store(true, std::sync::atomic::Ordering::Relaxed);
    b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
    assert_eq!((b.inb(0x376), b.inb(0x174), b.inb(0x175), b.cx.lines.level(1)), (0, 0x14, 0xeb, false));
}

/// REQUEST SENSE reports a changed medium too, once (SPC-3, 6.27).
#[test]
fn request_sense_reports_a_new_medium() {
    let mut b = Bench::new();
    b.ide.eject(2, true, &mut b.cx).unwrap();
    b.ide.insert(2, file(64 * 2048), &mut b.cx).unwrap();
    assert_eq!((sense(&mut b), sense(&mut b)), ((6, 0x28, 0), NONE));
    assert_eq!(command(&mut b, &[0x00], 0xfffe), Ok(vec![]));
}

/// READ CD: every kind of sector and every selection, by PIO and by DMA, returns the bytes of MMC-4 or is refused.
#[test]
fn read_cd_returns_exactly_the_selected_fields() {
    let mut b = Bench::new();
    // The whole sector, from which the expected parts are taken.
    let whole = command(&mut b, &[0xbe, 0, 0, 0, 0, 5, 0, 0, 2, 0xf8], 0xfffe).unwrap();
    assert_eq!((whole.len(), whole[12..16].to_vec(), whole[2352 + 14]), (4704, vec![0, 2, 5, 1], 6));
    for kind in 0..8u8 {
        for what in 0..=255u8 {
            for sub in [0u8, 1, 2, 4] {
                let packet = [0xbe, kind << 2, 0, 0, 0, 5, 0, 0, 2, what, sub, 0];
                let form = crate::ata::cd_sector::Form::selected(what).filter(|_| what & 7 == 0 && sub == 0);
                let want: Option<Vec<u8>> = form.filter(|_| kind == 0 || kind == 2).map(|_| {
                    let parts = [(0x80, 0..12), (0x20, 12..16), (0x10, 16..2064), (0x08, 2064..2352)];
                    let one = |n: usize| {
                        parts
                            .iter()
                            .filter(|(bit, _)| what & bit != 0)
                            .flat_map(|(_, range)| whole[n * 2352..][range.clone()].to_vec())
                            .collect::<Vec<u8>>()
                    };
                    // In mode 1 a selection of all headers is the header.
                    [one(0), one(1)].concat()
                });
                let name = format!("kind {kind}, {what:#04x}, {sub}");
                let by_pio = command(&mut b, &packet, 0xfffe);
                assert_eq!(by_pio.as_ref().ok(), want.as_ref(), "{name}");
                if by_pio.is_err() {
                    let illegal_mode = matches!(kind, 1 | 3..=5);
                    assert_eq!(sense(&mut b), (5, if illegal_mode { 0x64 } else { 0x24 }, 0), "{name}");
                }
                if sub != 0 {
                    continue;
                }
                b.memory.write(0x8000, &[0xee; 4800]).unwrap();
                by_dma(&mut b, &packet, &[(0x8000, 2000, false), (0x87d0, 2800, true)]);
                let mut data = vec![0; 4800];
                b.memory.read(0x8000, &mut data).unwrap();
                let (bytes, err) = (want.as_ref().map_or(0, Vec::len), u8::from(want.is_none()));
                assert_eq!(b.inb(0x177) & 0x89, err, "{name} by DMA");
                assert!(
                    data[..bytes] == want.unwrap_or_default() && data[bytes..].iter().all(|n| *n == 0xee),
                    "{name}"
                );
            }
        }
    }
    // READ CD MSF has a first address and an end.
    let msf = command(&mut b, &[0xb9, 0, 0, 0, 2, 5, 0, 2, 7, 0xf8], 0xfffe).unwrap();
    assert!(msf == whole);
    assert_eq!(command(&mut b, &[0xb9, 0, 0, 0, 2, 5, 0, 2, 5, 0xf8], 0xfffe), Ok(vec![]));
    for (from, to) in [([0, 2, 7], [0, 2, 5]), ([0, 0, 0], [0, 2, 5]), ([0, 2, 0], [0, 3, 74]), ([0, 60, 0], [1, 0, 1])]
    {
        let packet = [&[0xb9, 0, 0][..], &from, &to, &[0xf8]].concat();
        assert_eq!(command(&mut b, &packet, 0xfffe), Err(0x54), "{from:?} to {to:?}");
    }
    assert_eq!(command(&mut b, &[0xbe, 0, 0, 0, 0, 63, 0, 0, 2, 0xf8], 0xfffe), Err(0x54));
    assert_eq!(sense(&mut b), (5, 0x21, 0));
}

/// More whole sectors than one job reads, as Linux reads them: by DMA, with its own table.
#[test]
fn whole_sectors_by_dma_may_be_many() {
    let mut b = Bench::new();
    b.ide = Ide::new(vec![spec(2, true, true, &file(300 * 2048), 300 * 2048)], Box::new(Inline::new(b.memory.clone())));
    let entries: Vec<_> =
        (0..11u32).map(|i| (0x1_0000 + i * 0x1_0000, if i == 10 { 0xc2e0 } else { 0 }, i == 10)).collect();
    by_dma(&mut b, &[0xbe, 0, 0, 0, 0, 0, 0, 1, 0x2a, 0xf8], &entries);
    assert_eq!((b.bm_status(1), b.inb(0x177), b.inb(0x172)), (5, 0x50, 3));
    for n in [0u64, 63, 64, 65, 255, 297] {
        let mut word = [0; 4];
        b.memory.read(0x1_0000 + n * 2352 + 16, &mut word).unwrap();
        assert_eq!(u64::from(u32::from_le_bytes(word)), n * 512, "sector {n}");
    }
}

/// MODE SENSE: every page and every page control.
#[test]
fn mode_pages_match_the_claims_of_every_kind() {
    let mut b = Bench::new();
    for code in 0..64u8 {
        for kind in 0..4u8 {
            for (six, sub) in [(false, 0u8), (true, 0), (false, 1), (false, 0xff)] {
                let page = code | kind << 6;
                let packet =
                    if six { [0x1a, 0, page, sub, 255, 0, 0, 0, 0] } else { [0x5a, 0, page, sub, 0, 0, 0, 0, 255] };
                let got = command(&mut b, &packet, 0xfffe);
                let known = matches!(code, 1 | 0x2a | 0x3f) && (sub == 0 || (code, sub) == (0x3f, 0xff));
                if kind == 3 || !known {
                    assert_eq!(got, Err(0x54), "page {code:#x}, {kind}, {sub}");
                    assert_eq!(sense(&mut b), (5, if kind == 3 { 0x39 } else { 0x24 }, 0), "page {code:#x}");
                    continue;
                }
                let (got, header) = (got.unwrap(), if six { 4 } else { 8 });
                let told = if six { usize::from(got[0]) + 1 } else { usize::from(got[1]) + 2 };
                assert_eq!(told, got.len());
                let mut rest = &got[header..];
                let mut codes = Vec::new();
                while let [c, len, ..] = *rest {
                    let (page, later) = rest.split_at(usize::from(len) + 2);
                    assert!(kind != 1 || page[2..].iter().all(|b| *b == 0), "nothing can be changed");
                    codes.push(c);
                    rest = later;
                }
                assert_eq!(codes, if code == 0x3f { vec![1, 0x2a] } else { vec![code] });
            }
        }
    }
}

/// Every bit of the capabilities page and every feature has its commands; nothing else is set.
#[test]
fn every_claimed_feature_has_its_command() {
    let mut b = Bench::new();
    let page = command(&mut b, &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64], 64).unwrap()[8..].to_vec();
    // Bits that this test knows: media that are read; a tray that opens and can be locked.
    assert_eq!(page[..8], [0x2a, 20, 0x3b, 0, 0, 0, 0x29, 0]);
    assert_eq!(page[10..12], [0, 0], "no levels of loudness");
    // No audio: its page and commands are unknown.
    for packet in
        [&[0x5a, 0, 0x0e, 0, 0, 0, 0, 0, 64][..], &[0x45], &[0x47], &[0x48], &[0x4b], &[0x4e], &[0xa5], &[0xba]]
    {
        assert_eq!(command(&mut b, packet, 64), Err(0x54), "{packet:?}");
    }
    for format in [0, 2, 3] {
        assert_eq!(command(&mut b, &[0x42, 0, 0x40, format, 0, 0, 0, 0, 64], 64), Err(0x54), "no numbers to read");
    }
    let events = |b: &mut Bench| command(b, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8).unwrap()[4..6].to_vec();
    // The lock is reported and effective.
    command(&mut b, &[0x1e, 0, 0, 0, 1], 0).unwrap();
    assert_eq!(command(&mut b, &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64], 64).unwrap()[14], 0x2b);
    assert_eq!((command(&mut b, &[0x1b, 0, 0, 0, 2], 0), sense(&mut b)), (Err(0x54), (5, 0x53, 2)));
    command(&mut b, &[0x1e, 0, 0, 0, 0], 0).unwrap();
    // The open tray is reported, and the medium is inaccessible; a restart does not change that.
    command(&mut b, &[0x1b, 0, 0, 0, 2], 0).unwrap();
    let state = b.ide.save();
    b.ide.load(&state, &mut b.cx).unwrap();
    assert_eq!((events(&mut b), events(&mut b)), (vec![3, 1], vec![0, 1]));
    for packet in [&[0x00][..], &[0x25], &[0x28, 0, 0, 0, 0, 0, 0, 0, 1]] {
        assert_eq!((command(&mut b, packet, 8), sense(&mut b)), (Err(0x24), (2, 0x3a, 2)));
    }
    assert!(b.ide.insert(2, file(2048), &mut b.cx).is_err(), "there is one on it");
    // After the tray closes, the medium counts as new.
    command(&mut b, &[0x1b, 0, 0, 0, 3], 0).unwrap();
    assert_eq!((events(&mut b), events(&mut b)), (vec![2, 2], vec![0, 2]));
    assert_eq!((command(&mut b, &[0x00], 0), sense(&mut b)), (Err(0x64), (6, 0x28, 0)));
    assert_eq!(command(&mut b, &[0x00], 0), Ok(vec![]));
    // libxl may remove the medium from an open tray.
    command(&mut b, &[0x1b, 0, 0, 0, 2], 0).unwrap();
    b.ide.eject(2, false, &mut b.cx).unwrap();
    b.ide.insert(2, file(64 * 2048), &mut b.cx).unwrap();
    assert_eq!((sense(&mut b), command(&mut b, &[0x00], 0)), ((6, 0x28, 0), Ok(vec![])));
}

/// The commands that MMC-4 makes mandatory for each feature.
fn commands(feature: u16) -> &'static [&'static [u8]] {
    match feature {
        0x0000 => &[],
        0x0001 => &[
            &[0x46, 0, 0, 0, 0, 0, 0, 0, 64],
            &[0x4a, 1, 0, 0, 0x50, 0, 0, 0, 8],
            &[0x12, 0, 0, 0, 36],
            &[0x55, 0x10],
            &[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64],
            &[0x03, 0, 0, 0, 18],
            &[0x00],
        ],
        0x0003 => &[&[0x1e], &[0x1b, 0, 0, 0, 3], &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8]],
        0x0010 => &[&[0x25], &[0x28, 0, 0, 0, 0, 1, 0, 0, 1]],
        0x001e => &[
            &[0xbe, 0, 0, 0, 0, 1, 0, 0, 1, 0x10],
            &[0xb9, 0, 0, 0, 2, 1, 0, 2, 2, 0x10],
            &[0x43, 0, 0, 0, 0, 0, 0, 0, 64],
            &[0x43, 0, 1, 0, 0, 0, 0, 0, 64],
            &[0x43, 0, 2, 0, 0, 0, 0, 0, 64],
        ],
        0x001f => &[
            &[0x28, 0, 0, 0, 0, 1, 0, 0, 1],
            &[0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 1],
            &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4],
            &[0xad, 0, 0, 0, 0, 0, 0, 1, 0, 8],
            &[0xad, 0, 0, 0, 0, 0, 0, 0xff, 0, 16],
        ],
        _ => panic!("feature {feature:#x} is not known here"),
    }
}

#[test]
fn features_have_their_commands() {
    let sparse = |sectors: u64| {
        let fd = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, sectors * 2048).unwrap();
        fd
    };
    for (sectors, profile, current) in
        [(400_000, 0x10u16, vec![0u16, 1, 3, 0x10, 0x1f]), (64, 8, vec![0, 1, 3, 0x10, 0x1e])]
    {
        let mut b = Bench::new();
        b.ide = Ide::new(
            vec![spec(2, true, true, &sparse(sectors), sectors * 2048)],
            Box::new(Inline::new(b.memory.clone())),
        );
        for kind in 0..4u8 {
            for start in [0u8, 1, 3, 0x10, 0x1e, 0x1f, 0x20] {
                let got = command(&mut b, &[0x46, kind, 0, start, 0, 0, 0, 1, 0], 0xfffe);
                if kind == 3 {
                    assert_eq!(got, Err(0x54));
                    continue;
                }
                let got = got.unwrap();
                assert_eq!(u32::from_be_bytes(got[..4].try_into().unwrap()) as usize + 4, got.len());
                assert_eq!(u16::from_be_bytes([got[6], got[7]]), profile);
                let (mut rest, mut features) = (&got[8..], Vec::new());
                while let [n0, n1, flags, len, ..] = *rest {
                    features.push((u16::from_be_bytes([n0, n1]), flags & 1 != 0));
                    assert_eq!(len % 4, 0);
                    rest = &rest[usize::from(len) + 4..];
                }
                let wanted: Vec<_> = [0u16, 1, 3, 0x10, 0x1e, 0x1f]
                    .into_iter()
                    .map(|n| (n, current.contains(&n)))
                    .filter(|(n, on)| match kind {
                        0 => *n >= start.into(),
                        1 => *n >= start.into() && *on,
                        _ => *n == u16::from(start),
                    })
                    .collect();
                assert_eq!(features, wanted, "kind {kind}, from {start:#x}");
            }
        }
        for packet in current.iter().flat_map(|n| commands(*n)) {
            assert!(command(&mut b, packet, 0xfffe).is_ok(), "{packet:x?}: {:x?}", sense(&mut b));
        }
        if profile == 8 {
            assert_eq!(
                (command(&mut b, &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4], 8), sense(&mut b)),
                (Err(0x54), (5, 0x30, 2))
            );
        }
    }
}

/// MODE SELECT accepts pages with their current values, by PIO and by DMA, and no others.
#[test]
fn mode_select_takes_what_changes_nothing() {
    let mut b = Bench::new();
    let mut list = command(&mut b, &[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64], 64).unwrap();
    list[..2].fill(0);
    let select = |b: &mut Bench, list: &[u8], limit: u16| {
        b.packet(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8], limit);
        let mut sent = 0;
        while b.inb(0x376) & 8 != 0 {
            assert_eq!((b.inb(0x172), b.cx.lines.level(1)), (0, true), "data to the drive");
            let n = usize::from(b.inb(0x174)) | usize::from(b.inb(0x175)) << 8;
            assert!(n > 0 && n <= usize::from(limit));
            b.inb(0x177);
            b.outsw(0x170, &list[sent..sent + n]);
            sent += n;
        }
        let status = b.inb(0x177);
        assert_eq!(b.inb(0x172), 3);
        (status, sense(b))
    };
    for limit in [0xfffe, 8, 2] {
        assert_eq!(select(&mut b, &list, limit), (0x50, NONE));
    }
    assert_eq!(select(&mut b, &list[..8], 64), (0x50, NONE));
    for at in 6..list.len() {
        let mut other = list.clone();
        other[at] ^= 1;
        let (status, sense) = select(&mut b, &other, 64);
        assert!(status == 0x51 && sense.0 == 5 && matches!(sense.1, 0x26 | 0x1a), "byte {at}: {sense:x?}");
    }
    assert_eq!((command(&mut b, &[0x55, 0x11, 0, 0, 0, 0, 0, 0, 8], 8), sense(&mut b)), (Err(0x54), (5, 0x24, 0)));
    assert_eq!((command(&mut b, &[0x55, 0x10, 0, 0, 0, 0, 0, 9, 0], 8), sense(&mut b)), (Err(0x54), (5, 0x1a, 0)));
    b.memory.write(0x8000, &list).unwrap();
    by_dma(&mut b, &[0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8], &[]);
    b.bm(8, 1, 0);
    b.bm(10, 1, 6);
    b.out(0x376, 4);
    b.out(0x376, 0);
    b.prd(&[(0x8000, list.len() as u16, true)]);
    b.bm(12, 4, 0x1000);
    for (port, value) in [(0x176, 0xa0), (0x171, 1), (0x177, 0xa0)] {
        b.out(port, value);
    }
    b.outsw(0x170, &[0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0, 0]);
    b.bm(8, 1, 1);
    assert_eq!((b.bm_status(1), b.inb(0x177), b.inb(0x172)), (4, 0x50, 3));
}

/// A command that is aborted for lack of a byte count limit leaves the medium's events pending.
#[test]
fn an_aborted_command_leaves_the_mediums_events_pending() {
    let mut b = Bench::new();
    let drive = b.ide.channels[1].medium(2).unwrap();
    (drive.event, drive.attention) = (crate::ata::spec::MediaEvent::New, true);
    let events = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
    for packet in [&events[..], &[0x03, 0, 0, 0, 18]] {
        b.packet(packet, 0);
        assert_eq!((b.inb(0x177) & 1, b.inb(0x171)), (1, 4));
    }
    b.packet(&events, 8);
    assert_eq!(b.insw(0x170, 8)[4], 2);
    assert_eq!(sense(&mut b), (6, 0x28, 0));
}
