/* Stages that are right but for one thing each: "cannot_declare" fails, "half_declared" fails in the middle of its
 * calls, "cannot_save" trains well and then has no state to give. */
#include "xhybrid_plugin.h"

struct xh_stage {
  int unused;
};

static const xh_host* services;
static xh_stage the_stage;

static xh_error* Open(const xh_option* options, int64_t count, xh_stage** out) {
  (void)options, (void)count;
  *out = &the_stage;
  return (xh_error*)0;
}
static void Close(xh_stage* stage) { (void)stage; }

static xh_error* CannotDeclare(xh_stage* stage, const xh_stage_host* host, xh_step* step) {
  (void)stage, (void)host, (void)step;
  return services->error_new(XH_UNSUPPORTED, "stage.cannot_declare", "the moon is full");
}

static xh_error* Align(const xh_stage_host* host, xh_step* step, int minimized) {
  xh_value *teacher, *student, *loss;
  xh_error* error = host->trainable(step, "*.xlstm.*", 1);
  if (!error) error = host->forward(step, XH_TEACHER, "mixer.out", &teacher);
  if (!error) error = host->forward(step, XH_STUDENT_MIXERS, "mixer.out", &student);
  if (!error) error = host->loss(step, XH_OP_ALIGN_LOSS, (const void*)0, 0, 0, student, teacher, &loss);
  if (!error && minimized) error = host->minimize(step, loss);
  return error;
}

static xh_error* HalfDeclared(xh_stage* stage, const xh_stage_host* host, xh_step* step) {
  (void)stage;
  return Align(host, step, 0);
}
static xh_error* Declare(xh_stage* stage, const xh_stage_host* host, xh_step* step) {
  (void)stage;
  return Align(host, step, 1);
}

static xh_error* Save(xh_stage* stage, void* sink, xh_error* (*write)(void*, const void*, int64_t)) {
  (void)stage, (void)sink, (void)write;
  return services->error_new(XH_INTERNAL, "stage.cannot_save", "the state is gone");
}
static xh_error* Restore(xh_stage* stage, const void* bytes, int64_t size) {
  (void)stage, (void)bytes, (void)size;
  return (xh_error*)0;
}

static const xh_stage_table tables[] = {
    {XH_SIZED(xh_stage_table), 0, "", Open, CannotDeclare, 0, 0, Close},
    {XH_SIZED(xh_stage_table), 0, "", Open, HalfDeclared, 0, 0, Close},
    {XH_SIZED(xh_stage_table), 0, "", Open, Declare, Save, Restore, Close},
};
#define STAGE(name, table) \
  { XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_STAGE, 1, name, "1", "Apache-2.0", 0, table, 0 }
static const xh_plugin plugins[] = {STAGE("cannot_declare", &tables[0]), STAGE("half_declared", &tables[1]),
                                    STAGE("cannot_save", &tables[2])};

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  services = host;
  return index < 3 ? &plugins[index] : (const xh_plugin*)0;
}
