//! Assembles PTX to machine code for every architecture, to see how many registers each kernel needs.

use super::wheels::{self, Wheel};
use ptx_machine::sources;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Architectures, each with an assembler that supports it and the name of its column in the table.
const TARGETS: [(&str, &Wheel, &str); 9] = [
    ("sm_80", &wheels::PTXAS, "sm_80"),
    ("sm_86", &wheels::PTXAS, "sm_86"),
    ("sm_89", &wheels::PTXAS, "sm_89"),
    ("sm_90", &wheels::PTXAS, "sm_90"),
    ("sm_80", &wheels::NEWER_PTXAS, "sm_80-12.9"),
    ("sm_86", &wheels::NEWER_PTXAS, "sm_86-12.9"),
    ("sm_89", &wheels::NEWER_PTXAS, "sm_89-12.9"),
    ("sm_90", &wheels::NEWER_PTXAS, "sm_90-12.9"),
    ("sm_120", &wheels::NEWER_PTXAS, "sm_120-12.9"),
];

/// The number of registers that each kernel needs, by the kernel's name and then by column.
type Table = BTreeMap<String, BTreeMap<String, u32>>;

const HEAD: &str = "# Registers of each kernel, by architecture and assembler (12.0.140 where none is named). Made by\n\
                    # `cargo run -q -p ptx-machine --bin ptx registers`; CI fails where one needs more, spills, or has a stack frame.\n";

/// Writes the table of registers. If `check` is true, compares the kernels with the table instead.
///
/// # Errors
/// The kernels that spill, have a stack frame, or do not fit the table, or the error of a file or of the assembler.
pub(crate) fn run(check: bool) -> Result<(), String> {
    let path = sources::headers_folder().join("registers.toml");
    let mut faults = Vec::new();
    let found = assemble_all(&mut faults)?;
    if check {
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let known: Table = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        compare(&known, &found, &mut faults);
    } else if faults.is_empty() {
        let text = toml::to_string(&found).map_err(|error| error.to_string())?;
        std::fs::write(&path, HEAD.to_owned() + &text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

fn compare(known: &Table, found: &Table, faults: &mut Vec<String>) {
    for (kernel, columns) in found {
        for (column, registers) in columns {
            match known.get(kernel).and_then(|columns| columns.get(column)) {
                Some(most) if registers <= most => {}
                Some(most) => {
                    faults.push(format!("{kernel} needs {registers} registers on {column}, the table has {most}"))
                }
                None => faults.push(format!("{kernel} on {column} is not in the table")),
            }
        }
    }
    for kernel in known.keys().filter(|kernel| !found.contains_key(*kernel)) {
        faults.push(format!("{kernel} is in the table and in no PTX file"));
    }
}

fn assemble_all(faults: &mut Vec<String>) -> Result<Table, String> {
    let files = sources::ptx_files().map_err(|error| error.to_string())?;
    let mut table = Table::new();
    for (architecture, wheel, column) in TARGETS {
        let assembler = wheel.file()?;
        for file in &files {
            for Properties { kernel, registers, stack, spilled } in assemble(&assembler, architecture, file)? {
                // some kernels of the machine's tests index arrays, which needs a stack
                let may_have_stack = file.starts_with(sources::tests_folder());
                if stack > 0 && !may_have_stack || spilled > 0 {
                    faults.push(format!("{kernel} on {column}: a stack of {stack} bytes, {spilled} bytes spilled"));
                }
                table.entry(kernel).or_default().insert(column.to_owned(), registers);
            }
        }
    }
    Ok(table)
}

/// What the assembler says about a kernel.
struct Properties {
    kernel: String,
    registers: u32,
    stack: u32,
    spilled: u32,
}

fn assemble(assembler: &Path, architecture: &str, file: &Path) -> Result<Vec<Properties>, String> {
    let output = Command::new(assembler)
        .args(["-v", &format!("-arch={architecture}"), "-o", "/dev/null"])
        .arg(file)
        .output()
        .map_err(|error| format!("{}: {error}", assembler.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} for {architecture}: {text}", file.display()));
    }
    properties(&text)
        .ok_or_else(|| format!("{}: what it says of {} is not understood: {text}", assembler.display(), file.display()))
}

/// Parses lines such as `Function properties for NAME`, `0 bytes stack frame, 0 bytes spill stores, ..` and
/// `Used 24 registers, ..`. `None` if a number is missing.
fn properties(text: &str) -> Option<Vec<Properties>> {
    let number_before = |line: &str, word: &str| -> Option<u32> {
        line.split_once(word)?.0.split_whitespace().next_back()?.parse().ok()
    };
    let mut all: Vec<Properties> = Vec::new();
    for line in text.lines() {
        if let Some((_, kernel)) = line.split_once("Function properties for ") {
            all.push(Properties { kernel: kernel.trim().to_owned(), registers: 0, stack: 0, spilled: 0 });
        } else if let Some(last) = all.last_mut() {
            if line.contains("bytes stack frame") {
                last.stack = number_before(line, " bytes stack frame")?;
                last.spilled = number_before(line, " bytes spill stores")? + number_before(line, " bytes spill loads")?;
            } else if line.contains("Used ") {
                last.registers = number_before(line, " registers")?;
            }
        }
    }
    // every kernel uses registers, so 0 means that the line is missing
    all.iter().all(|kernel| kernel.registers > 0).then_some(all)
}
