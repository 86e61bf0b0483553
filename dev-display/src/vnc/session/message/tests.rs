use super::*;
use crate::vnc::auth::CHALLENGE;
use crate::vnc::input::Input;
use crate::vnc::layouts::LAYOUTS;
use crate::vnc::locks::Locks;
use crate::vnc::session::handshake::HandshakeMessage;
use crate::vnc::session::{HandshakeState, LONGEST, SessionContext, ViewerError, ViewerSession};
use bulkhead_bus::InputEvent;
use proptest::prelude::*;

/// Every message once: its bytes, the parsed message, and its tail.
fn every_message() -> Vec<(Vec<u8>, Message<'static>, Tail)> {
    vec![
        (
            vec![0, 9, 9, 9, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 9, 9, 9],
            Message::SetPixelFormat(PixelFormat::SURFACE),
            Tail::Nothing,
        ),
        (vec![2, 9, 1, 2], Message::SetEncodings { count: 0x102 }, Tail::Encodings(0x102)),
        (vec![2, 9, 0, 0], Message::SetEncodings { count: 0 }, Tail::Nothing),
        (
            vec![3, 1, 9, 9, 1, 2, 9, 9, 3, 4],
            Message::UpdateRequest { incremental: true, y: 0x102, height: 0x304 },
            Tail::Nothing,
        ),
        (vec![4, 1, 9, 9, 1, 2, 3, 4], Message::Key { down: true, keysym: 0x0102_0304 }, Tail::Nothing),
        (vec![5, 7, 1, 2, 3, 4], Message::Pointer { buttons: 7, x: 0x102, y: 0x304 }, Tail::Nothing),
        (vec![6, 9, 9, 9, 0, 0, 1, 2], Message::CutText { len: 0x102 }, Tail::Skipped(0x102)),
        (vec![6, 9, 9, 9, 0xff, 0xff, 0xff, 0xfe], Message::CutText { len: 2 }, Tail::Skipped(2)),
        (vec![6, 9, 9, 9, 0x80, 0, 0, 0], Message::CutText { len: 1 << 31 }, Tail::Skipped(1 << 31)),
        (vec![6, 9, 9, 9, 0, 0, 0, 0], Message::CutText { len: 0 }, Tail::Nothing),
        (vec![150, 1, 0, 0, 0, 0, 0, 9, 0, 9], Message::ContinuousUpdates { on: true }, Tail::Nothing),
        (
            vec![248, 9, 9, 9, 0x80, 0, 0, 1, 2, 5, 6],
            Message::Fence { flags: 0x8000_0001, payload: &[5, 6] },
            Tail::Nothing,
        ),
        (
            [&[248, 9, 9, 9, 0, 0, 0, 0, 64][..], &[7; 64]].concat(),
            Message::Fence { flags: 0, payload: &[7; 64] },
            Tail::Nothing,
        ),
        (
            vec![251, 9, 1, 2, 3, 4, 255, 9],
            Message::SetDesktopSize { width: 0x102, height: 0x304, screens: 255 },
            Tail::Skipped(255 * 16),
        ),
        (
            vec![255, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3],
            Message::ScancodeKey { down: true, keysym: 2, scancode: 3 },
            Tail::Nothing,
        ),
    ]
}

#[test]
fn every_message_is_read_and_cut_anywhere_needs_more() {
    for (bytes, message, tail) in every_message() {
        assert_eq!(Message::parse(&bytes), Parsed::Whole(message, bytes.len()));
        assert_eq!(message.tail(), tail, "{message:?}");
        for cut in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..cut]), Parsed::Partial, "{message:?} at {cut}");
        }
    }
}

#[test]
fn what_breaks_the_protocol_does_so_with_its_first_wrong_byte() {
    for (bytes, why) in [
        (&[1][..], ViewerError::UnknownMessage),
        (&[7], ViewerError::UnknownMessage),
        (&[255, 1], ViewerError::NotOffered),
        (&[248, 0, 0, 0, 0, 0, 0, 0, 65], ViewerError::LongFence),
        (&[0, 0, 0, 0, 24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0], ViewerError::PixelFormat),
    ] {
        assert_eq!(Message::parse(bytes), Parsed::Broken(why));
        assert_eq!(Message::parse(&[bytes, &[0; 200]].concat()), Parsed::Broken(why));
        assert_eq!(Message::parse(&bytes[..bytes.len() - 1]), Parsed::Partial, "{why:?}");
    }
}

#[test]
fn steps_of_the_handshake_cut_anywhere_need_more() {
    let challenge = [3; CHALLENGE];
    for (state, bytes, message) in [
        (HandshakeState::Version, &b"RFB 003.889\n"[..], HandshakeMessage::Version(3, 889)),
        (HandshakeState::Security, &[2], HandshakeMessage::Security(2)),
        (HandshakeState::Response(challenge), &[5; CHALLENGE], HandshakeMessage::Response(challenge, [5; CHALLENGE])),
        (HandshakeState::ClientInit, &[0], HandshakeMessage::Shared(false)),
        (HandshakeState::ClientInit, &[9], HandshakeMessage::Shared(true)),
    ] {
        let longer = [bytes, &[1, 2, 3]].concat();
        assert_eq!(HandshakeMessage::parse(state, &longer), Parsed::Whole(message, bytes.len()));
        for cut in 0..bytes.len() {
            assert_eq!(HandshakeMessage::parse(state, &bytes[..cut]), Parsed::Partial, "{message:?} at {cut}");
        }
    }
    assert_eq!(HandshakeMessage::parse(HandshakeState::Version, b"GE"), Parsed::Broken(ViewerError::NotRfb));
}

/// The effects of `bytes` when the socket delivers them in pieces of these lengths.
fn outcome(bytes: &[u8], cuts: &[usize]) -> (Result<(), ViewerError>, Vec<u8>, Vec<InputEvent>) {
    let mut session = ViewerSession::new(Input::new(&LAYOUTS[0]), "test".into(), 0);
    session.handshake = HandshakeState::Running;
    session.size = (200, 100);
    let (mut locks, mut input) = (Locks::default(), Vec::new());
    let mut context = SessionContext {
        needs_password: false,
        now: 0,
        random: &|| None,
        wish: &|_, _| true,
        input: &mut input,
        alone: false,
        full: false,
        locks: &mut locks,
        others: 0,
    };
    let mut rest = bytes;
    let mut end = Ok(());
    for cut in cuts.iter().cycle() {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        end = session.receive(now, &mut context);
        assert!(end.is_err() || session.received.len() < LONGEST);
        rest = later;
        if rest.is_empty() || end.is_err() {
            break;
        }
    }
    (end, session.output, input)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Consecutive messages are parsed one by one.
    #[test]
    fn messages_are_found_one_by_one(which in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let every = every_message();
        let said: Vec<_> = which.iter().map(|i| &every[i.index(every.len())]).collect();
        let bytes: Vec<u8> = said.iter().flat_map(|(bytes, _, _)| bytes.clone()).collect();
        let mut rest = &bytes[..];
        for (bytes, message, _) in said {
            prop_assert_eq!(Message::parse(rest), Parsed::Whole(*message, bytes.len()));
            rest = &rest[bytes.len()..];
        }
        prop_assert_eq!(Message::parse(rest), Parsed::Partial);
    }

    /// With any bytes, a complete message is not empty and does not depend on the bytes after it, and an incomplete one has a
    /// bounded length.
    #[test]
    fn any_bytes_are_a_message_or_a_beginning_or_broken(
        kind in prop::sample::select(vec![0u8, 2, 3, 4, 5, 6, 150, 248, 251, 255]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        any_kind: bool,
    ) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut().filter(|_| !any_kind) {
            *first = kind;
        }
        prop_assert_eq!(check_cuts(&bytes), Ok(()));
        if Message::parse(&bytes) == Parsed::Partial {
            prop_assert!(bytes.len() < LONGEST);
        }
    }

    /// The effects of a viewer's bytes do not depend on the socket's cuts, tails and broken messages included.
    #[test]
    fn where_the_socket_cuts_makes_no_difference(
        which in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6), 0..12),
        changed in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cuts in prop::collection::vec(1usize..150, 1..8),
    ) {
        let every = every_message();
        let mut bytes = Vec::new();
        for (i, encodings) in which {
            let (said, _, tail) = &every[i.index(every.len())];
            match tail {
                Tail::Nothing => bytes.extend_from_slice(said),
                Tail::Encodings(_) => {
                    bytes.extend_from_slice(&[2, 0, 0, encodings as u8]);
                    let known = [5i32, 16, -223, -308, -312, -313];
                    known.iter().take(encodings).for_each(|e| bytes.extend_from_slice(&e.to_be_bytes()));
                }
                Tail::Skipped(n) => {
                    bytes.extend_from_slice(said);
                    bytes.resize(bytes.len() + (*n as usize).min(5000), 4);
                }
            }
        }
        if let Some((at, value)) = changed.filter(|_| !bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let whole = outcome(&bytes, &[usize::MAX]);
        prop_assert_eq!(outcome(&bytes, &cuts), whole.clone());
        prop_assert_eq!(outcome(&bytes, &[1]), whole);
    }
}
