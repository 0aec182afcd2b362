//! Devices, contexts, errors.

use crate::handles::{current_context, handles, set_current_context};
use crate::status::Status;
use crate::{call, set};
use std::ffi::{c_char, c_int, c_uint};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> Status {
    call(|| {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let mut handles = handles();
        if handles.cards.is_empty() {
            return Err(Status::NO_DEVICE);
        }
        handles.is_initialised = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    // SAFETY: the caller passes null or a pointer that can be written.
    call(|| unsafe { set(version, handles().cards.first().map_or(12040, |card| card.config.driver)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Status {
    call(|| {
        let handles = initialised()?;
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(count, handles.cards.len() as c_int) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Status {
    call(|| {
        initialised()?.card(ordinal)?;
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> Status {
    call(|| {
        let card = initialised()?.card(device)?;
        let length = usize::try_from(length).ok().filter(|length| *length > 0).ok_or(Status::INVALID_VALUE)?;
        let bytes: Vec<u8> = card.config.name.bytes().take(length - 1).chain([0]).collect();
        // SAFETY: the caller gives room for `length` bytes, and `bytes` has at most that many.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), name.cast(), bytes.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> Status {
    call(|| {
        let card = initialised()?.card(device)?;
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(bytes, card.config.memory as usize) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> Status {
    call(|| {
        let config = initialised()?.card(device)?.config.clone();
        // the numbers of `CUdevice_attribute`
        let found = match attribute {
            1 => 1024,
            2..=4 => [1024, 1024, 64][attribute as usize - 2],
            5..=7 => [i32::MAX, 65535, 65535][attribute as usize - 5],
            8 => 48 << 10,
            10 => 32,
            12 => 65536,
            16 => config.multiprocessors,
            39 => 1536,
            75 => config.capability / 10,
            76 => config.capability % 10,
            81 => config.shared as c_int + 1024,
            97 => config.shared as c_int,
            _ => return Err(Status::INVALID_VALUE),
        };
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(value, found) }
    })
}

/// Locks and returns the handles. Fails before `cuInit`.
fn initialised() -> Result<std::sync::MutexGuard<'static, crate::handles::Handles>, Status> {
    let handles = handles();
    if handles.is_initialised { Ok(handles) } else { Err(Status::NOT_INITIALIZED) }
}

/// The handle of a context is its card's number plus one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) -> Status {
    call(|| {
        initialised()?.card(device)?;
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(context, device as usize + 1) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Status {
    call(|| initialised()?.card(device).map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: usize) -> Status {
    call(|| {
        if context > initialised()?.cards.len() {
            return Err(Status::INVALID_CONTEXT);
        }
        set_current_context(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut usize) -> Status {
    // SAFETY: the caller passes null or a pointer that can be written.
    call(|| unsafe { set(context, current_context()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> Status {
    call(|| {
        let card = handles().current()?;
        card.wait_for_all()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(status: Status, name: *mut *const c_char) -> Status {
    // SAFETY: the caller passes null or a pointer that can be written.
    call(|| unsafe { set(name, status.words().ok_or(Status::INVALID_VALUE)?.0.as_ptr()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(status: Status, text: *mut *const c_char) -> Status {
    // SAFETY: the caller passes null or a pointer that can be written.
    call(|| unsafe { set(text, status.words().ok_or(Status::INVALID_VALUE)?.1.as_ptr()) })
}
