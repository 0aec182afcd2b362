//! For architectures without a unit that multiplies bf16.

/// Stands for the type of the same name on x86-64. Here it has no value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {}

impl Unit {
    /// Never called, because the type has no value.
    pub(crate) fn terms_of_f32(self) -> Option<usize> {
        match self {}
    }

    /// Never called, because the type has no value.
    #[cfg(test)]
    pub(crate) fn is_emulated(self) -> bool {
        match self {}
    }

    /// Never called, because the type has no value.
    pub(crate) fn burst(self) -> f64 {
        match self {}
    }
}
