//! What tasks walk over: the trees of a layout, their blocks, and runs of query positions.

use super::blocks::Blocks;
use crate::attention::{Geometry, Segment};
use std::cmp::Reverse;
use std::ops::Range;

/// What the calls of all layers walk over, derived once from a layout.
#[derive(Debug)]
pub(in crate::attention) struct Lists {
    /// Rows that no segment covers.
    pub(super) uncovered: Vec<Range<usize>>,
    pub(super) blocks: Blocks,
    pub(super) trees: Vec<Tree>,
}

impl Lists {
    /// `segments` must have passed `segments::check`.
    pub(in crate::attention) fn new(rows: usize, segments: &[Segment]) -> Lists {
        let blocks = Blocks::new(segments);
        Lists { uncovered: uncovered(rows, segments), trees: trees(segments, &blocks), blocks }
    }
}

/// A segment without prefix, and the segments that have its rows as their prefix, by number.
#[derive(Debug)]
pub(super) struct Tree {
    pub segments: Vec<usize>,
    pub rows: usize,
}

/// Returns the trees, the costliest first. Each lists its prompt first, then the branches in the order of the segments.
fn trees(segments: &[Segment], blocks: &Blocks) -> Vec<Tree> {
    let mut trees: Vec<Tree> = Vec::new();
    let mut tree_of = vec![usize::MAX; segments.len()];
    for (index, segment) in segments.iter().enumerate() {
        if blocks.root(index).is_none() {
            tree_of[index] = trees.len();
            trees.push(Tree { segments: vec![index], rows: segment.rows.len() });
        }
    }
    for (index, segment) in segments.iter().enumerate() {
        if let Some(root) = blocks.root(index) {
            let tree = &mut trees[tree_of[root]];
            tree.segments.push(index);
            tree.rows += segment.rows.len();
        }
    }
    heaviest_first(&mut trees, |tree| {
        let pairs = |segment: &Segment| segment.rows.len() * (2 * segment.prefix.len() + segment.rows.len());
        tree.segments.iter().map(|&index| pairs(&segments[index])).sum()
    });
    trees
}

/// A run of positions of one segment.
pub(super) struct Job {
    pub segment: usize,
    /// The first query's position.
    pub first: usize,
    pub positions: usize,
}

/// Cuts the positions of each segment into runs, at the multiples of `step`, so that few runs cross the border of a block. Returns
/// the costliest runs first.
pub(super) fn jobs(geometry: &Geometry, segments: &[Segment], step: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let mut first = segment.prefix.len();
        while first < segment.positions() {
            let end = ((first / step + 1) * step).min(segment.positions());
            jobs.push(Job { segment: index, first, positions: end - first });
            first = end;
        }
    }
    heaviest_first(&mut jobs, |job| {
        let last = job.first + job.positions;
        job.positions * (last - geometry.first_visible(job.first))
    });
    jobs
}

/// Returns the rows that no segment covers.
fn uncovered(rows: usize, segments: &[Segment]) -> Vec<Range<usize>> {
    let mut covered: Vec<_> = segments.iter().map(|segment| &segment.rows).filter(|rows| !rows.is_empty()).collect();
    covered.sort_by_key(|rows| rows.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in covered {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = range.end;
    }
    if at < rows {
        gaps.push(at..rows);
    }
    gaps
}

/// Sorts by cost, highest first, so that the threads finish together. Jobs of equal cost keep their order.
fn heaviest_first<T>(jobs: &mut [T], cost: impl Fn(&T) -> usize) {
    jobs.sort_by_key(|job| Reverse(cost(job)));
}
