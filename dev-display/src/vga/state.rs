//! The saved state of the display: its registers. Video RAM is guest memory and is saved with it.
use super::Vga;
use super::edid::Size;
use super::spec::{DispiEnable, attr, dispi, gfx, seq};
use bulkhead_bus::StateError;
use prost::Message as _;

/// Version of [`VgaState`]. Version 1 had indices, DISPI and other single registers in a fixed order.
const VERSION: u32 = 2;

/// The saved state of the card: every register. Sequencer, graphics, CRT and attribute controller are register files, by index.
#[derive(Clone, PartialEq, prost::Message)]
struct VgaState {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    config: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    sequencer: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    graphics: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    crtc: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    attribute: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    palette: Vec<u8>,
    /// Version 1: DISPI registers, by index.
    #[prost(uint32, repeated, tag = "8")]
    old_dispi: Vec<u32>,
    /// Version 1: sequencer, graphics, CRTC, attribute, DISPI, DAC read, DAC write, DAC component.
    #[prost(uint32, repeated, tag = "9")]
    old_indices: Vec<u32>,
    /// Version 1: misc output, feature control, DAC mask, attribute flip-flop, DAC reading.
    #[prost(uint32, repeated, tag = "10")]
    old_misc: Vec<u32>,
    #[prost(uint32, tag = "11")]
    latch: u32,
    /// Version 1: red and green of an incompletely written colour.
    #[prost(bytes = "vec", tag = "12")]
    old_dac_held: Vec<u8>,
    /// Version 1: width and height.
    #[prost(uint32, repeated, tag = "20")]
    old_preferred: Vec<u32>,
    #[prost(message, optional, tag = "21")]
    dispi: Option<DispiState>,
    #[prost(message, optional, tag = "22")]
    indices: Option<IndicesState>,
    #[prost(message, optional, tag = "23")]
    dac: Option<DacState>,
    #[prost(uint32, tag = "24")]
    misc_output: u32,
    #[prost(uint32, tag = "25")]
    feature: u32,
    /// The next write to 0x3c0 is data.
    #[prost(bool, tag = "26")]
    flip_flop: bool,
    /// An incompletely written colour.
    #[prost(message, optional, tag = "27")]
    dac_held: Option<HeldState>,
    /// The monitor's preferred mode, if it is not the default.
    #[prost(message, optional, tag = "28")]
    preferred: Option<SizeState>,
}

/// The saved DISPI registers.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct DispiState {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, tag = "2")]
    x_resolution: u32,
    #[prost(uint32, tag = "3")]
    y_resolution: u32,
    #[prost(uint32, tag = "4")]
    bits_per_pixel: u32,
    #[prost(uint32, tag = "5")]
    enable: u32,
    #[prost(uint32, tag = "6")]
    bank: u32,
    #[prost(uint32, tag = "7")]
    virtual_width: u32,
    #[prost(uint32, tag = "8")]
    virtual_height: u32,
    #[prost(uint32, tag = "9")]
    x_offset: u32,
    #[prost(uint32, tag = "10")]
    y_offset: u32,
    #[prost(uint32, tag = "11")]
    video_memory_64k: u32,
}

impl DispiState {
    fn of(registers: &[u16; dispi::COUNT]) -> Self {
        Self {
            id: u32::from(registers[dispi::ID]),
            x_resolution: u32::from(registers[dispi::XRES]),
            y_resolution: u32::from(registers[dispi::YRES]),
            bits_per_pixel: u32::from(registers[dispi::BPP]),
            enable: u32::from(registers[dispi::ENABLE]),
            bank: u32::from(registers[dispi::BANK]),
            virtual_width: u32::from(registers[dispi::VIRT_WIDTH]),
            virtual_height: u32::from(registers[dispi::VIRT_HEIGHT]),
            x_offset: u32::from(registers[dispi::X_OFFSET]),
            y_offset: u32::from(registers[dispi::Y_OFFSET]),
            video_memory_64k: u32::from(registers[dispi::VIDEO_MEMORY_64K]),
        }
    }

    /// A register, by index.
    fn register(&self, index: usize) -> u16 {
        let value = match index {
            dispi::ID => self.id,
            dispi::XRES => self.x_resolution,
            dispi::YRES => self.y_resolution,
            dispi::BPP => self.bits_per_pixel,
            dispi::ENABLE => self.enable,
            dispi::BANK => self.bank,
            dispi::VIRT_WIDTH => self.virtual_width,
            dispi::VIRT_HEIGHT => self.virtual_height,
            dispi::X_OFFSET => self.x_offset,
            dispi::Y_OFFSET => self.y_offset,
            dispi::VIDEO_MEMORY_64K => self.video_memory_64k,
            _ => 0,
        };
        value as u16
    }
}

/// The saved indices of the register files.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct IndicesState {
    #[prost(uint32, tag = "1")]
    sequencer: u32,
    #[prost(uint32, tag = "2")]
    graphics: u32,
    #[prost(uint32, tag = "3")]
    crtc: u32,
    #[prost(uint32, tag = "4")]
    attribute: u32,
    #[prost(uint32, tag = "5")]
    dispi: u32,
}

/// The saved registers of the DAC.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct DacState {
    /// Indices of the palette.
    #[prost(uint32, tag = "1")]
    read: u32,
    #[prost(uint32, tag = "2")]
    write: u32,
    /// The next component: 0 red, 1 green, 2 blue.
    #[prost(uint32, tag = "3")]
    component: u32,
    #[prost(uint32, tag = "4")]
    mask: u32,
    /// The index of reads was written last.
    #[prost(bool, tag = "5")]
    reading: bool,
}

/// The saved part of a colour whose blue has not been written yet.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HeldState {
    #[prost(uint32, tag = "1")]
    red: u32,
    #[prost(uint32, tag = "2")]
    green: u32,
}

/// A saved size in pixels.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct SizeState {
    #[prost(uint32, tag = "1")]
    width: u32,
    #[prost(uint32, tag = "2")]
    height: u32,
}

impl VgaState {
    /// Names what version 1 has in a fixed order.
    fn upgrade(&mut self) -> Result<(), StateError> {
        let [
            id,
            x_resolution,
            y_resolution,
            bits_per_pixel,
            enable,
            bank,
            virtual_width,
            virtual_height,
            x_offset,
            y_offset,
            video_memory_64k,
        ] = *self.old_dispi.as_slice()
        else {
            return Err(StateError::Value("DISPI registers"));
        };
        self.dispi = Some(DispiState {
            id,
            x_resolution,
            y_resolution,
            bits_per_pixel,
            enable,
            bank,
            virtual_width,
            virtual_height,
            x_offset,
            y_offset,
            video_memory_64k,
        });
        let [sequencer, graphics, crtc, attribute, dispi, read, write, component] = *self.old_indices.as_slice() else {
            return Err(StateError::Value("indices"));
        };
        self.indices = Some(IndicesState { sequencer, graphics, crtc, attribute, dispi });
        let [misc_output, feature, mask, flip_flop, reading] = *self.old_misc.as_slice() else {
            return Err(StateError::Value("miscellaneous registers"));
        };
        self.dac = Some(DacState { read, write, component, mask, reading: reading != 0 });
        self.misc_output = misc_output;
        self.feature = feature;
        self.flip_flop = flip_flop != 0;
        self.dac_held = match *self.old_dac_held.as_slice() {
            [red, green] => Some(HeldState { red: u32::from(red), green: u32::from(green) }),
            _ => None,
        };
        self.preferred = match *self.old_preferred.as_slice() {
            [width, height] => Some(SizeState { width, height }),
            _ => None,
        };
        Ok(())
    }
}

impl Vga {
    pub(super) fn encode(&self) -> Vec<u8> {
        VgaState {
            version: VERSION,
            config: self.config.save(),
            sequencer: self.sequencer.to_vec(),
            graphics: self.graphics.to_vec(),
            crtc: self.crtc.to_vec(),
            attribute: self.attribute.to_vec(),
            palette: self.palette.to_vec(),
            dispi: Some(DispiState::of(&self.dispi)),
            indices: Some(IndicesState {
                sequencer: u32::from(self.sequencer_index),
                graphics: u32::from(self.graphics_index),
                crtc: u32::from(self.crtc_index),
                attribute: u32::from(self.attribute_index),
                dispi: u32::from(self.dispi_index),
            }),
            dac: Some(DacState {
                read: u32::from(self.dac_read),
                write: u32::from(self.dac_write),
                component: u32::from(self.dac_component),
                mask: u32::from(self.dac_mask),
                reading: self.dac_reading,
            }),
            misc_output: u32::from(self.misc_output),
            feature: u32::from(self.feature),
            flip_flop: self.flip_flop,
            latch: self.latch,
            dac_held: if self.dac_component == 0 {
                None
            } else {
                let [red, green] = self.dac_held.map(u32::from);
                Some(HeldState { red, green })
            },
            preferred: (self.preferred != Size::DEFAULT).then(|| SizeState {
                width: u32::from(self.preferred.width),
                height: u32::from(self.preferred.height),
            }),
            ..VgaState::default()
        }
        .encode_to_vec()
    }

    /// Restores a state; on error nothing has changed.
    pub(super) fn decode(&mut self, state: &[u8]) -> Result<(), StateError> {
        let mut s = VgaState::decode(state)?;
        match s.version {
            1 => s.upgrade()?,
            VERSION => {}
            other => return Err(StateError::Version(other, VERSION)),
        }
        let mut new = Self::new(self.device, self.vram_size, self.rom, self.vram.clone());
        new.config.load(&s.config)?;
        let wrong = |what| move |_| StateError::Value(what);
        new.sequencer = s.sequencer.as_slice().try_into().map_err(wrong("sequencer"))?;
        new.graphics = s.graphics.as_slice().try_into().map_err(wrong("graphics controller"))?;
        new.crtc = s.crtc.as_slice().try_into().map_err(wrong("CRT controller"))?;
        new.attribute = s.attribute.as_slice().try_into().map_err(wrong("attribute controller"))?;
        // A state cannot have bits that a guest cannot set.
        let masks: [(&mut [u8], &[u8]); 3] =
            [(&mut new.sequencer, &seq::BITS), (&mut new.graphics, &gfx::BITS), (&mut new.attribute, &attr::BITS)];
        for (registers, bits) in masks {
            registers.iter_mut().zip(bits).for_each(|(register, bits)| *register &= bits);
        }
        new.palette = s.palette.as_slice().try_into().map_err(wrong("palette"))?;
        let indices = s.indices.ok_or(StateError::Value("indices"))?;
        let dac = s.dac.filter(|d| d.component <= 2).ok_or(StateError::Value("DAC"))?;
        let dispi_registers = s.dispi.ok_or(StateError::Value("DISPI registers"))?;
        new.sequencer_index = indices.sequencer as u8 & 7;
        new.graphics_index = indices.graphics as u8 & 15;
        new.crtc_index = indices.crtc as u8 & 0x3f;
        new.attribute_index = indices.attribute as u8 & 0x3f;
        new.dispi_index = indices.dispi as u16;
        new.dac_read = dac.read as u8;
        new.dac_write = dac.write as u8;
        new.dac_component = dac.component as u8;
        new.dac_mask = dac.mask as u8;
        new.dac_reading = dac.reading;
        new.misc_output = s.misc_output as u8 & !0x10;
        new.feature = s.feature as u8;
        new.flip_flop = s.flip_flop;
        new.latch = s.latch;
        if let Some(HeldState { red, green }) = s.dac_held.filter(|_| dac.component != 0) {
            let component = |v: u32| u8::try_from(v).map_err(|_| StateError::Value("colour"));
            new.dac_held = [component(red)?, component(green)?];
        }
        // Restored by register writes, so that a state cannot have a combination that a guest cannot set.
        let value = |i: usize| dispi_registers.register(i);
        for index in [dispi::ID, dispi::XRES, dispi::YRES] {
            new.dispi_write(index as u16, value(index));
        }
        // A write of 0 means 8; only a card that nobody has programmed has 0.
        if value(dispi::BPP) != 0 {
            new.dispi_write(dispi::BPP as u16, value(dispi::BPP));
        }
        new.dispi_write(
            dispi::ENABLE as u16,
            DispiEnable::from_bits(value(dispi::ENABLE)).with_no_clear(true).into_bits(),
        );
        new.dispi[dispi::ENABLE] = value(dispi::ENABLE);
        if !new.dispi_enabled() {
            new.dispi[dispi::VIRT_HEIGHT] = value(dispi::VIRT_HEIGHT);
        }
        for index in [dispi::BANK, dispi::VIRT_WIDTH, dispi::X_OFFSET, dispi::Y_OFFSET] {
            new.dispi_write(index as u16, value(index));
        }
        if let Some(SizeState { width, height }) = s.preferred {
            new.preferred =
                Size::wished(width as u16, height as u16, self.vram_size).ok_or(StateError::Value("preferred mode"))?;
        }
        new.wishes = self.wishes.take();
        *self = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::exercise::{loads, refuses};

    /// The same device in both versions, with values that differ from each other where their order could be wrong.
    const STATE: &[u8] = include_bytes!("../../tests/golden/vga-2-monitor.state");
    const OLD: &[u8] = include_bytes!("../../tests/golden/vga-1-monitor.state");

    #[test]
    fn version_1_has_the_same_values() {
        assert_eq!(loads(&crate::vga::TARGET, OLD).unwrap(), STATE);
    }

    #[test]
    fn a_refused_state_changes_nothing() {
        let refused = |state: &[u8], change: fn(&mut VgaState)| {
            let mut s = VgaState::decode(state).unwrap();
            change(&mut s);
            refuses(&crate::vga::TARGET, &s.encode_to_vec()).unwrap()
        };
        assert_eq!(refused(STATE, |s| s.version = 3), StateError::Version(3, VERSION));
        for change in [
            (|s| s.version = 2) as fn(&mut VgaState),
            |s| s.old_dispi.push(0),
            |s| s.old_indices.push(0),
            |s| s.old_indices[7] = 3,
            |s| s.old_misc.push(0),
            |s| s.old_preferred[0] = 0,
        ] {
            assert!(matches!(refused(OLD, change), StateError::Value(_)));
        }
        for change in [
            (|s| s.version = 1) as fn(&mut VgaState),
            |s| s.sequencer.push(0),
            |s| s.graphics.push(0),
            |s| s.crtc.push(0),
            |s| s.attribute.push(0),
            |s| s.palette.push(0),
            |s| s.dispi = None,
            |s| s.indices = None,
            |s| s.dac = None,
            |s| s.dac.as_mut().unwrap().component = 3,
            |s| s.dac_held.as_mut().unwrap().red = 1 << 8,
            |s| s.dac_held.as_mut().unwrap().green = 1 << 8,
            |s| s.preferred.as_mut().unwrap().width = 0,
        ] {
            assert!(matches!(refused(STATE, change), StateError::Value(_)));
        }
    }
}
