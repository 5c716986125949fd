/* A backend outside the project: host memory, one thread and one op, XH_OP_ADD in f32. It is where a backend begins:
 * every op that is missing answers XH_UNSUPPORTED from plan_open, and xhybrid-conformance counts what is there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "xhybrid_plugin.h"

static const xh_host* host;

static xh_error* refuse(xh_code code, const char* text) { return host->error_new(code, "minimal", text); }
/* "what "value" ..." in one line. */
static xh_error* refuse_name(xh_code code, const char* what, const char* value, const char* allowed) {
  char message[160];
  snprintf(message, sizeof(message), "%s \"%s\"; allowed: %s", what, value, allowed);
  return refuse(code, message);
}

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
  if (count < 0 || (count > 0 && options == NULL)) return refuse(XH_INVALID_ARGUMENT, "options is NULL");
  for (int64_t i = 0; i < count; ++i) {
    if (strcmp(options[i].key, "threads") == 0) continue;
    return refuse_name(XH_INVALID_ARGUMENT, "unknown option", options[i].key, "threads");
  }
  *out = &the_device;
  return NULL;
}
static void device_close(xh_device* device) { (void)device; }
static int64_t memory_bytes(void) { return (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE); }
static xh_error* device_query(xh_device* device, const char* key, xh_option* out) {
  const xh_option facts[] = {{"name", "minimal", 0, 0, XH_OPTION_TEXT, 0},
                             {"isa", "portable", 0, 0, XH_OPTION_TEXT, 0},
                             {"memory_bytes", NULL, memory_bytes(), 0, XH_OPTION_INT, 0},
                             {"threads", NULL, 1, 0, XH_OPTION_INT, 0},
                             {"host_memory", NULL, 1, 0, XH_OPTION_BOOL, 0}};
  (void)device;
  for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); ++i) {
    if (strcmp(key, facts[i].key) != 0) continue;
    *out = facts[i];
    return NULL;
  }
  return refuse_name(XH_NOT_FOUND, "unknown fact", key, "name, isa, memory_bytes, threads, host_memory");
}
static xh_error* allocate(xh_device* device, int64_t bytes, int64_t alignment, void** out) {
  void* memory = NULL;
  (void)device;
  if (bytes < 0) return refuse(XH_INVALID_ARGUMENT, "bytes is negative");
  if (alignment < 1 || (alignment & (alignment - 1)) != 0) {
    return refuse(XH_INVALID_ARGUMENT, "alignment is no power of two");
  }
  if (alignment < 64) alignment = 64;
  if (bytes > memory_bytes() || posix_memalign(&memory, (size_t)alignment, (size_t)bytes) != 0) {
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

/* One argument: absent, or an f32 matrix whose elements of a row lie side by side, of the same shape as the plan's. */
static xh_error* check_argument(const xh_tensor* t, int may_be_absent, xh_plan* plan) {
  char message[128];
  if (t->dtype == 0 && may_be_absent) return NULL;
  if (t->dtype == XH_BF16) return refuse(XH_UNSUPPORTED, "ADD: bf16; this backend has f32");
  if (t->dtype != XH_F32 || t->rank != 2) return refuse(XH_INVALID_ARGUMENT, "ADD: an argument is no f32 matrix");
  if (t->shape[1] > 1 && t->stride[1] != 1) return refuse(XH_UNSUPPORTED, "ADD: the elements of a row have gaps");
  if (plan->rows < 0) plan->rows = t->shape[0], plan->columns = t->shape[1];
  if (t->shape[0] == plan->rows && t->shape[1] == plan->columns) return NULL;
  snprintf(message, sizeof(message),
           "ADD: an argument has the shape [%lld, %lld]; allowed: that of the first, [%lld, %lld]",
           (long long)t->shape[0], (long long)t->shape[1], (long long)plan->rows, (long long)plan->columns);
  return refuse(XH_INVALID_ARGUMENT, message);
}

static xh_error* plan_open(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  const int backward = desc->pass == XH_BACKWARD;
  xh_plan plan = {desc->pass, -1, -1};
  (void)device;
  if (desc->op != XH_OP_ADD) return refuse(XH_UNSUPPORTED, "the minimal backend has ADD alone");
  if (desc->pass < XH_INFER || desc->pass > XH_BACKWARD)
    return refuse(XH_INVALID_ARGUMENT, "ADD: there is no such pass");
  if (desc->arg_count != (backward ? 6 : 3)) return refuse(XH_INVALID_ARGUMENT, "ADD: wrong number of arguments");
  for (int i = backward ? DY : A; i < desc->arg_count; ++i) {
    xh_error* error = check_argument(&desc->args[i], backward, &plan);
    if (error != NULL) return error;
  }
  *out = malloc(sizeof(plan));
  if (*out == NULL) return refuse(XH_OUT_OF_MEMORY, "no memory for a plan");
  **out = plan;
  info->workspace_bytes = info->saved_bytes = 0;
  info->alignment = 64;
  info->implementation = "loops";
  return NULL;
}
static void plan_close(xh_plan* plan) { free(plan); }

/* Row i; NULL where the tensor is absent, which stands for zeros. */
static float* row(const xh_tensor* t, int64_t i) { return t->dtype == 0 ? NULL : (float*)t->data + i * t->stride[0]; }

/* to = first + second, and what `to` holds where it says so. */
static void add(const xh_plan* plan, const xh_tensor* first, const xh_tensor* second, const xh_tensor* to) {
  for (int64_t i = 0; i < plan->rows; ++i) {
    const float *a = row(first, i), *b = row(second, i);
    float* y = row(to, i);
    for (int64_t j = 0; j < plan->columns; ++j) {
      const float before = to->flags & XH_TENSOR_ACCUMULATE ? y[j] : 0;
      y[j] = before + (a == NULL ? 0 : a[j]) + (b == NULL ? 0 : b[j]);
    }
  }
}

static xh_error* plan_run(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t arg_count,
                          void* workspace, void* saved) {
  static const xh_tensor nothing;
  (void)stream, (void)workspace, (void)saved;
  if (plan == NULL || arg_count != (plan->pass == XH_BACKWARD ? 6 : 3)) {
    return refuse(XH_INVALID_ARGUMENT, "ADD: wrong number of arguments");
  }
  if (plan->pass != XH_BACKWARD) {
    add(plan, &args[A], &args[B], &args[Y]);
    return NULL;
  }
  for (int i = DA; i <= DB; ++i) {
    if (args[i].dtype != 0) add(plan, &args[DY], &nothing, &args[i]);
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
                                 plan_run,
                                 NULL, /* it records nothing */
                                 NULL,
                                 NULL,
                                 NULL};
static const xh_plugin plugin = {
    XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_BACKEND, 1, "minimal", "1.0.0", "Apache-2.0", NULL, &table, NULL};

const xh_plugin* xh_plugin_v1(const xh_host* services, int32_t index) {
  host = services;
  return index == 0 ? &plugin : NULL;
}
