//! A hostile peer that writes any bytes anywhere, driven by fuzz input: the body of the ring's fuzz targets and of its corpus test.
//! A channel returns valid work or poison, nothing else.
use crate::{AreaError, BrokerEnd, DeviceEnd, SharedArea, Work};
use bulkhead_wire::{self as wire, Effects, Op, Posted, Reply, Request, RequestFlags, Shape};

/// Most writes of one run.
const STEPS: usize = 500;

fn area(len: usize) -> Result<(SharedArea, SharedArea), AreaError> {
    let fd = SharedArea::create("exercise", len)?;
    Ok((SharedArea::map_writer(&fd, len)?, SharedArea::map_reader(&fd, len)?))
}

/// Offset and data of each write. The input has 3 bytes of offset, one of length, and the data.
fn writes(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&[a, b, c, n], tail) = rest.split_first_chunk::<4>()?;
        let (data, tail) = tail.split_at(tail.len().min(usize::from(n & 0x3f)));
        rest = tail;
        Some((u32::from_le_bytes([a, b, c, 0]) as usize, data))
    })
    .take(STEPS)
}

/// The broker's end against a hostile device.
///
/// # Errors
/// The invariant that does not hold.
pub fn hostile_device(bytes: &[u8]) -> Result<(), String> {
    let shape = Shape::new(2).ok_or("shape")?;
    let made = area(shape.request_len()).and_then(|r| Ok((r.0, area(shape.reply_len())?)));
    let (request, (hostile, reader)) = made.map_err(|e| e.to_string())?;
    let mut broker = BrokerEnd::new(request, reader, shape);
    let ask = Request {
        op: Op::Read as u8,
        size: 4,
        step: 0,
        flags: RequestFlags::new(),
        region: 1,
        pad: 0,
        count: 1,
        posted: 0,
        offset: 8,
        data: 0,
    };
    for (at, data) in writes(bytes) {
        let _ = broker.send(0, ask, &[]);
        let _ = broker.post(&Posted { offset: 0, data: 0, count: 1, region: 0, size: 1, step: 0 });
        let _ = hostile.copy_in(at.checked_rem(shape.reply_len()).unwrap_or(0), data);
        let _ = (broker.hello(), broker.reply(0), broker.reply(1));
        let _ = broker.payload(0, &mut [0; 64]);
        if broker.posted_outstanding().is_ok_and(|n| n as usize > wire::POSTED) {
            return Err("more posted writes than the ring holds".into());
        }
        if broker.state().is_ok_and(|s| s.is_some_and(|s| s.len() > wire::STATE)) {
            return Err("a state longer than its page".into());
        }
        for i in 0..20 {
            let _ = (broker.line(i), broker.shadow(i), broker.config(i, 0xff));
        }
        let _ = broker.may_sleep(broker.bell());
        broker.awake();
    }
    Ok(())
}

/// The device's end against a hostile broker.
///
/// # Errors
/// The invariant that does not hold.
pub fn hostile_broker(bytes: &[u8]) -> Result<(), String> {
    let shape = Shape::new(2).ok_or("shape")?;
    let made = area(shape.request_len()).and_then(|r| Ok((r, area(shape.reply_len())?.0)));
    let ((hostile, reader), reply) = made.map_err(|e| e.to_string())?;
    let mut device = DeviceEnd::new(reader, reply, shape);
    for (at, data) in writes(bytes) {
        let _ = hostile.copy_in(at.checked_rem(shape.request_len()).unwrap_or(0), data);
        for _ in 0..600 {
            match device.take() {
                Ok(Some(Work::Request(cell, what))) => {
                    let len = (what.count as usize).saturating_mul(usize::from(what.size));
                    if cell >= shape.cells || what.count == 0 || len > wire::PAYLOAD || Op::from_u8(what.op).is_none() {
                        return Err(format!("cell {cell}: {what:?}"));
                    }
                    let _ = device.payload(cell, &mut vec![0; len]);
                    let _ = device.reply(cell, &Reply { value: 0, effects: Effects::new(), mask: 0 }, &[]);
                }
                Ok(Some(Work::Posted(what))) => {
                    if (what.count as usize).saturating_mul(usize::from(what.size)) > wire::PAYLOAD {
                        return Err(format!("{what:?}"));
                    }
                    device.posted_done();
                }
                Ok(None) | Err(_) => break,
            }
        }
    }
    Ok(())
}
