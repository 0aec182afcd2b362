//! The timed shapes are hidden states and keys of SmolLM2-135M. The tests also use odd sizes near whole vectors and whole blocks.

use super::{Gather, Scatter, ScatterAdd, reference};
use crate::case::operands::{Kernel, Label, Operands, Views, unset};
use crate::case::{Case, Inputs, shapes};
use crate::real::Real;
use crate::{Columns, Device, Result};

/// Which kernel is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Indexed {
    Gather,
    Scatter,
    ScatterAdd,
}

/// `n` indices into `indexed_rows` rows of `cols` columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexedShape {
    pub kernel: Indexed,
    pub n: usize,
    pub indexed_rows: usize,
    pub cols: usize,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let timed = [[2048, 4096, 576], [2048, 8192, 192]];
    let odd = [[0, 1, 5], [1, 1, 1], [3, 7, 31], [5, 5, 33], [90, 100, 65], [300, 301, 129]];
    for ([n, indexed_rows, cols], timed) in shapes(timed, odd) {
        for (kernel, name, passes) in [
            (Indexed::Gather, "rows.gather", 2),
            (Indexed::Scatter, "rows.scatter", 2),
            (Indexed::ScatterAdd, "rows.scatter_add", 3),
        ] {
            let label = Label {
                kernel: name,
                shape: format!("{n} of [{indexed_rows}, {cols}]"),
                flops: if kernel == Indexed::ScatterAdd { (n * cols) as f64 } else { 0.0 },
                bytes: (passes * 4 * n * cols) as f64,
                timed,
            };
            cases.push(label.case(IndexedShape { kernel, n, indexed_rows, cols }));
        }
    }
    cases
}

impl Kernel<1, 1, 1> for IndexedShape {
    const OUTPUTS: [&'static str; 1] = ["y"];

    fn operands(&self) -> Operands<1, 1, 1> {
        let IndexedShape { kernel, n, indexed_rows, cols } = *self;
        let mut inputs = Inputs::of(&[n, indexed_rows, cols]);
        let mut index: Vec<u32> = (0..n).map(|_| inputs.below(indexed_rows) as u32).collect();
        if kernel == Indexed::Scatter {
            // the indices must all be different, so they are the first n of a shuffled list
            index = (0..indexed_rows as u32).collect();
            for i in 0..n {
                let other = i + inputs.below(indexed_rows - i);
                index.swap(i, other);
            }
            index.truncate(n);
        }
        let (x, y) = match kernel {
            Indexed::Gather => (inputs.normal(indexed_rows * cols, 1.0), unset(n * cols)),
            _ => (inputs.normal(n * cols, 1.0), inputs.normal(indexed_rows * cols, 1.0)),
        };
        Operands { ids: [index], x: [x], y: [y] }
    }

    fn call(&self, device: &Device, Views { ids: [index], x: [x], y: [y] }: Views<'_, 1, 1, 1>) -> Result<()> {
        let cols = self.cols;
        match self.kernel {
            Indexed::Gather => Gather { cols, index, x, y }.run(device),
            Indexed::Scatter => Scatter { cols, index, x: Columns::all(x, cols), y: y.into() }.run(device),
            Indexed::ScatterAdd => ScatterAdd { cols, index, x, y }.run(device),
        }
    }

    fn reference<R: Real>(&self, [index]: [&[u32]; 1], [x]: [&[R]; 1], [mut y]: [Vec<R>; 1]) -> [Vec<R>; 1] {
        match self.kernel {
            Indexed::Gather => y = reference::gather(self.cols, index, x),
            Indexed::Scatter => reference::scatter(self.cols, index, x, &mut y),
            Indexed::ScatterAdd => reference::scatter_add(self.cols, index, x, &mut y),
        }
        [y]
    }
}
