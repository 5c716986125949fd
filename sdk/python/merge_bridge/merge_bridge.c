/* A merge plugin whose arithmetic is elsewhere, in functions that Python hands over through ctypes.
 *
 * One copy of this library carries one strategy: xh_merge_table.open has no place for "which one", and the core asks a
 * library for its plugins once a process. src/xhybrid/merges.py copies it, loads the copy, calls xh_bridge_set, and
 * names the copy in the plugin path of the next runtime.
 *
 * C stands between the core and Python for three things: errors become xh_error through the host's table, nothing calls
 * into an interpreter that has ended (xh_bridge_stop), and an interrupt leaves the function as an error before it is
 * one of Python again.
 */
#include <pthread.h>
#include <stdlib.h>

#include "xhybrid_plugin.h"

#define BRIDGE_API __attribute__((visibility("default")))

enum {
  /* What a callback returns: DONE, or a negative xh_code with a text in `message`. 0 is what ctypes gives when a
   * callback did not come to its end. */
  DONE = 1,
  MESSAGE_BYTES = 1024
};

/* What Python gives. The strings and functions live as long as the process. */
typedef struct xh_bridge {
  uint32_t struct_size;
  uint32_t traits;
  int32_t min_models, max_models;
  const char* name;
  const char* origin; /* "merge." and the name */
  const char* options_schema;
  int32_t (*open)(const xh_option* options, int64_t count, int32_t model_count, int64_t* merge, char* message,
                  int64_t message_bytes);
  int32_t (*combine)(int64_t merge, const char* name, const float* const* models, const float* base, int64_t n,
                     float* out, char* message, int64_t message_bytes);
  void (*close)(int64_t merge);
  /* Called after a callback that answered -XH_CANCELLED, an interrupt: it lets Python raise it again, where the merge
   * was started. Any thread, without the GIL. */
  void (*interrupt)(void);
} xh_bridge;

/* Returns 0, or 1 when a strategy is there already or `bridge` is of another version of this file. */
BRIDGE_API int32_t xh_bridge_set(const xh_bridge* bridge);
/* Returns when no callback runs; none begins after it. Call it without the GIL, which a running callback may want. */
BRIDGE_API void xh_bridge_stop(void);

struct xh_merge {
  int64_t handle; /* Python's name for it */
};

static const xh_host* host;
static xh_bridge strategy;
static xh_merge_table table;
static xh_plugin plugin;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
static int64_t running;
static int stopped;

/* 1 when Python may be called; then leave() has to follow. */
static int enter(void) {
  pthread_mutex_lock(&mutex);
  const int allowed = !stopped;
  running += allowed;
  pthread_mutex_unlock(&mutex);
  return allowed;
}

static void leave(void) {
  pthread_mutex_lock(&mutex);
  if (--running == 0) pthread_cond_broadcast(&idle);
  pthread_mutex_unlock(&mutex);
}

void xh_bridge_stop(void) {
  pthread_mutex_lock(&mutex);
  stopped = 1;
  while (running > 0) pthread_cond_wait(&idle, &mutex);
  pthread_mutex_unlock(&mutex);
}

static xh_error* refuse(xh_code code, const char* text) { return host->error_new(code, strategy.origin, text); }

static xh_error* ended(void) { return refuse(XH_INVALID_STATE, "the Python that defines this strategy has ended"); }

static xh_error* outcome(int32_t answer, const char* message) {
  if (answer == DONE) return NULL;
  if (answer == -XH_CANCELLED) strategy.interrupt();
  if (answer < 0) return refuse(-answer, message);
  return refuse(XH_INTERNAL, "the call into Python did not come to its end");
}

static xh_error* open_merge(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  char message[MESSAGE_BYTES] = "";
  xh_merge* merge = malloc(sizeof(*merge));
  if (merge == NULL) return refuse(XH_OUT_OF_MEMORY, "out of memory");
  if (!enter()) {
    free(merge);
    return ended();
  }
  const int32_t answer = strategy.open(options, count, model_count, &merge->handle, message, sizeof(message));
  leave();
  xh_error* error = outcome(answer, message);
  if (error == NULL) {
    *out = merge;
  } else {
    free(merge);
  }
  return error;
}

static xh_error* combine(const xh_merge* merge, const char* name, const float* const* models, const float* base,
                         int64_t first, int64_t n, float* out) {
  (void)first;
  char message[MESSAGE_BYTES] = "";
  if (n == 0) return NULL; /* the core's question before the first tensor: nothing to compute */
  if (!enter()) return ended();
  const int32_t answer = strategy.combine(merge->handle, name, models, base, n, out, message, sizeof(message));
  leave();
  return outcome(answer, message);
}

static void close_merge(xh_merge* merge) {
  if (enter()) {
    strategy.close(merge->handle);
    leave();
  }
  free(merge);
}

int32_t xh_bridge_set(const xh_bridge* bridge) {
  if (strategy.struct_size != 0 || bridge->struct_size != sizeof(strategy)) return 1;
  strategy = *bridge;
  table = (xh_merge_table){XH_SIZED(xh_merge_table),
                           strategy.traits,
                           strategy.min_models,
                           strategy.max_models,
                           strategy.options_schema,
                           open_merge,
                           NULL,
                           combine,
                           close_merge};
  plugin = (xh_plugin){XH_SIZED(xh_plugin),
                       XH_ABI_VERSION,
                       XH_PLUGIN_MERGE,
                       1,
                       strategy.name,
                       "python",
                       "NOASSERTION", /* SPDX: whose function it is, nobody said */
                       NULL,
                       &table,
                       NULL};
  return 0;
}

const xh_plugin* xh_plugin_v1(const xh_host* services, int32_t index) {
  host = services;
  return index == 0 && strategy.struct_size != 0 ? &plugin : NULL;
}
