/* Calls every exported function once, from C, and checks what comes back: call_everything MODEL WORK_DIRECTORY.
 * It is built twice, with the headers of today and with the frozen ones: an old application on the new library. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xhybrid.h"

#define EXPECT(condition)                                                           \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

#define SUCCEED(call) Succeed((call), #call)

static void Succeed(xh_error* error, const char* call) {
  if (error == NULL) return;
  fprintf(stderr, "%s\n  %s: %s\n", call, xh_error_origin(error), xh_error_message(error));
  exit(1);
}

static void Fail(xh_error* error, xh_code code, const char* part) {
  EXPECT(error != NULL);
  EXPECT(xh_error_code(error) == code);
  EXPECT(strstr(xh_error_message(error), part) != NULL);
  EXPECT(strlen(xh_error_origin(error)) > 0);
  xh_error_free(error);
}

/* Frees the bytes. */
static void ExpectText(xh_bytes* bytes, const char* part) {
  EXPECT((int64_t)strlen((const char*)xh_bytes_data(bytes)) == xh_bytes_size(bytes));
  EXPECT(strstr((const char*)xh_bytes_data(bytes), part) != NULL);
  xh_bytes_free(bytes);
}

static void Runtime(xh_runtime* runtime) {
  int64_t i;
  xh_bytes* report;
  int found = 0;
  EXPECT(xh_version() >> 16 == XH_ABI_MAJOR);
  EXPECT(xh_version() >= XH_ABI_VERSION);
  EXPECT(strlen(xh_release()) > 0);
  for (i = 0; i < xh_runtime_plugin_count(runtime); ++i) {
    xh_plugin_info info;
    memset(&info, 0, sizeof(info));
    Fail(xh_runtime_plugin_at(runtime, i, &info), XH_INVALID_ARGUMENT, "struct_size");
    info.struct_size = XH_SIZED(xh_plugin_info);
    SUCCEED(xh_runtime_plugin_at(runtime, i, &info));
    found += strcmp(info.name, "cpu") == 0;
  }
  EXPECT(found == 1);
  SUCCEED(xh_runtime_report(runtime, &report));
  ExpectText(report, "cpu");
}

static void Import(xh_runtime* runtime, const char* model, const char* output) {
  char recipe[8192];
  const char* event;
  int32_t finished = 0;
  xh_job* job;
  xh_bytes* bytes;
  SUCCEED(xh_job_schema(runtime, "import", &bytes));
  ExpectText(bytes, "output");
  snprintf(recipe, sizeof(recipe), "{\"model\": \"%s\", \"output\": \"%s\"}", model, output);
  SUCCEED(xh_job_open(runtime, "import", recipe, &job));
  Fail(xh_job_result(job, &bytes), XH_INVALID_STATE, "");
  while (!finished) {
    SUCCEED(xh_job_next(job, &event, &finished));
    EXPECT(strstr(event, "\"kind\"") != NULL);
  }
  SUCCEED(xh_job_result(job, &bytes));
  ExpectText(bytes, "{");
  xh_job_free(job);
  snprintf(recipe, sizeof(recipe), "{\"model\": \"%s\", \"output\": \"%s.cancelled\"}", model, output);
  SUCCEED(xh_job_open(runtime, "import", recipe, &job));
  xh_job_cancel(job);
  Fail(xh_job_next(job, &event, &finished), XH_CANCELLED, "");
  xh_job_free(job);
}

static void Checkpoint(xh_runtime* runtime, const char* path) {
  xh_checkpoint* checkpoint;
  xh_tensor tensor;
  xh_bytes* bytes;
  const char* name;
  SUCCEED(xh_checkpoint_open(runtime, path, NULL, 0, &checkpoint));
  EXPECT(xh_checkpoint_tensor_count(checkpoint) > 10);
  name = xh_checkpoint_tensor_name(checkpoint, 0);
  EXPECT(name != NULL);
  EXPECT(xh_checkpoint_tensor_name(checkpoint, xh_checkpoint_tensor_count(checkpoint)) == NULL);
  SUCCEED(xh_checkpoint_tensor(checkpoint, name, &tensor));
  EXPECT(tensor.data != NULL && tensor.rank > 0);
  Fail(xh_checkpoint_tensor(checkpoint, "nothing", &tensor), XH_NOT_FOUND, "nothing");
  SUCCEED(xh_checkpoint_verify(checkpoint));
  SUCCEED(xh_checkpoint_describe(checkpoint, &bytes));
  ExpectText(bytes, name);
  xh_checkpoint_free(checkpoint);
}

static void Model(const xh_model* model, int32_t* ids, int64_t* count) {
  static const char kText[] = "Once upon a time";
  xh_bytes* bytes;
  float scores[64], *logits;
  int64_t size = 0;
  SUCCEED(xh_model_describe(model, &bytes));
  ExpectText(bytes, "\"family\"");
  SUCCEED(xh_model_encode(model, kText, (int64_t)strlen(kText), 1, ids, 64, count));
  EXPECT(*count > 2 && *count <= 64);
  SUCCEED(xh_model_decode(model, ids, *count, &bytes));
  ExpectText(bytes, kText);
  SUCCEED(xh_model_chat(model, "[{\"role\": \"user\", \"content\": \"Hello\"}]", 1, &bytes));
  ExpectText(bytes, "Hello");
  SUCCEED(xh_model_forward(model, ids, *count, "logits", NULL, 0, &size));
  EXPECT(size == *count * xh_model_vocab_size(model));
  logits = (float*)malloc((size_t)size * sizeof(float));
  SUCCEED(xh_model_forward(model, ids, *count, "logits", logits, size, &size));
  free(logits);
  SUCCEED(xh_model_score(model, ids, *count, scores));
  EXPECT(scores[0] < 0);
}

/* The greedy token after what the session has read. */
static int32_t Greedy(xh_session* session) {
  const xh_option most = {"max_tokens", NULL, 4, 0, XH_OPTION_INT, 0};
  const char* piece;
  int64_t size;
  int32_t token = -1, finished = 0;
  SUCCEED(xh_session_sampler(session, &most, 1));
  SUCCEED(xh_session_next(session, &token, &piece, &size, &finished));
  EXPECT((int64_t)strlen(piece) == size);
  return token;
}

static void Session(const xh_model* model, const int32_t* ids, int64_t count) {
  xh_session *session, *fork;
  xh_bytes* state;
  const float* logits;
  int64_t size = 0;
  int32_t token;
  SUCCEED(xh_session_open(model, NULL, 0, &session));
  SUCCEED(xh_session_feed(session, ids, count));
  EXPECT(xh_session_position(session) == count);
  EXPECT(xh_session_state_bytes(session) > 0);
  SUCCEED(xh_session_logits(session, &logits, &size));
  EXPECT(size == xh_model_vocab_size(model));
  SUCCEED(xh_session_snapshot(session, &state));
  SUCCEED(xh_session_fork(session, &fork));
  token = Greedy(session);
  EXPECT(Greedy(fork) == token);
  SUCCEED(xh_session_reset(fork));
  EXPECT(xh_session_position(fork) == 0);
  SUCCEED(xh_session_restore(fork, xh_bytes_data(state), xh_bytes_size(state)));
  EXPECT(Greedy(fork) == token);
  xh_bytes_free(state);
  xh_session_free(fork);
  xh_session_free(session);
}

static void Batch(const xh_model* model, const int32_t* ids, int64_t count) {
  const xh_option options[] = {{"slots", NULL, 3, 0, XH_OPTION_INT, 0}, {"capacity", NULL, 64, 0, XH_OPTION_INT, 0}};
  xh_session* session;
  xh_batch* batch;
  int32_t tokens[3], finished[3];
  const char* pieces[3];
  int64_t sizes[3];
  SUCCEED(xh_session_open(model, NULL, 0, &session));
  SUCCEED(xh_batch_open(model, options, 2, &batch));
  EXPECT(xh_batch_state_bytes(batch) > 0);
  Fail(xh_batch_put(batch, 1, session), XH_INVALID_STATE, "has read no token");
  SUCCEED(xh_session_feed(session, ids, count));
  SUCCEED(xh_batch_put(batch, 1, session));
  SUCCEED(xh_batch_put(batch, 2, session));
  SUCCEED(xh_batch_drop(batch, 2));
  Fail(xh_batch_next(batch, tokens, pieces, sizes, finished, 2), XH_INVALID_ARGUMENT, "slots is 2");
  SUCCEED(xh_batch_next(batch, tokens, pieces, sizes, finished, 3));
  EXPECT(tokens[0] == -1 && tokens[1] == Greedy(session) && tokens[2] == -1);
  EXPECT(sizes[0] == 0 && (int64_t)strlen(pieces[1]) == sizes[1] && finished[1] == 0);
  xh_batch_free(batch);
  xh_session_free(session);
}

int main(int argc, char** argv) {
  xh_runtime* runtime;
  xh_runtime_config config;
  xh_model* model;
  char path[4096];
  int32_t ids[64];
  int64_t count = 0;
  EXPECT(argc == 3);
  memset(&config, 0, sizeof(config));
  Fail(xh_runtime_open(&config, &runtime), XH_INVALID_ARGUMENT, "struct_size");
  config.struct_size = XH_SIZED(xh_runtime_config);
  SUCCEED(xh_runtime_open(&config, &runtime));
  Runtime(runtime);
  snprintf(path, sizeof(path), "%s/teacher.xhy", argv[2]);
  Import(runtime, argv[1], path);
  Checkpoint(runtime, path);
  SUCCEED(xh_model_load(runtime, path, NULL, 0, &model));
  xh_runtime_close(runtime); /* a model keeps what it needs */
  Model(model, ids, &count);
  Session(model, ids, count);
  Batch(model, ids, count);
  Batch(model, ids, count);
  xh_model_free(model);
  puts("every function was called");
  return 0;
}
