//! Hextile (RFC 6143, 7.7.4): tiles of 16x16, each raw, or rectangles on a background colour.
use super::{Block, PixelFormat};

const RAW: u8 = 1;
const BACKGROUND: u8 = 2;
const FOREGROUND: u8 = 4;
const RECTANGLES: u8 = 8;
const COLOURED: u8 = 16;

/// Rectangles of other colours than the background: (colour, x, y, width, height). Equal stretches of consecutive lines are merged.
fn rectangles(tile: &Block, background: u32) -> Vec<(u32, usize, usize, usize, usize)> {
    let mut all: Vec<(u32, usize, usize, usize, usize)> = Vec::new();
    for y in 0..tile.height {
        let mut x = 0usize;
        for run in tile.line(y).chunk_by(|a, b| a == b) {
            let (colour, width) = (run.first().copied().unwrap_or(background), run.len());
            if colour != background {
                match all
                    .iter_mut()
                    .rev()
                    .find(|r| (r.0, r.1, r.3) == (colour, x, width) && r.2.saturating_add(r.4) == y)
                {
                    Some(above) => above.4 = above.4.saturating_add(1),
                    None => all.push((colour, x, y, width, 1)),
                }
            }
            x = x.saturating_add(width);
        }
    }
    all
}

pub(super) fn encode(out: &mut Vec<u8>, format: PixelFormat, block: &Block) {
    for tile in block.tiles(16) {
        let raw = tile.pixels.len().saturating_mul(format.bytes());
        let background = most_common(&tile);
        let rectangles = rectangles(&tile, background);
        let first = rectangles.first().map(|r| r.0);
        let coloured = rectangles.iter().any(|r| Some(r.0) != first);
        let each = if coloured { format.bytes().saturating_add(2) } else { 2 };
        if rectangles.len() > 255
            || rectangles.len().saturating_mul(each).saturating_add(format.bytes().saturating_mul(2)) >= raw
        {
            out.push(RAW);
            tile.pixels.iter().for_each(|p| format.put(out, *p));
            continue;
        }
        let mut kind = BACKGROUND;
        if let Some(colour) = first {
            kind |= RECTANGLES | if coloured { COLOURED } else { FOREGROUND };
            out.push(kind);
            format.put(out, background);
            if !coloured {
                format.put(out, colour);
            }
            out.push(rectangles.len() as u8);
        } else {
            out.push(kind);
            format.put(out, background);
        }
        for (colour, x, y, width, height) in rectangles {
            if coloured {
                format.put(out, colour);
            }
            let pair = |a: usize, b: usize| (a as u8) << 4 | (b as u8 & 15);
            out.extend_from_slice(&[pair(x, y), pair(width.saturating_sub(1), height.saturating_sub(1))]);
        }
    }
}

/// The colour with the most pixels among the first few.
fn most_common(tile: &Block) -> u32 {
    let mut counts: Vec<(u32, usize)> = Vec::new();
    for (colour, n) in tile.stretches() {
        if let Some(known) = counts.iter_mut().find(|c| c.0 == colour) {
            known.1 = known.1.saturating_add(n);
        } else if counts.len() < 8 {
            counts.push((colour, n));
        }
    }
    counts.into_iter().max_by_key(|c| c.1).map_or(0, |c| c.0)
}
