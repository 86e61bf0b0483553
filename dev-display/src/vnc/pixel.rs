//! Viewers' pixel formats (RFC 6143, 7.4).

/// The pixel format that a viewer has requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PixelFormat {
    /// Bytes of a pixel: 1, 2 or 4.
    bytes: usize,
    /// Number of significant bits.
    depth: u8,
    big_endian: bool,
    /// The viewer uses a colour map: it gets one with 3 bits of red, 3 of green and 2 of blue.
    mapped: bool,
    /// Largest value and shift of red, green and blue.
    channels: [(u16, u8); 3],
}

impl PixelFormat {
    /// The surface's format: 32 bits, little endian, blue first.
    pub(crate) const SURFACE: Self =
        Self { bytes: 4, depth: 24, big_endian: false, mapped: false, channels: [(255, 16), (255, 8), (255, 0)] };
    const MAPPED: Self =
        Self { bytes: 1, depth: 8, big_endian: false, mapped: true, channels: [(7, 5), (7, 2), (3, 0)] };

    /// Encodes the format.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let [(red, r), (green, g), (blue, b)] = self.channels;
        let ([r0, r1], [g0, g1], [b0, b1]) = (red.to_be_bytes(), green.to_be_bytes(), blue.to_be_bytes());
        let bits = (self.bytes as u8).wrapping_mul(8);
        [bits, self.depth, u8::from(self.big_endian), u8::from(!self.mapped), r0, r1, g0, g1, b0, b1, r, g, b, 0, 0, 0]
    }

    /// Decodes a viewer's format; `None` if it is impossible.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let [bits, depth, big, true_colour, r0, r1, g0, g1, b0, b1, r, g, b, ..] = bytes;
        let bytes = match bits {
            8 => 1,
            16 => 2,
            32 => 4,
            _ => return None,
        };
        if true_colour == 0 {
            return (bytes == 1).then_some(Self::MAPPED);
        }
        let channels =
            [(u16::from_be_bytes([r0, r1]), r), (u16::from_be_bytes([g0, g1]), g), (u16::from_be_bytes([b0, b1]), b)];
        // A channel's largest value has only ones, and the channel is inside the pixel.
        let fits = |&(max, shift): &(u16, u8)| {
            max & max.wrapping_add(1) == 0 && u32::from(shift).saturating_add(max.count_ones()) <= u32::from(bits)
        };
        channels.iter().all(fits).then_some(Self { bytes, depth, big_endian: big != 0, mapped: false, channels })
    }

    /// The entries of the colour map, if the viewer uses one: red, green and blue of 16 bits.
    pub(crate) fn map(self) -> Option<Vec<[u16; 3]>> {
        let entry = |i: u16| {
            Self::MAPPED.channels.map(|(max, shift)| {
                (u32::from(i >> shift & max).saturating_mul(0xffff)).checked_div(u32::from(max)).unwrap_or(0) as u16
            })
        };
        self.mapped.then(|| (0..256).map(entry).collect())
    }

    /// Bytes of a pixel.
    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    /// A pixel's value for a colour 0x00rrggbb.
    fn value(self, rgb: u32) -> u32 {
        if self.channels == Self::SURFACE.channels {
            return rgb & 0xff_ffff;
        }
        let [_, red, green, blue] = rgb.to_be_bytes();
        let mut value = 0;
        for ((max, shift), level) in self.channels.into_iter().zip([red, green, blue]) {
            let scaled =
                (u32::from(level).saturating_mul(u32::from(max)).saturating_add(127)).checked_div(255).unwrap_or(0);
            value |= scaled << (shift & 31);
        }
        value
    }

    /// Appends a pixel.
    pub(crate) fn put(self, out: &mut Vec<u8>, rgb: u32) {
        let value = self.value(rgb);
        match (self.bytes, self.big_endian) {
            (1, _) => out.push(value as u8),
            (2, true) => out.extend_from_slice(&(value as u16).to_be_bytes()),
            (2, false) => out.extend_from_slice(&(value as u16).to_le_bytes()),
            (_, true) => out.extend_from_slice(&value.to_be_bytes()),
            (_, false) => out.extend_from_slice(&value.to_le_bytes()),
        }
    }

    /// Which three of four bytes are sent (RFC 6143, 7.7.5): false the first, true the last; `None`: all four.
    fn compact(self) -> Option<bool> {
        if self.bytes != 4 || self.mapped || self.depth > 24 {
            return None;
        }
        let mask = self.channels.iter().fold(0u32, |m, (max, shift)| m | u32::from(*max) << (shift & 31));
        match (mask >> 24 == 0, mask & 0xff == 0) {
            (true, _) => Some(self.big_endian),
            (_, true) => Some(!self.big_endian),
            _ => None,
        }
    }

    /// Bytes of a compact pixel.
    pub(crate) fn compact_bytes(self) -> usize {
        if self.compact().is_some() { 3 } else { self.bytes }
    }

    /// Appends a compact pixel.
    pub(crate) fn put_compact(self, out: &mut Vec<u8>, rgb: u32) {
        let Some(last) = self.compact() else { return self.put(out, rgb) };
        let value = self.value(rgb);
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let [a, b, c, d] = bytes;
        out.extend_from_slice(&if last { [b, c, d] } else { [a, b, c] });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(bits: u8, depth: u8, big: bool, channels: [(u16, u8); 3]) -> PixelFormat {
        let [(red, r), (green, g), (blue, b)] = channels;
        let mut bytes = [bits, depth, u8::from(big), 1, 0, 0, 0, 0, 0, 0, r, g, b, 0, 0, 0];
        bytes[4..6].copy_from_slice(&red.to_be_bytes());
        bytes[6..8].copy_from_slice(&green.to_be_bytes());
        bytes[8..10].copy_from_slice(&blue.to_be_bytes());
        PixelFormat::from_bytes(bytes).unwrap()
    }

    #[test]
    fn colours_are_scaled_to_the_viewers_channels() {
        let put = |f: PixelFormat, rgb| {
            let (mut plain, mut compact) = (Vec::new(), Vec::new());
            f.put(&mut plain, rgb);
            f.put_compact(&mut compact, rgb);
            (plain, compact)
        };
        assert_eq!(put(PixelFormat::SURFACE, 0x12_3456), (vec![0x56, 0x34, 0x12, 0], vec![0x56, 0x34, 0x12]));
        let big = format(32, 24, true, [(255, 16), (255, 8), (255, 0)]);
        assert_eq!(put(big, 0x12_3456), (vec![0, 0x12, 0x34, 0x56], vec![0x12, 0x34, 0x56]));
        let high = format(32, 24, false, [(255, 24), (255, 16), (255, 8)]);
        assert_eq!(put(high, 0x12_3456), (vec![0, 0x56, 0x34, 0x12], vec![0x56, 0x34, 0x12]));
        let r565 = format(16, 16, false, [(31, 11), (63, 5), (31, 0)]);
        assert_eq!(put(r565, 0xff_0000).0, [0x00, 0xf8]);
        assert_eq!(put(r565, 0x80_8080).0, 0x8410u16.to_le_bytes());
        assert_eq!(put(format(8, 8, false, [(7, 0), (7, 3), (3, 6)]), 0xff_ffff).0, [0xff]);
        // 30 bits need all four bytes.
        assert_eq!(format(32, 30, false, [(1023, 20), (1023, 10), (1023, 0)]).compact_bytes(), 4);
    }

    #[test]
    fn what_cannot_be_is_refused_and_a_map_is_offered_for_one_byte() {
        assert_eq!(PixelFormat::from_bytes(PixelFormat::SURFACE.to_bytes()), Some(PixelFormat::SURFACE));
        let mut bytes = PixelFormat::SURFACE.to_bytes();
        bytes[0] = 24;
        assert_eq!(PixelFormat::from_bytes(bytes), None);
        (bytes[0], bytes[5]) = (32, 254);
        assert_eq!(PixelFormat::from_bytes(bytes), None, "the largest value is no row of ones");
        (bytes[5], bytes[10]) = (255, 25);
        assert_eq!(PixelFormat::from_bytes(bytes), None, "red is outside");
        (bytes[10], bytes[3]) = (16, 0);
        assert_eq!(PixelFormat::from_bytes(bytes), None, "a map of 32 bits");
        bytes[0] = 8;
        let map = PixelFormat::from_bytes(bytes).unwrap().map().unwrap();
        assert_eq!((map.len(), map[0], map[255], map[0b111_000_00]), (256, [0; 3], [0xffff; 3], [0xffff, 0, 0]));
    }
}
