//! Parses a viewer's messages after the handshake (RFC 6143, 7.5; rfbproto, "Client to Server Messages"). Parsing has no state: the
//! same bytes always give the same messages.
use super::ViewerError;
use crate::vnc::pixel::PixelFormat;
use crate::vnc::spec::{client, fence};
use thiserror::Error;

/// The result of parsing the beginning of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed<T> {
    /// A complete value, and the number of its bytes.
    Whole(T, usize),
    /// More bytes are needed.
    Partial,
    /// The bytes violate the protocol.
    Broken(ViewerError),
}

/// Why a parser stops, for `?`: `Partial` or `Broken` of [`Parsed`].
enum Stop {
    Partial,
    Broken(ViewerError),
}

impl<T> Parsed<T> {
    fn of(read: Result<(T, usize), Stop>) -> Self {
        match read {
            Ok((what, taken)) => Self::Whole(what, taken),
            Err(Stop::Partial) => Self::Partial,
            Err(Stop::Broken(why)) => Self::Broken(why),
        }
    }
}

/// A message without the part of variable length: see [`Tail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Sets the pixel format.
    SetPixelFormat(PixelFormat),
    /// Sets the supported encodings; `count` numbers follow.
    SetEncodings { count: u16 },
    /// Requests an update: of these lines, or of changes if `incremental` is set.
    UpdateRequest { incremental: bool, y: u16, height: u16 },
    /// A key is pressed or released.
    Key { down: bool, keysym: u32 },
    /// The pointer has moved, or its buttons have changed.
    Pointer { buttons: u8, x: u16, y: u16 },
    /// Text was copied in the viewer; `len` bytes follow.
    CutText { len: u32 },
    /// Starts or stops updates without requests.
    ContinuousUpdates { on: bool },
    /// A fence, which is answered in order.
    Fence { flags: u32, payload: &'a [u8] },
    /// Requests another size of the picture, on `screens` screens, whose descriptions follow.
    SetDesktopSize { width: u16, height: u16, screens: u8 },
    /// A key is pressed or released, with its scancode.
    ScancodeKey { down: bool, keysym: u32, scancode: u32 },
}

/// The part of variable length after a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tail {
    /// There is none.
    #[default]
    Nothing,
    /// This many encodings, which are parsed one by one.
    Encodings(u16),
    /// This many bytes, which are skipped.
    Skipped(u32),
}

/// Bytes of a screen in `SetDesktopSize`.
const SCREEN: u32 = 16;

impl<'a> Message<'a> {
    /// Parses one message.
    pub(super) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        Parsed::of(read(bytes))
    }

    /// The part that follows the message.
    pub(super) fn tail(&self) -> Tail {
        match *self {
            Self::SetEncodings { count: count @ 1.. } => Tail::Encodings(count),
            Self::CutText { len: len @ 1.. } => Tail::Skipped(len),
            Self::SetDesktopSize { screens: screens @ 1.., .. } => {
                Tail::Skipped(u32::from(screens).saturating_mul(SCREEN))
            }
            _ => Tail::Nothing,
        }
    }
}

/// One encoding of the list that follows `SetEncodings`.
pub(super) fn parse_encoding(bytes: &[u8]) -> Parsed<i32> {
    Parsed::of(array(bytes, 0).map(|number| (i32::from_be_bytes(number), 4)))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Stop> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(Stop::Partial)
}

fn read(bytes: &[u8]) -> Result<(Message<'_>, usize), Stop> {
    let byte = |at: usize| bytes.get(at).copied().ok_or(Stop::Partial);
    let short = |at: usize| array(bytes, at).map(u16::from_be_bytes);
    let long = |at: usize| array(bytes, at).map(u32::from_be_bytes);
    Ok(match byte(0)? {
        client::SET_PIXEL_FORMAT => match PixelFormat::from_bytes(array(bytes, 4)?) {
            Some(format) => (Message::SetPixelFormat(format), 20),
            None => return Err(Stop::Broken(ViewerError::PixelFormat)),
        },
        client::SET_ENCODINGS => (Message::SetEncodings { count: short(2)? }, 4),
        client::UPDATE_REQUEST => {
            (Message::UpdateRequest { incremental: byte(1)? != 0, y: short(4)?, height: short(8)? }, 10)
        }
        client::KEY => (Message::Key { down: byte(1)? != 0, keysym: long(4)? }, 8),
        client::POINTER => (Message::Pointer { buttons: byte(1)?, x: short(2)?, y: short(4)? }, 6),
        // The extended clipboard's lengths are negative.
        client::CUT_TEXT => (Message::CutText { len: long(4)?.cast_signed().unsigned_abs() }, 8),
        client::ENABLE_CONTINUOUS_UPDATES => {
            let _height = short(8)?;
            (Message::ContinuousUpdates { on: byte(1)? != 0 }, 10)
        }
        client::FENCE => {
            let (flags, len) = (long(4)?, usize::from(byte(8)?));
            if len > fence::LONGEST {
                return Err(Stop::Broken(ViewerError::LongFence));
            }
            let payload = bytes.get(9..).and_then(|rest| rest.get(..len)).ok_or(Stop::Partial)?;
            (Message::Fence { flags, payload }, 9usize.saturating_add(len))
        }
        client::SET_DESKTOP_SIZE => {
            let _padding = byte(7)?;
            (Message::SetDesktopSize { width: short(2)?, height: short(4)?, screens: byte(6)? }, 8)
        }
        client::QEMU => {
            if byte(1)? != client::QEMU_KEY {
                return Err(Stop::Broken(ViewerError::NotOffered));
            }
            (Message::ScancodeKey { down: short(2)? != 0, keysym: long(4)?, scancode: long(8)? }, 12)
        }
        _ => return Err(Stop::Broken(ViewerError::UnknownMessage)),
    })
}

/// How the parser depends on where the socket cuts the bytes. The messages are Debug output.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum CutError {
    /// The parser consumes nothing, or more bytes than there are.
    #[error("{message} takes {taken} bytes of {len}")]
    Length { message: String, taken: usize, len: usize },
    /// Without the bytes after it, the message parses otherwise.
    #[error("{0} depends on the bytes after it")]
    Trailing(String),
    /// The first `len` bytes of the message are not reported as incomplete.
    #[error("{len} bytes of {message} are not reported as incomplete")]
    NotPartial { message: String, len: usize },
}

/// Parses all messages at the beginning of `bytes`, whole and cut at every byte; for the fuzz target and the property tests.
///
/// # Errors
/// The result depends on where the socket cuts.
pub(crate) fn check_cuts(bytes: &[u8]) -> Result<(), CutError> {
    let mut rest = bytes;
    while let Parsed::Whole(message, taken) = Message::parse(rest) {
        let Some((whole, later)) = rest.split_at_checked(taken).filter(|_| taken > 0) else {
            return Err(CutError::Length { message: format!("{message:?}"), taken, len: rest.len() });
        };
        if Message::parse(whole) != Parsed::Whole(message, taken) {
            return Err(CutError::Trailing(format!("{message:?}")));
        }
        let cut = |n: &usize| Message::parse(whole.get(..*n).unwrap_or_default()) != Parsed::Partial;
        if let Some(len) = (0..taken).find(cut) {
            return Err(CutError::NotPartial { message: format!("{message:?}"), len });
        }
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
