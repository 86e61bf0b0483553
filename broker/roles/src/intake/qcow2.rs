//! A qcow2 image's header: the size, and the name of the backing file, which the device's process cannot open. That process reads
//! all the rest. The image may be hostile: one bounded read, parsed by one total function.
//! Source: QEMU's docs/interop/qcow2.rst.

use bulkhead_plan::ImageFormat;
use bulkhead_plan::intake::{BackingFormat, CLUSTER_BITS, Header, HeaderError, MAX_NAME, MAX_REFCOUNT_ORDER};

/// Bytes of the file that are read. The header, its extensions and the backing file's name are in the first cluster.
pub(super) const LOOKED_AT: usize = 64 << 10;
/// The header extension with the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Bytes of a header of version 2, which does not say its length.
const HEADER_2: u32 = 72;
/// Bits of a reference count in version 2, as a power of two.
const REFCOUNT_ORDER_2: u32 = 4;
/// Incompatible features that pass here: the image was not closed (bit 0) or is marked corrupt (bit 1). The device's process
/// decides on them.
const KNOWN_FEATURES: u64 = 3;

fn word<const N: usize>(bytes: &[u8], at: u32) -> Option<[u8; N]> {
    bytes.get(at as usize..)?.first_chunk::<N>().copied()
}

/// Parses the first bytes of the file.
///
/// # Errors
/// The image is none, has a feature that is not supported, or its header is cut off or impossible.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
    const SHORT: HeaderError = HeaderError::Short;
    let u32_at = |at| word(bytes, at).map(u32::from_be_bytes).ok_or(SHORT);
    let u64_at = |at| word(bytes, at).map(u64::from_be_bytes).ok_or(SHORT);
    if word(bytes, 0) != Some(*b"QFI\xfb") {
        return Err(HeaderError::Magic);
    }
    let version = u32_at(4)?;
    if !matches!(version, 2 | 3) {
        return Err(HeaderError::Version);
    }
    if u32_at(32)? != 0 {
        return Err(HeaderError::Encrypted);
    }
    if version == 3 && u64_at(72)? & !KNOWN_FEATURES != 0 {
        return Err(HeaderError::Features);
    }
    let size = u64_at(24)?;
    let cluster_bits = u8::try_from(u32_at(20)?).ok().filter(|bits| CLUSTER_BITS.contains(bits));
    let cluster_bits = cluster_bits.ok_or(HeaderError::ClusterSize)?;
    let refcount_order = if version == 3 { u32_at(96)? } else { REFCOUNT_ORDER_2 };
    let refcount_order = u8::try_from(refcount_order).ok().filter(|order| *order <= MAX_REFCOUNT_ORDER);
    let refcount_order = refcount_order.ok_or(HeaderError::RefcountSize)?;
    let (name_at, name_len) = (u64_at(8)?, u32_at(16)?);
    if name_at == 0 {
        return Ok(Header { size, cluster_bits, refcount_order, backing: None });
    }
    if name_len == 0 || name_len as usize > MAX_NAME {
        return Err(HeaderError::NameLength);
    }
    let name = u32::try_from(name_at).ok().and_then(|at| bytes.get(at as usize..)?.get(..name_len as usize));
    let name = name.and_then(|n| std::str::from_utf8(n).ok()).filter(|n| !n.contains('\0'));
    let name = name.ok_or(HeaderError::Name)?;
    let mut at = if version == 3 { u32_at(100)? } else { HEADER_2 };
    let mut format = BackingFormat::Unnamed;
    // Each extension takes at least 8 of the read bytes, so the loop ends.
    while let (Ok(kind), Ok(len)) = (u32_at(at), u32_at(at.saturating_add(4))) {
        at = at.saturating_add(8);
        if kind == 0 {
            break;
        }
        if kind == BACKING_FORMAT {
            let text = bytes.get(at as usize..).and_then(|b| b.get(..len as usize)).ok_or(HeaderError::Format)?;
            format = match text {
                b"raw" => BackingFormat::Known(ImageFormat::Raw),
                b"qcow2" => BackingFormat::Known(ImageFormat::Qcow2),
                _ => BackingFormat::Other,
            };
        }
        at = at.saturating_add(len).checked_next_multiple_of(8).ok_or(SHORT)?;
    }
    Ok(Header { size, cluster_bits, refcount_order, backing: Some((name.to_owned(), format)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(version: u32, backing: Option<(&str, &str)>) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut put = |at: usize, b: &[u8]| bytes[at..at + b.len()].copy_from_slice(b);
        put(0, b"QFI\xfb");
        put(4, &version.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(24, &(1u64 << 30).to_be_bytes());
        put(100, &104u32.to_be_bytes());
        if let Some((name, format)) = backing {
            let at = if version == 3 { 104 } else { 72 };
            put(at, &0x1234_5678u32.to_be_bytes());
            put(at + 4, &3u32.to_be_bytes());
            put(at + 16, &BACKING_FORMAT.to_be_bytes());
            put(at + 20, &(format.len() as u32).to_be_bytes());
            put(at + 24, format.as_bytes());
            put(8, &1000u64.to_be_bytes());
            put(16, &(name.len() as u32).to_be_bytes());
            put(1000, name.as_bytes());
        }
        bytes
    }

    #[test]
    fn size_and_backing_file() {
        assert_eq!(
            parse(&image(3, None)),
            Ok(Header { size: 1 << 30, cluster_bits: 16, refcount_order: 4, backing: None })
        );
        for version in [2, 3] {
            let want = Some(("base.img".to_owned(), BackingFormat::Known(ImageFormat::Raw)));
            assert_eq!(parse(&image(version, Some(("base.img", "raw")))).unwrap().backing, want);
        }
    }

    #[test]
    fn what_is_not_supported_or_impossible_is_said() {
        let changed = |at: usize, byte: u8| {
            let mut bytes = image(3, Some(("base.img", "raw")));
            bytes[at] = byte;
            parse(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, b'x'), HeaderError::Magic);
        assert_eq!(changed(7, 9), HeaderError::Version);
        assert_eq!(changed(35, 1), HeaderError::Encrypted);
        assert_eq!(changed(79, 4), HeaderError::Features);
        assert_eq!([changed(23, 8), changed(23, 22)], [HeaderError::ClusterSize; 2]);
        assert_eq!(changed(99, 7), HeaderError::RefcountSize);
        assert_eq!(changed(16, 0x40), HeaderError::NameLength);
        assert_eq!(changed(8, 0x40), HeaderError::Name);
        assert_eq!(changed(1002, 0), HeaderError::Name);
        assert_eq!(parse(&image(3, None)[..50]), Err(HeaderError::Short));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic: bool) {
            if magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn a_changed_header_is_a_header_or_an_error(at in 0usize..1100, byte: u8) {
            let mut bytes = image(3, Some(("base.img", "raw")));
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}
