//! The plain version on the processor.

use super::{Backward, Decode, Forward, reference};
use crate::{Device, Result, Slice, SliceMut};

pub(super) fn forward(_: &Device, call: Forward<'_>) -> Result<()> {
    let (Slice::Cpu(q), Slice::Cpu(k), Slice::Cpu(v)) = (call.q, call.k, call.v);
    let (SliceMut::Cpu(o), SliceMut::Cpu(lse)) = (call.o, call.lse);
    let (plain_o, plain_lse) = reference::forward::<f32>(call.rows, &call.geometry, call.segments, q, k, v);
    o.copy_from_slice(&plain_o);
    lse.copy_from_slice(&plain_lse);
    Ok(())
}

pub(super) fn backward(_: &Device, call: Backward<'_>) -> Result<()> {
    let (Slice::Cpu(q), Slice::Cpu(k), Slice::Cpu(v)) = (call.q, call.k, call.v);
    let (Slice::Cpu(o), Slice::Cpu(lse), Slice::Cpu(d_o)) = (call.o, call.lse, call.d_o);
    let (SliceMut::Cpu(dq), SliceMut::Cpu(dk), SliceMut::Cpu(dv)) = (call.dq, call.dk, call.dv);
    let plain = reference::backward::<f32>(call.rows, &call.geometry, call.segments, q, k, v, o, lse, d_o);
    dq.copy_from_slice(&plain.dq);
    dk.copy_from_slice(&plain.dk);
    dv.copy_from_slice(&plain.dv);
    Ok(())
}

pub(super) fn decode(_: &Device, call: Decode<'_>) -> Result<()> {
    let (Slice::Cpu(q), Slice::Cpu(k), Slice::Cpu(v)) = (call.q, call.k_cache, call.v_cache);
    let SliceMut::Cpu(o) = call.o;
    o.copy_from_slice(&reference::decode::<f32>(&call.geometry, call.capacity, call.lengths, q, k, v));
    Ok(())
}
