/* The backend "bad": the cpu backend, whose alignment loss goes wrong after as many runs as XH_BAD_AFTER says. What
 * comes then XH_BAD_HOW says: "nan" makes the loss NaN, "error" fails, "cancel" raises SIGUSR1 in the middle of the
 * step, for a test that cancels there. The cpu backend is found at XH_BAD_CPU. */
#include <dlfcn.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "xhybrid_plugin.h"

static const xh_host* services;
static const xh_backend* cpu;
static xh_backend bad;

/* Plans of the loss, told from others by their address. */
enum { kMostPlans = 256 };
static const xh_plan* losses[kMostPlans];

static xh_error* PlanOpen(xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
  xh_error* error = cpu->plan_open(device, desc, out, info);
  int i;
  if (error || desc->op != XH_OP_ALIGN_LOSS || desc->pass == XH_BACKWARD) return error;
  for (i = 0; i < kMostPlans && losses[i]; ++i) continue;
  if (i == kMostPlans) abort();
  losses[i] = *out;
  return error;
}

static void PlanClose(xh_plan* plan) {
  int i;
  for (i = 0; i < kMostPlans; ++i) {
    if (losses[i] == plan) losses[i] = 0;
  }
  cpu->plan_close(plan);
}

/* Whether the run of a loss is one that goes wrong. */
static int GoesWrong(const xh_plan* plan) {
  static int runs;
  const char* after = getenv("XH_BAD_AFTER");
  int i;
  for (i = 0; i < kMostPlans && losses[i] != plan; ++i) continue;
  if (i == kMostPlans || !after) return 0;
  if (strcmp(after, "reset") == 0) runs = 0;
  return strcmp(after, "reset") != 0 && ++runs > atoi(after);
}

static xh_error* PlanRun(const xh_plan* plan, xh_stream* stream, const xh_tensor* args, int32_t count, void* workspace,
                         void* saved) {
  const int wrong = GoesWrong(plan);
  const char* how = getenv("XH_BAD_HOW");
  xh_error* error;
  if (wrong && strcmp(how, "error") == 0) {
    return services->error_new(XH_DEVICE_LOST, "bad", "the device fell off the bus");
  }
  if (wrong && strcmp(how, "cancel") == 0) raise(SIGUSR1);
  error = cpu->plan_run(plan, stream, args, count, workspace, saved);
  if (wrong && !error && strcmp(how, "nan") == 0) ((float*)args[count - 1].data)[0] = (float)NAN;
  return error;
}

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  static xh_plugin plugin = {
      XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_BACKEND, 1, "bad", "1", "Apache-2.0", 0, &bad, 0};
  const char* path = getenv("XH_BAD_CPU");
  void* library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : (void*)0;
  xh_plugin_entry entry;
  if (index > 0 || !library) return (const xh_plugin*)0;
  services = host;
  *(void**)&entry = dlsym(library, "xh_plugin_v1");
  cpu = (const xh_backend*)entry(host, 0)->table;
  bad = *cpu;
  bad.plan_open = PlanOpen;
  bad.plan_close = PlanClose;
  bad.plan_run = PlanRun;
  return &plugin;
}
