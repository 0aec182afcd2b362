//! The segments of a pass, checked once for the calls of all its layers.

use super::{Segment, cpu, cuda, segments};
use crate::{Device, Result};

/// Which rows attend to which: checked segments, and what a device's kernels derive from them.
#[derive(Debug)]
pub struct Layout {
    rows: usize,
    segments: Vec<Segment>,
    lists: Lists,
}

/// What the kernels walk over.
#[derive(Debug)]
enum Lists {
    Cpu(cpu::Lists),
    Cuda(Box<cuda::Lists>),
}

impl Layout {
    /// Checks and keeps the segments of `rows` rows.
    ///
    /// # Errors
    /// [`crate::KernelError::Size`] for a segment outside the rows, for segments that share rows, and for a prefix that is not
    /// the rows of a segment without prefix.
    pub fn new(device: &Device, rows: usize, segments: Vec<Segment>) -> Result<Layout> {
        segments::check("attention.layout", rows, &segments)?;
        let lists = match device {
            Device::Cpu(_) => Lists::Cpu(cpu::Lists::new(rows, &segments)),
            Device::Count(count) if count.cpu().is_some() => Lists::Cpu(cpu::Lists::new(rows, &segments)),
            Device::Cuda(_) | Device::Count(_) => Lists::Cuda(Box::new(cuda::Lists::new(device, rows, &segments)?)),
        };
        Ok(Layout { rows, segments, lists })
    }

    /// Number of rows of every operand.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The segments, in the order that the caller gave.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) fn cpu(&self) -> &cpu::Lists {
        match &self.lists {
            Lists::Cpu(lists) => lists,
            Lists::Cuda(_) => panic!("a layout of another device"),
        }
    }

    pub(super) fn cuda(&self) -> &cuda::Lists {
        match &self.lists {
            Lists::Cuda(lists) => lists,
            Lists::Cpu(_) => panic!("a layout of another device"),
        }
    }
}
