//! The surface: written by a display, read by viewers. The layout is [`bulkhead_wire::surface`]'s.
use crate::{AreaError, SharedArea};
use bulkhead_wire::surface as at;
use rustix::fd::AsFd;

/// The display's end, which writes.
#[derive(Debug)]
pub struct SurfaceWriter {
    area: SharedArea,
    width: usize,
    height: usize,
    generation: u32,
    drawn: bool,
    row: Vec<u8>,
}

impl SurfaceWriter {
    /// Maps the memfd, which must be of [`at::LEN`] bytes, and seals it.
    ///
    /// # Errors
    /// If it cannot be mapped or sealed, or has another size.
    pub fn new(fd: impl AsFd) -> Result<Self, AreaError> {
        let area = SharedArea::map_writer(fd, at::LEN)?;
        area.write_hello(at::HEADER);
        area.store_u32(at::FORMAT, at::FORMAT_XRGB8888);
        Ok(Self { area, width: 0, height: 0, generation: 0, drawn: false, row: Vec::new() })
    }

    /// Begins an update; false if a picture of this size does not fit.
    pub fn begin(&mut self, width: usize, height: usize) -> bool {
        if height > at::LINES || width.saturating_mul(height) > at::PIXELS {
            return false;
        }
        self.area.store_u32(at::SEQUENCE, self.area.load_u32(at::SEQUENCE) | 1);
        self.drawn = (width, height) != (self.width, self.height);
        if self.drawn {
            (self.width, self.height) = (width, height);
            for (field, value) in [(at::WIDTH, width), (at::HEIGHT, height), (at::STRIDE, width.saturating_mul(4))] {
                self.area.store_u32(field, u32::try_from(value).unwrap_or(0));
            }
        }
        true
    }

    /// Draws a line of pixels: red in bits 16 to 23, green, blue.
    pub fn line(&mut self, y: usize, pixels: &[u32]) {
        if y >= self.height {
            return;
        }
        self.row.resize(pixels.len().min(self.width).saturating_mul(4), 0);
        for (to, pixel) in self.row.as_chunks_mut::<4>().0.iter_mut().zip(pixels) {
            *to = pixel.to_le_bytes();
        }
        let start = at::PIXELS_AT.saturating_add(y.saturating_mul(self.width).saturating_mul(4));
        let _ = self.area.copy_in(start, &self.row);
        self.area.store_u32(at::LINES_AT.saturating_add(y.saturating_mul(4)), self.generation.wrapping_add(1));
        self.drawn = true;
    }

    /// Ends the update. It counts as a new generation if a line was drawn.
    pub fn end(&mut self) {
        if self.drawn {
            self.generation = self.generation.wrapping_add(1);
            self.area.store_u32(at::GENERATION, self.generation);
        }
        let sequence = self.area.load_u32(at::SEQUENCE) | 1;
        self.area.store_u32(at::SEQUENCE, sequence.wrapping_add(1));
    }
}

/// A viewer's copy of the picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in lines.
    pub height: usize,
    /// Number of updates that changed something, at the time of the copy.
    pub generation: u32,
    /// Twice the number of pictures drawn, as [`SurfaceReader::sequence`], at the time of the copy.
    pub sequence: u32,
    /// Four bytes a pixel: blue, green, red, unused. Unchanged lines keep their bytes.
    pub pixels: Vec<u8>,
    /// The lines that changed since the previous copy.
    pub dirty: Vec<usize>,
}

/// A viewer's end, which reads. The display may be hostile.
#[derive(Debug)]
pub struct SurfaceReader(SharedArea);

impl SurfaceReader {
    /// Maps the memfd, which must be sealed.
    ///
    /// # Errors
    /// If it cannot be mapped, is not sealed, or has another size.
    pub fn new(fd: impl AsFd) -> Result<Self, AreaError> {
        Ok(Self(SharedArea::map_reader(fd, at::LEN)?))
    }

    /// Updates `picture`. False if the display is drawing or its header is impossible: the picture is unchanged or has some newer
    /// lines, and the next call completes it.
    pub fn update(&self, picture: &mut Picture) -> bool {
        let load = |field| self.0.load_u32(field) as usize;
        let sequence = self.0.load_u32(at::SEQUENCE);
        let (width, height, generation) = (load(at::WIDTH), load(at::HEIGHT), self.0.load_u32(at::GENERATION));
        if sequence & 1 != 0 || height > at::LINES || width.saturating_mul(height) > at::PIXELS {
            return false;
        }
        let bytes = width.saturating_mul(4);
        let all = (width, height) != (picture.width, picture.height);
        if all {
            *picture = Picture { width, height, pixels: vec![0; bytes.saturating_mul(height)], ..Picture::default() };
        }
        picture.dirty.clear();
        for y in 0..height {
            let changed = self.0.load_u32(at::LINES_AT.saturating_add(y.saturating_mul(4)));
            let newer = changed.wrapping_sub(picture.generation).cast_signed() > 0;
            if !all && !newer {
                continue;
            }
            let start = y.saturating_mul(bytes);
            let Some(row) = picture.pixels.get_mut(start..start.saturating_add(bytes)) else { return false };
            if !self.0.copy_out(at::PIXELS_AT.saturating_add(start), row) {
                return false;
            }
            picture.dirty.push(y);
        }
        if self.0.load_u32(at::SEQUENCE) != sequence {
            return false;
        }
        (picture.generation, picture.sequence) = (generation, sequence);
        true
    }

    /// Increases by two with every picture that is drawn, changed or not; odd while the display draws.
    pub fn sequence(&self) -> u32 {
        self.0.load_u32(at::SEQUENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (SurfaceWriter, SurfaceReader) {
        let fd = SharedArea::create("surface", at::LEN).unwrap();
        (SurfaceWriter::new(&fd).unwrap(), SurfaceReader::new(&fd).unwrap())
    }

    #[test]
    fn only_what_changed_is_copied() {
        let (mut writer, reader) = pair();
        let mut picture = Picture::default();
        assert!(writer.begin(2, 3));
        for y in 0..3u8 {
            writer.line(usize::from(y), &[u32::from(y) << 16 | 0x102, 0x03_0405]);
        }
        assert!(!reader.update(&mut picture), "it draws just now");
        writer.end();
        assert!(reader.update(&mut picture));
        assert_eq!((picture.width, picture.height, picture.dirty.as_slice()), (2, 3, &[0, 1, 2][..]));
        assert_eq!(picture.pixels[8..16], [2, 1, 1, 0, 5, 4, 3, 0]);
        assert!(writer.begin(2, 3));
        writer.line(1, &[0x09_0909; 2]);
        writer.end();
        assert!(reader.update(&mut picture));
        assert_eq!((picture.dirty.as_slice(), picture.pixels[8]), (&[1][..], 9));
        let generation = picture.generation;
        assert!(writer.begin(2, 3));
        writer.end();
        assert!(reader.update(&mut picture));
        assert_eq!((picture.dirty.len(), picture.generation), (0, generation), "nothing was drawn");
        assert!(!writer.begin(1, at::LINES + 1), "no room");
        assert!(!writer.begin(4097, 4096));
    }

    proptest! {
        #[test]
        fn a_hostile_display_is_survived(words in prop::collection::vec((0usize..30, any::<u32>()), 0..40)) {
            let fd = SharedArea::create("surface", at::LEN).unwrap();
            let hostile = SharedArea::map_writer(&fd, at::LEN).unwrap();
            let reader = SurfaceReader::new(&fd).unwrap();
            let mut picture = Picture::default();
            for (at, value) in words {
                hostile.store_u32(at * 4 + if at < 10 { at::SEQUENCE } else { at::LINES_AT - 40 }, value);
                let _ = reader.update(&mut picture);
                prop_assert!(picture.pixels.len() <= at::PIXELS * 4);
            }
        }
    }
}
