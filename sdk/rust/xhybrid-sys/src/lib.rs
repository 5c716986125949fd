//! Raw bindings to libxhybrid, written by bindgen from `xhybrid.h` of ABI 1. Applications want the safe crate, `xhybrid`.
//!
//! The conventions of the header hold for every function here:
//!
//! - A call that can fail returns `*mut xh_error`; null means success. The caller frees it with [`xh_error_free`].
//! - Who makes an object frees it, with the `_free` or `_close` of its kind, which accept null.
//! - Runtime, checkpoint and model may be used from any thread at once. A session, a batch or a job belongs to one
//!   thread at a time; [`xh_job_cancel`] may be called from any.
//!
//! ```
//! // The library speaks the ABI that these bindings were written from.
//! let version = unsafe { xhybrid_sys::xh_version() };
//! assert_eq!(version >> 16, xhybrid_sys::XH_ABI_MAJOR);
//! ```
//!
//! How the library is found: see the crate's README (`XHYBRID_DIR`, then pkg-config).
#![allow(non_camel_case_types)]

// Sizes, alignments and offsets of every struct are asserted in it at compile time. Its documentation is the header's,
// where [count, vocab] is a shape and <s> a token.
#[allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]
mod bindings;
pub use bindings::*;
