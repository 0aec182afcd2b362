//! Handing tasks to the threads of a device, many times a millisecond.
//!
//! A training step is some thousand kernel calls. A thread that sleeps between them takes 5 to 50 µs to wake, and more on virtual
//! machines. So threads of the pool that have finished a call stay awake for a while and wait for the next one. If none comes,
//! they go back to the pool.

use crate::cpu::Cpu;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a thread waits for the next call: longer than the gap between the calls of a step, shorter than the gap between steps.
const PATIENCE: Duration = Duration::from_micros(500);
/// Number of polls between two looks at the clock. After each look, the thread yields its processor to other threads.
const LOOKS: u32 = 64;

/// A task, which is called as `task(thread, number)`.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What the threads of a device share.
pub(crate) struct Team {
    /// The upper 32 bits are the number of the call. Bit 31 says whether threads may join the call. The bits below count the
    /// threads that have joined and not left.
    state: AtomicU64,
    /// The current call. It is written only while no thread can join it.
    call: UnsafeCell<Option<Call>>,
    /// The number of the next task.
    next: AtomicUsize,
    /// Threads that have joined the call.
    joined: AtomicUsize,
    /// Threads that wait for calls, or are about to.
    waiting: AtomicUsize,
    /// Whether a call is running.
    busy: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

const OPEN: u64 = 1 << 31;
const CALL: u64 = 1 << 32;
const INSIDE: u64 = OPEN - 1;

#[derive(Clone, Copy)]
struct Call {
    task: *const Task<'static>,
    tasks: usize,
    threads: usize,
}

// SAFETY: only the thread that holds `busy` writes `call`, while no thread has joined; threads that have joined only read it.
unsafe impl Sync for Team {}
// SAFETY: the pointer in `call` is used only until `run` returns, so its task is alive.
unsafe impl Send for Team {}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Team")
    }
}

impl Team {
    pub(crate) fn new() -> Team {
        Team {
            state: AtomicU64::new(0),
            call: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// Joins calls until none has come for `PATIENCE`.
    fn wait_for_calls(&self) {
        let mut seen = u64::MAX;
        loop {
            let since = Instant::now();
            let mut looks = 0u32;
            while !self.join(&mut seen) {
                std::hint::spin_loop();
                looks += 1;
                if looks.is_multiple_of(LOOKS) {
                    if since.elapsed() > PATIENCE {
                        self.waiting.fetch_sub(1, Ordering::SeqCst);
                        return;
                    }
                    std::thread::yield_now();
                }
            }
        }
    }

    /// Takes part in the current call, unless it has ended or this thread has seen it before. Returns whether it joined.
    fn join(&self, seen: &mut u64) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let number = state / CALL;
        if state & OPEN == 0 || number == *seen {
            return false;
        }
        if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        *seen = number;
        // SAFETY: `call` was written before the call was opened, and is not written again until every thread that joined has
        // left.
        let call = unsafe { (*self.call.get()).expect("an open call is there") };
        let thread = 1 + self.joined.fetch_add(1, Ordering::Relaxed);
        if thread < call.threads {
            self.work(call, thread);
        }
        self.state.fetch_sub(1, Ordering::Release);
        true
    }

    /// Runs tasks until none is left. A panic ends the call for all threads, and is kept in `panic`.
    fn work(&self, call: Call, thread: usize) {
        // SAFETY: `run` returns only after every thread that joined has left, so the task is alive.
        let task = unsafe { &*call.task };
        let tasks = || loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= call.tasks {
                return;
            }
            task(thread, number);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(tasks)) {
            self.next.store(call.tasks, Ordering::Relaxed);
            *self.panic.lock().expect("nobody panics with this lock") = Some(panic);
        }
    }

    /// Runs `task(thread, number)` for each number below `tasks` on up to `threads` threads, which are numbered from 0.
    /// `invite` brings one more thread to [`Team::wait_for_calls`].
    fn run(&self, tasks: usize, threads: usize, task: &Task<'_>, invite: impl Fn()) {
        // SAFETY: only the lifetime changes. No thread uses the reference after this function, which waits for all that joined.
        let task: *const Task<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        let call = Call { task, tasks, threads };
        // SAFETY: this thread holds `busy`, and the call before this one has ended: no thread is in it, and none can join it.
        unsafe { *self.call.get() = Some(call) };
        self.next.store(0, Ordering::Relaxed);
        self.joined.store(0, Ordering::Relaxed);
        let number = self.state.load(Ordering::Relaxed) / CALL;
        self.state.store((number.wrapping_add(1) % (u64::MAX / CALL)) * CALL + OPEN, Ordering::SeqCst);
        while self.waiting.load(Ordering::SeqCst) < threads - 1 {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            invite();
        }
        self.work(call, 0);
        self.state.fetch_and(!OPEN, Ordering::Relaxed);
        let mut looks = 0u32;
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            std::hint::spin_loop();
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                std::thread::yield_now();
            }
        }
    }
}

impl Cpu {
    /// Calls `task(thread, number)` for each number below `tasks`, handed out in order, on the threads of the device. The threads
    /// that take part have numbers below [`Cpu::threads`]. A call that is made while another runs, e.g. from within a task, runs
    /// on the calling thread alone.
    pub(crate) fn parallel(&self, tasks: usize, task: impl Fn(usize, usize) + Sync + Send) {
        let threads = self.threads().min(tasks);
        if threads <= 1 || self.team.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(|number| task(0, number));
            return;
        }
        self.install(|| {
            let team = &self.team;
            team.run(tasks, threads, &task, || {
                let team: Arc<Team> = team.clone();
                self.pool.spawn(move || team.wait_for_calls());
            });
            let panic = team.panic.lock().expect("nobody panics with this lock").take();
            team.busy.store(false, Ordering::Release);
            if let Some(panic) = panic {
                resume_unwind(panic);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::cpu::{Cpu, Isa};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_runs_once_however_many_calls_there_are() {
        for threads in 1..=4 {
            let cpu = Cpu::new(Some(threads), Isa::Portable).unwrap();
            for call in 0..2000 {
                let counts: Vec<AtomicUsize> = (0..call % 17).map(|_| AtomicUsize::new(0)).collect();
                cpu.parallel(counts.len(), |thread, task| {
                    assert!(thread < threads);
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                    "call {call}, {threads} threads"
                );
            }
        }
    }

    #[test]
    fn calls_from_several_threads_and_from_within_tasks_are_run_too() {
        let cpu = Cpu::new(Some(2), Isa::Portable).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        cpu.parallel(5, |_, _| {
                            cpu.parallel(3, |_, _| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 15);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_next_call_runs() {
        let cpu = Cpu::new(Some(2), Isa::Portable).unwrap();
        for bad in 0..20 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                cpu.parallel(20, |_, task| assert_ne!(task, bad, "as the test wants it"));
            }));
            assert!(result.is_err());
        }
        let total = AtomicUsize::new(0);
        cpu.parallel(100, |_, task| {
            total.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 4950);
    }
}
