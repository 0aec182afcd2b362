//! The functions of a CUDA driver, on top of the PTX machine.
//!
//! A program that opens this library in place of `libcuda.so` finds cards whose kernels the machine runs. `PTX_MACHINE` in the
//! environment describes the first card (`config.rs`). `ptxMachineCard` adds more cards, each with its own memory, streams and
//! faults. `PTX_MACHINE_MODULES` names a folder of PTX files. If a module that the program loads has a kernel of the same name as
//! a kernel in one of these files, the file replaces the whole module.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::missing_safety_doc, reason = "the contracts are those of cuda.h")]
#![allow(missing_docs, reason = "the functions are documented in cuda.h")]

mod card;
mod config;
mod devices;
mod handles;
mod launching;
mod machine;
mod memory;
mod status;
mod streams;
mod work;

pub use devices::*;
pub use launching::*;
pub use machine::*;
pub use memory::*;
pub use status::Status;
pub use streams::*;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a function of the driver. A panic, which is a defect of the machine, becomes an unknown error.
fn call(function: impl FnOnce() -> Result<(), Status>) -> Status {
    match catch_unwind(AssertUnwindSafe(function)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => Status::UNKNOWN,
    }
}

/// Writes `value` to the place that an argument points to. Refuses null.
///
/// # Safety
/// `to` is null or can be written.
unsafe fn set<T>(to: *mut T, value: T) -> Result<(), Status> {
    if to.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: `to` is not null, so the caller promises that it can be written.
    unsafe { to.write(value) };
    Ok(())
}
