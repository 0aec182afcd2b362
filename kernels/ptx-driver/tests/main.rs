//! Tests the driver through cudarc: what a card does, what the driver refuses, and what happens if streams do not wait.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdeviceptr, CUfunction, CUmodule, CUresult, CUstream};
use ptx_machine::driver::{Driver, install};
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};

/// Returns a kernel that computes `to[i] = from[i] + 1` for `n` words, in blocks of 32 threads. If `guard` is true, threads past
/// the end write nothing.
fn increment(name: &str, guard: bool) -> CString {
    let guard = if guard { "@%p0 ret;" } else { "" };
    CString::new(format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry {name}(\n.param .u64 to, .param .u64 from, .param .u32 n)\n.maxntid 64, 1, 1\n{{
 .reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<8>;
 ld.param.u64 %rd0, [to]; ld.param.u64 %rd1, [from]; ld.param.u32 %r0, [n];
 mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; mad.lo.s32 %r1, %r1, 32, %r2; setp.ge.u32 %p0, %r1, %r0; {guard}
 mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2; add.s64 %rd0, %rd0, %rd2;
 ld.global.u32 %r3, [%rd1]; add.s32 %r3, %r3, 1; st.global.u32 [%rd0], %r3; ret;\n}}\n"
    ))
    .unwrap()
}

/// A card with a loaded kernel.
struct Card {
    driver: &'static Driver,
    ordinal: usize,
    module: CUmodule,
    function: CUfunction,
}

impl Card {
    fn new(description: &str) -> Card {
        Card::with(description, &increment("increment", true), "increment").unwrap()
    }

    fn with(description: &str, text: &CString, name: &str) -> Result<Card, DriverError> {
        let driver = install().expect("these tests are for the fake driver");
        let ordinal = driver.card(description);
        result::init()?;
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the device exists, contexts are never destroyed, and `text` ends with a zero byte.
        unsafe {
            let context = result::primary_ctx::retain(device)?;
            result::ctx::set_current(context)?;
            let module = result::module::load_data(text.as_ptr().cast())?;
            let function = result::module::get_function(module, CString::new(name).unwrap())?;
            Ok(Card { driver, ordinal, module, function })
        }
    }

    fn allocate(&self, words: usize) -> CUdeviceptr {
        // SAFETY: the context is current.
        unsafe { result::malloc_sync(4 * words) }.unwrap()
    }

    fn launch(&self, stream: CUstream, to: CUdeviceptr, from: CUdeviceptr, n: u32) -> Result<(), DriverError> {
        self.launch_sized(stream, [n.div_ceil(32), 32, 0], to, from, n)
    }

    fn launch_sized(
        &self,
        stream: CUstream,
        [blocks, threads, shared]: [u32; 3],
        to: CUdeviceptr,
        from: CUdeviceptr,
        n: u32,
    ) -> Result<(), DriverError> {
        let mut parameters = [
            (&raw const to).cast_mut().cast(),
            (&raw const from).cast_mut().cast(),
            (&raw const n).cast_mut().cast::<c_void>(),
        ];
        // SAFETY: for each parameter of the kernel there is a pointer to a variable of the parameter's size.
        unsafe {
            result::launch_kernel(self.function, (blocks, 1, 1), (threads, 1, 1), shared, stream, &mut parameters)
        }
    }
}

fn stream() -> CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

fn upload(to: CUdeviceptr, words: &[u32], stream: CUstream) {
    // SAFETY: the tests allocate at least as many words at `to`.
    unsafe { result::memcpy_htod_async(to, words, stream) }.unwrap();
}

fn download(from: CUdeviceptr, n: usize, stream: CUstream) -> Result<Vec<u32>, DriverError> {
    let mut words = vec![0; n];
    // SAFETY: the tests allocate at least `n` words at `from`. `words` is not page-locked, so it is written before the call
    // returns.
    unsafe { result::memcpy_dtoh_async(&mut words, from, stream) }?;
    Ok(words)
}

/// Allocates `n` page-locked words.
fn pinned(n: usize) -> &'static mut [u32] {
    // SAFETY: the memory has `n` words and is never freed.
    unsafe { std::slice::from_raw_parts_mut(result::malloc_host(4 * n, 0).unwrap().cast(), n) }
}

fn status<T: std::fmt::Debug>(result: Result<T, DriverError>) -> CUresult {
    result.unwrap_err().0
}

#[test]
fn a_kernel_runs() {
    for mode in ["eager", "late"] {
        let card = Card::new(&format!("mode={mode};init=1;race=1"));
        let (stream, to, from) = (stream(), card.allocate(100), card.allocate(100));
        let words: Vec<u32> = (0..100).collect();
        upload(from, &words, stream);
        card.launch(stream, to, from, 100).unwrap();
        assert_eq!(download(to, 100, stream).unwrap(), (1..=100).collect::<Vec<_>>());
        let tally = card.driver.tally(card.ordinal);
        assert_eq!((tally.launches, tally.requests, tally.live, tally.reports.len()), (1, 2, 2, 0));
    }
}

/// A card of 16 TiB, whose memory takes pages of the host only where it is written. Of each launch, the last block runs.
#[test]
fn the_last_blocks_of_a_launch_run_on_memory_that_is_not_there() {
    let card = Card::new(&format!("mode=eager;memory={};sparse=1;last=1", 1u64 << 44));
    let words = (1 << 32) + 64;
    let (stream, to, from) = (stream(), card.allocate(words), card.allocate(words));
    upload(from, &[5; 96], stream);
    card.launch(stream, to, from, 96).unwrap();
    assert_eq!(download(to, 96, stream).unwrap(), [[0; 32], [0; 32], [6; 32]].concat());
    assert_eq!(download(to + 4 * (1 << 32), 64, stream).unwrap(), [0; 64]);
}

#[test]
fn launches_are_counted_by_kernel_if_the_card_counts() {
    for (counts, sees) in [("counts=1", true), ("counts=0", false)] {
        let card = Card::new(&format!("mode=eager;{counts}"));
        let (stream, to, from) = (stream(), card.allocate(64), card.allocate(64));
        upload(from, &[1; 64], stream);
        let counted = || card.driver.counts(card.ordinal);
        assert_eq!(counted(), BTreeMap::new());
        card.launch(stream, to, from, 64).unwrap();
        let first = counted();
        assert_eq!(first.len(), usize::from(sees));
        card.launch(stream, to, from, 64).unwrap();
        for (kernel, once) in first {
            // 64 words are read and 64 are written
            assert_eq!((kernel.as_str(), once.launches), ("increment", 1));
            assert_eq!((once.touched_bytes, once.requested_bytes, once.wavefronts), (512, 512, 0));
            let twice = counted()["increment"].named().map(|(_, value)| value);
            assert!(once.instructions > 0 && twice == once.named().map(|(_, value)| 2 * value), "{once:?} {twice:?}");
        }
    }
}

#[test]
fn a_host_that_does_not_wait_reads_old_numbers() {
    for (mode, early) in [("eager", 8), ("late", 0)] {
        let card = Card::new(&format!("mode={mode}"));
        let (stream, to, from) = (stream(), card.allocate(1), card.allocate(1));
        upload(from, &[7], stream);
        card.launch(stream, to, from, 1).unwrap();
        let host = pinned(1);
        // SAFETY: `host` is page-locked and never freed.
        unsafe { result::memcpy_dtoh_async(&mut *host, to, stream) }.unwrap();
        assert_eq!(host[0], early);
        // SAFETY: the stream is open.
        unsafe { result::stream::synchronize(stream) }.unwrap();
        assert_eq!(host[0], 8);
    }
}

#[test]
fn page_locked_memory_that_is_written_too_early_is_uploaded_so() {
    for (mode, want) in [("eager", 6), ("late", 100)] {
        let card = Card::new(&format!("mode={mode}"));
        let (stream, to, from) = (stream(), card.allocate(1), card.allocate(1));
        let host = pinned(1);
        host[0] = 5;
        upload(from, host, stream);
        card.launch(stream, to, from, 1).unwrap();
        host[0] = 99;
        assert_eq!(download(to, 1, stream).unwrap(), [want]);
        // memory that is not page-locked is copied when the call is made
        let mut words = [5];
        upload(from, &words, stream);
        words[0] = 99;
        card.launch(stream, to, from, 1).unwrap();
        assert_eq!((download(to, 1, stream).unwrap(), words[0]), (vec![6], 99));
    }
}

#[test]
fn streams_without_an_event_between_them_have_no_order() {
    for (mode, with_event, want) in [("eager", false, 8), ("late", false, 1), ("late", true, 8)] {
        let card = Card::new(&format!("mode={mode}"));
        let (copies, compute) = (stream(), stream());
        let (to, from) = (card.allocate(1), card.allocate(1));
        upload(from, &[0], compute);
        // SAFETY: the stream is open.
        unsafe { result::stream::synchronize(compute) }.unwrap();
        upload(from, &[7], copies);
        if with_event {
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
            // SAFETY: event and streams exist.
            unsafe {
                result::event::record(event, copies).unwrap();
                let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
                result::stream::wait_event(compute, event, flags).unwrap();
            }
        }
        card.launch(compute, to, from, 1).unwrap();
        assert_eq!(download(to, 1, compute).unwrap(), [want], "{mode} {with_event}");
    }
}

#[test]
fn memory_that_is_freed_while_work_is_queued_is_found() {
    let card = Card::new("init=1");
    let (to, from, stream) = (card.allocate(1), card.allocate(1), stream());
    upload(from, &[1], stream);
    card.launch(stream, to, from, 1).unwrap();
    // SAFETY: the memory is freed once. That a launch still uses it is what this tests.
    unsafe { result::free_sync(from) }.unwrap();
    // SAFETY: the stream is open.
    assert!(unsafe { result::stream::synchronize(stream) }.is_err());
    // a stream that is destroyed still runs what is queued
    let card = Card::new("init=1");
    let (to, from) = (card.allocate(1), card.allocate(1));
    let other = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    upload(from, &[1], other);
    card.launch(other, to, from, 1).unwrap();
    // SAFETY: the stream is open, and it is destroyed only here.
    unsafe { result::stream::destroy(other) }.unwrap();
    result::ctx::synchronize().unwrap();
    assert_eq!(download(to, 1, std::ptr::null_mut()).unwrap(), [2]);
}

#[test]
fn what_belongs_to_another_card_is_refused() {
    let first = Card::new("");
    let (from, to) = (first.allocate(1), first.allocate(1));
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
    let _second = Card::new("");
    let stream = stream();
    // SAFETY: event and stream exist, on two cards.
    assert_eq!(status(unsafe { result::event::record(event, stream) }), CUresult::CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(status(first.launch(stream, to, from, 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: the allocation and the stream exist, on two cards.
    let copied = unsafe { result::memcpy_htod_async(from, &[1u32], stream) };
    assert_eq!(status(copied), CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn sizes_that_no_card_takes_are_refused() {
    let card = Card::new("");
    let (to, from) = (card.allocate(64), card.allocate(64));
    let null = std::ptr::null_mut();
    upload(from, &[0; 64], null);
    for sizes in [[0, 32, 0], [1, 0, 0], [1, 65, 0], [1, 32, (48 << 10) + 1]] {
        let refused = status(card.launch_sized(null, sizes, to, from, 64));
        assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_VALUE, "{sizes:?}");
    }
    card.launch_sized(null, [2, 32, 48 << 10], to, from, 64).unwrap();
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: the function is loaded.
    let allow = |bytes| unsafe { result::function::set_function_attribute(card.function, attribute, bytes) };
    assert_eq!(status(allow((99 << 10) + 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
    allow(99 << 10).unwrap();
    card.launch_sized(null, [2, 32, 99 << 10], to, from, 64).unwrap();
    assert_eq!(download(to, 64, null).unwrap(), [1; 64]);
}

#[test]
fn what_is_gone_is_known_to_be() {
    let card = Card::new("");
    let (to, from, stream) = (card.allocate(1), card.allocate(1), stream());
    // SAFETY: the stream is open, and it is destroyed only here. The launch on it afterwards is what this tests.
    unsafe { result::stream::destroy(stream) }.unwrap();
    assert_eq!(status(card.launch(stream, to, from, 1)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: the module is unloaded only here. The launch afterwards is what this tests.
    unsafe { result::module::unload(card.module) }.unwrap();
    assert_eq!(status(card.launch(std::ptr::null_mut(), to, from, 1)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: the second free and the copy are of freed memory. The driver must refuse both.
    unsafe {
        result::free_sync(to).unwrap();
        assert_eq!(status(result::free_sync(to)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(
            status(result::memcpy_htod_async(to, &[1u32], std::ptr::null_mut())),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
}

#[test]
fn a_fault_stays() {
    let card = Card::with("init=1", &increment("unguarded", false), "unguarded").unwrap();
    let (to, from, stream) = (card.allocate(33), card.allocate(33), stream());
    upload(from, &[1; 33], stream);
    // the launch itself is only queued; the call that waits gets the fault
    card.launch(stream, to, from, 33).unwrap();
    // SAFETY: the stream is open.
    let waited = unsafe { result::stream::synchronize(stream) };
    let fault = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    assert_eq!(status(waited), fault);
    assert_eq!(status(card.launch(stream, to, from, 1)), fault);
    assert_eq!(status(download(to, 1, stream)), fault);
    assert_eq!(status(result::mem_get_info()), fault);
    // SAFETY: the context is current.
    assert_eq!(status(unsafe { result::malloc_sync(4) }), fault);
    let reports = card.driver.tally(card.ordinal).reports;
    assert!(reports.iter().any(|report| report.starts_with("memcheck: unguarded, PTX line ")), "{reports:?}");
}

#[test]
fn reading_what_nobody_wrote_is_a_fault_too() {
    let card = Card::new("init=1");
    let (to, from) = (card.allocate(1), card.allocate(1));
    card.launch(std::ptr::null_mut(), to, from, 1).unwrap();
    assert_eq!(status(result::ctx::synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn memory_ends() {
    let card = Card::new("memory=1000");
    // SAFETY: the context is current.
    unsafe {
        let first = result::malloc_sync(600).unwrap();
        assert_eq!(status(result::malloc_sync(401)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(result::mem_get_info().unwrap(), (400, 1000));
        result::free_sync(first).unwrap();
        result::malloc_sync(1000).unwrap();
    }
    assert_eq!(card.driver.tally(card.ordinal).requests, 3);
    // any request can be made to fail
    Card::new("fails=2");
    // SAFETY: the context is current.
    unsafe {
        assert!(result::malloc_sync(4).is_ok() && result::malloc_host(4, 0).is_ok());
        assert_eq!(status(result::malloc_sync(4)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert!(result::malloc_sync(4).is_ok());
    }
}

#[test]
fn cards_can_be_lost_and_launches_switched_off() {
    let card = Card::new("lost=1");
    let (to, from) = (card.allocate(1), card.allocate(1));
    upload(from, &[1], std::ptr::null_mut());
    card.launch(std::ptr::null_mut(), to, from, 1).unwrap();
    assert_eq!(download(to, 1, std::ptr::null_mut()).unwrap(), [2]);
    card.launch(std::ptr::null_mut(), to, from, 1).unwrap();
    assert_eq!(status(result::ctx::synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);

    let card = Card::new("launches=0");
    let (to, from) = (card.allocate(1), card.allocate(1));
    upload(to, &[5], std::ptr::null_mut());
    card.launch(std::ptr::null_mut(), to, from, 1).unwrap();
    assert_eq!(download(to, 1, std::ptr::null_mut()).unwrap(), [5]);
}

#[test]
fn ptx_that_is_not_understood_is_refused_in_words() {
    let broken = CString::new(increment("broken", true).to_str().unwrap().replace("add.s32", "sad.s32")).unwrap();
    let refused = Card::with("", &broken, "broken").map(|_| ());
    assert_eq!(status(refused), CUresult::CUDA_ERROR_INVALID_PTX);
    let mut log = vec![0u8; 200];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let mut module = std::ptr::null_mut();
    // SAFETY: there are two options, with their values.
    let result = unsafe {
        sys::cuModuleLoadDataEx(&mut module, broken.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
    };
    assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
    let text = String::from_utf8_lossy(&log);
    assert!(text.starts_with("ptxas error: PTX line 12: the instruction `sad.s32` is not known"), "{text}");

    // a driver of CUDA 11.8 knows PTX up to 7.8
    let old = Card::with("driver=11080", &increment("increment", true), "increment").map(|_| ());
    assert_eq!(status(old), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    let missing = Card::with("", &increment("increment", true), "decrement").map(|_| ());
    assert_eq!(status(missing), CUresult::CUDA_ERROR_NOT_FOUND);
}

/// Runs this test again in a child process with `PTX_MACHINE_MODULES` set, since an environment variable applies to a whole
/// process.
#[test]
fn modules_can_be_replaced_from_a_folder() {
    if std::env::var_os("PTX_MACHINE_MODULES").is_some() {
        let card = Card::with("", &increment("planted", true), "planted").unwrap();
        let (to, from) = (card.allocate(1), card.allocate(1));
        upload(from, &[5], std::ptr::null_mut());
        card.launch(std::ptr::null_mut(), to, from, 1).unwrap();
        assert_eq!(download(to, 1, std::ptr::null_mut()).unwrap(), [7]);
        return;
    }
    let folder = std::env::temp_dir().join(format!("ptx-machine-modules-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let planted = increment("planted", true).to_str().unwrap().replace("add.s32 %r3, %r3, 1", "add.s32 %r3, %r3, 2");
    std::fs::write(folder.join("planted.ptx"), planted).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "modules_can_be_replaced_from_a_folder"])
        .env("PTX_MACHINE_MODULES", &folder)
        .status()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(status.success());
}

/// Cargo puts its build folders on the library path. A program that cargo runs must not find this library under the driver's
/// name.
#[test]
fn no_file_has_the_drivers_name() {
    let program = std::env::current_exe().unwrap();
    for folder in program.ancestors().skip(1).take(2) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            assert!(!entry.file_name().to_string_lossy().starts_with("libcuda."), "{}", entry.path().display());
        }
    }
}

#[test]
fn errors_have_the_drivers_words() {
    let card = Card::new("name=A card;capability=86;multiprocessors=82");
    let device = result::device::get(card.ordinal as i32).unwrap();
    assert_eq!(result::device::get_name(device).unwrap(), "A card");
    // SAFETY: the device exists.
    let attribute = |of| unsafe { result::device::get_attribute(device, of) }.unwrap();
    assert_eq!(attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 8);
    assert_eq!(attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR), 6);
    assert_eq!(attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 82);
    assert_eq!(attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 99 << 10);
    assert_eq!(status(result::device::get(100_000)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    let error = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!(error.error_string().unwrap(), c"out of memory");
}
