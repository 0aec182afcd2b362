//! Batches read and encoded while the one before is computed.

use super::{DataError, Dataset, EncodedRow};
use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;

/// Calls `each` with the rows of each batch, in order, until it breaks. A thread reads and encodes one batch ahead; what goes wrong
/// there comes when the batch's turn has come, as without it.
///
/// # Errors
/// Those of [`Dataset::rows`] and of `each`.
pub fn for_each_batch<'b, E: From<DataError>>(
    data: &Dataset,
    batches: impl Iterator<Item = &'b [u32]> + Send,
    mut each: impl FnMut(Vec<EncodedRow>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    // no place in the channel: the batch that waits to be taken is the one ahead
    let (give, take) = sync_channel(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for batch in batches {
                let rows = data.rows(batch);
                let failed = rows.is_err();
                // nobody takes any more once `each` has broken or failed
                if give.send(rows).is_err() || failed {
                    return;
                }
            }
        });
        // moved, so that it is gone before the scope waits for the thread
        for rows in take {
            if each(rows?)?.is_break() {
                break;
            }
        }
        Ok(())
    })
}
