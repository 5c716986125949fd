/* A stage outside the project: alignment that trains the gates alone. It fits a student to new data in a few steps
 * without moving its feature maps. Build it with find_package(xhybrid); then a recipe's {"stage": "align_gates",
 * "steps": 20}. */
#include "xhybrid_plugin.h"

struct xh_stage {
  int unused;
};
static struct xh_stage the_stage; /* no options of its own and no state: one object serves every run */

static const char schema[] =
    "{\"options\": [{\"name\": \"learning_rate\", \"type\": \"real\", \"default\": 0.001, \"min\": 0, \"max\": 10,"
    " \"help\": \"peak learning rate\"}]}";

static xh_error* open_stage(const xh_option* options, int64_t count, xh_stage** out) {
  (void)options; /* learning_rate is the trainer's: the schema above only changes its default */
  (void)count;
  *out = &the_stage;
  return NULL;
}

/* One step, declared: what trains, which forwards, which loss. The core plans its memory and repeats it. */
static xh_error* declare(xh_stage* stage, const xh_stage_host* host, xh_step* step) {
  static const char* const gates[] = {"*.xlstm.input_gate.*", "*.xlstm.forget_gate.*", "*.xlstm.output_gate.*"};
  xh_value *teacher, *student, *loss;
  xh_error* error = host->trainable(step, "*", 0);
  (void)stage;
  for (int i = 0; i < 3 && error == NULL; ++i) error = host->trainable(step, gates[i], 1);
  if (error != NULL) return error;
  if ((error = host->forward(step, XH_TEACHER, "mixer.out", &teacher)) != NULL) return error;
  if ((error = host->forward(step, XH_STUDENT_MIXERS, "mixer.out", &student)) != NULL) return error;
  if ((error = host->loss(step, XH_OP_ALIGN_LOSS, NULL, 0, 0, student, teacher, &loss)) != NULL) return error;
  return host->minimize(step, loss);
}

static void close_stage(xh_stage* stage) { (void)stage; }

static const xh_stage_table table = {XH_SIZED(xh_stage_table), 0, schema, open_stage, declare, NULL, NULL, close_stage};
static const xh_plugin plugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_STAGE, 1,   "align_gates", "1.0.0",
                                 "Apache-2.0",        NULL,           &table,          NULL};

const xh_plugin* xh_plugin_v1(const xh_host* services, int32_t index) {
  (void)services; /* this stage makes no errors of its own */
  return index == 0 ? &plugin : NULL;
}
