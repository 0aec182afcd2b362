//! NVIDIA's run-time compiler, loaded as a library.

use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

/// The compiler.
pub(crate) struct Nvrtc {
    library: Library,
}

/// `nvrtcProgram`
type Program = *mut c_void;

impl Nvrtc {
    /// Loads the library at `path`. Refuses every version but 12.0.
    ///
    /// # Errors
    /// The path, with the system's error or the library's version.
    pub(crate) fn load(path: &Path) -> Result<Nvrtc, String> {
        // SAFETY: NVIDIA's compiler has no initialisers that need anything from the process.
        let library = unsafe { Library::new(path) }.map_err(|error| format!("{}: {error}", path.display()))?;
        let nvrtc = Nvrtc { library };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature is that of nvrtc.h; both pointers can be written.
        let status = unsafe {
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = nvrtc.function(c"nvrtcVersion")?;
            version(&mut major, &mut minor)
        };
        if (status, major, minor) != (0, 12, 0) {
            return Err(format!(
                "{} is NVRTC {major}.{minor}; 12.0 writes PTX for every driver from 525 on",
                path.display()
            ));
        }
        Ok(nvrtc)
    }

    /// Compiles a source to PTX. `headers` are the names and contents of the files that it may include.
    ///
    /// # Errors
    /// The compiler's log.
    pub(crate) fn compile(&self, name: &str, source: &str, headers: &[(String, String)]) -> Result<String, String> {
        let text = |text: &str| CString::new(text).map_err(|_| format!("{name}: a source has no zero byte"));
        let (c_name, source) = (text(name)?, text(source)?);
        let contents = headers.iter().map(|(_, content)| text(content)).collect::<Result<Vec<_>, _>>()?;
        let names = headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>, _>>()?;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (contents, names) = (pointers(&contents), pointers(&names));
        let options = [c"--gpu-architecture=compute_80", c"--std=c++17"].map(CStr::as_ptr);
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the signatures are those of nvrtc.h; every pointer is to memory that outlives the call.
        unsafe {
            let create: Create = self.function(c"nvrtcCreateProgram")?;
            let status = create(
                &mut program,
                source.as_ptr(),
                c_name.as_ptr(),
                headers.len() as c_int,
                contents.as_ptr(),
                names.as_ptr(),
            );
            if status != 0 {
                return Err(format!("{name}: nvrtcCreateProgram says {status}"));
            }
            let compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int =
                self.function(c"nvrtcCompileProgram")?;
            let status = compile(program, options.len() as c_int, options.as_ptr());
            let result = match status {
                0 => self.text(program, c"nvrtcGetPTXSize", c"nvrtcGetPTX"),
                _ => Err(self.text(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?),
            };
            let destroy: unsafe extern "C" fn(*mut Program) -> c_int = self.function(c"nvrtcDestroyProgram")?;
            destroy(&mut program);
            result
        }
    }

    /// Returns a string that the compiler holds for a program, e.g. the PTX.
    ///
    /// # Safety
    /// `size` and `get` name functions of nvrtc.h that have the signatures used here.
    unsafe fn text(&self, program: Program, size: &CStr, get: &CStr) -> Result<String, String> {
        // SAFETY: the caller names functions with these signatures; the buffer is as long as the library says.
        unsafe {
            let size: unsafe extern "C" fn(Program, *mut usize) -> c_int = self.function(size)?;
            let get: unsafe extern "C" fn(Program, *mut c_char) -> c_int = self.function(get)?;
            let mut bytes = 0;
            size(program, &mut bytes);
            let mut buffer = vec![0u8; bytes.max(1)];
            get(program, buffer.as_mut_ptr().cast());
            let text = CStr::from_bytes_until_nul(&buffer).map_err(|_| "a text without an end".to_owned())?;
            Ok(text.to_string_lossy().into_owned())
        }
    }

    /// Returns the library's function `name`.
    ///
    /// # Safety
    /// `F` is the signature of the function.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, String> {
        // SAFETY: the caller promises that `F` is the signature of the function.
        unsafe { self.library.get::<F>(name.to_bytes_with_nul()) }.map(|f| *f).map_err(|error| error.to_string())
    }
}

/// `nvrtcCreateProgram`
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
