//! Calls of all kernels, through the code that ships. Rows have the sizes of Llama 3 8B, and there are only as many of them as it
//! takes for each number to be about what it is in a large call, in proportion.

use align_kernels::attention::{self, Geometry, Layout, Segment};
use align_kernels::device::{WeightBuffer, WeightDtype};
use align_kernels::gate::{self, Activation};
use align_kernels::gemm::{self, Accumulate};
use align_kernels::rms_norm::{self, Groups};
use align_kernels::rope::{self, Direction};
use align_kernels::rows::{Gather, Scatter, ScatterAdd};
use align_kernels::token_logps::{self, Extras, Head};
use align_kernels::{
    Buffer, Columns, Device, FloatBuffer, FloatDtype, FloatSlice, Precision, Result, adamw, add, argmax, dropout,
    embed, rmsprop, rng, softcap, sum_squares,
};
use half::{bf16, f16};
use ptx_machine::{LANES, SECTOR};
use std::collections::BTreeMap;

/// A call whose kernels are counted.
pub(crate) struct Call {
    /// The sizes, and formats that are not in the names of the kernels.
    pub shape: String,
    /// What must be moved by those of its kernels that do little arithmetic, by their names.
    pub row_kernels: BTreeMap<String, Bytes>,
    /// Makes the operands and calls.
    pub run: Run,
}

type Run = Box<dyn Fn(&Device) -> Result<()>>;

/// What a kernel may move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes {
    /// Bytes of all operands. Those that are read and written count twice.
    pub moved: u64,
    /// Bytes of small operands that many rows have in common, for each time after the first that one of them is read: a cache
    /// holds them.
    pub cached: u64,
}

const HIDDEN: usize = 4096;
const HEADS: usize = 32;
const KEY_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
/// Columns of queries, keys and values side by side.
const QKV: usize = (HEADS + 2 * KEY_HEADS) * HEAD_DIM;

const F32: FloatDtype = FloatDtype::F32;
const BF16: FloatDtype = FloatDtype::Bf16;

pub(crate) fn calls() -> Vec<Call> {
    let mut calls = element_calls();
    calls.extend(row_calls());
    calls.extend(indexed_calls());
    calls.extend(rope_calls());
    calls.extend(token_logps_calls());
    calls.extend(gemm_calls());
    calls.extend(attention_calls());
    calls
}

/// Makes a call of kernels that are no row kernels.
fn call(shape: String, run: impl Fn(&Device) -> Result<()> + 'static) -> Call {
    Call { shape, row_kernels: BTreeMap::new(), run: Box::new(run) }
}

/// Makes a call of one row kernel, with the bytes that must be moved and those that a cache gives.
fn row_call(
    kernel: impl Into<String>,
    shape: String,
    [moved, cached]: [usize; 2],
    run: impl Fn(&Device) -> Result<()> + 'static,
) -> Call {
    call(shape, run).with(kernel, [moved, cached])
}

impl Call {
    fn with(mut self, kernel: impl Into<String>, [moved, cached]: [usize; 2]) -> Call {
        self.row_kernels.insert(kernel.into(), Bytes { moved: moved as u64, cached: cached as u64 });
        self
    }
}

/// Returns numbers from -1 to 1.
fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.0 - 1.0).collect()
}

fn f32s(device: &Device, len: usize) -> Result<Buffer<f32>> {
    device.upload("operand", &numbers(len))
}

fn floats(device: &Device, dtype: FloatDtype, len: usize) -> Result<FloatBuffer> {
    Ok(match dtype {
        FloatDtype::F32 => f32s(device, len)?.into(),
        FloatDtype::Bf16 => {
            let narrow: Vec<bf16> = numbers(len).into_iter().map(bf16::from_f32).collect();
            device.upload("operand", &narrow)?.into()
        }
    })
}

fn weights(device: &Device, dtype: WeightDtype, len: usize) -> Result<WeightBuffer> {
    Ok(match dtype {
        WeightDtype::F32 => WeightBuffer::F32(f32s(device, len)?),
        WeightDtype::F16 => {
            let narrow: Vec<f16> = numbers(len).into_iter().map(f16::from_f32).collect();
            WeightBuffer::F16(device.upload("operand", &narrow)?)
        }
        WeightDtype::Bf16 => {
            let narrow: Vec<bf16> = numbers(len).into_iter().map(bf16::from_f32).collect();
            WeightBuffer::Bf16(device.upload("operand", &narrow)?)
        }
    })
}

/// Returns a format as the names of the kernels have it.
fn name(dtype: FloatDtype) -> &'static str {
    match dtype {
        FloatDtype::F32 => "f32",
        FloatDtype::Bf16 => "bf16",
    }
}

/// Returns a weight format as the names of the kernels have it.
fn weight_name(dtype: WeightDtype) -> &'static str {
    match dtype {
        WeightDtype::F32 => "f32",
        WeightDtype::F16 => "f16",
        WeightDtype::Bf16 => "bf16",
    }
}

/// Kernels that treat each element by itself.
fn element_calls() -> Vec<Call> {
    const LEN: usize = 64 * HIDDEN;
    let shape = || format!("[{LEN}]");
    let mut calls = vec![
        row_call("adamw", shape(), [28 * LEN, 0], |device| {
            let [mut param, grad, mut exp_avg, mut exp_avg_sq] =
                [f32s(device, LEN)?, f32s(device, LEN)?, f32s(device, LEN)?, f32s(device, LEN)?];
            let numbers = adamw::Numbers {
                learning_rate: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.1,
                step: 10,
                grad_scale: 1.0,
            };
            let (param, exp_avg, exp_avg_sq) = (param.view_mut(), exp_avg.view_mut(), exp_avg_sq.view_mut());
            let tensor = adamw::Tensor { param, grad: grad.view(), exp_avg, exp_avg_sq };
            adamw::Update { numbers, tensors: vec![tensor] }.run(device)
        }),
        row_call("rmsprop", shape(), [20 * LEN, 0], |device| {
            let [mut param, grad, mut square_avg] = [f32s(device, LEN)?, f32s(device, LEN)?, f32s(device, LEN)?];
            let numbers =
                rmsprop::Numbers { learning_rate: 1e-3, alpha: 0.99, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0 };
            let (param, square_avg) = (param.view_mut(), square_avg.view_mut());
            let tensor = rmsprop::Tensor { param, grad: grad.view(), square_avg };
            rmsprop::Update { numbers, tensors: vec![tensor] }.run(device)
        }),
        row_call("softcap", shape(), [8 * LEN, 0], |device| {
            softcap::Softcap { len: LEN, cap: 30.0, x: f32s(device, LEN)?.view_mut() }.run(device)
        }),
        row_call("sum_squares", shape(), [4 * LEN, 0], |device| {
            let x = f32s(device, LEN)?;
            sum_squares::SumSquares { xs: &[x.view()] }.run(device).map(drop)
        }),
    ];
    for to in [F32, BF16] {
        for from in [F32, BF16] {
            let moved = (2 * to.bytes() + from.bytes()) * LEN;
            calls.push(row_call(format!("add_{}_{}", name(to), name(from)), shape(), [moved, 0], move |device| {
                let (x, mut y) = (floats(device, from, LEN)?, floats(device, to, LEN)?);
                add::Add { len: LEN, x: x.view(), y: y.view_mut() }.run(device)
            }));
        }
    }
    for (to, from) in [(F32, BF16), (BF16, F32)] {
        calls.push(row_call(format!("convert_{}_{}", name(to), name(from)), shape(), [6 * LEN, 0], move |device| {
            let (from, mut to) = (floats(device, from, LEN)?, floats(device, to, LEN)?);
            device.copy_float(from.view(), to.view_mut())
        }));
    }
    calls
}

/// Kernels that treat each row by itself.
fn row_calls() -> Vec<Call> {
    let mut calls = Vec::new();
    // how often the columns left out are read depends on the numbers, so a call with some has no limit
    for left_out in [&[][..], &[1, 2, 3]] {
        let (rows, cols) = (4, 32_768);
        let shape = format!("[{rows}, {cols}], {} left out", left_out.len());
        let argmax = call(shape, move |device| {
            let (x, mut y) = (f32s(device, rows * cols)?, device.zeros("y", rows)?);
            let left_out = device.upload_indices("left_out", left_out)?;
            argmax::Argmax { rows, cols, x: x.view(), left_out: left_out.view(), y: y.view_mut() }.run(device)
        });
        let moved = 4 * rows * (cols + 1);
        calls.push(if left_out.is_empty() { argmax.with("argmax", [moved, 0]) } else { argmax });
    }
    for dtype in [F32, BF16] {
        let (rows, cols) = (48, HIDDEN);
        let moved = rows * (8 + 2 * dtype.bytes() * cols);
        let kernel = format!("dropout_{}", name(dtype));
        calls.push(row_call(kernel, format!("[{rows}, {cols}]"), [moved, 0], move |device| {
            let (x, mut y) = (floats(device, dtype, rows * cols)?, floats(device, dtype, rows * cols)?);
            let row_numbers: Vec<u64> = (0..rows as u64).collect();
            let numbers = device.upload("numbers", &row_numbers)?;
            let (p, key) = (0.1, rng::Key::new(1, 2, 3));
            dropout::Dropout { rows, cols, p, key, numbers: numbers.view(), x: x.view(), y: y.view_mut() }.run(device)
        }));
    }
    for (activation, act) in [(Activation::Silu, "silu"), (Activation::GeluTanh, "gelu")] {
        for dtype in [F32, BF16] {
            // the columns of an MLP
            let (rows, cols) = (16, 14_336);
            let (len, shape) = (rows * cols, format!("[{rows}, {cols}]"));
            let kernel = |direction| format!("gate_{direction}_{act}_{}", name(dtype));
            calls.push(row_call(kernel("forward"), shape.clone(), [3 * dtype.bytes() * len, 0], move |device| {
                let (gate_up, mut y) = (floats(device, dtype, 2 * len)?, floats(device, dtype, len)?);
                gate::Forward { rows, cols, activation, gate_up: gate_up.view(), y: y.view_mut() }.run(device)
            }));
            calls.push(row_call(kernel("backward"), shape, [5 * dtype.bytes() * len, 0], move |device| {
                let (gate_up, dy) = (floats(device, dtype, 2 * len)?, floats(device, dtype, len)?);
                let mut d_gate_up = floats(device, dtype, 2 * len)?;
                let (gate_up, dy, d_gate_up) = (gate_up.view(), dy.view(), d_gate_up.view_mut());
                gate::Backward { rows, cols, activation, gate_up, dy, d_gate_up }.run(device)
            }));
        }
    }
    for (y, x) in [(F32, F32), (BF16, F32), (BF16, BF16)] {
        let heads = Groups { first: 0, per_row: HEADS, stride: QKV };
        for (rows, cols, groups) in [(48, HIDDEN, Groups::rows(HIDDEN)), (16 * HEADS, HEAD_DIM, heads)] {
            calls.extend(rms_norm_calls([y, x], [rows, cols], groups));
        }
    }
    calls
}

fn rms_norm_calls([y, x]: [FloatDtype; 2], [rows, cols]: [usize; 2], groups: Groups) -> [Call; 2] {
    let (len, all) = (rows * cols, rows / groups.per_row * groups.stride);
    let shape = if all == len { format!("[{rows}, {cols}]") } else { format!("[{rows}, {cols}] as heads") };
    let kernel = |direction| format!("rms_norm_{direction}_{}_{}", name(y), name(x));
    // the weight, and a number for each row
    let (small, cached) = (4 * cols + 4 * rows, 4 * cols * (rows - 1));
    let moved = len * (x.bytes() + y.bytes()) + small;
    let forward = row_call(kernel("forward"), shape.clone(), [moved, cached], move |device| {
        let (x, weight) = (floats(device, x, all)?, f32s(device, cols)?);
        let (mut y, mut rstd) = (floats(device, y, all)?, f32s(device, rows)?);
        let (x, weight, y, rstd) = (x.view(), weight.view(), y.view_mut(), rstd.view_mut());
        rms_norm::Forward { rows, cols, groups, eps: 1e-5, offset: 0.0, x, weight, y, rstd }.run(device)
    });
    let moved = len * (3 * x.bytes() + y.bytes()) + small;
    let backward = row_call(kernel("backward"), shape, [moved, cached], move |device| {
        let (mut dx, dy, x) = (floats(device, x, all)?, floats(device, y, all)?, floats(device, x, all)?);
        let (weight, rstd) = (f32s(device, cols)?, f32s(device, rows)?);
        let (dx, dy, x, weight, rstd) = (dx.view_mut(), dy.view(), x.view(), weight.view(), rstd.view());
        let accumulate = Accumulate::Add;
        rms_norm::Backward { rows, cols, groups, offset: 0.0, x, weight, rstd, dy, dx, accumulate }.run(device)
    });
    [forward, backward]
}

/// Kernels that move rows.
fn indexed_calls() -> Vec<Call> {
    const N: usize = 48;
    const INDEXED: usize = 64;
    // all different, in no order
    let index = || -> Vec<u32> { (0..N).map(|i| ((i * 37 + 5) % INDEXED) as u32).collect() };
    let shape = |cols: usize| format!("{N} of [{INDEXED}, {cols}]");
    let mut calls = Vec::new();
    for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        let moved = N * (4 + HIDDEN * (4 + dtype.bytes()));
        let kernel = format!("embed_{}", weight_name(dtype));
        calls.push(row_call(kernel, shape(HIDDEN), [moved, 0], move |device| {
            let (ids, table) = (device.upload_indices("ids", &index())?, weights(device, dtype, INDEXED * HIDDEN)?);
            let mut y = f32s(device, N * HIDDEN)?;
            let (rows, hidden_size, vocab_size) = (N, HIDDEN, INDEXED);
            let (ids, table, y) = (ids.view(), table.view(), y.view_mut());
            embed::Forward { rows, hidden_size, vocab_size, ids, table, scale: 1.0, y }.run(device)
        }));
    }
    calls.push(row_call("rows_gather", shape(HIDDEN), [N * (4 + 8 * HIDDEN), 0], move |device| {
        let (index, x) = (device.upload_indices("index", &index())?, f32s(device, INDEXED * HIDDEN)?);
        let mut y = f32s(device, N * HIDDEN)?;
        Gather { cols: HIDDEN, index: index.view(), x: x.view(), y: y.view_mut() }.run(device)
    }));
    for dtype in [F32, BF16] {
        // the keys of new rows, for a cache
        let cols = KEY_HEADS * HEAD_DIM;
        let moved = N * (4 + 2 * dtype.bytes() * cols);
        let kernel = format!("rows_scatter_{}", name(dtype));
        calls.push(row_call(kernel, shape(cols), [moved, 0], move |device| {
            let (index, x) = (device.upload_indices("index", &index())?, floats(device, dtype, N * QKV)?);
            let mut y = floats(device, dtype, INDEXED * cols)?;
            let x = Columns { values: x.view(), first: HEADS * HEAD_DIM, stride: QKV };
            Scatter { cols, index: index.view(), x, y: y.view_mut() }.run(device)
        }));
    }
    // each row looks through the whole index
    let bytes = [N * (4 + 12 * HIDDEN), (N - 1) * 4 * N];
    calls.push(row_call("rows_scatter_add", shape(HIDDEN), bytes, move |device| {
        let (index, x) = (device.upload_indices("index", &index())?, f32s(device, N * HIDDEN)?);
        let mut y = f32s(device, INDEXED * HIDDEN)?;
        ScatterAdd { cols: HIDDEN, index: index.view(), x: x.view(), y: y.view_mut() }.run(device)
    }));
    calls
}

fn rope_calls() -> Vec<Call> {
    const HALF: usize = HEAD_DIM / 2;
    let rows = 256;
    let tables = 8 * rows * HALF;
    // Positions, variants, and for one variant its frequencies and its scaling. Each row reads the frequencies, and each warp reads
    // three numbers, which are a sector each.
    let warps = rows * HALF / LANES;
    let (small, cached) = (8 * rows + 4 * HALF + 4, (rows - 1) * 4 * HALF + warps * 3 * SECTOR as usize);
    let mut calls =
        vec![row_call("rope_tables", format!("[{rows}, {HALF}]"), [tables + small, cached], move |device| {
            let positions: Vec<u32> = (0..rows as u32).collect();
            let (positions, variants) =
                (device.upload("positions", &positions)?, device.upload_indices("variants", &vec![0; rows])?);
            let (inv_freq, scaling) = (f32s(device, HALF)?, f32s(device, 1)?);
            let (mut cos, mut sin) = (f32s(device, rows * HALF)?, f32s(device, rows * HALF)?);
            let (positions, variants, cos, sin) = (positions.view(), variants.view(), cos.view_mut(), sin.view_mut());
            let (inv_freq, scaling) = (inv_freq.view(), scaling.view());
            rope::Tables { rows, half: HALF, positions, variants, inv_freq, scaling, cos, sin }.run(device)
        })];
    for (direction, prefix) in [(Direction::Forward, "rope_rotate"), (Direction::Backward, "rope_rotate_backward")] {
        for dtype in [F32, BF16] {
            let rows = 32;
            let tables = 8 * rows * HALF;
            let moved = 2 * dtype.bytes() * rows * HEADS * HEAD_DIM + tables;
            let kernel = format!("{prefix}_{}", name(dtype));
            let shape = format!("[{rows}, {HEADS} x {HEAD_DIM}]");
            calls.push(row_call(kernel, shape, [moved, (HEADS - 1) * tables], move |device| {
                let (cos, sin) = (f32s(device, rows * HALF)?, f32s(device, rows * HALF)?);
                let mut x = floats(device, dtype, rows * QKV)?;
                let (heads, head_dim, rotary_dim, stride) = (HEADS, HEAD_DIM, HEAD_DIM, QKV);
                let (cos, sin, x) = (cos.view(), sin.view(), x.view_mut());
                rope::Rotate { rows, heads, head_dim, rotary_dim, direction, cos, sin, stride, x }.run(device)
            }));
        }
    }
    calls
}

/// The operands of a head.
struct OnDevice {
    sizes: [usize; 3],
    hidden_states: FloatBuffer,
    lm_head: WeightBuffer,
    targets: align_kernels::Indices,
}

impl OnDevice {
    fn new(device: &Device, [rows, hidden_size, vocab_size]: [usize; 3]) -> Result<OnDevice> {
        let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % vocab_size) as u32).collect();
        Ok(OnDevice {
            sizes: [rows, hidden_size, vocab_size],
            hidden_states: floats(device, F32, rows * hidden_size)?,
            lm_head: weights(device, WeightDtype::Bf16, vocab_size * hidden_size)?,
            targets: device.upload_indices("targets", &targets)?,
        })
    }

    fn head(&self) -> Head<'_> {
        let [rows, hidden_size, vocab_size] = self.sizes;
        Head {
            rows,
            hidden_size,
            vocab_size,
            hidden_states: self.hidden_states.view(),
            lm_head: self.lm_head.view(),
            targets: self.targets.view(),
            final_logit_softcapping: None,
            temperature: 1.0,
            precision: Precision::F32,
        }
    }
}

/// Log-probs. The logits come from products of few terms, because the product is counted elsewhere.
fn token_logps_calls() -> Vec<Call> {
    let forward = |sizes: [usize; 3]| {
        let [rows, hidden_size, vocab_size] = sizes;
        call(format!("rows {rows} hidden {hidden_size} vocab {vocab_size}, forward"), move |device| {
            let on_device = OnDevice::new(device, sizes)?;
            let unset = || f32s(device, rows);
            let (mut logps, mut lse) = (unset()?, unset()?);
            let [mut entropy, mut target_is_argmax, mut lse_of_twice] = [unset()?, unset()?, unset()?];
            let (logps, lse, entropy) = (logps.view_mut(), lse.view_mut(), entropy.view_mut());
            let (target_is_argmax, lse_of_twice) = (target_is_argmax.view_mut(), lse_of_twice.view_mut());
            let extras = Some(Extras { entropy, target_is_argmax, lse_of_twice });
            token_logps::Forward { head: on_device.head(), logps, lse, extras }.run(device)
        })
    };
    // the logits of two blocks of the vocabulary
    let (rows, vocab_size, blocks) = (48, 8192, 2);
    let sizes = [rows, 8, vocab_size];
    let logits = 4 * rows * vocab_size;
    // for each block a target, and a state of five numbers that the second block also reads
    let moved = logits + blocks * rows * (4 + 20) + rows * 20;
    let mut calls = vec![forward(sizes).with("token_logps_add", [moved, 0])];
    // gradients take the place of the logits; three numbers a row
    let moved = 2 * logits + blocks * rows * 12;
    let backward = call(format!("rows {rows} hidden {} vocab {vocab_size}, backward", sizes[1]), move |device| {
        let on_device = OnDevice::new(device, sizes)?;
        let (lse, d_logps, mut d_hidden) =
            (f32s(device, rows)?, f32s(device, rows)?, floats(device, F32, rows * sizes[1])?);
        let (lse, d_logps, d_hidden) = (lse.view(), d_logps.view(), d_hidden.view_mut());
        token_logps::Backward { head: on_device.head(), lse, d_logps, d_hidden }.run(device)
    });
    calls.push(backward.with("token_logps_gradients", [moved, 0]));
    // A state of five numbers, a target and five outputs. The numbers of a state are read one by one.
    let rows = 1024;
    let moved = rows * (20 + 4 + 20);
    calls.push(forward([rows, 4, 64]).with("token_logps_finish", [moved, 4 * 20 * rows]));
    calls
}

/// Products in all combinations of formats, and in the three layouts of a layer.
fn gemm_calls() -> Vec<Call> {
    const M: usize = 128;
    const N: usize = 192;
    const K: usize = 256;
    let (m, n, k, alpha, accumulate, precision) = (M, N, K, 1.0, Accumulate::Set, Precision::F32);
    let shape = |layout| format!("m {M} n {N} k {K}, {layout}");
    let mut calls = Vec::new();
    for y in [F32, BF16] {
        for x in [F32, BF16] {
            for w in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
                calls.push(call(shape("forward"), move |device| {
                    let (x, w) = (floats(device, x, M * K)?, weights(device, w, N * K)?);
                    let mut y = floats(device, y, M * N)?;
                    let (x, w, y) = (x.view(), w.view(), y.view_mut());
                    gemm::Forward { m, n, k, alpha, x, w, y, accumulate, precision }.run(device)
                }));
            }
        }
    }
    for (floats_of, w) in [(F32, WeightDtype::F32), (BF16, WeightDtype::Bf16)] {
        calls.push(call(shape("dx"), move |device| {
            let (dy, w) = (floats(device, floats_of, M * N)?, weights(device, w, N * K)?);
            let mut dx = floats(device, floats_of, M * K)?;
            let (dy, w, dx) = (Columns::all(dy.view(), N), w.view(), dx.view_mut());
            gemm::Dx { m, n, k, alpha, dy, w, dx, accumulate, precision }.run(device)
        }));
        calls.push(call(shape("dw"), move |device| {
            let (dy, x) = (floats(device, floats_of, M * N)?, floats(device, floats_of, M * K)?);
            let mut dw = f32s(device, N * K)?;
            let (dy, x, dw) = (Columns::all(dy.view(), N), x.view(), dw.view_mut());
            gemm::Dw { m, n, k, alpha, dy, x, dw, accumulate, precision }.run(device)
        }));
    }
    calls
}

/// Attention of a few heads of 128 columns.
fn attention_calls() -> Vec<Call> {
    let (heads, kv_heads) = (4, 2);
    let geometry = Geometry {
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim: HEAD_DIM,
        scale: 0.088_388_35,
        softcap: None,
        sliding_window: None,
    };
    let all = (heads + 2 * kv_heads) * HEAD_DIM;
    let of = format!("{heads}/{kv_heads} heads of {HEAD_DIM}");
    // a prompt and two answers
    let rows = 112;
    let layout = move |device: &Device| {
        let segments =
            [(0..48, 0..0), (48..80, 0..48), (80..112, 0..48)].map(|(rows, prefix)| Segment { rows, prefix });
        Layout::new(device, rows, segments.to_vec())
    };
    let (batch, capacity) = (2, 128);
    let mut calls = Vec::new();
    for dtype in [F32, BF16] {
        let shape = format!("48 + 2 x 32 rows, {of}");
        calls.push(call(shape.clone(), move |device| {
            let (layout, qkv) = (layout(device)?, floats(device, dtype, rows * all)?);
            let (mut o, mut lse) = (floats(device, dtype, rows * heads * HEAD_DIM)?, f32s(device, rows * heads)?);
            let (qkv, o, lse) = (qkv.view(), o.view_mut(), lse.view_mut());
            attention::Forward { geometry, layout: &layout, qkv, o, lse }.run(device)
        }));
        calls.push(call(shape, move |device| {
            let (layout, qkv) = (layout(device)?, floats(device, dtype, rows * all)?);
            let (o, d_o) =
                (floats(device, dtype, rows * heads * HEAD_DIM)?, floats(device, dtype, rows * heads * HEAD_DIM)?);
            let (lse, mut dqkv) = (f32s(device, rows * heads)?, floats(device, dtype, rows * all)?);
            let (qkv, o, lse, d_o, dqkv) = (qkv.view(), o.view(), lse.view(), d_o.view(), dqkv.view_mut());
            attention::Backward { geometry, layout: &layout, qkv, o, lse, d_o, dqkv }.run(device)
        }));
        calls.push(call(format!("{batch} x {capacity} cached, {of}"), move |device| {
            let cached = batch * capacity * kv_heads * HEAD_DIM;
            let (qkv, k_cache, v_cache) =
                (floats(device, dtype, batch * all)?, floats(device, dtype, cached)?, floats(device, dtype, cached)?);
            let lengths = device.upload_indices("lengths", &vec![capacity as u32; batch])?;
            let mut o = floats(device, dtype, batch * heads * HEAD_DIM)?;
            let (lengths, qkv, o) = (lengths.view(), qkv.view(), o.view_mut());
            let [k_cache, v_cache]: [FloatSlice<'_>; 2] = [k_cache.view(), v_cache.view()];
            attention::Decode { batch, geometry, capacity, lengths, qkv, k_cache, v_cache, o }.run(device)
        }));
    }
    calls
}
