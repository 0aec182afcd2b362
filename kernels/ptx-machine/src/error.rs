//! Why a module is refused, and why a launch ends before its kernel does.

/// A module that the machine cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {reason}: `{text}`")]
pub struct PtxError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub reason: String,
    /// The text of the line.
    pub text: String,
}

/// A launch that was refused or stopped. What the checkers find is not such an error, but a [`crate::Report`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A size that no card supports, or that is above the kernel's bound.
    #[error("{kernel}: {what} is {got}, at most {most} fit")]
    Size {
        /// The kernel.
        kernel: String,
        /// Name of the size, e.g. "the number of threads".
        what: &'static str,
        /// The size asked for.
        got: u64,
        /// The largest size.
        most: u64,
    },
    /// The launch has no block or no thread.
    #[error("{kernel}: {what} is 0, a launch has at least one")]
    Empty {
        /// The kernel.
        kernel: String,
        /// Name of the size, e.g. "the number of threads".
        what: &'static str,
    },
    /// The length of the parameters is not that of the kernel's parameters.
    #[error("{kernel}: {got} bytes of parameters, the kernel has {want}")]
    Parameters {
        /// The kernel.
        kernel: String,
        /// Bytes given.
        got: usize,
        /// Bytes of the kernel's parameters.
        want: usize,
    },
    /// The kernel did not end within the limit.
    #[error("{kernel}: stopped after {limit} warp instructions; it seems not to end")]
    Endless {
        /// The kernel.
        kernel: String,
        /// The limit of the launch, in warp instructions.
        limit: u64,
        /// What the checkers found until then.
        reports: Vec<crate::Report>,
    },
}
