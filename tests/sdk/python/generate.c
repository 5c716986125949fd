/* What test_overhead.py is compared with: generate MODEL COUNT. Writes COUNT tokens and prints the nanoseconds that
 * they kept a core busy and a checksum of the ids; once for every line on standard input, so that both sides take
 * turns. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "xhybrid.h"

static void Check(xh_error* error) {
  if (error == NULL) return;
  fprintf(stderr, "%s: %s\n", xh_error_origin(error), xh_error_message(error));
  exit(1);
}

static int64_t Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* An answer that ends before its time is gone on with. */
static uint32_t Generate(xh_session* session, int64_t count) {
  static const int32_t prompt[] = {1, 315, 15};
  const xh_option options[] = {{"temperature", NULL, 0, 1.0, XH_OPTION_REAL, 0},
                               {"max_tokens", NULL, count, 0, XH_OPTION_INT, 0}};
  uint32_t sum = 0;
  int32_t finished = 1;
  Check(xh_session_reset(session));
  Check(xh_session_feed(session, prompt, 3));
  for (int64_t i = 0; i < count; ++i) {
    int32_t token;
    const char* piece;
    int64_t size;
    if (finished) Check(xh_session_sampler(session, options, 2));
    Check(xh_session_next(session, &token, &piece, &size, &finished));
    sum = sum * 31 + (uint32_t)token;
  }
  return sum;
}

int main(int argc, char** argv) {
  const xh_option one = {"threads", NULL, 1, 0, XH_OPTION_INT, 0};
  xh_runtime_config config = {XH_SIZED(xh_runtime_config), 0, NULL, &one, 1, NULL, NULL};
  xh_runtime* runtime;
  xh_model* model;
  xh_session* session;
  if (argc != 3) return fprintf(stderr, "usage: generate MODEL COUNT\n"), 2;
  Check(xh_runtime_open(&config, &runtime));
  Check(xh_model_load(runtime, argv[1], NULL, 0, &model));
  Check(xh_session_open(model, NULL, 0, &session));
  while (getchar() != EOF) {
    const int64_t start = Now();
    const uint32_t sum = Generate(session, atoll(argv[2]));
    printf("%lld %u\n", (long long)(Now() - start), sum);
    fflush(stdout);
  }
  xh_session_free(session);
  xh_model_free(model);
  xh_runtime_close(runtime);
  return 0;
}
