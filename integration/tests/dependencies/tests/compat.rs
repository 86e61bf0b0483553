//! docs/compat.md matches the tables in the code. `UPDATE=1 cargo test -p bulkhead-dependencies --test compat` writes it.
use std::fmt::Write as _;
use std::path::Path;

const BEFORE: &str = "# Compatibility with libxl

Made from the option tables in `broker/launcher/src/{argv,machine}` and from `broker/control/src/qmp.rs`
(`UPDATE=1 cargo test -p bulkhead-dependencies --test compat`). `bulkhead compat ARGUMENTS…` uses the same table.

| word | meaning |
|---|---|
| *ignored*, *substituted* | a line in the guest's log says so |
| *refused* | the start ends with one line that gives the reason |
| in no table | refused too: nothing is silently missing |

Seen in the test bed (integration/tests/bed): libxl 4.17, and 4.20 where it differs. Replayed, not run: what differs in 4.21 and 4.22
(integration/sim/tests/libxl.rs).

## Arguments

";

const BETWEEN: &str = "
## QMP

Everything else is CommandNotFound. Events: `X_BULKHEAD_DEVICE_DIED` and `DEVICE_DELETED` (docs/operations.md, \"QMP events\"). In a stub
domain descriptor set 1 is console 1, the place for a saved guest.

| command | |
|---|---|
";

const AFTER: &str = "
## Unplugging

A guest may unplug its emulated devices if each of its emulated disks has a PV back end, or if it has no emulated disk. A back end is there for a
block device (`phy:`) and for a file in a format that Bulkhead serves (raw, qcow2). The guest of a stub domain has one for a file if Bulkhead, not
QEMU, serves the stub domain's disks in dom0. Other guests hear \"blacklisted\", and keep their IDE disk and their emulated cards.

Unplugging ends cards, with their processes and interfaces, and disks. A PV driver that comes before its guest has unplugged the disk finds
the back end closed (docs/decisions/0021). One that comes afterwards starts anew.
";

const ERRORS: &str = "# Errors

Made from the table in `broker/launcher/src/errors.rs` (`UPDATE=1 cargo test -p bulkhead-dependencies --test compat`). When a guest
does not start, the first line that begins with `bulkhead-dm: BH-` in `/var/log/xen/qemu-dm-NAME.log` has the reason.

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
