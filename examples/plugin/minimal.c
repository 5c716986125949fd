/* A backend outside the project: host memory, one thread and one op, XH_OP_ADD in f32. It is where a backend begins:
 * every op that is missing answers XH_UNSUPPORTED from plan_open, and xhybrid-conformance counts what is there. */
#include <stdlib.h>
#include <string.h>

#include "xhybrid_plugin.h"

static const xh_host* host;

static xh_error* refuse(xh_code code, const char* text) { return host->error_new(code, "minimal", text); }

/* ---- device, memory, streams: everything is done when a call returns ---- */

struct xh_device {
  int unused;
};
struct xh_stream {
  int unused;
};
struct xh_event {
  int unused;
};
static struct xh_device the_device;
static struct xh_stream the_stream;
static struct xh_event the_event;

static xh_error* device_count(int32_t* out) {
  *out = 1;
  return NULL;
}
static xh_error* device_open(int32_t index, const xh_option* options, int64_t count, xh_device** out) {
  if (index != 0) return refuse(XH_NOT_FOUND, "there is one device; allowed: 0");
  for (int64_t i = 0; i < count; ++i) {
    if (strcmp(options[i].key, "threads") != 0) return refuse(XH_INVALID_ARGUMENT, "unknown option; allowed: threads");
  }
  *out = &the_device;
  return NULL;
}
static void device_close(xh_device* device) { (void)device; }
static xh_error* device_query(xh_device* device, const char* key, xh_option* out) {
  const xh_option facts[] = {{"name", "minimal", 0, 0, XH_OPTION_TEXT, 0},
                             {"isa", "portable", 0, 0, XH_OPTION_TEXT, 0},
                             {"memory_bytes", NULL, INT64_MAX, 0, XH_OPTION_INT, 0},
                             {"threads", NULL, 1, 0, XH_OPTION_INT, 0},
                             {"host_memory", NULL, 1, 0, XH_OPTION_BOOL, 0}};
  (void)device;
  for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); ++i) {
    if (strcmp(key, facts[i].key) != 0) continue;
    *out = facts[i];
    return NULL;
  }
  return refuse(XH_NOT_FOUND, "unknown fact; allowed: name, isa, memory_bytes, threads, host_memory");
}
static xh_error* allocate(xh_device* device, int64_t bytes, int64_t alignment, void** out) {
  void* memory = NULL;
  (void)device;
  if (bytes < 0) return refuse(XH_INVALID_ARGUMENT, "bytes is negative");
  if (alignment < 64) alignment = 64;
  if (posix_memalign(&memory, (size_t)alignment, (size_t)bytes) != 0) {
    return refuse(XH_OUT_OF_MEMORY, "the host has not that much memory");
  }
  *out = memory;
  return NULL;
}
static void release(xh_device* device, void* memory) {
  (void)device;
  free(memory);
}
static xh_error* stream_open(xh_device* device, void* native, xh_stream** out) {
  (void)device;
  if (native != NULL) return refuse(XH_UNSUPPORTED, "there are no native streams");
  *out = &the_stream;
  return NULL;
}
static void stream_close(xh_stream* stream) { (void)stream; }
static xh_error* record(xh_stream* stream, xh_event** out) {
  (void)stream;
  *out = &the_event;
  return NULL;
}
static xh_error* wait(xh_stream* stream, xh_event* event) {
  (void)stream;
  return event != NULL ? NULL : refuse(XH_INVALID_ARGUMENT, "event is NULL");
}
static void event_close(xh_event* event) { (void)event; }
static xh_error* synchronize(xh_stream* stream) {
  (void)stream;
  return NULL;
}
static xh_error* copy(xh_stream* stream, void* to, const void* from, int64_t bytes) {
  (void)stream;
  if (bytes < 0 || (bytes > 0 && (to == NULL || from == NULL))) return refuse(XH_INVALID_ARGUMENT, "copy of nothing");
  if (bytes > 0) memmove(to, from, (size_t)bytes);
  return NULL;
}

/* ---- plans ---- */

struct xh_plan {
  xh_pass pass;
  int64_t rows, columns;
};

/* INFER and FORWARD: a, b -> y. BACKWARD: a, b, y, dy, da, db, of which ADD needs dy alone. */
enum { A = 0, B = 1, Y = 2, DY = 3, DA = 4, DB = 5 };

static int is_matrix(const xh_tensor* t) {
  return t->dtype == XH_F32 && t->rank == 2 && t->stride[1] == 1 && t->shape[0] >= 1 && t->shape[1] >= 1;
}

static xh_error* plan_open(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  const int backward = desc->pass == XH_BACKWARD;
  const xh_tensor* like = &desc->args[backward ? DY : Y];
  xh_plan* plan;
  (void)device;
  if (desc->op != XH_OP_ADD) return refuse(XH_UNSUPPORTED, "the minimal backend has ADD alone");
  if (desc->arg_count != (backward ? 6 : 3)) return refuse(XH_INVALID_ARGUMENT, "ADD: wrong number of arguments");
  for (int i = backward ? DY : A; i < desc->arg_count; ++i) {
    const xh_tensor* t = &desc->args[i];
    if (t->dtype == 0 && backward && i != DY) continue; /* a gradient that is not wanted */
    if (t->dtype == XH_BF16) return refuse(XH_UNSUPPORTED, "ADD: bf16; this backend has f32");
    if (!is_matrix(t)) return refuse(XH_INVALID_ARGUMENT, "ADD: an argument is no f32 matrix with contiguous rows");
    if (t->shape[0] != like->shape[0] || t->shape[1] != like->shape[1]) {
      return refuse(XH_INVALID_ARGUMENT, "ADD: the arguments differ in shape");
    }
  }
  plan = malloc(sizeof(*plan));
  if (plan == NULL) return refuse(XH_OUT_OF_MEMORY, "no memory for a plan");
  plan->pass = desc->pass;
  plan->rows = like->shape[0];
  plan->columns = like->shape[1];
  info->workspace_bytes = info->saved_bytes = 0;
  info->alignment = 64;
  info->implementation = "loops";
  *out = plan;
  return NULL;
}
static void plan_close(xh_plan* plan) { free(plan); }

/* to = first + second, or to += first where `second` is absent and the tensor says so. */
static void add(const xh_plan* plan, const xh_tensor* first, const xh_tensor* second, const xh_tensor* to) {
  for (int64_t i = 0; i < plan->rows; ++i) {
    const float* a = (const float*)first->data + i * first->stride[0];
    const float* b = second == NULL ? NULL : (const float*)second->data + i * second->stride[0];
    float* y = (float*)to->data + i * to->stride[0];
    for (int64_t j = 0; j < plan->columns; ++j) {
      if (b != NULL) {
        y[j] = a[j] + b[j];
      } else {
        y[j] = (to->flags & XH_TENSOR_ACCUMULATE ? y[j] : 0) + a[j];
      }
    }
  }
}

static xh_error* plan_run(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t arg_count,
                          void* workspace, void* saved) {
  (void)stream, (void)workspace, (void)saved;
  if (plan == NULL || arg_count != (plan->pass == XH_BACKWARD ? 6 : 3)) {
    return refuse(XH_INVALID_ARGUMENT, "ADD: wrong number of arguments");
  }
  if (plan->pass != XH_BACKWARD) {
    add(plan, &args[A], &args[B], &args[Y]);
    return NULL;
  }
  for (int i = DA; i <= DB; ++i) {
    if (args[i].dtype != 0) add(plan, &args[DY], NULL, &args[i]);
  }
  return NULL;
}

static const xh_backend table = {XH_SIZED(xh_backend),
                                 0,
                                 device_count,
                                 device_open,
                                 device_close,
                                 device_query,
                                 allocate,
                                 release,
                                 stream_open,
                                 stream_close,
                                 record,
                                 wait,
                                 event_close,
                                 synchronize,
                                 copy,
                                 plan_open,
                                 plan_close,
                                 plan_run};
static const xh_plugin plugin = {
    XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_BACKEND, 1, "minimal", "1.0.0", "Apache-2.0", NULL, &table, NULL};

const xh_plugin* xh_plugin_v1(const xh_host* services, int32_t index) {
  host = services;
  return index == 0 ? &plugin : NULL;
}
