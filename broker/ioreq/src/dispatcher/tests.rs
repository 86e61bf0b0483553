//! The dispatcher with devices and a hypervisor that the tests play.
mod edge;
mod stop;

use super::*;
use crate::channel::LINE_LIMIT;
use crate::presence::Presence;
use bulkhead_bus::Declaration;
use bulkhead_bus::fake::FakeMemory;
use bulkhead_bus::pci::{BarKind, Decode, FunctionSpec};
use bulkhead_bus::{Line, Permissions, Region};
use bulkhead_ring::{DeviceEnd, SharedArea, Work};
use bulkhead_wire::{self as wire, Reply};
use bulkhead_xen_abi::ioreq::{BufferedIoreq, Ioreq, IoreqBits};
use edge::FakeEdge;
use proptest::prelude::*;

fn declaration(port: u16, posted: bool) -> Declaration {
    let memory = Region::memory("memory", u64::from(port) << 16, 0x1000);
    Declaration {
        regions: vec![
            Region::ports("ports", port, 16).shadow(7, 1, 0),
            if posted { memory.posted() } else { memory },
            Region::bar("bar", 0, 0),
        ],
        functions: vec![FunctionSpec::new((port & 31) as u8, 0).with_bar(0, BarKind::Io, 16).with_bar(
            1,
            BarKind::Ram,
            1 << 20,
        )],
        lines: vec![Line::Isa(5), Line::Intx { function: 0, pin: 1 }],
        permissions: Permissions { reboot: true, ..Permissions::default() },
        dma: true,
        ..Declaration::default()
    }
}

pub(crate) struct Bench {
    pub(crate) dispatcher: Dispatcher<FakeEdge>,
    devices: Vec<DeviceEnd>,
    shape: Shape,
    memory: Arc<FakeMemory>,
}

fn areas(len: usize) -> (SharedArea, SharedArea) {
    let fd = SharedArea::create("t", len).unwrap();
    (SharedArea::map_writer(&fd, len).unwrap(), SharedArea::map_reader(&fd, len).unwrap())
}

impl Bench {
    /// Two devices, at ports 0x100 (slot 2) and 0x200 (slot 3, with posted memory), and `vcpus` vCPUs.
    pub(crate) fn new(vcpus: u16) -> Self {
        let shape = Shape::new(usize::from(vcpus)).unwrap();
        let memory = FakeMemory::new(1 << 16);
        let devices = [(2, 0x101, false), (3, 0x202, true)].map(|(slot, port, posted)| ServedDevice {
            added: false,
            slot,
            name: format!("d{slot}"),
            declaration: declaration(port, posted),
            rom: None,
            video_ram: (slot == 3).then_some((0x5000, 256)),
        });
        let dispatcher =
            Dispatcher::new(FakeEdge::new(usize::from(vcpus)), vcpus, shape, memory.clone(), devices.into());
        let mut bench = Self { dispatcher, devices: vec![], shape, memory };
        for slot in [2, 3] {
            let device = bench.connect(slot);
            bench.devices.push(device);
        }
        bench
    }

    fn connect(&mut self, slot: u8) -> DeviceEnd {
        let (request, request_reader) = areas(self.shape.request_len());
        let (reply, reply_reader) = areas(self.shape.reply_len());
        BrokerEnd::greet(&request);
        let device = DeviceEnd::new(request_reader, reply, self.shape);
        device.hello().unwrap();
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        self.dispatcher.online(slot, BrokerEnd::new(request, reply_reader, self.shape), bell);
        device
    }

    fn offer(&mut self, vcpu: usize, kind: u8, addr: u64, size: u32, data: u64, bits: IoreqBits, count: u32) {
        self.dispatcher.edge.offered[vcpu] =
            Some(Ioreq { addr, data, count, size, vp_eport: 1, pad0: 0, bits: bits.with_state(1), kind });
        while self.dispatcher.step() {}
    }

    fn read(&mut self, vcpu: usize, port: u64) {
        self.offer(vcpu, 0, port, 1, 0, IoreqBits::new().with_read(true), 1);
    }

    /// Lets the device answer its requests.
    fn answer(&mut self, device: usize, value: u64) -> usize {
        let mut n = 0;
        while let Some(work) = self.devices[device].take().unwrap() {
            match work {
                Work::Request(cell, what) => {
                    let payload = if what.count > 1 {
                        vec![value as u8; (what.count * u32::from(what.size)) as usize]
                    } else {
                        vec![]
                    };
                    let reply = Reply { value, effects: wire::Effects::new(), mask: 0 };
                    let _ = self.devices[device].reply(cell, &reply, &payload);
                }
                Work::Posted(_) => self.devices[device].posted_done(),
            }
            n += 1;
        }
        while self.dispatcher.step() {}
        n
    }

    fn answers(&mut self) -> Vec<(usize, Option<u64>)> {
        std::mem::take(&mut self.dispatcher.edge.answers)
    }
}

#[test]
fn a_read_hops_to_its_device_and_without_a_device_returns_ones() {
    let mut b = Bench::new(1);
    b.read(0, 0x103);
    assert_eq!(b.answers(), []);
    b.answer(0, 0x1_0055);
    assert_eq!(b.answers(), [(0, Some(0x55))], "cut to its size");
    b.read(0, 0x50);
    b.read(0, 0x111);
    b.offer(0, 0, 0x10f, 4, 0, IoreqBits::new().with_read(true), 1);
    assert_eq!(b.answers(), [(0, Some(0xff)), (0, Some(0xff)), (0, Some(0xffff_ffff))], "also across a region's end");
}

#[test]
fn malformed_requests_are_answered_not_believed() {
    let mut b = Bench::new(1);
    for (kind, addr, size, count) in [
        (0, 0x101, 3, 1),
        (0, 0x101, 8, 1),
        (0, 0x101, 0, 1),
        (0, 0x101, 1, 0),
        (0, 0xffff, 2, 1),
        (0, u64::MAX, 1, 1),
        (1, u64::MAX, 8, 2),
        (1, 0x0101_0000, 4, u32::MAX),
        (9, 0, 1, 1),
    ] {
        b.offer(0, kind, addr, size, 0, IoreqBits::new().with_read(true), count);
        assert_eq!(b.answers().len(), 1, "{kind} {addr:#x} {size} {count}");
    }
}

#[test]
fn a_shadow_is_used_only_while_it_is_valid_and_no_posted_write_is_outstanding() {
    let mut b = Bench::new(1);
    b.read(0, 0x209);
    assert_eq!(b.answer(1, 1), 1, "not published: asked");
    b.devices[1].set_shadow(0, Some(0x42));
    b.read(0, 0x209);
    assert_eq!(b.answers(), [(0, Some(1)), (0, Some(0x42))]);
    b.offer(0, 1, 0x202_0000, 4, 7, IoreqBits::new(), 1);
    assert_eq!(b.answers(), [(0, None)], "a posted write is answered at once");
    b.read(0, 0x209);
    assert_eq!(b.answers(), []);
    assert_eq!(b.answer(1, 3), 2, "the posted write, then the read");
    assert_eq!(b.answers(), [(0, Some(3))]);
}

/// A device that keeps a line moving kept the broker from its ticks, its deadlines and the launcher.
#[test]
fn a_device_that_keeps_a_line_moving_does_not_keep_the_broker() {
    let mut b = Bench::new(1);
    let mut level = false;
    let mut move_line = |b: &mut Bench| {
        level = !level;
        b.devices[0].set_line(0, level, 0);
        let _ = b.devices[0].publish();
    };
    // Up to the limit between two rests or ticks, any number over all.
    for round in 0..4 {
        for _ in 0..LINE_LIMIT {
            move_line(&mut b);
            b.dispatcher.step();
        }
        if round % 2 == 0 { b.dispatcher.rests() } else { b.dispatcher.tick() }
    }
    assert_eq!(b.dispatcher.take_actions(), []);
    for _ in 0..=LINE_LIMIT {
        move_line(&mut b);
        b.dispatcher.step();
    }
    assert_eq!(b.dispatcher.take_actions(), [Action::Dead(2, Death::Protocol)]);
    // The other one is served as before. What moves with its answers is the guest's doing.
    for round in 0..=LINE_LIMIT {
        b.read(0, 0x203);
        b.devices[1].set_line(0, round % 2 == 0, 0);
        b.answer(1, 9);
    }
    assert_eq!(b.dispatcher.take_actions(), []);
    b.answers();
    b.read(0, 0x203);
    assert_eq!(b.answer(1, 9), 1);
    assert_eq!(b.answers(), [(0, Some(9))]);
}

/// A guest whose accesses are answered at once by shadows, again and again.
#[test]
fn work_without_an_end_is_done_in_pieces() {
    let mut b = Bench::new(1);
    b.devices[0].set_shadow(0, Some(0x50));
    let read = Ioreq {
        addr: 0x108,
        data: 0,
        count: 1,
        size: 1,
        vp_eport: 1,
        pad0: 0,
        bits: IoreqBits::new().with_read(true).with_state(1),
        kind: 0,
    };
    b.dispatcher.edge.again = Some(read);
    assert!(!b.dispatcher.work(), "there is more");
    assert_eq!(b.answers().len(), STEPS as usize);
    b.dispatcher.edge.again = None;
    assert!(b.dispatcher.work());
}

#[test]
fn an_interrupt_is_raised_before_a_shadow_shows_its_cause() {
    let mut b = Bench::new(1);
    b.devices[0].set_line(0, true, 0);
    b.devices[0].set_shadow(0, Some(0x50));
    b.dispatcher.edge.calls.clear();
    b.read(0, 0x108);
    assert_eq!(b.answers(), [(0, Some(0x50))]);
    assert_eq!(b.dispatcher.edge.calls, ["isa 5 true"]);
}

#[test]
fn buffered_writes_come_before_the_request_that_follows_them() {
    let mut b = Bench::new(1);
    for i in 0..600u64 {
        b.dispatcher.edge.buffered.push_back((BufferedIoreq::new().with_kind(1).with_size(0).with_addr(0), i));
    }
    while b.dispatcher.step() {}
    assert!(b.dispatcher.edge.buffered.is_empty(), "what nobody has claimed is dropped");
    // Below 1 MiB only: give the second device such a region.
    let mut b = Bench::new(1);
    assert!(b.dispatcher.addresses.add(0xa0000, 0x20000, Target::Region { channel: 1, region: 1 }));
    for i in 0..600u64 {
        b.dispatcher.edge.buffered.push_back((BufferedIoreq::new().with_kind(1).with_addr(0xa0000 + i as u32), i));
    }
    b.read(0, 0x203);
    let mut seen = Vec::new();
    let mut reads = 0;
    for _ in 0..5 {
        while let Some(work) = b.devices[1].take().unwrap() {
            match work {
                Work::Posted(p) => {
                    seen.push(p.data);
                    b.devices[1].posted_done();
                }
                Work::Request(cell, _) => {
                    assert_eq!(seen.len(), 600, "the read came too early");
                    reads += 1;
                    let _ = b.devices[1].reply(cell, &Reply { value: 0, effects: wire::Effects::new(), mask: 0 }, &[]);
                }
            }
        }
        while b.dispatcher.step() {}
    }
    assert_eq!((seen, reads), ((0..600).collect(), 1));
}

#[test]
fn string_operations_are_one_request_in_both_directions_and_orders() {
    let mut b = Bench::new(1);
    let pointer = IoreqBits::new().with_data_is_ptr(true);
    b.offer(0, 0, 0x101, 2, 0x1000, pointer.with_read(true), 256);
    assert_eq!(b.answer(0, 0xab), 1);
    let mut bytes = [0; 513];
    b.memory.read(0x1000, &mut bytes).unwrap();
    assert!(bytes[..512].iter().all(|x| *x == 0xab) && bytes[512] == 0);
    b.memory.write(0x2000, &[1, 0, 2, 0, 3, 0]).unwrap();
    b.offer(0, 0, 0x101, 2, 0x2004, pointer.with_df(true), 3);
    let Some(Work::Request(cell, what)) = b.devices[0].take().unwrap() else { panic!() };
    let mut payload = [0; 6];
    assert!(b.devices[0].payload(cell, &mut payload));
    assert_eq!(
        (what.count, what.flags.payload(), payload),
        (3, true, [3, 0, 2, 0, 1, 0]),
        "in the order of the accesses"
    );
}

#[test]
fn lines_follow_the_device_before_xen_hears_the_answer() {
    let mut b = Bench::new(1);
    b.read(0, 0x101);
    b.dispatcher.edge.calls.clear();
    b.devices[0].set_line(0, true, 0);
    b.devices[0].set_line(1, false, 1);
    b.answer(0, 0);
    assert_eq!(b.dispatcher.edge.calls, ["isa 5 true", "intx 1 1 true", "intx 1 1 false"]);
    b.dispatcher.edge.calls.clear();
    b.dispatcher.offline(2);
    assert_eq!(b.dispatcher.edge.calls, ["isa 5 false"], "a dead device's lines go down");
}

#[test]
fn bars_are_claimed_while_decoded_and_video_ram_moves_once() {
    let mut b = Bench::new(1);
    let bdf = u64::from(0x202u16 & 31) << 3 << 32;
    let config = |b: &mut Bench, register: u64, data| {
        b.offer(0, 2, bdf | register, 4, data, IoreqBits::new(), 1);
        b.answer(1, 0);
    };
    b.dispatcher.edge.calls.clear();
    config(&mut b, 0x10, 0xc000);
    config(&mut b, 0x14, 0xf000_0000);
    config(&mut b, 4, 3);
    config(&mut b, 4, 0);
    config(&mut b, 4, 3);
    let calls: Vec<_> = b.dispatcher.edge.calls.iter().map(String::as_str).collect();
    assert_eq!(
        calls,
        [
            "claim Ports(49152, 49167)",
            "relocate 0x5000 0xf0000 256",
            "unclaim Ports(49152, 49167)",
            "claim Ports(49152, 49167)"
        ]
    );
    assert_eq!(b.dispatcher.take_actions(), [Action::VideoRamAt(0xf0000)]);
}

#[test]
fn an_effect_that_a_device_may_not_ask_for_kills_it() {
    let mut b = Bench::new(1);
    b.read(0, 0x101);
    let Some(Work::Request(cell, _)) = b.devices[0].take().unwrap() else { panic!() };
    let effects = wire::Effects::new().with_power_off(true);
    let _ = b.devices[0].reply(cell, &Reply { value: 0, effects, mask: 0 }, &[]);
    while b.dispatcher.step() {}
    assert_eq!(b.answers().len(), 1);
    assert_eq!(b.dispatcher.take_actions(), [Action::Dead(2, Death::Protocol)]);
    assert!(!b.dispatcher.edge.calls.iter().any(|c| c.starts_with("shutdown")));
}

#[test]
fn a_device_that_does_not_answer_is_given_up_after_fifty_ticks_and_only_it() {
    let mut b = Bench::new(2);
    b.read(0, 0x101);
    for _ in 0..TICKS_KILL {
        assert!(b.dispatcher.outstanding());
        b.dispatcher.tick();
        b.read(1, 0x202);
        b.answer(1, 9);
        assert_eq!(b.answers(), [(1, Some(9))], "the other vCPU goes on");
    }
    b.dispatcher.tick();
    assert_eq!(b.answers(), [(0, Some(0xff))]);
    assert_eq!(b.dispatcher.take_actions(), [Action::Dead(2, Death::Deadline)]);
    assert!(!b.dispatcher.outstanding());
}

#[test]
fn invalidate_waits_for_every_device_that_maps_memory() {
    let mut b = Bench::new(1);
    b.offer(0, 8, 0, 4, 0, IoreqBits::new(), 1);
    b.answer(0, 0);
    assert_eq!(b.answers(), []);
    b.answer(1, 0);
    assert_eq!(b.answers(), [(0, None)]);
    b.dispatcher.offline(2);
    b.dispatcher.offline(3);
    b.offer(0, 8, 0, 4, 0, IoreqBits::new(), 1);
    assert_eq!(b.answers(), [(0, None)]);
}

#[test]
fn a_device_that_rings_without_end_is_given_up() {
    // One that rings now and then is not: a tick follows, and forgets it.
    let mut b = Bench::new(1);
    for _ in 0..30_000 {
        let _ = b.devices[0].publish();
        b.dispatcher.step();
        if b.dispatcher.outstanding() {
            b.dispatcher.tick();
        }
    }
    assert_eq!(b.dispatcher.take_actions(), []);
    let mut b = Bench::new(1);
    for _ in 0..30_000 {
        let _ = b.devices[0].publish();
        b.dispatcher.step();
    }
    assert_eq!(b.dispatcher.take_actions(), [Action::Dead(2, Death::Protocol)]);
}

#[derive(Clone, Debug)]
enum Event {
    Request(usize, u8, u64, u32, u64, u8, u32),
    Answer(usize, u64),
    Line(usize, usize, bool, u32),
    Lie(usize),
    Die(u8),
    Return(u8),
    Tick,
}

fn event() -> impl Strategy<Value = Event> {
    let address = prop_oneof![
        prop::sample::select(vec![
            0x101u64,
            0x108,
            0x202,
            0x209,
            0x0101_0000,
            0x0202_0010,
            0xcf8,
            0xcfb,
            0x0008_0000_0010,
            0x0010_0000_0004
        ]),
        any::<u64>()
    ];
    let size = prop::sample::select(vec![1u32, 2, 4, 8, 3]);
    let count = prop::sample::select(vec![1u32, 2, 16, 4096]);
    prop_oneof![
        6 => (0usize..3, 0u8..10, address, size, any::<u64>(), any::<u8>(), count)
            .prop_map(|(v, k, a, s, d, b, c)| Event::Request(v, k, a, s, d, b, c)),
        5 => (0usize..2, any::<u64>()).prop_map(|(d, v)| Event::Answer(d, v)),
        1 => (0usize..2, 0usize..3, any::<bool>(), any::<u32>()).prop_map(|(d, l, s, e)| Event::Line(d, l, s, e)),
        1 => (0usize..2).prop_map(Event::Lie),
        1 => (2u8..4).prop_map(Event::Die),
        1 => (2u8..4).prop_map(Event::Return),
        1 => Just(Event::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// With any actions of guest and devices, every taken request is answered exactly once: the fake edge panics where Xen would
    /// crash the domain.
    #[test]
    fn every_request_is_answered_exactly_once(events in prop::collection::vec(event(), 1..120)) {
        let mut b = Bench::new(3);
        let mut asked = 0;
        for event in events {
            match event {
                Event::Request(vcpu, kind, addr, size, data, bits, count) => {
                    if b.dispatcher.edge.taken[vcpu].is_none() && b.dispatcher.edge.offered[vcpu].is_none() {
                        asked += 1;
                        b.offer(vcpu, kind, addr, size, data, IoreqBits::from_bits(bits), count);
                    }
                }
                Event::Answer(device, value) => { b.answer(device, value); }
                Event::Line(device, line, level, edges) => b.devices[device].set_line(line, level, edges),
                Event::Lie(device) => {
                    // An unrequested answer, with the numbering of an earlier process.
                    let reply = Reply { value: 1, effects: wire::Effects::from_bits(u32::MAX), mask: 7 };
                    let _ = b.devices[device].reply(1, &reply, &[]);
                    while b.dispatcher.step() {}
                }
                Event::Die(slot) => b.dispatcher.offline(slot),
                Event::Return(slot) => {
                    b.dispatcher.offline(slot);
                    b.devices[usize::from(slot) - 2] = b.connect(slot);
                }
                Event::Tick => b.dispatcher.tick(),
            }
        }
        for slot in [2, 3] {
            b.dispatcher.offline(slot);
        }
        while b.dispatcher.step() {}
        prop_assert_eq!(b.dispatcher.edge.answers.len(), asked);
        prop_assert!(b.dispatcher.edge.taken.iter().all(Option::is_none));
    }
}

#[test]
fn writes_to_a_region_that_is_kept_wait_for_the_next_process() {
    let mut b = Bench::new(1);
    b.dispatcher.channels[0].declaration.regions[0].kept = true;
    let write = IoreqBits::new();
    // A write is in flight when the process dies.
    b.offer(0, 0, 0x101, 1, 0x11, write, 1);
    b.dispatcher.offline(2);
    b.offer(0, 0, 0x102, 1, 0x22, write, 1);
    b.read(0, 0x103);
    b.offer(0, 1, 0x101_0000, 1, 0x33, write, 1);
    assert_eq!(b.answers().len(), 4, "nobody waits for it");
    let mut device = b.connect(2);
    let mut seen = Vec::new();
    while let Some(Work::Posted(what)) = device.take().unwrap() {
        seen.push((what.region, what.offset, what.data));
        device.posted_done();
    }
    assert_eq!(seen, [(bulkhead_wire::LOST_WRITES, 0, 1), (0, 0, 0x11), (0, 1, 0x22)], "what is not kept is told");
    // Unhandled posted writes are repeated too.
    b.dispatcher.channels[0].declaration.regions[0].posted_at = vec![3];
    b.offer(0, 0, 0x104, 1, 0x44, write, 1);
    assert_eq!(b.answers().len(), 1, "nobody waits for it");
    b.dispatcher.offline(2);
    b.offer(0, 0, 0x104, 1, 0x55, write, 1);
    let mut device = b.connect(2);
    let posted: Vec<_> = std::iter::from_fn(|| {
        let work = device.take().unwrap();
        device.posted_done();
        work
    })
    .map(|w| if let Work::Posted(p) = w { p.data } else { 0 })
    .collect();
    assert_eq!(posted, [0x44, 0x55]);
    b.answers();
    // Beyond the limit they are lost, and the device is told.
    b.dispatcher.offline(2);
    for i in 0..300 {
        b.offer(0, 0, 0x101, 1, i & 0xff, write, 1);
    }
    let mut device = b.connect(2);
    let regions: Vec<_> = std::iter::from_fn(|| {
        let work = device.take().unwrap();
        device.posted_done();
        work
    })
    .map(|w| if let Work::Posted(p) = w { (p.region, p.offset) } else { (0, 9) })
    .collect();
    assert_eq!((regions[0], regions.len()), ((bulkhead_wire::LOST_WRITES, 0), 1 + 300 - 256));
    assert!(regions[1..].iter().all(|place| *place == (0, 0)));
}

#[test]
fn a_wholly_unplugged_device_is_off_the_bus_before_the_guest_is_notified() {
    let mut b = Bench::new(1);
    for (i, channel) in b.dispatcher.channels.iter_mut().enumerate() {
        channel.declaration.permissions.unplug = i == 1;
        (channel.declaration.unplug, channel.declaration.unplug_removes) = if i == 0 { (2, true) } else { (0, false) };
    }
    // Its BAR is decoded at 0x400.
    let bdf = 1u64 << 35;
    b.dispatcher.decode(0, 0, Decode { bars: [Some(0x400), None, None, None, None, None], ..Decode::default() });
    b.dispatcher.edge.calls.clear();
    b.offer(0, 0, 0x202, 1, 0, IoreqBits::new(), 1);
    let Some(Work::Request(cell, _)) = b.devices[1].take().unwrap() else { panic!() };
    let _ =
        b.devices[1].reply(cell, &Reply { value: 0, effects: wire::Effects::new().with_unplug(true), mask: 3 }, &[]);
    while b.dispatcher.step() {}
    assert_eq!((b.answers(), b.dispatcher.take_actions()), (vec![], vec![]), "the device has not let go yet");
    let Some(Work::Request(cell, what)) = b.devices[0].take().unwrap() else { panic!() };
    assert_eq!((what.op, what.data), (Op::Unplug as u8, 3));
    let _ = b.devices[0].reply(cell, &Reply { value: 0, effects: wire::Effects::new(), mask: 0 }, &[]);
    while b.dispatcher.step() {}
    assert_eq!(
        (b.answers().len(), b.dispatcher.take_actions()),
        (1, vec![Action::Unplugged(2)]),
        "nothing of the other device was meant"
    );
    assert_eq!(b.dispatcher.edge.calls, ["unclaim Ports(1024, 1039)"]);
    b.offer(0, 2, bdf, 4, 0, IoreqBits::new().with_read(true), 1);
    b.read(0, 0x402);
    assert_eq!(b.answers(), [(0, Some(0xffff_ffff)), (0, Some(0xff))]);
    // The second time has no effect.
    b.offer(0, 0, 0x202, 1, 0, IoreqBits::new(), 1);
    let Some(Work::Request(cell, _)) = b.devices[1].take().unwrap() else { panic!() };
    let _ =
        b.devices[1].reply(cell, &Reply { value: 0, effects: wire::Effects::new().with_unplug(true), mask: 3 }, &[]);
    while b.dispatcher.step() {}
    assert_eq!(b.dispatcher.take_actions(), []);
}

#[test]
fn a_device_that_may_be_added_is_there_from_its_process_until_the_guest_ejects_it() {
    let mut b = Bench::new(1);
    b.dispatcher.channels[1].declaration.permissions.eject = true;
    let config = |b: &mut Bench| b.offer(0, 2, 1 << 35, 4, 0, IoreqBits::new().with_read(true), 1);
    let eject = |b: &mut Bench, mask| {
        b.offer(0, 0, 0x202, 1, 0, IoreqBits::new(), 1);
        let Some(Work::Request(cell, _)) = b.devices[1].take().unwrap() else { panic!() };
        let _ =
            b.devices[1].reply(cell, &Reply { value: 0, effects: wire::Effects::new().with_eject(true), mask }, &[]);
        while b.dispatcher.step() {}
    };
    // The guest cannot eject devices that were present at the start.
    eject(&mut b, 0xffff_ffff);
    assert_eq!((b.answers().len(), b.dispatcher.take_actions()), (1, vec![]));
    // It has not been added yet: accesses are not answered by it.
    b.dispatcher.offline(2);
    b.dispatcher.channels[0].presence = Presence::Absent;
    b.dispatcher.edge.calls.clear();
    config(&mut b);
    assert_eq!(b.answers(), [(0, Some(0xffff_ffff))]);
    b.devices[0] = b.connect(2);
    assert_eq!(b.dispatcher.edge.calls, ["claim Pci(8)"]);
    b.dispatcher.edge.calls.clear();
    b.dispatcher.config_written(0, 8, 0x10, 4, 0x401);
    b.dispatcher.config_written(0, 8, 4, 2, 1);
    // It stays present during a restart of its process.
    b.dispatcher.offline(2);
    b.devices[0] = b.connect(2);
    b.read(0, 0x402);
    assert_eq!(b.answer(0, 7), 1);
    assert_eq!(b.answers(), [(0, Some(7))]);
    b.dispatcher.edge.calls.clear();
    eject(&mut b, 1 << 2);
    assert_eq!(b.dispatcher.take_actions(), [], "another device");
    eject(&mut b, 1 << 1);
    assert_eq!((b.answers().len(), b.dispatcher.take_actions()), (2, vec![Action::Ejected(2)]));
    assert_eq!(b.dispatcher.edge.calls, ["unclaim Ports(1024, 1039)", "unclaim Pci(8)"]);
    config(&mut b);
    b.read(0, 0x402);
    assert_eq!(b.answers(), [(0, Some(0xffff_ffff)), (0, Some(0xff))]);
    // It is added again, with registers in their power-on state.
    b.devices[0] = b.connect(2);
    b.dispatcher.config_written(0, 8, 4, 2, 1);
    b.read(0, 0x402);
    assert_eq!(b.answers(), [(0, Some(0xff))]);
    // A device that ejects without permission is given up.
    b.dispatcher.channels[1].declaration.permissions.eject = false;
    eject(&mut b, 1 << 1);
    assert_eq!(b.dispatcher.take_actions(), [Action::Dead(3, Death::Protocol)]);
}

/// Xen has a memory of its own of a saved machine's lines. Where it says another level than the device the guest waits for ever, or is
/// interrupted for ever.
#[test]
fn a_restored_machines_lines_are_said_whatever_xen_knows() {
    let mut b = Bench::new(1);
    b.dispatcher.restored = true;
    b.dispatcher.offline(2);
    b.dispatcher.edge.calls.clear();
    b.connect(2);
    assert_eq!(b.dispatcher.edge.calls, ["isa 5 false", "intx 1 1 false"]);
    // Others raise ACPI's interrupt too.
    b.dispatcher.offline(2);
    b.dispatcher.channels[0].declaration.lines = vec![Line::Isa(9)];
    b.dispatcher.edge.calls.clear();
    b.connect(2);
    assert_eq!(b.dispatcher.edge.calls, [""; 0]);
}
