//! No unit multiplies bf16 here.

/// See the module for x86-64. The type has no value here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {}

impl Unit {
    /// As for x86-64.
    pub(crate) fn terms_of_f32(self) -> Option<usize> {
        match self {}
    }

    /// As for x86-64.
    #[cfg(test)]
    pub(crate) fn is_emulated(self) -> bool {
        match self {}
    }

    /// As for x86-64.
    pub(crate) fn burst(self) -> f64 {
        match self {}
    }
}
