//! Lowers loads, stores, copies and atomic changes.

use super::draft::{Drafts, Reason, Ref};
use super::statement::{parameter, unknown, vector};
use crate::forms::{self, Step};
use crate::memory::{self, Elements};
use crate::parse::{Class, Operand, bytes_of};

/// The spaces that an instruction can access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    Global,
    Shared,
    Local,
}

pub(super) fn lower(drafts: &mut Drafts<'_>, opcode: &str, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    match parts[0] {
        "ld" if parts.get(1) == Some(&"param") => load_parameter(drafts, opcode, &parts[2..], operands),
        "ld" => load(drafts, opcode, &parts[1..], operands),
        "st" => store(drafts, opcode, &parts[1..], operands),
        "cp" => copy(drafts, opcode, operands),
        _ => atomic(drafts, opcode, parts, operands),
    }
}

/// Parses `.space{.nc}{.vN}.type`, the rest of the opcode of a load or store.
fn access(opcode: &str, parts: &[&str]) -> Result<(Space, Elements, Class), Reason> {
    let mut parts = parts.to_vec();
    // how caches treat the access does not matter here
    parts.retain(|part| !matches!(*part, "nc" | "volatile" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt"));
    let space = match parts.first() {
        // constant memory is device memory that kernels do not write
        Some(&"global" | &"const") => Space::Global,
        Some(&"shared") => Space::Shared,
        Some(&"local") => Space::Local,
        _ => return Err(unknown(opcode)),
    };
    parts.remove(0);
    let (elements, class) = elements(&parts).ok_or_else(|| unknown(opcode))?;
    Ok((space, elements, class))
}

/// Parses `{.vN}.type`. Returns the elements, and the class of registers that hold them.
fn elements(parts: &[&str]) -> Option<(Elements, Class)> {
    let (count, kind) = match parts {
        [kind] => (1, *kind),
        ["v2", kind] => (2, *kind),
        ["v4", kind] => (4, *kind),
        _ => return None,
    };
    let bytes = bytes_of(kind)?;
    let class = if bytes == 8 { Class::Wide } else { Class::Word };
    (bytes * count <= 16).then(|| (Elements { bytes, count, is_signed: kind.starts_with('s') && bytes < 8 }, class))
}

fn load(drafts: &mut Drafts<'_>, opcode: &str, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    let (space, elements, class) = access(opcode, parts)?;
    let [results, address] = operands else { return Err("two operands were expected".to_owned()) };
    let wider = vector(results);
    let results = wider.iter().map(|of| narrow_result(drafts, of, class)).collect::<Result<Vec<_>, _>>()?;
    if results.len() != elements.count as usize {
        return Err("another number of results was expected".to_owned());
    }
    let (address, offset) = drafts.address(address)?;
    let step: Step = match space {
        Space::Global => memory::load_global,
        Space::Shared => memory::load_shared,
        Space::Local => memory::load_local,
    };
    let draft = drafts.push(step, results.clone(), vec![address]);
    (draft.data, draft.offset) = (elements.data(), offset);
    for (operand, narrow) in wider.iter().zip(results) {
        widen(drafts, operand, narrow, elements);
    }
    Ok(())
}

/// Converts a loaded number from a register of 32 bits to the register of 64 bits that the text names, if it names one.
fn widen(drafts: &mut Drafts<'_>, operand: &Operand, narrow: Ref, elements: Elements) {
    if let Operand::Register(register) = operand
        && elements.bytes < 8
        && drafts.class(*register) == Class::Wide
    {
        let opcode = if elements.is_signed { "cvt.s64.s32" } else { "cvt.u64.u32" };
        drafts.help(opcode, Ref::Register(*register), vec![narrow]);
    }
}

/// Returns the register that a load writes. If the text names a register of 64 bits for a smaller number, this is a new register
/// of 32 bits, whose value `widen` converts.
fn narrow_result(drafts: &mut Drafts<'_>, operand: &Operand, class: Class) -> Result<Ref, Reason> {
    match operand {
        Operand::Register(register) if class == Class::Word && drafts.class(*register) == Class::Wide => {
            Ok(Ref::Register(drafts.scratch(Class::Word)))
        }
        operand => drafts.result(operand, class),
    }
}

/// Returns the operand that a store reads. If it stores less than 64 bits of a register of 64 bits, this is the lower half.
fn narrow_source(drafts: &mut Drafts<'_>, operand: &Operand, class: Class) -> Result<Ref, Reason> {
    match operand {
        Operand::Register(register) if class == Class::Word && drafts.class(*register) == Class::Wide => {
            Ok(drafts.prepare("cvt.u32.u64", Class::Word, vec![Ref::Register(*register)]))
        }
        operand => drafts.source(operand, class),
    }
}

fn store(drafts: &mut Drafts<'_>, opcode: &str, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    let (space, elements, class) = access(opcode, parts)?;
    let [address, values] = operands else { return Err("two operands were expected".to_owned()) };
    let (address, offset) = drafts.address(address)?;
    let mut sources = vec![address];
    for value in vector(values) {
        sources.push(narrow_source(drafts, &value, class)?);
    }
    if sources.len() != 1 + elements.count as usize {
        return Err("another number of operands was expected".to_owned());
    }
    let step: Step = match space {
        Space::Global => memory::store_global,
        Space::Shared => memory::store_shared,
        Space::Local => memory::store_local,
    };
    let draft = drafts.push(step, Vec::new(), sources);
    (draft.data, draft.offset) = (elements.data(), offset);
    Ok(())
}

/// Lowers a load from the parameters, which is a move from a constant.
fn load_parameter(drafts: &mut Drafts<'_>, opcode: &str, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    let (elements, class) = elements(parts).ok_or_else(|| unknown(opcode))?;
    let [results, Operand::Memory { base, offset }] = operands else {
        return Err("a register and an address were expected".to_owned());
    };
    let Operand::Parameter(start) = **base else {
        return Err("only parameters at a place that the text names can be read".to_owned());
    };
    let moved = forms::form(if class == Class::Wide { "mov.u64" } else { "mov.u32" }).expect("it is in the table");
    let results = vector(results);
    if results.len() != elements.count as usize {
        return Err("another number of results was expected".to_owned());
    }
    for (i, operand) in results.iter().enumerate() {
        let at = i64::from(start) + offset + i64::from(elements.bytes) * i as i64;
        let at = u32::try_from(at).map_err(|_| "a place before the parameters".to_owned())?;
        let source = parameter(drafts, class, at, elements.bytes, elements.is_signed);
        let result = narrow_result(drafts, operand, class)?;
        drafts.push(moved.steps.chosen(), vec![result], vec![source]);
        widen(drafts, operand, result, elements);
    }
    Ok(())
}

fn copy(drafts: &mut Drafts<'_>, opcode: &str, operands: &[Operand]) -> Result<(), Reason> {
    match opcode {
        "cp.async.commit_group" => {
            drafts.push(memory::commit, Vec::new(), Vec::new());
            return Ok(());
        }
        "cp.async.wait_all" => {
            drafts.push(memory::wait_all, Vec::new(), Vec::new());
            return Ok(());
        }
        "cp.async.wait_group" => {
            let [Operand::Bits(groups)] = operands else { return Err("a number was expected".to_owned()) };
            drafts.push(memory::wait_group, Vec::new(), Vec::new()).data = *groups as u32;
            return Ok(());
        }
        "cp.async.ca.shared.global" | "cp.async.cg.shared.global" | "cp.async.cg.shared.global.L2::128B" => {}
        _ => return Err(unknown(opcode)),
    }
    let (to, from, Operand::Bits(bytes)) = (match operands {
        [to, from, bytes] | [to, from, bytes, _] => (to, from, bytes),
        _ => return Err("three or four operands were expected".to_owned()),
    }) else {
        return Err("the bytes of a copy are a number".to_owned());
    };
    if !matches!(bytes, 4 | 8 | 16) || opcode.contains(".cg.") && *bytes != 16 {
        return Err(format!("a copy of {bytes} bytes does not exist"));
    }
    let read = match operands.get(3) {
        Some(read) => drafts.source(read, Class::Word)?,
        None => drafts.bits(Class::Word, *bytes),
    };
    let (to, offset) = drafts.address(to)?;
    let (from, from_offset) = drafts.address(from)?;
    let from = sum(drafts, from, from_offset);
    let draft = drafts.push(memory::copy_async, Vec::new(), vec![to, from, read]);
    (draft.data, draft.offset) = (*bytes as u32, offset);
    Ok(())
}

/// Returns an address with its offset added.
fn sum(drafts: &mut Drafts<'_>, base: Ref, offset: i64) -> Ref {
    if offset == 0 {
        return base;
    }
    let offset = drafts.bits(Class::Wide, offset as u64);
    drafts.prepare("add.s64", Class::Wide, vec![base, offset])
}

/// `atom.SPACE.OP.TYPE d, [a], b{, c}` and `red.SPACE.OP.TYPE [a], b`
fn atomic(drafts: &mut Drafts<'_>, opcode: &str, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    let [_, space, .., operation, kind] = parts else { return Err(unknown(opcode)) };
    let (change, bytes) = memory::atomic_form(operation, kind).ok_or_else(|| unknown(opcode))?;
    let step: Step = match *space {
        "global" => memory::change_global,
        "shared" => memory::change_shared,
        _ => return Err(unknown(opcode)),
    };
    let class = if bytes == 8 { Class::Wide } else { Class::Word };
    let (result, operands) = match parts[0] {
        "atom" => {
            let (result, rest) = operands.split_first().ok_or("operands were expected")?;
            (drafts.result(result, class)?, rest)
        }
        _ => (Ref::Nowhere(class), operands),
    };
    let (address, numbers) = operands.split_first().ok_or("an address was expected")?;
    if numbers.len() != if *operation == "cas" { 2 } else { 1 } {
        return Err("another number of operands was expected".to_owned());
    }
    let (address, offset) = drafts.address(address)?;
    let mut sources = vec![address];
    for number in numbers {
        sources.push(drafts.source(number, class)?);
    }
    if sources.len() == 2 {
        sources.push(drafts.bits(class, 0));
    }
    let draft = drafts.push(step, vec![result], sources);
    (draft.data, draft.offset) = (memory::atomic_data(change, bytes), offset);
    Ok(())
}
