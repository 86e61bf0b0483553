//! Decodes encoded rectangles with a decoder that was written from RFC 6143 alone.
use super::*;
use flate2::{Decompress, FlushDecompress};
use proptest::prelude::*;

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        let b = self.0[0];
        self.0 = &self.0[1..];
        b
    }
    fn pixel(&mut self) -> u32 {
        let p = u32::from_le_bytes([self.0[0], self.0[1], self.0[2], 0]);
        self.0 = &self.0[4..];
        p
    }
    fn compact(&mut self) -> u32 {
        let p = u32::from_le_bytes([self.0[0], self.0[1], self.0[2], 0]);
        self.0 = &self.0[3..];
        p
    }
    fn length(&mut self) -> usize {
        let mut n = 1;
        loop {
            let b = self.byte();
            n += usize::from(b);
            if b != 255 {
                return n;
            }
        }
    }
}

fn each_tile(width: usize, height: usize, side: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    for y in (0..height).step_by(side) {
        for x in (0..width).step_by(side) {
            f(x, y, side.min(width - x), side.min(height - y));
        }
    }
}

fn decode_hextile(bytes: &[u8], width: usize, height: usize) -> Vec<u32> {
    let mut r = Reader(bytes);
    let mut out = vec![0; width * height];
    let (mut background, mut foreground) = (0, 0);
    each_tile(width, height, 16, |tx, ty, w, h| {
        let kind = r.byte();
        if kind & 1 != 0 {
            for y in 0..h {
                for x in 0..w {
                    out[(ty + y) * width + tx + x] = r.pixel();
                }
            }
            return;
        }
        if kind & 2 != 0 {
            background = r.pixel();
        }
        if kind & 4 != 0 {
            foreground = r.pixel();
        }
        for y in 0..h {
            out[(ty + y) * width + tx..][..w].fill(background);
        }
        let n = if kind & 8 != 0 { r.byte() } else { 0 };
        for _ in 0..n {
            let colour = if kind & 16 != 0 { r.pixel() } else { foreground };
            let (at, size) = (r.byte(), r.byte());
            let (x, y, w, h) =
                (usize::from(at >> 4), usize::from(at & 15), usize::from(size >> 4) + 1, usize::from(size & 15) + 1);
            for line in y..y + h {
                out[(ty + line) * width + tx + x..][..w].fill(colour);
            }
        }
    });
    assert!(r.0.is_empty());
    out
}

fn decode_zrle(stream: &mut Decompress, bytes: &[u8], width: usize, height: usize) -> Vec<u32> {
    let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    assert_eq!(len, bytes.len() - 4);
    let mut tiles = Vec::with_capacity(width * height * 4 + 4096);
    stream.decompress_vec(&bytes[4..], &mut tiles, FlushDecompress::Sync).unwrap();
    let mut r = Reader(&tiles);
    let mut out = vec![0; width * height];
    each_tile(width, height, 64, |tx, ty, w, h| {
        let kind = r.byte();
        let mut pixels = Vec::new();
        match kind {
            0 => pixels.extend((0..w * h).map(|_| r.compact())),
            1 => pixels = vec![r.compact(); w * h],
            2..=16 => {
                let palette: Vec<u32> = (0..kind).map(|_| r.compact()).collect();
                let bits = if kind == 2 {
                    1
                } else if kind <= 4 {
                    2
                } else {
                    4
                };
                for _ in 0..h {
                    let (mut byte, mut left) = (0, 0);
                    for _ in 0..w {
                        if left == 0 {
                            (byte, left) = (r.byte(), 8);
                        }
                        left -= bits;
                        pixels.push(palette[usize::from(byte >> left & ((1 << bits) - 1))]);
                    }
                }
            }
            128 => {
                while pixels.len() < w * h {
                    let colour = r.compact();
                    let n = r.length();
                    pixels.extend(std::iter::repeat_n(colour, n));
                }
            }
            130.. => {
                let palette: Vec<u32> = (0..kind & 127).map(|_| r.compact()).collect();
                while pixels.len() < w * h {
                    let index = r.byte();
                    let n = if index & 128 != 0 { r.length() } else { 1 };
                    pixels.extend(std::iter::repeat_n(palette[usize::from(index & 127)], n));
                }
            }
            _ => panic!("kind {kind}"),
        }
        assert_eq!(pixels.len(), w * h);
        for y in 0..h {
            out[(ty + y) * width + tx..][..w].copy_from_slice(&pixels[y * w..][..w]);
        }
    });
    assert!(r.0.is_empty());
    out
}

/// Pictures of few and of many colours, smooth and noisy.
fn blocks() -> impl Strategy<Value = Block> {
    (1usize..150, 1usize..90, 1u32..200, 1usize..400, any::<u64>()).prop_map(|(width, height, colours, run, seed)| {
        let mut state = seed | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut pixels = Vec::new();
        while pixels.len() < width * height {
            let colour = (next() as u32 % colours).wrapping_mul(0x0001_0307) & 0xff_ffff;
            let n = 1 + next() as usize % run;
            pixels.extend(std::iter::repeat_n(colour, n));
        }
        pixels.truncate(width * height);
        Block { width, height, pixels }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn encoding_and_decoding_are_inverse(all in prop::collection::vec(blocks(), 1..4)) {
        let (mut zrle, mut stream) = (Zrle::new(), Decompress::new(true));
        for block in &all {
            for encoding in [Encoding::Raw, Encoding::Hextile, Encoding::Zrle] {
                let mut out = Vec::new();
                encode(&mut out, encoding, PixelFormat::SURFACE, block, &mut zrle);
                let got = match encoding {
                    Encoding::Raw => out.chunks(4).map(|p| u32::from_le_bytes(p.try_into().unwrap())).collect(),
                    Encoding::Hextile => decode_hextile(&out, block.width, block.height),
                    Encoding::Zrle => decode_zrle(&mut stream, &out, block.width, block.height),
                };
                prop_assert!(got == block.pixels, "{encoding:?}");
                // An encoded tile is never much larger than its raw pixels.
                let (bytes, pixels) = (out.len(), block.pixels.len());
                prop_assert!(bytes <= pixels * 4 + 64 + pixels.div_ceil(16), "{encoding:?}: {bytes} for {pixels}");
            }
        }
    }
}

#[test]
fn each_form_of_a_tile_is_used_where_it_is_shortest() {
    let tile = |f: &dyn Fn(usize) -> u32| Block { width: 64, height: 64, pixels: (0..4096).map(f).collect() };
    let first = |block: &Block| {
        let (mut out, mut tiles, mut stream) = (Vec::new(), Vec::with_capacity(32768), Decompress::new(true));
        Zrle::new().encode(&mut out, PixelFormat::SURFACE, block);
        stream.decompress_vec(&out[4..], &mut tiles, FlushDecompress::Sync).unwrap();
        tiles[0]
    };
    assert_eq!(first(&tile(&|_| 7)), 1);
    assert_eq!(first(&tile(&|i| (i as u32 ^ i as u32 >> 6) & 1)), 2);
    assert_eq!(first(&tile(&|i| i as u32 % 13)), 13);
    assert_eq!(first(&tile(&|i| i as u32 / 10 % 100 * 7)), 128 | 100);
    assert_eq!(first(&tile(&|i| i as u32 / 16 * 77)), 128);
    assert_eq!(first(&tile(&|i| i as u32 * 0x1357)), 0);
}
