//! Checks that the entries are the kernels of the PTX, with the same names, parameters and numbers of threads.

use super::*;
use std::collections::BTreeSet;

/// Returns the entries of all kernels.
fn entries() -> Vec<AnyEntry> {
    [
        convert::entries(),
        crate::adamw::cuda::entries(),
        crate::add::cuda::entries(),
        crate::argmax::cuda::entries(),
        crate::attention::cuda::entries(),
        crate::dropout::cuda::entries(),
        crate::embed::cuda::entries(),
        crate::gate::cuda::entries(),
        crate::gemm::cuda::entries(),
        crate::rms_norm::cuda::entries(),
        crate::rmsprop::cuda::entries(),
        crate::rope::cuda::entries(),
        crate::rows::cuda::entries(),
        crate::softcap::cuda::entries(),
        crate::sum_squares::cuda::entries(),
        crate::token_logps::cuda::entries(),
    ]
    .concat()
}

/// Returns how a module's PTX declares the kernel of an entry: one parameter, by value, and the threads of a block.
fn declaration(entry: &AnyEntry) -> String {
    let AnyEntry { name, threads, layout, .. } = entry;
    let (name, align, bytes) = (name.to_str().unwrap(), layout.align(), layout.size());
    format!("{name}(\n\t.param .align {align} .b8 {name}_param_0[{bytes}]\n)\n.maxntid {threads}, 1, 1\n")
}

/// Returns the declarations of the kernels in PTX, up to their bodies.
fn declarations(text: &str) -> impl Iterator<Item = String> {
    text.split(".entry ").skip(1).map(|kernel| kernel.split('{').next().unwrap().to_owned())
}

#[test]
fn every_entry_is_a_kernel_and_every_kernel_an_entry() {
    let entries = entries();
    for module in Module::ALL {
        let declared = entries.iter().filter(|entry| entry.module == module).map(declaration);
        assert_eq!(declared.collect::<BTreeSet<_>>(), declarations(module.text()).collect(), "{module:?}");
    }
    // the table of loaded functions is keyed by their names alone
    let names: BTreeSet<_> = entries.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), entries.len(), "two entries have one name");
}
