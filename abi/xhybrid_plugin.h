/* xhybrid_plugin.h - the C interface of libxhybrid for plugin authors: backends, distillation stages, merge strategies
 * and text (tokenizers).
 *
 * A plugin is a shared library that exports one symbol, xh_plugin_v1. It does not link libxhybrid: what it needs from
 * the host arrives in the xh_host table. Ownership, errors and strings follow xhybrid.h; a plugin makes errors with
 * host->error_new only. No function here may throw, abort or keep a lock while it calls the host.
 */
#ifndef XHYBRID_PLUGIN_H_
#define XHYBRID_PLUGIN_H_

#include "xhybrid.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- entry ----------------------------------------------------------------------------------------------------- */

/* Services of the host. Valid for the life of the process; any thread. */
typedef struct xh_host {
  uint32_t struct_size;
  uint32_t abi; /* XH_ABI_VERSION of the host */
  xh_error* (*error_new)(xh_code code, const char* origin, const char* text);
  void (*log)(xh_log_level level, const char* origin, const char* text);
} xh_host;

typedef struct xh_plugin {
  uint32_t struct_size;
  uint32_t abi; /* XH_ABI_VERSION the plugin was built with; zero is refused, as is another major or a newer minor */
  xh_plugin_kind kind;
  int32_t score;    /* preference among plugins of a kind; 0: cannot run here (say why in `unavailable`) */
  const char* name; /* "cpu", "align", "ties", "sentencepiece"; unique within its kind */
  const char* version;
  const char* license;     /* SPDX identifier */
  const char* unavailable; /* why score is 0, else NULL */
  const void* table;       /* xh_backend, xh_stage_table, xh_merge_table or xh_text_table, by kind */
  void (*shutdown)(void);  /* NULL, or called once before exit; the library is never unloaded */
} xh_plugin;

/* The entry: plugin `index` of this library, NULL past the last. Pointers live as long as the process. */
XH_API const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index);
typedef const xh_plugin* (*xh_plugin_entry)(const xh_host* host, int32_t index);

/* Options a plugin accepts are described by one JSON text, `options_schema`:
 *   {"options": [{"name": "density", "type": "real", "default": 1.0, "min": 0, "max": 1, "help": "..."}, ...]}
 * type: "text", "int", "real", "bool" or "reals" (a list; arrives as text "0.5,0.5"). "choices": [..] limits a text.
 * An option without "default" is required. The core checks recipes against it and passes every option, defaults filled
 * in. */

/* ---- backends -------------------------------------------------------------------------------------------------- */

typedef struct xh_device xh_device;
typedef struct xh_stream xh_stream;
typedef struct xh_event xh_event;
typedef struct xh_plan xh_plan;
typedef struct xh_capture xh_capture;

/* Operations. Letters: M rows, D model width, B batch, T tokens, H query heads, V vocabulary or KV key/value heads by
 * context, d head dimension, n features. Row vectors; "->" separates inputs from outputs; [..]? is optional (absent:
 * dtype 0). Unless said otherwise data are f32 or bf16, any strides with the last dimension contiguous (the gates i, f,
 * o and their gradients, [B,H,T], may have any strides at all: they come as views of [B,T,H]), and every computation
 * accumulates in f32. "needs" lists what BACKWARD reads besides the output gradients; other inputs and
 * outputs are absent there.
 *
 * Passes and their arguments:
 *   XH_INFER     inputs, outputs                            nothing saved
 *   XH_FORWARD   inputs, outputs                            writes `saved`
 *   XH_BACKWARD  inputs, outputs, output gradients (one slot for each output), input gradients (one for each input),
 *                reads `saved`. Losses have no output gradient: its slot is absent.
 * An absent output gradient is zero; an absent input gradient is not wanted. An input gradient with
 * XH_TENSOR_ACCUMULATE is added to what is there, otherwise it is overwritten. Gradients of activations have the
 * activation's dtype, gradients of parameters (matmul w and bias, norm w, embed table, feature map a, head gate w and
 * b) are f32. Outputs may not overlap inputs except where an op says "in place". */
typedef int32_t xh_op;
enum {
  /* x[M,K], w[N,K], bias[N]? -> y[M,N] = x w^T + bias. needs x, w. x, w, y may differ in dtype. */
  XH_OP_MATMUL = 1,
  /* x[M,D], w[D] -> y = x / sqrt(mean(x^2) + eps) * w. needs x, w. params xh_norm_params. */
  XH_OP_RMS_NORM = 2,
  /* x[B,T,H,d], table f32[P,d] (d/2 cosines, then d/2 sines a row), position i32[B] -> y. Half-split pairing; token t
   * of sequence b uses row position[b] + t. needs table, position. */
  XH_OP_ROPE = 3,
  /* a[M,D], b[M,D] -> y = a + b. needs nothing. */
  XH_OP_ADD = 4,
  /* gate[M,F], up[M,F] -> y = silu(gate) * up. needs both. */
  XH_OP_SWIGLU = 5,
  /* table[V,D], ids i32[M] -> y[M,D]. needs ids. */
  XH_OP_EMBED = 6,
  /* x -> y: copy with dtype conversion; same shape, any rank, any strides. needs nothing. */
  XH_OP_CAST = 7,
  /* -> y filled with params.value. */
  XH_OP_FILL = 8,
  /* x f32[M,N] -> y f32[N]: sums over rows, accumulated in double, in a fixed order. INFER only. xh_reduce_params. */
  XH_OP_REDUCE = 9,
  /* logits[M,V] -> values f32[M,k], ids i32[M,k]: the k largest, descending, ties by lower id. INFER only.
     xh_top_k_params. */
  XH_OP_TOP_K = 10,
  /* x[M,D], norm[D]?, w[N,D], bias[N]?, residual[M,F]? -> y[M,F] = residual + f(n(x) w^T + bias). n(x) is x, or with
   * `norm` x / sqrt(mean(x^2) + eps) * norm. f and F by params.activation: LINEAR, F = N and f(u) = u; SWIGLU, N = 2F
   * and f(u) = silu(u[0:F]) * u[F:2F], so that gate rows of w come first, then up rows. x, norm, w, bias, residual and
   * y may differ in dtype. Everything is f32 until y, which is rounded once. y may be the residual (in place: same
   * memory, dtype and strides). norm, w and bias are read ahead: nothing on the stream that was not waited for may
   * still write them. INFER only, and optional: a backend answers XH_UNSUPPORTED where one kernel would not be faster
   * than RMS_NORM, MATMUL, SWIGLU and ADD, and the host then runs those. xh_dense_params. */
  XH_OP_DENSE = 11,

  /* The mLSTM (SPEC.md 1.5, 1.1): q[B,H,T,n], k[B,H,T,n], v[B,KV,T,d], i f32[B,H,T], f f32[B,H,T] (pre-activations),
   * S f32[B,H,n,d]?, z f32[B,H,n]?, m f32[B,H]? (state before; all or none), start i32[B,T]?
   * -> h[B,H,T,d], S'?, z'?, m'? (state after; may be the inputs, in place; all or none). H % KV == 0: head h reads v
   * of h / (H / KV). needs q, k, v, i, f, h, start and the state before, which is a constant: no gradient flows into or
   * out of the state. xh_mlstm_params.
   * start: rows are packed from documents, and each is a sequence of its own: state, normaliser and running maximum
   * begin anew. start[b,t] is the index in the row of the first token of t's document: t where one begins, else
   * start[b,t-1]; anything else is XH_INVALID_ARGUMENT when the plan runs. Absent: one document a row. With a state
   * before or after it is XH_UNSUPPORTED. */
  XH_OP_MLSTM = 32,
  /* Softmax attention over the visible set s <= t and (t - s < window or s < sinks), one softmax (SPEC.md 1.4):
   * q[B,H,T,d], k[B,KV,T,d], v[B,KV,T,d], cache_k[B,C,d]?, cache_v[B,C,d]?, position i32[B]?, start i32[B,T]?
   * -> o[B,H,T,d].
   * The window is a number per key/value head; 0 is unlimited. needs q, k, v, start, o. xh_attention_params.
   * start, as of XH_OP_MLSTM: s >= start[b,t] only, and the sinks are the first of the document, s - start[b,t] <
   * sinks. q and k come rotated by whatever positions the caller chose. With a cache it is XH_UNSUPPORTED.
   * With a cache (INFER only) position[b] tokens came before; their keys and values are read from the cache and those
   * of this call are written to it. Head j owns slots: sinks + window of them where it has a window, `capacity` where
   * it has none, one head after the other. Position p lies in slot p if p < sinks or the window is 0, else in slot
   * sinks + (p - sinks) % window. */
  XH_OP_ATTENTION = 33,
  /* u[B,U,T,d], a[H,d,n] -> phi[B,H,T,n] or [B,H,T,2n]; U is H or KV (head h reads u of h / (H / U)).
   * kind softmax: softmax over features of u a_h; hedgehog: [softmax(u a_h), softmax(-u a_h)]. needs u, a, phi. */
  XH_OP_FEATURE_MAP = 34,
  /* q[B,H,T,d], k[B,KV,T,d], v[B,KV,T,d], w[H,3d], b[H] -> o f32[B,H,T] = sigmoid([q|k|v] w_h + b_h). needs q,k,v,w,o.
   */
  XH_OP_HEAD_GATE = 35,
  /* o f32[B,N,T], x[B,N,T,d], y[B,H,T,d] -> h[B,H,T,d]. Without params N is H and h = o x + (1 - o) y. With
   * xh_heads_params, N heads of them, head heads[j] of h mixes o and x of j with its own y; the others are y's.
   * needs o, x, y. */
  XH_OP_MIX = 36,
  /* x[B,U,T,d] -> y[B,N,T,d]: head j of y is head heads[j] of x, which may come several times. needs nothing.
   * xh_heads_params. */
  XH_OP_SELECT_HEADS = 37,
  /* One token of a hybrid mixer whose heads all have both branches (SPEC.md 1, steps 2 to 6): q[B,H,T,d], k[B,KV,T,d],
   * v[B,KV,T,d] with T = 1 and q, k before RoPE, table f32[P,d], position i32[B], query_map[H,d,n]?, key_map[H,d,n]?
   * (both or none), i f32[B,H,T], f f32[B,H,T], w[H,3d], b[H], S f32[B,H,p,d], z f32[B,H,p], m f32[B,H],
   * cache_k[B,C,d], cache_v[B,C,d] -> h[B,H,T,d]; S, z, m and the cache are updated in place. It is the composition of
   *   o = XH_OP_HEAD_GATE(q, k, v, w, b), q' = XH_OP_ROPE(q), k' = XH_OP_ROPE(k),
   *   x = XH_OP_MLSTM(XH_OP_FEATURE_MAP(q', query_map), XH_OP_FEATURE_MAP(k', key_map), v, i, f) with the state,
   *   y = XH_OP_ATTENTION(q', k', v) with the cache at `position`, h = XH_OP_MIX(o, x, y)
   * where results in between may keep more digits. p is n, 2n with hedgehog maps, and d without maps: then q' and k'
   * are the features. The memory of maps, S and cache begins at multiples of 16 bytes. A position is below P.
   * Backends may leave it out; the host composes then. INFER only. xh_hybrid_step_params. */
  XH_OP_HYBRID_STEP = 38,

  /* student x[B,H,T,d], teacher[B,H,T,d], scale f32[1] -> sums f32[2] = { sum (x - teacher)^2, sum teacher^2 }
   * (accumulated in double). BACKWARD has no output gradient: dx = 2 scale (x - teacher). needs both and scale. */
  XH_OP_ALIGN_LOSS = 48,
  /* logits[M,V], targets i32[M] (negative: ignored), teacher_values f32[M,k]?, teacher_ids i32[M,k]?, scale f32[1]
   * -> losses f32[M,2] = { cross entropy, KL(teacher || student) on the teacher's top k }, zero where ignored.
   * BACKWARD has no output gradient: dlogits = scale (gamma dCE + beta dKL), in place over logits allowed. needs all
   * inputs. xh_distill_params (SPEC.md 4). */
  XH_OP_DISTILL_LOSS = 49,
  /* grad f32[N], schedule f32[4] = { lr, 1 - beta1^t, 1 - beta2^t, gradient scale }
   * -> param[N], first f32[N], second f32[N], master f32[N]? (the f32 parameter when param is bf16), all in place.
   * Decoupled weight decay. A gradient scale that is not finite changes nothing: how a step is skipped without asking
   * the host. INFER only. xh_adamw_params. */
  XH_OP_ADAMW = 50,
  /* squares f32[N], sums f32[S]? -> factor f32[1], the gradient scale of XH_OP_ADAMW: with norm = sqrt(sum of squares),
   * in double, limit / norm where 0 < limit < norm, else 1; NaN where one of the squares or sums is not finite. INFER
   * only. xh_clip_params. */
  XH_OP_CLIP = 51
};

typedef int32_t xh_pass;
enum { XH_INFER = 0, XH_FORWARD = 1, XH_BACKWARD = 2 };

/* xh_tensor.flags */
enum { XH_TENSOR_ACCUMULATE = 1 };

/* Parameters of ops, `params` of xh_op_desc. struct_size first, as everywhere. */
typedef struct xh_norm_params {
  uint32_t struct_size;
  float eps;
} xh_norm_params;
typedef struct xh_fill_params {
  uint32_t struct_size;
  float value;
} xh_fill_params;
typedef struct xh_top_k_params {
  uint32_t struct_size;
  int32_t top_k;
} xh_top_k_params;

typedef int32_t xh_dense_activation;
enum { XH_DENSE_LINEAR = 0, XH_DENSE_SWIGLU = 1 };
typedef struct xh_dense_params {
  uint32_t struct_size;
  xh_dense_activation activation;
  float eps; /* of the norm; not read without one */
} xh_dense_params;

typedef int32_t xh_reduce_kind;
enum { XH_REDUCE_SUM = 0, XH_REDUCE_SUM_SQUARES = 1 };
typedef struct xh_reduce_params {
  uint32_t struct_size;
  xh_reduce_kind kind;
} xh_reduce_params;

typedef int32_t xh_normalizer;
enum {
  XH_NORMALIZER_PLAIN = 0, /* h = q S / (q.z): safe with positive features */
  XH_NORMALIZER_MAX = 1    /* h = q S / max(|q.z|, e^-m): for raw q, k */
};
typedef struct xh_mlstm_params {
  uint32_t struct_size;
  xh_normalizer normalizer;
  float scale;   /* multiplies q: 1, or 1/sqrt(n) with XH_NORMALIZER_MAX */
  int32_t chunk; /* 0: the backend's choice; results do not depend on it beyond rounding */
} xh_mlstm_params;

typedef struct xh_attention_params {
  uint32_t struct_size;
  int32_t sinks;
  float scale;
  int32_t kv_heads;
  const int32_t* windows; /* [kv_heads], borrowed during plan_open */
  int64_t capacity;       /* slots of an unlimited head's cache; 0 without a cache */
} xh_attention_params;

typedef int32_t xh_feature_map;
enum { XH_FEATURE_SOFTMAX = 0, XH_FEATURE_HEDGEHOG = 1 };
typedef struct xh_feature_map_params {
  uint32_t struct_size;
  xh_feature_map kind;
} xh_feature_map_params;

typedef struct xh_heads_params {
  uint32_t struct_size;
  int32_t count;
  const int32_t* heads; /* [count], increasing (XH_OP_SELECT_HEADS: or equal), borrowed during plan_open */
} xh_heads_params;

typedef struct xh_hybrid_step_params {
  uint32_t struct_size;
  xh_feature_map map;       /* of both maps; not read without them */
  xh_normalizer normalizer; /* of the mLSTM, as mlstm_scale, which multiplies its q */
  float mlstm_scale;
  float scale; /* of attention, as what follows */
  int32_t sinks;
  int32_t kv_heads;
  int32_t reserved;       /* must be 0 */
  const int32_t* windows; /* [kv_heads], at least 1 each, borrowed during plan_open */
} xh_hybrid_step_params;

typedef int32_t xh_kl_mode;
enum {
  XH_KL_RENORMALIZED = 0, /* both sides renormalised on the teacher's top k (default) */
  XH_KL_FULL_STUDENT = 1, /* teacher renormalised on the top k, student over the full vocabulary */
  XH_KL_TAIL_BUCKET =
      2 /* k + 1 classes, the last the rest of the vocabulary; teacher_values are then log-probabilities */
};
typedef struct xh_distill_params {
  uint32_t struct_size;
  xh_kl_mode mode;
  float gamma;       /* weight of the cross entropy */
  float beta;        /* weight of the KL, times temperature^2 */
  float temperature; /* divides both sides' logits in the KL */
} xh_distill_params;

typedef struct xh_adamw_params {
  uint32_t struct_size;
  float beta1, beta2, eps, weight_decay;
} xh_adamw_params;
typedef struct xh_clip_params {
  uint32_t struct_size;
  float limit; /* largest norm; 0: not clipped */
} xh_clip_params;

typedef struct xh_op_desc {
  uint32_t struct_size;
  xh_op op;
  xh_pass pass;
  uint32_t flags;        /* must be 0 */
  const xh_tensor* args; /* data NULL; shapes, strides, dtypes and flags count */
  int32_t arg_count;
  uint32_t params_size;
  const void* params;
} xh_op_desc;

typedef struct xh_plan_info {
  uint32_t struct_size;
  uint32_t flags;
  int64_t workspace_bytes;    /* scratch of one run */
  int64_t saved_bytes;        /* FORWARD writes, BACKWARD reads; equal for both */
  int64_t alignment;          /* of workspace and saved */
  const char* implementation; /* for logs; lives as long as the plan */
} xh_plan_info;

/* Sixteen functions, and four that may be NULL. `plan_open` answers capability, implementation and memory in one;
 * XH_UNSUPPORTED with a reason is an ordinary answer. A plan is immutable and may run on several streams at once with
 * different workspaces. Nothing is allocated in plan_run. Errors of asynchronous work surface at synchronize or wait
 * and name the first failed plan. */
typedef struct xh_backend {
  uint32_t struct_size;
  uint32_t reserved;
  xh_error* (*device_count)(int32_t* out);
  /* Options: "threads" (cpu): int, 0 = all cores. */
  xh_error* (*device_open)(int32_t index, const xh_option* options, int64_t count, xh_device** out);
  void (*device_close)(xh_device* device);
  /* Facts by key: "name" (text), "memory_bytes" (int), "threads" (int), "isa" (text), "host_memory" (bool: host
   * pointers and device pointers are the same), "free_bytes" (int, optional: of memory_bytes, what nobody holds now),
   * "prefill_tokens" (int, optional: most tokens of a sequence that are worth reading at once, 256 where it is not
   * said). Unknown key: XH_NOT_FOUND. Text lives as long as the device. */
  xh_error* (*device_query)(xh_device* device, const char* key, xh_option* out);
  xh_error* (*allocate)(xh_device* device, int64_t bytes, int64_t alignment, void** out);
  void (*release)(xh_device* device, void* memory);
  /* native: NULL for a new stream, or a foreign one to adopt (cudaStream_t). */
  xh_error* (*stream_open)(xh_device* device, void* native, xh_stream** out);
  void (*stream_close)(xh_stream* stream);
  xh_error* (*record)(xh_stream* stream, xh_event** out);
  xh_error* (*wait)(xh_stream* stream, xh_event* event);
  void (*event_close)(xh_event* event);
  xh_error* (*synchronize)(xh_stream* stream);
  /* Bytes between host and device memory in any direction, ordered by the stream. */
  xh_error* (*copy)(xh_stream* stream, void* to, const void* from, int64_t bytes);
  xh_error* (*plan_open)(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info);
  void (*plan_close)(xh_plan* plan);
  xh_error* (*plan_run)(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t arg_count,
                        void* workspace, void* saved);
  /* Optional, all four or none (NULL, or a struct_size that ends before them): work noted once and repeated with one
   * call, a CUDA graph. Between begin and end the stream takes plan_run and copies from device to device alone; they
   * are noted, not executed, and anything else on it is XH_INVALID_STATE. After an error in between, end is still
   * called and gives none. replay repeats what was noted, in order, on the same memory, as often as wanted and on any
   * stream of the device, one replay at a time; plans, memory and workspaces must live until capture_close.
   * XH_UNSUPPORTED from begin, end or a plan_run in between is an ordinary answer: the host runs the plans one by one.
   */
  xh_error* (*capture_begin)(xh_stream* stream);
  xh_error* (*capture_end)(xh_stream* stream, xh_capture** out);
  xh_error* (*capture_replay)(const xh_capture* capture, xh_stream* stream);
  void (*capture_close)(xh_capture* capture);
} xh_backend;

/* ---- stages ---------------------------------------------------------------------------------------------------- */

/* A stage is a policy, not a training loop: it declares one step symbolically; the core plans its memory, compiles and
 * repeats it, and owns data, devices, precision, optimiser and checkpoints. */
typedef struct xh_stage xh_stage;
typedef struct xh_step xh_step;   /* the step being declared; valid during `declare` */
typedef struct xh_value xh_value; /* a symbolic result; owned by the step */

typedef int32_t xh_forward;
enum {
  XH_TEACHER = 0,
  XH_STUDENT = 1,
  /* The student's mixers alone, each fed with the teacher's own block input (teacher forcing, SPEC.md 3). */
  XH_STUDENT_MIXERS = 2
};

typedef struct xh_stage_host {
  uint32_t struct_size;
  uint32_t reserved;
  /* Student parameters whose name matches `pattern` ('*' any text) train (1) or not (0); later calls override. */
  xh_error* (*trainable)(xh_step* step, const char* pattern, int32_t on);
  /* Runs a model up to `tap`: "mixer.out" (every layer's attention output before W_o) or "logits" (taken in token
   * blocks: never whole in memory). */
  xh_error* (*forward)(xh_step* step, xh_forward which, const char* tap, xh_value** out);
  /* A loss between two results of the same tap: XH_OP_ALIGN_LOSS (params NULL; summed over layers) or
   * XH_OP_DISTILL_LOSS (params xh_distill_params; top_k of the teacher kept). */
  xh_error* (*loss)(xh_step* step, xh_op op, const void* params, uint32_t params_size, int32_t top_k,
                    const xh_value* student, const xh_value* teacher, xh_value** out);
  /* The loss that training makes small: once a step. */
  xh_error* (*minimize)(xh_step* step, const xh_value* loss);
} xh_stage_host;

typedef struct xh_stage_table {
  uint32_t struct_size;
  uint32_t reserved;
  /* Own options; also overrides defaults of the trainer's options by the same names ("learning_rate", ...). */
  const char* options_schema;
  xh_error* (*open)(const xh_option* options, int64_t count, xh_stage** out);
  xh_error* (*declare)(xh_stage* stage, const xh_stage_host* host, xh_step* step);
  /* State that must survive a restart; both NULL when there is none. Bytes go into the checkpoint. */
  xh_error* (*save)(xh_stage* stage, void* sink, xh_error* (*write)(void* sink, const void* bytes, int64_t size));
  xh_error* (*restore)(xh_stage* stage, const void* bytes, int64_t size);
  void (*close)(xh_stage* stage);
} xh_stage_table;

/* ---- merges ---------------------------------------------------------------------------------------------------- */

/* Arithmetic on one tensor at a time; the core does files, threads, dtypes (f32 in and out) and order. */
typedef struct xh_merge xh_merge;
enum {
  XH_MERGE_ELEMENTWISE =
      1, /* combine may be called on tiles, from several threads at once; otherwise on whole tensors */
  XH_MERGE_NEEDS_BASE = 2,
  XH_MERGE_TWO_PASS = 4 /* observe sees each whole tensor before combine is called on it */
};
typedef struct xh_merge_table {
  uint32_t struct_size;
  uint32_t traits;                /* XH_MERGE_* */
  int32_t min_models, max_models; /* max_models 0: any number */
  const char* options_schema;
  /* Checks options and model_count before any tensor is read. */
  xh_error* (*open)(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out);
  /* models: model_count arrays of n floats; base NULL without one. NULL slot without XH_MERGE_TWO_PASS. Observe and the
   * combines of one tensor finish before the next tensor begins. */
  xh_error* (*observe)(xh_merge* merge, const char* name, const float* const* models, const float* base, int64_t n);
  /* Elements [first, first + n) of the tensor: pointers are already at `first`. Before any tensor is read the core asks
   * once with n = 0 and an empty name: refuse here a number of models that does not go with the base or its absence. */
  xh_error* (*combine)(const xh_merge* merge, const char* name, const float* const* models, const float* base,
                       int64_t first, int64_t n, float* out);
  void (*close)(xh_merge* merge);
} xh_merge_table;

/* ---- text ------------------------------------------------------------------------------------------------------ */

typedef struct xh_text xh_text;
typedef struct xh_text_stream xh_text_stream;

typedef struct xh_text_file {
  const char* name;
  const void* bytes;
  int64_t size;
} xh_text_file;
typedef struct xh_message {
  const char* role;
  const char* content;
} xh_message;

/* After open every function but the stream's may be called from any thread at once. */
typedef struct xh_text_table {
  uint32_t struct_size;
  uint32_t reserved;
  const char* main_file; /* the file this plugin reads, "tokenizer.model": how the core chooses a plugin */
  /* Every tokenizer file of the model (main_file, tokenizer_config.json, ...); bytes are borrowed during the call.
   * Without main_file among them a plugin that can render chat templates opens for `render` alone; others refuse. */
  xh_error* (*open)(const xh_text_file* files, int64_t count, xh_text** out);
  void (*close)(xh_text* text);
  int64_t (*vocab_size)(const xh_text* text);
  /* Writes at most `capacity` ids, sets *count to the number there are. */
  xh_error* (*encode)(const xh_text* text, const char* bytes, int64_t size, int32_t add_special, int32_t* ids,
                      int64_t capacity, int64_t* count);
  /* Writes at most `capacity` bytes, sets *size to the number there are. */
  xh_error* (*decode)(const xh_text* text, const int32_t* ids, int64_t count, char* out, int64_t capacity,
                      int64_t* size);
  /* Id of a special token by its text ("<|im_end|>"); XH_NOT_FOUND otherwise. */
  xh_error* (*special)(const xh_text* text, const char* token, int32_t* id);
  /* Streaming decode: push gives the text completed by one id, whole characters only, borrowed until the next push. */
  xh_error* (*stream_open)(const xh_text* text, xh_text_stream** out);
  xh_error* (*stream_push)(xh_text_stream* stream, int32_t id, const char** piece, int64_t* size);
  void (*stream_close)(xh_text_stream* stream);
  /* Chat template; writes at most `capacity` bytes, sets *size. XH_UNSUPPORTED when it cannot render this template. */
  xh_error* (*render)(const xh_text* text, const xh_message* messages, int64_t count, int32_t add_generation_prompt,
                      char* out, int64_t capacity, int64_t* size);
} xh_text_table;

#ifdef __cplusplus
}
#endif
#endif /* XHYBRID_PLUGIN_H_ */
