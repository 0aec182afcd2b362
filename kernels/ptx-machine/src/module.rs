//! Loading PTX text into a module: its kernels, and its variables in device memory.

use crate::error::PtxError;
use crate::lower::{Kernel, lower};
use crate::memory::{Memory, MemoryError};
use crate::parse::{Variable, parse};
use std::collections::{BTreeMap, HashMap};

/// The kernels of a PTX text, ready to be launched.
#[derive(Debug)]
pub struct Module {
    kernels: Vec<Kernel>,
    /// Addresses of the module's variables in device memory.
    variables: Vec<u64>,
}

/// Why a module could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The text has something that the machine does not know. The machine then loads no kernel at all.
    #[error(transparent)]
    Ptx(#[from] PtxError),
    /// The module's variables do not fit into the memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Module {
    /// Loads a module from PTX text. Variables that its kernels name are allocated in `memory` until [`Module::unload`].
    ///
    /// # Errors
    /// [`LoadError::Ptx`] for text that the machine does not know, [`LoadError::Memory`] if the variables do not fit.
    pub fn load(text: &str, memory: &Memory) -> Result<Module, LoadError> {
        let mut module = parse(text)?;
        let texts = std::mem::take(&mut module.kernels);
        // every module that NVRTC writes declares about forty variables that no kernel names
        module.variables.retain(|name, _| texts.iter().any(|kernel| kernel.names(name)));
        let mut loaded = Module { kernels: Vec::new(), variables: Vec::new() };
        let kernels = loaded.place(&module.variables, memory).and_then(|addresses| {
            let kernels = texts.into_iter().map(|kernel| lower(kernel, &addresses, text));
            Ok(kernels.collect::<Result<Vec<_>, _>>()?)
        });
        match kernels {
            Ok(kernels) => Ok(Module { kernels, ..loaded }),
            Err(error) => {
                loaded.unload(memory);
                Err(error)
            }
        }
    }

    /// Allocates variables and writes their first content. Returns their addresses by name.
    fn place(
        &mut self,
        variables: &BTreeMap<String, Variable>,
        memory: &Memory,
    ) -> Result<HashMap<String, u64>, LoadError> {
        let mut addresses = HashMap::new();
        for (name, variable) in variables {
            let address = memory.allocate(variable.bytes.len() as u64)?;
            self.variables.push(address);
            debug_assert_eq!(address % variable.align, 0, "allocations are aligned to more than any variable");
            memory.write(address, &variable.bytes)?;
            addresses.insert(name.clone(), address);
        }
        Ok(addresses)
    }

    /// Frees the module's variables. `memory` must be the memory that it was loaded with.
    pub fn unload(&self, memory: &Memory) {
        for address in &self.variables {
            // an error means that the module was unloaded before
            let _ = memory.free(*address);
        }
    }

    /// The module's kernels, in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// Returns the kernel called `name`, or `None` if the module has none.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name() == name)
    }
}
