//! Why a command fails, and the exit status that reports it.
use bulkhead_xen::XenError;
use std::path::PathBuf;
use std::process::ExitCode;
use thiserror::Error;

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The device model refuses the command; the text is its own.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// A file for the command's result cannot be made or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("/proc: {0}")]
    Proc(std::io::Error),
    /// The kernel does not show the filters of a process.
    #[error(
        "--filters: {0}; only root without a system call filter sees them, on a kernel with CONFIG_CHECKPOINT_RESTORE"
    )]
    Filters(std::io::Error),
    /// The device model's answer does not have the expected form.
    #[error("{guest}: {part}: {source}")]
    Answer { guest: String, part: &'static str, source: AnswerError },
    #[error("{guest}: the answer has no picture")]
    NoPicture { guest: String },
    #[error("no key of the US layout produces {0:?}; nothing was typed")]
    NoKey(char),
    /// No device model in this domain is this guest's.
    #[error("no device model of {0} runs in this domain")]
    NoDeviceModel(String),
    /// A check has a bad result, which has been printed.
    #[error("a check failed")]
    Wrong,
}

impl Failure {
    /// 1 for a command that failed, 3 for a guest that cannot be reached, 4 for a bad result of a check.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Unreachable(_) => 3,
            Self::Wrong => 4,
            _ => 1,
        })
    }
}

/// Why an answer cannot be decoded.
#[derive(Debug, Error)]
pub(crate) enum AnswerError {
    #[error(transparent)]
    Base64(#[from] base64::DecodeError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Why a guest's device model cannot be reached.
#[derive(Debug, Error)]
pub(crate) enum Unreachable {
    #[error("{guest}: {source}")]
    Xenstore { guest: String, source: XenError },
    #[error("{0}: there is no domain of this name")]
    NoDomain(String),
    #[error("{0}: there are several domains of this name; use the number")]
    SeveralDomains(String),
    #[error("{guest}: {socket}: {source}")]
    Connection { guest: String, socket: String, source: ConnectionError },
}

/// Why a connection to a QMP socket fails.
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The device model closed the connection before its answer.
    #[error("the connection was closed")]
    Closed,
    /// An answer is longer than any answer may be.
    #[error("the answer is too long")]
    TooLong,
    /// A line is not JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
