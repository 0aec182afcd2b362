//! Why a module is refused, and why a launch ends before its kernel does.

/// A module that the machine cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {reason}: `{text}`")]
pub struct PtxError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub reason: String,
    /// The line.
    pub text: String,
}

/// A launch that was refused or stopped. What the checkers find is not an error of the launch but a [`crate::Report`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Sizes that no card takes, or that are more than the kernel's bounds.
    #[error("{kernel}: {what} is {got}, at most {most} fit")]
    Size {
        /// The kernel.
        kernel: String,
        /// Which size.
        what: &'static str,
        /// The size asked for.
        got: u64,
        /// The largest size.
        most: u64,
    },
    /// No block or no thread.
    #[error("{kernel}: {what} is 0, a launch has at least one")]
    Empty {
        /// The kernel.
        kernel: String,
        /// Which size.
        what: &'static str,
    },
    /// Parameters of another length than the kernel's.
    #[error("{kernel}: {got} bytes of parameters, the kernel has {want}")]
    Parameters {
        /// The kernel.
        kernel: String,
        /// Bytes given.
        got: usize,
        /// Bytes of the kernel's parameters.
        want: usize,
    },
    /// The kernel runs on and on.
    #[error("{kernel}: stopped after {limit} warp instructions; it seems not to end")]
    Endless {
        /// The kernel.
        kernel: String,
        /// The limit of the launch.
        limit: u64,
        /// What the checkers found until then.
        reports: Vec<crate::Report>,
    },
}
