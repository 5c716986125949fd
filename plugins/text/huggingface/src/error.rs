//! How a call fails: a code and one line of text, made into an xh_error by the host. No panic leaves the plugin.
use std::cell::RefCell;
use std::ffi::CString;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::Once;

use crate::bindings::*;

#[derive(Debug)]
pub struct Failure {
    pub code: xh_code,
    pub message: String,
}

pub type Outcome<T> = Result<T, Failure>;

pub fn failure(code: u32, message: impl Into<String>) -> Failure {
    Failure { code: code as xh_code, message: message.into() }
}

pub fn invalid(message: impl Into<String>) -> Failure {
    failure(XH_INVALID_ARGUMENT, message)
}

pub fn unsupported(message: impl Into<String>) -> Failure {
    failure(XH_UNSUPPORTED, message)
}

pub fn corrupt(message: impl Into<String>) -> Failure {
    failure(XH_CORRUPT, message)
}

static HOST: AtomicPtr<xh_host> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Remembers the host. Panics are told by errors, not on standard error; the hook is this library's own, as is its
/// copy of the standard library.
pub fn set_host(host: *const xh_host) {
    static HOOK: Once = Once::new();
    HOST.store(host as *mut xh_host, Ordering::Release);
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = info.to_string();
            let _ = PANIC.try_with(|panic| panic.try_borrow_mut().map(|mut panic| *panic = text));
        }));
    });
}

/// An error is one line.
fn one_line(text: &str) -> CString {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    CString::new(line).unwrap_or_default() // holds no NUL, which is a control character
}

fn to_error(failure: &Failure) -> *mut xh_error {
    // SAFETY: the host lives as long as the process; without one no function of the table is known to anybody.
    let error_new = unsafe { HOST.load(Ordering::Acquire).as_ref() }.and_then(|host| host.error_new);
    let Some(error_new) = error_new else { return std::ptr::null_mut() };
    let text = one_line(&failure.message);
    unsafe { error_new(failure.code, c"text.huggingface".as_ptr(), text.as_ptr()) }
}

fn run(code_of_panic: u32, body: impl FnOnce() -> Outcome<()>) -> *mut xh_error {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        let text = PANIC.with(|panic| std::mem::take(&mut *panic.borrow_mut()));
        Err(failure(code_of_panic, format!("the tokenizers library gave up: {text}")))
    });
    outcome.map_or_else(|failure| to_error(&failure), |()| std::ptr::null_mut())
}

/// Runs the body of a function of the table.
pub fn guard(body: impl FnOnce() -> Outcome<()>) -> *mut xh_error {
    run(XH_INTERNAL, body)
}

/// The same for `open`, where a panic comes of damaged files.
pub fn opened(body: impl FnOnce() -> Outcome<()>) -> *mut xh_error {
    run(XH_CORRUPT, body)
}
