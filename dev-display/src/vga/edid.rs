//! The monitor's description: VESA E-EDID 1.4, 128 bytes.

/// Pixels of the preferred mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: u16,
    pub(super) height: u16,
}

impl Size {
    /// The preferred mode until a viewer requests another.
    pub(super) const DEFAULT: Self = Self { width: 1024, height: 768 };

    /// A viewer's requested size as a valid mode: a width that is a multiple of 8 pixels, 12 bits for each, within video RAM at 32
    /// bits a pixel.
    pub(super) fn wished(width: u16, height: u16, vram: u32) -> Option<Self> {
        let width = width & !7;
        let fits = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(4) <= u64::from(vram);
        ((320..4096).contains(&width) && (200..4096).contains(&height) && fits).then_some(Self { width, height })
    }
}

/// Blanking of CVT's reduced form: pixels and lines.
const BLANK: (u32, u32) = (160, 35);
/// Pictures a second.
const REFRESH: u32 = 60;

/// A detailed timing descriptor (3.10.2).
fn detailed(size: Size) -> [u8; 18] {
    let (width, height) = (u32::from(size.width), u32::from(size.height));
    let clock = width
        .saturating_add(BLANK.0)
        .saturating_mul(height.saturating_add(BLANK.1))
        .saturating_mul(REFRESH)
        .div_euclid(10_000);
    let [c0, c1, ..] = clock.min(0xffff).to_le_bytes();
    let high = |a: u32, b: u32| ((a >> 4 & 0xf0) | b >> 8) as u8;
    // Millimetres at 96 dots an inch.
    let mm = |n: u32| n.saturating_mul(254).div_euclid(960);
    let (mm_x, mm_y) = (mm(width), mm(height));
    [
        c0,
        c1,
        width as u8,
        BLANK.0 as u8,
        high(width, BLANK.0),
        height as u8,
        BLANK.1 as u8,
        high(height, BLANK.1),
        // Sync: 48 pixels after the picture, 32 long; 3 lines after it, 6 long.
        48,
        32,
        0x36,
        0,
        mm_x as u8,
        mm_y as u8,
        high(mm_x, mm_y),
        0,
        0,
        0x1a,
    ]
}

/// A descriptor with text (3.10.3).
fn text(tag: u8, text: &[u8; 13]) -> [u8; 18] {
    let mut out = [0; 18];
    out[3] = tag;
    out.iter_mut().skip(5).zip(text).for_each(|(to, from)| *to = *from);
    out
}

/// The EDID block of a monitor whose preferred mode is `preferred`.
pub(super) fn block(preferred: Size) -> [u8; 128] {
    let cm = |n: u16| u32::from(n).saturating_mul(254).div_euclid(9600).min(255) as u8;
    let mut all: Vec<u8> = vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
    // Manufacturer BHD, product 1, no serial number, 2026, version 1.4.
    all.extend([0x09, 0x04, 1, 0, 0, 0, 0, 0, 0, 36, 1, 4]);
    // Digital, 8 bits a colour; size; gamma 2.2; sRGB, the first timing is preferred.
    all.extend([0xa0, cm(preferred.width), cm(preferred.height), 120, 0x06]);
    // sRGB's primaries.
    all.extend([0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    // Established: 640x480, 800x600, 1024x768, at 60 Hz.
    all.extend([0x21, 0x08, 0x00]);
    // Standard, at 60 Hz: 1280x1024, 1280x800, 1440x900, 1600x1200, 1680x1050, 1920x1080; then none.
    all.extend([0x81, 0x80, 0x81, 0x00, 0x95, 0x00, 0xa9, 0x40, 0xb3, 0x00, 0xd1, 0xc0, 1, 1, 1, 1]);
    all.extend(detailed(preferred));
    // Limits: 30 to 120 Hz, 15 to 160 kHz, 600 MHz.
    all.extend([0, 0, 0, 0xfd, 0, 30, 120, 15, 160, 60, 1, 0x0a, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20]);
    all.extend(text(0xfc, b"Bulkhead\n    "));
    // A dummy descriptor.
    all.extend([0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // No further block.
    all.push(0);
    let sum = all.iter().fold(0u8, |s, b| s.wrapping_add(*b));
    all.push(sum.wrapping_neg());
    let mut out = [0; 128];
    out.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// `edid-decode` of the Linux media project accepts the block and finds the preferred mode.
    #[test]
    fn a_reader_that_is_not_ours_understands_it() {
        for (width, height) in [(1024, 768), (1920, 1080), (3840, 2160), (800, 600)] {
            let size = Size::wished(width, height, 64 << 20).unwrap();
            let mut child = std::process::Command::new("edid-decode")
                .arg("--check")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(&block(size)).unwrap();
            let out = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success() && !said.contains("FAIL"), "{said}");
            let first = said.split_once("DTD 1:").and_then(|(_, after)| after.split_whitespace().next());
            assert_eq!(first, Some(format!("{width}x{height}").as_str()), "{said}");
        }
    }

    #[test]
    fn wishes_are_rounded_or_refused() {
        assert_eq!(Size::wished(1021, 700, 16 << 20), Some(Size { width: 1016, height: 700 }));
        assert_eq!(Size::wished(4096, 700, 64 << 20), None);
        assert_eq!(Size::wished(0, 0, 64 << 20), None);
        assert_eq!(Size::wished(3840, 2160, 16 << 20), None, "more than video RAM has");
    }
}
