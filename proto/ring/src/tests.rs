//! The two ends together, and each against a peer that writes anything anywhere.
use crate::{BrokerEnd, DeviceEnd, Poison, SharedArea, Work};
use bulkhead_wire::{self as wire, Effects, Op, Posted, Reply, Request, RequestFlags, Shape, reply, request};
use proptest::prelude::*;

fn area(len: usize) -> (SharedArea, SharedArea) {
    let fd = SharedArea::create("t", len).unwrap();
    (SharedArea::map_writer(&fd, len).unwrap(), SharedArea::map_reader(&fd, len).unwrap())
}

fn shape() -> Shape {
    Shape::new(2).unwrap()
}

fn pair() -> (BrokerEnd, DeviceEnd) {
    let (request, request_reader) = area(shape().request_len());
    let (reply, reply_reader) = area(shape().reply_len());
    BrokerEnd::greet(&request);
    let device = DeviceEnd::new(request_reader, reply, shape());
    device.hello().unwrap();
    let broker = BrokerEnd::new(request, reply_reader, shape());
    broker.hello().unwrap();
    (broker, device)
}

fn ask(data: u64) -> Request {
    Request {
        op: Op::Write as u8,
        size: 4,
        step: 0,
        flags: RequestFlags::new(),
        region: 1,
        pad: 0,
        count: 1,
        posted: 0,
        offset: 8,
        data,
    }
}

fn answer(value: u64) -> Reply {
    Reply { value, effects: Effects::new(), mask: 0 }
}

#[test]
fn a_request_travels_there_and_its_reply_back_with_payloads() {
    let (mut broker, mut device) = pair();
    let _ = broker.send(0, ask(7), b"payload!");
    assert_eq!(broker.reply(0), Ok(None));
    assert_eq!(device.take(), Ok(Some(Work::Request(0, ask(7)))));
    assert_eq!(device.take(), Ok(None), "once");
    let mut bytes = [0; 8];
    assert!(device.payload(0, &mut bytes));
    assert_eq!(&bytes, b"payload!");
    let _ = device.reply(0, &answer(9), b"answer");
    assert_eq!(broker.reply(0), Ok(Some(answer(9))));
    assert!(broker.payload(0, &mut bytes[..6]));
    assert_eq!(&bytes[..6], b"answer");
}

#[test]
fn posted_writes_come_before_the_requests_behind_them_and_a_full_ring_says_so() {
    let (mut broker, mut device) = pair();
    let posted = |n: u64| Posted { offset: n, data: n, count: 1, region: 0, size: 1, step: 0 };
    for n in 0..wire::POSTED as u64 {
        assert_eq!(broker.post(&posted(n)), Ok(Some(n as u32 + 1)));
    }
    assert_eq!(broker.post(&posted(0)), Ok(None));
    let _ = broker.send(1, ask(1), &[]);
    for n in 0..wire::POSTED as u64 {
        assert_eq!(device.take(), Ok(Some(Work::Posted(posted(n)))));
        device.posted_done();
    }
    assert!(matches!(device.take(), Ok(Some(Work::Request(1, _)))));
    assert_eq!(broker.posted_outstanding(), Ok(0));
}

#[test]
fn a_posted_write_without_shape_poisons_the_channel() {
    let good = Posted { offset: 0, data: 0, count: 512, region: 0, size: 8, step: 0 };
    for bad in [
        Posted { count: 513, ..good },
        Posted { count: 0, ..good },
        Posted { size: 3, ..good },
        Posted { step: 9, ..good },
    ] {
        let (mut broker, mut device) = pair();
        broker.post(&good).unwrap();
        broker.post(&bad).unwrap();
        assert_eq!(device.take(), Ok(Some(Work::Posted(good))));
        device.posted_done();
        assert_eq!(device.take(), Err(Poison::Posted), "{bad:?}");
    }
}

#[test]
fn bells_are_rung_only_for_sleepers() {
    let (mut broker, mut device) = pair();
    assert!(!broker.send(0, ask(1), &[]));
    device.take().unwrap();
    let seen = device.bell();
    assert!(device.may_sleep(seen));
    assert!(!device.may_sleep(seen.wrapping_sub(1)), "something was published since");
    assert!(device.may_sleep(seen));
    let _ = device.reply(0, &answer(1), &[]);
    assert!(broker.send(0, ask(2), &[]), "it sleeps: ring");
}

#[test]
fn state_lines_shadows_and_configuration_are_published() {
    let (broker, device) = pair();
    assert_eq!(broker.state(), Ok(None));
    for text in [&b"first"[..], b"second, longer", b""] {
        assert!(device.set_state(text));
        assert_eq!(broker.state(), Ok(Some(text.to_vec())));
    }
    assert!(!device.set_state(&vec![0; wire::STATE]));
    device.set_line(3, true, 5);
    assert_eq!((broker.line(3).level, broker.line(3).edges, broker.line(99).edges), (true, 5, 0));
    device.set_shadow(2, Some(0xaabb));
    assert_eq!((broker.shadow(2), broker.shadow(1), broker.shadow(999)), (Some(0xaabb), None, None));
    let mut space = [0; 256];
    space[0x10..0x14].copy_from_slice(&[1, 2, 3, 4]);
    device.set_config(1, &space);
    assert_eq!(
        (broker.config(1, 0x10), broker.config(1, 0x12) & 0xffff, broker.config(99, 0)),
        (0x0403_0201, 0x0403, u32::MAX)
    );
}

#[test]
fn another_build_is_refused() {
    let (request, request_reader) = area(shape().request_len());
    let (reply, _) = area(shape().reply_len());
    let device = DeviceEnd::new(request_reader, reply, shape());
    assert_eq!(device.hello(), Err(Poison::Magic));
    request.store_u32(0, wire::MAGIC);
    request.store_u32(4, wire::PROTOCOL_VERSION + 1);
    assert_eq!(device.hello(), Err(Poison::Version));
}

/// Somewhere interesting: headers, counters, cells, or anywhere.
fn writes(len: usize, hot: Vec<usize>) -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let at = prop_oneof![3 => prop::sample::select(hot), 1 => 0..len];
    let bytes =
        prop_oneof![prop::collection::vec(any::<u8>(), 1..40), (0u32..4).prop_map(|n| n.to_le_bytes().to_vec())];
    prop::collection::vec((at, bytes), 0..12)
}

#[test]
fn seeds() {
    let seeds = |name: &str| {
        let dir = format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
        let read = |e: std::io::Result<std::fs::DirEntry>| std::fs::read(e.unwrap().path()).unwrap();
        std::fs::read_dir(dir).unwrap().map(read).collect::<Vec<_>>()
    };
    let (device, broker) = (seeds("hostile_device"), seeds("hostile_broker"));
    assert!(!device.is_empty() && !broker.is_empty());
    assert!(device.iter().all(|s| crate::exercise::hostile_device(s) == Ok(())));
    assert!(broker.iter().all(|s| crate::exercise::hostile_broker(s) == Ok(())));
}

proptest! {
    #[test]
    fn a_hostile_device_poisons_its_channel_at_worst(
        writes in writes(shape().reply_len(), vec![
            reply::BELL,
            reply::POSTED_TAIL,
            reply::STATE_HALF,
            reply::LINES_AT,
            reply::SHADOWS_AT,
            reply::STATE_AT,
            reply::CELLS,
            reply::CELLS + wire::CELL,
        ])
    ) {
        let (request, _) = area(shape().request_len());
        let (hostile, reader) = area(shape().reply_len());
        let mut broker = BrokerEnd::new(request, reader, shape());
        for (at, bytes) in writes {
            let _ = broker.send(0, ask(1), &[]);
            let _ = broker.post(&Posted { offset: 0, data: 0, count: 1, region: 0, size: 1, step: 0 });
            let _ = hostile.copy_in(at, &bytes);
            let _ = broker.hello();
            let _ = broker.reply(0);
            let _ = broker.reply(1);
            if let Ok(n) = broker.posted_outstanding() {
                prop_assert!(n as usize <= wire::POSTED);
            }
            if let Ok(Some(state)) = broker.state() {
                prop_assert!(state.len() <= wire::STATE);
            }
            for i in 0..20 {
                let _ = (broker.line(i), broker.shadow(i), broker.config(i, 0xff));
            }
            let _ = broker.may_sleep(broker.bell());
        }
    }

    #[test]
    fn a_hostile_broker_poisons_the_channel_at_worst(
        writes in writes(shape().request_len(), vec![
            request::BELL,
            request::POSTED_HEAD,
            request::POSTED_RING,
            request::CELLS,
            request::CELLS + 8,
            request::CELLS + wire::CELL,
        ])
    ) {
        let (hostile, reader) = area(shape().request_len());
        let (reply, _) = area(shape().reply_len());
        let mut device = DeviceEnd::new(reader, reply, shape());
        for (at, bytes) in writes {
            let _ = hostile.copy_in(at, &bytes);
            for _ in 0..600 {
                match device.take() {
                    Ok(Some(Work::Request(cell, what))) => {
                        prop_assert!(cell < 3 && what.count >= 1);
                        prop_assert!((what.count as usize) * usize::from(what.size) <= wire::PAYLOAD);
                        let _ = device.reply(cell, &answer(0), &[]);
                    }
                    Ok(Some(Work::Posted(what))) => {
                        prop_assert!(what.count >= 1 && (what.count as usize) * usize::from(what.size) <= wire::PAYLOAD);
                        device.posted_done();
                    }
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}
