//! Long work, pulled along by the caller.
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use serde_json::Value;
use xhybrid_sys as sys;

use crate::error::{check, Result};
use crate::ffi::{c_string, make, parse_json, Bytes};
use crate::{runtime, Runtime};

/// Long work: `import`, `export`, `tokenize`, `plan`, `distill`, `probe`, `merge`, `evaluate` or `bench`, described by
/// a recipe. [`Runtime::job_schema`] has the fields of each.
///
/// The caller pulls it along, one piece at a time, and each piece gives an event: a JSON object whose `kind` names it.
///
/// ```no_run
/// # fn main() -> xhybrid::Result<()> {
/// # let runtime = xhybrid::Runtime::open()?;
/// use xhybrid::{serde_json::json, Job};
///
/// let recipe = json!({"models": ["math.xhy", "chat.xhy"], "method": "slerp", "options": {"t": 0.5}, "output": "merged.xhy"});
/// let mut job = Job::open(&runtime, "merge", &recipe)?;
/// for event in job.events() {
///     println!("{}", event?);
/// }
/// println!("{}", job.result()?["parameters"]);
/// # Ok(())
/// # }
/// ```
///
/// It may move to another thread, and belongs to one at a time; a [`JobCanceller`] stops it from any.
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<xhybrid::Job>();
/// ```
#[derive(Debug)]
pub struct Job {
    handle: Arc<Handle>,
    finished: bool,
    _one_thread: PhantomData<Cell<()>>, // not Sync, though the handle is, for the sake of the canceller
}

/// The job of the library. A canceller may hold it for the moment of a call while the job is dropped.
#[derive(Debug)]
struct Handle {
    raw: NonNull<sys::xh_job>,
    _runtime: Arc<runtime::Handle>,
}

// SAFETY: all but xh_job_cancel, which any thread may call, goes through Job, which is not Sync; freed by the last owner.
unsafe impl Send for Handle {}
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe { sys::xh_job_free(self.raw.as_ptr()) }
    }
}

impl Job {
    /// Checks a recipe and prepares the work.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for a kind or a field of the recipe, with what is allowed;
    /// [`NotFound`](crate::Code::NotFound) for a file that there is not.
    pub fn open(runtime: &Runtime, kind: &str, recipe: &Value) -> Result<Self> {
        let kind = c_string(kind, "job kind")?;
        let recipe = CString::new(recipe.to_string()).expect("JSON escapes NUL");
        // SAFETY: the runtime is alive; kind and recipe live for the call.
        let raw = make(|out| unsafe { sys::xh_job_open(runtime.raw(), kind.as_ptr(), recipe.as_ptr(), out) })?;
        let handle = Arc::new(Handle { raw, _runtime: runtime.handle() });
        Ok(Job { handle, finished: false, _one_thread: PhantomData })
    }

    /// Does the next piece of work and describes it; `None` when all of it is done.
    ///
    /// # Errors
    /// [`Cancelled`](crate::Code::Cancelled) after [`JobCanceller::cancel`]: the piece in hand is finished and saved, and
    /// the message says how to resume. After any other error the job is over and further calls give
    /// [`InvalidState`](crate::Code::InvalidState); what was saved before stays.
    pub fn next_event(&mut self) -> Result<Option<Value>> {
        if self.finished {
            return Ok(None);
        }
        let (mut event, mut finished) = (std::ptr::null(), 0);
        // SAFETY: the job is alive.
        check(unsafe { sys::xh_job_next(self.handle.raw.as_ptr(), &mut event, &mut finished) })?;
        self.finished = finished != 0;
        // SAFETY: the event lives until the next call.
        parse_json(unsafe { CStr::from_ptr(event) }.to_bytes()).map(Some)
    }

    /// The events of the work that is left, as it is done. Ends after the last one or an error.
    pub fn events(&mut self) -> Events<'_> {
        Events { job: self, failed: false }
    }

    /// Does all the work that is left; the outcome.
    pub fn run(&mut self) -> Result<Value> {
        while self.next_event()?.is_some() {}
        self.result()
    }

    /// The outcome.
    ///
    /// # Errors
    /// [`InvalidState`](crate::Code::InvalidState) before the job has finished.
    pub fn result(&self) -> Result<Value> {
        // SAFETY: the job is alive.
        Bytes::from(|out| unsafe { sys::xh_job_result(self.handle.raw.as_ptr(), out) })?.into_json()
    }

    /// What stops this job from any thread.
    pub fn canceller(&self) -> JobCanceller {
        JobCanceller(Arc::downgrade(&self.handle))
    }
}

/// Events as the work is done; see [`Job::events`].
#[derive(Debug)]
#[must_use = "the work is done when events are asked for"]
pub struct Events<'a> {
    job: &'a mut Job,
    failed: bool,
}

impl Iterator for Events<'_> {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let event = self.job.next_event();
        self.failed = event.is_err();
        event.transpose()
    }
}

impl std::iter::FusedIterator for Events<'_> {}

/// Stops a [`Job`] from any thread, also one that handles an interrupt. It does not keep the job alive.
///
/// ```no_run
/// # fn main() -> xhybrid::Result<()> {
/// # let runtime = xhybrid::Runtime::open()?;
/// # let recipe = xhybrid::serde_json::json!({});
/// use xhybrid::{Code, Job};
///
/// let mut job = Job::open(&runtime, "distill", &recipe)?;
/// let canceller = job.canceller();
/// let timer = std::thread::spawn(move || {
///     std::thread::sleep(std::time::Duration::from_secs(60));
///     canceller.cancel();
/// });
/// match job.run() {
///     Err(error) if error.code() == Code::Cancelled => println!("{}", error.message()), // how to resume
///     outcome => println!("{}", outcome?),
/// }
/// # timer.join().unwrap();
/// # Ok(())
/// # }
/// ```
///
/// ```
/// fn shared<T: Send + Sync + Clone>() {}
/// shared::<xhybrid::JobCanceller>();
/// ```
#[derive(Clone, Debug)]
pub struct JobCanceller(Weak<Handle>);

impl JobCanceller {
    /// Asks the job to stop: its piece in hand is finished and saved. Does nothing when the job is gone.
    pub fn cancel(&self) {
        if let Some(handle) = self.0.upgrade() {
            // SAFETY: the job is alive while `handle` is; any thread may cancel.
            unsafe { sys::xh_job_cancel(handle.raw.as_ptr()) }
        }
    }
}
