//! Encodings of the picture's rectangles (RFC 6143, 7.7).
mod hextile;
mod zrle;

use super::pixel::PixelFormat;
use super::spec::encoding;
pub(crate) use zrle::Zrle;

/// The colours of a rectangle's pixels, 0x00rrggbb, line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<u32>,
}

impl Block {
    fn line(&self, y: usize) -> &[u32] {
        let start = y.saturating_mul(self.width);
        self.pixels.get(start..start.saturating_add(self.width)).unwrap_or_default()
    }

    /// Tiles of at most `side` x `side`, in the encodings' order.
    fn tiles(&self, side: usize) -> impl Iterator<Item = Self> {
        let starts = move |n: usize| (0..n).step_by(side);
        starts(self.height).flat_map(move |y| starts(self.width).map(move |x| (x, y))).map(move |(x, y)| {
            let (width, height) = (side.min(self.width.saturating_sub(x)), side.min(self.height.saturating_sub(y)));
            let lines = (y..y.saturating_add(height))
                .flat_map(|y| self.line(y).get(x..x.saturating_add(width)).unwrap_or_default());
            Self { width, height, pixels: lines.copied().collect() }
        })
    }

    /// Runs of one colour, across lines: (colour, number of pixels).
    fn stretches(&self) -> impl Iterator<Item = (u32, usize)> {
        self.pixels.chunk_by(|a, b| a == b).map(|run| (run.first().copied().unwrap_or(0), run.len()))
    }

    /// The colours in the order of their first pixels; `None` if there are more than `most`.
    fn palette(&self, most: usize) -> Option<Vec<u32>> {
        let mut palette = Vec::new();
        for (colour, _) in self.stretches() {
            if !palette.contains(&colour) {
                if palette.len() == most {
                    return None;
                }
                palette.push(colour);
            }
        }
        Some(palette)
    }
}

/// The encoding of a viewer's rectangles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    #[default]
    Raw,
    Hextile,
    Zrle,
}

impl Encoding {
    /// The encoding with this protocol number.
    pub(crate) fn of(number: i32) -> Option<Self> {
        match number {
            encoding::RAW => Some(Self::Raw),
            encoding::HEXTILE => Some(Self::Hextile),
            encoding::ZRLE => Some(Self::Zrle),
            _ => None,
        }
    }

    /// The protocol number.
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Raw => encoding::RAW,
            Self::Hextile => encoding::HEXTILE,
            Self::Zrle => encoding::ZRLE,
        }
    }
}

/// Appends a rectangle's data in this encoding.
pub(crate) fn encode(out: &mut Vec<u8>, encoding: Encoding, format: PixelFormat, block: &Block, zrle: &mut Zrle) {
    match encoding {
        Encoding::Raw => block.pixels.iter().for_each(|p| format.put(out, *p)),
        Encoding::Hextile => hextile::encode(out, format, block),
        Encoding::Zrle => zrle.encode(out, format, block),
    }
}

#[cfg(test)]
mod tests;
