//! Kernels on a card: the PTX machine with its checkers, or a real one with `ALIGN_TEST_CUDA=driver`.

use super::{Case, Comparison, counted};
use crate::cuda::Cuda;
use crate::{Device, KernelError};
use ptx_machine::driver::{self, Driver};
use std::ops::Deref;
use std::sync::Arc;

/// Operations of the largest case that runs with every checker, and of the largest that runs at all, then with the check of
/// addresses alone. The machine does 0.3 to 1.5 billion multiply-adds a second.
const MOST_CHECKED: f64 = 1e6;
const MOST: f64 = 3e7;

/// Two orders of blocks and warps. In the first, copies arrive at the last moment that they may, in the second at once.
const SCHEDULES: [&str; 2] = ["schedule=forward;arrival=late", "schedule=reverse;arrival=early"];

/// A card whose blocks are allocations of their own.
pub(crate) struct Card {
    device: Device,
    machine: Option<(&'static Driver, usize)>,
}

impl Card {
    /// A card with every checker.
    pub(crate) fn checked() -> Card {
        Card::new("mode=late;init=1;race=1")
    }

    /// A machine of this description, or the first real card.
    fn new(description: &str) -> Card {
        let machine = driver::install().map(|driver| (driver, driver.card(description)));
        let ordinal = machine.map_or(0, |(_, ordinal)| ordinal);
        let cuda = Cuda::apart(ordinal, Some(1)).expect("the card can be opened");
        Card { device: Device::Cuda(Arc::new(cuda)), machine }
    }

    /// Waits for what was queued.
    ///
    /// # Panics
    /// If a checker has found something.
    pub(crate) fn assert_silent(self) {
        let reports = self.reports();
        assert!(reports.is_empty(), "{}", reports.join("\n"));
    }

    /// Waits for what was queued and returns what the checkers found.
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

/// Runs every case on a card in two schedules and compares the outputs with the references.
///
/// # Panics
/// With the list of everything that failed and that a checker found, or if there is nothing to check.
pub(crate) fn check_on_cards(cases: Vec<Case>) {
    let mut failures = Vec::new();
    let mut compared = 0;
    for case in cases.into_iter().filter(|case| case.flops <= MOST) {
        // what a large case finds beyond the small ones is in its numbers and addresses, whatever the schedule
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

/// Returns what is wrong with the count of the run's memory, and the outputs beside the references.
fn run(case: &Case, device: &Device) -> Result<(Option<String>, Vec<Comparison>), KernelError> {
    let mut prepared = (case.prepare)(device)?;
    prepared.reset()?;
    prepared.run()?;
    let fault = counted(case, device)?;
    Ok((fault, prepared.check()))
}
