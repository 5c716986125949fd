//! Where everything begins: the plugins that were found and the device.
use std::ffi::CStr;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

use serde_json::Value;
use xhybrid_sys as sys;

use crate::error::{check, Code, Error, Result};
use crate::ffi::{borrow_str, c_string, make, to_usize, Bytes};
use crate::log::{to_log_crate, trampoline, LogFn};
use crate::options::Options;
use crate::{LogLevel, OptionValue};

/// The plugins that were found and a device. Any thread may use it, and several may at once.
///
/// What is opened from a runtime keeps alive what it needs: a runtime may be dropped while its models are used.
///
/// ```
/// # fn main() -> xhybrid::Result<()> {
/// use xhybrid::Runtime;
///
/// let runtime = Runtime::builder().device("cpu").threads(2).log(|level, origin, text| eprintln!("{level:?} {origin}: {text}")).open()?;
/// for plugin in runtime.plugins()? {
///     println!("{:?} {}", plugin.kind, plugin.name);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Runtime {
    handle: Arc<Handle>,
}

/// The runtime of the library, shared with all that was opened from it, since they log through the same function.
pub(crate) struct Handle {
    raw: NonNull<sys::xh_runtime>,
    _log: Option<Arc<LogFn>>, // behind `raw`: Drop closes the runtime, then the fields go
}

// SAFETY: a runtime may be used from any thread at once (xhybrid.h), and LogFn is Send + Sync.
unsafe impl Send for Handle {}
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: ours, closed once.
        unsafe { sys::xh_runtime_close(self.raw.as_ptr()) }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("xh_runtime").field(&self.raw).finish()
    }
}

impl Runtime {
    /// Opens a runtime on the best device, with every plugin that is found.
    ///
    /// # Errors
    /// [`Code::Incompatible`] when the library speaks another ABI; whatever the library refuses.
    pub fn open() -> Result<Self> {
        Runtime::builder().open()
    }

    /// Options first: device, threads, plugins, log.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// Every plugin that was loaded.
    pub fn plugins(&self) -> Result<Vec<PluginInfo>> {
        // SAFETY: the runtime is alive.
        let count = unsafe { sys::xh_runtime_plugin_count(self.raw()) };
        (0..count).map(|index| self.plugin_at(index)).collect()
    }

    /// What this host can run and why not: cpu, devices, plugins, searched paths, load failures.
    pub fn report(&self) -> Result<Value> {
        // SAFETY: the runtime is alive.
        Bytes::from(|out| unsafe { sys::xh_runtime_report(self.raw(), out) })?.into_json()
    }

    /// The kinds of jobs.
    pub fn job_kinds(&self) -> Result<Value> {
        // SAFETY: the runtime is alive; a null kind lists the kinds.
        Bytes::from(|out| unsafe { sys::xh_job_schema(self.raw(), std::ptr::null(), out) })?.into_json()
    }

    /// The fields of a recipe with types, defaults and help.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] for a kind that there is not.
    pub fn job_schema(&self, kind: &str) -> Result<Value> {
        let kind = c_string(kind, "job kind")?;
        // SAFETY: the runtime is alive.
        Bytes::from(|out| unsafe { sys::xh_job_schema(self.raw(), kind.as_ptr(), out) })?.into_json()
    }

    pub(crate) fn raw(&self) -> *mut sys::xh_runtime {
        self.handle.raw.as_ptr()
    }

    pub(crate) fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.handle)
    }

    fn plugin_at(&self, index: i64) -> Result<PluginInfo> {
        // SAFETY: all zeros is a valid xh_plugin_info.
        let mut info: sys::xh_plugin_info = unsafe { std::mem::zeroed() };
        info.struct_size = std::mem::size_of::<sys::xh_plugin_info>() as u32;
        // SAFETY: the runtime is alive, and `info` says its size.
        check(unsafe { sys::xh_runtime_plugin_at(self.raw(), index, &mut info) })?;
        // SAFETY: the strings live until the runtime is closed, and are copied here.
        let text = |string| unsafe { borrow_str(string) }.map(str::to_owned);
        Ok(PluginInfo {
            kind: info.kind.into(),
            score: info.score,
            name: text(info.name)?,
            version: text(info.version)?,
            license: text(info.license)?,
            path: text(info.path)?.into(),
            options_schema: text(info.options_schema)?,
        })
    }
}

/// The options of a [`Runtime`].
#[derive(Default)]
#[must_use]
pub struct RuntimeBuilder {
    plugin_path: Option<String>,
    options: Options,
    log: Option<LogFn>,
}

impl RuntimeBuilder {
    /// The device to compute on, for example `cpu`; the best that is found when it is not said.
    pub fn device(self, device: &str) -> Self {
        self.set("device", device)
    }

    /// Threads to compute with; 0 means all cores.
    pub fn threads(self, threads: usize) -> Self {
        self.set("threads", threads)
    }

    /// Directories or files of plugins to be searched first, separated by `:`.
    pub fn plugin_path(mut self, path: impl Into<String>) -> Self {
        self.plugin_path = Some(path.into());
        self
    }

    /// Hears every message: level, origin, text. Called from any thread; dropped with the runtime and everything that
    /// was opened from it. A panic in it is caught.
    pub fn log(mut self, log: impl Fn(LogLevel, &str, &str) + Send + Sync + 'static) -> Self {
        self.log = Some(Box::new(log));
        self
    }

    /// Sends every message to the [`log`] crate, with the target `xhybrid::<origin>`.
    pub fn log_to_crate(self) -> Self {
        self.log(to_log_crate)
    }

    /// Sets an option by its key, for those that only a newer library knows.
    pub fn set(mut self, key: &str, value: impl Into<OptionValue>) -> Self {
        self.options = self.options.set(key, value);
        self
    }

    /// Opens the runtime.
    ///
    /// # Errors
    /// [`Code::Incompatible`] when the library speaks another ABI; [`Code::InvalidArgument`] and [`Code::NotFound`] for
    /// options and devices that there are not.
    pub fn open(self) -> Result<Runtime> {
        check_abi()?;
        let views = self.options.views()?;
        let path = self.plugin_path.as_deref().map(|path| c_string(path, "plugin path")).transpose()?;
        let log = self.log.map(Arc::new);
        let config = sys::xh_runtime_config {
            struct_size: std::mem::size_of::<sys::xh_runtime_config>() as u32,
            flags: 0,
            plugin_path: path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr()),
            options: views.as_ptr(),
            option_count: views.len(),
            log: log.as_ref().map(|_| trampoline as _),
            log_user: log.as_ref().map_or(std::ptr::null_mut(), |log| Arc::as_ptr(log).cast_mut().cast()),
        };
        // SAFETY: what `config` points to lives for the call; the log function as long as the handle and its children.
        let raw = make(|out| unsafe { sys::xh_runtime_open(&config, out) })?;
        Ok(Runtime { handle: Arc::new(Handle { raw, _log: log }) })
    }
}

impl std::fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeBuilder")
            .field("plugin_path", &self.plugin_path)
            .field("options", &self.options)
            .field("log", &self.log.is_some())
            .finish()
    }
}

/// The bindings fit libraries of the same major, from their own minor on.
fn check_abi() -> Result<()> {
    // SAFETY: takes nothing.
    let version = unsafe { sys::xh_version() };
    if version >> 16 == sys::XH_ABI_MAJOR && version >= sys::XH_ABI_VERSION {
        return Ok(());
    }
    let message = format!(
        "libxhybrid has ABI {}.{}; allowed: {}.{} or a later minor",
        version >> 16,
        version & 0xffff,
        sys::XH_ABI_MAJOR,
        sys::XH_ABI_MINOR
    );
    Err(Error::new(Code::Incompatible, message))
}

/// The library's release, for example `0.1.0`.
///
/// ```
/// println!("xhybrid {}", xhybrid::release());
/// ```
pub fn release() -> &'static str {
    // SAFETY: a static string.
    unsafe { CStr::from_ptr(sys::xh_release()) }.to_str().unwrap_or_default()
}

/// A plugin that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginInfo {
    /// What it is.
    pub kind: PluginKind,
    /// 0: present, but cannot run on this host.
    pub score: i32,
    /// As recipes and options name it.
    pub name: String,
    /// Its release.
    pub version: String,
    /// Its licence.
    pub license: String,
    /// Where it was found.
    pub path: PathBuf,
    /// JSON that describes its options; empty when it has none.
    pub options_schema: String,
}

/// The kinds of plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PluginKind {
    /// Computes.
    Backend,
    /// Declares a step of distillation.
    Stage,
    /// Merges models.
    Merge,
    /// A tokenizer.
    Text,
    /// A kind that this version of the crate does not know.
    Other(i32),
}

impl From<sys::xh_plugin_kind> for PluginKind {
    fn from(kind: sys::xh_plugin_kind) -> Self {
        match to_usize(kind.into()) as u32 {
            sys::XH_PLUGIN_BACKEND => PluginKind::Backend,
            sys::XH_PLUGIN_STAGE => PluginKind::Stage,
            sys::XH_PLUGIN_MERGE => PluginKind::Merge,
            sys::XH_PLUGIN_TEXT => PluginKind::Text,
            _ => PluginKind::Other(kind),
        }
    }
}
