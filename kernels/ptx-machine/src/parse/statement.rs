//! One instruction: guard, opcode, operands.

use super::scope::{Chain, Meaning, Scopes};
use super::{Parser, Register, float_bits};
use crate::error::PtxError;

/// An instruction with resolved names.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// Line of the text, from 1.
    pub line: u32,
    /// The predicate that must hold for a lane to run it, and whether the predicate is negated.
    pub guard: Option<(Register, bool)>,
    /// The opcode with its modifiers, e.g. `mul.wide.u32`.
    pub opcode: String,
    pub operands: Vec<Operand>,
}

/// An operand of an instruction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    Register(Register),
    /// `!%p1`
    Not(Register),
    /// `%r1|%p1`
    Pair(Register, Register),
    /// `_`: a result that nobody reads.
    Nowhere,
    /// A number, as bits.
    Bits(u64),
    /// A special register such as `%tid.x`, without the `%`.
    Special(String),
    /// `{%r1, %r2}`
    Vector(Vec<Operand>),
    /// `[base+offset]`
    Memory {
        base: Box<Operand>,
        offset: i64,
    },
    /// An offset in the parameters.
    Parameter(u32),
    /// The number of the statement that a label stands before.
    Label(usize),
    /// A name that is neither a register nor in shared or local memory: a label, or a variable of the module.
    Name {
        name: String,
        chain: Chain,
    },
}

impl Parser<'_> {
    pub(super) fn statement(&mut self, scopes: &Scopes) -> Result<Statement, PtxError> {
        let line = self.peek().map_or(0, |token| token.line);
        let mut guard = None;
        if self.take("@") {
            let negated = self.take("!");
            let name = self.next()?;
            match scopes.meaning(name) {
                Some(Meaning::Register(register)) => guard = Some((register, negated)),
                _ => return Err(self.error_on(line, "the guard is no register")),
            }
        }
        let mut opcode = self.next()?.to_owned();
        // the text after `::`, as in `.L1::no_allocate`, is a separate word
        while self.take(":") {
            self.expect(":")?;
            opcode = format!("{opcode}::{}", self.next()?);
        }
        let mut operands = Vec::new();
        while !self.take(";") {
            operands.push(self.operand(scopes)?);
            if !self.take(",") {
                self.expect(";")?;
                break;
            }
        }
        Ok(Statement { line, guard, opcode, operands })
    }

    fn operand(&mut self, scopes: &Scopes) -> Result<Operand, PtxError> {
        if self.take("{") {
            let mut parts = Vec::new();
            while !self.take("}") {
                parts.push(self.simple(scopes)?);
                self.take(",");
            }
            return Ok(Operand::Vector(parts));
        }
        if self.take("[") {
            let base = Box::new(self.simple(scopes)?);
            let offset = if self.take("+") { self.number()? } else { 0 };
            self.expect("]")?;
            return Ok(Operand::Memory { base, offset });
        }
        if self.take("!") {
            return match self.simple(scopes)? {
                Operand::Register(register) => Ok(Operand::Not(register)),
                _ => Err(self.error("only a register can be negated")),
            };
        }
        match self.simple(scopes)? {
            Operand::Register(register) if self.take("|") => match self.simple(scopes)? {
                Operand::Register(second) => Ok(Operand::Pair(register, second)),
                _ => Err(self.error("a pair is of two registers")),
            },
            simple => Ok(simple),
        }
    }

    /// Reads an operand that contains no other operand.
    fn simple(&mut self, scopes: &Scopes) -> Result<Operand, PtxError> {
        let token = self.peek().ok_or_else(|| self.error("the text ends within an instruction"))?;
        if token.text == "-" || token.text.starts_with(|c: char| c.is_ascii_digit()) {
            return match float_bits(token.text) {
                Some(bits) => {
                    self.skip();
                    Ok(Operand::Bits(bits))
                }
                None => Ok(Operand::Bits(self.number()? as u64)),
            };
        }
        if !token.is_word() {
            return Err(self.error("an operand was expected"));
        }
        self.skip();
        if token.text == "_" {
            return Ok(Operand::Nowhere);
        }
        match scopes.meaning(token.text) {
            Some(Meaning::Register(register)) => Ok(Operand::Register(register)),
            Some(Meaning::Parameter(offset)) => Ok(Operand::Parameter(offset)),
            Some(Meaning::Address(address)) => Ok(Operand::Bits(u64::from(address))),
            None => match token.text.strip_prefix('%') {
                Some(special) => Ok(Operand::Special(special.to_owned())),
                None => Ok(Operand::Name { name: token.text.to_owned(), chain: scopes.chain() }),
            },
        }
    }
}
