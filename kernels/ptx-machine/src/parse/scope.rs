//! What names mean at a given place in a kernel.

use super::{KernelText, Operand, Register, SHARED_START, Statement};
use std::collections::HashMap;

/// The names of a kernel. Inner scopes shadow outer ones; labels are visible in the whole scope that they are in.
pub(super) struct Scopes {
    open: Vec<Scope>,
    /// For each scope that was ever opened, its labels and the statements that they stand before. They are kept after a scope
    /// closes, because branches are resolved at the end.
    labels: Vec<HashMap<String, usize>>,
    parameters: HashMap<String, u32>,
}

#[derive(Default)]
struct Scope {
    registers: HashMap<String, Register>,
    /// Addresses of variables in shared or local memory.
    addresses: HashMap<String, u32>,
    /// The index of its labels in [`Scopes::labels`].
    labels: usize,
}

/// The scopes around a statement, inner ones first, by their indices in [`Scopes::labels`].
pub(crate) type Chain = Vec<usize>;

/// What a name stands for.
pub(super) enum Meaning {
    Register(Register),
    /// An offset in the parameters.
    Parameter(u32),
    /// An address in shared or local memory.
    Address(u32),
}

impl Scopes {
    /// Opens the outer scope of a kernel. `dynamic` are names of the shared memory that is sized at the launch.
    pub(super) fn new(kernel: &KernelText, dynamic: &[String]) -> Scopes {
        let parameters = kernel.parameters.iter().map(|of| (of.name.clone(), of.offset)).collect();
        let mut scopes = Scopes { open: Vec::new(), labels: Vec::new(), parameters };
        scopes.open();
        let start = dynamic_start(kernel.shared_bytes);
        for name in dynamic {
            scopes.innermost().addresses.insert(name.clone(), start);
        }
        scopes
    }

    pub(super) fn open(&mut self) {
        self.open.push(Scope { labels: self.labels.len(), ..Scope::default() });
        self.labels.push(HashMap::new());
    }

    pub(super) fn close(&mut self) {
        self.open.pop();
    }

    fn innermost(&mut self) -> &mut Scope {
        self.open.last_mut().expect("a declaration is within the braces of its kernel")
    }

    pub(super) fn register(&mut self, name: String, register: Register) {
        self.innermost().registers.insert(name, register);
    }

    /// Declares a variable in shared or local memory.
    pub(super) fn variable(&mut self, name: String, address: u32) {
        self.innermost().addresses.insert(name, address);
    }

    /// Declares a label before the statement `place`.
    pub(super) fn label(&mut self, name: &str, place: usize) {
        let of = self.innermost().labels;
        self.labels[of].insert(name.to_owned(), place);
    }

    pub(super) fn meaning(&self, name: &str) -> Option<Meaning> {
        for scope in self.open.iter().rev() {
            if let Some(register) = scope.registers.get(name) {
                return Some(Meaning::Register(*register));
            }
            if let Some(address) = scope.addresses.get(name) {
                return Some(Meaning::Address(*address));
            }
        }
        self.parameters.get(name).map(|offset| Meaning::Parameter(*offset))
    }

    pub(super) fn chain(&self) -> Chain {
        self.open.iter().rev().map(|scope| scope.labels).collect()
    }

    /// Replaces names of labels by numbers of statements.
    ///
    /// # Errors
    /// The line and the reason if a branch names a label that does not exist.
    pub(super) fn resolve_labels(&self, statements: &mut [Statement]) -> Result<(), (u32, String)> {
        for statement in statements {
            for operand in &mut statement.operands {
                if let Operand::Name { name, chain } = operand {
                    if let Some(place) = chain.iter().find_map(|of| self.labels[*of].get(name)) {
                        *operand = Operand::Label(*place);
                    } else if statement.opcode.starts_with("bra") {
                        return Err((statement.line, format!("no label `{name}`")));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the address of the shared memory that is sized at the launch: behind `declared` bytes, aligned to 16.
pub(crate) fn dynamic_start(declared: u32) -> u32 {
    SHARED_START + declared.next_multiple_of(16)
}
