//! Parses PTX text into kernels: statements whose names are resolved to registers, labels, parameters and variables.
//!
//! Covers what NVRTC writes for kernels without calls. Inline assembly may open scopes, whose registers shadow outer ones.

mod lexer;
mod scope;
mod statement;

pub(crate) use scope::dynamic_start;
pub(crate) use statement::{Operand, Statement};

use crate::error::PtxError;
use lexer::{Token, tokens};
use scope::Scopes;
use std::collections::BTreeMap;

/// The kernels of a module, and the variables that are declared outside them.
pub(crate) struct ModuleText {
    pub kernels: Vec<KernelText>,
    /// Variables in global or constant memory, by name.
    pub variables: BTreeMap<String, Variable>,
}

/// A kernel before it is lowered.
pub(crate) struct KernelText {
    pub name: String,
    pub parameters: Vec<Parameter>,
    /// Maximum number of threads of a block, if the kernel sets a bound (`.maxntid`).
    pub max_threads: Option<u32>,
    /// Bytes of shared memory that the kernel declares.
    pub shared_bytes: u32,
    /// Bytes of local memory of a thread.
    pub local_bytes: u32,
    /// The class of every register.
    pub registers: Vec<Class>,
    pub statements: Vec<Statement>,
}

impl KernelText {
    /// Whether a statement names this variable of the module.
    pub(crate) fn names(&self, variable: &str) -> bool {
        let is_it = |operand: &Operand| match operand {
            Operand::Name { name, .. } => name == variable,
            Operand::Memory { base, .. } => matches!(&**base, Operand::Name { name, .. } if name == variable),
            _ => false,
        };
        self.statements.iter().any(|statement| statement.operands.iter().any(is_it))
    }
}

/// A parameter's place in the block of parameters.
pub(crate) struct Parameter {
    pub name: String,
    pub offset: u32,
    pub bytes: u32,
}

/// A variable of a module with its first content.
pub(crate) struct Variable {
    pub align: u64,
    pub bytes: Vec<u8>,
}

/// Which of a warp's register files holds a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// One bit a lane.
    Predicate,
    /// Up to 32 bits a lane.
    Word,
    /// 64 bits a lane.
    Wide,
}

/// A register of a kernel, by its number in [`KernelText::registers`].
pub(crate) type Register = u32;

/// Every size in the text is below this number, and so is the offset in bytes at which a variable or parameter ends.
const MOST_BYTES: u32 = 1 << 30;

/// Maximum number of registers of a kernel, constants included. The numbers of their places have 16 bits.
pub(crate) const MOST_REGISTERS: u32 = 60_000;

/// The address at which a block's shared memory begins. Some cards keep the addresses below it for the system. Here no access to
/// them is valid, so an access at address 0 is reported.
pub(crate) const SHARED_START: u32 = 1024;

/// Parses a module.
///
/// # Errors
/// [`PtxError`] with the line of the first thing that is not understood.
pub(crate) fn parse(text: &str) -> Result<ModuleText, PtxError> {
    let mut parser = Parser { tokens: tokens(text), at: 0, text };
    let mut module = ModuleText { kernels: Vec::new(), variables: BTreeMap::new() };
    let mut dynamic = Vec::new();
    while let Some(token) = parser.peek() {
        match token.text {
            ".version" | ".target" | ".address_size" | ".file" | ".pragma" => parser.skip_line(),
            ".visible" | ".weak" => parser.skip(),
            ".entry" => {
                let kernel = parser.kernel(&dynamic)?;
                module.kernels.push(kernel);
            }
            // shared memory that is sized at the launch
            ".extern" => dynamic.push(parser.dynamic_shared()?),
            ".global" | ".const" => {
                let (name, variable) = parser.variable()?;
                module.variables.insert(name, variable);
            }
            _ => return Err(parser.error("not understood at the level of a module")),
        }
    }
    Ok(module)
}

/// Returns the size in bytes of a type, which is named without its dot. `None` if the type is not known.
pub(crate) fn bytes_of(kind: &str) -> Option<u32> {
    Some(match kind {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    text: &'a str,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn skip(&mut self) {
        self.at += 1;
    }

    fn next(&mut self) -> Result<&'a str, PtxError> {
        let token = self.peek().ok_or_else(|| self.error("the text ends too early"))?;
        self.at += 1;
        Ok(token.text)
    }

    /// Skips the next token if it is `text`. Returns whether it was.
    fn take(&mut self, text: &str) -> bool {
        let is_there = self.peek().is_some_and(|token| token.text == text);
        self.at += usize::from(is_there);
        is_there
    }

    /// Whether the token `places` places after the next one is `text`.
    fn follows(&self, places: usize, text: &str) -> bool {
        self.tokens.get(self.at + places).is_some_and(|token| token.text == text)
    }

    fn expect(&mut self, text: &str) -> Result<(), PtxError> {
        if self.take(text) { Ok(()) } else { Err(self.error(&format!("`{text}` was expected"))) }
    }

    /// Skips the next token and all other tokens on its line.
    fn skip_line(&mut self) {
        let line = self.peek().map(|token| token.line);
        while self.peek().map(|token| token.line) == line && line.is_some() {
            self.at += 1;
        }
    }

    /// Returns an error with the line of the next token, or of the last one if none is left.
    fn error(&self, reason: &str) -> PtxError {
        let line = self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line);
        self.error_on(line, reason)
    }

    fn error_on(&self, line: u32, reason: &str) -> PtxError {
        let text = self.text.lines().nth(line as usize - 1).unwrap_or_default().trim().to_owned();
        PtxError { line, reason: reason.to_owned(), text }
    }

    fn number(&mut self) -> Result<i64, PtxError> {
        let negative = self.take("-");
        let text = self.next()?;
        let value = integer(text).ok_or_else(|| {
            self.at -= 1;
            self.error("a whole number was expected")
        })?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    /// Reads a size, which must be below [`MOST_BYTES`].
    fn size(&mut self) -> Result<u32, PtxError> {
        let size = self.number()?;
        u32::try_from(size).ok().filter(|size| *size < MOST_BYTES).ok_or_else(|| {
            self.at -= 1;
            self.error("a smaller size was expected")
        })
    }

    /// Places `count` elements of `bytes` bytes each behind `end`, aligned to `align`. Returns where they start and where they
    /// end.
    fn laid(&self, end: u32, (align, bytes): (u32, u32), count: u32) -> Result<(u32, u32), PtxError> {
        let start = u64::from(end).next_multiple_of(align.into());
        let end = start + u64::from(bytes) * u64::from(count);
        match u32::try_from(end) {
            Ok(end) if end < MOST_BYTES => Ok((start as u32, end)),
            _ => Err(self.error("variables and parameters of a smaller size were expected")),
        }
    }

    /// Reads any number of `.align N`, `.ptr` and `.type` modifiers. Returns the alignment (by default that of the type) and the
    /// bytes of an element.
    fn layout(&mut self) -> Result<(u32, u32), PtxError> {
        let (mut align, mut bytes) = (None, None);
        while let Some(token) = self.peek().filter(|token| token.text.starts_with('.')) {
            self.skip();
            match token.text {
                ".align" => {
                    let of = self.size()?;
                    if !of.is_power_of_two() {
                        return Err(self.error("an alignment is a power of two"));
                    }
                    align = Some(of);
                }
                // this alignment is of what the pointer points to, not of the pointer
                ".ptr" => {
                    while self
                        .peek()
                        .is_some_and(|token| matches!(token.text, ".global" | ".shared" | ".const" | ".local"))
                    {
                        self.skip();
                    }
                    if self.take(".align") {
                        self.size()?;
                    }
                }
                kind => {
                    bytes = Some(bytes_of(&kind[1..]).ok_or_else(|| {
                        self.at -= 1;
                        self.error("an unknown type")
                    })?);
                }
            }
        }
        let bytes = bytes.ok_or_else(|| self.error("a type was expected"))?;
        Ok((align.unwrap_or(bytes), bytes))
    }

    /// Reads `[n]` after a name. Returns 1 if there are no brackets, and 0 for `[]`.
    fn count(&mut self) -> Result<u32, PtxError> {
        if !self.take("[") {
            return Ok(1);
        }
        if self.take("]") {
            return Ok(0);
        }
        let count = self.size()?;
        self.expect("]")?;
        Ok(count)
    }

    /// `.extern .shared .align 16 .b8 name[];`
    fn dynamic_shared(&mut self) -> Result<String, PtxError> {
        self.expect(".extern")?;
        self.expect(".shared")?;
        self.layout()?;
        let name = self.next()?.to_owned();
        if self.count()? != 0 {
            return Err(self.error("only shared memory without a size may be external"));
        }
        self.expect(";")?;
        Ok(name)
    }

    /// `.global .align 8 .u64 name[2] = {1, 2};`
    fn variable(&mut self) -> Result<(String, Variable), PtxError> {
        self.skip();
        let (align, bytes) = self.layout()?;
        let name = self.next()?.to_owned();
        let count = self.count()?;
        let (_, end) = self.laid(0, (align, bytes), count)?;
        let mut content = vec![0; end as usize];
        if self.take("=") {
            let is_list = self.take("{");
            for element in content.chunks_mut(bytes as usize) {
                let value = self.bits()?.to_le_bytes();
                element.copy_from_slice(&value[..bytes as usize]);
                if !self.take(",") {
                    break;
                }
            }
            if is_list {
                self.expect("}")?;
            }
        }
        self.expect(";")?;
        Ok((name, Variable { align: u64::from(align), bytes: content }))
    }

    /// Reads a number of any kind, as bits.
    fn bits(&mut self) -> Result<u64, PtxError> {
        match self.peek().and_then(|token| float_bits(token.text)) {
            Some(bits) => {
                self.skip();
                Ok(bits)
            }
            None => Ok(self.number()? as u64),
        }
    }

    fn kernel(&mut self, dynamic: &[String]) -> Result<KernelText, PtxError> {
        self.expect(".entry")?;
        let name = self.next()?.to_owned();
        let parameters = self.parameters()?;
        let mut max_threads = None;
        while !self.take("{") {
            match self.peek().map(|token| token.text) {
                Some(".maxntid") => {
                    self.skip();
                    let mut threads = self.size()?;
                    while self.take(",") {
                        threads = threads.saturating_mul(self.size()?);
                    }
                    max_threads = Some(threads);
                }
                Some(".minnctapersm" | ".maxnreg") => self.skip_line(),
                _ => return Err(self.error("not understood before a kernel's body")),
            }
        }
        let mut kernel = KernelText {
            name,
            parameters,
            max_threads,
            shared_bytes: self.static_shared()?,
            local_bytes: 0,
            registers: Vec::new(),
            statements: Vec::new(),
        };
        let mut scopes = Scopes::new(&kernel, dynamic);
        self.body(&mut kernel, &mut scopes)?;
        scopes.resolve_labels(&mut kernel.statements).map_err(|(line, reason)| self.error_on(line, &reason))?;
        Ok(kernel)
    }

    /// `(.param .u64 name, .param .align 8 .b8 name[24])`
    fn parameters(&mut self) -> Result<Vec<Parameter>, PtxError> {
        let (mut parameters, mut end) = (Vec::new(), 0u32);
        if !self.take("(") {
            return Ok(parameters);
        }
        while !self.take(")") {
            self.expect(".param")?;
            let layout = self.layout()?;
            let name = self.next()?.to_owned();
            let count = self.count()?;
            let offset;
            (offset, end) = self.laid(end, layout, count)?;
            parameters.push(Parameter { name, offset, bytes: end - offset });
            self.take(",");
        }
        Ok(parameters)
    }

    /// Returns the bytes of the shared variables in the body that starts here. Leaves the parser at the body's start. The
    /// statements of the body need this number: dynamic shared memory begins behind these variables, and a statement may use it
    /// before they are declared.
    fn static_shared(&mut self) -> Result<u32, PtxError> {
        let (start, mut depth, mut end) = (self.at, 1, 0u32);
        while depth > 0 {
            match self.next()? {
                "{" => depth += 1,
                "}" => depth -= 1,
                ".shared" => {
                    let layout = self.layout()?;
                    self.skip();
                    let count = self.count()?;
                    (_, end) = self.laid(end, layout, count)?;
                }
                _ => {}
            }
        }
        self.at = start;
        Ok(end)
    }

    /// Reads the body of a kernel, up to its closing brace.
    fn body(&mut self, kernel: &mut KernelText, scopes: &mut Scopes) -> Result<(), PtxError> {
        let (mut depth, mut shared_end) = (1, 0);
        while depth > 0 {
            let token = self.peek().ok_or_else(|| self.error("the text ends within a kernel"))?;
            match token.text {
                "{" => {
                    depth += 1;
                    scopes.open();
                    self.skip();
                }
                "}" => {
                    depth -= 1;
                    scopes.close();
                    self.skip();
                }
                ".reg" => self.registers(kernel, scopes)?,
                ".shared" => {
                    self.skip();
                    let layout = self.layout()?;
                    let name = self.next()?.to_owned();
                    let count = self.count()?;
                    let (start, end) = self.laid(shared_end, layout, count)?;
                    shared_end = end;
                    scopes.variable(name, SHARED_START + start);
                    self.expect(";")?;
                }
                ".local" => {
                    self.skip();
                    let layout = self.layout()?;
                    let name = self.next()?.to_owned();
                    let count = self.count()?;
                    let (start, end) = self.laid(kernel.local_bytes, layout, count)?;
                    kernel.local_bytes = end;
                    scopes.variable(name, start);
                    self.expect(";")?;
                }
                ".loc" | ".file" | ".pragma" => self.skip_line(),
                // a label, and not a modifier such as `.L2::128B`
                _ if self.follows(1, ":") && !self.follows(2, ":") => {
                    let place = kernel.statements.len();
                    scopes.label(token.text, place);
                    self.at += 2;
                }
                _ => {
                    let statement = self.statement(scopes)?;
                    kernel.statements.push(statement);
                }
            }
        }
        Ok(())
    }

    /// `.reg .b32 %r<12>;` or `.reg .pred p, q;`
    fn registers(&mut self, kernel: &mut KernelText, scopes: &mut Scopes) -> Result<(), PtxError> {
        self.expect(".reg")?;
        let kind = self.next()?;
        let class = match (kind, bytes_of(&kind[1..])) {
            (".pred", _) => Class::Predicate,
            (_, Some(1 | 2 | 4)) => Class::Word,
            (_, Some(8)) => Class::Wide,
            _ => {
                self.at -= 1;
                return Err(self.error("an unknown type"));
            }
        };
        loop {
            let name = self.next()?.to_owned();
            let names: Vec<String> = if self.take("<") {
                let count = self.size()?;
                self.expect(">")?;
                if kernel.registers.len() as u32 + count > MOST_REGISTERS {
                    return Err(self.error("fewer registers were expected"));
                }
                (0..count).map(|i| format!("{name}{i}")).collect()
            } else {
                vec![name]
            };
            for name in names {
                scopes.register(name, kernel.registers.len() as Register);
                kernel.registers.push(class);
            }
            if !self.take(",") {
                break;
            }
        }
        self.expect(";")
    }
}

/// Reads a whole number: decimal or hexadecimal, with or without a trailing U.
fn integer(text: &str) -> Option<i64> {
    let text = text.strip_suffix('U').unwrap_or(text);
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(|value| value as i64),
        None => text.parse::<u64>().ok().map(|value| value as i64),
    }
}

/// Reads a float such as `0f3F800000` or `0d3FF0000000000000`, as bits.
fn float_bits(text: &str) -> Option<u64> {
    match (text.strip_prefix("0f"), text.strip_prefix("0d")) {
        (Some(digits), _) if digits.len() == 8 => u32::from_str_radix(digits, 16).ok().map(u64::from),
        (_, Some(digits)) if digits.len() == 16 => u64::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}
