/* The backend "watched" of watched.h. One thread at a time, one device. */
#define _POSIX_C_SOURCE 200809L
#include "watched.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "xhybrid_plugin.h"

static const xh_host* services;
static const xh_backend* real;
static xh_backend watched;

/* ---- the notebook ---- */

enum { kMostCalls = 1 << 20, kMostBlocks = 1 << 16, kMostFill = 4096 };
static char calls[kMostCalls + 1], told[kMostCalls + 1];
static size_t call_count;
static double waiting_seconds, queueing_seconds;

static void Note(char call) {
  if (call_count < kMostCalls) calls[call_count++] = call;
}

static double Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

XH_API const char* xh_watched_calls(void) {
  memcpy(told, calls, call_count);
  told[call_count] = '\0';
  call_count = 0;
  return told;
}

XH_API void xh_watched_seconds(double* waiting, double* queueing) {
  *waiting = waiting_seconds;
  *queueing = queueing_seconds;
  waiting_seconds = queueing_seconds = 0;
}

/* ---- memory ---- */

static struct {
  const char* data;
  int64_t bytes;
} blocks[kMostBlocks];
static size_t block_count;
static int64_t refuse_after = -1;
static int refused;
static xh_device* open_device;
static void* fill[kMostFill];
static size_t fill_count;

XH_API void xh_watched_refuse(int64_t count) {
  refuse_after = count;
  refused = 0;
}
XH_API int xh_watched_refused(void) { return refused; }

static int OnDevice(const void* memory) {
  size_t i;
  for (i = 0; i < block_count; ++i) {
    if ((const char*)memory >= blocks[i].data && (const char*)memory < blocks[i].data + blocks[i].bytes) return 1;
  }
  return 0;
}

static xh_error* Allocate(xh_device* device, int64_t bytes, int64_t alignment, void** out) {
  xh_error* error;
  Note('a');
  if (refuse_after >= 0 && refuse_after-- == 0) {
    refused = 1;
    return services->error_new(XH_OUT_OF_MEMORY, "watched", "this allocation is refused");
  }
  error = real->allocate(device, bytes, alignment, out);
  if (error) return error;
  if (block_count == kMostBlocks) abort();
  blocks[block_count].data = (const char*)*out;
  blocks[block_count++].bytes = bytes;
  return error;
}

static void Release(xh_device* device, void* memory) {
  size_t i;
  Note('f');
  for (i = 0; i < block_count; ++i) {
    if (blocks[i].data != memory) continue;
    blocks[i] = blocks[--block_count];
    break;
  }
  real->release(device, memory);
}

static int64_t Fact(const char* name) {
  xh_option fact;
  memset(&fact, 0, sizeof(fact));
  return real->device_query(open_device, name, &fact) ? 0 : fact.integer;
}

XH_API int xh_watched_host_memory(void) { return Fact("host_memory") != 0; }

/* Refusals that end here stay allocated: a plugin frees no error, and they are few. */
XH_API void xh_watched_fill(int64_t leave) {
  int64_t piece = (int64_t)1 << 36;
  if (leave < 0) {
    while (fill_count > 0) real->release(open_device, fill[--fill_count]);
    return;
  }
  while (piece >= ((int64_t)1 << 20) && fill_count < kMostFill) {
    const int fits = Fact("free_bytes") - leave >= piece && !real->allocate(open_device, piece, 256, &fill[fill_count]);
    if (fits) {
      ++fill_count;
    } else {
      piece /= 2;
    }
  }
}

/* ---- the table ---- */

/* A call, noted and timed. */
#define WATCH(letter, seconds, call) \
  do {                               \
    const double start = Now();      \
    xh_error* const error = call;    \
    seconds += Now() - start;        \
    Note(letter);                    \
    return error;                    \
  } while (0)

static xh_error* DeviceOpen(int32_t index, const xh_option* options, int64_t count, xh_device** out) {
  xh_error* error = real->device_open(index, options, count, out);
  if (!error) open_device = *out;
  return error;
}
static xh_error* PlanOpen(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  WATCH('o', queueing_seconds, real->plan_open(device, desc, out, info));
}
static xh_error* PlanRun(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t count, void* workspace,
                         void* saved) {
  WATCH('r', queueing_seconds, real->plan_run(plan, stream, args, count, workspace, saved));
}
static xh_error* Replay(const xh_capture* capture, xh_stream* stream) {
  WATCH('p', queueing_seconds, real->capture_replay(capture, stream));
}
static xh_error* Begin(xh_stream* stream) { WATCH('b', queueing_seconds, real->capture_begin(stream)); }
static xh_error* End(xh_stream* stream, xh_capture** out) {
  WATCH('e', queueing_seconds, real->capture_end(stream, out));
}
static xh_error* Record(xh_stream* stream, xh_event** out) { WATCH('v', waiting_seconds, real->record(stream, out)); }
static xh_error* Wait(xh_stream* stream, xh_event* event) { WATCH('v', waiting_seconds, real->wait(stream, event)); }
static xh_error* Synchronize(xh_stream* stream) { WATCH('s', waiting_seconds, real->synchronize(stream)); }
static xh_error* Copy(xh_stream* stream, void* to, const void* from, int64_t bytes) {
  const int to_device = OnDevice(to), from_device = OnDevice(from);
  if (from_device && !to_device) WATCH('d', waiting_seconds, real->copy(stream, to, from, bytes));
  WATCH(from_device ? 'm' : 'u', queueing_seconds, real->copy(stream, to, from, bytes));
}

static void FillTable(void) {
  watched = *real;
  watched.device_open = DeviceOpen;
  watched.allocate = Allocate;
  watched.release = Release;
  watched.plan_open = PlanOpen;
  watched.plan_run = PlanRun;
  watched.record = Record;
  watched.wait = Wait;
  watched.synchronize = Synchronize;
  watched.copy = Copy;
  if (!real->capture_begin) return; /* it cannot record */
  watched.capture_begin = Begin;
  watched.capture_end = End;
  watched.capture_replay = Replay;
}

XH_API const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  static xh_plugin plugin = {
      XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_BACKEND, 1, XH_WATCHED_DEVICE, "1", "Apache-2.0", 0, &watched, 0};
  const char* path = getenv("XH_WATCHED");
  void* library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : (void*)0;
  xh_plugin_entry entry;
  const xh_plugin* inner;
  if (index > 0) return (const xh_plugin*)0;
  if (!library) {
    fprintf(stderr, "XH_WATCHED names no backend that loads: %s\n", path ? dlerror() : "it is not set");
    return (const xh_plugin*)0;
  }
  services = host;
  *(void**)&entry = dlsym(library, "xh_plugin_v1");
  inner = entry(host, 0);
  real = (const xh_backend*)inner->table;
  FillTable();
  if (inner->score == 0) {
    plugin.score = 0;
    plugin.unavailable = inner->unavailable;
  }
  return &plugin;
}
