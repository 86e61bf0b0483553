//! Drives without a transport: commands as values, and their replies.
use super::drive::{Drive, DriveSpec, Identity};
use super::registers::Registers;
use super::spec::{DeviceRegister, Sense, Status, command, error, reason};
use super::transfer::{Data, List, Protocol, Reply, Sectors};
use crate::backend::{Image, Job};
use proptest::prelude::*;

const SIZE: u64 = 1 << 20;

fn drive(cdrom: bool) -> Drive {
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, SIZE).unwrap();
    let image = Some(Image::raw(file, SIZE));
    Drive::new(DriveSpec { index: 0, cdrom, read_only: cdrom, image, identity: Identity::default() }, 0)
}

/// Registers of a command with an address of 28 bits.
fn lba(address: u32, count: u8) -> Registers {
    let [low, mid, high, top] = address.to_le_bytes();
    Registers {
        count: u16::from(count),
        lba: [low, mid, high, 0, 0, 0],
        device: DeviceRegister::new().with_lba(true).with_high(top),
        ..Registers::default()
    }
}

fn pio(block: usize) -> Protocol {
    Protocol::Pio { block }
}

fn expect_data(reply: Reply) -> (Data, Protocol) {
    match reply {
        Reply::Data { what, by } => (what, by),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_command_by_pio_and_by_dma_names_the_same_sectors() {
    let mut d = drive(false);
    for (code, by) in [(command::READ_SECTORS, pio(512)), (command::READ_DMA, Protocol::Dma)] {
        let (Data::In(sectors), how) = expect_data(d.command(code, &mut lba(7, 3))) else { panic!() };
        assert_eq!((sectors, how), (Sectors::of_disk(7, 3), by));
    }
    for (code, by) in [(command::WRITE_SECTORS, pio(512)), (command::WRITE_DMA, Protocol::Dma)] {
        let (Data::Out(sectors), how) = expect_data(d.command(code, &mut lba(7, 3))) else { panic!() };
        assert_eq!((sectors, how), (Sectors::of_disk(7, 3), by));
    }
    d.command(command::SET_MULTIPLE, &mut lba(0, 8));
    let (Data::In(_), how) = expect_data(d.command(command::READ_MULTIPLE, &mut lba(0, 20))) else { panic!() };
    assert_eq!(how, pio(8 * 512));
}

#[test]
fn addresses_of_48_bits_have_their_upper_half_in_the_earlier_values() {
    let mut d = drive(false);
    let mut r = Registers { count: 0x0002, lba: [0x05, 0, 0, 0, 0, 0], ..Registers::default() };
    let (Data::In(sectors), _) = expect_data(d.command(command::READ_DMA_EXT, &mut r)) else { panic!() };
    assert_eq!(sectors, Sectors::of_disk(5, 2));
    r.lba = [0x05, 0, 0, 1, 0, 0];
    assert!(matches!(d.command(command::READ_DMA_EXT, &mut r), Reply::Ended));
    assert_eq!((r.status, r.error), (Status::READY.with_err(true), error::IDNF));
    d.command(command::READ_NATIVE_MAX_EXT, &mut r);
    assert_eq!((r.lba, r.status, r.error), ([0xff, 0x07, 0, 0, 0, 0], Status::READY, 0));
}

#[test]
fn registers_that_a_command_does_not_answer_in_stay_unchanged() {
    let mut d = drive(false);
    let given = Registers { features: 0x1203, count: 0x3445, lba: [1, 2, 3, 4, 5, 6], ..lba(0, 0) };
    let mut r = given;
    d.command(command::SET_FEATURES, &mut r);
    assert_eq!(r, Registers { status: Status::READY, lba: given.lba, ..given });
    d.command(command::CHECK_POWER, &mut r);
    assert_eq!(r.count, 0x34ff);
}

/// Sectors that exceed the buffer are read in parts, which together are complete.
#[test]
fn a_long_read_goes_part_by_part() {
    let mut sectors = Sectors::of_disk(3, 700);
    let mut parts = Vec::new();
    while !sectors.is_empty() {
        let Job::Read { offset, len } = sectors.read() else { panic!() };
        parts.push((offset, len));
    }
    assert_eq!(parts, [(3 * 512, 256 * 512), (259 * 512, 256 * 512), (515 * 512, 188 * 512)]);
}

#[test]
fn writes_go_block_by_block() {
    let mut sectors = Sectors::of_disk(4, 3);
    assert_eq!(sectors.block(1024), 1024);
    let Job::Write { offset, data } = sectors.write(vec![1; 1024]) else { panic!() };
    assert_eq!((offset, data.len(), sectors.block(1024)), (4 * 512, 1024, 512));
    let Job::Write { offset, .. } = sectors.write(vec![1; 512]) else { panic!() };
    assert_eq!((offset, sectors.is_empty()), (6 * 512, true));
}

/// A packet command: its data by either protocol, its end, and its sense for REQUEST SENSE.
#[test]
fn a_packet_follows_its_command() {
    let mut d = drive(true);
    let read = [0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0];
    let mut r = Registers::default();
    r.set_byte_count(0xffff);
    assert!(matches!(d.command(command::PACKET, &mut r), Reply::Packet));
    assert_eq!((r.status.drq(), r.count), (true, u16::from(reason::COMMAND)));
    let (data, by) = expect_data(d.packet(&read, &mut r));
    assert_eq!((data.bytes(), data.to_host(), by), (4096, true, pio(0xfffe)));
    d.data_request(true, 4096, &mut r);
    assert_eq!((r.byte_count(), r.low_count()), (4096, reason::DATA_IN));
    d.done(&mut r);
    assert_eq!((r.status, r.low_count()), (Status::READY, reason::STATUS));

    r.features = 1;
    d.command(command::PACKET, &mut r);
    let (Data::In(_), Protocol::Dma) = expect_data(d.packet(&read, &mut r)) else { panic!() };
    d.command(command::PACKET, &mut r);
    assert!(matches!(d.packet(&[0xff; 12], &mut r), Reply::Ended));
    assert_eq!((r.status, r.error, r.low_count()), (Status::READY.with_err(true), 0x54, reason::STATUS));
    assert_eq!(d.sense, Sense::ILLEGAL_COMMAND);
}

#[test]
fn a_list_is_taken_whole_or_not_at_all() {
    let mut d = drive(false);
    let mut r = Registers { features: 1, ..lba(0, 1) };
    let (Data::List { list: List::Ranges, bytes: 512 }, Protocol::Dma) =
        expect_data(d.command(command::DATA_SET_MANAGEMENT, &mut r))
    else {
        panic!()
    };
    let range = |first: u64, count: u64| first | count << 48;
    let list: Vec<u8> = [range(1, 2), range(0, 0), range(2047, 1)].iter().flat_map(|w| w.to_le_bytes()).collect();
    let Reply::Job(Job::Trim(ranges)) = d.list(List::Ranges, &list, &mut r) else { panic!() };
    assert_eq!(ranges, [(512, 1024), (2047 * 512, 512)]);
    let list: Vec<u8> = [range(1, 2), range(2047, 2)].iter().flat_map(|w| w.to_le_bytes()).collect();
    assert!(matches!(d.list(List::Ranges, &list, &mut r), Reply::Ended));
    assert_eq!(r.error, error::ABRT);
}

fn registers() -> impl Strategy<Value = Registers> {
    (any::<u16>(), any::<u16>(), any::<[u8; 6]>(), any::<u8>(), any::<bool>()).prop_map(|(f, c, lba, device, small)| {
        let [low, mid, ..] = lba;
        Registers {
            features: f,
            count: c,
            lba: if small { [low, mid & 7, 0, 0, 0, 0] } else { lba },
            device: DeviceRegister::from_bits(device),
            ..Registers::default()
        }
    })
}

proptest! {
    /// With any registers, transferred sectors are on the medium, and a command that has ended clears BSY and DRQ.
    #[test]
    fn sectors_transferred_by_any_command_are_on_the_medium(
        cdrom in any::<bool>(),
        commands in prop::collection::vec((any::<u8>(), registers(), any::<[u8; 12]>()), 1..20),
    ) {
        let mut d = drive(cdrom);
        for (code, mut r, packet) in commands {
            let mut reply = d.command(code, &mut r);
            if matches!(reply, Reply::Packet) {
                prop_assert!(cdrom && r.status.drq());
                reply = d.packet(&packet, &mut r);
            }
            match reply {
                Reply::Ended => {
                    prop_assert!(r.status.drdy() && !r.status.bsy() && !r.status.drq());
                    prop_assert_eq!(r.status.err(), r.error != 0);
                }
                Reply::Packet => prop_assert!(false, "a packet asks for a packet"),
                Reply::Verify(mut sectors) | Reply::Data { what: Data::In(mut sectors) | Data::Out(mut sectors), .. } => {
                    let mut end = 0;
                    while !sectors.is_empty() {
                        let Job::Read { offset, len } = sectors.read() else { panic!() };
                        prop_assert!(len > 0);
                        end = offset + len as u64;
                    }
                    prop_assert!(end > 0 && end <= SIZE);
                }
                Reply::Data { what, by } => {
                    prop_assert!(what.bytes() > 0 && what.bytes() <= 4096);
                    prop_assert!(by != pio(0));
                }
                Reply::Job(job) => prop_assert!(matches!(job, Job::Flush)),
            }
        }
    }
}
