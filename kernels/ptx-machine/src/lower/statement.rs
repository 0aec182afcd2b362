//! Lowers a statement, by its opcode.

use super::constants::Constant;
use super::draft::{Draft, Drafts, Reason, Ref, nothing};
use super::memory;
use crate::forms::{self, compare};
use crate::parse::{Class, Operand, Register, Statement};
use crate::warp::{self, Barrier, Flow};

/// Lowers a statement.
///
/// # Errors
/// The reason, for an opcode or operands that the machine does not know.
pub(super) fn lower(drafts: &mut Drafts<'_>, statement: &Statement) -> Result<(), Reason> {
    drafts.statement(statement.line, statement.guard)?;
    let parts: Vec<&str> = statement.opcode.split('.').collect();
    match parts[0] {
        "bra" => branch(drafts, &statement.operands),
        "ret" | "exit" => {
            let draft = drafts.push(nothing, Vec::new(), Vec::new());
            (draft.flow, draft.returns) = (Flow::Return, true);
            Ok(())
        }
        "bar" | "barrier" if parts.get(1) == Some(&"warp") => {
            let [members] = expect::<1>(&statement.operands)?;
            together(drafts, warp::sync_warp, &[], &[], members).map(drop)
        }
        "bar" | "barrier" => barrier(drafts, &parts, &statement.operands),
        // nothing to do: the machine runs one access after the other
        "membar" | "fence" => Ok(()),
        "ld" | "st" | "cp" | "atom" | "red" => memory::lower(drafts, &statement.opcode, &parts, &statement.operands),
        "shfl" => shuffle(drafts, &parts, &statement.operands),
        "vote" => vote(drafts, &parts, &statement.operands),
        "activemask" => {
            let [result] = expect::<1>(&statement.operands)?;
            let result = drafts.result(result, Class::Word)?;
            drafts.push(active_mask, vec![result], Vec::new());
            Ok(())
        }
        "ldmatrix" => load_matrix(drafts, &statement.opcode, &statement.operands),
        "mma" => multiply(drafts, &statement.opcode, &statement.operands),
        "setp" => comparison(drafts, &parts, &statement.operands),
        "mov" if statement.operands.iter().any(|operand| matches!(operand, Operand::Vector(_))) => {
            let kind = parts.get(1).ok_or_else(|| unknown(&statement.opcode))?;
            move_halves(drafts, kind, &statement.operands)
        }
        _ => computation(drafts, &statement.opcode, &statement.operands),
    }
}

pub(super) fn unknown(opcode: &str) -> Reason {
    format!("the instruction `{opcode}` is not known")
}

/// Returns the operands as an array of `N`. Fails if there are more or fewer.
fn expect<const N: usize>(operands: &[Operand]) -> Result<&[Operand; N], Reason> {
    operands.try_into().map_err(|_| format!("{N} operands were expected, there are {}", operands.len()))
}

/// Resolves the two results of `%r1|%p1`.
fn pair(drafts: &Drafts<'_>, registers: [Register; 2], classes: [Class; 2]) -> Result<Vec<Ref>, Reason> {
    let each = registers.into_iter().zip(classes);
    each.map(|(register, class)| drafts.result(&Operand::Register(register), class)).collect()
}

/// Returns the operands in braces, or the operand itself if it has no braces.
pub(super) fn vector(operand: &Operand) -> Vec<Operand> {
    match operand {
        Operand::Vector(parts) => parts.clone(),
        one => vec![one.clone()],
    }
}

fn branch(drafts: &mut Drafts<'_>, operands: &[Operand]) -> Result<(), Reason> {
    let [Operand::Label(target)] = operands else { return Err("a label was expected".to_owned()) };
    drafts.push(nothing, Vec::new(), Vec::new()).target = Some(*target);
    Ok(())
}

/// Lowers an instruction of the form table.
fn computation(drafts: &mut Drafts<'_>, opcode: &str, operands: &[Operand]) -> Result<(), Reason> {
    let form = forms::form(opcode).ok_or_else(|| unknown(opcode))?;
    let (n_results, n_sources) = (form.results.len(), form.sources.len());
    if operands.len() != n_results + n_sources {
        return Err(format!("{} operands were expected, there are {}", n_results + n_sources, operands.len()));
    }
    let (results, sources) = operands.split_at(n_results);
    let results =
        results.iter().zip(form.results).map(|(of, class)| drafts.result(of, *class)).collect::<Result<_, _>>()?;
    let sources =
        sources.iter().zip(form.sources).map(|(of, class)| drafts.source(of, *class)).collect::<Result<_, _>>()?;
    drafts.push(form.steps.chosen(), results, sources);
    Ok(())
}

/// `setp.CMP{.BOOL}.TYPE p{|q}, a, b{, c}`
fn comparison(drafts: &mut Drafts<'_>, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    let (joined, kind) = match parts {
        [_, _, kind] => (compare::AND, *kind),
        [_, _, "and", kind] => (compare::AND, *kind),
        [_, _, "or", kind] => (compare::OR, *kind),
        [_, _, "xor", kind] => (compare::XOR, *kind),
        _ => return Err(unknown(&parts.join("."))),
    };
    let opcode = format!("setp.{}.{kind}", parts[1]);
    let form = forms::form(&opcode).ok_or_else(|| unknown(&parts.join(".")))?;
    let (result, sources) = operands.split_first().ok_or("operands were expected")?;
    let results = match result {
        Operand::Pair(p, q) => pair(drafts, [*p, *q], [Class::Predicate; 2])?,
        one => vec![drafts.result(one, Class::Predicate)?, Ref::Nowhere(Class::Predicate)],
    };
    let has_third = parts.len() == 4;
    if sources.len() != if has_third { 3 } else { 2 } {
        return Err("another number of operands was expected".to_owned());
    }
    let mut taken = Vec::new();
    for (operand, class) in sources.iter().zip(form.sources) {
        taken.push(drafts.source(operand, *class)?);
    }
    if !has_third {
        taken.push(drafts.bits(Class::Predicate, 1));
    }
    drafts.push(form.steps.chosen(), results, taken).data = joined;
    Ok(())
}

/// `mov.b64 {lo, hi}, a` and `mov.b64 d, {lo, hi}`
fn move_halves(drafts: &mut Drafts<'_>, kind: &str, operands: &[Operand]) -> Result<(), Reason> {
    match expect::<2>(operands)? {
        [Operand::Vector(parts), from] => {
            let [low, high] = expect::<2>(parts)?;
            for (half, result) in [("lo", low), ("hi", high)] {
                if *result != Operand::Nowhere {
                    computation(drafts, &format!("unpack.{half}.{kind}"), &[result.clone(), from.clone()])?;
                }
            }
            Ok(())
        }
        [to, Operand::Vector(parts)] => {
            let [low, high] = expect::<2>(parts)?;
            computation(drafts, &format!("pack.{kind}"), &[to.clone(), low.clone(), high.clone()])
        }
        _ => Err("one vector was expected".to_owned()),
    }
}

/// `bar.sync id{, threads}`, `bar.arrive id, threads`, `bar.red.popc.u32 d, id{, threads}, p` and the other reductions
fn barrier(drafts: &mut Drafts<'_>, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| *part != "aligned" && *part != "cta").collect();
    let (kind, n_results) = match parts.as_slice() {
        [_, "sync"] => (Barrier::Wait, 0),
        [_, "arrive"] => (Barrier::Arrive, 0),
        [_, "red", "popc", "u32"] => (Barrier::Count, 1),
        [_, "red", "and", "pred"] => (Barrier::All, 1),
        [_, "red", "or", "pred"] => (Barrier::Any, 1),
        _ => return Err(unknown(&parts.join("."))),
    };
    let result = match kind {
        Barrier::Wait | Barrier::Arrive => Ref::Nowhere(Class::Predicate),
        Barrier::Count => drafts.result(operands.first().ok_or("operands were expected")?, Class::Word)?,
        Barrier::All | Barrier::Any => {
            drafts.result(operands.first().ok_or("operands were expected")?, Class::Predicate)?
        }
    };
    let mut rest = operands[n_results..].to_vec();
    let holds = match kind {
        Barrier::Wait | Barrier::Arrive => drafts.bits(Class::Predicate, 1),
        _ => {
            let holds = rest.pop().ok_or("a predicate was expected")?;
            drafts.source(&holds, Class::Predicate)?
        }
    };
    let id = drafts.source(rest.first().ok_or("a barrier was expected")?, Class::Word)?;
    let threads = match rest.get(1) {
        Some(threads) => drafts.source(threads, Class::Word)?,
        None => drafts.bits(Class::Word, 0),
    };
    drafts.push(nothing, vec![result], vec![id, threads, holds]).flow = Flow::Barrier(kind);
    Ok(())
}

/// Adds an instruction that all lanes in the mask `members` run together. The mask becomes the last source.
fn together<'d>(
    drafts: &'d mut Drafts<'_>,
    step: forms::Step,
    results: &[Ref],
    sources: &[Ref],
    members: &Operand,
) -> Result<&'d mut Draft, Reason> {
    let members = drafts.source(members, Class::Word)?;
    let sources: Vec<Ref> = sources.iter().copied().chain([members]).collect();
    let last = sources.len() - 1;
    let draft = drafts.push(step, results.to_vec(), sources);
    draft.members = Some(last);
    Ok(draft)
}

/// Every lane of a warp.
const ALL: Operand = Operand::Bits(u32::MAX as u64);

fn shuffle(drafts: &mut Drafts<'_>, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    let [_, "sync", mode, "b32"] = parts else { return Err(unknown(&parts.join("."))) };
    let mode = warp::Shuffle::parse(mode).ok_or_else(|| unknown(&parts.join(".")))?;
    let [result, a, b, c, members] = expect::<5>(operands)?;
    let results = match result {
        Operand::Pair(d, p) => pair(drafts, [*d, *p], [Class::Word, Class::Predicate])?,
        one => vec![drafts.result(one, Class::Word)?, Ref::Nowhere(Class::Predicate)],
    };
    let sources = [a, b, c].map(|of| drafts.source(of, Class::Word));
    let sources = sources.into_iter().collect::<Result<Vec<_>, _>>()?;
    together(drafts, warp::shuffle, &results, &sources, members)?.data = mode as u32;
    Ok(())
}

fn vote(drafts: &mut Drafts<'_>, parts: &[&str], operands: &[Operand]) -> Result<(), Reason> {
    let (step, class): (forms::Step, Class) = match parts {
        [_, "sync", "all", "pred"] => (warp::vote_all, Class::Predicate),
        [_, "sync", "any", "pred"] => (warp::vote_any, Class::Predicate),
        [_, "sync", "ballot", "b32"] => (warp::ballot, Class::Word),
        _ => return Err(unknown(&parts.join("."))),
    };
    let [result, a, members] = expect::<3>(operands)?;
    let (result, a) = (drafts.result(result, class)?, drafts.source(a, Class::Predicate)?);
    together(drafts, step, &[result], &[a], members)?;
    Ok(())
}

fn active_mask(core: &mut warp::Core<'_>, op: &warp::Op, lanes: u32) {
    core.registers.write(op.slots[0], &[lanes; warp::LANES], lanes);
}

fn load_matrix(drafts: &mut Drafts<'_>, opcode: &str, operands: &[Operand]) -> Result<(), Reason> {
    let (count, is_transposed) = match opcode {
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16" => (1, false),
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16" => (2, false),
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16" => (4, false),
        "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16" => (1, true),
        "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16" => (2, true),
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16" => (4, true),
        _ => return Err(unknown(opcode)),
    };
    let [results, address] = expect::<2>(operands)?;
    let results = vector(results).iter().map(|of| drafts.result(of, Class::Word)).collect::<Result<Vec<_>, _>>()?;
    if results.len() != count {
        return Err(format!("{count} results were expected, there are {}", results.len()));
    }
    let (address, offset) = drafts.address(address)?;
    let draft = together(drafts, warp::load_matrix, &results, &[address], &ALL)?;
    draft.data = count as u32 | if is_transposed { 8 } else { 0 };
    draft.offset = offset;
    Ok(())
}

fn multiply(drafts: &mut Drafts<'_>, opcode: &str, operands: &[Operand]) -> Result<(), Reason> {
    if opcode != "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" {
        return Err(unknown(opcode));
    }
    let [d, a, b, c] = expect::<4>(operands)?;
    let results = vector(d).iter().map(|of| drafts.result(of, Class::Word)).collect::<Result<Vec<_>, _>>()?;
    let mut sources = Vec::new();
    for operand in [a, b, c].into_iter().flat_map(vector) {
        sources.push(drafts.source(&operand, Class::Word)?);
    }
    if [results.len(), sources.len()] != [4, 10] {
        return Err("operands of another shape".to_owned());
    }
    together(drafts, warp::multiply(), &results, &sources, &ALL)?;
    Ok(())
}

/// Returns a parameter as an operand.
pub(super) fn parameter(drafts: &mut Drafts<'_>, class: Class, offset: u32, bytes: u32, is_signed: bool) -> Ref {
    drafts.constant(class, Constant::Parameter { offset, bytes, is_signed })
}
