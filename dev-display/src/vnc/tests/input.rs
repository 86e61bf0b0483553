//! The keyboard's lights, where input goes, and a picture of another size than the viewer's.
use super::*;

#[test]
fn the_keyboards_lights_are_reported_and_decide_the_caps_lock() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0, -261]);
    let (mut seen, mut width) = (vec![0; 200 * 100], 200);
    b.say(&mut client, &request(false));
    b.wait(FAST);
    b.heard(&mut client);
    for leds in [4u8, 6, 6, 0] {
        rustix::io::write(&b.lights, &[2, leds]).unwrap();
        b.say(&mut client, &request(true));
        b.wait(FAST);
        let bytes = b.heard(&mut client);
        let told = apply(&bytes, &mut seen, &mut width);
        assert!(told.iter().all(|n| *n == (-261, [usize::from(leds), 0, 0, 0])) && told.len() <= 1);
        b.say(&mut client, &[4, 1, 0, 0, 0, 0, 0, b'A', 4, 0, 0, 0, 0, 0, 0, b'A']);
        let shifted = b.keys().contains(&InputEvent::Key { code: 42, down: true });
        assert_eq!(shifted, leds & 4 == 0);
    }
}

#[test]
fn input_goes_where_the_guest_takes_it() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0, -257]);
    let (mut seen, mut width) = (vec![0; 200 * 100], 200);
    let mut look = |b: &mut Bench, client: &mut UnixStream| {
        b.say(client, &request(false));
        b.wait(FAST);
        let bytes = b.heard(client);
        apply(&bytes, &mut seen, &mut width)
    };
    assert_eq!(look(&mut b, &mut client), [(-257, [0, 0, 200, 100])], "movement");
    b.say(&mut client, &[5, 0, 0x80, 0x04, 0x7f, 0xfe]);
    assert_eq!(b.keys(), [InputEvent::Move { dx: 5, dy: -1, dz: 0 }]);
    rustix::io::write(&b.taken, &[1]).unwrap();
    assert_eq!(look(&mut b, &mut client), [(-257, [1, 0, 200, 100])], "places");
    b.say(&mut client, &[5, 1, 0, 199, 0, 99, 5, 9, 0, 199, 0, 99, 4, 1, 0, 0, 0, 0, 0, 0x61]);
    let down = InputEvent::Button { button: 0, down: true };
    assert_eq!(
        records(&b.placed),
        [InputEvent::At { x: 0x7fff, y: 0x7fff }, down, InputEvent::Move { dx: 0, dy: 0, dz: -1 }]
    );
    assert_eq!(b.keys(), [InputEvent::Key { code: 30, down: true }]);
    rustix::io::write(&b.taken, &[6]).unwrap();
    assert_eq!(look(&mut b, &mut client), [(-257, [0, 0, 200, 100])]);
    b.say(&mut client, &[4, 0, 0, 0, 0, 0, 0, 0x61]);
    assert_eq!((records(&b.placed), b.keys()), (vec![InputEvent::Key { code: 30, down: false }], vec![]));
}

#[test]
fn a_picture_that_is_larger_than_a_viewer_knows_is_cut_and_a_smaller_one_is_framed_in_black() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0]);
    let (mut seen, mut width) = (vec![9; 200 * 100], 200);
    for (w, h) in [(400, 300), (50, 40)] {
        b.picture.draw(w, h, |x, y| (x * 3 + y) as u32);
        b.say(&mut client, &request(false));
        b.wait(FAST);
        b.say(&mut client, &request(false));
        let bytes = b.heard(&mut client);
        assert!(apply(&bytes, &mut seen, &mut width).is_empty());
        let want = |i: usize| if i % 200 < w && i / 200 < h { ((i % 200) * 3 + i / 200) as u32 } else { 0 };
        assert!((0..200 * 100).all(|i| seen[i] == want(i)), "{w}x{h}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// A whole session with changed, removed and inserted bytes: the server continues, and the viewer's unsent bytes are bounded.
    #[test]
    fn hostile_a_viewer_that_says_anything_ends_its_own_connection_at_most(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..400),
        cuts in prop::collection::vec(1usize..60, 1..20),
    ) {
        let mut b = Bench::new(Password::None);
        let mut bytes = b"RFB 003.008\n\x01\x01".to_vec();
        bytes.extend_from_slice(&[2, 0, 0, 5, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 5, 0xff, 0xff, 0xfe, 0xcc, 0xff, 0xff, 0xfe, 0xc7]);
        bytes.extend_from_slice(&request(false));
        bytes.extend_from_slice(&[0, 0, 0, 0, 16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[4, 1, 0, 0, 0, 0, 0, 0x41, 5, 0x1f, 0, 9, 0, 9]);
        bytes.extend_from_slice(&[248, 0, 0, 0, 0x80, 0, 0, 1, 2, 1, 1, 150, 1, 0, 0, 0, 0, 0, 9, 0, 9]);
        bytes.extend_from_slice(&request(true));
        bytes.extend_from_slice(&tail);
        for (at, value, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = value,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, value),
            }
        }
        let mut client = b.connect();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || client.write_all(&rest[..(*cut).min(rest.len())]).is_err() {
                break;
            }
            rest = &rest[(*cut).min(rest.len())..];
            b.wait(FAST);
            prop_assert!(b.vnc.viewers.iter().all(|v| v.session.unsent().len() < 1 << 20));
        }
        drop(client);
        b.turn();
        prop_assert!(b.vnc.viewers.is_empty());
        let mut client = b.viewer(&[0]);
        b.say(&mut client, &request(false));
        b.wait(FAST);
        prop_assert!(b.heard(&mut client).len() >= 200 * 100 * 4);
    }
}
