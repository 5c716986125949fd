//! One sequence being read and written.
use std::borrow::Cow;
use std::ptr::NonNull;
use std::sync::Arc;

use xhybrid_sys as sys;

use crate::error::{check, Result};
use crate::ffi::{borrow_slice, c_len, make, to_usize, Bytes};
use crate::options::options_builder;
use crate::{runtime, OptionValue};

/// One sequence: one state with one position. It may move to another thread, and belongs to one at a time; it keeps its
/// model alive.
///
/// ```no_run
/// # fn main() -> xhybrid::Result<()> {
/// # let runtime = xhybrid::Runtime::open()?;
/// # let model = xhybrid::Model::load(&runtime, "student.xhy")?;
/// use xhybrid::{Sampler, SessionOptions};
///
/// let mut session = model.session_with(&SessionOptions::new().capacity(512))?;
/// session.feed(&model.encode("Once upon a time", true)?)?;
/// session.sampler(&Sampler::new().temperature(0.7).top_k(40).seed(1).stop("\n\n"))?;
/// let mut other = session.fork()?;          // goes its own way from here
/// let story = session.generate()?;
/// std::thread::spawn(move || other.generate()).join().unwrap()?;
/// # Ok(())
/// # }
/// ```
///
/// It is `Send` but not `Sync`: two threads cannot use it at once.
///
/// ```
/// fn moves<T: Send>() {}
/// moves::<xhybrid::Session>();
/// ```
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<xhybrid::Session>();
/// ```
#[derive(Debug)]
pub struct Session {
    raw: NonNull<sys::xh_session>,
    runtime: Arc<runtime::Handle>,
}

// SAFETY: a session belongs to one thread at a time (xhybrid.h), so it may move and is not Sync.
unsafe impl Send for Session {}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe { sys::xh_session_free(self.raw.as_ptr()) }
    }
}

options_builder! {
    /// The options of [`Model::session_with`](crate::Model::session_with).
    SessionOptions {
        /// Most tokens; only full-attention heads need memory for it. Default: the model's context.
        capacity: usize,
    }
}

options_builder! {
    /// How to choose tokens.
    Sampler {
        /// 0 (default) always takes the likeliest token.
        temperature: f64,
        /// Chooses among the k likeliest; 0 (default) means all.
        top_k: usize,
        /// Chooses among the likeliest tokens that hold this share of the probability; default 1.
        top_p: f64,
        /// Where the random numbers begin; default 0.
        seed: i64,
        /// Most tokens of a generation; default 256.
        max_tokens: usize,
    }
}

impl Sampler {
    /// The likeliest token each time.
    pub fn greedy() -> Self {
        Sampler::new().temperature(0.0)
    }

    /// Text that ends the generation; may be given several times.
    pub fn stop(self, text: &str) -> Self {
        Sampler(self.0.add("stop", OptionValue::from(text)))
    }
}

/// One token of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// Its id.
    pub id: i32,
    /// The text that became complete by it: whole characters, may be empty.
    pub piece: Cow<'a, str>,
    /// Whether it is the last: an end token, stop text or the last that was asked for.
    pub finished: bool,
}

impl Token<'_> {
    /// The same with a piece of its own, to keep.
    pub fn into_owned(self) -> Token<'static> {
        Token { piece: Cow::Owned(self.piece.into_owned()), ..self }
    }
}

impl Session {
    pub(crate) fn new(raw: NonNull<sys::xh_session>, runtime: Arc<runtime::Handle>) -> Self {
        Session { raw, runtime }
    }

    pub(crate) fn raw(&self) -> *mut sys::xh_session {
        self.raw.as_ptr()
    }

    /// Reads tokens: the state advances by as many positions.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for an id out of the vocabulary, which refuses the whole call;
    /// [`InvalidState`](crate::Code::InvalidState) beyond the capacity.
    pub fn feed(&mut self, ids: &[i32]) -> Result<()> {
        // SAFETY: the session is alive; ids have the size that is given.
        check(unsafe { sys::xh_session_feed(self.raw(), ids.as_ptr(), c_len(ids)) })
    }

    /// Logits after the last token fed, `[vocab]`. They are lent: the session waits until they are let go.
    ///
    /// ```compile_fail,E0499
    /// # fn main() -> xhybrid::Result<()> {
    /// # let runtime = xhybrid::Runtime::open()?;
    /// # let model = xhybrid::Model::load(&runtime, "student.xhy")?;
    /// # let mut session = model.session()?;
    /// let logits = session.logits()?;
    /// session.feed(&[1])?; // error: cannot borrow `session` as mutable more than once at a time
    /// println!("{}", logits[0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn logits(&mut self) -> Result<&[f32]> {
        let (mut logits, mut count) = (std::ptr::null(), 0);
        // SAFETY: the session is alive.
        check(unsafe { sys::xh_session_logits(self.raw(), &mut logits, &mut count) })?;
        // SAFETY: `count` floats that live until the next call, which the borrow of `self` precludes.
        Ok(unsafe { borrow_slice(logits, to_usize(count)) })
    }

    /// How many tokens have been read and written.
    pub fn position(&self) -> usize {
        // SAFETY: the session is alive.
        to_usize(unsafe { sys::xh_session_position(self.raw()) })
    }

    /// Bytes of the state.
    pub fn state_bytes(&self) -> usize {
        // SAFETY: the session is alive.
        to_usize(unsafe { sys::xh_session_state_bytes(self.raw()) })
    }

    /// Sets how tokens are chosen and begins a new generation.
    pub fn sampler(&mut self, sampler: &Sampler) -> Result<()> {
        let views = sampler.0.views()?;
        // SAFETY: the session is alive; the options live for the call.
        check(unsafe { sys::xh_session_sampler(self.raw(), views.as_ptr(), views.len()) })
    }

    /// Chooses and feeds one token. Its piece is lent by the session: [`Token::into_owned`] keeps it.
    ///
    /// ```compile_fail,E0499
    /// # fn main() -> xhybrid::Result<()> {
    /// # let runtime = xhybrid::Runtime::open()?;
    /// # let model = xhybrid::Model::load(&runtime, "student.xhy")?;
    /// # let mut session = model.session()?;
    /// let first = session.next_token()?;
    /// let second = session.next_token()?; // error: cannot borrow `session` as mutable more than once at a time
    /// println!("{}{}", first.piece, second.piece);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidState`](crate::Code::InvalidState) when nothing has been fed, the generation has ended or the capacity is used up.
    pub fn next_token(&mut self) -> Result<Token<'_>> {
        let (mut id, mut piece, mut size, mut finished) = (0, std::ptr::null(), 0, 0);
        // SAFETY: the session is alive.
        check(unsafe { sys::xh_session_next(self.raw(), &mut id, &mut piece, &mut size, &mut finished) })?;
        // SAFETY: `size` bytes that live until the next call, which the borrow of `self` precludes.
        let piece = String::from_utf8_lossy(unsafe { borrow_slice(piece.cast(), to_usize(size)) });
        Ok(Token { id, piece, finished: finished != 0 })
    }

    /// The tokens up to the end of the generation, as they are written. Ends after the last one or an error.
    pub fn tokens(&mut self) -> Tokens<'_> {
        Tokens { session: self, ended: false }
    }

    /// The text up to the end of the generation.
    pub fn generate(&mut self) -> Result<String> {
        let mut text = String::new();
        loop {
            let token = self.next_token()?;
            text += &token.piece;
            if token.finished {
                return Ok(text);
            }
        }
    }

    /// The state as bytes, to keep or to store.
    pub fn snapshot(&self) -> Result<Vec<u8>> {
        // SAFETY: the session is alive.
        Bytes::from(|out| unsafe { sys::xh_session_snapshot(self.raw(), out) }).map(|bytes| bytes.as_slice().to_vec())
    }

    /// Goes on from a snapshot.
    ///
    /// # Errors
    /// [`Incompatible`](crate::Code::Incompatible) for a model of another shape, [`Corrupt`](crate::Code::Corrupt) for
    /// bytes that are not a snapshot.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        // SAFETY: the session is alive; the snapshot has the size that is given.
        check(unsafe { sys::xh_session_restore(self.raw(), snapshot.as_ptr().cast(), c_len(snapshot)) })
    }

    /// An independent session that continues from the same state.
    pub fn fork(&self) -> Result<Session> {
        // SAFETY: the session is alive.
        let raw = make(|out| unsafe { sys::xh_session_fork(self.raw(), out) })?;
        Ok(Session::new(raw, Arc::clone(&self.runtime)))
    }

    /// Back to position 0.
    pub fn reset(&mut self) -> Result<()> {
        // SAFETY: the session is alive.
        check(unsafe { sys::xh_session_reset(self.raw()) })
    }
}

/// Tokens as they are written; see [`Session::tokens`].
#[derive(Debug)]
#[must_use = "tokens are written when they are asked for"]
pub struct Tokens<'a> {
    session: &'a mut Session,
    ended: bool,
}

impl Iterator for Tokens<'_> {
    type Item = Result<Token<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let token = self.session.next_token().map(Token::into_owned);
        self.ended = token.as_ref().map_or(true, |token| token.finished);
        Some(token)
    }
}

impl std::iter::FusedIterator for Tokens<'_> {}
