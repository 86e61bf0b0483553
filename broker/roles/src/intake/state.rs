//! The sections of a saved machine.
use bulkhead_plan::intake::StateIndex;
use bulkhead_stream::{Name, ReadError, read};

/// Where the sections of a stream are, and what the launcher has to know before any process starts.
pub(super) fn index(stream: &[u8]) -> Result<StateIndex, ReadError> {
    let index = read(stream)?;
    let broker = index.payload(Name::BROKER, stream).ok_or(ReadError::Launcher)?;
    let video_ram = bulkhead_ioreq::saved_video_ram(broker).ok_or(ReadError::Launcher)?;
    index.payload(Name::MACHINE, stream).ok_or(ReadError::Launcher)?;
    Ok(StateIndex { time: index.time, video_ram, places: index.places })
}
