//! Kernels as NVIDIA's compiler writes them (`cuda/`): their numbers are right, the checkers report nothing, and planted bugs are
//! found.

use crate::kernel::ways;
use half::bf16;
use ptx_machine::{Arrival, Checks, Launch, Memory, Module, Outcome, Report, Schedule, Settings, sources};

const FUNCTIONS: &str = include_str!("cuda/functions.ptx");
const PRODUCT: &str = include_str!("cuda/product.ptx");
const ROWS: &str = include_str!("cuda/rows.ptx");

/// Finds PTX files that were not made anew after an edit, by the hash in their first lines. CI also compiles the sources and
/// compares every byte.
#[test]
fn no_ptx_is_stale() {
    let headers = sources::headers().unwrap();
    let all = sources::sources().unwrap();
    assert!(all.len() >= 3, "{all:?}");
    for (source, ptx) in all {
        let stamp = sources::stamp(&std::fs::read_to_string(&source).unwrap(), &headers);
        let made = std::fs::read_to_string(&ptx).unwrap_or_default();
        assert!(
            made.starts_with(&stamp),
            "{} is older than {}: cargo run -q -p ptx-machine --bin ptx",
            ptx.display(),
            source.display()
        );
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(memory: &Memory, address: u64, n: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * n];
    memory.read(address, &mut bytes).unwrap();
    bytes.chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
}

fn parameters(addresses: &[u64], sizes: &[u32]) -> Vec<u8> {
    let addresses = addresses.iter().flat_map(|address| address.to_le_bytes());
    let mut bytes: Vec<u8> = addresses.chain(sizes.iter().flat_map(|size| size.to_le_bytes())).collect();
    // the size of a struct is a multiple of its alignment, here 8 bytes
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Compares CUDA's functions with those of the standard library. The list has, for each function, the kernel, the largest error
/// that is allowed (in units in the last place), and the function in f64. The allowed error is at most that of the CUDA C++
/// programming guide, "Mathematical Functions", plus one unit for the machine's approximate instructions.
#[test]
fn the_mathematical_library_is_as_exact_as_its_guide_says() {
    type Function = fn(f64) -> f64;
    let functions: [(&str, f64, Function); 12] = [
        ("exp_f32", 3.0, f64::exp),
        ("expm1_f32", 2.0, f64::exp_m1),
        ("log_f32", 2.0, f64::ln),
        ("log1p_f32", 2.0, f64::ln_1p),
        ("sqrt_f32", 0.5, f64::sqrt),
        ("rsqrt_f32", 3.0, |x| 1.0 / x.sqrt()),
        ("reciprocal_f32", 0.5, |x| 1.0 / x),
        ("tanh_f32", 3.0, f64::tanh),
        ("sin_f32", 2.0, f64::sin),
        ("cos_f32", 2.0, f64::cos),
        ("power_f32", 5.0, |x| x.abs().powf(f64::from(1.7f32))),
        ("exp_f64", 0.5, f64::exp),
    ];
    let mut points: Vec<f32> = (0..2000).map(|i| (i as f32 - 1000.0) * 0.0373).collect();
    points.extend((0..2000).map(|i| 10f32.powf((i as f32 - 1000.0) * 0.0305) * if i % 2 == 0 { 1.0 } else { -1.0 }));
    points.extend([0.0, -0.0, 1.0, 88.7, -87.3, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    let memory = Memory::new(1 << 24);
    let module = Module::load(FUNCTIONS, &memory).unwrap();
    let (from, to) =
        (memory.allocate(4 * points.len() as u64).unwrap(), memory.allocate(4 * points.len() as u64).unwrap());
    memory.write(from, &bytes(&points)).unwrap();
    assert_eq!(module.kernels().len(), functions.len());
    for (name, ulps, function) in functions {
        let parameters = parameters(&[to, from], &[points.len() as u32]);
        let grid = [points.len().div_ceil(256) as u32, 1, 1];
        let launch = Launch { grid, block: [256, 1, 1], dynamic_shared: 0, parameters: &parameters };
        let outcome = module.kernel(name).unwrap().launch(&memory, &launch, &Settings::checked()).unwrap();
        assert_eq!(outcome.reports, [], "{name}");
        for (x, got) in points.iter().zip(floats(&memory, to, points.len())) {
            let want = function(f64::from(*x));
            let near = want as f32;
            let ulp = f64::from(near.abs().next_up()) - f64::from(near.abs());
            let is_near = (f64::from(got) - want).abs() <= ulps * ulp;
            // infinity and NaN have no distance: both results must be the same
            let is_same = got == near || got.is_nan() && near.is_nan();
            assert!(is_near || is_same, "{name}({x:e}) is {got:e} and not {want:e}");
        }
    }
}

/// Runs a kernel of `rows.cu` on a matrix of n x n numbers, with `launch` as grid and block. Returns the numbers that it writes
/// and the outcome.
fn of_matrix(
    text: &str,
    name: &str,
    n: u32,
    launch: ([u32; 3], [u32; 3]),
    outputs: u32,
    settings: &Settings,
) -> (Vec<f32>, Outcome) {
    let memory = Memory::new(1 << 26);
    let module = Module::load(text, &memory).unwrap();
    let values: Vec<f32> = (0..n * n).map(|i| ((i * 7919 + 13) % 1009) as f32 / 100.0 - 2.0).collect();
    let (from, to) = (memory.allocate(4 * u64::from(n * n)).unwrap(), memory.allocate(4 * u64::from(outputs)).unwrap());
    memory.write(from, &bytes(&values)).unwrap();
    let parameters = parameters(&[to, from], &[n]);
    let launch = Launch { grid: launch.0, block: launch.1, dynamic_shared: 0, parameters: &parameters };
    let outcome = module.kernel(name).unwrap().launch(&memory, &launch, settings).unwrap();
    (floats(&memory, to, outputs as usize), outcome)
}

fn settings_of((schedule, arrival): (Schedule, Arrival)) -> Settings {
    Settings { schedule, arrival, ..Settings::checked() }
}

/// Returns whether the text's `row_sums_f32` gives the right number for each row, and what the checkers report.
fn row_sums(text: &str, n: u32, settings: &Settings) -> (bool, Vec<Report>) {
    let (got, outcome) = of_matrix(text, "row_sums_f32", n, ([n, 1, 1], [128, 1, 1]), n, settings);
    let value = |i: u32| f64::from(((i * 7919 + 13) % 1009) as f32 / 100.0 - 2.0);
    let is_right = (0..n).zip(&got).all(|(row, got)| {
        let row: Vec<f64> = (0..n).map(|col| value(row * n + col)).collect();
        let want = row.iter().map(|x| x * x).sum::<f64>() / f64::from(n) / row.iter().sum::<f64>();
        (f64::from(*got) - want).abs() <= 1e-5 * want.abs()
    });
    (is_right, outcome.reports)
}

#[test]
fn sums_of_rows_are_right_whichever_way_they_go() {
    for way in ways() {
        for n in [1, 100, 300] {
            let (is_right, reports) = row_sums(ROWS, n, &settings_of(way));
            assert!(is_right && reports.is_empty(), "{n} {way:?} {reports:?}");
        }
    }
}

#[test]
fn a_transposition_turns_as_often_as_its_banks_make_it() {
    for (name, conflicts) in [("transposed_f32", 1), ("transposed_with_conflicts_f32", 32)] {
        for n in [64, 70] {
            let blocks = n / 32 + u32::from(n % 32 > 0);
            let settings = Settings { counts: true, ..Settings::checked() };
            let (got, outcome) = of_matrix(ROWS, name, n, ([blocks, blocks, 1], [32, 8, 1]), n * n, &settings);
            assert_eq!(outcome.reports, []);
            let value = |i: u32| ((i * 7919 + 13) % 1009) as f32 / 100.0 - 2.0;
            let want: Vec<f32> = (0..n * n).map(|i| value(i % n * n + i / n)).collect();
            assert!(got == want, "{name} {n}");
            if n == 64 {
                let total =
                    outcome.blocks.iter().map(|block| block.total()).fold((0, 0), |(wavefronts, least), counts| {
                        (wavefronts + counts.wavefronts, least + counts.wavefronts_at_least)
                    });
                // 4,096 numbers go into shared memory and come out again, 32 in a wavefront if no lanes meet in a bank
                assert_eq!(total, (128 + 128 * conflicts, 256), "{name}");
                let bytes: u64 = outcome.blocks.iter().map(|block| block.total().sectors * 32).sum();
                assert_eq!(bytes, 2 * 4 * 64 * 64, "{name}");
            }
        }
    }
}

/// Runs the text's kernel. Returns its largest error, as a multiple of what rounding may cause, and the outcome.
fn product(text: &str, [rows, cols, depth]: [u32; 3], settings: &Settings) -> (f64, Outcome) {
    let memory = Memory::new(1 << 26);
    let module = Module::load(text, &memory).unwrap();
    let matrix = |n: u32, seed: u32| -> Vec<bf16> {
        (0..n * depth).map(|i| bf16::from_f32(((i * 6007 + seed) % 511) as f32 / 128.0 - 2.0)).collect()
    };
    let (x, w) = (matrix(rows, 3), matrix(cols, 17));
    let upload = |values: &[bf16]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let address = memory.allocate(bytes.len() as u64).unwrap();
        memory.write(address, &bytes).unwrap();
        address
    };
    let (from, weights) = (upload(&x), upload(&w));
    let to = memory.allocate(4 * u64::from(rows * cols)).unwrap();
    let parameters = parameters(&[to, from, weights], &[rows, cols, depth]);
    let launch = Launch {
        grid: [cols.div_ceil(64), rows.div_ceil(64), 1],
        block: [128, 1, 1],
        dynamic_shared: 0,
        parameters: &parameters,
    };
    let outcome = module.kernels()[0].launch(&memory, &launch, settings).unwrap();
    let got = floats(&memory, to, (rows * cols) as usize);
    let mut worst = 0.0f64;
    for row in 0..rows as usize {
        for col in 0..cols as usize {
            let terms = || {
                let depth = depth as usize;
                x[row * depth..][..depth].iter().zip(&w[col * depth..][..depth]).map(|(x, w)| x.to_f64() * w.to_f64())
            };
            let allowed = f64::from(f32::EPSILON) * terms().map(f64::abs).sum::<f64>() * f64::from(depth).sqrt();
            let error = (f64::from(got[row * cols as usize + col]) - terms().sum::<f64>()).abs();
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error / allowed) };
        }
    }
    (worst, outcome)
}

#[test]
fn a_product_on_tensor_cores_is_right_whichever_way_it_goes() {
    for sizes in [[64, 64, 32], [1, 1, 8], [65, 70, 104], [130, 33, 200]] {
        for way in ways() {
            let (worst, outcome) = product(PRODUCT, sizes, &settings_of(way));
            assert!(worst <= 1.0 && outcome.reports.is_empty(), "{sizes:?} {way:?} {worst} {:?}", outcome.reports);
        }
    }
}

#[test]
fn a_product_is_counted() {
    let settings = Settings { counts: true, ..Settings::default() };
    let (_, outcome) = product(PRODUCT, [128, 128, 256], &settings);
    let memory = Memory::new(1 << 20);
    let module = Module::load(PRODUCT, &memory).unwrap();
    let kernel = &module.kernels()[0];
    let executed = |opcode: &str| -> u64 {
        kernel.opcodes().iter().zip(&outcome.executed).filter(|(of, _)| of.starts_with(opcode)).map(|(_, n)| n).sum()
    };
    assert_eq!(executed("mma"), 128 * 128 * 256 / (16 * 8 * 16));
    let mut wavefronts = (0, 0);
    for block in &outcome.blocks {
        for (opcode, counts) in kernel.opcodes().iter().zip(&block.instructions) {
            if opcode.starts_with("ldmatrix") {
                wavefronts = (wavefronts.0 + counts.wavefronts, wavefronts.1 + counts.wavefronts_at_least);
            }
        }
    }
    assert!(wavefronts.0 == wavefronts.1 && wavefronts.1 > 0, "{wavefronts:?}");
}

/// Replaces occurrence `nth` of a pattern, counted from 0.
fn planted(text: &str, pattern: &str, nth: usize, by: &str) -> String {
    let (at, found) =
        text.match_indices(pattern).nth(nth).unwrap_or_else(|| panic!("`{pattern}` is not there {nth} times"));
    format!("{}{by}{}", &text[..at], &text[at + found.len()..])
}

/// Plants common bugs in the compiled text. For each bug, a checker must report it or the numbers must be wrong, in every
/// schedule and with early and late copies.
#[test]
fn planted_bugs_are_found() {
    let mut found = Vec::new();
    let barriers = ROWS[..ROWS.find("transposed").unwrap()].matches("bar.sync").count();
    for barrier in 0..barriers {
        found.push((format!("rows, barrier {barrier}"), planted(ROWS, "bar.sync", barrier, "// bar.sync"), false));
    }
    found.push((
        "rows, a lane's partner".to_owned(),
        planted(ROWS, "mov.u32 \t%r29, 16;", 0, "mov.u32 \t%r29, 8;"),
        false,
    ));
    for barrier in 0..PRODUCT.matches("bar.sync").count() {
        found.push((format!("product, barrier {barrier}"), planted(PRODUCT, "bar.sync", barrier, "// bar.sync"), true));
    }
    for (what, pattern, nth, by) in [
        ("a wait that comes too late", "cp.async.wait_group 1;", 0, "cp.async.wait_group 2;"),
        ("a group that is not closed", "cp.async.commit_group;", 1, ""),
        (
            "a matrix transposed",
            "ldmatrix.sync.aligned.m8n8.x4.shared",
            0,
            "ldmatrix.sync.aligned.m8n8.x4.trans.shared",
        ),
    ] {
        found.push((format!("product, {what}"), planted(PRODUCT, pattern, nth, by), true));
    }
    for (what, text, is_product) in found {
        for way in ways() {
            let settings = Settings { limit: 10_000_000, ..settings_of(way) };
            let (is_right, reports) = match is_product {
                true => {
                    let (worst, outcome) = product(&text, [65, 70, 104], &settings);
                    (worst <= 1.0, outcome.reports)
                }
                false => row_sums(&text, 100, &settings),
            };
            assert!(!is_right || !reports.is_empty(), "{what} is not found, {way:?}");
        }
    }
    // without the checkers some bugs would pass: here a barrier is missing, and the numbers are right
    let unchecked = Settings { checks: Checks::default(), ..Settings::default() };
    let barrier = planted(ROWS, "bar.sync", 1, "// bar.sync");
    assert_eq!(row_sums(&barrier, 100, &unchecked), (true, Vec::new()));
}
