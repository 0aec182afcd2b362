//! Holds what each kernel does to budgets: the PTX machine counts instructions and accesses to memory, and the counts may not grow.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod calls;
mod table;

use align_kernels::Device;
use calls::{Call, calls};
use ptx_machine::driver::{self, KernelCounts};
use ptx_machine::sources;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use table::{COMMAND, Counters, Table, faults};

/// Most bytes that a row kernel may touch and request, as a multiple of those that it must.
const MOST: f64 = 1.1;

/// What one kernel did in a call.
struct Measured {
    kernel: String,
    shape: String,
    counts: KernelCounts,
    /// Bytes that the kernel must move, and bytes that it may also fetch from a cache. `None` if it is no row kernel.
    bytes: Option<calls::Bytes>,
}

impl Measured {
    fn name(&self) -> String {
        format!("{} {}", self.kernel, self.shape)
    }

    /// Returns the line of the table.
    fn counters(&self) -> Counters {
        let bytes = self.bytes.map(|bytes| [("must_move_bytes", bytes.moved), ("cached_bytes", bytes.cached)]);
        let named = self.counts.named().into_iter().chain(bytes.into_iter().flatten());
        named.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Returns how many times as many bytes a row kernel touches and requests as it must. `None` for other kernels.
    fn ratios(&self) -> Option<[f64; 2]> {
        let bytes = self.bytes?;
        let touched = self.counts.touched_bytes as f64 / bytes.moved as f64;
        let requested = self.counts.requested_bytes as f64 / (bytes.moved + bytes.cached) as f64;
        Some([touched, requested])
    }

    /// Returns what this kernel does beyond its limits.
    fn excess(&self) -> Vec<String> {
        let mut excess = Vec::new();
        let name = self.name();
        for (what, ratio) in ["touches", "requests"].into_iter().zip(self.ratios().into_iter().flatten()) {
            // NaN, if a row kernel is said to move nothing, is beyond the limit too
            if ratio.is_nan() || ratio > MOST {
                excess
                    .push(format!("{name}: {what} {ratio:.3} times the bytes that it must, at most {MOST} is allowed"));
            }
        }
        let KernelCounts { wavefronts, wavefronts_at_least, .. } = self.counts;
        if wavefronts > wavefronts_at_least {
            excess.push(format!(
                "{name}: {wavefronts} wavefronts, {wavefronts_at_least} would do without bank conflicts"
            ));
        }
        excess
    }
}

/// Makes every call, each on a card of its own. `None` if the tests are for a real card, which has no such counters.
fn measured() -> Option<&'static [Measured]> {
    static MEASURED: OnceLock<Vec<Measured>> = OnceLock::new();
    let Some(driver) = driver::install() else {
        println!("a real card does not count: the budgets are not checked");
        return None;
    };
    Some(MEASURED.get_or_init(|| calls().into_iter().flat_map(|call| measure(driver, call)).collect()))
}

fn measure(driver: &driver::Driver, call: Call) -> Vec<Measured> {
    let Call { shape, mut row_kernels, run } = call;
    let ordinal = driver.card("mode=eager;counts=1");
    let device = Device::cuda(ordinal, Some(1)).expect("the machine is a card");
    run(&device).unwrap_or_else(|error| panic!("{shape}: {error}"));
    device.synchronize().unwrap_or_else(|error| panic!("{shape}: {error}"));
    let measure = |(kernel, counts): (String, KernelCounts)| {
        let bytes = row_kernels.remove(kernel.as_str());
        Measured { kernel, shape: shape.clone(), counts, bytes }
    };
    let measured = driver.counts(ordinal).into_iter().map(measure).collect();
    assert!(row_kernels.is_empty(), "{shape}: {:?} did not run", row_kernels.keys());
    measured
}

fn table_of(measured: &[Measured]) -> Table {
    let table: Table = measured.iter().map(|of| (of.name(), of.counters())).collect();
    assert_eq!(table.len(), measured.len(), "two calls have the same kernel and the same shape");
    table
}

#[test]
fn no_counter_grows() {
    let Some(measured) = measured() else { return };
    let found = table_of(measured);
    if std::env::var_os("ALIGN_WRITE_BUDGETS").is_some() {
        table::write(&found);
        return;
    }
    let faults = faults(&table::read(), &found);
    let how = format!("If this is meant, `{COMMAND}` writes the table anew.");
    assert!(faults.is_empty(), "{}\n{how}", faults.join("\n"));
}

#[test]
fn every_kernel_is_counted() {
    let Some(measured) = measured() else { return };
    let called: BTreeSet<String> = measured.iter().map(|of| of.kernel.clone()).collect();
    let ptx = std::fs::read_dir(sources::ptx_folder()).unwrap();
    let texts = ptx.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let names = |text: String| -> Vec<String> {
        let entries = text.split(".entry ").skip(1);
        entries.map(|rest| rest.split('(').next().unwrap().to_owned()).collect()
    };
    assert_eq!(called, texts.flat_map(names).collect());
}

#[test]
fn row_kernels_move_what_they_must_and_no_access_to_shared_memory_has_conflicts() {
    let Some(measured) = measured() else { return };
    for of in measured {
        if let Some([touched, requested]) = of.ratios() {
            println!("{touched:.3} {requested:.3} {}", of.name());
        }
    }
    let excess: Vec<String> = measured.iter().flat_map(Measured::excess).collect();
    assert!(excess.is_empty(), "{}", excess.join("\n"));
}

fn counters<const N: usize>(values: [(&str, u64); N]) -> Counters {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

#[test]
fn a_counter_that_grew_is_a_fault_and_one_that_shrank_is_none() {
    let known = BTreeMap::from([("a [8]".to_owned(), counters([("instructions", 100), ("wavefronts", 8)]))]);
    let with = |values| BTreeMap::from([("a [8]".to_owned(), counters(values))]);
    assert_eq!(faults(&known, &with([("instructions", 100), ("wavefronts", 8)])), [""; 0]);
    assert_eq!(faults(&known, &with([("instructions", 99), ("wavefronts", 0)])), [""; 0]);
    let grown = faults(&known, &with([("instructions", 101), ("wavefronts", 8)]));
    assert_eq!(grown, ["a [8]: instructions grew from 100 to 101, by 1.0 %"]);
    let none = BTreeMap::from([("a [8]".to_owned(), counters([("instructions", 100), ("wavefronts", 0)]))]);
    assert_eq!(faults(&none, &known), ["a [8]: wavefronts grew from 0 to 8"]);
}

#[test]
fn what_only_the_table_or_only_the_calls_have_is_a_fault() {
    let one = BTreeMap::from([("a [8]".to_owned(), counters([("instructions", 100)]))]);
    let other = BTreeMap::from([("b [8]".to_owned(), counters([("instructions", 100)]))]);
    let want = ["b [8] is not in the table", "a [8] is in the table and was not counted"];
    assert_eq!(faults(&one, &other), want);
    assert_eq!(faults(&one, &BTreeMap::new()), want[1..]);
    let more = BTreeMap::from([("a [8]".to_owned(), counters([("instructions", 100), ("launches", 1)]))]);
    assert_eq!(faults(&one, &more), ["a [8]: launches is not in the table"]);
}

#[test]
fn limits_are_exceeded_above_them_only() {
    let of = |touched_bytes, requested_bytes, wavefronts, bytes| {
        let counts =
            KernelCounts { touched_bytes, requested_bytes, wavefronts, wavefronts_at_least: 4, ..Default::default() };
        Measured { kernel: "a".to_owned(), shape: "[8]".to_owned(), counts, bytes }.excess()
    };
    let bytes = Some(calls::Bytes { moved: 1000, cached: 500 });
    assert_eq!(of(1100, 1650, 4, bytes), [""; 0]);
    assert_eq!(of(5000, 5000, 4, None), [""; 0]);
    assert_eq!(of(1101, 1650, 4, bytes), ["a [8]: touches 1.101 times the bytes that it must, at most 1.1 is allowed"]);
    assert_eq!(
        of(1100, 1652, 4, bytes),
        ["a [8]: requests 1.101 times the bytes that it must, at most 1.1 is allowed"]
    );
    assert_eq!(of(1100, 1650, 5, None), ["a [8]: 5 wavefronts, 4 would do without bank conflicts"]);
    assert_eq!(of(0, 0, 4, Some(calls::Bytes { moved: 0, cached: 0 })).len(), 2);
}
