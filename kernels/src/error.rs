//! What can go wrong in a kernel call.

use crate::formats::FloatDtype;

/// A kernel call that was refused or could not get its memory.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum KernelError {
    /// A slice whose length differs from what the sizes of the call imply: a defect of the caller.
    #[error("{kernel}: `{argument}` holds {got} elements, the sizes of the call imply {want}")]
    Shape { kernel: &'static str, argument: &'static str, got: usize, want: usize },
    /// A size that the kernel cannot work with.
    #[error("{kernel}: {argument} = {got}, expected {want}")]
    Size { kernel: &'static str, argument: &'static str, got: usize, want: &'static str },
    /// An operand whose number format differs from what the call needs: a defect of the caller.
    #[error("{kernel}: `{argument}` is {got:?}, expected {want:?}")]
    Format { kernel: &'static str, argument: &'static str, got: FloatDtype, want: FloatDtype },
    /// A token id at or above the number of rows of the table it indexes.
    #[error("{kernel}: token id {id} at row {row} is not below the vocabulary's {vocab_size}")]
    TokenId { kernel: &'static str, row: usize, id: u32, vocab_size: usize },
    /// A row index at or above the number of rows.
    #[error("{kernel}: row index {index} at place {place} is not below {rows}")]
    RowIndex { kernel: &'static str, place: usize, index: u32, rows: usize },
    /// The memory could not be allocated.
    #[error("out of memory: `{name}` needs {bytes} bytes and {in_use} are in use on {device}")]
    OutOfMemory { name: &'static str, bytes: usize, in_use: usize, device: &'static str },
    /// The GPU that was asked for cannot be used.
    #[error("no GPU to use: {reason}")]
    NoDevice { reason: String },
    /// The driver refused a call, or something that ran before it went wrong.
    #[error("the GPU or its driver failed in {call}: {reason}")]
    Driver { call: &'static str, reason: String },
    /// The pool of threads could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads { threads: usize, reason: String },
    /// `ALIGN_CPU` names an instruction set that this machine or this build does not have.
    #[error("ALIGN_CPU={wanted}: this machine has no such instruction set; give one of {available}, or unset it")]
    InstructionSet { wanted: String, available: String },
}

/// The result of a kernel call.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// Refuses a slice of the wrong length.
pub(crate) fn check_len(kernel: &'static str, argument: &'static str, got: usize, want: usize) -> Result<()> {
    if got == want { Ok(()) } else { Err(KernelError::Shape { kernel, argument, got, want }) }
}

/// Refuses a slice that is not as long as the product of its sizes. A product beyond `usize` saturates, and no slice is that
/// long.
pub(crate) fn check_shape<const N: usize>(
    kernel: &'static str,
    argument: &'static str,
    got: usize,
    sizes: [usize; N],
) -> Result<()> {
    check_len(kernel, argument, got, sizes.into_iter().fold(1, usize::saturating_mul))
}

/// Refuses the size `got` if `ok` is false. `want` says what the size must be.
pub(crate) fn check_size(
    kernel: &'static str,
    argument: &'static str,
    got: usize,
    ok: bool,
    want: &'static str,
) -> Result<()> {
    if ok { Ok(()) } else { Err(KernelError::Size { kernel, argument, got, want }) }
}

/// Refuses an operand whose number format is not `want`.
pub(crate) fn check_dtype(
    kernel: &'static str,
    argument: &'static str,
    got: FloatDtype,
    want: FloatDtype,
) -> Result<()> {
    if got == want { Ok(()) } else { Err(KernelError::Format { kernel, argument, got, want }) }
}
