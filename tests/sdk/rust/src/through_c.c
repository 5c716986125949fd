/* A session opened and written by C alone, for the comparison in bin/overhead.rs. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xhybrid.h"

static void Check(xh_error* error) {
  if (error == NULL) return;
  fprintf(stderr, "%s: %s\n", xh_error_origin(error), xh_error_message(error));
  exit(1);
}

static void SetSampler(xh_session* session) {
  const xh_option options[] = {{"temperature", NULL, 0, 0.0, XH_OPTION_REAL, 0},
                               {"max_tokens", NULL, 100000, 0, XH_OPTION_INT, 0}};
  Check(xh_session_sampler(session, options, 2));
}

/* A session that has read `text`; one thread computes. */
xh_session* through_c_open(const char* path, const char* text) {
  const xh_option options[] = {{"device", "cpu", 0, 0, XH_OPTION_TEXT, 0}, {"threads", NULL, 1, 0, XH_OPTION_INT, 0}};
  const xh_runtime_config config = {XH_SIZED(xh_runtime_config), 0, NULL, options, 2, NULL, NULL};
  xh_runtime* runtime;
  xh_model* model;
  xh_session* session;
  int32_t ids[64];
  int64_t count;
  Check(xh_runtime_open(&config, &runtime));
  Check(xh_model_load(runtime, path, NULL, 0, &model));
  Check(xh_session_open(model, NULL, 0, &session));
  Check(xh_model_encode(model, text, (int64_t)strlen(text), 1, ids, 64, &count));
  Check(xh_session_feed(session, ids, count));
  SetSampler(session);
  xh_model_free(model);
  xh_runtime_close(runtime);
  return session;
}

/* Writes so many tokens, also behind an end token; returns the bytes of their text. */
int64_t through_c_write(xh_session* session, int64_t tokens) {
  int64_t bytes = 0, size;
  for (; tokens > 0; --tokens) {
    int32_t token, finished;
    const char* piece;
    Check(xh_session_next(session, &token, &piece, &size, &finished));
    bytes += size;
    if (finished) SetSampler(session);
  }
  return bytes;
}

void through_c_free(xh_session* session) { xh_session_free(session); }
