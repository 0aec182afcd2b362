//! The kernels' PTX, which is part of the program, and the modules that the driver makes of it. A module is loaded at the first use
//! of one of its kernels.

use super::driver::{Context, checked};
use crate::{KernelError, Result};
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUjit_option};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// A PTX file. There is one for each folder with CUDA kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    Add,
    Adamw,
    Argmax,
    Attention,
    Dropout,
    Embed,
    Float,
    Gate,
    Gemm,
    RmsNorm,
    Rmsprop,
    Rope,
    Rows,
    Softcap,
    SumSquares,
    TokenLogps,
}

impl Module {
    pub(crate) const ALL: [Module; 16] = [
        Module::Add,
        Module::Adamw,
        Module::Argmax,
        Module::Attention,
        Module::Dropout,
        Module::Embed,
        Module::Float,
        Module::Gate,
        Module::Gemm,
        Module::RmsNorm,
        Module::Rmsprop,
        Module::Rope,
        Module::Rows,
        Module::Softcap,
        Module::SumSquares,
        Module::TokenLogps,
    ];

    pub(super) fn text(self) -> &'static str {
        match self {
            Module::Add => include_str!("../../cuda/ptx/add.ptx"),
            Module::Adamw => include_str!("../../cuda/ptx/adamw.ptx"),
            Module::Argmax => include_str!("../../cuda/ptx/argmax.ptx"),
            Module::Attention => include_str!("../../cuda/ptx/attention.ptx"),
            Module::Dropout => include_str!("../../cuda/ptx/dropout.ptx"),
            Module::Embed => include_str!("../../cuda/ptx/embed.ptx"),
            Module::Float => include_str!("../../cuda/ptx/float.ptx"),
            Module::Gate => include_str!("../../cuda/ptx/gate.ptx"),
            Module::Gemm => include_str!("../../cuda/ptx/gemm.ptx"),
            Module::RmsNorm => include_str!("../../cuda/ptx/rms_norm.ptx"),
            Module::Rmsprop => include_str!("../../cuda/ptx/rmsprop.ptx"),
            Module::Rope => include_str!("../../cuda/ptx/rope.ptx"),
            Module::Rows => include_str!("../../cuda/ptx/rows.ptx"),
            Module::Softcap => include_str!("../../cuda/ptx/softcap.ptx"),
            Module::SumSquares => include_str!("../../cuda/ptx/sum_squares.ptx"),
            Module::TokenLogps => include_str!("../../cuda/ptx/token_logps.ptx"),
        }
    }
}

/// Returns a hash of all PTX. If the hash and the architecture are equal, the same operands give the same bits.
pub(super) fn hash() -> String {
    // FNV-1a is enough: the hash only names a build
    let all = Module::ALL.iter().flat_map(|module| module.text().bytes());
    format!(
        "{:016x}",
        all.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    )
}

/// The loaded modules of a context.
pub(super) struct Modules {
    context: Arc<Context>,
    loaded: Mutex<HashMap<Module, sys::CUmodule>>,
    functions: Mutex<HashMap<&'static CStr, Function>>,
}

/// A kernel that can be launched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Function(pub sys::CUfunction);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: the driver's handles may be used from any thread, and `Context` is `Send` and `Sync`.
unsafe impl Send for Modules {}
// SAFETY: the driver's handles may be used from any thread, and the tables are behind locks.
unsafe impl Sync for Modules {}

impl Modules {
    pub(super) fn new(context: &Arc<Context>) -> Modules {
        Modules { context: context.clone(), loaded: Mutex::default(), functions: Mutex::default() }
    }

    /// Returns the function with this name in a module. Loads the module if it is not loaded yet.
    pub(super) fn function(&self, module: Module, name: &'static CStr) -> Result<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let loaded = self.module(module)?;
        // SAFETY: the module is loaded, and stays loaded until `self` is dropped.
        let raw = checked("cuModuleGetFunction", unsafe { result::module::get_function(loaded, name.to_owned()) })?;
        functions.insert(name, Function(raw));
        Ok(Function(raw))
    }

    fn module(&self, module: Module) -> Result<sys::CUmodule> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(raw) = loaded.get(&module) {
            return Ok(*raw);
        }
        self.context.bind()?;
        let raw = load(module.text())?;
        loaded.insert(module, raw);
        Ok(raw)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            for (_, raw) in self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner).drain() {
                // SAFETY: the module was loaded once, and nothing uses its functions any more.
                let _ = unsafe { result::module::unload(raw) };
            }
        }
    }
}

/// Loads PTX. If the driver's compiler refuses it, the error contains the compiler's log.
fn load(text: &str) -> Result<sys::CUmodule> {
    let text = CString::new(text).expect("PTX has no zero byte");
    let mut log = vec![0u8; 8192];
    let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let mut raw = std::ptr::null_mut();
    // SAFETY: the PTX ends with a zero byte, there are two options and two values, and the log outlives the call.
    let status = unsafe {
        sys::cuModuleLoadDataEx(&mut raw, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
    };
    match checked("cuModuleLoadDataEx", status.result()) {
        Err(KernelError::Driver { call, reason }) => {
            let log = CStr::from_bytes_until_nul(&log).map_or_else(|_| "".into(), CStr::to_string_lossy);
            Err(KernelError::Driver { call, reason: format!("{reason}: {}", log.trim()) })
        }
        other => other.map(|()| raw),
    }
}
