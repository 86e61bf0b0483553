//! Settings by the host, their words in IDENTIFY, and the effect of resets.
use super::*;

fn identify(b: &mut Bench) -> Vec<u16> {
    b.ata(0xec, 0, 0);
    b.insw(0x1f0, 512).chunks(2).map(|w| u16::from_le_bytes([w[0], w[1]])).collect()
}

fn reset(b: &mut Bench) {
    b.out(0x3f6, 4);
    b.out(0x3f6, 0);
}

/// INITIALIZE DEVICE PARAMETERS.
fn translate(b: &mut Bench, heads: u8, of_track: u8) -> u8 {
    b.out(0x1f6, 0xa0 | u32::from(heads - 1));
    b.out(0x1f2, u32::from(of_track));
    b.out(0x1f7, 0x91);
    b.inb(0x1f7)
}

/// Reads a sector by cylinder, head and sector. Returns its number, or the error register.
fn chs(b: &mut Bench, c: u32, h: u32, s: u32) -> Result<u32, u8> {
    for (port, value) in [(0x1f6, 0xa0 | h), (0x1f2, 1), (0x1f3, s), (0x1f4, c & 0xff), (0x1f5, c >> 8), (0x1f7, 0x20)]
    {
        b.out(port, value);
    }
    if b.inb(0x1f7) & 1 != 0 {
        return Err(b.inb(0x1f1));
    }
    let data = b.insw(0x1f0, 512);
    Ok(u32::from_le_bytes(data[..4].try_into().unwrap()) / 128)
}

/// ATA/ATAPI-5, 8.16: the host sets the translation; words 54 to 58 and every address without LBA follow it.
#[test]
fn the_translation_is_the_hosts_setting() {
    let mut b = Bench::new();
    let native = identify(&mut b);
    assert_eq!((&native[1..4], native[6]), (&[2, 0xc837, 16][..], 63));
    assert_eq!((&native[54..57], native[57], native[53] & 1), (&[2, 16, 63][..], 2016, 1));
    assert_eq!(chs(&mut b, 1, 1, 5), Ok(16 * 63 + 63 + 4));
    assert_eq!(translate(&mut b, 8, 17), 0x50);
    // Cylinder 2, head 3, sector 5 is block 147h.
    assert_eq!(chs(&mut b, 2, 3, 5), Ok(0x147));
    let id = identify(&mut b);
    assert_eq!((&id[54..57], id[57], id[58]), (&[15, 8, 17][..], 2040, 0));
    assert_eq!((id[1], id[3], id[6]), (2, 16, 63), "what it came with stays told");
    for (c, h, s) in [(0, 8, 1), (0, 0, 0), (0, 0, 18), (16, 0, 1)] {
        assert_eq!(chs(&mut b, c, h, s), Err(0x10), "{c}/{h}/{s}");
    }
    // SEEK, READ VERIFY and DMA address in the same way.
    for (command, sector, want) in [(0x70, 17, 0), (0x70, 18, 0x10), (0x40, 17, 0), (0x40, 18, 0x10), (0xc8, 18, 0x10)]
    {
        for (port, value) in [(0x1f6, 0xa0), (0x1f2, 1), (0x1f3, sector), (0x1f4, 0), (0x1f5, 0), (0x1f7, command)] {
            b.out(port, value);
        }
        assert_eq!(b.inb(0x1f1), want, "command {command:#x}, sector {sector}");
    }
    // Zero sectors are aborted, and the previous translation stays.
    assert_eq!((translate(&mut b, 1, 0), b.inb(0x1f1)), (0x51, 0x04));
    assert_eq!(chs(&mut b, 2, 3, 5), Ok(0x147));
    // READ NATIVE MAX ADDRESS without LBA returns the last address of the default translation.
    b.out(0x1f6, 0xa0);
    b.out(0x1f7, 0xf8);
    assert_eq!((b.inb(0x1f6) & 15, b.inb(0x1f5), b.inb(0x1f4), b.inb(0x1f3)), (15, 0, 1, 63));
    b.out(0x1f6, 0xe0);
    b.out(0x1f7, 0xf8);
    assert_eq!((b.inb(0x1f6) & 15, b.inb(0x1f5), b.inb(0x1f4), b.inb(0x1f3)), (0, 0, 7, 0xff));
    // It is part of the saved state.
    let state = b.ide.save();
    let mut b = Bench::new();
    b.ide.load(&state, &mut b.cx).unwrap();
    assert_eq!(chs(&mut b, 2, 3, 5), Ok(0x147));
    b.ide.reset(Reset::Machine, &mut b.cx);
    assert_eq!((chs(&mut b, 1, 1, 5), &identify(&mut b)[54..57]), (Ok(16 * 63 + 63 + 4), &[2, 16, 63][..]));
}

/// All numbers of heads and sectors per track: the blocks of a cylinder, and words 54 to 58.
#[test]
fn every_translation_reaches_the_sectors_that_it_says() {
    let mut b = Bench::new();
    for heads in 1..=16u8 {
        for of_track in [1u8, 2, 17, 32, 63, 64, 128, 255] {
            assert_eq!(translate(&mut b, heads, of_track), 0x50);
            let id = identify(&mut b);
            let cylinder = u32::from(heads) * u32::from(of_track);
            assert_eq!((id[55], id[56]), (heads.into(), of_track.into()));
            assert_eq!(u32::from(id[57]) | u32::from(id[58]) << 16, u32::from(id[54]) * cylinder);
            assert_eq!(u32::from(id[54]), (2048 / cylinder).max(1));
            if cylinder < 1024 {
                let (h, s) = (u32::from(heads - 1), u32::from(of_track));
                assert_eq!(chs(&mut b, 1, h, s), Ok(2 * cylinder - 1), "{heads}/{of_track}");
            }
        }
    }
}

/// SET FEATURES 66h and CCh decide whether a software reset keeps settings; a reset of the machine clears them (ATA/ATAPI-5, 8.37).
#[test]
fn what_reset_takes_back_is_what_66h_and_cch_say() {
    // The words of IDENTIFY that each command changes.
    let watched = [54, 55, 56, 57, 59, 63, 85, 88];
    let seen = |b: &mut Bench| {
        let id = identify(b);
        watched.map(|w| id[w])
    };
    let feature = |b: &mut Bench, feature: u32, count: u8| {
        b.out(0x1f1, feature);
        b.ata(0xef, 0, count);
        assert_eq!(b.inb(0x1f7), 0x50, "SET FEATURES {feature:#x}");
    };
    let fresh = seen(&mut Bench::new());
    for keep in [false, true] {
        let mut b = Bench::new();
        translate(&mut b, 4, 32);
        b.ata(0xc6, 0, 8);
        feature(&mut b, 0x03, 0x22);
        feature(&mut b, 0x82, 0);
        feature(&mut b, 0x55, 0);
        let set = seen(&mut b);
        for (i, word) in watched.iter().enumerate() {
            assert_ne!(set[i], fresh[i], "word {word}");
        }
        assert_eq!(set[6] & 0x60, 0, "both caches are off");
        feature(&mut b, if keep { 0x66 } else { 0xcc }, 0);
        reset(&mut b);
        assert_eq!(seen(&mut b), if keep { set } else { fresh }, "keep {keep}");
        // Neither EXECUTE DEVICE DIAGNOSTIC nor a state that is saved and restored changes any.
        b.ata(0x90, 0, 0);
        let state = b.ide.save();
        let mut b = Bench::new();
        b.ide.load(&state, &mut b.cx).unwrap();
        assert_eq!(seen(&mut b), if keep { set } else { fresh }, "keep {keep}");
        reset(&mut b);
        assert_eq!(seen(&mut b), if keep { set } else { fresh }, "what keeps is kept too");
        b.ide.reset(Reset::Machine, &mut b.cx);
        assert_eq!(seen(&mut b), fresh);
        reset(&mut b);
        assert_eq!(seen(&mut b), fresh);
    }
}

/// Counts the jobs of each kind.
struct Counted(Inline, Arc<Mutex<Vec<&'static str>>>);

impl Executor for Counted {
    fn submit(&mut self, lane: usize, image: Arc<Image>, job: Job) {
        self.1.lock().unwrap().push(match job {
            Job::Flush => "flush",
            Job::Write { .. } | Job::WriteDma { .. } => "write",
            _ => "other",
        });
        self.0.submit(lane, image, job);
    }
    fn take(&mut self) -> Option<(usize, Outcome)> {
        self.0.take()
    }
}

/// With its write cache disabled, a drive reports a write as done only when it is durable.
#[test]
fn without_its_write_cache_a_drive_has_written_when_it_says_so() {
    let mut b = Bench::new();
    let jobs = Arc::new(Mutex::new(Vec::new()));
    let inline = Inline::new(b.memory.clone());
    let failures = inline.failures.clone();
    b.ide = Ide::new(vec![spec(0, false, false, &b.disk, 1 << 20)], Box::new(Counted(inline, jobs.clone())));
    let taken = || std::mem::take(&mut *jobs.lock().unwrap());
    let write = |b: &mut Bench, dma: bool| {
        b.bm(0, 1, 0);
        b.prd(&[(0x8000, 512, true)]);
        b.ata(if dma { 0xca } else { 0x30 }, 3, 1);
        if dma {
            b.bm(0, 1, 1);
        } else {
            b.outsw(0x1f0, &[1; 512]);
        }
        b.inb(0x1f7)
    };
    assert_eq!((write(&mut b, false), write(&mut b, true), taken()), (0x50, 0x50, vec!["write"; 2]));
    b.out(0x1f1, 0x82);
    b.ata(0xef, 0, 0);
    assert_eq!((b.inb(0x1f7), taken()), (0x50, vec!["flush"]));
    for dma in [false, true] {
        assert_eq!((write(&mut b, dma), taken()), (0x50, vec!["write", "flush"]));
        failures.lock().unwrap().extend([None, Some(Errno::IO)]);
        assert_eq!((write(&mut b, dma), b.inb(0x1f1), taken()), (0x51, 0x04, vec!["write", "flush"]));
    }
    b.out(0x1f1, 0x02);
    b.ata(0xef, 0, 0);
    taken();
    assert_eq!((write(&mut b, true), taken()), (0x50, vec!["write"]));
}

/// Of all 65536 pairs of feature and count, SET FEATURES accepts exactly those that the specification has and IDENTIFY claims.
#[test]
fn set_features_accepts_the_claimed_features_only() {
    let mut b = Bench::new();
    for (base, data) in [(0x1f0, 0x1f6), (0x170, 0x176)] {
        let disk = base == 0x1f0;
        b.out(data, 0xa0);
        for feature in 0..256u32 {
            for count in (0..256u32).filter(|c| feature == 3 || c % 85 == 0) {
                b.out(base + 1, feature);
                b.out(base + 2, count);
                b.out(base + 7, 0xef);
                let good = match feature {
                    0x03 => matches!(count, 0 | 1 | 8..=12 | 0x20..=0x22 | 0x40..=0x45),
                    0x02 | 0x82 | 0xaa | 0x55 => disk,
                    0x66 | 0xcc => true,
                    _ => false,
                };
                let want = if good { (0x50, 0) } else { (0x51, 4) };
                assert_eq!((b.inb(base + 7), b.inb(base + 1)), want, "feature {feature:#x}, {count:#x}");
            }
        }
    }
}

/// CHECK POWER MODE reports the mode after the last power command or access; IDENTIFY claims the commands.
#[test]
fn power_mode_follows_the_last_command() {
    let mut b = Bench::new();
    let mode = |b: &mut Bench| {
        b.ata(0xe5, 0, 7);
        b.inb(0x1f2)
    };
    assert_ne!(identify(&mut b)[82] & 8, 0);
    assert_eq!(mode(&mut b), 0xff);
    for (command, want) in [(0xe0, 0x00), (0xe1, 0x80), (0xe2, 0x00), (0xe3, 0x80), (0xe6, 0x00)] {
        b.ata(command, 0, 0);
        assert_eq!((b.inb(0x1f7), mode(&mut b)), (0x50, want), "command {command:#x}");
        let state = b.ide.save();
        b = Bench::new();
        b.ide.load(&state, &mut b.cx).unwrap();
        assert_eq!(mode(&mut b), want);
        b.ata(0x20, 0, 1);
        b.insw(0x1f0, 512);
        assert_eq!(mode(&mut b), 0xff, "an access wakes it");
    }
    b.ata(0xe0, 0, 0);
    reset(&mut b);
    assert_eq!(mode(&mut b), 0xff);
}

/// The configured strings are reported, cut and padded; other characters are replaced.
#[test]
fn identity_comes_from_the_hosts_configuration() {
    let mut b = Bench::new();
    let identity = Identity {
        serial: Some("testdisk".into()),
        version: Some("version9-too-long".into()),
        model: Some("a\u{e9}\n".into()),
        geometry: None,
    };
    b.ide = Ide::new(
        vec![
            DriveSpec { identity: identity.clone(), ..spec(0, false, false, &b.disk, 1 << 20) },
            DriveSpec { identity, ..spec(2, true, true, &b.disk, 1 << 20) },
        ],
        Box::new(Inline::new(b.memory.clone())),
    );
    let text = |id: &[u8], at: usize, words: usize| -> String {
        id[at * 2..(at + words) * 2].chunks(2).flat_map(|w| [char::from(w[1]), char::from(w[0])]).collect()
    };
    b.ata(0xec, 0, 0);
    let disk = b.insw(0x1f0, 512);
    b.out(0x176, 0xa0);
    b.out(0x177, 0xa1);
    let cd = b.insw(0x170, 512);
    for id in [disk, cd] {
        assert_eq!(text(&id, 10, 10), format!("{:20}", "testdisk"));
        assert_eq!(text(&id, 23, 4), "version9");
        assert_eq!(text(&id, 27, 20), format!("{:40}", "a"));
    }
}

/// A disk that was partitioned with other heads and sectors has them after power-on, and after a reset that clears the host's
/// setting.
#[test]
fn the_translation_after_power_on_is_the_one_that_the_disk_was_partitioned_with() {
    let mut b = Bench::new();
    let identity = Identity { geometry: Some((64, 4, 8)), ..Identity::default() };
    let drives = vec![DriveSpec { identity, ..spec(0, false, false, &b.disk, 1 << 20) }];
    b.ide = Ide::new(drives, Box::new(Inline::new(b.memory.clone())));
    let words = |b: &mut Bench| {
        b.ata(0xec, 0, 0);
        let id = b.insw(0x1f0, 512);
        [1, 3, 6, 54, 55, 56].map(|w| u16::from_le_bytes([id[w * 2], id[w * 2 + 1]]))
    };
    assert_eq!(words(&mut b), [64, 4, 8, 64, 4, 8]);
    // INITIALIZE DEVICE PARAMETERS, then a software reset.
    b.out(0x1f6, 0xa0 | 1);
    b.out(0x1f2, 16);
    b.out(0x1f7, 0x91);
    assert_eq!(words(&mut b), [64, 4, 8, 64, 2, 16]);
    b.out(0x3f6, 4);
    b.out(0x3f6, 0);
    assert_eq!(words(&mut b), [64, 4, 8, 64, 4, 8]);
}
