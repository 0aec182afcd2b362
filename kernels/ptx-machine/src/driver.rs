//! Opens the fake driver, for tests of programs that call CUDA. It must be open before anything asks for the driver by name.

use crate::counters::{Counters, SECTOR};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The opened driver.
pub struct Driver {
    card: unsafe extern "C" fn(*const c_char) -> c_int,
    tally: Written,
    counts: Written,
}

/// A function that writes a text about a card, as `ptxMachineTally` does.
type Written = unsafe extern "C" fn(c_int, *mut c_char, usize) -> usize;

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

/// What the launches of one kernel did on a card, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelCounts {
    /// Launches.
    pub launches: u64,
    /// Instructions that warps executed.
    pub instructions: u64,
    /// Bytes of the sectors of device memory that were touched ([`Counters::touched_bytes`]), summed over the launches.
    pub touched_bytes: u64,
    /// Bytes of the sectors that were requested. A sector counts anew for each execution of an instruction that needs it.
    pub requested_bytes: u64,
    /// Passes over shared memory.
    pub wavefronts: u64,
    /// What `wavefronts` would be without bank conflicts.
    pub wavefronts_at_least: u64,
}

impl KernelCounts {
    /// Adds a launch whose blocks had these counters.
    pub fn add_launch(&mut self, blocks: &[Counters]) {
        let counters = Counters::of_all(blocks);
        let total = counters.total();
        self.launches += 1;
        self.instructions += total.executions;
        self.touched_bytes += counters.touched_bytes();
        self.requested_bytes += total.sectors * SECTOR;
        self.wavefronts += total.wavefronts;
        self.wavefronts_at_least += total.wavefronts_at_least;
    }

    /// Returns every counter with its name.
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("launches", self.launches),
            ("instructions", self.instructions),
            ("touched_bytes", self.touched_bytes),
            ("requested_bytes", self.requested_bytes),
            ("wavefronts", self.wavefronts),
            ("wavefronts_at_least", self.wavefronts_at_least),
        ]
    }

    /// Makes counters from their values, in the order of [`KernelCounts::named`].
    fn from_values(values: [u64; 6]) -> KernelCounts {
        let [launches, instructions, touched_bytes, requested_bytes, wavefronts, wavefronts_at_least] = values;
        KernelCounts { launches, instructions, touched_bytes, requested_bytes, wavefronts, wavefronts_at_least }
    }
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
        // SAFETY: `ptx-driver` defines the functions with these signatures.
        let driver = unsafe {
            let card = library.get(b"ptxMachineCard\0").map(|function| *function);
            let [tally, counts] = [&b"ptxMachineTally\0"[..], b"ptxMachineCounts\0"]
                .map(|name| library.get(name).map(|function| *function).expect("our driver has it"));
            Driver { card: card.expect("our driver has it"), tally, counts }
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
        let mut tally = Tally::default();
        for line in text(self.tally, ordinal).lines() {
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
    /// Returns what each kernel did on a card, by the kernel's name. Empty unless the card's description has `counts=1`.
    pub fn counts(&self, ordinal: usize) -> BTreeMap<String, KernelCounts> {
        let line = |line: &str| {
            let (kernel, values) = line.split_once(' ')?;
            let values: Vec<u64> = values.split(' ').map(|value| value.parse().ok()).collect::<Option<_>>()?;
            Some((kernel.to_owned(), KernelCounts::from_values(values.try_into().ok()?)))
        };
        let text = text(self.counts, ordinal);
        text.lines().map(|of| line(of).unwrap_or_else(|| panic!("`{of}` is not what our driver writes"))).collect()
    }
}

/// Returns the text that a function of the driver writes about a card.
fn text(function: Written, ordinal: usize) -> String {
    let ordinal = ordinal as c_int;
    // SAFETY: the room is 0 bytes, so nothing is written.
    let mut bytes = vec![0u8; unsafe { function(ordinal, std::ptr::null_mut(), 0) } + 1024];
    // SAFETY: the room is the length of `bytes`.
    unsafe { function(ordinal, bytes.as_mut_ptr().cast(), bytes.len()) };
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
