/* Continues a text: hello MODEL TEXT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xhybrid.h"

static void check(xh_error* error) {
  if (error == NULL) return;
  fprintf(stderr, "%s: %s\n", xh_error_origin(error), xh_error_message(error));
  exit(1);
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "usage: hello MODEL TEXT\n"), 2;
  xh_runtime* runtime;
  xh_model* model;
  xh_session* session;
  int32_t ids[256], token, finished = 0;
  int64_t count, size;
  const char* piece;
  const xh_option most = {"max_tokens", NULL, 64, 0, XH_OPTION_INT, 0};
  check(xh_runtime_open(NULL, &runtime));
  check(xh_model_load(runtime, argv[1], NULL, 0, &model));
  check(xh_session_open(model, NULL, 0, &session));
  check(xh_model_encode(model, argv[2], (int64_t)strlen(argv[2]), 1, ids, 256, &count));
  check(xh_session_feed(session, ids, count < 256 ? count : 256));
  check(xh_session_sampler(session, &most, 1));
  while (!finished) {
    check(xh_session_next(session, &token, &piece, &size, &finished));
    fwrite(piece, 1, (size_t)size, stdout);
    fflush(stdout);
  }
  puts("");
  xh_session_free(session);
  xh_model_free(model);
  xh_runtime_close(runtime);
  return 0;
}
