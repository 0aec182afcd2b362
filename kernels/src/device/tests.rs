//! Buffers: where their memory comes from, what may be written, what is refused.

use super::*;
use crate::KernelError;
use std::sync::Arc;

fn device() -> Device {
    Device::cpu_with(Some(2), Isa::Portable).unwrap()
}

/// Bytes that begin at a multiple of 64, as a mapped file's do.
struct File {
    bytes: Vec<u8>,
    first: usize,
}

impl File {
    fn of(content: &[f32]) -> Arc<File> {
        let mut bytes = vec![0u8; size_of_val(content) + 64];
        let first = bytes.as_ptr().align_offset(64);
        bytes[first..][..size_of_val(content)].copy_from_slice(bytemuck::cast_slice(content));
        Arc::new(File { bytes, first })
    }
}

impl AsRef<[u8]> for File {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.first..]
    }
}

#[test]
fn aligned_weights_are_used_in_place_and_keep_their_owner() {
    let device = device();
    let file = File::of(&[1.0, 2.0, 3.0]);
    let weights: Buffer<f32> = device.weights("w", &file, 4..12).unwrap();
    assert_eq!(weights.view().cpu().as_ptr().addr(), (*file).as_ref().as_ptr().addr() + 4);
    assert_eq!(device.memory().in_use, 0, "a mapping costs no memory of the device");
    assert_eq!(Arc::strong_count(&file), 2);
    drop(file);
    assert_eq!(weights.download().unwrap(), [2.0, 3.0]);
}

#[test]
fn misaligned_weights_are_copied() {
    let device = device();
    let content = [1.0f32, -2.0, 3.5];
    let mut bytes = vec![0u8; 64];
    let first = bytes.as_ptr().align_offset(4) + 1;
    bytes[first..first + 12].copy_from_slice(bytemuck::cast_slice(&content));
    let file = Arc::new(bytes);
    let weights: Buffer<f32> = device.weights("w", &file, first..first + 12).unwrap();
    assert_eq!(weights.download().unwrap(), content);
    assert_eq!(Arc::strong_count(&file), 1, "a copy needs no owner");
    assert!(device.memory().in_use >= 12);
    let nothing: Buffer<f32> = device.weights("w", &file, first..first).unwrap();
    assert!(nothing.is_empty() && nothing.download().unwrap().is_empty());
}

#[test]
fn weights_know_their_format() {
    let device = device();
    let file = File::of(&[1.0, 2.0]);
    for (dtype, len) in [(WeightDtype::F32, 2), (WeightDtype::F16, 4), (WeightDtype::Bf16, 4)] {
        let weights = WeightBuffer::new(&device, "w", dtype, &file, 0..8).unwrap();
        assert_eq!((weights.view().len(), weights.bytes()), (len, 8), "{dtype:?}");
        assert_eq!(weights.view().range(1..2).len(), 1);
    }
}

#[test]
#[should_panic(expected = "frozen weights `base` are never written")]
fn weights_in_place_are_never_written() {
    let file = File::of(&[1.0]);
    let mut weights: Buffer<f32> = device().weights("base", &file, 0..4).unwrap();
    weights.view_mut();
}

#[test]
#[should_panic(expected = "whole number of elements")]
fn weights_are_whole_elements() {
    let file = File::of(&[1.0, 2.0]);
    let _ = device().weights::<f32, _>("w", &file, 0..6);
}

#[test]
fn zeros_are_zero_in_used_memory_too() {
    let device = device();
    for len in [5, 300_000] {
        let mut used = device.alloc("used", len).unwrap();
        used.view_mut().fill(7.0f32).unwrap();
        let address = used.view().cpu().as_ptr();
        drop(used);
        let zeros: Buffer<f32> = device.zeros("zeros", len).unwrap();
        assert_eq!(zeros.view().cpu().as_ptr(), address, "the same block");
        assert!(zeros.download().unwrap().iter().all(|x| *x == 0.0));
    }
}

#[test]
fn uploads_and_copies_come_back() {
    let device = device();
    let mut buffer = device.upload("ids", &[1u32, 2, 3, 4]).unwrap();
    let other = device.upload("other", &[8u32, 9]).unwrap();
    device.copy(other.view(), buffer.view_mut().range(1..3)).unwrap();
    buffer.view_mut().reborrow().range(3..4).fill(5).unwrap();
    assert_eq!(buffer.download().unwrap(), [1, 8, 9, 5]);
    assert_eq!(buffer.view().range(2..4).download().unwrap(), [9, 5]);
    assert_eq!(buffer.view_mut().as_slice().len(), 4);
}

#[test]
fn the_report_has_names_and_a_high_water_mark() {
    let device = device();
    let a = device.alloc::<f32>("a", 1000).unwrap();
    let b = device.alloc::<f32>("b", 500).unwrap();
    let both = device.memory().in_use;
    drop(a);
    let report = device.memory();
    assert_eq!(report.peak, both);
    assert_eq!((report.of("a").in_use, report.of("a").peak), (0, both - report.in_use));
    assert!(report.of("b").in_use >= 2000);
    drop(b);
    assert_eq!(device.memory().in_use, 0);
}

#[test]
fn a_buffer_beyond_the_machine_is_an_error() {
    let device = device();
    for len in [1 << 58, usize::MAX / 4, usize::MAX] {
        let error = device.alloc::<f32>("huge", len).unwrap_err();
        assert!(matches!(error, KernelError::OutOfMemory { name: "huge", in_use: 0, device: "cpu", .. }), "{error}");
    }
}

#[test]
fn a_kernel_within_a_kernel_is_part_of_it() {
    let device = Device::cpu(Some(1)).unwrap();
    for _ in 0..2 {
        let _outer = device.timed("outer");
        let _inner = device.timed("inner");
    }
    let times = device.kernel_times();
    assert_eq!(times.keys().collect::<Vec<_>>(), [&"outer"]);
    assert_eq!(times["outer"].calls, 2);
    assert!(times["outer"].total > std::time::Duration::ZERO);
}

#[cfg(target_os = "linux")]
#[test]
fn a_thread_started_by_one_of_the_pool_can_be_let_go() {
    let processors = || std::thread::available_parallelism().unwrap().get();
    let all = processors();
    let device = Device::cpu(None).unwrap();
    let (tied, free) = device.install(|| {
        let of_thread = |unpin: bool| {
            let count = move || {
                if unpin {
                    crate::cpu::unpin_this_thread();
                }
                processors()
            };
            std::thread::spawn(count).join().unwrap()
        };
        (of_thread(false), of_thread(true))
    });
    assert_eq!((tied, free), (1, all));
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use crate::case::Inputs;
    use crate::case::card::{BEYOND, Card, VAST, get, on_a_card, put};
    use half::bf16;

    /// Values to round: random ones, both neighbours of each middle between two numbers of bf16 and the middle itself, the largest
    /// ones, and those that are not finite.
    fn values() -> Vec<f32> {
        let middles =
            (0..200u32).flat_map(|i| [0x7fff, 0x8000, 0x8001].map(|low| f32::from_bits((0x3f80 + i) << 16 | low)));
        let special = [0.0, -0.0, 1e-40, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY];
        Inputs::of(&[1]).normal(150, 1.0).into_iter().chain(middles).chain(special).collect()
    }

    #[test]
    fn copies_in_another_format_have_the_bits_of_the_processor() {
        on_a_card(|device| {
            for len in [0, 1, 255, 256, 257, values().len()] {
                let wide = &values()[values().len() - len..];
                let narrow: Vec<bf16> = wide.iter().map(|x| bf16::from_f32(*x)).collect();
                let mut rounded = device.alloc::<bf16>("narrow", len).unwrap();
                let from = device.upload("wide", wide).unwrap();
                device.copy_float(from.view().into(), rounded.view_mut().into()).unwrap();
                assert_eq!(rounded.download().unwrap(), narrow, "[{len}]");
                let mut widened = device.alloc::<f32>("wide", len).unwrap();
                device.copy_float(rounded.view().into(), widened.view_mut().into()).unwrap();
                let want: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
                assert_eq!(widened.download().unwrap(), want, "[{len}]");
            }
        });
    }

    #[test]
    fn a_part_of_a_buffer_is_filled_and_copied() {
        on_a_card(|device| {
            let mut values = device.zeros::<f32>("values", 600).unwrap();
            values.view_mut().range(100..400).fill(2.0).unwrap();
            let mut copy = device.upload("copy", &[7.0; 300]).unwrap();
            device.copy(values.view().range(99..101), copy.view_mut().range(1..3)).unwrap();
            assert_eq!(copy.download().unwrap()[..4], [7.0, 0.0, 2.0, 7.0]);
            let want: Vec<f32> = (0..600).map(|i| if (100..400).contains(&i) { 2.0 } else { 0.0 }).collect();
            assert_eq!(values.download().unwrap(), want);
        });
    }

    /// Copies through page-locked memory take turns with work that is queued: each upload must have run before its place in that
    /// memory is used again, and kernels must read what was uploaded before them.
    #[test]
    fn uploads_larger_than_the_staging_memory_arrive_whole() {
        let card = Card::checked();
        let mut buffers = Vec::new();
        for (turn, len) in [3_000_001usize, 7, 1_048_576, 2_097_153, 5, 3_000_000].into_iter().enumerate() {
            let values: Vec<u32> = (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) ^ turn as u32).collect();
            buffers.push((card.upload("values", &values).unwrap(), values));
        }
        for (buffer, values) in &buffers {
            assert!(buffer.download().unwrap() == *values, "[{}]", values.len());
        }
        card.assert_silent();
    }

    #[test]
    fn elements_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(4) else { return };
        let values = Inputs::of(&[VAST]).normal_bf16(1000, 1.0);
        let [mut narrow, mut back] = [(); 2].map(|()| card.alloc::<bf16>("narrow", VAST).unwrap());
        let mut wide = card.alloc::<f32>("wide", VAST).unwrap();
        put(&mut narrow, BEYOND.start, &values);
        card.copy_float(narrow.view().into(), wide.view_mut().into()).unwrap();
        card.copy_float(wide.view().into(), back.view_mut().into()).unwrap();
        assert_eq!(get(&wide, BEYOND), values.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
        assert_eq!(get(&back, BEYOND), values);
        card.assert_silent();
    }
}
