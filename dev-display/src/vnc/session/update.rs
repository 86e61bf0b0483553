//! Updates for a viewer: the picture's size and its changes.
use super::{Announcements, ENOUGH, HandshakeState, RECTANGLES, TALL, ViewerSession};
use crate::fbdev::View;
use crate::vnc::encode::encode;
use crate::vnc::screen::{Change, Damage, block, segments};
use crate::vnc::spec::{encoding, server};

impl ViewerSession {
    fn start(&mut self, size: (usize, usize)) {
        // The display has not drawn yet.
        self.size = if size == (0, 0) { (640, 480) } else { size };
        self.damage = Damage::all(self.size.0, self.size.1);
        for n in [self.size.0, self.size.1] {
            self.output.extend_from_slice(&(n as u16).to_be_bytes());
        }
        self.output.extend_from_slice(&self.format.to_bytes());
        self.output.extend_from_slice(&(self.name.len() as u32).to_be_bytes());
        self.output.extend_from_slice(self.name.as_bytes());
        self.handshake = HandshakeState::Running;
    }

    /// Turns a move that was not sent into changed lines.
    pub(super) fn settle_move(&mut self) {
        if let Some(moved) = self.moved.take() {
            let all = segments(self.size.0);
            (moved.to..moved.to.saturating_add(moved.lines)).for_each(|y| self.damage.add(y, all));
        }
    }

    /// Records changes of the picture for the next update.
    pub(crate) fn changed(&mut self, change: &Change) {
        if change.resized {
            // The next update announces the size; until then the viewer keeps its size.
            self.moved = None;
            self.damage = Damage::all(self.size.0, self.size.1);
            return;
        }
        // A move is valid only if the viewer has received all earlier changes.
        let current =
            self.abilities.copy_rect && self.rects.is_empty() && self.moved.is_none() && self.damage.is_empty();
        self.settle_move();
        self.moved = change.moved.filter(|_| current);
        let told = self.moved.map_or(0..0, |m| m.to..m.to.saturating_add(m.lines));
        for (y, segments) in &change.lines {
            if !told.contains(y) {
                self.damage.add(*y, *segments);
            }
        }
    }

    /// Encodes the next part of an update; `size` is the picture's, if an update may begin. False: nothing is pending, or enough
    /// bytes are unsent.
    pub(crate) fn produce(&mut self, view: &dyn View, size: Option<(usize, usize)>) -> bool {
        if !self.handshake_done() || self.unsent().len() >= ENOUGH {
            return false;
        }
        if self.handshake == HandshakeState::AwaitingSize {
            size.inspect(|size| self.start(*size));
            return size.is_some();
        }
        if let Some(rect) = self.rects.pop_front() {
            self.output.extend_from_slice(&note(rect.x, rect.y, rect.width, rect.height, self.encoding.number()));
            encode(&mut self.output, self.encoding, self.format, &block(view, rect), &mut self.zrle);
            return true;
        }
        let Some(size) = size.filter(|_| (self.update_requested || self.continuous) && self.unsent().is_empty()) else {
            return false;
        };
        if size != self.size && (self.abilities.desktop_size || self.abilities.extended_desktop_size) {
            self.size = size;
            self.damage = Damage::all(size.0, size.1);
            self.moved = None;
            let note = match self.abilities.extended_desktop_size {
                true => extended_size(size, 0, 0),
                false => note(0, 0, size.0, size.1, encoding::DESKTOP_SIZE),
            };
            self.update(&[note], 1);
            return true;
        }
        let mut notes = Vec::new();
        let Announcements { extended_desktop_size, extended_key, cursor } = std::mem::take(&mut self.announcements);
        notes.extend(extended_desktop_size.then(|| extended_size(self.size, 0, 0)));
        notes.extend(extended_key.then(|| note(0, 0, 0, 0, encoding::EXTENDED_KEY)));
        notes.extend(cursor.then(|| note(0, 0, 0, 0, encoding::CURSOR)));
        if let Some(status) = self.asked_size.take() {
            // Reason 1: this viewer's request.
            notes.push(extended_size(self.size, 1, usize::from(status)));
        }
        if self.abilities.motion_change && self.announced_absolute != Some(self.absolute_pointer) {
            self.announced_absolute = Some(self.absolute_pointer);
            // 1: absolute positions; 0: the viewer sends movement.
            notes.push(note(
                usize::from(self.absolute_pointer),
                0,
                self.size.0,
                self.size.1,
                encoding::POINTER_MOTION_CHANGE,
            ));
        }
        if self.abilities.led_state && !std::mem::replace(&mut self.leds.1, true) {
            notes.push(note(0, 0, 0, 0, encoding::LED_STATE));
        }
        let mut rects = self.damage.take(0, self.size.1, self.size.0, TALL);
        if rects.len() > RECTANGLES {
            rects = Damage::all(self.size.0, self.size.1).take(0, self.size.1, self.size.0, TALL);
        }
        let moved = self.moved.take();
        let count = notes.len().saturating_add(rects.len()).saturating_add(usize::from(moved.is_some()));
        if count == 0 {
            return false;
        }
        self.update(&notes, count);
        if let Some(moved) = moved {
            self.output.extend_from_slice(&note(0, moved.to, self.size.0, moved.lines, encoding::COPY_RECT));
            self.output.extend_from_slice(&[0, 0]);
            self.output.extend_from_slice(&(moved.from as u16).to_be_bytes());
        }
        self.rects = rects.into();
        true
    }

    /// Writes the head of an update of `count` rectangles, of which the first are pseudo-rectangles.
    fn update(&mut self, notes: &[[u8; 12]], count: usize) {
        self.update_requested = false;
        self.updates = self.updates.saturating_add(1);
        self.output.extend_from_slice(&[server::UPDATE, 0]);
        self.output.extend_from_slice(&(count as u16).to_be_bytes());
        for note in notes {
            self.output.extend_from_slice(note);
            let [.., e0, e1, e2, e3] = *note;
            let encoding = i32::from_be_bytes([e0, e1, e2, e3]);
            if encoding == encoding::LED_STATE {
                self.output.push(self.leds.0.unwrap_or(0));
            }
            if encoding == encoding::EXTENDED_DESKTOP_SIZE {
                // One screen, which covers the whole picture.
                let [.., w0, w1, h0, h1, _, _, _, _] = *note;
                self.output.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, w0, w1, h0, h1, 0, 0, 0, 0]);
            }
        }
    }
}

/// A rectangle's head.
fn note(x: usize, y: usize, width: usize, height: usize, encoding: i32) -> [u8; 12] {
    let mut bytes = [0; 12];
    let numbers = [x, y, width, height].map(|n| (n as u16).to_be_bytes());
    bytes.iter_mut().zip(numbers.into_iter().flatten().chain(encoding.to_be_bytes())).for_each(|(to, from)| *to = from);
    bytes
}

/// The head of ExtendedDesktopSize.
fn extended_size(size: (usize, usize), reason: usize, status: usize) -> [u8; 12] {
    note(reason, status, size.0, size.1, encoding::EXTENDED_DESKTOP_SIZE)
}
