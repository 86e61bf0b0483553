//! The result of a command.
use serde_json::Value;

/// The `error` of a QMP answer (docs/interop/qmp-spec of QEMU).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QmpError {
    pub(crate) class: &'static str,
    pub(crate) description: String,
}

impl QmpError {
    pub(crate) fn generic(text: impl std::fmt::Display) -> Self {
        Self { class: "GenericError", description: text.to_string() }
    }

    pub(crate) fn not_found(text: String) -> Self {
        Self { class: "DeviceNotFound", description: text }
    }

    /// The error for a command that is unknown, or not allowed in this state of the session.
    pub(crate) fn no_command(text: impl Into<String>) -> Self {
        Self { class: "CommandNotFound", description: text.into() }
    }
}

/// The value of `return`, or the error.
pub(crate) type Outcome = Result<Value, QmpError>;
