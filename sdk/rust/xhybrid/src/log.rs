//! What the library says while it works.
use std::ffi::{c_void, CStr};
use std::os::raw::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};

use xhybrid_sys as sys;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// For those who look for a defect.
    Debug,
    /// What happens.
    Info,
    /// Works, but not as asked.
    Warning,
    /// Failed.
    Error,
}

impl From<sys::xh_log_level> for LogLevel {
    fn from(level: sys::xh_log_level) -> Self {
        match u32::try_from(level).unwrap_or(0) {
            sys::XH_LOG_DEBUG => LogLevel::Debug,
            sys::XH_LOG_INFO => LogLevel::Info,
            sys::XH_LOG_WARNING => LogLevel::Warning,
            _ => LogLevel::Error,
        }
    }
}

impl From<LogLevel> for log::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Debug => log::Level::Debug,
            LogLevel::Info => log::Level::Info,
            LogLevel::Warning => log::Level::Warn,
            LogLevel::Error => log::Level::Error,
        }
    }
}

pub(crate) type LogFn = Box<dyn Fn(LogLevel, &str, &str) + Send + Sync>;

/// Messages go to the `log` crate, target `xhybrid::<origin>`.
pub(crate) fn to_log_crate(level: LogLevel, origin: &str, text: &str) {
    log::log!(target: &format!("xhybrid::{origin}"), level.into(), "{text}");
}

/// What the library calls, from any thread. `user` is a `LogFn` that outlives the runtime. A panic ends here: the panic
/// hook has reported it, and the library goes on.
pub(crate) unsafe extern "C" fn trampoline(
    user: *mut c_void,
    level: sys::xh_log_level,
    origin: *const c_char,
    text: *const c_char,
) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `user` was made of a LogFn by Runtime; the strings live for this call.
        unsafe {
            let log = &*user.cast::<LogFn>();
            log(level.into(), &CStr::from_ptr(origin).to_string_lossy(), &CStr::from_ptr(text).to_string_lossy());
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn say(log: &LogFn, text: &CStr) {
        let user = std::ptr::from_ref(log).cast_mut().cast();
        unsafe { trampoline(user, sys::XH_LOG_WARNING as i32, c"cpu".as_ptr(), text.as_ptr()) };
    }

    #[test]
    fn a_message_arrives_with_level_and_origin() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let inner = Arc::clone(&heard);
        let log: LogFn = Box::new(move |level, origin, text| {
            inner.lock().unwrap().push((level, origin.to_owned(), text.to_owned()));
        });
        say(&log, c"slow");
        assert_eq!(*heard.lock().unwrap(), [(LogLevel::Warning, "cpu".to_owned(), "slow".to_owned())]);
    }

    #[test]
    fn a_panic_in_the_closure_does_not_reach_the_library() {
        let log: LogFn = Box::new(|_, _, _| panic!("a panic on purpose"));
        say(&log, c"text");
    }
}
