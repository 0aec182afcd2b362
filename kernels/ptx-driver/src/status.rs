//! Results of the driver's functions: `CUresult`.

use std::ffi::CStr;

/// The result of a call. The numbers are those of `CUresult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub i32);

impl Status {
    pub(crate) const SUCCESS: Status = Status(0);
    pub(crate) const INVALID_VALUE: Status = Status(1);
    pub(crate) const OUT_OF_MEMORY: Status = Status(2);
    pub(crate) const NOT_INITIALIZED: Status = Status(3);
    pub(crate) const NO_DEVICE: Status = Status(100);
    pub(crate) const INVALID_DEVICE: Status = Status(101);
    pub(crate) const INVALID_CONTEXT: Status = Status(201);
    pub(crate) const INVALID_PTX: Status = Status(218);
    pub(crate) const UNSUPPORTED_PTX_VERSION: Status = Status(222);
    pub(crate) const INVALID_HANDLE: Status = Status(400);
    pub(crate) const NOT_FOUND: Status = Status(500);
    pub(crate) const ILLEGAL_ADDRESS: Status = Status(700);
    pub(crate) const LAUNCH_TIMEOUT: Status = Status(702);
    pub(crate) const LAUNCH_FAILED: Status = Status(719);
    pub(crate) const UNKNOWN: Status = Status(999);

    /// Returns the name and the description of a status. `None` for a number that this driver does not use.
    pub(crate) fn words(self) -> Option<(&'static CStr, &'static CStr)> {
        Some(match self {
            Status::SUCCESS => (c"CUDA_SUCCESS", c"no error"),
            Status::INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
            Status::OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
            Status::NOT_INITIALIZED => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
            Status::NO_DEVICE => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
            Status::INVALID_DEVICE => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
            Status::INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
            Status::INVALID_PTX => (c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
            Status::UNSUPPORTED_PTX_VERSION => {
                (c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the provided PTX was compiled with an unsupported toolchain.")
            }
            Status::INVALID_HANDLE => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
            Status::NOT_FOUND => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
            Status::ILLEGAL_ADDRESS => (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
            Status::LAUNCH_TIMEOUT => (c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch timed out and was terminated"),
            Status::LAUNCH_FAILED => (c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
            Status::UNKNOWN => (c"CUDA_ERROR_UNKNOWN", c"unknown error"),
            _ => return None,
        })
    }
}
