/* generate MODEL TOKENS: writes so many tokens and prints the processor's and the wall's microseconds. generate.rs does
 * the same through the Rust crate; overhead.sh compares them. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "xhybrid.h"

static void Check(xh_error* error) {
  if (error == NULL) return;
  fprintf(stderr, "%s: %s\n", xh_error_origin(error), xh_error_message(error));
  exit(1);
}

static int64_t Write(xh_session* session, int64_t tokens) {
  int64_t written = 0, bytes = 0, size;
  while (written < tokens) { /* an end token does not end it */
    const xh_option options[] = {{"temperature", NULL, 0, 0.0, XH_OPTION_REAL, 0},
                                 {"max_tokens", NULL, tokens - written, 0, XH_OPTION_INT, 0}};
    int32_t token, finished = 0;
    const char* piece;
    Check(xh_session_sampler(session, options, 2));
    while (!finished) {
      Check(xh_session_next(session, &token, &piece, &size, &finished));
      bytes += size;
      ++written;
    }
  }
  return bytes;
}

static int64_t Micros(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

int main(int argc, char** argv) {
  static const char kText[] = "Once upon a time";
  const xh_option options[] = {{"device", "cpu", 0, 0, XH_OPTION_TEXT, 0}, {"threads", NULL, 1, 0, XH_OPTION_INT, 0}};
  xh_runtime_config config = {XH_SIZED(xh_runtime_config), 0, NULL, NULL, 2, NULL, NULL};
  xh_runtime* runtime;
  xh_model* model;
  xh_session* session;
  int32_t ids[64];
  int64_t count, processor, wall, bytes;
  if (argc != 3) return 2;
  config.options = options;
  Check(xh_runtime_open(&config, &runtime));
  Check(xh_model_load(runtime, argv[1], NULL, 0, &model));
  Check(xh_session_open(model, NULL, 0, &session));
  Check(xh_model_encode(model, kText, (int64_t)strlen(kText), 1, ids, 64, &count));
  Check(xh_session_feed(session, ids, count));
  Write(session, 100); /* warm */
  wall = Micros(CLOCK_MONOTONIC);
  processor = Micros(CLOCK_PROCESS_CPUTIME_ID);
  bytes = Write(session, atoll(argv[2]));
  printf("%lld %lld %lld\n", (long long)(Micros(CLOCK_PROCESS_CPUTIME_ID) - processor),
         (long long)(Micros(CLOCK_MONOTONIC) - wall), (long long)bytes);
  xh_session_free(session);
  xh_model_free(model);
  xh_runtime_close(runtime);
  return 0;
}
