//! Effects of a viewer's messages.
use super::{Abilities, Message, SessionContext, ViewerSession};
use crate::vnc::encode::Encoding;
use crate::vnc::input::Pointing;
use crate::vnc::pixel::PixelFormat;
use crate::vnc::screen::segments;
use crate::vnc::spec::{encoding, fence, server, size_status};

impl ViewerSession {
    /// Carries out a message.
    pub(super) fn apply(&mut self, message: Message<'_>, context: &mut SessionContext<'_>) {
        match message {
            Message::SetPixelFormat(format) => self.set_format(format),
            Message::SetEncodings { count: _ } => {
                self.encoding = Encoding::Raw;
                self.abilities = Abilities::default();
                self.encoding_chosen = false;
            }
            Message::UpdateRequest { incremental, y, height } => {
                self.update_requested = true;
                if !incremental {
                    self.settle_move();
                    let all = segments(self.size.0);
                    let last = usize::from(y).saturating_add(usize::from(height)).min(self.size.1);
                    (usize::from(y)..last).for_each(|line| self.damage.add(line, all));
                }
            }
            Message::Key { down, keysym } => self.input.keysym(keysym, down, &mut context.keyboard()),
            Message::ScancodeKey { down, keysym, scancode } => {
                self.input.scancode(scancode, keysym, down, &mut context.keyboard());
            }
            Message::Pointer { buttons, x, y } => {
                // The meaning depends on the pointer kind that was announced to the viewer.
                let pointing = match () {
                    () if self.absolute_pointer => Pointing::Places(self.size),
                    () if self.abilities.motion_change && self.announced_absolute == Some(false) => Pointing::Movement,
                    () => Pointing::Positions,
                };
                self.input.pointer(buttons, x, y, pointing, context.input);
            }
            Message::CutText { len: _ } => {}
            Message::ContinuousUpdates { on } => {
                if self.continuous && !on {
                    self.output.push(server::END_OF_CONTINUOUS_UPDATES);
                }
                self.continuous = on;
            }
            Message::Fence { flags, payload } => {
                if flags & fence::REQUEST != 0 {
                    self.fence(flags & (fence::BLOCK_BEFORE | fence::BLOCK_AFTER | fence::SYNC_NEXT), payload);
                }
            }
            Message::SetDesktopSize { width, height, screens } => {
                if self.abilities.extended_desktop_size {
                    // The request is forwarded; the guest may use it when it reads the EDID.
                    let taken = screens == 1 && (context.wish)(width, height);
                    self.asked_size = Some(if taken { size_status::FORWARDED } else { size_status::PROHIBITED });
                    self.update_requested = true;
                }
            }
        }
    }

    fn set_format(&mut self, format: PixelFormat) {
        self.format = format;
        if let Some(map) = format.map() {
            self.output.extend_from_slice(&[server::COLOUR_MAP, 0, 0, 0]);
            self.output.extend_from_slice(&(map.len() as u16).to_be_bytes());
            map.iter().flatten().for_each(|level| self.output.extend_from_slice(&level.to_be_bytes()));
        }
    }

    /// Handles one encoding of the viewer's list.
    pub(super) fn add_encoding(&mut self, number: i32) {
        let can = &mut self.abilities;
        match number {
            encoding::COPY_RECT => can.copy_rect = true,
            encoding::DESKTOP_SIZE => can.desktop_size = true,
            encoding::EXTENDED_DESKTOP_SIZE if !can.extended_desktop_size => {
                can.extended_desktop_size = true;
                self.announcements.extended_desktop_size = true;
            }
            encoding::EXTENDED_KEY if !can.extended_key => {
                can.extended_key = true;
                self.announcements.extended_key = true;
            }
            encoding::CURSOR if !can.cursor => {
                can.cursor = true;
                self.announcements.cursor = true;
            }
            encoding::LED_STATE => can.led_state = true,
            encoding::POINTER_MOTION_CHANGE if !can.motion_change => {
                can.motion_change = true;
                // 0: movement is relative.
                self.announced_absolute = None;
            }
            encoding::FENCE if !can.fence => {
                can.fence = true;
                self.fence(fence::REQUEST, &[]);
            }
            encoding::CONTINUOUS_UPDATES if !can.continuous => {
                can.continuous = true;
                self.output.push(server::END_OF_CONTINUOUS_UPDATES);
            }
            _ => {
                if let Some(encoding) = Encoding::of(number).filter(|_| !self.encoding_chosen) {
                    (self.encoding, self.encoding_chosen) = (encoding, true);
                }
            }
        }
    }

    fn fence(&mut self, flags: u32, payload: &[u8]) {
        self.output.extend_from_slice(&[server::FENCE, 0, 0, 0]);
        self.output.extend_from_slice(&flags.to_be_bytes());
        self.output.push(payload.len() as u8);
        self.output.extend_from_slice(payload);
    }
}
