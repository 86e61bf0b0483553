//! Handshakes of viewers of every version, and their refusals.
use super::tests::Bench;
use super::*;
use std::os::unix::net::UnixStream;

/// Versions of real viewers, and the handshake that each uses (RFC 6143, 7.1.1).
const VERSIONS: [(&str, u8); 17] = [
    ("003.003", 3),
    ("003.004", 3),
    ("003.005", 3),
    ("003.006", 3),
    ("003.007", 7),
    ("003.008", 8),
    ("003.000", 3),
    ("003.009", 3),
    ("003.014", 3),
    ("003.016", 3),
    ("003.130", 3),
    ("003.888", 3),
    ("003.889", 8),
    ("004.000", 8),
    ("004.001", 8),
    ("005.000", 8),
    ("005.002", 8),
];
const SECRET: [u8; 8] = *b"secret\0\0";

fn said(version: &str) -> Vec<u8> {
    format!("RFB {version}\n").into_bytes()
}

fn came_in(b: &mut Bench, client: &mut UnixStream, what: &str) {
    b.say(client, &[1]);
    b.wait(FAST);
    let init = b.heard(client);
    assert_eq!((&init[..4], init.len(), init.ends_with(b"guest")), (&[0, 200, 0, 100][..], 29, true), "{what}");
}

/// Checks a refusal: the bytes before it, its reason, and the closed connection.
fn refused(b: &mut Bench, client: &mut UnixStream, head: &[u8], why: &str, what: &str) {
    let mut want = head.to_vec();
    want.extend((why.len() as u32).to_be_bytes());
    want.extend(why.as_bytes());
    assert_eq!(String::from_utf8_lossy(&b.heard(client)), String::from_utf8_lossy(&want), "{what}");
    assert!(b.closed(client), "{what}");
}

#[test]
fn every_version_of_a_client_is_answered_without_a_password() {
    for (version, kind) in VERSIONS {
        let mut b = Bench::new(Password::None);
        let mut client = b.connect();
        // Byte by byte, as a network may deliver it.
        said(version).chunks(1).for_each(|byte| b.say(&mut client, byte));
        let hello = b.heard(&mut client);
        match kind {
            3 => assert_eq!(hello, b"RFB 003.008\n\0\0\0\x01", "{version}"),
            _ => {
                assert_eq!(hello, b"RFB 003.008\n\x01\x01", "{version}");
                b.say(&mut client, &[1]);
                // Before 3.8 there is no SecurityResult without a password.
                let result: &[u8] = if kind == 8 { &[0; 4] } else { &[] };
                assert_eq!(b.heard(&mut client), result, "{version}");
            }
        }
        came_in(&mut b, &mut client, version);
    }
}

#[test]
fn every_version_of_a_client_is_answered_with_a_password() {
    for (version, kind) in VERSIONS {
        for right in [true, false] {
            let mut b = Bench::new(Password::new(b"secret"));
            let mut client = b.connect();
            b.say(&mut client, &said(version));
            let mut hello = b.heard(&mut client);
            if kind == 3 {
                assert_eq!(hello[..16], *b"RFB 003.008\n\0\0\0\x02", "{version}");
                hello.drain(..16);
            } else {
                assert_eq!(hello, b"RFB 003.008\n\x01\x02", "{version}");
                b.say(&mut client, &[2]);
                hello = b.heard(&mut client);
            }
            let challenge = hello.as_slice().try_into().unwrap();
            let key = if right { SECRET } else { *b"password" };
            b.say(&mut client, &auth::response(key, challenge));
            if right {
                assert_eq!(b.heard(&mut client), [0; 4], "{version}");
                came_in(&mut b, &mut client, version);
                continue;
            }
            match kind {
                8 => refused(&mut b, &mut client, &[0, 0, 0, 1], "wrong password", version),
                _ => {
                    assert_eq!(b.heard(&mut client), [0, 0, 0, 1], "{version} has no reasons");
                    assert!(b.closed(&mut client), "{version}");
                }
            }
        }
    }
}

#[test]
fn security_types_that_were_not_offered() {
    for (password, chosen) in
        [(Password::None, 2), (Password::new(b"secret"), 1), (Password::Unset, 19), (Password::None, 0)]
    {
        for (version, kind) in VERSIONS.iter().filter(|(_, kind)| *kind != 3) {
            let mut b = Bench::new(password.clone());
            let mut client = b.connect();
            b.say(&mut client, &said(version));
            b.heard(&mut client);
            b.say(&mut client, &[chosen, 1]);
            match kind {
                8 => refused(&mut b, &mut client, &[0, 0, 0, 1], "a security type that was not offered", version),
                _ => {
                    assert_eq!(b.heard(&mut client), [0, 0, 0, 1], "{version}");
                    assert!(b.closed(&mut client), "{version}");
                }
            }
        }
    }
}

#[test]
fn versions_that_there_are_not() {
    for version in ["000.000", "001.008", "002.003", "002.999"] {
        let mut b = Bench::new(Password::None);
        let mut client = b.connect();
        b.heard(&mut client);
        b.say(&mut client, &said(version));
        refused(&mut b, &mut client, &[0; 4], "unknown protocol version", version);
    }
    for bad in [
        "GET / HTTP/1.1\r\n",
        "RFB 003.00x\n",
        "RFB 003 008\n",
        "RFB 003.008\r",
        "RFB -03.008\n",
        "RFB +03.008\n",
        "RFC 003.008\n",
        "\0",
        "RFB 3.008\n",
    ] {
        let mut b = Bench::new(Password::None);
        let mut client = b.connect();
        b.heard(&mut client);
        b.say(&mut client, bad.as_bytes());
        assert!(b.closed(&mut client), "{bad:?}");
        assert_eq!(b.vnc.last_end.map(|(_, why)| why), Some(session::ViewerError::NotRfb), "{bad:?}");
    }
}

#[test]
fn viewers_that_are_too_many_hear_why() {
    let mut b = Bench::new(Password::None);
    let enter = |b: &mut Bench| {
        let mut client = b.connect();
        b.say(&mut client, b"RFB 003.008\n\x01\x01");
        b.wait(IDLE);
        assert!(b.heard(&mut client).ends_with(b"guest"));
        client
    };
    let mut inside: Vec<UnixStream> = (0..VIEWERS).map(|_| enter(&mut b)).collect();
    for (version, kind) in VERSIONS {
        let mut client = b.connect();
        b.heard(&mut client);
        b.say(&mut client, &said(version));
        let head: &[u8] = if kind == 3 { &[0; 4] } else { &[0] };
        refused(&mut b, &mut client, head, "too many viewers", version);
    }
    assert_eq!(b.vnc.viewers.len(), VIEWERS, "nobody had to go");
    drop(inside.pop());
    b.turn();
    inside.push(enter(&mut b));
    assert_eq!(b.vnc.viewers.iter().filter(|v| v.session.handshake_done()).count(), VIEWERS);
    // Two handshakes while there is room for one viewer.
    let mut late: Vec<UnixStream> = Vec::new();
    drop(inside.pop());
    b.turn();
    for _ in 0..2 {
        let mut client = b.connect();
        b.say(&mut client, b"RFB 003.008\n\x01");
        late.push(client);
    }
    late.iter_mut().for_each(|client| b.say(client, &[1]));
    assert_eq!(b.vnc.viewers.iter().filter(|v| v.session.handshake_done()).count(), VIEWERS);
}
