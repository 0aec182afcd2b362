//! Shapes. Timed: the attention of small and large llamas over pairs and single sequences. For the tests: odd sizes, windows,
//! soft-caps, and trees around the edges of the blocks.

use super::{
    BACKWARD_PRODUCTS, Backward, Decode, FORWARD_PRODUCTS, Forward, Geometry, Layout, Segment, operations, reference,
};
use crate::case::{Case, Comparison, Direction, Fixed, Inputs, Prepared, float, half_ulp_of_bf16};
use crate::real::{Real, widen};
use crate::{Buffer, Device, FloatBuffer, FloatDtype, Indices, Precision, Result};
use half::bf16;
use std::ops::Range;

/// Heads of SmolLM2-135M.
pub(super) const SMOLLM2: Geometry = Geometry {
    num_attention_heads: 9,
    num_key_value_heads: 3,
    head_dim: 64,
    scale: 0.125,
    softcap: None,
    sliding_window: None,
};

pub(crate) fn cases() -> Vec<Case> {
    let llama_8b =
        Geometry { num_attention_heads: 32, num_key_value_heads: 8, head_dim: 128, scale: 0.088_388_35, ..SMOLLM2 };
    let mut cases = Vec::new();
    let timed = [
        (SMOLLM2, "4 trees of 128 + 192 + 192", (0..4).flat_map(|n| tree(n * 512, 128, &[192, 192])).collect()),
        (SMOLLM2, "1 x 512", tree(0, 512, &[])),
        (SMOLLM2, "1 x 1024", tree(0, 1024, &[])),
        (llama_8b, "1 x 512", tree(0, 512, &[])),
    ];
    for (geometry, name, segments) in timed {
        for direction in [Direction::Forward, Direction::Backward] {
            for floats in [FloatDtype::F32, FloatDtype::Bf16] {
                cases.push(Shape { direction, geometry, segments: segments.clone(), gap: 0, floats }.case(name, true));
            }
        }
    }
    for (geometry, batch, length) in [(SMOLLM2, 1, 512), (SMOLLM2, 8, 512), (llama_8b, 1, 2048)] {
        for floats in [FloatDtype::F32, FloatDtype::Bf16] {
            cases.push(Cached { geometry, capacity: length, lengths: vec![length; batch], floats }.case(true));
        }
    }

    let tiny = Geometry { num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, scale: 0.35, ..SMOLLM2 };
    let odd_heads = Geometry { num_attention_heads: 3, num_key_value_heads: 3, head_dim: 33, scale: 0.17, ..SMOLLM2 };
    let wide_heads = Geometry { num_attention_heads: 4, num_key_value_heads: 2, head_dim: 80, scale: 0.11, ..SMOLLM2 };
    let big_group = Geometry { num_attention_heads: 14, num_key_value_heads: 1, head_dim: 16, scale: 0.25, ..SMOLLM2 };
    for geometry in [tiny, odd_heads, wide_heads, big_group] {
        for (softcap, sliding_window) in
            [(None, None), (Some(2.0), None), (None, Some(1)), (None, Some(20)), (Some(1.5), Some(70))]
        {
            let geometry = Geometry { softcap, sliding_window, ..geometry };
            for (name, segments) in [
                ("one row", tree(0, 1, &[])),
                ("uneven sequences", [tree(0, 5, &[]), tree(5, 67, &[]), tree(72, 1, &[])].concat()),
                ("a prompt in the middle of a block", tree(3, 70, &[1, 59, 30])),
                ("a prompt that fills blocks", tree(0, 128, &[65, 2])),
                ("branches without a prompt", tree(1, 0, &[9, 40])),
            ] {
                for direction in [Direction::Forward, Direction::Backward] {
                    for floats in [FloatDtype::F32, FloatDtype::Bf16] {
                        let shape = Shape { direction, geometry, segments: segments.clone(), gap: 2, floats };
                        cases.push(shape.case(name, false));
                    }
                }
            }
            for floats in [FloatDtype::F32, FloatDtype::Bf16] {
                let lengths = vec![1, 299, 64, 300, 17];
                cases.push(Cached { geometry, capacity: 300, lengths, floats }.case(false));
            }
        }
    }
    // the head dimensions of the families
    for head_dim in [64, 96, 128, 256] {
        let geometry = Geometry { num_attention_heads: 2, num_key_value_heads: 1, head_dim, scale: 0.1, ..SMOLLM2 };
        for direction in [Direction::Forward, Direction::Backward] {
            let segments = tree(0, 7, &[5, 33]);
            let shape = Shape { direction, geometry, segments, gap: 0, floats: FloatDtype::F32 };
            cases.push(shape.case("a prompt and two branches", false));
        }
    }
    // more query heads for each key-value head than are summed at once, and a head that ends inside a vector
    let groups = Geometry { num_attention_heads: 14, num_key_value_heads: 2, head_dim: 100, scale: 0.1, ..SMOLLM2 };
    for floats in [FloatDtype::F32, FloatDtype::Bf16] {
        cases.push(Cached { geometry: groups, capacity: 200, lengths: vec![200, 1, 131], floats }.case(false));
    }
    cases
}

/// Returns the segments of a prompt (if it is not empty) and its answers, in adjacent rows from `start` on.
pub(super) fn tree(start: usize, prompt: usize, branches: &[usize]) -> Vec<Segment> {
    let prefix = start..start + prompt;
    let mut segments = Vec::new();
    if prompt > 0 {
        segments.push(Segment { rows: prefix.clone(), prefix: 0..0 });
    }
    let mut at = prefix.end;
    for &rows in branches {
        segments.push(Segment { rows: at..at + rows, prefix: prefix.clone() });
        at += rows;
    }
    segments
}

#[derive(Debug, Clone)]
struct Shape {
    direction: Direction,
    geometry: Geometry,
    segments: Vec<Segment>,
    /// Rows after the last segment that no segment covers.
    gap: usize,
    floats: FloatDtype,
}

impl Shape {
    fn rows(&self) -> usize {
        self.segments.iter().map(|segment| segment.rows.end).max().unwrap_or(0) + self.gap
    }

    fn case(self, name: &str, timed: bool) -> Case {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.geometry;
        let (wide, narrow) = ((self.rows() * heads * head_dim) as f64, (self.rows() * kv_heads * head_dim) as f64);
        // every tensor is read or written once
        let (kernel, products, bytes) = match self.direction {
            Direction::Forward => ("attention.forward", FORWARD_PRODUCTS, 2.0 * wide + 2.0 * narrow),
            Direction::Backward => ("attention.backward", BACKWARD_PRODUCTS, 4.0 * wide + 4.0 * narrow),
        };
        let (tensors, by_definition) = (Fixed::default(), Fixed::default());
        Case {
            kernel,
            shape: format!("{name}, {}{}", describe(&self.geometry), suffix(self.floats)),
            flops: operations(products, &self.geometry, &self.segments),
            bytes: self.floats.bytes() as f64 * bytes,
            precision: (self.floats == FloatDtype::Bf16).then_some(Precision::Bf16),
            timed,
            prepare: Box::new(move |device| {
                Ok(Box::new(Run::new(self.clone(), timed, tensors.clone(), by_definition.clone(), device)?))
            }),
        }
    }
}

fn suffix(floats: FloatDtype) -> &'static str {
    if floats == FloatDtype::Bf16 { ", bf16" } else { "" }
}

fn describe(geometry: &Geometry) -> String {
    let Geometry { num_attention_heads, num_key_value_heads, head_dim, softcap, sliding_window, .. } = geometry;
    let softcap = softcap.map_or(String::new(), |cap| format!(", soft-cap {cap}"));
    let window = sliding_window.map_or(String::new(), |window| format!(", window {window}"));
    format!("{num_attention_heads}/{num_key_value_heads} heads of {head_dim}{softcap}{window}")
}

/// Random queries, keys and values, and a random gradient of the output.
pub(super) struct Tensors {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub d_o: Vec<f32>,
}

impl Tensors {
    pub(super) fn random(rows: usize, geometry: &Geometry) -> Tensors {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = *geometry;
        let mut inputs = Inputs::of(&[rows, heads, kv_heads, head_dim]);
        let (wide, narrow) = (rows * heads * head_dim, rows * kv_heads * head_dim);
        Tensors {
            q: inputs.normal(wide, 1.0),
            k: inputs.normal(narrow, 1.0),
            v: inputs.normal(narrow, 1.0),
            d_o: inputs.normal(wide, 1.0),
        }
    }

    /// Returns rows with queries, keys and values side by side, as the kernel reads them.
    pub(super) fn qkv(&self, geometry: &Geometry) -> Vec<f32> {
        let (wide, narrow) =
            (geometry.num_attention_heads * geometry.head_dim, geometry.num_key_value_heads * geometry.head_dim);
        // chunks need a length above 0, and a call without heads is refused only later
        let [wide, narrow] = [wide.max(1), narrow.max(1)];
        let heads = self.q.chunks_exact(wide).zip(self.k.chunks_exact(narrow)).zip(self.v.chunks_exact(narrow));
        heads.flat_map(|((q, k), v)| [q, k, v].concat()).collect()
    }

    /// Rounds all four tensors to bf16.
    pub(super) fn round(&mut self) {
        for values in [&mut self.q, &mut self.k, &mut self.v, &mut self.d_o] {
            round(values);
        }
    }
}

fn round(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
}

/// Returns queries, keys and values, or their gradients, from rows that hold them side by side.
pub(super) fn split(qkv: &[f32], geometry: &Geometry) -> [Vec<f32>; 3] {
    let (wide, narrow) =
        (geometry.num_attention_heads * geometry.head_dim, geometry.num_key_value_heads * geometry.head_dim);
    [0..wide, wide..wide + narrow, wide + narrow..wide + 2 * narrow]
        .map(|cols| qkv.chunks_exact(wide + 2 * narrow).flat_map(|row| row[cols.clone()].to_vec()).collect())
}

struct Run {
    shape: Shape,
    /// Key-value heads that are compared: the reference takes minutes for all heads of a large shape.
    compared: Range<usize>,
    device: Device,
    tensors: Fixed<Tensors>,
    layout: Layout,
    qkv: FloatBuffer,
    d_o: FloatBuffer,
    /// Every output is filled with NaN first, so that an element that is not written shows.
    o: FloatBuffer,
    lse: Buffer<f32>,
    dqkv: FloatBuffer,
    by_definition: Fixed<ByReference>,
}

/// `[o, lse]` or `[dq, dk, dv]` in f64 and in f32.
type ByReference = (Vec<Vec<f64>>, Vec<Vec<f32>>);

impl Run {
    fn new(
        shape: Shape,
        timed: bool,
        fixed: Fixed<Tensors>,
        by_definition: Fixed<ByReference>,
        device: &Device,
    ) -> Result<Run> {
        let rows = shape.rows();
        let tensors = fixed.get_or_init(|| {
            let mut tensors = Tensors::random(rows, &shape.geometry);
            if shape.floats == FloatDtype::Bf16 {
                tensors.round();
            }
            tensors
        });
        let kv_heads = shape.geometry.num_key_value_heads;
        let upload = |values: &[f32]| float(device, shape.floats, values);
        let qkv = tensors.qkv(&shape.geometry);
        let mut run = Run {
            compared: if timed { kv_heads - 1..kv_heads } else { 0..kv_heads },
            device: device.clone(),
            qkv: upload(&qkv)?,
            d_o: upload(&tensors.d_o)?,
            o: upload(&vec![f32::NAN; tensors.q.len()])?,
            lse: device.upload("case", &vec![f32::NAN; rows * shape.geometry.num_attention_heads])?,
            dqkv: upload(&vec![f32::NAN; qkv.len()])?,
            layout: Layout::new(device, rows, shape.segments.clone())?,
            shape,
            tensors: fixed.clone(),
            by_definition,
        };
        if run.shape.direction == Direction::Backward {
            run.forward()?;
        }
        Ok(run)
    }

    /// Returns the error that roundings to bf16 may add to an output, besides that of f32. The output itself is rounded once, by
    /// half a unit in the last of its eight bits. Before that, the unit that multiplies bf16 reads the weights `p` and their
    /// gradients `du` rounded to bf16, each by at most `2^-9` of itself, up or down. With independent signs, the errors of a sum
    /// weighted by `p` add up like `sqrt(Σ p²)`. This is at most 1 for a query, and about 1 for a key, which gets most from its
    /// first queries. Twice that is allowed.
    fn rounding(&self, output: &str, exact: &[f64]) -> f64 {
        let largest = |values: &[f32]| values.iter().fold(0.0f64, |largest, x| largest.max(f64::from(x.abs())));
        let unit = 1.0 / 512.0;
        let Geometry { scale, head_dim, .. } = self.shape.geometry;
        let Tensors { q, k, v, d_o } = self.tensors();
        // the size of `d_o·v - delta`, a difference of dot products of random vectors
        let difference = 2.0 * f64::from(scale) * (head_dim as f64).sqrt() * largest(v);
        let group = (self.shape.geometry.group() as f64).sqrt();
        let sums = match output {
            // enough for scores of some tens; the unit adds their products in another order
            "lse" => return 4e-6,
            "o" => largest(v),
            "dv" => group * largest(d_o),
            "dq" => difference * largest(k),
            _ => group * difference * largest(q),
        };
        half_ulp_of_bf16(exact) + 2.0 * unit * sums
    }

    fn tensors(&self) -> &Tensors {
        self.tensors.get().expect("`new` makes them")
    }

    fn forward(&mut self) -> Result<()> {
        Forward {
            geometry: self.shape.geometry,
            layout: &self.layout,
            qkv: self.qkv.view(),
            o: self.o.view_mut(),
            lse: self.lse.view_mut(),
        }
        .run(&self.device)
    }

    /// Returns the columns of the compared heads from each row of `values`, widened to `R`. A row holds `heads` heads of `width`
    /// columns each.
    fn part<R: Real>(&self, values: &[f32], heads: usize, width: usize) -> Vec<R> {
        let per_kv_head = heads / self.shape.geometry.num_key_value_heads * width;
        let columns = self.compared.start * per_kv_head..self.compared.end * per_kv_head;
        values.chunks_exact(heads * width).flat_map(|row| widen::<R>(&row[columns.clone()])).collect()
    }

    /// Returns `[o, lse]` or `[dq, dk, dv]` by the reference, for the compared heads.
    fn reference<R: Real>(&self) -> Vec<Vec<R>> {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.shape.geometry;
        let geometry = Geometry {
            num_attention_heads: self.compared.len() * self.shape.geometry.group(),
            num_key_value_heads: self.compared.len(),
            ..self.shape.geometry
        };
        let (rows, segments) = (self.shape.rows(), &self.shape.segments);
        let Tensors { q, k, v, d_o } = self.tensors();
        let (q, d_o) = (self.part(q, heads, head_dim), self.part(d_o, heads, head_dim));
        let (k, v) = (self.part(k, kv_heads, head_dim), self.part(v, kv_heads, head_dim));
        let (o, lse) = reference::forward::<R>(rows, &geometry, segments, &q, &k, &v);
        match self.shape.direction {
            Direction::Forward => vec![o, lse],
            Direction::Backward => {
                let gradients = reference::backward(rows, &geometry, segments, &q, &k, &v, &o, &lse, &d_o);
                vec![gradients.dq, gradients.dk, gradients.dv]
            }
        }
    }
}

impl Prepared for Run {
    fn run(&mut self) -> Result<()> {
        match self.shape.direction {
            Direction::Forward => self.forward(),
            Direction::Backward => Backward {
                geometry: self.shape.geometry,
                layout: &self.layout,
                qkv: self.qkv.view(),
                o: self.o.view(),
                lse: self.lse.view(),
                d_o: self.d_o.view(),
                dqkv: self.dqkv.view_mut(),
            }
            .run(&self.device),
        }
    }

    fn check(&self) -> Vec<Comparison> {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.shape.geometry;
        let outputs: Vec<(&'static str, Vec<f32>)> = match self.shape.direction {
            Direction::Forward => vec![
                ("o", self.part(&self.o.download().expect("the device works"), heads, head_dim)),
                ("lse", self.part(&self.lse.download().expect("the device works"), heads, 1)),
            ],
            Direction::Backward => {
                let [dq, dk, dv] = split(&self.dqkv.download().expect("the device works"), &self.shape.geometry);
                vec![
                    ("dq", self.part(&dq, heads, head_dim)),
                    ("dk", self.part(&dk, kv_heads, head_dim)),
                    ("dv", self.part(&dv, kv_heads, head_dim)),
                ]
            }
        };
        let (exact, naive) = self.by_definition.get_or_init(|| (self.reference(), self.reference()));
        outputs
            .iter()
            .zip(exact.iter().zip(naive))
            .map(|((name, got), (exact, naive))| {
                let mut comparison = Comparison::with_naive(name, got, exact, naive);
                if self.shape.floats == FloatDtype::Bf16 {
                    comparison.bound += self.rounding(name, exact);
                }
                comparison
            })
            .collect()
    }
}

/// The sizes of a decoding step.
#[derive(Debug, Clone)]
struct Cached {
    geometry: Geometry,
    capacity: usize,
    lengths: Vec<usize>,
    floats: FloatDtype,
}

impl Cached {
    fn case(self, timed: bool) -> Case {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.geometry;
        let keys: usize = self.lengths.iter().map(|&n| n - self.geometry.first_visible(n - 1)).sum();
        let queries = 2 * self.lengths.len() * heads * head_dim;
        let by_definition = Fixed::default();
        Case {
            kernel: "attention.decode",
            shape: format!(
                "{} x {}, {}{}",
                self.lengths.len(),
                self.capacity,
                describe(&self.geometry),
                suffix(self.floats)
            ),
            // q·k and p·v
            flops: (4 * keys * heads * head_dim) as f64,
            // every visible key and value, the queries and the outputs, each once
            bytes: (self.floats.bytes() * (2 * keys * kv_heads * head_dim + queries)) as f64,
            precision: None,
            timed,
            prepare: Box::new(move |device| Ok(Box::new(DecodeRun::new(self.clone(), by_definition.clone(), device)?))),
        }
    }
}

struct DecodeRun {
    shape: Cached,
    device: Device,
    q: Vec<f32>,
    qkv: FloatBuffer,
    k_cache: FloatBuffer,
    v_cache: FloatBuffer,
    lengths: Indices,
    o: FloatBuffer,
    by_definition: Fixed<(Vec<f64>, Vec<f32>)>,
}

impl DecodeRun {
    fn new(shape: Cached, by_definition: Fixed<(Vec<f64>, Vec<f32>)>, device: &Device) -> Result<DecodeRun> {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = shape.geometry;
        let (batch, capacity) = (shape.lengths.len(), shape.capacity);
        let mut inputs = Inputs::of(&[batch, capacity, heads, kv_heads, head_dim]);
        let mut queries = inputs.normal(batch * heads * head_dim, 1.0);
        if shape.floats == FloatDtype::Bf16 {
            round(&mut queries);
        }
        // the keys and values of the new rows are in the cache already, so the columns beside the queries are not read
        let qkv: Vec<f32> = (queries.chunks_exact(heads * head_dim))
            .flat_map(|row| [row, &vec![f32::NAN; 2 * kv_heads * head_dim]].concat())
            .collect();
        let [k, v] = [(); 2].map(|()| {
            // rows beyond a sequence's length must not be read: they are NaN
            let mut cache = inputs.normal(batch * capacity * kv_heads * head_dim, 1.0);
            for (rows, &length) in cache.chunks_exact_mut(capacity * kv_heads * head_dim).zip(&shape.lengths) {
                rows[length * kv_heads * head_dim..].fill(f32::NAN);
            }
            cache
        });
        Ok(DecodeRun {
            device: device.clone(),
            o: float(device, shape.floats, &vec![f32::NAN; queries.len()])?,
            q: queries.clone(),
            qkv: float(device, shape.floats, &qkv)?,
            k_cache: float(device, shape.floats, &k)?,
            v_cache: float(device, shape.floats, &v)?,
            lengths: device.upload_indices("lengths", &shape.lengths.iter().map(|&n| n as u32).collect::<Vec<_>>())?,
            shape,
            by_definition,
        })
    }

    fn reference<R: Real>(&self) -> Vec<R> {
        let [k, v] =
            [&self.k_cache, &self.v_cache].map(|buffer| widen::<R>(&buffer.download().expect("the device works")));
        let q = widen::<R>(&self.q);
        reference::decode(&self.shape.geometry, self.shape.capacity, &self.shape.lengths, &q, &k, &v)
    }
}

impl Prepared for DecodeRun {
    fn run(&mut self) -> Result<()> {
        Decode {
            batch: self.shape.lengths.len(),
            geometry: self.shape.geometry,
            capacity: self.shape.capacity,
            lengths: self.lengths.view(),
            qkv: self.qkv.view(),
            k_cache: self.k_cache.view(),
            v_cache: self.v_cache.view(),
            o: self.o.view_mut(),
        }
        .run(&self.device)
    }

    fn check(&self) -> Vec<Comparison> {
        let (exact, naive) = self.by_definition.get_or_init(|| (self.reference(), self.reference()));
        let mut comparison = Comparison::with_naive("o", &self.o.download().expect("the device works"), exact, naive);
        if self.shape.floats == FloatDtype::Bf16 {
            comparison.bound += half_ulp_of_bf16(exact);
        }
        vec![comparison]
    }
}
