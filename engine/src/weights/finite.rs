//! Checks in one pass over a tensor's bytes whether every number is finite, and whether all are zero. The pass touches every
//! page.

use super::tensor::widen;
use align_kernels::Device;
use align_kernels::device::WeightDtype;
use rayon::prelude::*;

/// Number of bytes that one task checks. Checking them takes a few times as long as handing the task to a thread.
const TASK: usize = 1 << 18;

/// What the pass found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Values {
    /// The first element that is NaN or infinite, and its value.
    pub nonfinite: Option<(usize, f32)>,
    /// Whether every element is 0 (or -0).
    pub all_zero: bool,
}

/// Checks all elements of `data`, which must hold a whole number of elements of `dtype`. The data need not be aligned.
pub(super) fn look(device: &Device, dtype: WeightDtype, data: &[u8]) -> Values {
    device.install(|| {
        let tasks = data.par_chunks(TASK).enumerate();
        let (nonfinite, zero) = tasks
            .map(|(task, bytes)| {
                let (exponent, zero) = match dtype {
                    WeightDtype::F32 => look_4(bytes),
                    WeightDtype::F16 => look_2(bytes, 0x7C00),
                    WeightDtype::Bf16 => look_2(bytes, 0x7F80),
                };
                (if exponent { task } else { usize::MAX }, zero)
            })
            .reduce(|| (usize::MAX, true), |a, b| (a.0.min(b.0), a.1 && b.1));
        let nonfinite = (nonfinite != usize::MAX).then(|| first(dtype, data, nonfinite * TASK));
        Values { nonfinite, all_zero: zero }
    })
}

/// Returns whether any element has all bits of `exponent`, as infinities and NaN do, and whether all elements are zero. There is
/// no early exit, so that the compiler can use SIMD. With a sound file, an early exit would never be taken anyway.
fn look_2(bytes: &[u8], exponent: u16) -> (bool, bool) {
    let mut found = false;
    let mut any = 0;
    for &element in bytes.as_chunks::<2>().0 {
        let bits = u16::from_le_bytes(element);
        found |= bits & exponent == exponent;
        any |= bits & 0x7FFF;
    }
    (found, any == 0)
}

fn look_4(bytes: &[u8]) -> (bool, bool) {
    const EXPONENT: u32 = 0x7F80_0000;
    let mut found = false;
    let mut any = 0;
    for &element in bytes.as_chunks::<4>().0 {
        let bits = u32::from_le_bytes(element);
        found |= bits & EXPONENT == EXPONENT;
        any |= bits & 0x7FFF_FFFF;
    }
    (found, any == 0)
}

/// Returns the first element at or after byte `from` that is not finite. There must be one.
fn first(dtype: WeightDtype, data: &[u8], from: usize) -> (usize, f32) {
    let size = dtype.bytes();
    data[from..]
        .chunks_exact(size)
        .map(|element| widen(dtype, element))
        .enumerate()
        .find(|(_, value)| !value.is_finite())
        .map(|(at, value)| (from / size + at, value))
        .expect("`look` saw one in this task")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(dtype: WeightDtype, values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|&value| match dtype {
                WeightDtype::F32 => value.to_le_bytes().to_vec(),
                WeightDtype::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
                WeightDtype::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
            })
            .collect()
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found_in_every_format() {
        let device = Device::cpu(Some(2)).unwrap();
        for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
            // Three full tasks and a partial one, so that the earliest find must win over later ones.
            let mut values = vec![1.5; 3 * TASK / dtype.bytes() + 7];
            assert_eq!(look(&device, dtype, &bytes_of(dtype, &values)), Values { nonfinite: None, all_zero: false });
            let last = values.len() - 1;
            values[last] = f32::NAN;
            let second_task = TASK / dtype.bytes() + 3;
            values[second_task] = f32::NEG_INFINITY;
            let seen = look(&device, dtype, &bytes_of(dtype, &values));
            assert_eq!(seen.nonfinite, Some((second_task, f32::NEG_INFINITY)), "{dtype:?}");
            values[second_task] = 0.0;
            let (at, value) = look(&device, dtype, &bytes_of(dtype, &values)).nonfinite.unwrap();
            assert!(at == last && value.is_nan(), "{dtype:?}");
        }
    }

    #[test]
    fn the_largest_finite_value_passes_and_zeros_are_seen() {
        let device = Device::cpu(Some(1)).unwrap();
        for (dtype, largest) in
            [(WeightDtype::F32, f32::MAX), (WeightDtype::F16, 65504.0), (WeightDtype::Bf16, half::bf16::MAX.to_f32())]
        {
            let seen = look(&device, dtype, &bytes_of(dtype, &[largest, -largest]));
            assert_eq!(seen, Values { nonfinite: None, all_zero: false });
            assert!(look(&device, dtype, &bytes_of(dtype, &[0.0, -0.0])).all_zero);
        }
    }
}
