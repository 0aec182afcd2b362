//! Shapes: the attention of small and large llamas over pairs and single sequences, timed; odd sizes, windows, soft-caps and
//! trees around the edges of the blocks, for the tests.

use super::{Backward, Decode, Forward, Geometry, Segment, reference};
use crate::case::{Case, Comparison, Inputs, Prepared};
use crate::real::{Real, widen};
use crate::{Buffer, Device, Result};
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

pub fn cases() -> Vec<Case> {
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
            cases.push(Shape { direction, geometry, segments: segments.clone(), gap: 0 }.case(name, true));
        }
    }
    for (geometry, batch, length) in [(SMOLLM2, 1, 512), (SMOLLM2, 8, 512), (llama_8b, 1, 2048)] {
        cases.push(Cached { geometry, capacity: length, lengths: vec![length; batch] }.case(true));
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
                    let shape = Shape { direction, geometry, segments: segments.clone(), gap: 2 };
                    cases.push(shape.case(name, false));
                }
            }
            cases.push(Cached { geometry, capacity: 300, lengths: vec![1, 299, 64, 300, 17] }.case(false));
        }
    }
    cases
}

/// A prompt and its answers in adjacent rows from `start` on.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

#[derive(Debug, Clone)]
struct Shape {
    direction: Direction,
    geometry: Geometry,
    segments: Vec<Segment>,
    /// Rows after the last segment that no segment covers.
    gap: usize,
}

impl Shape {
    fn rows(&self) -> usize {
        self.segments.iter().map(|segment| segment.rows.end).max().unwrap_or(0) + self.gap
    }

    fn case(self, name: &str, timed: bool) -> Case {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.geometry;
        let visible = |segment: &Segment| {
            (segment.prefix.len()..segment.positions())
                .map(|position| position + 1 - self.geometry.first_visible(position))
                .sum::<usize>()
        };
        let pairs = self.segments.iter().map(visible).sum::<usize>() as f64 * heads as f64;
        let (wide, narrow) = ((self.rows() * heads * head_dim) as f64, (self.rows() * kv_heads * head_dim) as f64);
        // forward: q·k and p·v, 2 head_dim each; backward: q·k again, d_o·v, dq, dk, dv. Reads and writes every tensor once.
        let (kernel, products, bytes) = match self.direction {
            Direction::Forward => ("attention.forward", 2.0, 4.0 * (2.0 * wide + 2.0 * narrow)),
            Direction::Backward => ("attention.backward", 5.0, 4.0 * (4.0 * wide + 4.0 * narrow)),
        };
        Case {
            kernel,
            shape: format!("{name}, {}", describe(&self.geometry)),
            flops: products * 2.0 * head_dim as f64 * pairs,
            bytes,
            precision: None,
            timed,
            prepare: Box::new(move |device| Ok(Box::new(Run::new(self.clone(), timed, device)?))),
        }
    }
}

fn describe(geometry: &Geometry) -> String {
    let Geometry { num_attention_heads, num_key_value_heads, head_dim, softcap, sliding_window, .. } = geometry;
    let softcap = softcap.map_or(String::new(), |cap| format!(", soft-cap {cap}"));
    let window = sliding_window.map_or(String::new(), |window| format!(", window {window}"));
    format!("{num_attention_heads}/{num_key_value_heads} heads of {head_dim}{softcap}{window}")
}

/// Random inputs in place, and room for the outputs.
pub(super) struct Tensors {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub d_o: Vec<f32>,
}

impl Tensors {
    pub fn random(rows: usize, geometry: &Geometry) -> Tensors {
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
}

struct Run {
    shape: Shape,
    /// Key-value heads that are compared: the reference takes minutes for all heads of a large shape.
    compared: Range<usize>,
    device: Device,
    tensors: Tensors,
    q: Buffer<f32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
    d_o: Buffer<f32>,
    /// Outputs are filled with NaN first: an element that is not written shows.
    o: Buffer<f32>,
    lse: Buffer<f32>,
    dq: Buffer<f32>,
    dk: Buffer<f32>,
    dv: Buffer<f32>,
}

impl Run {
    fn new(shape: Shape, timed: bool, device: &Device) -> Result<Run> {
        let rows = shape.rows();
        let tensors = Tensors::random(rows, &shape.geometry);
        let kv_heads = shape.geometry.num_key_value_heads;
        let like = |values: &[f32]| device.upload("case", &vec![f32::NAN; values.len()]);
        let mut run = Run {
            compared: if timed { kv_heads - 1..kv_heads } else { 0..kv_heads },
            device: device.clone(),
            q: device.upload("case", &tensors.q)?,
            k: device.upload("case", &tensors.k)?,
            v: device.upload("case", &tensors.v)?,
            d_o: device.upload("case", &tensors.d_o)?,
            o: like(&tensors.q)?,
            lse: device.upload("case", &vec![f32::NAN; rows * shape.geometry.num_attention_heads])?,
            dq: like(&tensors.q)?,
            dk: like(&tensors.k)?,
            dv: like(&tensors.k)?,
            tensors,
            shape,
        };
        if run.shape.direction == Direction::Backward {
            run.forward()?;
        }
        Ok(run)
    }

    fn forward(&mut self) -> Result<()> {
        Forward {
            rows: self.shape.rows(),
            geometry: self.shape.geometry,
            segments: &self.shape.segments,
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            o: self.o.view_mut(),
            lse: self.lse.view_mut(),
        }
        .run(&self.device)
    }

    /// The columns of the heads that are compared, of a tensor with `heads` heads of `width` columns.
    fn part<R: Real>(&self, values: &[f32], heads: usize, width: usize) -> Vec<R> {
        let per_kv_head = heads / self.shape.geometry.num_key_value_heads * width;
        let columns = self.compared.start * per_kv_head..self.compared.end * per_kv_head;
        values.chunks_exact(heads * width).flat_map(|row| widen::<R>(&row[columns.clone()])).collect()
    }

    /// `[o, lse]` or `[dq, dk, dv]` by the reference.
    fn reference<R: Real>(&self) -> Vec<Vec<R>> {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.shape.geometry;
        let geometry = Geometry {
            num_attention_heads: self.compared.len() * self.shape.geometry.group(),
            num_key_value_heads: self.compared.len(),
            ..self.shape.geometry
        };
        let (rows, segments) = (self.shape.rows(), &self.shape.segments);
        let (q, d_o) = (self.part(&self.tensors.q, heads, head_dim), self.part(&self.tensors.d_o, heads, head_dim));
        let (k, v) = (self.part(&self.tensors.k, kv_heads, head_dim), self.part(&self.tensors.v, kv_heads, head_dim));
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
                rows: self.shape.rows(),
                geometry: self.shape.geometry,
                segments: &self.shape.segments,
                q: self.q.view(),
                k: self.k.view(),
                v: self.v.view(),
                o: self.o.view(),
                lse: self.lse.view(),
                d_o: self.d_o.view(),
                dq: self.dq.view_mut(),
                dk: self.dk.view_mut(),
                dv: self.dv.view_mut(),
            }
            .run(&self.device),
        }
    }

    fn check(&self) -> Vec<Comparison> {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.shape.geometry;
        let outputs: Vec<(&'static str, Vec<f32>)> = match self.shape.direction {
            Direction::Forward => vec![
                ("o", self.part(&self.o.download(), heads, head_dim)),
                ("lse", self.part(&self.lse.download(), heads, 1)),
            ],
            Direction::Backward => vec![
                ("dq", self.part(&self.dq.download(), heads, head_dim)),
                ("dk", self.part(&self.dk.download(), kv_heads, head_dim)),
                ("dv", self.part(&self.dv.download(), kv_heads, head_dim)),
            ],
        };
        let (exact, naive) = (self.reference::<f64>(), self.reference::<f32>());
        outputs
            .iter()
            .zip(exact.iter().zip(&naive))
            .map(|((name, got), (exact, naive))| Comparison::with_naive(name, got, exact, naive))
            .collect()
    }
}

/// A decoding step.
#[derive(Debug, Clone)]
struct Cached {
    geometry: Geometry,
    capacity: usize,
    lengths: Vec<usize>,
}

impl Cached {
    fn case(self, timed: bool) -> Case {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.geometry;
        let keys: usize = self.lengths.iter().map(|&n| n - self.geometry.first_visible(n - 1)).sum();
        let queries = 2 * self.lengths.len() * heads * head_dim;
        Case {
            kernel: "attention.decode",
            shape: format!("{} x {}, {}", self.lengths.len(), self.capacity, describe(&self.geometry)),
            // q·k and p·v
            flops: (4 * keys * heads * head_dim) as f64,
            // every visible key and value once, the queries and the outputs
            bytes: 4.0 * (2 * keys * kv_heads * head_dim + queries) as f64,
            precision: None,
            timed,
            prepare: Box::new(move |device| Ok(Box::new(DecodeRun::new(self.clone(), device)?))),
        }
    }
}

struct DecodeRun {
    shape: Cached,
    device: Device,
    q: Buffer<f32>,
    k_cache: Buffer<f32>,
    v_cache: Buffer<f32>,
    o: Buffer<f32>,
}

impl DecodeRun {
    fn new(shape: Cached, device: &Device) -> Result<DecodeRun> {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = shape.geometry;
        let (batch, capacity) = (shape.lengths.len(), shape.capacity);
        let mut inputs = Inputs::of(&[batch, capacity, heads, kv_heads, head_dim]);
        let queries = inputs.normal(batch * heads * head_dim, 1.0);
        let [k, v] = [(); 2].map(|()| {
            // beyond a sequence's length the cache holds whatever was there before
            let mut cache = inputs.normal(batch * capacity * kv_heads * head_dim, 1.0);
            for (rows, &length) in cache.chunks_exact_mut(capacity * kv_heads * head_dim).zip(&shape.lengths) {
                rows[length * kv_heads * head_dim..].fill(f32::NAN);
            }
            cache
        });
        Ok(DecodeRun {
            device: device.clone(),
            o: device.upload("case", &vec![f32::NAN; queries.len()])?,
            q: device.upload("case", &queries)?,
            k_cache: device.upload("case", &k)?,
            v_cache: device.upload("case", &v)?,
            shape,
        })
    }

    fn reference<R: Real>(&self) -> Vec<R> {
        let [q, k, v] = [&self.q, &self.k_cache, &self.v_cache].map(|buffer| widen::<R>(&buffer.download()));
        reference::decode(&self.shape.geometry, self.shape.capacity, &self.shape.lengths, &q, &k, &v)
    }
}

impl Prepared for DecodeRun {
    fn run(&mut self) -> Result<()> {
        Decode {
            batch: self.shape.lengths.len(),
            geometry: self.shape.geometry,
            capacity: self.shape.capacity,
            lengths: &self.shape.lengths,
            q: self.q.view(),
            k_cache: self.k_cache.view(),
            v_cache: self.v_cache.view(),
            o: self.o.view_mut(),
        }
        .run(&self.device)
    }

    fn check(&self) -> Vec<Comparison> {
        vec![Comparison::with_naive("o", &self.o.download(), &self.reference::<f64>(), &self.reference::<f32>())]
    }
}
