//! docs/compat.md is what the tables in the code say. `UPDATE=1 cargo test -p bulkhead-dependencies --test compat` writes it.
use std::fmt::Write as _;
use std::path::Path;

const BEFORE: &str = "# Compatibility with libxl

Made from the tables in `broker/launcher/src/argv/table.rs` and `broker/control/src/qmp.rs`
(`UPDATE=1 cargo test -p bulkhead-dependencies --test compat`). What `bulkhead compat ARGUMENTS…` says of a guest's arguments comes
from the same table.

What is *ignored* or *substituted* is a line in the guest's log. What is *refused* ends the start with one line that says
why, and so does every option, device and key that is in no table: nothing is silently not there.

Seen: libxl 4.17, and 4.20 for what it says otherwise, in the test bed (integration/tests/bed); what 4.21 and 4.22 say otherwise was replayed, not run (integration/sim/tests/libxl.rs).

## Arguments

";

const BETWEEN: &str = "
## QMP

Everything else is CommandNotFound. Events: `DEVICE_DELETED` when a guest has unplugged a card. In a stub domain set 1 is console 1,
where a saved guest would go.

| command | |
|---|---|
";

const AFTER: &str = "
## Unplugging

The unplug protocol is offered to a guest whose emulated disks all have a PV back end (a block device, `phy:`, or a file of a format that is
served here: raw, qcow2), or that has none; in a stub domain files have no back end for the guest yet. Others hear \"blacklisted\" and keep their IDE disk and their emulated cards. Unplugging takes
cards with their processes and interfaces, and disks. A PV driver that comes to such a disk before it has unplugged is told that the back
end is closed (docs/decisions/0021); one that comes after it begins anew.
";

const ERRORS: &str = "# Errors

Made from the table in `broker/launcher/src/errors.rs` (`UPDATE=1 cargo test -p bulkhead-dependencies --test compat`). When a guest
does not start, the first line that begins with `bulkhead-dm: BH-` in `/var/log/xen/qemu-dm-NAME.log` says why.

";

#[test]
fn the_page_of_errors_says_what_the_code_does() {
    let page = format!("{ERRORS}{}", bulkhead_launcher::errors::markdown());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/errors.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == page,
        "docs/errors.md is not what the code says; UPDATE=1 writes it"
    );
}

#[test]
fn the_page_says_what_the_code_does() {
    let mut page = format!("{BEFORE}{}{BETWEEN}", bulkhead_launcher::argv::markdown());
    for (name, what) in bulkhead_control::COMMANDS {
        writeln!(page, "| `{name}` | {what} |").unwrap();
    }
    page.push_str(AFTER);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/compat.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == page,
        "docs/compat.md is not what the code says; UPDATE=1 writes it"
    );
}
