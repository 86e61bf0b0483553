use super::*;
use proptest::prelude::*;

fn packet(bytes: &[u8]) -> [u8; 12] {
    let mut p = [0; 12];
    p[..bytes.len()].copy_from_slice(bytes);
    p
}

fn drive(sectors: Option<u32>) -> View<'static> {
    let flag = || Box::leak(Box::new(false));
    let (locked, attention, tray_open, event) = (flag(), flag(), flag(), Box::leak(Box::default()));
    let has_medium = sectors.is_some();
    View { sectors, has_medium, locked, tray_open, attention, event, sense: Sense::NONE }
}

fn run(bytes: &[u8], sectors: Option<u32>) -> Answer {
    execute(&packet(bytes), drive(sectors))
}

#[test]
fn what_bios_and_linux_ask_first() {
    assert_eq!(run(&[0x00], None), Answer::Check(Sense::NO_MEDIUM));
    assert_eq!(run(&[0x00], Some(10)), Answer::Done);
    assert_eq!(run(&[0x25], Some(10)), Answer::Data(vec![0, 0, 0, 9, 0, 0, 8, 0]));
    let Answer::Data(inquiry) = run(&[0x12, 0, 0, 0, 36], Some(10)) else { panic!() };
    assert_eq!((inquiry.len(), inquiry[0], &inquiry[8..16]), (36, 5, &b"BULKHEAD"[..]));
    assert_eq!(
        run(&[0x28, 0, 0, 0, 0, 2, 0, 0, 3], Some(10)),
        Answer::Sectors { first: 2, count: 3, form: Form::USER }
    );
    assert_eq!(run(&[0x28, 0, 0, 0, 0, 9, 0, 0, 2], Some(10)), Answer::Check(Sense::OUT_OF_RANGE));
    let Answer::Data(toc) = run(&[0x43, 2, 0, 0, 0, 0, 0, 0, 20], Some(10)) else { panic!() };
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x16, 0xaa, 0, 0, 0, 2, 10]);
}

#[test]
fn a_wrapping_lba_is_out_of_range() {
    // CVE-2020-29443: block addresses near the top of the number's range.
    assert_eq!(run(&[0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1], Some(10)), Answer::Check(Sense::OUT_OF_RANGE));
    assert_eq!(
        run(&[0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(10)),
        Answer::Check(Sense::OUT_OF_RANGE)
    );
}

proptest! {
    #[test]
    fn any_packet_has_a_bounded_answer(p in prop::array::uniform12(any::<u8>()), sectors in prop::option::of(1u32..1000)) {
        match execute(&p, drive(sectors)) {
            Answer::Data(data) => prop_assert!(!data.is_empty() && data.len() < 1024),
            Answer::Sectors { first, count, .. } => prop_assert!(first + u64::from(count) <= u64::from(sectors.unwrap())),
            _ => {}
        }
    }
}
