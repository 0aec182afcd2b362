//! Assigns places to registers by linear scan: each register has a place from its first to its last use, in the order of the
//! text.

use super::Places;
use super::constants::Constants;
use super::draft::{Draft, Ref};
use super::liveness::Liveness;
use crate::parse::Class;
use crate::warp::{Flow, MOST_OPERANDS, Op, Slot};

/// Gives every register a place, and every instruction the places of its operands. Constants come after the registers. After the
/// constants, each class has one place for results that nobody reads.
///
/// This is also right if lanes take different branches, because each lane has its own copy of every place.
pub(super) fn assign(drafts: &[Draft], classes: &[Class], constants: &Constants, live: &Liveness) -> (Vec<Op>, Places) {
    let ranges = live.ranges(drafts, classes);
    let mut order: Vec<usize> = (0..classes.len()).filter(|register| ranges[*register].is_some()).collect();
    let range = |register: usize| ranges[register].expect("only registers in use are in the order");
    order.sort_by_key(|register| range(*register).0);
    let mut places = Places::default();
    let mut of = vec![0 as Slot; classes.len()];
    // for each class, the last instruction at which each place is in use
    let mut busy: [Vec<usize>; 3] = Default::default();
    for register in order {
        let (first, last) = range(register);
        let busy = &mut busy[classes[register] as usize];
        let place = busy.iter().position(|until| *until < first).unwrap_or_else(|| {
            busy.push(0);
            busy.len() - 1
        });
        busy[place] = last;
        of[register] = place as Slot;
        let count = places.of(classes[register]);
        *count = (*count).max(place + 1);
    }
    let slot = |operand: &Ref| -> Slot {
        let behind = |class: Class, place: usize| match class {
            Class::Predicate => places.predicates + place,
            Class::Word => places.words + place,
            Class::Wide => places.wides + place,
        };
        match operand {
            Ref::Register(register) => of[*register as usize],
            Ref::Constant(class, place) => behind(*class, *place) as Slot,
            Ref::Nowhere(class) => {
                let constants = match class {
                    Class::Predicate => constants.predicates.len(),
                    Class::Word => constants.words.len(),
                    Class::Wide => constants.wides.len(),
                };
                behind(*class, constants) as Slot
            }
        }
    };
    let code = drafts
        .iter()
        .map(|draft| {
            let mut slots = [0; MOST_OPERANDS];
            let operands = draft.results.iter().chain(&draft.sources);
            for (to, operand) in slots.iter_mut().zip(operands) {
                *to = slot(operand);
            }
            let flow = match draft.members {
                Some(source) => Flow::Together { members: slot(&draft.sources[source]) },
                None => draft.flow,
            };
            let guard = draft.guard.map(|(register, negated)| (of[register as usize], negated));
            let Draft { step, data, offset, line, is_helper, .. } = *draft;
            Op { step, flow, slots, data, offset, guard, line, is_helper }
        })
        .collect();
    (code, places)
}
