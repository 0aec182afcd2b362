//! Lowers statements to instructions that run: opcodes become steps, registers become places in a warp's register files.

mod constants;
mod draft;
mod liveness;
mod memory;
mod slots;
mod statement;

pub(crate) use constants::{Constant, Constants, Special};

use crate::error::PtxError;
use crate::parse::{Class, KernelText, MOST_REGISTERS};
use crate::warp::Op;
use draft::Draft;
use std::collections::HashMap;
use std::fmt;

/// A kernel that can run.
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Op>,
    /// The opcode of each instruction, as the PTX text writes it.
    pub(crate) opcodes: Vec<String>,
    pub(crate) constants: Constants,
    /// How many places the registers of each class need, without the constants.
    pub(crate) places: Places,
    pub(crate) parameter_bytes: usize,
    pub(crate) max_threads: Option<u32>,
    pub(crate) shared_bytes: u32,
    pub(crate) local_bytes: u32,
    /// Largest number of 32-bit registers that hold a value at once.
    registers: u32,
    /// The offset and the size of each parameter, in bytes.
    parameters: Vec<(u32, u32)>,
    /// Lines that read a register, although some path to them does not write it.
    unset: Vec<u32>,
}

/// A number of places for each class of registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub predicates: usize,
    pub words: usize,
    pub wides: usize,
}

impl Places {
    pub(crate) fn of(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Predicate => &mut self.predicates,
            Class::Word => &mut self.words,
            Class::Wide => &mut self.wides,
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({}, {} instructions)", self.name, self.code.len())
    }
}

impl Kernel {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the offset and the size of each parameter, in bytes.
    pub fn parameters(&self) -> &[(u32, u32)] {
        &self.parameters
    }

    /// Bytes of all parameters, with the gaps between them.
    pub fn parameter_bytes(&self) -> usize {
        self.parameter_bytes
    }

    /// Maximum number of threads of a block, if the kernel sets one.
    pub fn max_threads(&self) -> Option<u32> {
        self.max_threads
    }

    /// Bytes of shared memory that the kernel declares.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// Bytes of local memory of a thread. It holds what does not fit into registers, and arrays that are indexed.
    pub fn local_bytes(&self) -> u32 {
        self.local_bytes
    }

    /// Largest number of 32-bit registers that hold a value at once: an estimate of what an assembler would use.
    pub fn registers(&self) -> u32 {
        self.registers
    }

    /// Lines that read a register, although some path to them does not write it.
    pub fn unset(&self) -> &[u32] {
        &self.unset
    }

    /// The opcode of each instruction.
    pub fn opcodes(&self) -> &[String] {
        &self.opcodes
    }

    /// Returns the line in the PTX text of each instruction.
    pub fn lines(&self) -> Vec<u32> {
        self.code.iter().map(|op| op.line).collect()
    }
}

/// Lowers a kernel. `variables` are the addresses of the module's variables.
///
/// # Errors
/// [`PtxError`] for an opcode or operands that the machine does not know.
pub(crate) fn lower(kernel: KernelText, variables: &HashMap<String, u64>, text: &str) -> Result<Kernel, PtxError> {
    let mut drafts = draft::Drafts::new(&kernel, variables);
    for (number, statement) in kernel.statements.iter().enumerate() {
        drafts.begin(number);
        statement::lower(&mut drafts, statement).map_err(|reason| PtxError {
            line: statement.line,
            reason,
            text: text.lines().nth(statement.line as usize - 1).unwrap_or_default().trim().to_owned(),
        })?;
    }
    if drafts.size() > MOST_REGISTERS as usize {
        let reason = format!("more than {MOST_REGISTERS} registers");
        return Err(PtxError { line: 0, reason, text: kernel.name });
    }
    let draft::Lowered { drafts, constants, classes, opcodes } = drafts.finish(&kernel);
    let live = liveness::of(&drafts, &classes, kernel.registers.len());
    let (code, places) = slots::assign(&drafts, &classes, &constants, &live);
    let parameters: Vec<(u32, u32)> = kernel.parameters.iter().map(|of| (of.offset, of.bytes)).collect();
    Ok(Kernel {
        name: kernel.name,
        code,
        opcodes,
        constants,
        places,
        parameter_bytes: parameters.last().map_or(0, |(offset, bytes)| (offset + bytes) as usize),
        max_threads: kernel.max_threads,
        shared_bytes: kernel.shared_bytes,
        local_bytes: kernel.local_bytes,
        registers: live.most_words,
        parameters,
        unset: live.unset_at(&drafts),
    })
}

/// Returns the instructions that can come after instruction `at`.
fn successors(drafts: &[Draft], at: usize) -> [Option<usize>; 2] {
    let draft = &drafts[at];
    let next = (at + 1 < drafts.len()).then_some(at + 1);
    match (draft.target, draft.returns) {
        (Some(to), _) if draft.guard.is_some() => [Some(to), next],
        (Some(to), _) => [Some(to), None],
        (None, true) if draft.guard.is_none() => [None, None],
        (None, _) => [next, None],
    }
}
