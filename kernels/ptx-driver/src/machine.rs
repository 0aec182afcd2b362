//! Functions for tests, which no real driver has: they add a card, and read its counts and reports.

use crate::card::Card;
use crate::config::Config;
use crate::handles::handles;
use ptx_machine::driver::KernelCounts;
use std::ffi::{CStr, c_char, c_int};
use std::panic::catch_unwind;
use std::sync::Arc;

/// Adds a card. Returns its number. If the description is not understood, says so on stderr and returns -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptxMachineCard(description: *const c_char) -> c_int {
    // SAFETY: the caller passes a string that ends with a zero byte.
    let description = unsafe { CStr::from_ptr(description) }.to_string_lossy().into_owned();
    let added = catch_unwind(|| {
        let config = Config::parse(&description)?;
        let mut handles = handles();
        handles.cards.push(Arc::new(Card::new(config)));
        Ok::<_, String>(handles.cards.len() as c_int - 1)
    });
    match added {
        Ok(Ok(ordinal)) => ordinal,
        Ok(Err(error)) => {
            eprintln!("PTX machine: {error}");
            -1
        }
        Err(_) => -1,
    }
}

/// Writes a card's counts and reports into `text`, line by line: requests for memory, launches, waits, live allocations, then
/// each report. Writes at most `room` bytes, the last of them zero. Returns the length of the whole text without the zero byte,
/// or 0 if there is no such card.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptxMachineTally(ordinal: c_int, text: *mut c_char, room: usize) -> usize {
    let Ok(card) = handles().card(ordinal) else { return 0 };
    let tally = card.tally();
    let mut lines = vec![
        format!("requests={}", tally.requests),
        format!("launches={}", tally.launches),
        format!("waits={}", tally.waits),
        format!("live={}", card.memory.count()),
    ];
    lines.extend(card.reports());
    // SAFETY: the caller gives room for `room` bytes.
    unsafe { write(&lines.join("\n"), text, room) }
}

/// Writes what each kernel did on a card into `text`, if the card counts: a line for each kernel, with its name and the values of
/// `KernelCounts`. Room and result are those of [`ptxMachineTally`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptxMachineCounts(ordinal: c_int, text: *mut c_char, room: usize) -> usize {
    let Ok(card) = handles().card(ordinal) else { return 0 };
    let line = |(kernel, counts): (String, KernelCounts)| {
        let values = counts.named().map(|(_, value)| value.to_string());
        format!("{kernel} {}", values.join(" "))
    };
    let lines: Vec<String> = card.counts().into_iter().map(line).collect();
    // SAFETY: the caller gives room for `room` bytes.
    unsafe { write(&lines.join("\n"), text, room) }
}

/// Writes as much of `all` as there is room for, and a zero byte. Returns the length of `all`.
///
/// # Safety
/// There are `room` bytes at `text` that can be written.
unsafe fn write(all: &str, text: *mut c_char, room: usize) -> usize {
    if room > 0 {
        let length = all.len().min(room - 1);
        // SAFETY: the caller gives room for `room` bytes, and `length` is less.
        unsafe {
            std::ptr::copy_nonoverlapping(all.as_ptr(), text.cast(), length);
            text.cast::<u8>().add(length).write(0);
        }
    }
    all.len()
}
