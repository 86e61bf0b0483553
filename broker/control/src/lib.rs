//! Control: speaks QMP with libxl and operators, gRPC with every process, and writes the guest's log. It holds no
//! right worth stealing: no ioreq page, no guest memory, no path of the host. What it needs of the host it asks of the
//! launcher.

mod clients;
mod json;
mod keys;
mod launcher;
mod log;
mod qmp;
mod run;

pub use run::run;
