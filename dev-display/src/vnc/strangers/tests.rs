use super::*;
use proptest::prelude::*;
use std::net::{Ipv6Addr, SocketAddr};

const SECOND: u64 = 1_000_000_000;

fn v4(n: u32) -> Origin {
    Origin::V4(Ipv4Addr::from_bits(n))
}

fn stranger(number: u64, origin: u32, progress: Progress) -> Stranger {
    Stranger { number, origin: v4(origin), failures: 0, progress }
}

#[test]
fn addresses_that_one_client_can_change_at_will_are_one() {
    let origin = |text: &str| Origin::from(ViewerAddress::Tcp(text.parse::<SocketAddr>().unwrap()));
    assert_eq!(origin("192.0.2.1:1"), origin("192.0.2.1:65535"));
    assert_ne!(origin("192.0.2.1:1"), origin("192.0.2.2:1"));
    assert_eq!(origin("[2001:db8:1:2::1]:1"), origin("[2001:db8:1:2:ffff:ffff:ffff:ffff]:9"));
    assert_ne!(origin("[2001:db8:1:2::1]:1"), origin("[2001:db8:1:3::1]:1"));
    // A socket of both families: not all clients of IPv4 are one.
    assert_eq!(origin("[::ffff:192.0.2.1]:1"), origin("192.0.2.1:1"));
    assert_ne!(origin("[::ffff:192.0.2.1]:1"), origin("[::ffff:192.0.2.2]:1"));
    assert_eq!(Origin::from(ViewerAddress::Unix), Origin::Unix);
    assert_ne!(origin(&format!("[{}]:1", Ipv6Addr::UNSPECIFIED)), Origin::Unix);
}

#[test]
fn an_attacker_that_washes_its_record_out() {
    let mut addresses = Addresses::default();
    for n in 0..3 {
        addresses.failed(v4(0), Failure::Wrong, n);
    }
    // Others fail less often, however many they are and however much later.
    for n in 1..=4 * REMEMBERED as u32 {
        addresses.failed(v4(n), Failure::Left, 10 + u64::from(n));
        addresses.failed(v4(n), Failure::Wrong, 10 + u64::from(n));
        assert!(addresses.len() <= REMEMBERED);
        assert_eq!(addresses.failures(v4(0), 11), 3, "after {n}");
    }
    // As many that fail as often are what it takes.
    for n in 1..=REMEMBERED as u32 {
        (0..3).for_each(|_| addresses.failed(v4(n << 16), Failure::Wrong, SECOND));
    }
    assert_eq!(addresses.failures(v4(0), SECOND), 0);
}

#[test]
fn an_address_is_forgotten_after_an_hour_or_when_somebody_enters() {
    let mut addresses = Addresses::default();
    for n in 0..REMEMBERED as u32 {
        addresses.failed(v4(n), Failure::Wrong, 5);
    }
    assert_eq!((addresses.failures(v4(1), 4 + FORGOTTEN), addresses.delayed_until(v4(1), 6)), (1, 5 + SECOND));
    assert_eq!((addresses.failures(v4(1), 5 + FORGOTTEN), addresses.delayed_until(v4(1), 5 + FORGOTTEN)), (0, 0));
    addresses.entered(v4(2));
    assert_eq!((addresses.failures(v4(2), 6), addresses.len()), (0, REMEMBERED - 1));
    addresses.failed(v4(3), Failure::Wrong, 5 + FORGOTTEN);
    assert_eq!((addresses.failures(v4(3), 5 + FORGOTTEN), addresses.len()), (1, 1));
}

#[test]
fn each_wrong_answer_delays_the_next_verdict_for_its_address_up_to_eight_seconds() {
    let mut addresses = Addresses::default();
    assert_eq!(addresses.delayed_until(v4(1), 0), 0);
    addresses.failed(v4(1), Failure::Left, 0);
    assert_eq!(addresses.delayed_until(v4(1), 0), 0, "leaving is no guess");
    let delays: Vec<u64> = (0..7)
        .map(|_| {
            addresses.failed(v4(1), Failure::Wrong, 100);
            (addresses.delayed_until(v4(1), 100) - 100) / SECOND
        })
        .collect();
    assert_eq!(delays, [1, 2, 4, 8, 8, 8, 8]);
    assert_eq!(addresses.delayed_until(v4(2), 100), 0, "others are not delayed");
}

#[test]
fn a_full_house_gives_the_place_of_the_address_with_most_that_are_silent() {
    let now = 10 * SECOND;
    let silent = |number, origin| stranger(number, origin, Progress::Mute(0));
    let typing = |number, origin| stranger(number, origin, Progress::Typing);
    // Addresses 1 to 4 have four places each. The oldest silent one of an address with most goes.
    let mut all: Vec<Stranger> = (0..16).map(|n| silent(n, n as u32 / 4 + 1)).collect();
    assert_eq!(admit(v4(9), 0, &all, now), Admission::Replaces(0));
    all[12] = silent(12, 5);
    (0..4).for_each(|n| all[n] = typing(n as u64, 1));
    assert_eq!(admit(v4(9), 0, &all, now), Admission::Replaces(4), "who types stays, also where most come from");
    all[4].progress = Progress::Stepped(now - GRACE + 1);
    assert_eq!(admit(v4(9), 0, &all, now), Admission::Replaces(5), "so does who has answered just now");
    all[4].progress = Progress::Stepped(now - GRACE);
    assert_eq!(admit(v4(9), 0, &all, now), Admission::Replaces(4));
    (0..16).for_each(|n| all[n].progress = Progress::Answered(0));
    assert_eq!(admit(v4(9), 0, &all, now), Admission::TurnedAway, "all have answered");
    all.pop();
    assert_eq!(admit(v4(9), 0, &all, now), Admission::Free);
    assert_eq!(admit(v4(1), 0, &all, now), Admission::TurnedAway, "four at one address");
    all[2].progress = Progress::Mute(now);
    assert_eq!(admit(v4(1), 0, &all, now), Admission::Replaces(2), "its own place, however young");
}

#[test]
fn addresses_that_have_failed_leave_places_to_others() {
    let now = 10 * SECOND;
    let taken = |failures: u32, count: u64| {
        (0..count).map(move |n| Stranger { failures, ..stranger(n, 100 + n as u32, Progress::Typing) })
    };
    assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(places), [16, 8, 4, 2, 2, 2]);
    for failures in 0..6 {
        let all: Vec<Stranger> = taken(failures, places(failures) as u64).collect();
        for newcomer in 0..6 {
            let free = newcomer < failures && places(newcomer) > places(failures);
            let want = if free { Admission::Free } else { Admission::TurnedAway };
            assert_eq!(admit(v4(1), newcomer, &all, now), want, "{newcomer} failures against {failures}");
        }
    }
    // A silent one with fewer failures keeps its place before one with more.
    let mut all: Vec<Stranger> = taken(0, 16).collect();
    all.iter_mut().for_each(|s| s.progress = Progress::Mute(0));
    assert_eq!(admit(v4(1), 1, &all, now), Admission::TurnedAway);
    assert_eq!(admit(v4(1), 0, &all, now), Admission::Replaces(0));
}

/// A step of many strangers: who comes from where, goes on, or lets time pass.
#[derive(Clone, Copy, Debug)]
enum Step {
    Comes(u32),
    Goes(prop::sample::Index),
    Steps(prop::sample::Index),
    Types(prop::sample::Index),
    Answers(prop::sample::Index),
    Passes(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..9).prop_map(Step::Comes),
        1 => any::<prop::sample::Index>().prop_map(Step::Goes),
        1 => any::<prop::sample::Index>().prop_map(Step::Steps),
        1 => any::<prop::sample::Index>().prop_map(Step::Types),
        3 => any::<prop::sample::Index>().prop_map(Step::Answers),
        3 => (0u64..3 * SECOND).prop_map(Step::Passes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Attackers of any number and behaviour: nobody loses a place who types, has answered or is in time; every answer is judged when
    /// it must be; the numbers of strangers stay within their bounds.
    #[test]
    fn places_and_verdicts_under_any_flood(steps in prop::collection::vec(step(), 1..300)) {
        let mut addresses = Addresses::default();
        let mut all: Vec<Stranger> = Vec::new();
        let (mut now, mut after, mut number) = (0u64, 0u64, 0u64);
        for step in steps {
            let mut end = now;
            match step {
                Step::Comes(origin) => {
                    let origin = v4(origin);
                    all.iter_mut().for_each(|s| s.failures = addresses.failures(s.origin, now));
                    let failures = addresses.failures(origin, now);
                    let before = all.clone();
                    match admit(origin, failures, &all, now) {
                        Admission::TurnedAway => continue,
                        Admission::Free => {}
                        Admission::Replaces(goes) => {
                            let at = all.iter().position(|s| s.number == goes).unwrap();
                            let s = all.remove(at);
                            prop_assert!(s.failures >= failures);
                            let late = s.progress.silent_since().is_some_and(|since| now - since >= GRACE);
                            prop_assert!(late || s.origin == origin && matches!(s.progress, Progress::Mute(_)));
                            addresses.failed(s.origin, Failure::Left, now);
                        }
                    }
                    let worse = |all: &[Stranger], n: u32| all.iter().filter(|s| s.failures >= n).count();
                    number += 1;
                    all.push(Stranger { number, origin, failures, progress: Progress::Mute(now) });
                    for n in 0..5 {
                        prop_assert!(worse(&all, n) <= places(n).max(worse(&before, n)), "{n} failures");
                    }
                }
                Step::Goes(i) if !all.is_empty() => {
                    let s = all.remove(i.index(all.len()));
                    addresses.failed(s.origin, Failure::Left, now);
                }
                Step::Steps(i) if !all.is_empty() => {
                    let s = i.index(all.len());
                    if matches!(all[s].progress, Progress::Mute(_)) { all[s].progress = Progress::Stepped(now) }
                }
                Step::Types(i) if !all.is_empty() => {
                    let s = i.index(all.len());
                    if !matches!(all[s].progress, Progress::Answered(_)) { all[s].progress = Progress::Typing }
                }
                Step::Answers(i) if !all.is_empty() => {
                    let s = i.index(all.len());
                    if !matches!(all[s].progress, Progress::Answered(_)) { all[s].progress = Progress::Answered(now) }
                }
                Step::Passes(ns) => end = now + ns,
                _ => continue,
            }
            prop_assert!(all.len() <= STRANGERS);
            for s in &all {
                prop_assert!(all.iter().filter(|t| t.origin == s.origin).count() <= AT_ONE_ADDRESS);
            }
            while let Some((due, judged)) = next_verdict(&all, &addresses, now) {
                let at = due.max(after).max(now);
                if at > end {
                    break;
                }
                let s = all.remove(all.iter().position(|s| s.number == judged).unwrap());
                let Progress::Answered(answered) = s.progress else { panic!("it has not answered") };
                // Sixteen intervals from when its address lets it, whoever else waits and comes.
                let due = answered.max(addresses.delayed_until(s.origin, at));
                prop_assert!(at <= due + STRANGERS as u64 * INTERVAL, "{} ns late", at - due);
                addresses.failed(s.origin, Failure::Wrong, at);
                (now, after) = (at, at + INTERVAL);
            }
            now = end;
        }
    }
}
