/* A plugin as somebody wrote it when version 1.0 came out: built with the frozen headers alone, never changed again.
 * The library of today has to load and run it. A merge (mean of the models), a stage (alignment) and a text (bytes). */
#include <string.h>

#include "xhybrid_plugin.h"

static const xh_host* host;

/* ---- merge ---- */

struct xh_merge {
  int32_t models;
};
static struct xh_merge merges[9];

static xh_error* OpenMerge(const xh_option* options, int64_t count, int32_t model_count, xh_merge** out) {
  (void)options, (void)count;
  merges[model_count].models = model_count;
  *out = &merges[model_count];
  return NULL;
}
static xh_error* Combine(const xh_merge* merge, const char* name, const float* const* models, const float* base,
                         int64_t first, int64_t n, float* out) {
  int64_t i;
  int32_t m;
  (void)name, (void)base, (void)first;
  for (i = 0; i < n; ++i) {
    double sum = 0;
    for (m = 0; m < merge->models; ++m) sum += models[m][i];
    out[i] = (float)(sum / merge->models);
  }
  return NULL;
}
static void CloseMerge(xh_merge* merge) { (void)merge; }
static const xh_merge_table merge_table = {
    XH_SIZED(xh_merge_table), XH_MERGE_ELEMENTWISE, 2, 8, "{\"options\": []}", OpenMerge, NULL, Combine, CloseMerge};

/* ---- stage ---- */

struct xh_stage {
  int32_t opened;
};
static struct xh_stage stage;

static xh_error* OpenStage(const xh_option* options, int64_t count, xh_stage** out) {
  (void)options, (void)count;
  stage.opened = 1;
  *out = &stage;
  return NULL;
}
static xh_error* Declare(xh_stage* self, const xh_stage_host* step_host, xh_step* step) {
  xh_error* error;
  xh_value *teacher, *student, *loss;
  (void)self;
  if ((error = step_host->trainable(step, "*", 0)) != NULL) return error;
  if ((error = step_host->trainable(step, "*.xlstm.*", 1)) != NULL) return error;
  if ((error = step_host->forward(step, XH_TEACHER, "mixer.out", &teacher)) != NULL) return error;
  if ((error = step_host->forward(step, XH_STUDENT_MIXERS, "mixer.out", &student)) != NULL) return error;
  if ((error = step_host->loss(step, XH_OP_ALIGN_LOSS, NULL, 0, 0, student, teacher, &loss)) != NULL) return error;
  return step_host->minimize(step, loss);
}
static void CloseStage(xh_stage* self) { (void)self; }
static const xh_stage_table stage_table = {
    XH_SIZED(xh_stage_table), 0, "{\"options\": []}", OpenStage, Declare, NULL, NULL, CloseStage};

/* ---- text: a token is a byte ---- */

struct xh_text {
  int32_t opened;
};
struct xh_text_stream {
  char byte;
};
static struct xh_text text;
static struct xh_text_stream stream;

static xh_error* OpenText(const xh_text_file* files, int64_t count, xh_text** out) {
  (void)files, (void)count;
  *out = &text;
  return NULL;
}
static void CloseText(xh_text* self) { (void)self; }
static int64_t VocabSize(const xh_text* self) {
  (void)self;
  return 256;
}
static xh_error* Encode(const xh_text* self, const char* bytes, int64_t size, int32_t add_special, int32_t* ids,
                        int64_t capacity, int64_t* count) {
  int64_t i;
  (void)self, (void)add_special;
  for (i = 0; i < size && i < capacity; ++i) ids[i] = (unsigned char)bytes[i];
  *count = size;
  return NULL;
}
static xh_error* Decode(const xh_text* self, const int32_t* ids, int64_t count, char* out, int64_t capacity,
                        int64_t* size) {
  int64_t i;
  (void)self;
  for (i = 0; i < count && i < capacity; ++i) out[i] = (char)ids[i];
  *size = count;
  return NULL;
}
static xh_error* Special(const xh_text* self, const char* token, int32_t* id) {
  (void)self, (void)token, (void)id;
  return host->error_new(XH_NOT_FOUND, "frozen", "bytes have no special tokens");
}
static xh_error* OpenStream(const xh_text* self, xh_text_stream** out) {
  (void)self;
  *out = &stream;
  return NULL;
}
static xh_error* Push(xh_text_stream* self, int32_t id, const char** piece, int64_t* size) {
  self->byte = (char)id;
  *piece = &self->byte;
  *size = 1;
  return NULL;
}
static void CloseStream(xh_text_stream* self) { (void)self; }
static xh_error* Render(const xh_text* self, const xh_message* messages, int64_t count, int32_t add_generation_prompt,
                        char* out, int64_t capacity, int64_t* size) {
  (void)self, (void)messages, (void)count, (void)add_generation_prompt, (void)out, (void)capacity, (void)size;
  return host->error_new(XH_UNSUPPORTED, "frozen", "bytes have no chat template");
}
static const xh_text_table text_table = {XH_SIZED(xh_text_table),
                                         0,
                                         "frozen.bytes",
                                         OpenText,
                                         CloseText,
                                         VocabSize,
                                         Encode,
                                         Decode,
                                         Special,
                                         OpenStream,
                                         Push,
                                         CloseStream,
                                         Render};

static const xh_plugin plugins[] = {{XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_MERGE, 1, "frozen_mean", "1.0",
                                     "Apache-2.0", NULL, &merge_table, NULL},
                                    {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_STAGE, 1, "frozen_align", "1.0",
                                     "Apache-2.0", NULL, &stage_table, NULL},
                                    {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_TEXT, 1, "frozen_bytes", "1.0",
                                     "Apache-2.0", NULL, &text_table, NULL}};

const xh_plugin* xh_plugin_v1(const xh_host* services, int32_t index) {
  host = services;
  return index >= 0 && index < 3 ? &plugins[index] : NULL;
}
