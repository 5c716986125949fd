//! Loaded models.
use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use serde_json::{json, Value};
use xhybrid_sys as sys;

use crate::error::{check, Result};
use crate::ffi::{c_len, c_path, c_string, make, to_usize, Bytes};
use crate::options::options_builder;
use crate::{runtime, Batch, BatchOptions, Runtime, Session, SessionOptions};

/// A loaded model. Any thread may use it, and several may at once: it does not change after loading.
///
/// ```no_run
/// # fn main() -> xhybrid::Result<()> {
/// use xhybrid::{Message, Model, Runtime, Sampler};
///
/// let runtime = Runtime::open()?;
/// let model = Model::load(&runtime, "student.xhy")?;
/// let prompt = model.chat(&[Message::user("What is 7 times 5?")], true)?;
/// let mut session = model.session()?;
/// session.feed(&model.encode(&prompt, true)?)?;
/// session.sampler(&Sampler::greedy().max_tokens(48))?;
/// for token in session.tokens() {
///     print!("{}", token?.piece);
/// }
/// # Ok(())
/// # }
/// ```
///
/// Threads share one model, each with a session of its own:
///
/// ```no_run
/// # fn main() -> xhybrid::Result<()> {
/// # let runtime = xhybrid::Runtime::open()?;
/// # let model = xhybrid::Model::load(&runtime, "student.xhy")?;
/// let answers: Vec<_> = std::thread::scope(|scope| {
///     let answer = |question| {
///         let mut session = model.session()?;
///         session.feed(&model.encode(question, true)?)?;
///         session.generate()
///     };
///     let threads: Vec<_> = ["one", "two"].map(|question| scope.spawn(move || answer(question))).into();
///     threads.into_iter().map(|thread| thread.join().unwrap()).collect()
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Model {
    raw: NonNull<sys::xh_model>,
    runtime: Arc<runtime::Handle>,
}

// SAFETY: a model may be used from any thread at once (xhybrid.h).
unsafe impl Send for Model {}
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: ours, freed once; sessions and batches keep what they need alive.
        unsafe { sys::xh_model_free(self.raw.as_ptr()) }
    }
}

options_builder! {
    /// The options of [`Model::load_with`].
    ModelOptions {
        /// What the weights are held in: `stored` (default), `f32` or `bf16`.
        dtype: &str,
    }
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`, as the model's template knows them.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }

    /// What the model is told to be.
    pub fn system(content: impl Into<String>) -> Self {
        Message::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Message::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Message::new("assistant", content)
    }
}

impl Model {
    /// Loads a checkpoint or a Hugging Face directory and places it on the runtime's device.
    ///
    /// # Errors
    /// [`NotFound`](crate::Code::NotFound), [`Corrupt`](crate::Code::Corrupt), [`Unsupported`](crate::Code::Unsupported),
    /// [`OutOfMemory`](crate::Code::OutOfMemory).
    pub fn load(runtime: &Runtime, path: impl AsRef<Path>) -> Result<Self> {
        Model::load_with(runtime, path, &ModelOptions::new())
    }

    /// The same with options.
    pub fn load_with(runtime: &Runtime, path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self> {
        let path = c_path(path.as_ref())?;
        let views = options.0.views()?;
        let raw = make(|out| unsafe {
            // SAFETY: the runtime is alive; path and options live for the call.
            sys::xh_model_load(runtime.raw(), path.as_ptr(), views.as_ptr(), views.len(), out)
        })?;
        Ok(Model { raw, runtime: runtime.handle() })
    }

    /// Configuration, mixers, parameter count, state bytes and history.
    pub fn describe(&self) -> Result<Value> {
        // SAFETY: the model is alive.
        Bytes::from(|out| unsafe { sys::xh_model_describe(self.raw(), out) })?.into_json()
    }

    /// How many tokens the vocabulary has.
    pub fn vocab_size(&self) -> usize {
        // SAFETY: the model is alive.
        to_usize(unsafe { sys::xh_model_vocab_size(self.raw()) })
    }

    /// Text to token ids. `add_special` adds what the tokenizer puts around a document, for example `<s>`.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<i32>> {
        let mut ids = vec![0; text.len() + 8]; // a token is seldom shorter than a byte
        loop {
            let mut count = 0;
            // SAFETY: the model is alive; text and ids have the sizes that are given.
            check(unsafe {
                sys::xh_model_encode(
                    self.raw(),
                    text.as_ptr().cast(),
                    text.len() as i64,
                    add_special.into(),
                    ids.as_mut_ptr(),
                    c_len(&ids),
                    &mut count,
                )
            })?;
            let fits = to_usize(count) <= ids.len();
            ids.resize(to_usize(count), 0);
            if fits {
                return Ok(ids);
            }
        }
    }

    /// Token ids to text. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for an id out of the vocabulary.
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        // SAFETY: the model is alive; ids have the size that is given.
        Bytes::from(|out| unsafe { sys::xh_model_decode(self.raw(), ids.as_ptr(), c_len(ids), out) })
            .map(Bytes::into_text)
    }

    /// Messages rendered with the model's chat template; `add_generation_prompt` ends them where the model's answer begins.
    pub fn chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: Value =
            messages.iter().map(|message| json!({"role": message.role, "content": message.content})).collect();
        let json = CString::new(messages.to_string()).expect("JSON escapes NUL");
        // SAFETY: the model is alive.
        Bytes::from(|out| unsafe { sys::xh_model_chat(self.raw(), json.as_ptr(), add_generation_prompt.into(), out) })
            .map(Bytes::into_text)
    }

    /// Full forward of one sequence, f32, row-major. `tap` is `logits` `[count, vocab]`, `hidden.N` `[count, D]` (0:
    /// embeddings; N: after block N, the last after the final norm), `layers.N.mixer.out` `[count, heads * head_dim]`,
    /// before W_o, or `layers.N.mixer.gate` `[count, heads that mix]`.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for an id out of the vocabulary or a tap that there is not.
    pub fn forward(&self, ids: &[i32], tap: &str) -> Result<Vec<f32>> {
        let tap = c_string(tap, "tap")?;
        let mut values = vec![0.0; ids.len() * self.vocab_size()]; // what most taps fit in: the forward is run once
        loop {
            let mut size = 0;
            // SAFETY: the model is alive; ids and values have the sizes that are given.
            check(unsafe {
                sys::xh_model_forward(
                    self.raw(),
                    ids.as_ptr(),
                    c_len(ids),
                    tap.as_ptr(),
                    values.as_mut_ptr(),
                    c_len(&values),
                    &mut size,
                )
            })?;
            let fits = to_usize(size) <= values.len();
            values.resize(to_usize(size), 0.0);
            if fits {
                return Ok(values);
            }
        }
    }

    /// `log p(ids[t] | ids[0..t])` for t = 1 .. `ids.len()`: one entry for each token but the first.
    pub fn score(&self, ids: &[i32]) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; ids.len().max(1)];
        // SAFETY: the model is alive; the library writes ids.len() - 1 floats.
        check(unsafe { sys::xh_model_score(self.raw(), ids.as_ptr(), c_len(ids), scores.as_mut_ptr()) })?;
        scores.truncate(ids.len().saturating_sub(1));
        Ok(scores)
    }

    /// A sequence to be read and written, with the model's context as capacity.
    pub fn session(&self) -> Result<Session> {
        self.session_with(&SessionOptions::new())
    }

    /// The same with options.
    pub fn session_with(&self, options: &SessionOptions) -> Result<Session> {
        let views = options.0.views()?;
        // SAFETY: the model is alive; the options live for the call.
        let raw = make(|out| unsafe { sys::xh_session_open(self.raw(), views.as_ptr(), views.len(), out) })?;
        Ok(Session::new(raw, Arc::clone(&self.runtime)))
    }

    /// Room for `slots` sequences that are written together.
    pub fn batch(&self, slots: usize) -> Result<Batch> {
        self.batch_with(slots, &BatchOptions::new())
    }

    /// The same with options.
    pub fn batch_with(&self, slots: usize, options: &BatchOptions) -> Result<Batch> {
        let views = options.0.clone().set("slots", slots).views()?;
        // SAFETY: the model is alive; the options live for the call.
        let raw = make(|out| unsafe { sys::xh_batch_open(self.raw(), views.as_ptr(), views.len(), out) })?;
        Ok(Batch::new(raw, slots, Arc::clone(&self.runtime)))
    }

    fn raw(&self) -> *mut sys::xh_model {
        self.raw.as_ptr()
    }
}
