//! evdev's records (linux/input.h, linux/input-event-codes.h).
use bulkhead_bus::InputEvent;

/// Bytes of struct input_event on 64-bit Linux: a time, type, code, value.
pub(super) const LEN: usize = 24;

const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const REL_X: u16 = 0;
const REL_Y: u16 = 1;
const REL_WHEEL: u16 = 8;
const BTN_LEFT: u16 = 0x110;
const BTN_MIDDLE: u16 = 0x112;
/// Codes below this are keys of a keyboard.
const BTN_MISC: u16 = 0x100;

/// A pointer, relative or absolute.
#[derive(Debug, Default)]
pub(super) struct Pointer {
    /// Its last position on each axis, once that is known.
    at: [Option<i32>; 2],
    /// This report has an absolute position.
    placed: bool,
    /// Movement on each axis since the last report.
    moved: [i32; 2],
    /// Positions are 0 to 0x7fff over a screen of this size; `None`: they are pixels.
    scale: Option<[usize; 2]>,
}

impl Pointer {
    /// Sets the range of positions to 0 to 0x7fff over a screen of this size.
    pub(super) fn spread(&mut self, (width, height): (usize, usize)) {
        self.scale = Some([width, height]);
    }

    /// The pixel nearest to a position.
    fn pixel(&self, axis: usize, value: i32) -> i32 {
        let Some(size) = self.scale.and_then(|s| s.get(axis).copied()) else { return value };
        let last = i64::try_from(size.saturating_sub(1)).unwrap_or(0);
        let at = i64::from(value).saturating_mul(last).saturating_add(0x3fff).div_euclid(0x7fff);
        i32::try_from(at).unwrap_or(0)
    }

    /// The event of a record, if it has one. Movement is returned at the end of the kernel's report.
    pub(super) fn event(&mut self, record: &[u8; LEN]) -> Option<InputEvent> {
        let (_, [t0, t1, c0, c1, v0, v1, v2, v3]) = record.split_last_chunk::<8>()?;
        let (kind, code) = (u16::from_le_bytes([*t0, *t1]), u16::from_le_bytes([*c0, *c1]));
        let value = i32::from_le_bytes([*v0, *v1, *v2, *v3]);
        match (kind, code) {
            // 2 is the repetition of a held key, which the guest's keyboard limits to its own rate.
            (EV_KEY, code) if code < BTN_MISC => Some(InputEvent::Key { code, down: value != 0 }),
            (EV_KEY, _) if value > 1 => None,
            (EV_KEY, BTN_LEFT..=BTN_MIDDLE) => Some(InputEvent::Button { button: (code & 3) as u8, down: value == 1 }),
            (EV_REL, REL_X | REL_Y) => {
                self.add(usize::from(code), value);
                None
            }
            // Up is positive in evdev, down in the events.
            (EV_REL, REL_WHEEL) => Some(InputEvent::Move { dx: 0, dy: 0, dz: value.signum().saturating_neg() }),
            (EV_ABS, REL_X | REL_Y) => {
                self.placed = true;
                let value = self.pixel(usize::from(code), value);
                let before = self.at.get_mut(usize::from(code))?.replace(value).unwrap_or(value);
                self.add(usize::from(code), value.saturating_sub(before));
                None
            }
            (EV_SYN, _) => {
                let [dx, dy] = std::mem::take(&mut self.moved);
                (dx != 0 || dy != 0).then_some(InputEvent::Move { dx, dy, dz: 0 })
            }
            _ => None,
        }
    }

    /// The absolute position in pixels, if this record ends a report with one.
    pub(super) fn place(&mut self, record: &[u8; LEN]) -> Option<(usize, usize)> {
        let (_, [kind, ..]) = record.split_last_chunk::<8>()?;
        if u16::from(*kind) != EV_SYN || !std::mem::take(&mut self.placed) {
            return None;
        }
        let [x, y] = self.at;
        Some((usize::try_from(x?).unwrap_or(0), usize::try_from(y?).unwrap_or(0)))
    }

    fn add(&mut self, axis: usize, by: i32) {
        if let Some(moved) = self.moved.get_mut(axis) {
            *moved = moved.saturating_add(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_that_was_spread_over_the_screen_is_that_pixel_again() {
        for (width, height) in [(720, 400), (800, 600), (1024, 768), (1920, 1080), (4096, 2160), (1, 1)] {
            let mut pointer = Pointer::default();
            pointer.spread((width, height));
            for (axis, size) in [(0, width), (1, height)] {
                for p in 0..size {
                    // As a viewer computes it.
                    let InputEvent::At { x, .. } = crate::sinks::place(p, 0, (size, 1)) else { unreachable!() };
                    assert_eq!(pointer.pixel(axis, i32::from(x)), p as i32, "{p} of {size}");
                }
            }
            for hostile in [i32::MIN, -1, i32::MAX] {
                pointer.pixel(0, hostile);
            }
        }
    }
}
