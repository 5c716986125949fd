// The application interface in Rust: written by bindings.sh (bindgen 0.72.1) from xhybrid.h.

pub const XH_ABI_MAJOR: u32 = 1;
pub const XH_ABI_MINOR: u32 = 0;
pub const XH_ABI_VERSION: u32 = 65536;
#[repr(C)]
#[derive(Debug)]
pub struct xh_error {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xh_bytes {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xh_runtime {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xh_checkpoint {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xh_model {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xh_session {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xh_batch {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xh_job {
    _unused: [u8; 0],
}
pub type xh_code = i32;
#[doc = " the caller passed something that is not allowed"]
pub const XH_INVALID_ARGUMENT: _bindgen_ty_1 = 1;
#[doc = " the object cannot do this now"]
pub const XH_INVALID_STATE: _bindgen_ty_1 = 2;
#[doc = " a file, tensor, plugin or name does not exist"]
pub const XH_NOT_FOUND: _bindgen_ty_1 = 3;
#[doc = " valid, but this build, plugin or device cannot do it"]
pub const XH_UNSUPPORTED: _bindgen_ty_1 = 4;
pub const XH_OUT_OF_MEMORY: _bindgen_ty_1 = 5;
#[doc = " the operating system refused a read or write; the message has its reason"]
pub const XH_IO: _bindgen_ty_1 = 6;
#[doc = " stored bytes are damaged or malformed"]
pub const XH_CORRUPT: _bindgen_ty_1 = 7;
#[doc = " well formed, but of another version, architecture or vocabulary"]
pub const XH_INCOMPATIBLE: _bindgen_ty_1 = 8;
#[doc = " the device failed for good; close it"]
pub const XH_DEVICE_LOST: _bindgen_ty_1 = 9;
pub const XH_CANCELLED: _bindgen_ty_1 = 10;
#[doc = " a defect of the library: please report"]
pub const XH_INTERNAL: _bindgen_ty_1 = 11;
pub type _bindgen_ty_1 = ::core::ffi::c_uint;
pub type xh_option_kind = i32;
pub const XH_OPTION_TEXT: _bindgen_ty_2 = 1;
pub const XH_OPTION_INT: _bindgen_ty_2 = 2;
pub const XH_OPTION_REAL: _bindgen_ty_2 = 3;
pub const XH_OPTION_BOOL: _bindgen_ty_2 = 4;
pub type _bindgen_ty_2 = ::core::ffi::c_uint;
#[doc = " A typed key and value. The field that `kind` names holds the value (BOOL: integer 0 or 1); `reserved` must be 0.\n Unknown keys, wrong kinds and values out of range are XH_INVALID_ARGUMENT and name what is allowed."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_option {
    pub key: *const ::core::ffi::c_char,
    pub text: *const ::core::ffi::c_char,
    pub integer: i64,
    pub real: f64,
    pub kind: xh_option_kind,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_option"][::core::mem::size_of::<xh_option>() - 40usize];
    ["Alignment of xh_option"][::core::mem::align_of::<xh_option>() - 8usize];
    ["Offset of field: xh_option::key"][::core::mem::offset_of!(xh_option, key) - 0usize];
    ["Offset of field: xh_option::text"][::core::mem::offset_of!(xh_option, text) - 8usize];
    ["Offset of field: xh_option::integer"][::core::mem::offset_of!(xh_option, integer) - 16usize];
    ["Offset of field: xh_option::real"][::core::mem::offset_of!(xh_option, real) - 24usize];
    ["Offset of field: xh_option::kind"][::core::mem::offset_of!(xh_option, kind) - 32usize];
    ["Offset of field: xh_option::reserved"][::core::mem::offset_of!(xh_option, reserved) - 36usize];
};
pub type xh_log_level = i32;
pub const XH_LOG_DEBUG: _bindgen_ty_3 = 0;
pub const XH_LOG_INFO: _bindgen_ty_3 = 1;
pub const XH_LOG_WARNING: _bindgen_ty_3 = 2;
pub const XH_LOG_ERROR: _bindgen_ty_3 = 3;
pub type _bindgen_ty_3 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_runtime_config {
    pub struct_size: u32,
    #[doc = " must be 0"]
    pub flags: u32,
    #[doc = " directories or .so files searched first, separated by ':'; NULL for none"]
    pub plugin_path: *const ::core::ffi::c_char,
    #[doc = " \"device\": text, e.g. \"cpu\" (default: best found); \"threads\": int, 0 = all cores"]
    pub options: *const xh_option,
    pub option_count: i64,
    #[doc = " any thread; NULL: silent"]
    pub log: ::core::option::Option<
        unsafe extern "C" fn(
            user: *mut ::core::ffi::c_void,
            level: xh_log_level,
            origin: *const ::core::ffi::c_char,
            text: *const ::core::ffi::c_char,
        ),
    >,
    pub log_user: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_runtime_config"][::core::mem::size_of::<xh_runtime_config>() - 48usize];
    ["Alignment of xh_runtime_config"][::core::mem::align_of::<xh_runtime_config>() - 8usize];
    ["Offset of field: xh_runtime_config::struct_size"]
        [::core::mem::offset_of!(xh_runtime_config, struct_size) - 0usize];
    ["Offset of field: xh_runtime_config::flags"][::core::mem::offset_of!(xh_runtime_config, flags) - 4usize];
    ["Offset of field: xh_runtime_config::plugin_path"]
        [::core::mem::offset_of!(xh_runtime_config, plugin_path) - 8usize];
    ["Offset of field: xh_runtime_config::options"][::core::mem::offset_of!(xh_runtime_config, options) - 16usize];
    ["Offset of field: xh_runtime_config::option_count"]
        [::core::mem::offset_of!(xh_runtime_config, option_count) - 24usize];
    ["Offset of field: xh_runtime_config::log"][::core::mem::offset_of!(xh_runtime_config, log) - 32usize];
    ["Offset of field: xh_runtime_config::log_user"][::core::mem::offset_of!(xh_runtime_config, log_user) - 40usize];
};
pub type xh_plugin_kind = i32;
pub const XH_PLUGIN_BACKEND: _bindgen_ty_4 = 1;
pub const XH_PLUGIN_STAGE: _bindgen_ty_4 = 2;
pub const XH_PLUGIN_MERGE: _bindgen_ty_4 = 3;
pub const XH_PLUGIN_TEXT: _bindgen_ty_4 = 4;
pub type _bindgen_ty_4 = ::core::ffi::c_uint;
#[doc = " Strings are borrowed until the runtime is closed."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_plugin_info {
    pub struct_size: u32,
    pub kind: xh_plugin_kind,
    #[doc = " 0: present but cannot run on this host"]
    pub score: i32,
    pub reserved: i32,
    pub name: *const ::core::ffi::c_char,
    pub version: *const ::core::ffi::c_char,
    pub license: *const ::core::ffi::c_char,
    pub path: *const ::core::ffi::c_char,
    #[doc = " JSON text describing the options, \"\" when it has none"]
    pub options_schema: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_plugin_info"][::core::mem::size_of::<xh_plugin_info>() - 56usize];
    ["Alignment of xh_plugin_info"][::core::mem::align_of::<xh_plugin_info>() - 8usize];
    ["Offset of field: xh_plugin_info::struct_size"][::core::mem::offset_of!(xh_plugin_info, struct_size) - 0usize];
    ["Offset of field: xh_plugin_info::kind"][::core::mem::offset_of!(xh_plugin_info, kind) - 4usize];
    ["Offset of field: xh_plugin_info::score"][::core::mem::offset_of!(xh_plugin_info, score) - 8usize];
    ["Offset of field: xh_plugin_info::reserved"][::core::mem::offset_of!(xh_plugin_info, reserved) - 12usize];
    ["Offset of field: xh_plugin_info::name"][::core::mem::offset_of!(xh_plugin_info, name) - 16usize];
    ["Offset of field: xh_plugin_info::version"][::core::mem::offset_of!(xh_plugin_info, version) - 24usize];
    ["Offset of field: xh_plugin_info::license"][::core::mem::offset_of!(xh_plugin_info, license) - 32usize];
    ["Offset of field: xh_plugin_info::path"][::core::mem::offset_of!(xh_plugin_info, path) - 40usize];
    ["Offset of field: xh_plugin_info::options_schema"]
        [::core::mem::offset_of!(xh_plugin_info, options_schema) - 48usize];
};
pub type xh_dtype = i32;
pub const XH_F32: _bindgen_ty_5 = 1;
pub const XH_F16: _bindgen_ty_5 = 2;
pub const XH_BF16: _bindgen_ty_5 = 3;
pub const XH_I32: _bindgen_ty_5 = 4;
pub const XH_I64: _bindgen_ty_5 = 5;
pub const XH_U8: _bindgen_ty_5 = 6;
pub type _bindgen_ty_5 = ::core::ffi::c_uint;
pub const XH_MAX_RANK: _bindgen_ty_6 = 6;
pub type _bindgen_ty_6 = ::core::ffi::c_uint;
#[doc = " A view of memory. shape and stride count elements; unused entries are 0. dtype 0 marks an absent tensor."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xh_tensor {
    pub data: *mut ::core::ffi::c_void,
    pub shape: [i64; 6usize],
    pub stride: [i64; 6usize],
    pub rank: i32,
    pub dtype: xh_dtype,
    #[doc = " 0: host memory"]
    pub device: i32,
    #[doc = " XH_TENSOR_* of xhybrid_plugin.h; 0 in the application interface"]
    pub flags: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xh_tensor"][::core::mem::size_of::<xh_tensor>() - 120usize];
    ["Alignment of xh_tensor"][::core::mem::align_of::<xh_tensor>() - 8usize];
    ["Offset of field: xh_tensor::data"][::core::mem::offset_of!(xh_tensor, data) - 0usize];
    ["Offset of field: xh_tensor::shape"][::core::mem::offset_of!(xh_tensor, shape) - 8usize];
    ["Offset of field: xh_tensor::stride"][::core::mem::offset_of!(xh_tensor, stride) - 56usize];
    ["Offset of field: xh_tensor::rank"][::core::mem::offset_of!(xh_tensor, rank) - 104usize];
    ["Offset of field: xh_tensor::dtype"][::core::mem::offset_of!(xh_tensor, dtype) - 108usize];
    ["Offset of field: xh_tensor::device"][::core::mem::offset_of!(xh_tensor, device) - 112usize];
    ["Offset of field: xh_tensor::flags"][::core::mem::offset_of!(xh_tensor, flags) - 116usize];
};
extern "C" {
    pub fn xh_error_code(error: *const xh_error) -> xh_code;
    #[doc = " One line: what, where, the value, what is allowed. Borrowed until the error is freed."]
    pub fn xh_error_message(error: *const xh_error) -> *const ::core::ffi::c_char;
    #[doc = " Who raised it: \"core\", \"cpu\", \"merge.ties\". Borrowed until the error is freed."]
    pub fn xh_error_origin(error: *const xh_error) -> *const ::core::ffi::c_char;
    pub fn xh_error_free(error: *mut xh_error);
    #[doc = " A library-owned byte string, also NUL-ended so that text can be read as a C string."]
    pub fn xh_bytes_data(bytes: *const xh_bytes) -> *const ::core::ffi::c_void;
    pub fn xh_bytes_size(bytes: *const xh_bytes) -> i64;
    pub fn xh_bytes_free(bytes: *mut xh_bytes);
    #[doc = " The library's ABI version, XH_ABI_VERSION when header and library agree; and its release, \"0.1.0\". Static."]
    pub fn xh_version() -> u32;
    pub fn xh_release() -> *const ::core::ffi::c_char;
    #[doc = " Opens a runtime and loads every plugin it finds. `config` may be NULL for defaults. Search order: plugin_path,\n XHYBRID_PLUGIN_PATH, the directory xhybrid/ beside libxhybrid.so, the installed plugin directory; never the working\n directory. A plugin that fails to load is skipped and reported by xh_runtime_report. Any thread."]
    pub fn xh_runtime_open(config: *const xh_runtime_config, out: *mut *mut xh_runtime) -> *mut xh_error;
    #[doc = " Frees the runtime. Models, sessions and jobs opened from it keep what they need alive, the log function too."]
    pub fn xh_runtime_close(runtime: *mut xh_runtime);
    pub fn xh_runtime_plugin_count(runtime: *const xh_runtime) -> i64;
    pub fn xh_runtime_plugin_at(runtime: *const xh_runtime, index: i64, out: *mut xh_plugin_info) -> *mut xh_error;
    #[doc = " What this host can run and why not, as JSON: cpu, devices, plugins, searched paths, load failures."]
    pub fn xh_runtime_report(runtime: *const xh_runtime, out: *mut *mut xh_bytes) -> *mut xh_error;
    #[doc = " Opens a checkpoint directory (`*.xhy`) and checks its manifest and file sizes; tensor digests are checked on first\n use. Options: \"load_mode\": \"map\" (default) or \"copy\" (for storage that others may truncate). Any thread."]
    pub fn xh_checkpoint_open(
        runtime: *mut xh_runtime,
        path: *const ::core::ffi::c_char,
        options: *const xh_option,
        option_count: i64,
        out: *mut *mut xh_checkpoint,
    ) -> *mut xh_error;
    pub fn xh_checkpoint_free(checkpoint: *mut xh_checkpoint);
    pub fn xh_checkpoint_tensor_count(checkpoint: *const xh_checkpoint) -> i64;
    #[doc = " Name of tensor `index` in sorted order; NULL when out of range. Borrowed until the checkpoint is freed."]
    pub fn xh_checkpoint_tensor_name(checkpoint: *const xh_checkpoint, index: i64) -> *const ::core::ffi::c_char;
    #[doc = " A read-only host view of one tensor, its digest checked. Borrowed until the checkpoint is freed."]
    pub fn xh_checkpoint_tensor(
        checkpoint: *mut xh_checkpoint,
        name: *const ::core::ffi::c_char,
        out: *mut xh_tensor,
    ) -> *mut xh_error;
    #[doc = " Checks every digest and all padding: the whole of every file is read."]
    pub fn xh_checkpoint_verify(checkpoint: *mut xh_checkpoint) -> *mut xh_error;
    #[doc = " Configuration, mixers, history and tensor table as JSON."]
    pub fn xh_checkpoint_describe(checkpoint: *mut xh_checkpoint, out: *mut *mut xh_bytes) -> *mut xh_error;
    #[doc = " Loads a checkpoint or a Hugging Face directory and places it on the runtime's device.\n Options: \"dtype\": \"stored\" (default), \"f32\" or \"bf16\". Any thread."]
    pub fn xh_model_load(
        runtime: *mut xh_runtime,
        path: *const ::core::ffi::c_char,
        options: *const xh_option,
        option_count: i64,
        out: *mut *mut xh_model,
    ) -> *mut xh_error;
    pub fn xh_model_free(model: *mut xh_model);
    #[doc = " Configuration, mixers, parameter count, state bytes and history as JSON."]
    pub fn xh_model_describe(model: *const xh_model, out: *mut *mut xh_bytes) -> *mut xh_error;
    pub fn xh_model_vocab_size(model: *const xh_model) -> i64;
    #[doc = " Text to token ids. Writes at most `capacity` ids and sets *count to the number there are: call again when larger.\n `add_special` 1 adds what the tokenizer puts around a document (for example <s>), but no second one in front of a\n text that begins with it, as some chat templates write it."]
    pub fn xh_model_encode(
        model: *const xh_model,
        text: *const ::core::ffi::c_char,
        text_size: i64,
        add_special: i32,
        ids: *mut i32,
        capacity: i64,
        count: *mut i64,
    ) -> *mut xh_error;
    pub fn xh_model_decode(
        model: *const xh_model,
        ids: *const i32,
        count: i64,
        out: *mut *mut xh_bytes,
    ) -> *mut xh_error;
    #[doc = " Renders messages ([{\"role\": ..., \"content\": ...}, ...] as JSON) with the model's chat template."]
    pub fn xh_model_chat(
        model: *const xh_model,
        messages_json: *const ::core::ffi::c_char,
        add_generation_prompt: i32,
        out: *mut *mut xh_bytes,
    ) -> *mut xh_error;
    #[doc = " Full forward of one sequence. `tap` is \"logits\" [count, vocab], \"hidden.N\" [count, D] (0: embeddings; N: after block\n N, last after the final norm), \"layers.N.mixer.out\" [count, heads * head_dim], before W_o, or \"layers.N.mixer.gate\"\n [count, heads that mix]. f32, row-major; writes at most `capacity` floats and sets *size to the number there are."]
    pub fn xh_model_forward(
        model: *const xh_model,
        ids: *const i32,
        count: i64,
        tap: *const ::core::ffi::c_char,
        out: *mut f32,
        capacity: i64,
        size: *mut i64,
    ) -> *mut xh_error;
    #[doc = " log p(ids[t] | ids[0..t-1]) for t = 1 .. count-1, in `out` of count - 1 floats."]
    pub fn xh_model_score(model: *const xh_model, ids: *const i32, count: i64, out: *mut f32) -> *mut xh_error;
    #[doc = " One sequence being read and written: one state object with one position (SPEC.md 1.2).\n Options: \"capacity\": int, most tokens (only full-attention heads need memory for it; default: the model's context)."]
    pub fn xh_session_open(
        model: *const xh_model,
        options: *const xh_option,
        option_count: i64,
        out: *mut *mut xh_session,
    ) -> *mut xh_error;
    pub fn xh_session_free(session: *mut xh_session);
    #[doc = " Reads tokens: state advances by `count` positions. Any id out of the vocabulary refuses the whole call."]
    pub fn xh_session_feed(session: *mut xh_session, ids: *const i32, count: i64) -> *mut xh_error;
    #[doc = " Logits after the last token fed, [vocab]; borrowed until the next call on the session."]
    pub fn xh_session_logits(session: *mut xh_session, logits: *mut *const f32, count: *mut i64) -> *mut xh_error;
    pub fn xh_session_position(session: *const xh_session) -> i64;
    pub fn xh_session_state_bytes(session: *const xh_session) -> i64;
    #[doc = " How to choose tokens. Options: \"temperature\": real, 0 = greedy (default); \"top_k\": int, 0 = all; \"top_p\": real, 1;\n \"seed\": int, 0; \"max_tokens\": int, 256; \"stop\": text that ends generation, may repeat. Also resets the counters."]
    pub fn xh_session_sampler(session: *mut xh_session, options: *const xh_option, option_count: i64) -> *mut xh_error;
    #[doc = " Chooses and feeds one token. *token is it; *piece the text that became complete by it (whole characters, may be\n empty; borrowed until the next call); *finished 1 when this was the last (end token, stop text or max_tokens)."]
    pub fn xh_session_next(
        session: *mut xh_session,
        token: *mut i32,
        piece: *mut *const ::core::ffi::c_char,
        piece_size: *mut i64,
        finished: *mut i32,
    ) -> *mut xh_error;
    #[doc = " State as bytes, to keep or to store; restore accepts them only for a model of the same shape."]
    pub fn xh_session_snapshot(session: *const xh_session, out: *mut *mut xh_bytes) -> *mut xh_error;
    pub fn xh_session_restore(session: *mut xh_session, data: *const ::core::ffi::c_void, size: i64) -> *mut xh_error;
    #[doc = " An independent session that continues from the same state."]
    pub fn xh_session_fork(session: *const xh_session, out: *mut *mut xh_session) -> *mut xh_error;
    pub fn xh_session_reset(session: *mut xh_session) -> *mut xh_error;
    #[doc = " Sequences that are written together, so that the weights are read once for all of them. Each slot is empty or holds\n one. Its tokens are those its session would give, but for rounding: products of many rows are summed in another\n order. Options: \"slots\": int, 1 to 1,024 (default 8); \"capacity\": as of xh_session_open, for each slot."]
    pub fn xh_batch_open(
        model: *const xh_model,
        options: *const xh_option,
        option_count: i64,
        out: *mut *mut xh_batch,
    ) -> *mut xh_error;
    pub fn xh_batch_free(batch: *mut xh_batch);
    #[doc = " Copies state, sampler and text of a session of the same model that has read its prompt; the session stays as it is\n and can be used again at once. What the slot held is dropped."]
    pub fn xh_batch_put(batch: *mut xh_batch, slot: i64, session: *const xh_session) -> *mut xh_error;
    pub fn xh_batch_drop(batch: *mut xh_batch, slot: i64) -> *mut xh_error;
    #[doc = " Chooses and feeds one token of every sequence. All four arrays have `slots` places, as many as the batch has; a place\n means what it does in xh_session_next. Empty slots have token -1, an empty piece and finished 0. A finished sequence\n leaves its slot. Where one cannot go on, for its capacity or logits that are not finite, the call names its slot and\n nothing changes: drop it and call again. When the device fails all sequences are lost."]
    pub fn xh_batch_next(
        batch: *mut xh_batch,
        tokens: *mut i32,
        pieces: *mut *const ::core::ffi::c_char,
        piece_sizes: *mut i64,
        finished: *mut i32,
        slots: i64,
    ) -> *mut xh_error;
    pub fn xh_batch_state_bytes(batch: *const xh_batch) -> i64;
    #[doc = " Long work is a job: \"import\", \"export\", \"tokenize\", \"plan\", \"distill\", \"probe\", \"merge\", \"evaluate\" or \"bench\",\n described by a recipe (JSON). The caller pulls it along, so progress needs no callback:\n\n   while (!finished) { error = xh_job_next(job, &event, &finished); ... show event ... }"]
    pub fn xh_job_open(
        runtime: *mut xh_runtime,
        kind: *const ::core::ffi::c_char,
        recipe_json: *const ::core::ffi::c_char,
        out: *mut *mut xh_job,
    ) -> *mut xh_error;
    #[doc = " The options of a kind with types, defaults and help, as JSON. `kind` NULL lists the kinds."]
    pub fn xh_job_schema(
        runtime: *mut xh_runtime,
        kind: *const ::core::ffi::c_char,
        out: *mut *mut xh_bytes,
    ) -> *mut xh_error;
    #[doc = " Does the next piece of work. *event: a JSON object, borrowed until the next call. *finished: 1 after the last piece.\n After xh_job_cancel the piece in hand is finished and saved and the call gives XH_CANCELLED with how to resume. After\n any other error the job is over and further calls give XH_INVALID_STATE: free it; what was saved before stays."]
    pub fn xh_job_next(job: *mut xh_job, event: *mut *const ::core::ffi::c_char, finished: *mut i32) -> *mut xh_error;
    pub fn xh_job_cancel(job: *mut xh_job);
    #[doc = " The outcome as JSON once finished, else XH_INVALID_STATE."]
    pub fn xh_job_result(job: *const xh_job, out: *mut *mut xh_bytes) -> *mut xh_error;
    pub fn xh_job_free(job: *mut xh_job);
}
