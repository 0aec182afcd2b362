//! Streams and events.

use crate::card::Card;
use crate::handles::{Event, handles};
use crate::status::Status;
use crate::work::Work;
use crate::{call, set};
use std::ffi::c_uint;
use std::sync::Arc;
use std::time::Instant;

/// `CU_STREAM_NON_BLOCKING`. Streams without it also wait for the default stream. That is not modelled, so they are refused.
const NON_BLOCKING: c_uint = 1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut usize, flags: c_uint) -> Status {
    call(|| {
        if flags != NON_BLOCKING {
            return Err(Status::INVALID_VALUE);
        }
        let handle = handles().open_stream()?;
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(stream, handle) }
    })
}

/// Forgets the stream. Work that is queued on it still runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: usize) -> Status {
    call(|| handles().forget_stream(stream))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: usize) -> Status {
    call(|| {
        let card = handles().stream(stream)?;
        card.wait_for(stream)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _: c_uint) -> Status {
    call(|| {
        let (card, event) = {
            let handles = handles();
            let event = handles.events.get(&event).cloned().ok_or(Status::INVALID_HANDLE)?;
            (of_card(&event, handles.stream(stream)?)?, event)
        };
        // an event that was never recorded is no reason to wait
        match event.recorded {
            Some((position, _)) => card.queue(stream, Work::After(position)).map(drop),
            None => card.status(),
        }
    })
}

/// Returns `card` if it is the card of the event.
fn of_card(event: &Event, card: Arc<Card>) -> Result<Arc<Card>, Status> {
    if Arc::ptr_eq(&event.card, &card) { Ok(card) } else { Err(Status::INVALID_HANDLE) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut usize, _: c_uint) -> Status {
    call(|| {
        let mut handles = handles();
        let card = handles.current()?;
        let handle = handles.fresh();
        handles.events.insert(handle, Event { card, recorded: None });
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(event, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: usize, stream: usize) -> Status {
    call(|| {
        let card = {
            let handles = handles();
            of_card(handles.events.get(&event).ok_or(Status::INVALID_HANDLE)?, handles.stream(stream)?)?
        };
        let position = card.queue(stream, Work::Mark)?;
        if let Some(known) = handles().events.get_mut(&event) {
            known.recorded = Some((position, Instant::now()));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: usize) -> Status {
    call(|| {
        let event = handles().events.get(&event).cloned().ok_or(Status::INVALID_HANDLE)?;
        event.recorded.map_or(Ok(()), |(position, _)| event.card.wait(position))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: usize, end: usize) -> Status {
    call(|| {
        let handles = handles();
        let time = |event: usize| {
            let event = handles.events.get(&event).ok_or(Status::INVALID_HANDLE)?;
            event.recorded.map(|(_, at)| at).ok_or(Status::INVALID_HANDLE)
        };
        let elapsed = time(end)?.saturating_duration_since(time(start)?);
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(milliseconds, elapsed.as_secs_f32() * 1e3) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: usize) -> Status {
    call(|| handles().events.remove(&event).map(drop).ok_or(Status::INVALID_HANDLE))
}
