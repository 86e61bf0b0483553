//! ZRLE (RFC 6143, 7.7.6): tiles of 64x64 with palettes and runs, compressed in one stream for each connection.
use super::{Block, PixelFormat};
use flate2::{Compress, Compression, FlushCompress};

/// The compressed stream of a connection.
pub(crate) struct Zrle {
    stream: Compress,
    tiles: Vec<u8>,
}

/// Bytes that encode a run's length.
fn length_bytes(run: usize) -> usize {
    run.saturating_sub(1).div_euclid(255).saturating_add(1)
}

fn put_length(out: &mut Vec<u8>, run: usize) {
    let mut left = run.saturating_sub(1);
    while left >= 255 {
        out.push(255);
        left = left.saturating_sub(255);
    }
    out.push(left as u8);
}

/// Bits of a packed palette's index.
fn index_bits(colours: usize) -> usize {
    match colours {
        0..=2 => 1,
        3 | 4 => 2,
        _ => 4,
    }
}

impl Zrle {
    pub(crate) fn new() -> Self {
        Self { stream: Compress::new(Compression::new(5), true), tiles: Vec::new() }
    }

    pub(super) fn encode(&mut self, out: &mut Vec<u8>, format: PixelFormat, block: &Block) {
        let mut tiles = std::mem::take(&mut self.tiles);
        tiles.clear();
        block.tiles(64).for_each(|t| tile(&mut tiles, format, &t));
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        self.deflate(out, &tiles);
        let len = (out.len().saturating_sub(at).saturating_sub(4) as u32).to_be_bytes();
        out.iter_mut().skip(at).zip(len).for_each(|(to, from)| *to = from);
        self.tiles = tiles;
    }

    /// Compresses `bytes` and appends the flushed output.
    fn deflate(&mut self, out: &mut Vec<u8>, bytes: &[u8]) {
        let start = self.stream.total_in();
        loop {
            let taken = self.stream.total_in().saturating_sub(start) as usize;
            let rest = bytes.get(taken..).unwrap_or_default();
            // Space for the overhead of a stored block; the loop repeats while the stream fills it.
            out.reserve(rest.len().saturating_add(64));
            let room = out.capacity().saturating_sub(out.len());
            let before = self.stream.total_out();
            let ended = self.stream.compress_vec(rest, out, FlushCompress::Sync);
            let written = self.stream.total_out().saturating_sub(before) as usize;
            let taken = self.stream.total_in().saturating_sub(start) as usize;
            if ended.is_err() || (taken == bytes.len() && written < room) {
                return;
            }
        }
    }
}

/// Appends a tile in its shortest form.
fn tile(out: &mut Vec<u8>, format: PixelFormat, tile: &Block) {
    let bytes = format.compact_bytes();
    let raw = tile.pixels.len().saturating_mul(bytes);
    let (mut runs, mut single, mut plain) = (0usize, 0usize, 0usize);
    for (_, n) in tile.stretches() {
        runs = runs.saturating_add(1);
        single = single.saturating_add(usize::from(n == 1));
        plain = plain.saturating_add(bytes).saturating_add(length_bytes(n));
    }
    let palette = tile.palette(127);
    let colours = palette.as_ref().map_or(usize::MAX, Vec::len);
    if let Some([colour]) = palette.as_deref() {
        out.push(1);
        return format.put_compact(out, *colour);
    }
    let map = colours.saturating_mul(bytes);
    let packed = if colours <= 16 {
        map.saturating_add(tile.width.saturating_mul(index_bits(colours)).div_ceil(8).saturating_mul(tile.height))
    } else {
        usize::MAX
    };
    let indexed = plain
        .saturating_sub(runs.saturating_mul(bytes))
        .saturating_add(runs)
        .saturating_sub(single)
        .saturating_add(map);
    let best = raw.min(plain).min(packed).min(if colours <= 127 { indexed } else { usize::MAX });
    match palette {
        Some(palette) if best == packed => {
            out.push(palette.len() as u8);
            palette.iter().for_each(|c| format.put_compact(out, *c));
            let bits = index_bits(palette.len());
            for y in 0..tile.height {
                let (mut byte, mut used) = (0u8, 0usize);
                for colour in tile.line(y) {
                    byte = byte << bits | index(&palette, *colour);
                    used = used.saturating_add(bits);
                    if used == 8 {
                        out.push(std::mem::take(&mut byte));
                        used = 0;
                    }
                }
                if used > 0 {
                    out.push(byte << (8usize.saturating_sub(used)));
                }
            }
        }
        Some(palette) if best == indexed => {
            out.push(128 | palette.len() as u8);
            palette.iter().for_each(|c| format.put_compact(out, *c));
            for (colour, n) in tile.stretches() {
                let index = index(&palette, colour);
                if n == 1 {
                    out.push(index);
                } else {
                    out.push(128 | index);
                    put_length(out, n);
                }
            }
        }
        _ if best == plain => {
            out.push(128);
            for (colour, n) in tile.stretches() {
                format.put_compact(out, colour);
                put_length(out, n);
            }
        }
        _ => {
            out.push(0);
            tile.pixels.iter().for_each(|p| format.put_compact(out, *p));
        }
    }
}

fn index(palette: &[u32], colour: u32) -> u8 {
    palette.iter().position(|c| *c == colour).unwrap_or(0) as u8
}
