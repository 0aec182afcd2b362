//! Opens the fake driver, for tests of programs that call CUDA. It must be open before anything asks for the driver by name.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CString, c_char, c_int};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The opened driver.
pub struct Driver {
    card: unsafe extern "C" fn(*const c_char) -> c_int,
    tally: unsafe extern "C" fn(c_int, *mut c_char, usize) -> usize,
}

/// What a program asked of a card, and what the card's checkers found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests for memory of the card and for page-locked memory.
    pub requests: u64,
    /// Launches.
    pub launches: u64,
    /// Calls that waited for the card.
    pub waits: u64,
    /// Allocations that are live.
    pub live: u64,
    /// Reports of the checkers.
    pub reports: Vec<String>,
}

/// Opens the fake driver that cargo built beside this program. From then on, code that asks for the driver by name gets the fake
/// one. `None` if `ALIGN_TEST_CUDA` is `driver`: the program's tests are then for a real card.
///
/// # Panics
/// If the library is not there or cannot be opened. Cargo builds it with the tests of every crate that has `ptx-driver` among its
/// dev-dependencies.
pub fn install() -> Option<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    let open = || {
        if std::env::var("ALIGN_TEST_CUDA").is_ok_and(|which| which == "driver") {
            return None;
        }
        let path = library().expect("cargo builds libptx_driver.so with the tests");
        // SAFETY: this is a library of this repository, which has no initialisers beyond those of Rust's standard library.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
        let library = library.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // SAFETY: `ptx-driver` defines both functions with these signatures.
        let driver = unsafe {
            let card = library.get(b"ptxMachineCard\0").map(|function| *function);
            let tally = library.get(b"ptxMachineTally\0").map(|function| *function);
            Driver { card: card.expect("our driver has it"), tally: tally.expect("our driver has it") }
        };
        // the library stays open, so that other code finds it by its name
        std::mem::forget(library);
        Some(driver)
    };
    DRIVER.get_or_init(open).as_ref()
}

/// Returns the path of the library, which cargo puts into the folder of this program, into the folder above it, or into the
/// folder `deps` in one of these two. `None` if the library is in none of these places.
///
/// # Panics
/// If the system does not say where this program is.
pub fn library() -> Option<PathBuf> {
    let program = std::env::current_exe().expect("a program knows where it is");
    let folders = program.ancestors().skip(1).take(2);
    let mut places =
        folders.flat_map(|folder| [folder.to_owned(), folder.join("deps")]).map(|at| at.join("libptx_driver.so"));
    places.find(|path| path.is_file())
}

impl Driver {
    /// Adds a card with a description such as `memory=1048576;mode=late;race=1`. Returns its number.
    ///
    /// # Panics
    /// If the description is not understood.
    pub fn card(&self, description: &str) -> usize {
        let text = CString::new(description).expect("a description has no zero byte");
        // SAFETY: `text` ends with a zero byte and lives until the call returns.
        let ordinal = unsafe { (self.card)(text.as_ptr()) };
        usize::try_from(ordinal).unwrap_or_else(|_| panic!("`{description}` describes no card"))
    }

    /// Returns what was asked of a card, and what its checkers found.
    pub fn tally(&self, ordinal: usize) -> Tally {
        let ordinal = ordinal as c_int;
        // SAFETY: the room is 0 bytes, so nothing is written.
        let mut bytes = vec![0u8; unsafe { (self.tally)(ordinal, std::ptr::null_mut(), 0) } + 1024];
        // SAFETY: the room is the length of `bytes`.
        unsafe { (self.tally)(ordinal, bytes.as_mut_ptr().cast(), bytes.len()) };
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut tally = Tally::default();
        for line in text.lines() {
            let number = |prefix: &str| line.strip_prefix(prefix).and_then(|number| number.parse().ok());
            if let Some(n) = number("requests=") {
                tally.requests = n;
            } else if let Some(n) = number("launches=") {
                tally.launches = n;
            } else if let Some(n) = number("waits=") {
                tally.waits = n;
            } else if let Some(n) = number("live=") {
                tally.live = n;
            } else {
                tally.reports.push(line.to_owned());
            }
        }
        tally
    }
}
