//! Floods of strangers against the server, on the driven clock: how much an attacker can guess, and that a person gets in meanwhile.
use super::super::auth::{self, CHALLENGE, Password};
use super::super::strangers::{AT_ONE_ADDRESS, INTERVAL, STRANGERS};
use super::super::tests::Bench;
use super::super::{FAST, session};
use super::*;
use bulkhead_bus::{Auxiliary as _, Ready};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;
const KEY: [u8; 8] = *b"secret\0\0";
/// The person's address. Attackers' are `attacker(n)`.
const PERSON: ViewerAddress =
    ViewerAddress::Tcp(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4000));
/// Longest time in which an address can hold places before it has failed: the handshake, and a verdict behind all others.
const BEFORE_FAILING: u64 = session::HANDSHAKE + STRANGERS as u64 * INTERVAL;

fn attacker(n: usize) -> ViewerAddress {
    ViewerAddress::Tcp(SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 | n as u32).into(), 1))
}

fn bench() -> Bench {
    Bench::new(Password::new(b"secret"))
}

/// Goes on to the challenge; `None` if the connection is closed.
fn challenged(b: &mut Bench, client: &mut UnixStream) -> Option<[u8; CHALLENGE]> {
    client.write_all(b"RFB 003.008\n\x02").ok()?;
    let heard = b.heard(client);
    heard.get(14..).and_then(|challenge| challenge.try_into().ok())
}

/// Answers the challenge.
fn answers(b: &mut Bench, client: &mut UnixStream, key: [u8; 8]) -> Option<()> {
    let challenge = challenged(b, client)?;
    b.say(client, &auth::response(key, challenge));
    Some(())
}

fn known(b: &mut Bench, address: ViewerAddress, failures: u32) {
    let now = b.now();
    (0..failures).for_each(|_| b.vnc.addresses.failed(address.into(), Failure::Wrong, now));
}

/// What an attacker does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing.
    Silent,
    /// Half of the handshake's messages.
    Half,
    /// As a person who types and never answers.
    Types,
    /// Guesses.
    Guesses,
}

/// Attackers at many addresses, each with as many connections as it gets.
struct Flood {
    ways: &'static [Way],
    addresses: usize,
    next: usize,
    clients: Vec<UnixStream>,
}

impl Flood {
    fn new(ways: &'static [Way], addresses: usize) -> Self {
        Self { ways, addresses, next: 0, clients: Vec::new() }
    }

    /// Some more connections, each from the next address.
    fn attack(&mut self, b: &mut Bench, connections: usize) {
        for _ in 0..connections {
            let mut client = b.connect_from(attacker(self.next % self.addresses));
            let way = self.ways[self.next / self.addresses % self.ways.len()];
            self.next += 1;
            match way {
                Way::Silent => {}
                Way::Half => drop(client.write_all(b"RFB 003.008\n")),
                Way::Types => drop(challenged(b, &mut client)),
                Way::Guesses => drop(answers(b, &mut client, *b"guess\0\0\0")),
            }
            self.clients.push(client);
        }
        b.turn();
        self.clients.retain_mut(|client| {
            let mut heard = [0; 64];
            std::iter::repeat_with(|| client.read(&mut heard))
                .find(|n| !matches!(n, Ok(1..)))
                .is_some_and(|end| end.is_err())
        });
    }
}

/// What the person does next.
enum Person {
    Away,
    /// Types until this time.
    Types(UnixStream, [u8; CHALLENGE], u64),
    Waits(UnixStream),
}

/// Seconds until a person gets in who types for six seconds, and tries again every second while there is no place.
fn comes_in(b: &mut Bench, flood: &mut Flood, until: u64) -> Option<u64> {
    let begun = b.now();
    let mut person = Person::Away;
    while b.now() - begun < until {
        // The attackers always come first.
        flood.attack(b, STRANGERS + 1);
        person = match person {
            Person::Away => {
                let mut client = b.connect_from(PERSON);
                flood.attack(b, STRANGERS + 1);
                match challenged(b, &mut client) {
                    Some(challenge) => Person::Types(client, challenge, b.now() + 6 * SECOND),
                    None => Person::Away,
                }
            }
            Person::Types(mut client, challenge, end) if b.now() >= end => {
                b.say(&mut client, &auth::response(KEY, challenge));
                Person::Waits(client)
            }
            Person::Types(mut client, challenge, end) => {
                assert!(!b.closed(&mut client), "thrown out while typing");
                Person::Types(client, challenge, end)
            }
            Person::Waits(mut client) => match b.heard(&mut client)[..] {
                [] => Person::Waits(client),
                [0, 0, 0, 0] => return Some((b.now() - begun) / SECOND),
                ref other => panic!("{other:?}"),
            },
        };
        b.wait(SECOND);
    }
    None
}

/// Two thousand five hundred guesses a second over new connections; and from any number of addresses together.
#[test]
fn guesses_over_new_connections_are_bounded() {
    for (addresses, most) in [(1, 3600 / 8 + 4), (4, 4 * (3600 / 8 + 4)), (600, 3600 + 1)] {
        let mut b = bench();
        let mut flood = Flood::new(&[Way::Guesses], addresses);
        while b.now() < HOUR {
            flood.attack(&mut b, 6);
            b.wait(SECOND / 2);
        }
        let guesses = b.vnc.wrong_passwords;
        assert!(guesses <= most, "{guesses} guesses of {addresses} addresses in an hour");
        assert!(guesses >= 400, "{guesses} guesses of {addresses} addresses: this is no flood");
    }
}

#[test]
fn the_moment_of_a_verdict_does_not_tell_what_it_is() {
    for waiting in 0..3 {
        for failures in [0, 1, 4] {
            let mut moments = [KEY, *b"guess\0\0\0"].map(|key| {
                let mut b = bench();
                known(&mut b, PERSON, failures);
                let others: Vec<UnixStream> = (0..waiting)
                    .map(|n| {
                        let mut other = b.connect_from(attacker(n));
                        answers(&mut b, &mut other, *b"guess\0\0\0").unwrap();
                        other
                    })
                    .collect();
                let mut client = b.connect_from(PERSON);
                answers(&mut b, &mut client, key).unwrap();
                let mut heard = b.heard(&mut client);
                while heard.is_empty() {
                    b.wait(FAST / 8);
                    heard = b.heard(&mut client);
                }
                assert_eq!(heard[3], u8::from(key != KEY));
                // The verdict after it comes as late, whatever this one was.
                let mut next = b.connect_from(attacker(77));
                let told = b.now();
                answers(&mut b, &mut next, KEY).unwrap();
                while b.heard(&mut next).is_empty() {
                    b.wait(FAST / 8);
                }
                drop(others);
                (told, b.now())
            });
            moments.sort_unstable();
            assert_eq!(moments[0], moments[1], "{waiting} wait, {failures} failures");
        }
    }
}

#[test]
fn a_person_who_types_keeps_the_place_whoever_comes() {
    for addresses in [1, 5, 200] {
        for ways in [&[Way::Silent], &[Way::Half], &[Way::Types], &[Way::Guesses]] {
            let mut b = bench();
            let mut person = b.connect_from(PERSON);
            let challenge = challenged(&mut b, &mut person).unwrap();
            let mut flood = Flood::new(ways, addresses);
            for _ in 0..10 {
                flood.attack(&mut b, 40);
                b.wait(SECOND);
            }
            b.say(&mut person, &auth::response(KEY, challenge));
            for _ in 0..STRANGERS {
                flood.attack(&mut b, 40);
                b.wait(INTERVAL);
            }
            assert_eq!(b.heard(&mut person), [0; 4], "{addresses} addresses, {ways:?}");
        }
    }
}

/// Attackers whose addresses have failed hold up nobody else.
#[test]
fn a_person_gets_in_at_once_while_known_attackers_flood() {
    for ways in [&[Way::Silent, Way::Half, Way::Types, Way::Guesses][..], &[Way::Types], &[Way::Guesses]] {
        let mut b = bench();
        (0..200).for_each(|n| known(&mut b, attacker(n), 1));
        let mut flood = Flood::new(ways, 200);
        for _ in 0..5 {
            flood.attack(&mut b, 100);
            b.wait(SECOND);
        }
        let waited = comes_in(&mut b, &mut flood, HOUR).unwrap();
        assert!(waited <= 6 + 1 + STRANGERS as u64, "{waited} s, {ways:?}");
    }
}

/// Attackers that nobody knows yet: each address can hold its places once, until it has failed.
#[test]
fn a_person_gets_in_while_unknown_attackers_flood() {
    const ATTACKERS: usize = 40;
    for ways in
        [&[Way::Silent][..], &[Way::Half], &[Way::Types], &[Way::Guesses], &[Way::Types, Way::Guesses, Way::Half]]
    {
        for failures in 0..3u32 {
            let mut b = bench();
            known(&mut b, PERSON, failures);
            let mut flood = Flood::new(ways, ATTACKERS);
            // Places that those with more failures leave, and what each address holds of them until it has failed so often.
            let left = strangers::places(failures) - strangers::places(failures + 1);
            let holds = (failures as usize + 1) * ATTACKERS * AT_ONE_ADDRESS;
            let bound = holds.div_ceil(left) as u64 * (BEFORE_FAILING + 8 * SECOND) / SECOND;
            let waited = comes_in(&mut b, &mut flood, bound * SECOND);
            assert!(waited.is_some(), "more than {bound} s after {failures} mistakes, {ways:?}");
        }
    }
}

#[test]
fn one_who_leaves_or_is_late_has_failed_only_in_a_crowd() {
    let mut b = bench();
    // A monitor that looks whether the port is open.
    for _ in 0..20 {
        drop(b.connect_from(PERSON));
        b.turn();
    }
    assert_eq!((b.vnc.viewers.len(), b.vnc.addresses.len()), (0, 0));
    let crowd: Vec<UnixStream> = (0..CROWD).map(|n| b.connect_from(attacker(n))).collect();
    drop(crowd);
    b.turn();
    assert_eq!((b.vnc.viewers.len(), b.vnc.addresses.len()), (0, CROWD));
    let late: Vec<UnixStream> = (0..CROWD).map(|n| b.connect_from(attacker(100 + n))).collect();
    b.wait(session::HANDSHAKE);
    assert_eq!((b.vnc.viewers.len(), b.vnc.addresses.len()), (0, 2 * CROWD));
    drop(late);
}

#[test]
fn a_crowd_of_clients_of_a_unix_socket() {
    let mut b = bench();
    let mut typing = b.connect();
    let challenge = challenged(&mut b, &mut typing).unwrap();
    let _silent: Vec<UnixStream> = (0..100).map(|_| b.connect()).collect();
    let mut newest = b.connect();
    assert!(answers(&mut b, &mut newest, KEY).is_some(), "silent ones keep nobody out");
    assert_eq!(b.heard(&mut newest), [0; 4]);
    b.say(&mut typing, &auth::response(KEY, challenge));
    b.wait(INTERVAL);
    assert_eq!(b.heard(&mut typing), [0; 4]);
}

#[test]
fn bytes_after_the_answer_wait_for_the_verdict() {
    let mut b = bench();
    // A verdict for somebody else comes first.
    let mut other = b.connect_from(attacker(0));
    answers(&mut b, &mut other, *b"guess\0\0\0").unwrap();
    let mut client = b.connect_from(PERSON);
    let challenge = challenged(&mut b, &mut client).unwrap();
    let mut said = auth::response(KEY, challenge).to_vec();
    // ClientInit, the list of encodings and a request, all before the verdict.
    said.extend_from_slice(&[1, 2, 0, 0, 1, 0, 0, 0, 0]);
    said.extend_from_slice(&super::super::tests::request(false));
    b.say(&mut client, &said);
    assert_eq!(b.heard(&mut client), []);
    b.wait(INTERVAL + 3 * FAST);
    assert!(b.heard(&mut client).len() > 200 * 100 * 4);
}

/// The queue of verdicts cannot be kept busy for ever by answers that come later.
#[test]
fn an_answer_waits_for_those_before_it_only() {
    let mut b = bench();
    let mut flood = Flood::new(&[Way::Guesses], 600);
    flood.attack(&mut b, STRANGERS - 1);
    let mut client = b.connect_from(PERSON);
    answers(&mut b, &mut client, KEY).unwrap();
    for _ in 1..STRANGERS {
        assert_eq!(b.heard(&mut client), []);
        b.wait(INTERVAL);
        flood.attack(&mut b, 50);
    }
    assert_eq!(b.heard(&mut client), [0; 4]);
}

/// One error of `accept` kept everybody who waited behind it, until somebody else came.
#[test]
fn an_error_of_accept_keeps_nobody_who_waits_behind_it() {
    let mut b = bench();
    let aborted = std::cell::Cell::new(3u32);
    let mut clients = Vec::new();
    let mut waiting = 2;
    b.vnc.accept_from(&mut b.cx, |_| {
        if aborted.replace(aborted.get().saturating_sub(1)) > 0 {
            return Err(Errno::CONNABORTED);
        }
        if waiting == 0 {
            return Err(Errno::AGAIN);
        }
        waiting -= 1;
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        clients.push(theirs);
        Ok((ours.into(), PERSON))
    });
    assert_eq!((b.vnc.viewers.len(), b.cx.timers.get(DOOR)), (2, None));
    let mut tried = 0;
    b.vnc.accept_from(&mut b.cx, |_| {
        tried += 1;
        Err(Errno::MFILE)
    });
    assert_eq!(tried, ACCEPTED, "a shortage costs so many tries a second");
    let due = b.cx.timers.get(DOOR).unwrap();
    let _waits = UnixStream::connect(&b.path).unwrap();
    b.cx.clock = bulkhead_bus::Clock::Driven(due);
    b.vnc.poll(Ready::Timer(DOOR), &mut b.cx);
    assert_eq!((b.vnc.viewers.len(), b.cx.timers.get(DOOR)), (3, None));
}
