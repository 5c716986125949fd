/* A tokenizer outside the project: a token is a byte. It opens for models whose vocab.json is {"bytes": 256}. */
#include <stdio.h>
#include <string.h>

#include "xhybrid_plugin.h"

static const xh_host* host;

struct xh_text {
  int unused;
};
static struct xh_text the_text; /* nothing is remembered: one object serves every model and thread */

struct xh_text_stream {
  char held[4]; /* the bytes of a character that is not whole yet */
  int count;
  char piece[4];
};
enum { MOST_STREAMS = 64 };
static struct xh_text_stream streams[MOST_STREAMS];
static char taken[MOST_STREAMS];

static xh_error* open_text(const xh_text_file* files, int64_t count, xh_text** out) {
  static const char wanted[] = "{\"bytes\": 256}";
  for (int64_t i = 0; i < count; ++i) {
    const int is_ours = strcmp(files[i].name, "vocab.json") == 0 && files[i].size >= (int64_t)strlen(wanted) &&
                        memcmp(files[i].bytes, wanted, strlen(wanted)) == 0;
    if (!is_ours) continue;
    *out = &the_text;
    return NULL;
  }
  return host->error_new(XH_UNSUPPORTED, "text.bytes", "vocab.json is not {\"bytes\": 256}");
}
static void close_text(xh_text* text) { (void)text; }
static int64_t vocab_size(const xh_text* text) {
  (void)text;
  return 256;
}

static xh_error* encode(const xh_text* text, const char* bytes, int64_t size, int32_t add_special, int32_t* ids,
                        int64_t capacity, int64_t* count) {
  (void)text;
  (void)add_special; /* there are no special tokens */
  for (int64_t i = 0; i < size && i < capacity; ++i) ids[i] = (unsigned char)bytes[i];
  *count = size;
  return NULL;
}

static xh_error* out_of_range(int32_t id) {
  char message[64];
  snprintf(message, sizeof(message), "the token id is %d; allowed: 0 to 255", (int)id);
  return host->error_new(XH_INVALID_ARGUMENT, "text.bytes", message);
}

static xh_error* decode(const xh_text* text, const int32_t* ids, int64_t count, char* out, int64_t capacity,
                        int64_t* size) {
  (void)text;
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] > 255) return out_of_range(ids[i]);
    if (i < capacity) out[i] = (char)ids[i];
  }
  *size = count;
  return NULL;
}

static xh_error* special(const xh_text* text, const char* token, int32_t* id) {
  char message[128];
  (void)text;
  (void)id;
  snprintf(message, sizeof(message), "\"%s\" is no token; bytes have no special ones", token);
  return host->error_new(XH_NOT_FOUND, "text.bytes", message);
}

static xh_error* stream_open(const xh_text* text, xh_text_stream** out) {
  (void)text;
  for (int i = 0; i < MOST_STREAMS; ++i) {
    if (__atomic_test_and_set(&taken[i], __ATOMIC_ACQUIRE)) continue;
    streams[i].count = 0;
    *out = &streams[i];
    return NULL;
  }
  return host->error_new(XH_INVALID_STATE, "text.bytes", "more than 64 streams are open");
}
static void stream_close(xh_text_stream* stream) {
  if (stream != NULL) __atomic_clear(&taken[stream - streams], __ATOMIC_RELEASE);
}

/* Bytes of the character that begins with `first`; 1 for a byte that begins none. */
static int character_size(unsigned char first) { return first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1; }

static xh_error* stream_push(xh_text_stream* stream, int32_t id, const char** piece, int64_t* size) {
  if (id < 0 || id > 255) return out_of_range(id);
  stream->held[stream->count++] = (char)id;
  *piece = stream->piece;
  *size = 0;
  if (stream->count < character_size((unsigned char)stream->held[0])) return NULL;
  memcpy(stream->piece, stream->held, sizeof(stream->piece));
  *size = stream->count;
  stream->count = 0;
  return NULL;
}

/* Appends to out what fits and counts all of it. */
static void append(const char* bytes, char* out, int64_t capacity, int64_t* size) {
  for (; *bytes != '\0'; ++bytes, ++*size) {
    if (*size < capacity) out[*size] = *bytes;
  }
}

/* A line "role: content" for each message. */
static xh_error* render(const xh_text* text, const xh_message* messages, int64_t count, int32_t add_generation_prompt,
                        char* out, int64_t capacity, int64_t* size) {
  (void)text;
  *size = 0;
  for (int64_t i = 0; i < count; ++i) {
    append(messages[i].role, out, capacity, size);
    append(": ", out, capacity, size);
    append(messages[i].content, out, capacity, size);
    append("\n", out, capacity, size);
  }
  if (add_generation_prompt) append("assistant: ", out, capacity, size);
  return NULL;
}

static const xh_text_table table = {XH_SIZED(xh_text_table),
                                    0,
                                    "vocab.json",
                                    open_text,
                                    close_text,
                                    vocab_size,
                                    encode,
                                    decode,
                                    special,
                                    stream_open,
                                    stream_push,
                                    stream_close,
                                    render};
static const xh_plugin plugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_TEXT, 1,   "bytes", "1.0.0",
                                 "Apache-2.0",        NULL,           &table,         NULL};

const xh_plugin* xh_plugin_v1(const xh_host* services, int32_t index) {
  host = services;
  return index == 0 ? &plugin : NULL;
}
