mod idle;
mod waiting;

use super::spec::{Control, Token, descriptor, pid};
use super::*;
use bulkhead_bus::InputEvent;
use bulkhead_bus::fake::{self, FakeMemory};
use bulkhead_bus::{Clock, GuestMemory as _};
use proptest::prelude::*;
use std::sync::Arc;

const LIST: u32 = 0x1000;
const QUEUE: u32 = 0x2000;
const DESCRIPTORS: u32 = 0x3000;
const BUFFERS: u32 = 0x8000;

/// A driver with one queue, at which every frame begins.
struct Host {
    usb: Uhci,
    cx: Context,
    memory: Arc<FakeMemory>,
    now: u64,
}

impl Host {
    fn new(devices: &[UsbDevice]) -> Self {
        let memory = FakeMemory::new(1 << 20);
        let mut cx = fake::context(0);
        cx.memory = memory.clone();
        cx.clock = Clock::Driven(0);
        let mut host = Self { usb: Uhci::new((1, 2), devices, None, None), cx, memory, now: 0 };
        for i in 0..1024 {
            host.word(LIST + i * 4, QUEUE | 2);
        }
        host.word(QUEUE, 1);
        host.word(QUEUE + 4, 1);
        host.out32(reg::FRAME_LIST, LIST);
        host.out(reg::INTERRUPTS, 0x0f);
        host.out(reg::COMMAND, 0x81);
        host
    }

    fn word(&self, at: u32, value: u32) {
        self.memory.write(u64::from(at), &value.to_le_bytes()).unwrap();
    }

    fn get(&self, at: u32) -> u32 {
        let mut b = [0; 4];
        self.memory.read(u64::from(at), &mut b).unwrap();
        u32::from_le_bytes(b)
    }

    fn out(&mut self, offset: u64, value: u16) {
        self.usb.write(Access::new(0, offset, 2), u64::from(value), &mut self.cx).unwrap();
    }

    fn out32(&mut self, offset: u64, value: u32) {
        self.usb.write(Access::new(0, offset, 4), u64::from(value), &mut self.cx).unwrap();
    }

    fn inw(&mut self, offset: u64) -> u16 {
        self.usb.read(Access::new(0, offset, 2), &mut self.cx).unwrap() as u16
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += FRAME;
            self.cx.clock = Clock::Driven(self.now);
            while let Some(id) = self.cx.timers.take_due(self.now) {
                self.usb.poll(Ready::Timer(id), &mut self.cx);
            }
        }
    }

    /// Runs transactions of one queue (kind, data or number of bytes). Returns each one's final status and the data read.
    fn queue(&mut self, address: u8, endpoint: u8, all: &[(u8, &[u8], usize)]) -> Vec<(Control, Vec<u8>)> {
        for (i, (kind, data, room)) in all.iter().enumerate() {
            let (td, buffer) = (DESCRIPTORS + i as u32 * 16, BUFFERS + i as u32 * 64);
            let len = if *kind == pid::IN { *room } else { data.len() };
            self.memory.write(u64::from(buffer), data).unwrap();
            self.word(td, if i + 1 == all.len() { 1 } else { (td + 16) | 4 });
            self.word(
                td + 4,
                Control::new()
                    .with_active(true)
                    .with_errors(3)
                    .with_on_complete(i + 1 == all.len())
                    .with_short(*kind == pid::IN)
                    .into_bits(),
            );
            let token = Token::new()
                .with_pid(*kind)
                .with_device(address)
                .with_endpoint(endpoint)
                .with_length((len as u16).wrapping_sub(1) & 0x7ff);
            self.word(td + 8, token.into_bits());
            self.word(td + 12, buffer);
        }
        self.word(QUEUE + 4, DESCRIPTORS);
        self.wait(16);
        let read = |(i, (kind, _, _)): (usize, &(u8, &[u8], usize))| {
            let control = Control::from_bits(self.get(DESCRIPTORS + i as u32 * 16 + 4));
            let n = if *kind == pid::IN && !control.active() {
                usize::from(control.actual().wrapping_add(1) & 0x7ff)
            } else {
                0
            };
            let mut data = vec![0; n];
            self.memory.read(u64::from(BUFFERS) + i as u64 * 64, &mut data).unwrap();
            (control, data)
        };
        all.iter().enumerate().map(read).collect()
    }

    /// A control transfer that reads, eight bytes a packet.
    fn read_control(&mut self, address: u8, setup: [u8; 8]) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_le_bytes([setup[6], setup[7]]));
        let mut all: Vec<(u8, &[u8], usize)> = vec![(pid::SETUP, &setup, 8)];
        all.extend(std::iter::repeat_n((pid::IN, &[][..], 8), length.div_ceil(8)));
        let done = self.queue(address, 0, &all);
        (!done[1].0.stalled()).then(|| done[1..].iter().flat_map(|d| d.1.clone()).collect())
    }

    fn write_control(&mut self, address: u8, setup: [u8; 8], data: &[u8]) -> bool {
        let mut all: Vec<(u8, &[u8], usize)> = vec![(pid::SETUP, &setup, 8)];
        all.extend(data.chunks(8).map(|d| (pid::OUT, d, d.len())));
        all.push((pid::IN, &[], 0));
        let done = self.queue(address, 0, &all);
        done.iter().all(|d| !d.0.active() && !d.0.stalled())
    }

    /// Resets and enables a port, gives its device an address and configures it.
    fn configure(&mut self, port: u64, address: u8) {
        let at = reg::PORT + port * 2;
        assert_eq!(self.inw(at) & 3, 3, "connected, and that is new");
        self.out(at, 0x0202);
        self.out(at, 0x000e);
        assert_eq!(self.inw(at) & 0xf, 5);
        assert!(self.write_control(0, [0, 5, address, 0, 0, 0, 0, 0], &[]));
        assert!(self.write_control(address, [0, 9, 1, 0, 0, 0, 0, 0], &[]));
    }
}

/// The writable bits by 82371SB, 2.4: command, base, interrupt line, and LEGSUP without its read-only and write-1-to-clear bits.
#[test]
fn configuration_space_has_the_hard_wired_bits_of_the_part() {
    let mut usb = Uhci::new((1, 2), &[], None, None);
    assert_eq!(
        bulkhead_bus::exercise::changeable(&mut usb, 0),
        [(0x04, 0x0007), (0x20, 0xffff_ffe0), (0x3c, 0xff), (0xc0, 0x20bf)]
    );
}

#[test]
fn power_on_configuration_space() {
    let usb = Uhci::new((1, 2), &[], None, None);
    let want = [
        (0x00u8, 0x7020_8086u32),
        (0x08, 0x0c03_0001),
        (0x20, 1),
        (0x2c, 0x1100_1af4),
        (0x3c, 0x0400),
        (0x60, 0x10),
        (0x68, 0x0001_0000),
        (0xc0, 0x2000),
    ];
    for at in (0..=0xfcu8).step_by(4) {
        let value = want.iter().find(|(a, _)| *a == at).map_or(0, |(_, v)| *v);
        assert_eq!(usb.config.read(at, 4), value, "register {at:#x}");
    }
}

#[test]
fn a_tablet_is_found_configured_and_reports_its_position() {
    let mut h = Host::new(&[UsbDevice::Tablet]);
    assert_eq!(h.inw(reg::PORT + 2) & 1, 0, "nothing in the second port");
    h.configure(0, 7);
    let device = h.read_control(7, [0x80, 6, 0, descriptor::DEVICE, 0, 0, 18, 0]).unwrap();
    assert_eq!((device.len(), device[0], &device[8..12]), (18, 18, &[0x27, 6, 1, 0][..]));
    let all = h.read_control(7, [0x80, 6, 0, descriptor::CONFIGURATION, 0, 0, 255, 0]).unwrap();
    assert_eq!((all.len(), all[2], all[4]), (34, 34, 1));
    let report = h.read_control(7, [0x81, 6, 0, descriptor::REPORT, 0, 0, all[25], all[26]]).unwrap();
    assert_eq!((report.len(), report[..4].to_vec()), (usize::from(all[25]), vec![5, 1, 9, 2]));
    assert_eq!(h.read_control(7, [0x80, 6, 2, descriptor::STRING, 9, 4, 255, 0]).unwrap()[2..6], *b"U\0S\0");
    assert_eq!(h.read_control(7, [0x80, 6, 0, 9, 0, 0, 8, 0]), None, "no such descriptor: a stall");
    assert!(!h.write_control(7, [0x21, 0x0b, 0, 0, 0, 0, 0, 0], &[]), "a tablet has no boot protocol");
    // Without input the endpoint answers NAK, and there is no interrupt.
    h.out(reg::STATUS, 0x1f);
    let quiet = h.queue(7, 1, &[(pid::IN, &[], 8)]);
    assert!(quiet[0].0.active() && quiet[0].0.nak() && !h.cx.lines.level(0));
    h.usb.ports[0].function.as_mut().unwrap().hid.input(InputEvent::At { x: 0x1234, y: 0x5678 });
    h.wait(8);
    let control = Control::from_bits(h.get(DESCRIPTORS + 4));
    assert_eq!((control.active(), control.actual()), (false, 5));
    let mut data = [0; 6];
    h.memory.read(u64::from(BUFFERS), &mut data).unwrap();
    assert_eq!(data, [0, 0x34, 0x12, 0x78, 0x56, 0]);
    assert!(h.cx.lines.level(0) && h.inw(reg::STATUS) & 1 == 1);
    h.out(reg::STATUS, 1);
    assert!(!h.cx.lines.level(0));
    // No device has another address.
    let nobody = h.queue(9, 1, &[(pid::IN, &[], 8)]);
    assert!(!nobody[0].0.active() && nobody[0].0.timeout() && h.inw(reg::STATUS) & 2 != 0);
}

#[test]
fn a_keyboards_lights_and_what_is_wanted_of_viewers() {
    let (taken, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let (input, keys) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let mut h = Host::new(&[UsbDevice::Tablet, UsbDevice::Keyboard]);
    (h.usb.taken, h.usb.input) = (Some(pipe), Some(input));
    h.configure(0, 1);
    h.configure(1, 2);
    let mut sent = [0; 16];
    let n = rustix::io::read(&taken, &mut sent).unwrap();
    assert_eq!(sent[..n].last(), Some(&(3 | 8)), "places and keys; no light shines");
    assert!(h.write_control(2, [0x21, 9, 0, 2, 0, 0, 1, 0], &[2]));
    assert_eq!(h.usb.ports[1].function.as_ref().unwrap().hid.leds, 2);
    rustix::io::write(&keys, &InputEvent::Key { code: 30, down: true }.to_bytes()).unwrap();
    h.usb.poll(Ready::Fd(INPUT), &mut h.cx);
    assert_eq!(h.queue(2, 1, &[(pid::IN, &[], 8)])[0].1, [0, 0, 4, 0, 0, 0, 0, 0]);
    h.out(reg::COMMAND, 0);
    let n = rustix::io::read(&taken, &mut sent).unwrap();
    assert_eq!(sent[..n], [75, 0], "Caps Lock; a controller that stands takes nothing");
    // A halted endpoint stalls until the halt is cleared.
    h.out(reg::COMMAND, 0x81);
    assert!(h.write_control(2, [2, 3, 0, 0, 0x81, 0, 0, 0], &[]));
    assert!(h.queue(2, 1, &[(pid::IN, &[], 8)])[0].0.stalled());
    assert!(h.write_control(2, [2, 1, 0, 0, 0x81, 0, 0, 0], &[]));
    assert!(h.queue(2, 1, &[(pid::IN, &[], 8)])[0].0.nak());
}

#[test]
fn frames_are_counted_while_it_runs_and_cost_no_time_while_it_stands() {
    let mut h = Host::new(&[]);
    h.wait(3);
    assert_eq!((h.inw(reg::FRAME_NUMBER), h.usb.frames), (3, 0), "counted, and done with the next batch");
    h.wait(2045);
    assert_eq!((h.inw(reg::FRAME_NUMBER), h.usb.frames), (0, 2048));
    h.out(reg::COMMAND, 0);
    assert_eq!((h.cx.timers.next(), h.inw(reg::STATUS) & 0x20), (None, 0x20));
    h.out(reg::FRAME_NUMBER, 77);
    h.wait(50);
    assert_eq!(h.inw(reg::FRAME_NUMBER), 77);
    // After a long pause of the process, only the latest frames are processed.
    h.out(reg::COMMAND, 1);
    h.now += 10_000 * FRAME;
    h.wait(1);
    assert!(h.usb.frames <= 2048 + LATEST);
    assert_eq!(u64::from(h.inw(reg::FRAME_NUMBER)), (77 + 10_001) & 0x7ff);
}

#[test]
fn a_global_reset_clears_the_registers_and_its_bit_stays() {
    let mut h = Host::new(&[]);
    h.wait(3);
    h.out(reg::INTERRUPTS, 0x0f);
    h.out(reg::COMMAND, 0x04);
    let registers = [reg::COMMAND, reg::STATUS, reg::INTERRUPTS, reg::FRAME_NUMBER, reg::FRAME_LIST];
    assert_eq!(registers.map(|r| h.inw(r)), [0x04, 0x20, 0, 0, 0], "UHCI 1.1, 2.1.1");
    h.out(reg::COMMAND, 0);
    assert_eq!(h.inw(reg::COMMAND), 0);
}

#[test]
fn endless_and_hostile_schedules_end() {
    // A queue that is its own neighbour, a descriptor that follows itself, one with data beyond all memory, an unknown packet.
    for (name, queue, element, td, halted) in [
        ("queues in a circle", QUEUE | 2, 1, [1, 0, 0, 0], 0x00),
        ("a queue within itself", 1, QUEUE | 2, [1, 0, 0, 0], 0x00),
        ("descriptors in a circle", 1, DESCRIPTORS, [DESCRIPTORS | 4, 0x0080_0000, 0xffe0_0069, 0], 0x00),
        ("data that is no RAM", 1, DESCRIPTORS, [1, 0x0080_0000, 0x00e0_002d, 0xffff_f000], 0x08),
        ("an unknown packet", 1, DESCRIPTORS, [1, 0x0080_0000, 0x00e0_0042, BUFFERS], 0x10),
        ("more than a packet has", 1, DESCRIPTORS, [1, 0x0080_0000, 0xe000_00e1, BUFFERS], 0x10),
        ("a queue that is no RAM", 0xffff_fff2, 1, [1, 0, 0, 0], 0x08),
    ] {
        let mut h = Host::new(&[UsbDevice::Tablet]);
        h.word(QUEUE, queue);
        h.word(QUEUE + 4, element);
        td.iter().enumerate().for_each(|(i, w)| h.word(DESCRIPTORS + i as u32 * 4, *w));
        h.wait(16);
        let status = h.inw(reg::STATUS);
        assert_eq!(status & 0x18, halted, "{name}");
        assert_eq!(status & 0x20 != 0, halted != 0, "{name}: halted");
    }
    // Isochronous descriptors in a circle.
    let mut h = Host::new(&[]);
    h.word(LIST, DESCRIPTORS);
    h.word(DESCRIPTORS, DESCRIPTORS);
    h.wait(16);
    assert_eq!(h.inw(reg::STATUS) & 0x38, 0);
}

/// A frame's work is bounded by number, however the guest nests queues and descriptors: the bounds of the two loops do not
/// multiply.
#[test]
fn a_frame_has_one_budget_of_structures_and_of_bytes() {
    use super::schedule::{BYTES, STRUCTURES};
    const QUEUES: u32 = 0x2_0000;
    const HERE: u32 = 0x4_0000;
    let setup = [0x80, 0, 0, 0, 0, 0, 2, 0];
    let active = Control::new().with_active(true).with_errors(3).into_bits();
    let token = |length: u16| {
        Token::new().with_pid(pid::SETUP).with_device(1).with_length(length.wrapping_sub(1) & 0x7ff).into_bits()
    };
    let descriptor = |h: &Host, at: u32, link: u32| {
        for (i, word) in [link, active, token(8), BUFFERS].into_iter().enumerate() {
            h.word(at + i as u32 * 4, word);
        }
    };
    let done = |h: &Host, at: u32| !Control::from_bits(h.get(at + 4)).active();
    let one_frame = |h: &mut Host| h.usb.frame(&*h.memory, &mut super::schedule::Outcome::default());
    let begin = || {
        let mut h = Host::new(&[UsbDevice::Keyboard]);
        h.configure(0, 1);
        h.memory.write(u64::from(BUFFERS), &setup).unwrap();
        h
    };
    // 64 queues of 64 packets that the device takes, eight bytes each.
    let mut h = begin();
    for queue in 0..64 {
        let last = queue == 63;
        h.word(QUEUES + queue * 16, if last { 1 } else { (QUEUES + (queue + 1) * 16) | 2 });
        h.word(QUEUES + queue * 16 + 4, HERE + queue * 1024);
        for td in 0..64 {
            let at = HERE + queue * 1024 + td * 16;
            descriptor(&h, at, if td == 63 { 1 } else { (at + 16) | 4 });
        }
    }
    h.word(QUEUE, QUEUES | 2);
    let count = |h: &Host| (0..64 * 64).filter(|i| done(h, HERE + i / 64 * 1024 + i % 64 * 16)).count();
    for frame in 1..=4 {
        one_frame(&mut h);
        assert_eq!(count(&h), frame * BYTES.div_ceil(8), "packets after {frame} frames");
    }
    // A packet behind empty queues: the queue of the frame list is the first structure, its own queue and it are the last two.
    for (empty, reached) in [(STRUCTURES - 3, true), (STRUCTURES - 2, false)] {
        let mut h = begin();
        for queue in 0..=empty as u32 {
            h.word(QUEUES + queue * 16, (QUEUES + (queue + 1) * 16) | 2);
            h.word(QUEUES + queue * 16 + 4, 1);
        }
        h.word(QUEUES + empty as u32 * 16, 1);
        h.word(QUEUES + empty as u32 * 16 + 4, HERE);
        descriptor(&h, HERE, 1);
        h.word(QUEUE, QUEUES | 2);
        one_frame(&mut h);
        assert_eq!(done(&h, HERE), reached, "behind {empty} queues");
    }
}

/// CVE-2020-14364 (XSA-335): the length of a control transfer was trusted, and could change during the transfer.
#[test]
fn out_of_bounds_control_transfer() {
    let mut h = Host::new(&[UsbDevice::Keyboard]);
    h.configure(0, 1);
    // A report of 64 KiB is announced; a second SETUP changes the length during the transfer.
    let long: &[u8] = &[0x21, 9, 0, 2, 0, 0, 0xff, 0xff];
    let data = [0x5a; 64];
    let mut all: Vec<(u8, &[u8], usize)> = vec![(pid::SETUP, long, 8)];
    all.extend(std::iter::repeat_n((pid::OUT, &data[..8], 8), 40));
    all.push((pid::SETUP, &[0x21, 9, 0, 2, 0, 0, 1, 0], 8));
    all.push((pid::OUT, &data[..8], 8));
    for one in all {
        h.queue(1, 0, &[one]);
    }
    // The other direction: the host reads more than the device has.
    for (setup, asks) in [([0x80, 6, 0, 2, 0, 0, 0xff, 0xff], 40), ([0xa1, 1, 0, 1, 0, 0, 0xff, 0xff], 20)] {
        h.queue(1, 0, &[(pid::SETUP, &setup, 8)]);
        let got: usize = (0..asks).map(|_| h.queue(1, 0, &[(pid::IN, &[], 8)])[0].1.len()).sum();
        assert!(got <= 64, "{got} bytes");
    }
    // A packet that exceeds the endpoint's size.
    h.queue(1, 0, &[(pid::SETUP, &[0x80; 40], 40)]);
    assert_eq!(h.read_control(1, [0x80, 6, 0, 1, 0, 0, 18, 0]).map(|d| d.len()), Some(18), "it still answers");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_accesses_and_any_memory_are_survived_and_the_state_comes_back(
        ops in prop::collection::vec((0u64..0x20, prop::sample::select(vec![1u8, 2, 4]), any::<u32>(), any::<bool>()), 0..60),
        noise in prop::collection::vec(any::<u32>(), 256),
    ) {
        let mut h = Host::new(&[UsbDevice::Tablet, UsbDevice::Keyboard]);
        for i in 0..0x2000u32 {
            // Words that are often links to each other.
            let w = noise[(i % 256) as usize];
            h.word(0x1000 + i * 4, if w & 1 == 0 { w } else { 0x1000 + (w >> 8 & 0x7fff) });
        }
        for (offset, size, value, write) in ops {
            let at = Access::new(0, offset, size);
            if write {
                let _ = h.usb.write(at, u64::from(value), &mut h.cx);
            } else {
                let _ = h.usb.read(at, &mut h.cx);
            }
            h.wait(u64::from(value & 7));
        }
        let saved = h.usb.save();
        let mut other = Host::new(&[UsbDevice::Tablet, UsbDevice::Keyboard]);
        other.usb.load(&saved, &mut other.cx).unwrap();
        prop_assert_eq!(&other.usb.save(), &saved);
        // The plugged-in devices are part of the state.
        let mut fewer = Host::new(&[UsbDevice::Tablet]);
        fewer.usb.load(&saved, &mut fewer.cx).unwrap();
        prop_assert_eq!(fewer.usb.save(), saved);
    }

    #[test]
    fn a_hostile_state_is_refused_or_harmless(state in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut h = Host::new(&[UsbDevice::Tablet]);
        let _ = h.usb.load(&state, &mut h.cx);
        h.wait(16);
    }
}

#[test]
fn devices_come_and_go_while_the_controller_runs_and_a_later_life_knows_them() {
    let mut h = Host::new(&[UsbDevice::Tablet]);
    let status = |h: &mut Host, port: u64| PortStatus::from_bits(h.inw(reg::PORT + port * 2));
    // The driver has cleared the connect change of power-on.
    h.out(reg::PORT, 2);
    assert!(status(&mut h, 0).connected() && !status(&mut h, 1).connected());
    h.usb.plug_usb("k", Some(UsbDevice::Keyboard), &mut h.cx).unwrap();
    let now = status(&mut h, 1);
    assert!(now.connected() && now.connect_change() && !now.enabled());
    assert!(h.usb.plug_usb("k", Some(UsbDevice::Mouse), &mut h.cx).unwrap_err().to_string().contains("already"));
    assert!(h.usb.plug_usb("m", Some(UsbDevice::Mouse), &mut h.cx).unwrap_err().to_string().contains("both ports"));
    assert!(
        h.usb.plug_usb("", None, &mut h.cx).unwrap_err().to_string().contains("no USB device"),
        "what was there from the start has no name"
    );
    // Reset and enabled by the driver.
    h.out(reg::PORT + 2, PortStatus::new().with_reset(true).into_bits());
    h.out(reg::PORT + 2, PortStatus::new().with_enabled(true).with_connect_change(true).into_bits());
    assert!(status(&mut h, 1).enabled());
    let descriptor = h.read_control(0, [0x80, 6, 0, 1, 0, 0, 18, 0]);
    assert_eq!(descriptor.map(|d| d.len()), Some(18));
    let state = h.usb.save();
    let mut next = Host::new(&[UsbDevice::Tablet]);
    next.usb.load(&state, &mut next.cx).unwrap();
    assert_eq!(next.usb.save(), state);
    next.usb.plug_usb("k", None, &mut next.cx).unwrap();
    let gone = status(&mut next, 1);
    assert!(!gone.connected() && gone.connect_change() && !gone.enabled() && gone.enable_change());
    assert!(next.usb.plug_usb("k", None, &mut next.cx).is_err());
    // A reset of the machine keeps plugged-in devices.
    h.usb.reset(Reset::Machine, &mut h.cx);
    assert!(status(&mut h, 1).connected());
}

/// Found by fuzzing: the frames before a stop were lost, and a process that took over counted those of the stop.
#[test]
fn frames_stand_still_while_the_machine_is_stopped() {
    let number = |h: &mut Host| h.inw(reg::FRAME_NUMBER);
    let later = |cx: &mut Context, ms: u64| {
        let now = cx.now();
        cx.clock = Clock::Driven(now + ms * 1_000_000);
    };
    let mut h = Host::new(&[UsbDevice::Tablet]);
    h.cx.clock = Clock::Driven(1 << 40);
    h.out(reg::COMMAND, 0);
    h.out(reg::COMMAND, 0x81);
    let first = number(&mut h);
    later(&mut h.cx, 5);
    h.usb.running(false, &mut h.cx);
    later(&mut h.cx, 100);
    assert_eq!(number(&mut h), first + 5);
    // A process that takes over: of the same machine, and of one that was saved now.
    let (page, paused) = (h.usb.checkpoint().unwrap(), h.usb.save());
    let begin = |state: &[u8], stopped: bool, cx: &Context| -> Host {
        let mut other = Host::new(&[UsbDevice::Tablet]);
        other.cx.clock = cx.clock;
        if stopped {
            other.usb.running(false, &mut other.cx);
        }
        other.usb.load(state, &mut other.cx).unwrap();
        if stopped {
            later(&mut other.cx, 1000);
        }
        other.usb.running(true, &mut other.cx);
        other
    };
    let mut all = [begin(&page, true, &h.cx), begin(&paused, true, &h.cx), begin(&page, false, &h.cx)];
    h.usb.running(true, &mut h.cx);
    all.iter_mut().chain([&mut h]).for_each(|h| {
        assert_eq!(number(h), first + 5);
        later(&mut h.cx, 2);
        assert_eq!(number(h), first + 7);
    });
}

/// Found with Linux, which suspends an empty bus and polls it no more.
#[test]
fn a_sleeping_bus_wakes_when_something_is_plugged_in_or_out() {
    let mut h = Host::new(&[]);
    for device in [Some(UsbDevice::Tablet), None] {
        h.out(reg::INTERRUPTS, Interrupts::new().with_resume(true).into_bits());
        h.out(reg::COMMAND, Command::new().with_configured(true).with_global_suspend(true).into_bits());
        assert!(!h.cx.lines.level(0));
        h.usb.plug_usb("t", device, &mut h.cx).unwrap();
        assert_eq!((h.cx.lines.level(0), Status::from_bits(h.inw(reg::STATUS)).resume()), (true, true));
        assert!(Command::from_bits(h.inw(reg::COMMAND)).global_resume());
        h.out(reg::COMMAND, Command::new().with_configured(true).into_bits());
        h.out(reg::STATUS, Status::new().with_resume(true).into_bits());
        assert!(!h.cx.lines.level(0));
    }
    // A bus that is not suspended does not resume.
    h.usb.plug_usb("t", Some(UsbDevice::Tablet), &mut h.cx).unwrap();
    assert!(!h.cx.lines.level(0) && !Status::from_bits(h.inw(reg::STATUS)).resume());
}

#[test]
fn state_that_is_reported_only_when_it_changes() {
    let mut h = Host::new(&[UsbDevice::Keyboard]);
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let ((input, viewers), (told, taken)) = (pipe(), pipe());
    (h.usb.input, h.usb.taken) = (Some(input), Some(taken));
    let told = || {
        let mut bytes = [0; 64];
        let n = rustix::io::read(&told, &mut bytes).unwrap_or(0);
        bytes[..n].last().copied()
    };
    h.configure(0, 1);
    assert_eq!(told(), Some(2 | 8));
    // Num, Caps and Scroll Lock, as each keyboard has them.
    for (usb, ps2) in [(1u8, 2u8), (2, 4), (4, 1), (7, 7), (0, 0), (3, 6)] {
        assert!(h.write_control(1, [0x21, 9, 0, 2, 0, 0, 1, 0], &[usb]));
        assert_eq!(told(), Some(2 | 8 | ps2 << 4), "{usb}");
    }
    h.wait(100);
    assert_eq!(told(), None);
    rustix::io::write(&viewers, &InputEvent::ViewersBegin.to_bytes()).unwrap();
    h.usb.poll(Ready::Fd(INPUT), &mut h.cx);
    assert_eq!(told(), Some(2 | 8 | 6 << 4), "another process shows the guest");
}

#[test]
fn a_devices_power_claims_match_its_status() {
    for kind in [UsbDevice::Tablet, UsbDevice::Mouse, UsbDevice::Keyboard] {
        let mut f = Function::new(kind);
        let mut ask = |setup: [u8; 8]| {
            f.transact(pid::SETUP, 0, &setup, 0);
            let mut all: Vec<u8> = Vec::new();
            while let function::Handshake::Ack(part) = f.transact(pid::IN, 0, &[], 64) {
                all.extend(&part);
                if part.len() < 8 {
                    break;
                }
            }
            f.transact(pid::OUT, 0, &[], 0);
            all
        };
        let configuration = ask([0x80, 6, 0, descriptor::CONFIGURATION, 0, 0, 9, 0]);
        let status = ask([0x80, 0, 0, 0, 0, 0, 2, 0]);
        // Self-powered: bit 6 of the attributes, bit 0 of the status; remote wake-up is off until it is set.
        assert_eq!(status, [configuration[7] >> 6 & 1, 0], "{kind:?}");
    }
}
