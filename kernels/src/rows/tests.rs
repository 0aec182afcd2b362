//! Checks the kernels against the reference, which results are equal to the bit, and which calls are refused.

use super::case::{Indexed, IndexedShape};
use super::*;
use crate::case::operands::check_thread_counts;
use crate::case::{Inputs, check_all};
use crate::cpu::Isa;

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::FloatSlice;
    use crate::case::card::{Card, check_on_cards, get, put};
    use half::bf16;

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    /// The card adds in the order of the index too. The rows repeat in the index, both within the 32 places that a warp reads at a
    /// time and farther apart.
    #[test]
    fn scatter_add_has_the_bits_of_the_reference_in_f32() {
        let card = Card::checked();
        for (n, rows, cols) in [(700, 3, 67), (300, 40, 5), (33, 1, 33)] {
            let mut inputs = Inputs::of(&[n, rows, cols]);
            let index: Vec<u32> = (0..n).map(|_| inputs.below(rows) as u32).collect();
            let (x, before) = (inputs.normal(n * cols, 1.0), inputs.normal(rows * cols, 1.0));
            let mut want = before.clone();
            reference::scatter_add(cols, &index, &x, &mut want);
            let (index, x) = (card.upload_indices("index", &index).unwrap(), card.upload("x", &x).unwrap());
            let mut y = card.upload("y", &before).unwrap();
            ScatterAdd { cols, index: index.view(), x: x.view(), y: y.view_mut() }.run(&card).unwrap();
            assert_eq!(y.download().unwrap(), want, "{n} of [{rows}, {cols}]");
        }
        card.assert_silent();
    }

    /// Scatters columns 3..40 of rows of 45 columns. Rows of `y` that the index does not name keep their values.
    #[test]
    fn scatter_takes_columns_of_wider_rows_in_both_formats() {
        let card = Card::checked();
        let (first, cols, stride, rows) = (3, 37, 45, 9);
        let index = [7, 0, 3, 8, 1];
        let mut inputs = Inputs::of(&[cols, stride]);
        let (x, before) = (inputs.normal_bf16(index.len() * stride, 1.0), inputs.normal_bf16(rows * cols, 1.0));
        let mut want = before.clone();
        for (i, &row) in index.iter().enumerate() {
            want[row as usize * cols..][..cols].copy_from_slice(&x[i * stride + first..][..cols]);
        }
        let wide = |x: &[bf16]| -> Vec<f32> { x.iter().map(|x| x.to_f32()).collect() };
        let index = card.upload_indices("index", &index).unwrap();

        let (on_card, mut y) = (card.upload("x", &x).unwrap(), card.upload("y", &before).unwrap());
        let columns = Columns { values: FloatSlice::Bf16(on_card.view()), first, stride };
        let to = FloatSliceMut::Bf16(y.view_mut());
        Scatter { cols, index: index.view(), x: columns, y: to }.run(&card).unwrap();
        assert_eq!(y.download().unwrap(), want);

        let (on_card, mut y) = (card.upload("x", &wide(&x)).unwrap(), card.upload("y", &wide(&before)).unwrap());
        let columns = Columns { values: on_card.view().into(), first, stride };
        Scatter { cols, index: index.view(), x: columns, y: y.view_mut().into() }.run(&card).unwrap();
        assert_eq!(y.download().unwrap(), wide(&want));
        card.assert_silent();
    }

    /// The last row of both sides is the one that the last place of the index names.
    #[test]
    fn rows_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(1) else { return };
        let (rows, cols) = ((1 << 16) + 1, 1 << 16);
        let last = (rows - 1) * cols..rows * cols;
        let values = Inputs::of(&[rows, cols]).normal(cols, 1.0);
        let index: Vec<u32> = (0..rows as u32).collect();
        let index = card.upload_indices("index", &index).unwrap();
        let mut x = card.alloc::<f32>("x", rows * cols).unwrap();
        put(&mut x, last.start, &values);
        for kernel in [Indexed::Gather, Indexed::Scatter, Indexed::ScatterAdd] {
            let mut y = card.alloc::<f32>("y", rows * cols).unwrap();
            let (index, x, y_view) = (index.view(), x.view(), y.view_mut());
            match kernel {
                Indexed::Gather => Gather { cols, index, x, y: y_view }.run(&card),
                Indexed::Scatter => Scatter { cols, index, x: Columns::all(x, cols), y: y_view.into() }.run(&card),
                Indexed::ScatterAdd => ScatterAdd { cols, index, x, y: y_view }.run(&card),
            }
            .unwrap();
            assert!(get(&y, last.clone()) == values, "{kernel:?}");
        }
        card.assert_silent();
    }
}

#[test]
fn threads_do_not_change_bits() {
    for kernel in [Indexed::Gather, Indexed::Scatter, Indexed::ScatterAdd] {
        // each of the 5 rows is added to about 60 times, so the bits depend on the order of the sums
        let indexed_rows = if kernel == Indexed::ScatterAdd { 5 } else { 400 };
        check_thread_counts(IndexedShape { kernel, n: 300, indexed_rows, cols: 129 });
    }
}

/// The sums are in the order of the index, so even repeated rows have the bits of the plain loop.
#[test]
fn scatter_add_has_the_bits_of_the_reference_in_f32() {
    let (n, cols) = (700, 67);
    let mut inputs = Inputs::of(&[n, cols]);
    let index: Vec<u32> = (0..n).map(|_| inputs.below(3) as u32).collect();
    let (x, before) = (inputs.normal(n * cols, 1.0), inputs.normal(3 * cols, 1.0));
    let mut want = before.clone();
    reference::scatter_add(cols, &index, &x, &mut want);
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(2), isa).unwrap();
        let (index, x) = (device.upload_indices("index", &index).unwrap(), device.upload("x", &x).unwrap());
        let mut y = device.upload("y", &before).unwrap();
        ScatterAdd { cols, index: index.view(), x: x.view(), y: y.view_mut() }.run(&device).unwrap();
        assert_eq!(y.download().unwrap(), want, "{}", isa.name());
    }
}

/// The gradient of a gather is the scatter-add with the same index: `dy · gather(x) = x · scatter_add(dy)`. All values are whole
/// numbers, so the sums are exact.
#[test]
fn scatter_add_is_the_transpose_of_gather() {
    let mut inputs = Inputs::of(&[7]);
    let mut whole = |n: usize| -> Vec<f64> { (0..n).map(|_| inputs.below(19) as f64 - 9.0).collect() };
    let dot = crate::case::gradient::dot;

    let index = [2, 0, 2, 2, 1];
    let (x, dy) = (whole(4 * 3), whole(5 * 3));
    let mut dx = vec![0.0; 4 * 3];
    reference::scatter_add(3, &index, &dy, &mut dx);
    assert_eq!(dot(&dy, &reference::gather(3, &index, &x)), dot(&x, &dx));
}

#[test]
fn wrong_sizes_and_indices_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let (index, x) = (device.upload_indices("index", &[1, 3]).unwrap(), device.zeros("x", 6).unwrap());
    let mut gathered = device.zeros("y", 4).unwrap();
    let error = Gather { cols: 2, index: index.view(), x: x.view(), y: gathered.view_mut() }.run(&device).unwrap_err();
    assert_eq!(error, KernelError::RowIndex { kernel: "rows.gather", place: 1, index: 3, rows: 3 });
    let error = Gather { cols: 4, index: index.view(), x: x.view(), y: gathered.view_mut() }.run(&device).unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "rows.gather", argument: "y", got: 4, want: 8 });

    let mut y = device.zeros("y", 7).unwrap();
    let four = device.zeros("four", 4).unwrap();
    let error = Scatter { cols: 2, index: index.view(), x: Columns::all(four.view(), 2), y: y.view_mut().into() }
        .run(&device)
        .unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "rows.scatter", argument: "y", got: 7, want: 6 });
    let error = ScatterAdd { cols: 0, index: index.view(), x: four.view(), y: y.view_mut() }.run(&device).unwrap_err();
    let want = "at least 1";
    assert_eq!(error, KernelError::Size { kernel: "rows.scatter_add", argument: "cols", got: 0, want });
}
