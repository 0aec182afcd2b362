//! Instructions whose operands have no places in the register files yet.

use super::constants::{Constant, Constants, Special};
use crate::forms::Step;
use crate::parse::{Class, KernelText, Operand, Register};
use crate::warp::{Core, Flow, Op};
use std::collections::HashMap;

/// An instruction whose operands have no places yet.
pub(super) struct Draft {
    pub line: u32,
    pub step: Step,
    pub flow: Flow,
    pub results: Vec<Ref>,
    pub sources: Vec<Ref>,
    pub data: u32,
    pub offset: i64,
    pub guard: Option<(Register, bool)>,
    /// Where a branch goes: the number of a statement, and after [`Drafts::finish`] that of an instruction.
    pub target: Option<usize>,
    pub returns: bool,
    /// The source that holds the mask of the lanes that must run this instruction together.
    pub members: Option<usize>,
    /// See [`Op::is_helper`].
    pub is_helper: bool,
}

/// An operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ref {
    Register(Register),
    Constant(Class, usize),
    /// A result that nobody reads.
    Nowhere(Class),
}

/// Why a statement cannot be lowered.
pub(super) type Reason = String;

/// The instructions of a kernel while it is being lowered.
pub(super) struct Drafts<'a> {
    drafts: Vec<Draft>,
    constants: Constants,
    classes: Vec<Class>,
    variables: &'a HashMap<String, u64>,
    /// The first instruction of each statement.
    starts: Vec<usize>,
    line: u32,
    guard: Option<(Register, bool)>,
}

/// The instructions of a kernel, with all branches resolved.
pub(super) struct Lowered {
    pub drafts: Vec<Draft>,
    pub constants: Constants,
    pub classes: Vec<Class>,
    pub opcodes: Vec<String>,
}

impl<'a> Drafts<'a> {
    pub(super) fn new(kernel: &KernelText, variables: &'a HashMap<String, u64>) -> Drafts<'a> {
        Drafts {
            drafts: Vec::new(),
            constants: Constants::default(),
            classes: kernel.registers.clone(),
            variables,
            starts: Vec::new(),
            line: 0,
            guard: None,
        }
    }

    /// Begins the statement `number`. Statements must be begun in the order of their numbers.
    pub(super) fn begin(&mut self, number: usize) {
        debug_assert_eq!(number, self.starts.len());
        self.starts.push(self.drafts.len());
    }

    /// Sets the line and the guard of the instructions that are added next. Refuses a guard that is no predicate.
    pub(super) fn statement(&mut self, line: u32, guard: Option<(Register, bool)>) -> Result<(), Reason> {
        (self.line, self.guard) = (line, guard);
        match guard {
            Some((register, _)) if self.class(register) != Class::Predicate => {
                Err("the guard is no predicate".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Returns the number of registers and constants, including registers that the text does not have.
    pub(super) fn size(&self) -> usize {
        self.classes.len() + self.constants.words.len() + self.constants.wides.len() + self.constants.predicates.len()
    }

    pub(super) fn class(&self, register: Register) -> Class {
        self.classes[register as usize]
    }

    /// Makes a register that the text does not have.
    pub(super) fn scratch(&mut self, class: Class) -> Register {
        self.classes.push(class);
        self.classes.len() as Register - 1
    }

    /// Adds an instruction that only computes. Returns it, so that the caller can set more fields.
    pub(super) fn push(&mut self, step: Step, results: Vec<Ref>, sources: Vec<Ref>) -> &mut Draft {
        self.drafts.push(Draft {
            line: self.line,
            step,
            flow: Flow::Step,
            results,
            sources,
            data: 0,
            offset: 0,
            guard: self.guard,
            target: None,
            returns: false,
            members: None,
            is_helper: false,
        });
        self.drafts.last_mut().expect("one was pushed")
    }

    /// Adds an instruction of the form table that prepares an operand. Returns the operand, a register that the text does not
    /// have.
    pub(super) fn prepare(&mut self, opcode: &str, class: Class, sources: Vec<Ref>) -> Ref {
        let result = Ref::Register(self.scratch(class));
        self.help(opcode, result, sources);
        result
    }

    /// Adds an instruction of the form table that is a helper of another one.
    pub(super) fn help(&mut self, opcode: &str, result: Ref, sources: Vec<Ref>) {
        let form = crate::forms::form(opcode).expect("it is in the table");
        self.push(form.steps.chosen(), vec![result], sources).is_helper = true;
    }

    pub(super) fn constant(&mut self, class: Class, constant: Constant) -> Ref {
        Ref::Constant(class, self.constants.place(class, constant))
    }

    pub(super) fn bits(&mut self, class: Class, bits: u64) -> Ref {
        self.constant(class, Constant::Bits(bits))
    }

    /// Resolves an operand that is written.
    pub(super) fn result(&self, operand: &Operand, class: Class) -> Result<Ref, Reason> {
        match operand {
            Operand::Nowhere => Ok(Ref::Nowhere(class)),
            Operand::Register(register) if self.class(*register) == class => Ok(Ref::Register(*register)),
            Operand::Register(_) => Err("a result of another width".to_owned()),
            _ => Err("the result is no register".to_owned()),
        }
    }

    /// Resolves an operand that is read.
    pub(super) fn source(&mut self, operand: &Operand, class: Class) -> Result<Ref, Reason> {
        match operand {
            Operand::Register(register) if self.class(*register) == class => Ok(Ref::Register(*register)),
            Operand::Register(_) => Err("an operand of another width".to_owned()),
            Operand::Not(register) if class == Class::Predicate && self.class(*register) == class => {
                // the guard may apply to the negation too: only lanes in which the guard holds read its result
                Ok(self.prepare("not.pred", class, vec![Ref::Register(*register)]))
            }
            Operand::Bits(bits) => {
                Ok(self.bits(class, if class == Class::Word { u64::from(*bits as u32) } else { *bits }))
            }
            Operand::Special(name) if class == Class::Word => {
                let special = Special::parse(name).ok_or_else(|| format!("no special register `%{name}` is known"))?;
                Ok(self.constant(class, Constant::Special(special)))
            }
            Operand::Name { name, .. } if name == "WARP_SZ" => Ok(self.bits(class, 32)),
            Operand::Name { name, .. } => match self.variables.get(name) {
                Some(address) if class == Class::Wide => Ok(self.bits(class, *address)),
                _ => Err(format!("nothing is called `{name}`")),
            },
            _ => Err("an operand that is not understood here".to_owned()),
        }
    }

    /// Resolves an address to an operand of 64 bits and the offset that must be added to it.
    pub(super) fn address(&mut self, operand: &Operand) -> Result<(Ref, i64), Reason> {
        let Operand::Memory { base, offset } = operand else { return Err("an address was expected".to_owned()) };
        let base = match **base {
            Operand::Register(register) if self.class(register) == Class::Word => {
                self.prepare("cvt.u64.u32", Class::Wide, vec![Ref::Register(register)])
            }
            _ => self.source(base, Class::Wide)?,
        };
        Ok((base, *offset))
    }

    /// Ends the kernel, and makes branches go to instructions instead of statements.
    pub(super) fn finish(mut self, kernel: &KernelText) -> Lowered {
        self.starts.push(self.drafts.len());
        let mut opcodes: Vec<String> = Vec::new();
        for (statement, range) in kernel.statements.iter().zip(self.starts.windows(2)) {
            opcodes.extend(std::iter::repeat_n(statement.opcode.clone(), range[1] - range[0]));
        }
        opcodes.push("ret".to_owned());
        self.guard = None;
        // a kernel also returns if its text ends without a `ret`
        let end = self.push(nothing, Vec::new(), Vec::new());
        (end.flow, end.returns) = (Flow::Return, true);
        for draft in &mut self.drafts {
            if let Some(target) = &mut draft.target {
                *target = self.starts[*target];
                draft.flow = Flow::Branch { to: *target as u32 };
            }
        }
        Lowered { drafts: self.drafts, constants: self.constants, classes: self.classes, opcodes }
    }
}

/// The step of an instruction that only decides how the warp goes on.
pub(super) fn nothing(_: &mut Core<'_>, _: &Op, _: u32) {}
