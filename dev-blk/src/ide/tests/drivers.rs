//! The order of commands of guests' CD drivers.
use super::*;

/// The order in which Windows' inbox drivers (atapi.sys, cdrom.sys) bring a CD drive up, as the commands of MMC-4 and
/// ATA/ATAPI-6 that they use: signature, soft reset, identification, transfer mode; inquiry, features, capabilities, media
/// events, capacity, table of contents, disc and track; then DMA reads of 32 sectors.
#[test]
fn windows_brings_a_cd_drive_up_and_reads() {
    let mut b = Bench::new();
    b.out(0x176, 0xa0);
    b.out(0x177, 0x08);
    assert_eq!(
        (b.inb(0x174), b.inb(0x175), b.inb(0x173), b.inb(0x172)),
        (0x14, 0xeb, 1, 1),
        "signature after DEVICE RESET"
    );
    b.out(0x177, 0xa1);
    let identity = b.insw(0x170, 512);
    let word = |i: usize| u16::from_le_bytes([identity[i * 2], identity[i * 2 + 1]]);
    assert_eq!(word(0) >> 14, 2, "ATAPI");
    assert_eq!(word(0) >> 8 & 0x1f, 5, "CD-ROM");
    assert_eq!(word(0) & 3, 0, "12-byte packets");
    assert_ne!(word(49) & 0x100, 0, "DMA");
    for mode in [0x0c, 0x22, 0x42] {
        b.out(0x171, 3);
        b.out(0x172, mode);
        b.out(0x177, 0xef);
        assert_eq!(b.inb(0x177), 0x50, "SET FEATURES {mode:#x}");
    }
    let inquiry = command(&mut b, &[0x12, 0, 0, 0, 36], 36).unwrap();
    assert_eq!((inquiry.len(), inquiry[0] & 0x1f, inquiry[1] >> 7), (36, 5, 1));
    let features = command(&mut b, &[0x46, 2, 0, 0, 0, 0, 0, 0, 8], 8).unwrap();
    assert_eq!(u16::from_be_bytes([features[6], features[7]]), 8, "the profile of a CD-ROM is current");
    let whole = command(&mut b, &[0x46, 0, 0, 0, 0, 0, 0, 4, 0], 1024).unwrap();
    assert_eq!(whole.len(), u32::from_be_bytes(whole[..4].try_into().unwrap()) as usize + 4);
    let mode = command(&mut b, &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 200], 200).unwrap();
    assert_eq!((mode[8] & 0x3f, usize::from(mode[1]) + 2), (0x2a, mode.len()));
    let event = command(&mut b, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8).unwrap();
    assert_eq!((event[2] & 7, event[5] & 2), (4, 2), "media class, a medium is there");
    assert_eq!(command(&mut b, &[0x00], 0xfffe), Ok(vec![]));
    let capacity = command(&mut b, &[0x25], 8).unwrap();
    assert_eq!(capacity, [0, 0, 0, 63, 0, 0, 8, 0]);
    let toc = command(&mut b, &[0x43, 2, 0, 0, 0, 0, 0, 3, 0x24], 0x324).unwrap();
    assert_eq!((toc[2], toc[3], toc[6], toc[14]), (1, 1, 1, 0xaa), "first, last, track, lead-out");
    let sessions = command(&mut b, &[0x43, 0, 1, 0, 0, 0, 0, 0, 12], 12).unwrap();
    assert_eq!((sessions[2], sessions[3]), (1, 1));
    let disc = command(&mut b, &[0x51, 0, 0, 0, 0, 0, 0, 0, 34], 34).unwrap();
    assert_eq!((disc[2] & 3, disc[3]), (2, 1), "complete");
    let track = command(&mut b, &[0x52, 1, 0, 0, 0, 1, 0, 0, 36], 36).unwrap();
    assert_eq!((track[2], track[6] & 15, &track[24..28]), (1, 1, &[0, 0, 0, 64][..]));
    assert_eq!(command(&mut b, &[0xad, 0, 0, 0, 0, 0, 0, 0, 0, 8], 8), Err(0x54), "no DVD: illegal request");
    assert_eq!(command(&mut b, &[0x1e, 0, 0, 0, 1], 0xfffe), Ok(vec![]));
    assert_eq!(command(&mut b, &[0x1b, 0, 0, 0, 2], 0xfffe), Err(0x54), "locked: it does not open");
    // READ(10) by DMA into two pages that do not follow each other.
    b.memory.write(0x1000, &[0, 0x80, 0, 0, 0, 0x10, 0, 0, 0, 0xc0, 0, 0, 0, 0x10, 0, 0x80]).unwrap();
    b.bm(12, 4, 0x1000);
    for (port, value) in [(0x176, 0xa0), (0x171, 1), (0x174, 0xfe), (0x175, 0xff), (0x177, 0xa0)] {
        b.out(port, value);
    }
    b.outsw(0x170, &[0x28, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0, 0]);
    b.bm(8, 1, 9);
    assert_eq!(b.bm_status(1) & 7, 4, "interrupt, no error, not active");
    assert_eq!((b.inb(0x177), b.inb(0x172)), (0x50, 3));
    let mut page = [0; 4];
    b.memory.read(0xc000, &mut page).unwrap();
    assert_eq!(u32::from_le_bytes(page), 6 * 512, "the third sector");
}

/// FreeBSD's ata(4) and cd(4): identification by PIO, TEST UNIT READY until no sense is left, INQUIRY as in SCSI,
/// capacity, MODE SENSE(10) of the capabilities and audio pages, table of contents with the lead-out, READ(10) and READ CD.
#[test]
fn freebsd_brings_a_cd_drive_up_and_reads() {
    let mut b = Bench::new();
    b.out(0x376, 6);
    b.out(0x376, 0);
    assert_eq!((b.inb(0x174), b.inb(0x175)), (0x14, 0xeb), "signature after a software reset");
    b.out(0x176, 0xa0);
    b.out(0x177, 0xa1);
    assert_eq!(b.insw(0x170, 512)[1] >> 6, 2);
    let inquiry = command(&mut b, &[0x12, 0, 0, 0, 36], 36).unwrap();
    assert_eq!(inquiry.len(), 36);
    assert!(
        command(&mut b, &[0x12, 1, 0x80, 0, 255], 255).is_ok_and(|d| d[1] == 0x80) || b.inb(0x171) == 0x54,
        "serial number, or illegal request"
    );
    let sense = command(&mut b, &[0x03, 0, 0, 0, 18], 18).unwrap();
    assert_eq!((sense[0] & 0x7f, sense.len()), (0x70, 18));
    assert_eq!(command(&mut b, &[0x00], 0xfffe), Ok(vec![]));
    assert_eq!(command(&mut b, &[0x25], 8).unwrap()[4..], [0, 0, 8, 0]);
    for page in [0x2a, 0x0e] {
        let mode = command(&mut b, &[0x5a, 0, page, 0, 0, 0, 0, 0, 64], 64);
        assert!(mode.as_ref().is_ok_and(|m| m[8] & 0x3f == page) || mode == Err(0x54), "page {page:#x}: {mode:?}");
    }
    assert_eq!(command(&mut b, &[0x1e, 0, 0, 0, 1], 0xfffe), Ok(vec![]));
    let header = command(&mut b, &[0x43, 0, 0, 0, 0, 0, 0, 0, 4], 4).unwrap();
    assert_eq!(header[2..], [1, 1]);
    let lead_out = command(&mut b, &[0x43, 0, 0, 0, 0, 0, 0xaa, 0, 12], 12).unwrap();
    assert_eq!((lead_out[6], &lead_out[8..12]), (0xaa, &[0, 0, 0, 64][..]));
    let read = command(&mut b, &[0x28, 0, 0, 0, 0, 62, 0, 0, 2], 0xfffe).unwrap();
    assert_eq!((read.len(), u32::from_le_bytes(read[2048..2052].try_into().unwrap())), (4096, 63 * 512));
    let raw = command(&mut b, &[0xbe, 0, 0, 0, 0, 1, 0, 0, 1, 0xf8], 0xfffe).unwrap();
    assert_eq!(
        (raw.len(), &raw[..12], raw[15]),
        (2352, &[0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0][..], 1)
    );
    assert_eq!(command(&mut b, &[0x28, 0, 0, 0, 0, 63, 0, 0, 2], 0xfffe), Err(0x54), "beyond the end");
    assert_eq!(command(&mut b, &[0x1e, 0, 0, 0, 0], 0xfffe), Ok(vec![]));
    assert_eq!(command(&mut b, &[0x1b, 0, 0, 0, 0], 0xfffe), Ok(vec![]));
}
