//! Cases of kernels whose operands are slices of f32 and of indices. Each kernel provides its call and its reference. This file
//! makes the buffers, restores what a run changes, and compares the outputs.

use super::{Case, Comparison, Fixed, Prepared, max_error};
use crate::real::{Real, widen};
use crate::{Buffer, Device, IndexSlice, Indices, Result, Slice, SliceMut};
use std::sync::Arc;

/// One kernel at one shape.
pub(crate) trait Kernel<const IDS: usize, const IN: usize, const OUT: usize>: Send + Sync + 'static {
    /// Names of the outputs.
    const OUTPUTS: [&'static str; OUT];
    /// How much error the kernel's fast function (such as `tanh`) may add to that of the standard library's function, in units in
    /// the last place of the largest output. [`crate::cpu::vectors::Simd`] documents the error of each function.
    const FUNCTION_ULPS: f64 = 0.0;

    /// Makes the operands of this shape. Draws them from [`super::Inputs`] that are seeded with the sizes of the shape.
    fn operands(&self) -> Operands<IDS, IN, OUT>;

    /// Calls the kernel.
    fn call(&self, device: &Device, views: Views<'_, IDS, IN, OUT>) -> Result<()>;

    /// Computes the outputs from the kernel's definition. `y` is what the outputs held before the call.
    fn reference<R: Real>(&self, ids: [&[u32]; IDS], x: [&[R]; IN], y: [Vec<R>; OUT]) -> [Vec<R>; OUT];
}

/// What a call reads, and what its outputs hold before the call.
#[derive(Debug, Clone)]
pub(crate) struct Operands<const IDS: usize, const IN: usize, const OUT: usize> {
    pub ids: [Vec<u32>; IDS],
    pub x: [Vec<f32>; IN],
    pub y: [Vec<f32>; OUT],
}

/// Views of the operands on the device, for a call.
pub(crate) struct Views<'a, const IDS: usize, const IN: usize, const OUT: usize> {
    pub ids: [IndexSlice<'a>; IDS],
    pub x: [Slice<'a, f32>; IN],
    pub y: [SliceMut<'a, f32>; OUT],
}

/// Returns `len` NaNs, for an output that a call only writes: an element that the call does not write stays NaN and fails the
/// comparison.
pub(crate) fn unset(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

/// The fields of a [`Case`] that describe it.
pub(crate) struct Label {
    pub kernel: &'static str,
    pub shape: String,
    pub flops: f64,
    pub bytes: f64,
    pub timed: bool,
}

impl Label {
    /// Makes the [`Case`] with this label that runs `kernel`.
    pub(crate) fn case<const IDS: usize, const IN: usize, const OUT: usize>(
        self,
        kernel: impl Kernel<IDS, IN, OUT>,
    ) -> Case {
        let Label { kernel: name, shape, flops, bytes, timed } = self;
        let (kernel, by_definition) = (Arc::new(kernel), Fixed::default());
        let prepare = Box::new(move |device: &Device| -> Result<Box<dyn Prepared>> {
            Ok(Box::new(Run::new(kernel.clone(), by_definition.clone(), device)?))
        });
        Case { kernel: name, shape, flops, bytes, precision: None, timed, prepare }
    }
}

/// The outputs of the reference, in f64 and in f32.
type Outputs<const OUT: usize> = ([Vec<f64>; OUT], [Vec<f32>; OUT]);

struct Run<K, const IDS: usize, const IN: usize, const OUT: usize> {
    kernel: Arc<K>,
    device: Device,
    operands: Operands<IDS, IN, OUT>,
    ids: [Indices; IDS],
    x: [Buffer<f32>; IN],
    before: [Buffer<f32>; OUT],
    y: [Buffer<f32>; OUT],
    by_definition: Fixed<Outputs<OUT>>,
}

impl<K: Kernel<IDS, IN, OUT>, const IDS: usize, const IN: usize, const OUT: usize> Run<K, IDS, IN, OUT> {
    fn new(kernel: Arc<K>, by_definition: Fixed<Outputs<OUT>>, device: &Device) -> Result<Self> {
        let operands = kernel.operands();
        let upload = |values: &[Vec<f32>]| -> Result<Vec<Buffer<f32>>> {
            values.iter().map(|values| device.upload("operand", values)).collect()
        };
        let ids = operands.ids.iter().map(|ids| device.upload_indices("ids", ids)).collect::<Result<Vec<_>>>()?;
        Ok(Run {
            kernel,
            device: device.clone(),
            ids: sized(ids),
            x: sized(upload(&operands.x)?),
            before: sized(upload(&operands.y)?),
            y: sized(upload(&operands.y)?),
            operands,
            by_definition,
        })
    }

    fn exact<R: Real>(&self) -> [Vec<R>; OUT] {
        let x = self.operands.x.each_ref().map(|x| widen::<R>(x));
        let y = self.operands.y.each_ref().map(|y| widen::<R>(y));
        self.kernel.reference(self.operands.ids.each_ref().map(Vec::as_slice), x.each_ref().map(Vec::as_slice), y)
    }
}

fn sized<T: std::fmt::Debug, const N: usize>(values: Vec<T>) -> [T; N] {
    values.try_into().expect("one buffer per operand")
}

impl<K: Kernel<IDS, IN, OUT>, const IDS: usize, const IN: usize, const OUT: usize> Prepared for Run<K, IDS, IN, OUT> {
    fn reset(&mut self) -> Result<()> {
        for (y, before) in self.y.iter_mut().zip(&self.before) {
            self.device.copy(before.view(), y.view_mut())?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let ids = self.ids.each_ref().map(Indices::view);
        let (x, y) = (self.x.each_ref().map(Buffer::view), self.y.each_mut().map(Buffer::view_mut));
        self.kernel.call(&self.device, Views { ids, x, y })
    }

    fn check(&self) -> Vec<Comparison> {
        let (exact, naive) = self.by_definition.get_or_init(|| (self.exact::<f64>(), self.exact::<f32>()));
        let mut comparisons = Vec::new();
        for j in 0..OUT {
            let got = self.y[j].download().expect("the device works");
            let mut comparison = Comparison::with_naive(K::OUTPUTS[j], &got, &exact[j], &naive[j]);
            let largest = max_error(&vec![0.0; exact[j].len()], &exact[j]);
            comparison.bound += K::FUNCTION_ULPS * f64::from(f32::EPSILON) * largest;
            comparisons.push(comparison);
        }
        comparisons
    }
}

/// Checks that the kernel computes the same bits with 1, 2 and 3 threads, on every instruction set.
///
/// # Panics
/// If the bits differ.
#[cfg(test)]
pub(crate) fn check_thread_counts<const IDS: usize, const IN: usize, const OUT: usize>(
    kernel: impl Kernel<IDS, IN, OUT>,
) {
    let kernel = Arc::new(kernel);
    for isa in crate::cpu::Isa::available() {
        let mut first: Option<[Vec<u32>; OUT]> = None;
        for threads in [1, 2, 3] {
            let device = Device::cpu_with(Some(threads), isa).unwrap();
            let mut run = Run::new(kernel.clone(), Fixed::default(), &device).unwrap();
            run.run().unwrap();
            let bits = run
                .y
                .each_ref()
                .map(|y| y.download().expect("the device works").into_iter().map(f32::to_bits).collect::<Vec<_>>());
            let first = first.get_or_insert_with(|| bits.clone());
            assert!(*first == bits, "{threads} threads give other bits than 1 on {}", isa.name());
        }
    }
}
