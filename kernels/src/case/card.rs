//! Runs kernels on a card: on the PTX machine, which has checkers, or on a real card if `ALIGN_TEST_CUDA=driver` is set.

use super::{Case, Comparison, counted};
use crate::formats::Element;
use crate::{Buffer, Device, KernelError};
use ptx_machine::driver::{self, Driver};
use std::ops::{Deref, Range};

/// Largest number of operations of a case that runs with every checker. A larger case, up to `MOST`, runs with the check of
/// addresses alone. The PTX machine does 0.3 to 1.5 billion multiply-adds a second.
const MOST_CHECKED: f64 = 1e6;
const MOST: f64 = 3e7;

/// The checks end with the case that brings the failures to this number: a broken kernel fails in most cases.
const ENOUGH: usize = 10;

/// Warp instructions after which a launch counts as endless: more than any case needs.
const LIMIT: u64 = 100_000_000;

/// Two orders of blocks and warps. In the first, asynchronous copies arrive as late as they may. In the second, they arrive at
/// once.
const SCHEDULES: [&str; 2] = ["schedule=forward;arrival=late", "schedule=reverse;arrival=early"];

/// A card on which every block of memory is a separate allocation.
pub(crate) struct Card {
    device: Device,
    machine: Option<(&'static Driver, usize)>,
}

impl Card {
    /// Opens the PTX machine with every checker, or the first real card.
    pub(crate) fn checked() -> Card {
        Card::new("mode=late;init=1;race=1")
    }

    /// Opens a PTX machine for tests of addresses beyond 2^32 elements. `None` if tests run on a real card. It has more memory than
    /// any host: new memory holds zeros, which take no memory of the host. A launch runs only its last `blocks` blocks.
    pub(crate) fn vast(blocks: u32) -> Option<Card> {
        let description = format!("mode=late;memory={};sparse=1;last={blocks};limit=10000000", 1u64 << 44);
        let card = driver::install().map(|_| Card::new(&description));
        if card.is_none() {
            println!("left out: this test needs the PTX machine, which has memory that is not there");
        }
        card
    }

    /// Opens a PTX machine of this description, or the first real card if tests run on a real one.
    fn new(description: &str) -> Card {
        let description = format!("limit={LIMIT};{description}");
        let machine = driver::install().map(|driver| (driver, driver.card(&description)));
        let ordinal = machine.map_or(0, |(_, ordinal)| ordinal);
        Card { device: Device::cuda_apart(ordinal, Some(1)).expect("the card can be opened"), machine }
    }

    /// Waits for all queued work.
    ///
    /// # Panics
    /// If the work failed or a checker reported something.
    pub(crate) fn assert_silent(self) {
        let reports = self.reports();
        assert!(reports.is_empty(), "{}", reports.join("\n"));
    }

    /// Waits for all queued work. Returns its error, if there was one, and what the checkers reported.
    fn reports(self) -> Vec<String> {
        let waited = self.device.synchronize();
        let mut reports: Vec<_> = waited.err().map(|error| error.to_string()).into_iter().collect();
        drop(self.device);
        reports.extend(self.machine.map_or_else(Vec::new, |(driver, ordinal)| driver.tally(ordinal).reports));
        reports
    }
}

impl Deref for Card {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

/// More elements than an index of 32 bits tells apart.
pub(crate) const VAST: usize = (1 << 32) + 1000;

/// The elements of [`VAST`] that an index of 32 bits takes for the first ones. Four blocks of 256 threads have them.
pub(crate) const BEYOND: Range<usize> = 1 << 32..VAST;

/// Copies `values` into a buffer, from element `at` on.
pub(crate) fn put<T: Element>(to: &mut Buffer<T>, at: usize, values: &[T]) {
    let device = to.device().clone();
    let values = device.upload("values", values).unwrap();
    device.copy(values.view(), to.view_mut().range(at..at + values.len())).unwrap();
}

/// Downloads some elements of a buffer.
pub(crate) fn get<T: Element>(from: &Buffer<T>, elements: Range<usize>) -> Vec<T> {
    from.view().range(elements).download().unwrap()
}

/// Runs a test on a card with every checker.
///
/// # Panics
/// As [`Card::assert_silent`].
pub(crate) fn on_a_card(test: impl FnOnce(&Device)) {
    let card = Card::checked();
    test(&card);
    card.assert_silent();
}

/// Runs every case of at most `MOST` operations on a card and compares the outputs with the references. Cases of at most
/// `MOST_CHECKED` operations run in two schedules, larger ones in the first. Ends early after `ENOUGH` failures.
///
/// # Panics
/// If anything failed or a checker reported something. The message lists it all. Also panics if nothing was compared.
pub(crate) fn check_on_cards(cases: Vec<Case>) {
    let mut failures = Vec::new();
    let mut compared = 0;
    for case in cases.into_iter().filter(|case| case.flops <= MOST) {
        if failures.len() >= ENOUGH {
            break;
        }
        // beyond the small cases, a large one tests only its numbers and addresses, and they do not depend on the schedule
        let (checkers, schedules) = match case.flops <= MOST_CHECKED {
            true => ("init=1;race=1", &SCHEDULES[..]),
            false => ("init=0;race=0", &SCHEDULES[..1]),
        };
        for schedule in schedules {
            let card = Card::new(&format!("mode=late;{checkers};{schedule}"));
            let place = format!("{} {} on {}, {schedule}", case.kernel, case.shape, card.device.describe());
            match run(&case, &card.device) {
                Err(error) => failures.push(format!("{place}: {error}")),
                Ok((fault, comparisons)) => {
                    failures.extend(fault.map(|fault| format!("{place}: {fault}")));
                    compared += comparisons.len();
                    failures.extend(comparisons.iter().filter(|c| !c.holds()).map(|c| c.failure(&place)));
                }
            }
            failures.extend(card.reports().into_iter().map(|report| format!("{place}: {report}")));
        }
    }
    assert!(failures.is_empty(), "{} failures, {compared} outputs compared:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 0, "no case was checked");
}

/// Runs a case once. Returns how its memory disagrees with what was counted for it, if it does, and compares its outputs with the
/// references.
fn run(case: &Case, device: &Device) -> Result<(Option<String>, Vec<Comparison>), KernelError> {
    let mut prepared = (case.prepare)(device)?;
    prepared.reset()?;
    prepared.run()?;
    let fault = counted(case, device)?;
    Ok((fault, prepared.check()))
}
