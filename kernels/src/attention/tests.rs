//! Compares the fast versions with the reference, and the reference with finite differences. Checks which results have equal
//! bits.

use super::case::{SMOLLM2, Tensors, cases, split, tree};
use super::{Backward, Decode, Forward, Geometry, Layout, Segment, reference};
use crate::case::{Inputs, check_all, float, gradient};
use crate::cpu::Isa;
use crate::real::widen;
use crate::{Device, FloatDtype, KernelError, Result};
use std::ops::Range;

const BOTH: [FloatDtype; 2] = [FloatDtype::F32, FloatDtype::Bf16];

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{Card, check_on_cards, get, on_a_card, put};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(cases());
    }

    #[test]
    fn rows_of_no_segment_are_zero_and_change_nothing() {
        on_a_card(check_rows_of_no_segment);
    }

    #[test]
    fn extreme_scores_stay_finite() {
        on_a_card(check_extreme_scores);
    }

    /// A tree among others has the bits that it has alone, and its branches those of separate sequences. The prompts and branches
    /// end inside a piece of 32 keys and at its end.
    #[test]
    fn rows_have_the_bits_of_their_sequence_alone() {
        let small = Geometry { num_attention_heads: 4, num_key_value_heads: 2, head_dim: 20, scale: 0.3, ..SMOLLM2 };
        on_a_card(|device| {
            for geometry in [small, Geometry { sliding_window: Some(37), softcap: Some(1.5), ..small }] {
                for prompt in [1, 32, 40] {
                    let segments = [tree(2, 5, &[]), tree(8, prompt, &[32, 1, 7])].concat();
                    let tensors = Tensors::random(8 + prompt + 40, &geometry);
                    for dtype in BOTH {
                        let together = attend_in(dtype, device, geometry, &segments, &tensors).unwrap();
                        let place = format!("prompt {prompt}, {geometry:?} in {dtype:?}");
                        for Segment { rows, prefix } in &segments[2..] {
                            let own = take(&tensors, &geometry, &[prefix.clone(), rows.clone()]);
                            let whole = tree(0, prompt + rows.len(), &[]);
                            let apart = attend_in(dtype, device, geometry, &whole, &own).unwrap();
                            together.assert_equal(prefix.clone(), &apart, 0..prompt, &geometry, Keys::Apart, &place);
                            let own_rows = prompt..prompt + rows.len();
                            together.assert_equal(rows.clone(), &apart, own_rows, &geometry, Keys::Compared, &place);
                        }
                    }
                }
            }
        });
    }

    /// Tests the last four rows of tensors of more than 2^32 elements.
    #[test]
    fn rows_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(32) else { return };
        let geometry = Geometry { num_attention_heads: 32, num_key_value_heads: 1, head_dim: 128, ..SMOLLM2 };
        let (wide, cols) = (32 * 128, 34 * 128);
        let tensors = Tensors::random(4, &geometry);
        let attend = |rows: usize| {
            let first = rows - 4;
            let vast = |cols: usize, values: &[f32]| {
                let mut of = card.alloc::<f32>("vast", rows * cols).unwrap();
                put(&mut of, first * cols, values);
                of
            };
            let (qkv, d_o) = (vast(cols, &tensors.qkv(&geometry)), vast(wide, &tensors.d_o));
            let (mut o, mut lse, mut dqkv) = (vast(wide, &[]), vast(32, &[]), vast(cols, &[]));
            let layout = &Layout::new(&card, rows, tree(first, 3, &[1])).unwrap();
            let (qkv, o_view) = (qkv.view().into(), o.view_mut().into());
            Forward { geometry, layout, qkv, o: o_view, lse: lse.view_mut() }.run(&card).unwrap();
            let (d_o, dqkv_view) = (d_o.view().into(), dqkv.view_mut().into());
            Backward { geometry, layout, qkv, o: o.view().into(), lse: lse.view(), d_o, dqkv: dqkv_view }
                .run(&card)
                .unwrap();
            [
                get(&o, first * wide..rows * wide),
                get(&lse, first * 32..rows * 32),
                get(&dqkv, first * cols..rows * cols),
            ]
        };
        assert!(attend((1 << 20) + 4) == attend(4));
        card.assert_silent();
    }

    /// Tests the second of two sequences, whose window begins 2^32 elements behind the start of its cache.
    #[test]
    fn caches_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(4) else { return };
        let (window, heads) = (3, 8);
        let geometry = Geometry {
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: 128,
            sliding_window: Some(window),
            ..SMOLLM2
        };
        let width = heads * geometry.head_dim;
        let tensors = Tensors::random(2 * window, &geometry);
        let decode = |capacity: usize| {
            let start = (2 * capacity - window) * width;
            let [mut k, mut v] = [(); 2].map(|()| card.alloc::<f32>("cache", 2 * capacity * width).unwrap());
            put(&mut k, start, &tensors.k[..window * width]);
            put(&mut v, start, &tensors.v[..window * width]);
            let qkv = card.upload("qkv", &tensors.qkv(&geometry)[..2 * 3 * width]).unwrap();
            let mut o = card.alloc::<f32>("o", 2 * width).unwrap();
            Decode {
                batch: 2,
                geometry,
                capacity,
                lengths: card.upload_indices("lengths", &[1, capacity as u32]).unwrap().view(),
                qkv: qkv.view().into(),
                k_cache: k.view().into(),
                v_cache: v.view().into(),
                o: o.view_mut().into(),
            }
            .run(&card)
            .unwrap();
            get(&o, width..2 * width)
        };
        assert!(decode((1 << 22) + 8) == decode(window + 1));
        card.assert_silent();
    }
}

/// Leaves out the largest cases, which would take minutes without vector instructions. The bench checks those.
#[test]
fn agrees_with_the_reference() {
    let cases: Vec<_> = cases().into_iter().filter(|case| case.flops < 1e9).collect();
    check_all(cases);
}

/// All results of a forward and a backward call.
struct Outputs {
    o: Vec<f32>,
    lse: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

fn attend(device: &Device, geometry: Geometry, segments: &[Segment], tensors: &Tensors) -> Result<Outputs> {
    attend_in(FloatDtype::F32, device, geometry, segments, tensors)
}

fn attend_in(
    dtype: FloatDtype,
    device: &Device,
    geometry: Geometry,
    segments: &[Segment],
    tensors: &Tensors,
) -> Result<Outputs> {
    let rows = tensors.q.len() / (geometry.num_attention_heads * geometry.head_dim);
    let (qkv, d_o) = (float(device, dtype, &tensors.qkv(&geometry))?, float(device, dtype, &tensors.d_o)?);
    let mut o = float(device, dtype, &vec![f32::NAN; tensors.q.len()])?;
    let mut dqkv = float(device, dtype, &vec![f32::NAN; qkv.len()])?;
    let mut lse = device.upload("test", &vec![f32::NAN; rows * geometry.num_attention_heads])?;
    let layout = &Layout::new(device, rows, segments.to_vec())?;
    let (o_view, lse_view) = (o.view_mut(), lse.view_mut());
    Forward { geometry, layout, qkv: qkv.view(), o: o_view, lse: lse_view }.run(device)?;
    let (lse_view, d_o, dqkv_view) = (lse.view(), d_o.view(), dqkv.view_mut());
    Backward { geometry, layout, qkv: qkv.view(), o: o.view(), lse: lse_view, d_o, dqkv: dqkv_view }.run(device)?;
    let [dq, dk, dv] = split(&dqkv.download().unwrap(), &geometry);
    Ok(Outputs { o: o.download().unwrap(), lse: lse.download().unwrap(), dq, dk, dv })
}

/// Returns the rows `rows` of all inputs, one range after the other.
fn take(tensors: &Tensors, geometry: &Geometry, rows: &[Range<usize>]) -> Tensors {
    let of = |x: &[f32], heads: usize| {
        let width = heads * geometry.head_dim;
        rows.iter().flat_map(|rows| x[rows.start * width..rows.end * width].to_vec()).collect()
    };
    Tensors {
        q: of(&tensors.q, geometry.num_attention_heads),
        k: of(&tensors.k, geometry.num_key_value_heads),
        v: of(&tensors.v, geometry.num_key_value_heads),
        d_o: of(&tensors.d_o, geometry.num_attention_heads),
    }
}

/// Checks that rows `rows` of `got` hold the bits of rows `like` of `want`. A row has `width` columns.
fn assert_rows_equal(
    what: &str,
    got: &[f32],
    rows: Range<usize>,
    want: &[f32],
    like: Range<usize>,
    width: usize,
    place: &str,
) {
    assert_eq!(rows.len(), like.len());
    for (row, other) in rows.zip(like) {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let (got, want) = (bits(&got[row * width..][..width]), bits(&want[other * width..][..width]));
        assert_eq!(got, want, "{what} of row {row} ({place}) differs from row {other}");
    }
}

impl Outputs {
    /// Checks that rows `rows` hold the bits of rows `like` of `other`: in `o`, `lse` and `dq`, and with [`Keys::Compared`] in
    /// `dk` and `dv`.
    fn assert_equal(
        &self,
        rows: Range<usize>,
        other: &Outputs,
        like: Range<usize>,
        geometry: &Geometry,
        keys: Keys,
        place: &str,
    ) {
        let heads = geometry.num_attention_heads;
        let (wide, narrow) = (heads * geometry.head_dim, geometry.num_key_value_heads * geometry.head_dim);
        assert_rows_equal("o", &self.o, rows.clone(), &other.o, like.clone(), wide, place);
        assert_rows_equal("lse", &self.lse, rows.clone(), &other.lse, like.clone(), heads, place);
        assert_rows_equal("dq", &self.dq, rows.clone(), &other.dq, like.clone(), wide, place);
        if keys == Keys::Compared {
            assert_rows_equal("dk", &self.dk, rows.clone(), &other.dk, like.clone(), narrow, place);
            assert_rows_equal("dv", &self.dv, rows, &other.dv, like, narrow, place);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Keys {
    Compared,
    Apart,
}

fn devices() -> Vec<Device> {
    Isa::available()
        .into_iter()
        .map(|isa| Device::cpu_with(Some(2), isa).expect("two threads can be started"))
        .collect()
}

/// Returns geometries with and without a window and a soft-cap. A window changes which blocks are visited, a soft-cap changes the
/// scores.
fn variants() -> [Geometry; 4] {
    let small = Geometry { num_attention_heads: 4, num_key_value_heads: 2, head_dim: 20, scale: 0.3, ..SMOLLM2 };
    [
        SMOLLM2,
        small,
        Geometry { sliding_window: Some(37), ..small },
        Geometry { sliding_window: Some(100), softcap: Some(1.5), ..small },
    ]
}

#[test]
fn a_tree_packed_among_others_has_the_bits_it_has_alone() {
    let (before, alone, after) = (tree(3, 77, &[5, 130]), tree(0, 90, &[61, 1, 40]), tree(420, 200, &[]));
    let moved = tree(220, 90, &[61, 1, 40]);
    let rows = alone.last().expect("a tree has segments").rows.end;
    for device in devices() {
        for geometry in variants() {
            let tensors = Tensors::random(630, &geometry);
            let packed = [before.clone(), moved.clone(), after.clone()].concat();
            let own = take(&tensors, &geometry, std::slice::from_ref(&(220..220 + rows)));
            for dtype in BOTH {
                let packed = attend_in(dtype, &device, geometry, &packed, &tensors).unwrap();
                let alone = attend_in(dtype, &device, geometry, &alone, &own).unwrap();
                let place = format!("{geometry:?} in {dtype:?} on {}", device.describe());
                packed.assert_equal(220..220 + rows, &alone, 0..rows, &geometry, Keys::Compared, &place);
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let segments = [tree(0, 77, &[5, 130]), tree(212, 0, &[64, 3]), tree(290, 128, &[20])].concat();
    for isa in Isa::available() {
        for geometry in variants() {
            let tensors = Tensors::random(440, &geometry);
            for dtype in BOTH {
                let [one, two, three] = [1, 2, 3].map(|threads| {
                    let device = Device::cpu_with(Some(threads), isa).expect("three threads can be started");
                    attend_in(dtype, &device, geometry, &segments, &tensors).unwrap()
                });
                let place = format!("{geometry:?} in {dtype:?} on {}", isa.name());
                two.assert_equal(0..440, &one, 0..440, &geometry, Keys::Compared, &place);
                three.assert_equal(0..440, &one, 0..440, &geometry, Keys::Compared, &place);
            }
        }
    }
}

/// The prompts end inside the first block, at its end, and inside a later block. One of the branches has one row.
#[test]
fn a_shared_prefix_has_the_bits_of_separate_sequences() {
    for device in devices() {
        for geometry in variants() {
            for prompt in [1, 64, 100, 130] {
                let branches = [70, 1, 33];
                let shared = tree(0, prompt, &branches);
                let rows = prompt + branches.iter().sum::<usize>();
                let tensors = Tensors::random(rows, &geometry);
                for dtype in BOTH {
                    let together = attend_in(dtype, &device, geometry, &shared, &tensors).unwrap();
                    let place = format!("prompt {prompt}, {geometry:?} in {dtype:?} on {}", device.describe());
                    for Segment { rows, .. } in &shared[1..] {
                        let own = take(&tensors, &geometry, &[0..prompt, rows.clone()]);
                        let whole = tree(0, prompt + rows.len(), &[]);
                        let apart = attend_in(dtype, &device, geometry, &whole, &own).unwrap();
                        together.assert_equal(0..prompt, &apart, 0..prompt, &geometry, Keys::Apart, &place);
                        let after_prompt = prompt..prompt + rows.len();
                        together.assert_equal(rows.clone(), &apart, after_prompt, &geometry, Keys::Compared, &place);
                    }
                }
            }
        }
    }
}

/// With one branch, even the prompt's `dk` and `dv` add the same terms in the same order. This is for f32 only: the unit that
/// multiplies bf16 adds 32 rows at once, so there the results agree only up to rounding.
#[test]
fn a_prompt_with_one_branch_has_the_bits_of_one_sequence() {
    for device in devices() {
        for geometry in variants() {
            for [prompt, branch] in [[100, 70], [64, 1], [3, 200]] {
                let tensors = Tensors::random(prompt + branch, &geometry);
                let shared = attend(&device, geometry, &tree(0, prompt, &[branch]), &tensors).unwrap();
                let whole = attend(&device, geometry, &tree(0, prompt + branch, &[]), &tensors).unwrap();
                let rows = 0..prompt + branch;
                let place = format!("{prompt} + {branch}, {geometry:?} on {}", device.describe());
                shared.assert_equal(rows.clone(), &whole, rows, &geometry, Keys::Compared, &place);
            }
        }
    }
}

fn check_rows_of_no_segment(device: &Device) {
    let segments = tree(2, 5, &[4]);
    let mut tensors = Tensors::random(14, &SMOLLM2);
    let outputs = attend(device, SMOLLM2, &segments, &tensors).unwrap();
    // NaN in the uncovered rows must not reach any other row
    for row in [0, 1, 11, 12, 13] {
        for (x, width) in [(&mut tensors.q, 576), (&mut tensors.k, 192), (&mut tensors.v, 192), (&mut tensors.d_o, 576)]
        {
            x[row * width..(row + 1) * width].fill(f32::NAN);
        }
    }
    let poisoned = attend(device, SMOLLM2, &segments, &tensors).unwrap();
    outputs.assert_equal(0..14, &poisoned, 0..14, &SMOLLM2, Keys::Compared, &device.describe());
    for row in [0, 1, 11, 12, 13] {
        for (x, width) in
            [(&outputs.o, 576), (&outputs.lse, 9), (&outputs.dq, 576), (&outputs.dk, 192), (&outputs.dv, 192)]
        {
            assert!(x[row * width..(row + 1) * width].iter().all(|&x| x.to_bits() == 0), "row {row}");
        }
    }
}

#[test]
fn rows_of_no_segment_are_zero_and_change_nothing() {
    devices().iter().for_each(check_rows_of_no_segment);
}

/// With a window of 1, each row's output is its own value, whatever the scores.
#[test]
fn a_window_of_one_returns_the_values() {
    let geometry = Geometry { num_attention_heads: 3, num_key_value_heads: 3, sliding_window: Some(1), ..SMOLLM2 };
    for device in devices() {
        let tensors = Tensors::random(150, &geometry);
        let outputs = attend(&device, geometry, &tree(0, 100, &[50]), &tensors).unwrap();
        assert_eq!(outputs.o, tensors.v);
        assert!(outputs.dk.iter().all(|&x| x == 0.0), "nothing depends on a score");
    }
}

/// With scores of ±10⁴ nothing overflows. The softmax of a row that sees one score of +10⁴ is one-hot, exactly.
fn check_extreme_scores(device: &Device) {
    let geometry = Geometry { num_attention_heads: 1, num_key_value_heads: 1, head_dim: 16, scale: 1.0, ..SMOLLM2 };
    let rows = 200;
    let mut inputs = Inputs::of(&[rows]);
    let v = inputs.normal(rows * 16, 1.0);
    let d_o = inputs.normal(rows * 16, 1.0);
    // the score of (i, t) is ±10⁴, + only where t is 7 modulo 100
    let q: Vec<f32> = (0..rows * 16).map(|at| if at % 16 == 0 { 100.0 } else { 0.0 }).collect();
    let sign = |row: usize| if row % 100 == 7 { 100.0 } else { -100.0 };
    let k: Vec<f32> = (0..rows * 16).map(|at| if at % 16 == 0 { sign(at / 16) } else { 0.0 }).collect();
    let tensors = Tensors { q, k, v, d_o };
    let outputs = attend(device, geometry, &tree(0, rows, &[]), &tensors).unwrap();
    for x in [&outputs.o, &outputs.lse, &outputs.dq, &outputs.dk, &outputs.dv] {
        assert!(x.iter().all(|x| x.is_finite()), "on {}", device.describe());
    }
    assert_eq!(outputs.o[50 * 16..51 * 16], tensors.v[7 * 16..8 * 16], "row 50 sees one key of large score");
    assert_eq!(outputs.lse[50], 1e4);
}

#[test]
fn extreme_scores_stay_finite() {
    devices().iter().for_each(check_extreme_scores);
}

/// Compares the reference's gradients of `Σ d_o·o` with finite differences.
#[test]
fn the_references_gradients_are_those_of_differences() {
    let plain = Geometry { num_attention_heads: 4, num_key_value_heads: 2, head_dim: 3, scale: 0.7, ..SMOLLM2 };
    for geometry in [
        plain,
        Geometry { num_key_value_heads: 4, softcap: Some(0.8), ..plain },
        Geometry { num_key_value_heads: 1, sliding_window: Some(3), ..plain },
        Geometry { softcap: Some(1.2), sliding_window: Some(2), ..plain },
    ] {
        for segments in
            [tree(0, 4, &[]), tree(1, 3, &[2]), tree(0, 3, &[1, 2]), tree(0, 2, &[1, 3, 2]), tree(0, 0, &[3])]
        {
            let rows = 10;
            let tensors = Tensors::random(rows, &geometry);
            let [q, k, v, d_o] = [&tensors.q, &tensors.k, &tensors.v, &tensors.d_o].map(|x| widen::<f64>(x));
            let objective = |q: &[f64], k: &[f64], v: &[f64]| {
                gradient::dot(&d_o, &reference::forward(rows, &geometry, &segments, q, k, v).0)
            };
            let (o, lse) = reference::forward(rows, &geometry, &segments, &q, &k, &v);
            let gradients = reference::backward(rows, &geometry, &segments, &q, &k, &v, &o, &lse, &d_o);
            gradient::assert_same(&gradients.dq, &gradient::by_differences(&q, |q| objective(q, &k, &v)));
            gradient::assert_same(&gradients.dk, &gradient::by_differences(&k, |k| objective(&q, k, &v)));
            gradient::assert_same(&gradients.dv, &gradient::by_differences(&v, |v| objective(&q, &k, v)));
        }
    }
}

/// A decoding step returns the last row that [`Forward`] computes for the sequence, up to rounding.
#[test]
fn decode_is_the_last_row_of_forward() {
    for device in devices() {
        for geometry in variants() {
            let rows = 150;
            let tensors = Tensors::random(rows, &geometry);
            let whole = attend(&device, geometry, &tree(0, rows, &[]), &tensors).unwrap();
            let width = geometry.num_attention_heads * geometry.head_dim;
            let last = (rows - 1) * width..rows * width;
            let cols = width + 2 * geometry.num_key_value_heads * geometry.head_dim;
            let qkv = device.upload("test", &tensors.qkv(&geometry)[(rows - 1) * cols..]).unwrap();
            let (k, v) = (device.upload("test", &tensors.k).unwrap(), device.upload("test", &tensors.v).unwrap());
            let mut o = device.alloc::<f32>("test", width).unwrap();
            Decode {
                batch: 1,
                geometry,
                capacity: rows,
                lengths: device.upload_indices("lengths", &[rows as u32]).unwrap().view(),
                qkv: qkv.view().into(),
                k_cache: k.view().into(),
                v_cache: v.view().into(),
                o: o.view_mut().into(),
            }
            .run(&device)
            .unwrap();
            for (got, want) in o.download().unwrap().iter().zip(&whole.o[last]) {
                // each is within a few units in the last place of the exact value, and |o| <= 5
                assert!((got - want).abs() < 2e-6, "{got} and {want} on {}", device.describe());
            }
        }
    }
}

/// Each sequence of a step gets the bits that it gets alone, on any number of threads.
#[test]
fn a_decoding_step_depends_on_its_sequence_alone() {
    let (capacity, lengths) = (140, [140, 1, 129, 33]);
    for isa in Isa::available() {
        for geometry in variants() {
            let tensors = Tensors::random(lengths.len() * capacity, &geometry);
            let width = geometry.num_attention_heads * geometry.head_dim;
            let kv_cols = geometry.num_key_value_heads * geometry.head_dim;
            let cols = width + 2 * kv_cols;
            let qkv = tensors.qkv(&geometry);
            let step = |threads: usize, sequences: std::ops::Range<usize>| {
                let device = Device::cpu_with(Some(threads), isa).unwrap();
                let cached = sequences.start * capacity * kv_cols..sequences.end * capacity * kv_cols;
                let qkv = device.upload("test", &qkv[sequences.start * cols..sequences.end * cols]).unwrap();
                let k = device.upload("test", &tensors.k[cached.clone()]).unwrap();
                let v = device.upload("test", &tensors.v[cached]).unwrap();
                let mut o = device.alloc::<f32>("test", sequences.len() * width).unwrap();
                Decode {
                    batch: sequences.len(),
                    geometry,
                    capacity,
                    lengths: device.upload_indices("lengths", &lengths[sequences]).unwrap().view(),
                    qkv: qkv.view().into(),
                    k_cache: k.view().into(),
                    v_cache: v.view().into(),
                    o: o.view_mut().into(),
                }
                .run(&device)
                .unwrap();
                o.download().unwrap().into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let together = step(1, 0..lengths.len());
            assert_eq!(together, step(3, 0..lengths.len()), "{}", isa.name());
            for sequence in 0..lengths.len() {
                let alone = step(1, sequence..sequence + 1);
                assert_eq!(alone, together[sequence * width..(sequence + 1) * width], "{sequence} on {}", isa.name());
            }
        }
    }
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let device = Device::cpu(Some(1)).unwrap();
    let tensors = Tensors::random(10, &SMOLLM2);
    let run =
        |geometry, segments: &[Segment]| attend(&device, geometry, segments, &tensors).err().expect("it is wrong");
    let argument = |error| match error {
        KernelError::Size { kernel: "attention.layout" | "attention.forward", argument, .. } => argument,
        other => panic!("{other}"),
    };
    let whole = tree(0, 10, &[]);
    assert_eq!(argument(run(Geometry { num_key_value_heads: 2, ..SMOLLM2 }, &whole)), "num_key_value_heads");
    assert_eq!(argument(run(Geometry { num_key_value_heads: 0, ..SMOLLM2 }, &whole)), "num_key_value_heads");
    assert_eq!(argument(run(Geometry { sliding_window: Some(0), ..SMOLLM2 }, &whole)), "sliding_window");
    assert_eq!(argument(run(SMOLLM2, &tree(0, 11, &[]))), "segments.rows");
    let segment = |rows, prefix| Segment { rows, prefix };
    assert_eq!(argument(run(SMOLLM2, &[segment(0..4, 0..0), segment(3..8, 0..0)])), "segments.rows");
    assert_eq!(argument(run(SMOLLM2, &[segment(0..4, 0..0), segment(4..8, 5..20)])), "segments.prefix");
    assert_eq!(argument(run(SMOLLM2, &[segment(0..4, 0..0), segment(4..8, 0..3)])), "segments.prefix");
    let chained = [segment(0..4, 0..0), segment(4..6, 0..4), segment(6..8, 4..6)];
    assert_eq!(argument(run(SMOLLM2, &chained)), "segments.prefix");
    let short = Tensors { d_o: tensors.d_o[1..].to_vec(), ..Tensors::random(10, &SMOLLM2) };
    let error = attend(&device, SMOLLM2, &whole, &short).err().expect("d_o is too short");
    assert_eq!(error, KernelError::Shape { kernel: "attention.backward", argument: "d_o", got: 5759, want: 5760 });

    let (qkv, cache) = (device.zeros::<f32>("test", 960).unwrap(), device.zeros::<f32>("test", 4 * 192).unwrap());
    let mut o = device.zeros::<f32>("test", 576).unwrap();
    for lengths in [0, 5] {
        let lengths = device.upload_indices("lengths", &[lengths]).unwrap();
        let decode = Decode {
            batch: 1,
            geometry: SMOLLM2,
            capacity: 4,
            lengths: lengths.view(),
            qkv: qkv.view().into(),
            k_cache: cache.view().into(),
            v_cache: cache.view().into(),
            o: o.view_mut().into(),
        };
        assert!(matches!(decode.run(&device), Err(KernelError::Size { argument: "lengths", .. })));
    }
}
