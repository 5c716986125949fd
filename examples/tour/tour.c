/* A tour of libxhybrid in C: a checkpoint's tensor, a streamed answer, an evaluation against the teacher, a merge.
 *
 *   tour TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED
 *
 * tour.cc, tour.py, tour.rs and Tour.java are the same program and print the same bytes. */
#define _POSIX_C_SOURCE 200809L /* open_memstream */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xhybrid.h"

static const char kTensor[] = "model.norm.weight";

static void Fail(const char* origin, const char* message) {
  fflush(stdout);
  fprintf(stderr, "%s: %s\n", origin, message);
  exit(1);
}

static void Check(xh_error* error) {
  if (error != NULL) Fail(xh_error_origin(error), xh_error_message(error));
}

/* ---- a tensor ---- */

static double WidenBf16(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

static double WidenF16(uint16_t half) {
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  const double sign = half >> 15 ? -1.0 : 1.0;
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25));
}

/* The sum in double, in index order. A checkpoint's tensors are contiguous. */
static double Sum(const xh_tensor* tensor) {
  int64_t count = 1, i;
  double sum = 0;
  for (i = 0; i < tensor->rank; ++i) count *= tensor->shape[i];
  for (i = 0; i < count; ++i) {
    switch (tensor->dtype) {
      case XH_F32:
        sum += ((const float*)tensor->data)[i];
        break;
      case XH_F16:
        sum += WidenF16(((const uint16_t*)tensor->data)[i]);
        break;
      case XH_BF16:
        sum += WidenBf16(((const uint16_t*)tensor->data)[i]);
        break;
      default:
        Fail("tour", "the tensor holds no floats");
    }
  }
  return sum;
}

static const char* NameOf(xh_dtype dtype) { return dtype == XH_F32 ? "f32" : dtype == XH_F16 ? "f16" : "bf16"; }

static void ShowTensor(xh_runtime* runtime, const char* path) {
  xh_checkpoint* checkpoint;
  xh_tensor tensor;
  int32_t i;
  Check(xh_checkpoint_open(runtime, path, NULL, 0, &checkpoint));
  Check(xh_checkpoint_verify(checkpoint));                   /* every byte of every file */
  Check(xh_checkpoint_tensor(checkpoint, kTensor, &tensor)); /* a view of the mapped file */
  printf("tensor %s %s [", kTensor, NameOf(tensor.dtype));
  for (i = 0; i < tensor.rank; ++i) printf("%s%lld", i > 0 ? "," : "", (long long)tensor.shape[i]);
  printf("] sum %.6f\n", Sum(&tensor));
  xh_checkpoint_free(checkpoint);
}

/* ---- an answer ---- */

static void PrintIds(const char* what, const int32_t* ids, int64_t count) {
  int64_t i;
  printf("%s", what);
  for (i = 0; i < count; ++i) printf(" %d", ids[i]);
  putchar('\n');
}

/* Reads the question into the session. */
static void Ask(const xh_model* model, xh_session* session, const char* messages) {
  int32_t ids[256];
  int64_t count;
  xh_bytes* prompt;
  Check(xh_model_chat(model, messages, 1, &prompt));
  Check(xh_model_encode(model, (const char*)xh_bytes_data(prompt), xh_bytes_size(prompt), 1, ids, 256, &count));
  xh_bytes_free(prompt);
  if (count > 256) Fail("tour", "the prompt has more than 256 tokens");
  PrintIds("prompt", ids, count);
  Check(xh_session_feed(session, ids, count));
}

/* Prints token ids as they come and the text behind them. */
static void Stream(xh_session* session) {
  char* bytes;
  size_t length, i;
  FILE* text = open_memstream(&bytes, &length);
  int32_t token, finished = 0;
  if (text == NULL) Fail("tour", "no memory for the text");
  printf("tokens");
  while (!finished) {
    const char* piece;
    int64_t size;
    Check(xh_session_next(session, &token, &piece, &size, &finished));
    printf(" %d", token);
    fflush(stdout);
    fwrite(piece, 1, (size_t)size, text);
  }
  fclose(text);
  printf("\ntext ");
  for (i = 0; i < length; ++i) bytes[i] == '\n' ? fputs("\\n", stdout) : putchar(bytes[i]);
  putchar('\n');
  free(bytes);
}

static void Answer(xh_runtime* runtime, const char* path) {
  const xh_option capacity = {"capacity", NULL, 512, 0, XH_OPTION_INT, 0};
  const xh_option greedy[] = {{"temperature", NULL, 0, 0.0, XH_OPTION_REAL, 0},
                              {"max_tokens", NULL, 48, 0, XH_OPTION_INT, 0}};
  xh_model* model;
  xh_session* session;
  Check(xh_model_load(runtime, path, NULL, 0, &model));
  Check(xh_session_open(model, &capacity, 1, &session));
  Ask(model, session, "[{\"role\": \"user\", \"content\": \"What is 7 times 5?\"}]");
  Check(xh_session_sampler(session, greedy, 2));
  Stream(session);
  xh_session_free(session);
  xh_model_free(model);
}

/* ---- jobs ---- */

/* Runs a job to its end and returns its outcome. Takes over `recipe`. */
static json_t* Run(xh_runtime* runtime, const char* kind, json_t* recipe) {
  char* text = json_dumps(recipe, 0);
  const char* event;
  int32_t finished = 0;
  xh_job* job;
  xh_bytes* bytes;
  json_t* result;
  if (text == NULL) Fail("tour", "a path is not UTF-8");
  Check(xh_job_open(runtime, kind, text, &job));
  while (!finished) Check(xh_job_next(job, &event, &finished));
  Check(xh_job_result(job, &bytes));
  result = json_loadb((const char*)xh_bytes_data(bytes), (size_t)xh_bytes_size(bytes), 0, NULL);
  if (result == NULL) Fail("tour", "a result that is not JSON");
  xh_bytes_free(bytes);
  xh_job_free(job);
  free(text);
  json_decref(recipe);
  return result;
}

static void Evaluate(xh_runtime* runtime, const char* teacher, const char* student, const char* task) {
  json_t* result = Run(runtime, "evaluate",
                       json_pack("{s:[s,s], s:[s,s], s:[s], s:i}", "models", teacher, student, "names", "teacher",
                                 "student", "tasks", task, "limit", 16));
  json_t *models = json_object_get(result, "models"), *model, *row;
  size_t m, t;
  json_array_foreach(models, m, model) {
    json_array_foreach(json_object_get(model, "tasks"), t, row) {
      printf("accuracy %s %s %.6f\n", json_string_value(json_object_get(model, "name")),
             json_string_value(json_object_get(row, "task")), json_number_value(json_object_get(row, "accuracy")));
    }
  }
  /* The smallest share of the teacher's accuracy to be given up for the student to win or tie everywhere. */
  printf("alpha* %.6f\n", json_number_value(json_object_get(json_array_get(models, 1), "alpha_star")));
  json_decref(result);
}

static void Merge(xh_runtime* runtime, const char* a, const char* b, const char* output) {
  xh_checkpoint* merged;
  xh_tensor tensor;
  json_decref(Run(runtime, "merge",
                  json_pack("{s:[s,s], s:s, s:{s:f}, s:s, s:b}", "models", a, b, "method", "slerp", "options", "t", 0.5,
                            "output", output, "replace", 1)));
  Check(xh_checkpoint_open(runtime, output, NULL, 0, &merged));
  Check(xh_checkpoint_tensor(merged, kTensor, &tensor));
  printf("merged %lld tensors, norm sum %.6f\n", (long long)xh_checkpoint_tensor_count(merged), Sum(&tensor));
  xh_checkpoint_free(merged);
}

int main(int argc, char** argv) {
  xh_runtime* runtime;
  if (argc != 6) return fprintf(stderr, "usage: tour TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED\n"), 2;
  printf("xhybrid %s\n", xh_release());
  Check(xh_runtime_open(NULL, &runtime));
  ShowTensor(runtime, argv[2]);
  Answer(runtime, argv[2]);
  Evaluate(runtime, argv[1], argv[2], argv[4]);
  Merge(runtime, argv[2], argv[3], argv[5]);
  xh_runtime_close(runtime);
  return 0;
}
