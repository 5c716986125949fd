#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | [`Runtime`] | the plugins that were found and the device; everything is opened from one |
//! | [`Checkpoint`], [`TensorView`] | a checkpoint directory and the tensors in it |
//! | [`Model`], [`Session`], [`Batch`] | a loaded model; one sequence; sequences that are written together |
//! | [`Job`], [`JobCanceller`] | import, distill, merge, evaluate and all other long work |
//! | [`Error`], [`Code`] | what a failing call returns |
//!
//! # Threads
//!
//! As the C interface says: a runtime, a checkpoint and a model may be used from any thread at once, a session, a batch
//! and a job from one at a time. The compiler holds callers to it.
//!
//! ```
//! fn any_thread<T: Send + Sync>() {}
//! any_thread::<xhybrid::Runtime>();
//! any_thread::<xhybrid::Checkpoint>();
//! any_thread::<xhybrid::TensorView<'static>>();
//! any_thread::<xhybrid::Model>();
//! any_thread::<xhybrid::JobCanceller>();
//! any_thread::<xhybrid::Error>();
//!
//! fn one_at_a_time<T: Send>() {}
//! one_at_a_time::<xhybrid::Session>();
//! one_at_a_time::<xhybrid::Batch>();
//! one_at_a_time::<xhybrid::Job>();
//! ```
//!
//! # Panics
//!
//! No function of this crate panics on what it is given; a panic in a log closure does not reach the library.

mod batch;
mod checkpoint;
mod error;
mod ffi;
mod job;
mod log;
mod model;
mod options;
mod runtime;
mod session;
mod tensor;

pub use crate::batch::{Batch, BatchOptions};
pub use crate::checkpoint::{Checkpoint, CheckpointOptions};
pub use crate::error::{Code, Error, Result};
pub use crate::job::{Events, Job, JobCanceller};
pub use crate::log::LogLevel;
pub use crate::model::{Message, Model, ModelOptions};
pub use crate::options::OptionValue;
pub use crate::runtime::{release, PluginInfo, PluginKind, Runtime, RuntimeBuilder};
pub use crate::session::{Sampler, Session, SessionOptions, Token, Tokens};
pub use crate::tensor::{DType, Element, TensorView};

pub use half;
pub use serde_json;
pub use xhybrid_sys as sys;
