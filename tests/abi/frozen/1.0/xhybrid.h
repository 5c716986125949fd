/* xhybrid.h - the C interface of libxhybrid for applications and language bindings.
 *
 * Conventions, the same for every function:
 *  - Errors: a call that can fail returns `xh_error *`. NULL means success. On failure the outputs are untouched and
 * the caller frees the error with xh_error_free. Nothing aborts or throws through this interface.
 *  - Ownership: who makes it frees it. An `xh_x **out` parameter hands over an object; free it with its `_free` or
 * `_close`, which accept NULL. A `const char *` result is borrowed; each function says until when.
 *  - Strings are UTF-8, NUL-ended and copied on entry. Sizes and counts are int64_t and refused when negative.
 *  - Threads: runtime, checkpoint and model may be used from any thread at once (a model does not change after
 * loading). A session, a batch or a job belongs to one thread at a time; xh_job_cancel may be called from any thread.
 *  - Growth: structs that the caller fills begin with `struct_size`; set it with XH_SIZED. Zero is refused.
 */
#ifndef XHYBRID_H_
#define XHYBRID_H_

#include <stddef.h>
#include <stdint.h>

#ifndef XH_API
#if defined(__GNUC__)
#define XH_API __attribute__((visibility("default")))
#else
#define XH_API
#endif
#endif

#if defined(__GNUC__) && !defined(SWIG)
#define XH_CHECKED __attribute__((warn_unused_result))
#else
#define XH_CHECKED
#endif

#define XH_ABI_MAJOR 1u
#define XH_ABI_MINOR 0u
#define XH_ABI_VERSION ((XH_ABI_MAJOR << 16) | XH_ABI_MINOR)
#define XH_SIZED(type) ((uint32_t)sizeof(type))
/* True when the struct at `p` is large enough to hold `field`: how newer code reads structs of older callers. */
#define XH_COVERS(type, p, field) ((p)->struct_size >= offsetof(type, field) + sizeof(((type*)0)->field))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct xh_error xh_error;
typedef struct xh_bytes xh_bytes;
typedef struct xh_runtime xh_runtime;
typedef struct xh_checkpoint xh_checkpoint;
typedef struct xh_model xh_model;
typedef struct xh_session xh_session;
typedef struct xh_batch xh_batch;
typedef struct xh_job xh_job;

/* ---- errors ---------------------------------------------------------------------------------------------------- */

typedef int32_t xh_code;
enum {
  XH_INVALID_ARGUMENT = 1, /* the caller passed something that is not allowed */
  XH_INVALID_STATE = 2,    /* the object cannot do this now */
  XH_NOT_FOUND = 3,        /* a file, tensor, plugin or name does not exist */
  XH_UNSUPPORTED = 4,      /* valid, but this build, plugin or device cannot do it */
  XH_OUT_OF_MEMORY = 5,
  XH_IO = 6,           /* the operating system refused a read or write; the message has its reason */
  XH_CORRUPT = 7,      /* stored bytes are damaged or malformed */
  XH_INCOMPATIBLE = 8, /* well formed, but of another version, architecture or vocabulary */
  XH_DEVICE_LOST = 9,  /* the device failed for good; close it */
  XH_CANCELLED = 10,
  XH_INTERNAL = 11 /* a defect of the library: please report */
};

XH_API xh_code xh_error_code(const xh_error* error);
/* One line: what, where, the value, what is allowed. Borrowed until the error is freed. */
XH_API const char* xh_error_message(const xh_error* error);
/* Who raised it: "core", "cpu", "merge.ties". Borrowed until the error is freed. */
XH_API const char* xh_error_origin(const xh_error* error);
XH_API void xh_error_free(xh_error* error);

/* A library-owned byte string, also NUL-ended so that text can be read as a C string. */
XH_API const void* xh_bytes_data(const xh_bytes* bytes); /* borrowed until freed */
XH_API int64_t xh_bytes_size(const xh_bytes* bytes);     /* without the final NUL */
XH_API void xh_bytes_free(xh_bytes* bytes);

/* ---- options --------------------------------------------------------------------------------------------------- */

typedef int32_t xh_option_kind;
enum { XH_OPTION_TEXT = 1, XH_OPTION_INT = 2, XH_OPTION_REAL = 3, XH_OPTION_BOOL = 4 };
/* A typed key and value. The field that `kind` names holds the value (BOOL: integer 0 or 1); `reserved` must be 0.
 * Unknown keys, wrong kinds and values out of range are XH_INVALID_ARGUMENT and name what is allowed. */
typedef struct xh_option {
  const char* key;
  const char* text;
  int64_t integer;
  double real;
  xh_option_kind kind;
  int32_t reserved;
} xh_option;

/* ---- runtime --------------------------------------------------------------------------------------------------- */

typedef int32_t xh_log_level;
enum { XH_LOG_DEBUG = 0, XH_LOG_INFO = 1, XH_LOG_WARNING = 2, XH_LOG_ERROR = 3 };

typedef struct xh_runtime_config {
  uint32_t struct_size;
  uint32_t flags;           /* must be 0 */
  const char* plugin_path;  /* directories or .so files searched first, separated by ':'; NULL for none */
  const xh_option* options; /* "device": text, e.g. "cpu" (default: best found); "threads": int, 0 = all cores */
  int64_t option_count;
  void (*log)(void* user, xh_log_level level, const char* origin, const char* text); /* any thread; NULL: silent */
  void* log_user;
} xh_runtime_config;

/* The library's ABI version, XH_ABI_VERSION when header and library agree; and its release, "0.1.0". Static. */
XH_API uint32_t xh_version(void);
XH_API const char* xh_release(void);

/* Opens a runtime and loads every plugin it finds. `config` may be NULL for defaults. Search order: plugin_path,
 * XHYBRID_PLUGIN_PATH, the directory xhybrid/ beside libxhybrid.so, the installed plugin directory; never the working
 * directory. A plugin that fails to load is skipped and reported by xh_runtime_report. Any thread. */
XH_API XH_CHECKED xh_error* xh_runtime_open(const xh_runtime_config* config, xh_runtime** out);
/* Frees the runtime. Models, sessions and jobs opened from it keep what they need alive, the log function too. */
XH_API void xh_runtime_close(xh_runtime* runtime);

typedef int32_t xh_plugin_kind;
enum { XH_PLUGIN_BACKEND = 1, XH_PLUGIN_STAGE = 2, XH_PLUGIN_MERGE = 3, XH_PLUGIN_TEXT = 4 };
/* Strings are borrowed until the runtime is closed. */
typedef struct xh_plugin_info {
  uint32_t struct_size;
  xh_plugin_kind kind;
  int32_t score; /* 0: present but cannot run on this host */
  int32_t reserved;
  const char* name;
  const char* version;
  const char* license;
  const char* path;
  const char* options_schema; /* JSON text describing the options, "" when it has none */
} xh_plugin_info;
XH_API int64_t xh_runtime_plugin_count(const xh_runtime* runtime);
XH_API XH_CHECKED xh_error* xh_runtime_plugin_at(const xh_runtime* runtime, int64_t index, xh_plugin_info* out);
/* What this host can run and why not, as JSON: cpu, devices, plugins, searched paths, load failures. */
XH_API XH_CHECKED xh_error* xh_runtime_report(const xh_runtime* runtime, xh_bytes** out);

/* ---- tensors --------------------------------------------------------------------------------------------------- */

typedef int32_t xh_dtype;
enum { XH_F32 = 1, XH_F16 = 2, XH_BF16 = 3, XH_I32 = 4, XH_I64 = 5, XH_U8 = 6 };
enum { XH_MAX_RANK = 6 };
/* A view of memory. shape and stride count elements; unused entries are 0. dtype 0 marks an absent tensor. */
typedef struct xh_tensor {
  void* data;
  int64_t shape[XH_MAX_RANK];
  int64_t stride[XH_MAX_RANK];
  int32_t rank;
  xh_dtype dtype;
  int32_t device; /* 0: host memory */
  int32_t flags;  /* XH_TENSOR_* of xhybrid_plugin.h; 0 in the application interface */
} xh_tensor;

/* ---- checkpoints ----------------------------------------------------------------------------------------------- */

/* Opens a checkpoint directory (`*.xhy`) and checks its manifest and file sizes; tensor digests are checked on first
 * use. Options: "load_mode": "map" (default) or "copy" (for storage that others may truncate). Any thread. */
XH_API XH_CHECKED xh_error* xh_checkpoint_open(xh_runtime* runtime, const char* path, const xh_option* options,
                                               int64_t option_count, xh_checkpoint** out);
XH_API void xh_checkpoint_free(xh_checkpoint* checkpoint);
XH_API int64_t xh_checkpoint_tensor_count(const xh_checkpoint* checkpoint);
/* Name of tensor `index` in sorted order; NULL when out of range. Borrowed until the checkpoint is freed. */
XH_API const char* xh_checkpoint_tensor_name(const xh_checkpoint* checkpoint, int64_t index);
/* A read-only host view of one tensor, its digest checked. Borrowed until the checkpoint is freed. */
XH_API XH_CHECKED xh_error* xh_checkpoint_tensor(xh_checkpoint* checkpoint, const char* name, xh_tensor* out);
/* Checks every digest and all padding: the whole of every file is read. */
XH_API XH_CHECKED xh_error* xh_checkpoint_verify(xh_checkpoint* checkpoint);
/* Configuration, mixers, history and tensor table as JSON. */
XH_API XH_CHECKED xh_error* xh_checkpoint_describe(xh_checkpoint* checkpoint, xh_bytes** out);

/* ---- models ---------------------------------------------------------------------------------------------------- */

/* Loads a checkpoint or a Hugging Face directory and places it on the runtime's device.
 * Options: "dtype": "stored" (default), "f32" or "bf16". Any thread. */
XH_API XH_CHECKED xh_error* xh_model_load(xh_runtime* runtime, const char* path, const xh_option* options,
                                          int64_t option_count, xh_model** out);
XH_API void xh_model_free(xh_model* model);
/* Configuration, mixers, parameter count, state bytes and history as JSON. */
XH_API XH_CHECKED xh_error* xh_model_describe(const xh_model* model, xh_bytes** out);
XH_API int64_t xh_model_vocab_size(const xh_model* model);
/* Text to token ids. Writes at most `capacity` ids and sets *count to the number there are: call again when larger.
 * `add_special` 1 adds what the tokenizer puts around a document (for example <s>), but no second one in front of a
 * text that begins with it, as some chat templates write it. */
XH_API XH_CHECKED xh_error* xh_model_encode(const xh_model* model, const char* text, int64_t text_size,
                                            int32_t add_special, int32_t* ids, int64_t capacity, int64_t* count);
XH_API XH_CHECKED xh_error* xh_model_decode(const xh_model* model, const int32_t* ids, int64_t count, xh_bytes** out);
/* Renders messages ([{"role": ..., "content": ...}, ...] as JSON) with the model's chat template. */
XH_API XH_CHECKED xh_error* xh_model_chat(const xh_model* model, const char* messages_json,
                                          int32_t add_generation_prompt, xh_bytes** out);
/* Full forward of one sequence. `tap` is "logits" [count, vocab], "hidden.N" [count, D] (0: embeddings; N: after block
 * N, last after the final norm), "layers.N.mixer.out" [count, heads * head_dim], before W_o, or "layers.N.mixer.gate"
 * [count, heads that mix]. f32, row-major; writes at most `capacity` floats and sets *size to the number there are. */
XH_API XH_CHECKED xh_error* xh_model_forward(const xh_model* model, const int32_t* ids, int64_t count, const char* tap,
                                             float* out, int64_t capacity, int64_t* size);
/* log p(ids[t] | ids[0..t-1]) for t = 1 .. count-1, in `out` of count - 1 floats. */
XH_API XH_CHECKED xh_error* xh_model_score(const xh_model* model, const int32_t* ids, int64_t count, float* out);

/* ---- generation ------------------------------------------------------------------------------------------------ */

/* One sequence being read and written: one state object with one position (SPEC.md 1.2).
 * Options: "capacity": int, most tokens (only full-attention heads need memory for it; default: the model's context).
 */
XH_API XH_CHECKED xh_error* xh_session_open(const xh_model* model, const xh_option* options, int64_t option_count,
                                            xh_session** out);
XH_API void xh_session_free(xh_session* session);
/* Reads tokens: state advances by `count` positions. Any id out of the vocabulary refuses the whole call. */
XH_API XH_CHECKED xh_error* xh_session_feed(xh_session* session, const int32_t* ids, int64_t count);
/* Logits after the last token fed, [vocab]; borrowed until the next call on the session. */
XH_API XH_CHECKED xh_error* xh_session_logits(xh_session* session, const float** logits, int64_t* count);
XH_API int64_t xh_session_position(const xh_session* session);
XH_API int64_t xh_session_state_bytes(const xh_session* session);
/* How to choose tokens. Options: "temperature": real, 0 = greedy (default); "top_k": int, 0 = all; "top_p": real, 1;
 * "seed": int, 0; "max_tokens": int, 256; "stop": text that ends generation, may repeat. Also resets the counters. */
XH_API XH_CHECKED xh_error* xh_session_sampler(xh_session* session, const xh_option* options, int64_t option_count);
/* Chooses and feeds one token. *token is it; *piece the text that became complete by it (whole characters, may be
 * empty; borrowed until the next call); *finished 1 when this was the last (end token, stop text or max_tokens). */
XH_API XH_CHECKED xh_error* xh_session_next(xh_session* session, int32_t* token, const char** piece,
                                            int64_t* piece_size, int32_t* finished);
/* State as bytes, to keep or to store; restore accepts them only for a model of the same shape. */
XH_API XH_CHECKED xh_error* xh_session_snapshot(const xh_session* session, xh_bytes** out);
XH_API XH_CHECKED xh_error* xh_session_restore(xh_session* session, const void* data, int64_t size);
/* An independent session that continues from the same state. */
XH_API XH_CHECKED xh_error* xh_session_fork(const xh_session* session, xh_session** out);
XH_API XH_CHECKED xh_error* xh_session_reset(xh_session* session);

/* Sequences that are written together, so that the weights are read once for all of them. Each slot is empty or holds
 * one. Its tokens are those its session would give, but for rounding: products of many rows are summed in another
 * order. Options: "slots": int, 1 to 1,024 (default 8); "capacity": as of xh_session_open, for each slot. */
XH_API XH_CHECKED xh_error* xh_batch_open(const xh_model* model, const xh_option* options, int64_t option_count,
                                          xh_batch** out);
XH_API void xh_batch_free(xh_batch* batch);
/* Copies state, sampler and text of a session of the same model that has read its prompt; the session stays as it is
 * and can be used again at once. What the slot held is dropped. */
XH_API XH_CHECKED xh_error* xh_batch_put(xh_batch* batch, int64_t slot, const xh_session* session);
XH_API XH_CHECKED xh_error* xh_batch_drop(xh_batch* batch, int64_t slot);
/* Chooses and feeds one token of every sequence. All four arrays have `slots` places, as many as the batch has; a place
 * means what it does in xh_session_next. Empty slots have token -1, an empty piece and finished 0. A finished sequence
 * leaves its slot. Where one cannot go on, for its capacity or logits that are not finite, the call names its slot and
 * nothing changes: drop it and call again. When the device fails all sequences are lost. */
XH_API XH_CHECKED xh_error* xh_batch_next(xh_batch* batch, int32_t* tokens, const char** pieces, int64_t* piece_sizes,
                                          int32_t* finished, int64_t slots);
XH_API int64_t xh_batch_state_bytes(const xh_batch* batch);

/* ---- jobs ------------------------------------------------------------------------------------------------------ */

/* Long work is a job: "import", "export", "tokenize", "plan", "distill", "probe", "merge", "evaluate" or "bench",
 * described by a recipe (JSON). The caller pulls it along, so progress needs no callback:
 *
 *   while (!finished) { error = xh_job_next(job, &event, &finished); ... show event ... }
 */
XH_API XH_CHECKED xh_error* xh_job_open(xh_runtime* runtime, const char* kind, const char* recipe_json, xh_job** out);
/* The options of a kind with types, defaults and help, as JSON. `kind` NULL lists the kinds. */
XH_API XH_CHECKED xh_error* xh_job_schema(xh_runtime* runtime, const char* kind, xh_bytes** out);
/* Does the next piece of work. *event: a JSON object, borrowed until the next call. *finished: 1 after the last piece.
 * After xh_job_cancel the piece in hand is finished and saved and the call gives XH_CANCELLED with how to resume. After
 * any other error the job is over and further calls give XH_INVALID_STATE: free it; what was saved before stays. */
XH_API XH_CHECKED xh_error* xh_job_next(xh_job* job, const char** event, int32_t* finished);
XH_API void xh_job_cancel(xh_job* job);
/* The outcome as JSON once finished, else XH_INVALID_STATE. */
XH_API XH_CHECKED xh_error* xh_job_result(const xh_job* job, xh_bytes** out);
XH_API void xh_job_free(xh_job* job);

#ifdef __cplusplus
}
#endif
#endif /* XHYBRID_H_ */
