//! One question about one image: the header of a qcow2 image, the partition table of a disk, or the sections of a saved machine. The
//! process exits after the answer.
mod partitions;
mod qcow2;
mod state;

use bulkhead_plan::intake::{Answer, HeaderError, Question};
use bulkhead_runtime::{StartError, answer_once};
use bulkhead_stream::ReadError;
use rustix::fd::OwnedFd;

/// Runs the process.
pub(crate) fn run() -> Result<(), StartError> {
    answer_once(|question, image| answer(question, &image))
}

fn answer(question: Question, image: &OwnedFd) -> Answer {
    match question {
        Question::Header => {
            let mut bytes = vec![0; qcow2::LOOKED_AT];
            let read = rustix::io::pread(image, bytes.as_mut_slice(), 0).map_err(|_| HeaderError::Unreadable);
            Answer::Header(read.and_then(|n| qcow2::parse(bytes.get(..n).unwrap_or_default())))
        }
        Question::Partitions { sectors } => {
            let mut first = [0; partitions::SECTOR];
            let whole = rustix::io::pread(image, &mut first, 0) == Ok(partitions::SECTOR);
            Answer::Partitions(if whole { partitions::partitioned(&first, sectors) } else { None })
        }
        Question::State => {
            let mut bytes = vec![0; bulkhead_stream::LONGEST];
            let read = rustix::io::pread(image, bytes.as_mut_slice(), 0).map_err(|_| ReadError::Unreadable);
            Answer::State(read.and_then(|n| state::index(bytes.get(..n).unwrap_or_default())))
        }
    }
}
