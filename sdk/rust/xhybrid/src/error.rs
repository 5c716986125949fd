//! What a failing call returns.
use std::ffi::CStr;
use std::fmt;

use xhybrid_sys as sys;

/// The result of every call that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The origin of errors that this crate raises itself, before the library is asked.
const ORIGIN: &str = "rust";

/// What went wrong, in the library's words.
///
/// `Display` gives `origin: message`, one line.
///
/// ```
/// # fn main() -> xhybrid::Result<()> {
/// use xhybrid::{Checkpoint, Code, Runtime};
///
/// let runtime = Runtime::open()?;
/// let error = Checkpoint::open(&runtime, "/nowhere/at-all.xhy").unwrap_err();
/// assert_eq!(error.code(), Code::NotFound);
/// assert_eq!(error.origin(), "core");
/// assert!(error.message().contains("/nowhere/at-all.xhy"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: String,
    origin: String,
}

impl Error {
    /// The kind of failure, to decide by.
    pub fn code(&self) -> Code {
        self.code
    }

    /// One line: what, where, the value, what is allowed.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Who raised it: `core`, `cpu`, `merge.ties`; `rust` for what this crate refuses itself.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), origin: ORIGIN.to_owned() }
    }

    pub(crate) fn invalid_argument(message: impl Into<String>) -> Self {
        Error::new(Code::InvalidArgument, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

impl std::error::Error for Error {}

/// The kinds of failure. Newer libraries may know more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The caller passed something that is not allowed.
    InvalidArgument,
    /// The object cannot do this now.
    InvalidState,
    /// A file, tensor, plugin or name does not exist.
    NotFound,
    /// Valid, but this build, plugin or device cannot do it.
    Unsupported,
    /// Memory ran out.
    OutOfMemory,
    /// The operating system refused a read or write; the message has its reason.
    Io,
    /// Stored bytes are damaged or malformed.
    Corrupt,
    /// Well formed, but of another version, architecture or vocabulary.
    Incompatible,
    /// The device failed for good; drop what is on it.
    DeviceLost,
    /// Stopped by [`JobCanceller::cancel`](crate::JobCanceller::cancel).
    Cancelled,
    /// A defect of the library: please report.
    Internal,
    /// A code that this version of the crate does not know.
    Other(i32),
}

impl From<sys::xh_code> for Code {
    fn from(code: sys::xh_code) -> Self {
        match u32::try_from(code).unwrap_or(0) {
            sys::XH_INVALID_ARGUMENT => Code::InvalidArgument,
            sys::XH_INVALID_STATE => Code::InvalidState,
            sys::XH_NOT_FOUND => Code::NotFound,
            sys::XH_UNSUPPORTED => Code::Unsupported,
            sys::XH_OUT_OF_MEMORY => Code::OutOfMemory,
            sys::XH_IO => Code::Io,
            sys::XH_CORRUPT => Code::Corrupt,
            sys::XH_INCOMPATIBLE => Code::Incompatible,
            sys::XH_DEVICE_LOST => Code::DeviceLost,
            sys::XH_CANCELLED => Code::Cancelled,
            sys::XH_INTERNAL => Code::Internal,
            _ => Code::Other(code),
        }
    }
}

/// Turns what a C call returned into a `Result` and frees the error.
pub(crate) fn check(error: *mut sys::xh_error) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: `error` is a live error of the library that is ours to free; its strings are copied before.
    unsafe {
        let text = |string| CStr::from_ptr(string).to_string_lossy().into_owned();
        let result = Error {
            code: sys::xh_error_code(error).into(),
            message: text(sys::xh_error_message(error)),
            origin: text(sys::xh_error_origin(error)),
        };
        sys::xh_error_free(error);
        Err(result)
    }
}
