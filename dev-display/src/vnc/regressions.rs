//! Faults that servers of viewers in other device models have had, by class.
use super::tests::{Bench, request};
use super::*;
use std::io::Write as _;

/// CVE-2014-7815: bits of a pixel that cannot be were believed. CVE-2022-3165, CVE-2015-5225: lengths that underflow, sizes while an update is sent.
#[test]
fn underflow_and_overflow_of_what_a_viewer_says() {
    for format in [[0, 24], [1, 24], [8, 32], [24, 24], [64, 24], [255, 255], [32, 0]] {
        let mut b = Bench::new(Password::None);
        let mut client = b.viewer(&[0, 5, 16]);
        let mut said = vec![0, 0, 0, 0, format[0], format[1], 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        said.extend(request(false));
        let _ = client.write_all(&said);
        b.wait(FAST);
        b.heard(&mut client);
        let mut other = b.viewer(&[0]);
        b.say(&mut other, &request(false));
        b.wait(FAST);
        assert!(b.heard(&mut other).len() > 200 * 100 * 4, "{format:?}: the next viewer is served");
    }
    for length in [u32::MAX, 1 << 31, (1 << 31) | 3, 0x7fff_ffff, 0] {
        let mut b = Bench::new(Password::None);
        let mut client = b.viewer(&[0]);
        let mut cut = vec![6, 0, 0, 0];
        cut.extend(length.to_be_bytes());
        cut.extend([0; 64]);
        let _ = client.write_all(&cut);
        b.turn();
        let mut other = b.viewer(&[0]);
        b.say(&mut other, &request(false));
        b.wait(FAST);
        assert!(b.heard(&mut other).len() > 200 * 100 * 4, "{length:#x}");
    }
}

/// CVE-2017-15124: what waits for a viewer who takes nothing grew without end, whatever was asked.
#[test]
fn unbounded_growth_of_what_waits() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0, -223]);
    for i in 0..400u32 {
        b.picture.draw(200 + i as usize % 3 * 300, 100 + i as usize % 5 * 100, |x, y| (x * y) as u32 ^ i);
        let _ = client.write_all(&request(false));
        let _ = client.write_all(&[248, 0, 0, 0, 0x80, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
        b.wait(FAST);
    }
    let waits: usize = b.vnc.viewers.iter().map(|v| v.session.unsent().len()).sum();
    assert!(waits < 4 << 20, "{waits} bytes wait");
}
