//! Modules, functions, launches.

use crate::handles::{Function, handles};
use crate::status::Status;
use crate::work::Work;
use crate::{call, set};
use ptx_machine::{LoadError, Module};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::sync::Arc;

/// Bytes of shared memory that a block may have unless `cuFuncSetAttribute` allows more.
const SHARED: u32 = 48 << 10;

/// `CU_JIT_ERROR_LOG_BUFFER` and `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`
const ERROR_LOG: [c_int; 2] = [5, 6];

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut usize,
    image: *const c_void,
    n_options: c_uint,
    options: *const c_int,
    values: *const *mut c_void,
) -> Status {
    call(|| {
        let card = handles().current()?;
        card.status()?;
        // SAFETY: the caller passes PTX as a string that ends with a zero byte.
        let text = unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy();
        let text = replaced(&text)?;
        if newest_isa(card.config.driver) < isa_of(&text) {
            return Err(Status::UNSUPPORTED_PTX_VERSION);
        }
        match Module::load(&text, &card.memory) {
            Ok(loaded) => {
                let mut handles = handles();
                let handle = handles.fresh();
                handles.modules.insert(handle, (card, Arc::new(loaded)));
                // SAFETY: the caller passes null or a pointer that can be written.
                unsafe { set(module, handle) }
            }
            Err(LoadError::Memory(_)) => Err(Status::OUT_OF_MEMORY),
            Err(LoadError::Ptx(error)) => {
                // SAFETY: the caller passes `n_options` options with their values. If they name a log, it has the room that its
                // size option says.
                unsafe { write_log(&format!("ptxas error: {error}"), n_options as usize, options, values) };
                Err(Status::INVALID_PTX)
            }
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut usize, image: *const c_void) -> Status {
    // SAFETY: the caller passes pointers as for `cuModuleLoadDataEx`, and there are no options to read.
    unsafe { cuModuleLoadDataEx(module, image, 0, std::ptr::null(), std::ptr::null()) }
}

/// Writes `text` to the error log that the options of a call name, if they name one.
///
/// # Safety
/// `options` and `values` point to `n` elements each. If the options name a log, it has room for as many bytes as its size option
/// says.
unsafe fn write_log(text: &str, n: usize, options: *const c_int, values: *const *mut c_void) {
    // SAFETY: `options` and `values` point to `n` elements each, and `i` is below `n`.
    let value = |option: c_int| unsafe { (0..n).find(|i| *options.add(*i) == option).map(|i| *values.add(i)) };
    if let [Some(log), Some(size)] = ERROR_LOG.map(value)
        && !log.is_null()
        && size as usize > 0
    {
        let length = (size as usize - 1).min(text.len());
        // SAFETY: the log has room for `size` bytes, and `length` is less.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), log.cast(), length);
            log.cast::<u8>().add(length).write(0);
        }
    }
}

/// Returns the PTX version that the text of a module names, e.g. 80 for 8.0, or 0 if it names none.
fn isa_of(text: &str) -> i32 {
    let version = text.lines().find_map(|line| line.strip_prefix(".version ")).unwrap_or("0.0");
    let mut parts = version.trim().split('.').map(|part| part.parse().unwrap_or(0));
    10 * parts.next().unwrap_or(0) + parts.next().unwrap_or(0)
}

/// Returns the newest PTX version that a driver accepts, from the table of releases in the PTX manual.
fn newest_isa(driver: i32) -> i32 {
    match (driver / 1000, driver % 1000 / 10) {
        (12, minor @ 0..=5) => 80 + minor,
        (12, 6) => 85,
        (12, 7 | 8) => 87,
        (12, _) => 88,
        (major, minor) if major >= 13 => 90 + minor,
        (11, minor) => 70 + minor,
        _ => 64,
    }
}

/// Returns the first file in the folder `PTX_MACHINE_MODULES` that has a kernel of the same name as a kernel in `text`, or `text`
/// if there is no such file. A module is replaced as a whole, because its kernels share the declarations above them.
fn replaced(text: &str) -> Result<String, Status> {
    let Some(folder) = std::env::var_os("PTX_MACHINE_MODULES") else { return Ok(text.to_owned()) };
    // A test can plant a bug with such a file. An unreadable file must be an error: the module would run without the bug, and the
    // test would conclude that no check finds the bug.
    let failed = |error: std::io::Error| {
        eprintln!("PTX machine: PTX_MACHINE_MODULES: {error}");
        Status::UNKNOWN
    };
    let entries = std::fs::read_dir(Path::new(&folder)).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut paths: Vec<_> = entries.map_err(failed)?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    let names = |text: &str| -> Vec<String> {
        let entries = text.split(".entry ").skip(1);
        entries.map(|rest| rest.split('(').next().unwrap_or_default().trim().to_owned()).collect()
    };
    let wanted = names(text);
    for path in paths {
        let other = std::fs::read_to_string(path).map_err(failed)?;
        if names(&other).iter().any(|name| wanted.contains(name)) {
            return Ok(other);
        }
    }
    Ok(text.to_owned())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: usize) -> Status {
    call(|| {
        let mut handles = handles();
        handles.functions.retain(|_, function| function.of != module);
        let (card, module) = handles.modules.remove(&module).ok_or(Status::INVALID_HANDLE)?;
        module.unload(&card.memory);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) -> Status {
    call(|| {
        // SAFETY: the caller passes a name that ends with a zero byte.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let mut handles = handles();
        let (card, loaded) = handles.modules.get(&module).cloned().ok_or(Status::INVALID_HANDLE)?;
        let kernel = loaded.kernels().iter().position(|kernel| kernel.name() == name).ok_or(Status::NOT_FOUND)?;
        let most_dynamic = SHARED.saturating_sub(loaded.kernels()[kernel].shared_bytes());
        let handle = handles.fresh();
        handles.functions.insert(handle, Function { card, module: loaded, kernel, of: module, most_dynamic });
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(function, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: usize) -> Status {
    call(|| {
        let handles = handles();
        let function = handles.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
        let kernel = &function.module.kernels()[function.kernel];
        // the numbers of `CUfunction_attribute`
        let found = match attribute {
            0 => kernel.max_threads().unwrap_or(1024),
            1 => kernel.shared_bytes(),
            3 => kernel.local_bytes(),
            4 => kernel.registers(),
            8 => function.most_dynamic,
            _ => return Err(Status::INVALID_VALUE),
        };
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(value, found as c_int) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) -> Status {
    call(|| {
        let mut handles = handles();
        let most = handles.current()?.config.shared;
        let function = handles.functions.get_mut(&function).ok_or(Status::INVALID_HANDLE)?;
        let declared = function.module.kernels()[function.kernel].shared_bytes();
        let value = u32::try_from(value).map_err(|_| Status::INVALID_VALUE)?;
        // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if attribute != 8 || u64::from(value) + u64::from(declared) > u64::from(most) {
            return Err(Status::INVALID_VALUE);
        }
        function.most_dynamic = value;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: usize,
    parameters: *const *const c_void,
    extra: *const *const c_void,
) -> Status {
    call(|| {
        let (card, function) = {
            let handles = handles();
            (handles.stream(stream)?, handles.functions.get(&function).cloned().ok_or(Status::INVALID_HANDLE)?)
        };
        let kernel = &function.module.kernels()[function.kernel];
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let threads = block.iter().fold(1u64, |all, n| all.saturating_mul(u64::from(*n)));
        let is_sound = grid.iter().chain(&block).all(|n| *n > 0)
            && grid_x <= i32::MAX as u32
            && grid_y.max(grid_z) <= 65535
            && block_x.max(block_y) <= 1024
            && Arc::ptr_eq(&card, &function.card)
            && threads <= u64::from(kernel.max_threads().unwrap_or(1024)).min(1024)
            && block_z <= 64
            && shared_bytes <= function.most_dynamic
            && extra.is_null()
            && (!parameters.is_null() || kernel.parameters().is_empty());
        if !is_sound {
            return Err(Status::INVALID_VALUE);
        }
        let mut bytes = vec![0u8; kernel.parameter_bytes()];
        for (i, (offset, length)) in kernel.parameters().iter().enumerate() {
            let (offset, length) = (*offset as usize, *length as usize);
            // SAFETY: for each parameter of the kernel, the caller passes a pointer to at least `length` bytes.
            unsafe {
                let from = (*parameters.add(i)).cast::<u8>();
                std::ptr::copy_nonoverlapping(from, bytes[offset..offset + length].as_mut_ptr(), length);
            }
        }
        let Function { module, kernel, .. } = function;
        card.queue(
            stream,
            Work::Launch { module, kernel, grid, block, dynamic_shared: shared_bytes, parameters: bytes },
        )
        .map(drop)
    })
}
