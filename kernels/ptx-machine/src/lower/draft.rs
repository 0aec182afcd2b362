//! Instructions before their operands have places.

use super::constants::{Constant, Constants, Special};
use crate::forms::Step;
use crate::parse::{Class, KernelText, Operand, Register};
use crate::warp::{Core, Flow, Op};
use std::collections::HashMap;

/// An instruction whose operands are not yet places.
pub(super) struct Draft {
    pub line: u32,
    pub step: Step,
    pub flow: Flow,
    pub results: Vec<Ref>,
    pub sources: Vec<Ref>,
    pub data: u32,
    pub offset: i64,
    pub guard: Option<(Register, bool)>,
    /// Where a branch goes: a statement first, an instruction when all are lowered.
    pub target: Option<usize>,
    pub returns: bool,
    /// Which source names the lanes that must be together.
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

/// What a statement must be for its operand to be understood.
pub(super) type Reason = String;

/// The instructions of a kernel, as they are lowered.
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

    /// Begins a statement.
    pub(super) fn begin(&mut self, number: usize) {
        debug_assert_eq!(number, self.starts.len());
        self.starts.push(self.drafts.len());
    }

    /// Sets what the instructions of the statement have in common.
    pub(super) fn statement(&mut self, line: u32, guard: Option<(Register, bool)>) -> Result<(), Reason> {
        (self.line, self.guard) = (line, guard);
        match guard {
            Some((register, _)) if self.class(register) != Class::Predicate => {
                Err("the guard is no predicate".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// How many registers there are, with those that the text does not have, and constants.
    pub(super) fn size(&self) -> usize {
        self.classes.len() + self.constants.words.len() + self.constants.wides.len() + self.constants.predicates.len()
    }

    pub(super) fn class(&self, register: Register) -> Class {
        self.classes[register as usize]
    }

    /// A register that the text does not have.
    pub(super) fn scratch(&mut self, class: Class) -> Register {
        self.classes.push(class);
        self.classes.len() as Register - 1
    }

    /// Adds an instruction that only computes; returns it for what else it needs.
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

    /// Adds an instruction of the form table that prepares an operand in a register of its own.
    pub(super) fn prepare(&mut self, opcode: &str, class: Class, sources: Vec<Ref>) -> Ref {
        let result = Ref::Register(self.scratch(class));
        self.help(opcode, result, sources);
        result
    }

    /// Adds an instruction of the form table that belongs to another one.
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

    /// A register that is written.
    pub(super) fn result(&self, operand: &Operand, class: Class) -> Result<Ref, Reason> {
        match operand {
            Operand::Nowhere => Ok(Ref::Nowhere(class)),
            Operand::Register(register) if self.class(*register) == class => Ok(Ref::Register(*register)),
            Operand::Register(_) => Err("a result of another width".to_owned()),
            _ => Err("the result is no register".to_owned()),
        }
    }

    /// An operand that is read.
    pub(super) fn source(&mut self, operand: &Operand, class: Class) -> Result<Ref, Reason> {
        match operand {
            Operand::Register(register) if self.class(*register) == class => Ok(Ref::Register(*register)),
            Operand::Register(_) => Err("an operand of another width".to_owned()),
            Operand::Not(register) if class == Class::Predicate && self.class(*register) == class => {
                // under the guard or not: only lanes that are on read it
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

    /// An address: always of 64 bits, with what is to be added to it.
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

    /// Ends the kernel, and puts instructions in place of the statements that branches go to.
    pub(super) fn finish(mut self, kernel: &KernelText) -> Lowered {
        self.starts.push(self.drafts.len());
        let mut opcodes: Vec<String> = Vec::new();
        for (statement, range) in kernel.statements.iter().zip(self.starts.windows(2)) {
            opcodes.extend(std::iter::repeat_n(statement.opcode.clone(), range[1] - range[0]));
        }
        opcodes.push("ret".to_owned());
        self.guard = None;
        // a kernel whose text ends without it returns, too
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

/// The step of an instruction whose flow is all that it does.
pub(super) fn nothing(_: &mut Core<'_>, _: &Op, _: u32) {}
