//! Sequences that are written together.
use std::ptr::NonNull;
use std::sync::Arc;

use xhybrid_sys as sys;

use crate::error::{check, Result};
use crate::ffi::{borrow_slice, to_usize};
use crate::options::options_builder;
use crate::{runtime, Session, Token};

/// Sequences that are written together, so that the weights are read once for all of them. Each slot is empty or holds
/// one. It may move to another thread, and belongs to one at a time; it keeps its model alive.
///
/// ```no_run
/// # fn main() -> xhybrid::Result<()> {
/// # let runtime = xhybrid::Runtime::open()?;
/// # let model = xhybrid::Model::load(&runtime, "student.xhy")?;
/// let mut batch = model.batch(2)?;
/// let mut session = model.session()?;
/// for (slot, text) in ["One", "Two"].into_iter().enumerate() {
///     session.reset()?;
///     session.feed(&model.encode(text, true)?)?;
///     batch.put(slot, &session)?;
/// }
/// loop {
///     let tokens = batch.step()?;
///     if tokens.iter().all(Option::is_none) {
///         break; // every sequence has ended and left its slot
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<xhybrid::Batch>();
/// ```
#[derive(Debug)]
pub struct Batch {
    raw: NonNull<sys::xh_batch>,
    slots: usize,
    _runtime: Arc<runtime::Handle>,
}

// SAFETY: a batch belongs to one thread at a time (xhybrid.h), so it may move and is not Sync.
unsafe impl Send for Batch {}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe { sys::xh_batch_free(self.raw.as_ptr()) }
    }
}

options_builder! {
    /// The options of [`Model::batch_with`](crate::Model::batch_with).
    BatchOptions {
        /// Most tokens of each slot. Default: the model's context.
        capacity: usize,
    }
}

impl Batch {
    pub(crate) fn new(raw: NonNull<sys::xh_batch>, slots: usize, runtime: Arc<runtime::Handle>) -> Self {
        Batch { raw, slots, _runtime: runtime }
    }

    /// How many sequences fit.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Copies state, sampler and text of a session of the same model that has read its prompt; the session stays as it
    /// is. What the slot held is dropped.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for a slot that there is not or a session of another model;
    /// [`InvalidState`](crate::Code::InvalidState) when it has read nothing.
    pub fn put(&mut self, slot: usize, session: &Session) -> Result<()> {
        // SAFETY: batch and session are alive, and this thread has both.
        check(unsafe { sys::xh_batch_put(self.raw.as_ptr(), c_slot(slot), session.raw()) })
    }

    /// Empties a slot.
    pub fn remove(&mut self, slot: usize) -> Result<()> {
        // SAFETY: the batch is alive.
        check(unsafe { sys::xh_batch_drop(self.raw.as_ptr(), c_slot(slot)) })
    }

    /// Chooses and feeds one token of every sequence, `[slots]`; `None` where a slot is empty. A finished sequence
    /// leaves its slot.
    ///
    /// # Errors
    /// Where one sequence cannot go on, for its capacity or logits that are not finite, the error names its slot and
    /// nothing changes: remove it and call again.
    pub fn step(&mut self) -> Result<Vec<Option<Token<'_>>>> {
        let n = self.slots;
        let (mut ids, mut pieces, mut sizes, mut finished) =
            (vec![0; n], vec![std::ptr::null(); n], vec![0; n], vec![0; n]);
        // SAFETY: the batch is alive; every array has a place for each slot.
        check(unsafe {
            sys::xh_batch_next(
                self.raw.as_ptr(),
                ids.as_mut_ptr(),
                pieces.as_mut_ptr(),
                sizes.as_mut_ptr(),
                finished.as_mut_ptr(),
                c_slot(n),
            )
        })?;
        let token = |slot: usize| {
            // SAFETY: pieces live until the next call, which the borrow of `self` precludes.
            let piece = unsafe { borrow_slice(pieces[slot].cast(), to_usize(sizes[slot])) };
            Token { id: ids[slot], piece: String::from_utf8_lossy(piece), finished: finished[slot] != 0 }
        };
        Ok((0..n).map(|slot| (ids[slot] >= 0).then(|| token(slot))).collect())
    }

    /// Bytes of the states of all slots.
    pub fn state_bytes(&self) -> usize {
        // SAFETY: the batch is alive.
        to_usize(unsafe { sys::xh_batch_state_bytes(self.raw.as_ptr()) })
    }
}

fn c_slot(slot: usize) -> i64 {
    i64::try_from(slot).unwrap_or(i64::MAX)
}
