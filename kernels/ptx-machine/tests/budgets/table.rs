//! The table of counters, `kernels/cuda/budgets.toml`.

use ptx_machine::sources;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The counters of a kernel at a shape, by their names.
pub(crate) type Counters = BTreeMap<String, u64>;

/// The counters of each kernel, by the kernel's name and the shape.
pub(crate) type Table = BTreeMap<String, Counters>;

/// Writes the table anew.
pub(crate) const COMMAND: &str = "ALIGN_WRITE_BUDGETS=1 cargo test -p ptx-machine --test budgets";

fn path() -> PathBuf {
    sources::headers_folder().join("budgets.toml")
}

/// Reads the table.
///
/// # Panics
/// If there is no table, or if it is not understood.
pub(crate) fn read() -> Table {
    let path = path();
    let fail = |error: &dyn std::fmt::Display| -> ! { panic!("{}: {error}; `{COMMAND}` writes it", path.display()) };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| fail(&error));
    toml::from_str(&text).unwrap_or_else(|error| fail(&error))
}

/// Writes the table.
///
/// # Panics
/// If it cannot be written.
pub(crate) fn write(table: &Table) {
    let head = format!(
        "# What each kernel does at some shapes, counted by the PTX machine. A test fails where a number grows. Made by\n\
         # `{COMMAND}`.\n"
    );
    let text = toml::to_string(table).expect("names and numbers");
    std::fs::write(path(), head + &text).unwrap_or_else(|error| panic!("{}: {error}", path().display()));
}

/// Returns what is wrong with the counters that were `found`: those that have grown since the `known` table was made, and the
/// kernels or shapes that only one of the two has.
pub(crate) fn faults(known: &Table, found: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    for (kernel, counters) in found {
        let Some(budget) = known.get(kernel) else {
            faults.push(format!("{kernel} is not in the table"));
            continue;
        };
        for (counter, now) in counters {
            match budget.get(counter) {
                Some(before) if now <= before => {}
                Some(before) => {
                    let by = match *before {
                        0 => String::new(),
                        before => format!(", by {:.1} %", 100.0 * (*now as f64 / before as f64 - 1.0)),
                    };
                    faults.push(format!("{kernel}: {counter} grew from {before} to {now}{by}"));
                }
                None => faults.push(format!("{kernel}: {counter} is not in the table")),
            }
        }
    }
    let gone = known.keys().filter(|kernel| !found.contains_key(*kernel));
    faults.extend(gone.map(|kernel| format!("{kernel} is in the table and was not counted")));
    faults
}
