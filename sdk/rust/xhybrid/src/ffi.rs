//! What the wrappers share: strings in, bytes out, handles.
use std::ffi::{CStr, CString};
use std::os::raw::c_char;
use std::path::Path;
use std::ptr::NonNull;

use serde_json::Value;
use xhybrid_sys as sys;

use crate::error::{check, Code, Error, Result};

/// Text for the library. `what` names it in the message.
pub(crate) fn c_string(text: &str, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid_argument(format!("{what} {text:?} has a NUL character in it")))
}

/// A path for the library, which takes UTF-8.
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    match path.to_str() {
        Some(text) => c_string(text, "path"),
        None => Err(Error::invalid_argument(format!("path {} is not UTF-8", path.display()))),
    }
}

pub(crate) fn c_len<T>(slice: &[T]) -> i64 {
    slice.len() as i64 // a slice has at most isize::MAX bytes
}

pub(crate) fn to_usize(count: i64) -> usize {
    usize::try_from(count).unwrap_or(0)
}

/// # Safety
/// `text` is a NUL-ended string that lives as long as `'a`.
pub(crate) unsafe fn borrow_str<'a>(text: *const c_char) -> Result<&'a str> {
    CStr::from_ptr(text).to_str().map_err(|_| Error::new(Code::Internal, "the library gave text that is not UTF-8"))
}

/// # Safety
/// `data` has `count` elements that live as long as `'a`, or is anything when `count` is 0.
pub(crate) unsafe fn borrow_slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    std::slice::from_raw_parts(data, count)
}

/// Calls a function that hands over an object by its last argument.
pub(crate) fn make<T>(call: impl FnOnce(*mut *mut T) -> *mut sys::xh_error) -> Result<NonNull<T>> {
    let mut made = std::ptr::null_mut();
    check(call(&mut made))?;
    NonNull::new(made).ok_or_else(|| Error::new(Code::Internal, "the library succeeded and gave no object"))
}

/// A byte string of the library.
pub(crate) struct Bytes(NonNull<sys::xh_bytes>);

impl Bytes {
    /// Calls a function that hands over bytes by its last argument.
    pub(crate) fn from(call: impl FnOnce(*mut *mut sys::xh_bytes) -> *mut sys::xh_error) -> Result<Self> {
        make(call).map(Bytes)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: data and size describe memory that lives until the bytes are freed.
        unsafe {
            let size = to_usize(sys::xh_bytes_size(self.0.as_ptr()));
            borrow_slice(sys::xh_bytes_data(self.0.as_ptr()).cast(), size)
        }
    }

    /// As text; what is not UTF-8, as tokens may decode to, becomes U+FFFD.
    pub(crate) fn into_text(self) -> String {
        String::from_utf8_lossy(self.as_slice()).into_owned()
    }

    pub(crate) fn into_json(self) -> Result<Value> {
        parse_json(self.as_slice())
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe { sys::xh_bytes_free(self.0.as_ptr()) }
    }
}

pub(crate) fn parse_json(text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text)
        .map_err(|error| Error::new(Code::Internal, format!("the library gave JSON that cannot be read: {error}")))
}
