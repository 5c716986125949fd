//! Checkpoint directories and the tensors in them.
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use serde_json::Value;
use xhybrid_sys as sys;

use crate::error::{check, Result};
use crate::ffi::{borrow_str, c_path, c_string, make, to_usize, Bytes};
use crate::options::options_builder;
use crate::{runtime, Runtime, TensorView};

/// An open checkpoint directory, `NAME.xhy`. Any thread may use it, and several may at once.
///
/// The files are mapped: tensors are views of them, not copies, and live as long as the checkpoint is borrowed.
///
/// ```no_run
/// # fn main() -> xhybrid::Result<()> {
/// use xhybrid::{Checkpoint, Runtime};
///
/// let runtime = Runtime::open()?;
/// let checkpoint = Checkpoint::open(&runtime, "student.xhy")?;
/// let norm = checkpoint.tensor("model.norm.weight")?; // its digest is checked
/// println!("{} {:?} {:?}", norm.dtype(), norm.shape(), norm.as_slice::<f32>()?.first());
/// # Ok(())
/// # }
/// ```
///
/// A view does not outlive its checkpoint:
///
/// ```compile_fail,E0505
/// # fn main() -> xhybrid::Result<()> {
/// # let runtime = xhybrid::Runtime::open()?;
/// let checkpoint = xhybrid::Checkpoint::open(&runtime, "student.xhy")?;
/// let norm = checkpoint.tensor("model.norm.weight")?;
/// drop(checkpoint); // error: cannot move out of `checkpoint` because it is borrowed
/// println!("{:?}", norm.shape());
/// # Ok(())
/// # }
/// ```
///
/// And neither do its elements:
///
/// ```compile_fail,E0597
/// # fn main() -> xhybrid::Result<()> {
/// # let runtime = xhybrid::Runtime::open()?;
/// let values: &[f32] = {
///     let checkpoint = xhybrid::Checkpoint::open(&runtime, "student.xhy")?;
///     checkpoint.tensor("model.norm.weight")?.as_slice()? // error: `checkpoint` does not live long enough
/// };
/// println!("{:?}", values);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    raw: NonNull<sys::xh_checkpoint>,
    _runtime: Arc<runtime::Handle>,
}

// SAFETY: a checkpoint may be used from any thread at once (xhybrid.h).
unsafe impl Send for Checkpoint {}
unsafe impl Sync for Checkpoint {}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: ours, freed once; views borrow from `self` and are gone.
        unsafe { sys::xh_checkpoint_free(self.raw.as_ptr()) }
    }
}

options_builder! {
    /// The options of [`Checkpoint::open_with`].
    CheckpointOptions {
        /// `map` (default), or `copy` for storage that others may truncate.
        load_mode: &str,
    }
}

impl Checkpoint {
    /// Opens a checkpoint and checks its manifest and file sizes; tensor digests are checked on first use.
    ///
    /// # Errors
    /// [`NotFound`](crate::Code::NotFound), [`Corrupt`](crate::Code::Corrupt), [`Incompatible`](crate::Code::Incompatible),
    /// [`Io`](crate::Code::Io).
    pub fn open(runtime: &Runtime, path: impl AsRef<Path>) -> Result<Self> {
        Checkpoint::open_with(runtime, path, &CheckpointOptions::new())
    }

    /// The same with options.
    pub fn open_with(runtime: &Runtime, path: impl AsRef<Path>, options: &CheckpointOptions) -> Result<Self> {
        let path = c_path(path.as_ref())?;
        let views = options.0.views()?;
        let raw = make(|out| unsafe {
            // SAFETY: the runtime is alive; path and options live for the call.
            sys::xh_checkpoint_open(runtime.raw(), path.as_ptr(), views.as_ptr(), views.len(), out)
        })?;
        Ok(Checkpoint { raw, _runtime: runtime.handle() })
    }

    /// How many tensors there are.
    pub fn tensor_count(&self) -> usize {
        // SAFETY: the checkpoint is alive.
        to_usize(unsafe { sys::xh_checkpoint_tensor_count(self.raw.as_ptr()) })
    }

    /// Names of the tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        (0..self.tensor_count()).filter_map(|index| {
            // SAFETY: the checkpoint is alive; names live as long as it does, and are UTF-8 by the format.
            let name = unsafe { sys::xh_checkpoint_tensor_name(self.raw.as_ptr(), index as i64) };
            (!name.is_null()).then(|| unsafe { borrow_str(name) }.ok()).flatten()
        })
    }

    /// A read-only view of a tensor, its digest checked.
    ///
    /// # Errors
    /// [`NotFound`](crate::Code::NotFound); [`Corrupt`](crate::Code::Corrupt) when the bytes are not those written.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let c_name = c_string(name, "tensor")?;
        // SAFETY: all zeros is a valid xh_tensor.
        let mut raw: sys::xh_tensor = unsafe { std::mem::zeroed() };
        // SAFETY: the checkpoint is alive.
        check(unsafe { sys::xh_checkpoint_tensor(self.raw.as_ptr(), c_name.as_ptr(), &mut raw) })?;
        // SAFETY: host memory, not written to, that lives until the checkpoint is freed, which `'_` precludes.
        unsafe { TensorView::new(name, &raw) }
    }

    /// Checks every digest and all padding: the whole of every file is read.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Code::Corrupt), which names the first damage.
    pub fn verify(&self) -> Result<()> {
        // SAFETY: the checkpoint is alive.
        check(unsafe { sys::xh_checkpoint_verify(self.raw.as_ptr()) })
    }

    /// Configuration, mixers, history and the table of tensors.
    pub fn describe(&self) -> Result<Value> {
        // SAFETY: the checkpoint is alive.
        Bytes::from(|out| unsafe { sys::xh_checkpoint_describe(self.raw.as_ptr(), out) })?.into_json()
    }
}
