// A tokenizer whose ids are the bytes of a text; its file holds the word "letters". FAULT spoils it.
#include <algorithm>
#include <string>

#include "xhybrid_plugin.h"

// Faults.
#define NOTHING 0
#define STREAM_DIFFERS 1
#define COUNTS_ROOM 2
#define TAKES_ANY_ID 3
#define TAKES_ANY_FILE 4

struct xh_text {
  int unused;
};
struct xh_text_stream {
  std::string held, piece;
};

namespace {

const xh_host* the_host = nullptr;

xh_error* Error(xh_code code, const std::string& text) {
  return the_host->error_new(code, "text.letters", text.c_str());
}

xh_error* Open(const xh_text_file* files, int64_t count, xh_text** out) {
  for (int64_t i = 0; i < count; ++i) {
    const std::string bytes(static_cast<const char*>(files[i].bytes), static_cast<size_t>(files[i].size));
    if (FAULT != TAKES_ANY_FILE && bytes.rfind("letters", 0) != 0) continue;
    *out = new xh_text{0};
    return nullptr;
  }
  return Error(XH_CORRUPT, "no file begins with \"letters\"");
}

void Close(xh_text* text) { delete text; }
int64_t VocabSize(const xh_text*) { return 256; }

xh_error* Encode(const xh_text*, const char* bytes, int64_t size, int32_t, int32_t* ids, int64_t capacity,
                 int64_t* count) {
  for (int64_t i = 0; i < std::min(size, capacity); ++i) ids[i] = static_cast<unsigned char>(bytes[i]);
  *count = FAULT == COUNTS_ROOM && capacity > 0 ? std::min(size, capacity) : size;
  return nullptr;
}

xh_error* CheckId(int32_t id) {
  if (FAULT == TAKES_ANY_ID || (id >= 0 && id < 256)) return nullptr;
  return Error(XH_INVALID_ARGUMENT, "id is " + std::to_string(id) + "; allowed: 0 to 255");
}

xh_error* Decode(const xh_text*, const int32_t* ids, int64_t count, char* out, int64_t capacity, int64_t* size) {
  for (int64_t i = 0; i < count; ++i) {
    if (xh_error* error = CheckId(ids[i])) return error;
    if (i < capacity) out[i] = static_cast<char>(ids[i]);
  }
  *size = count;
  return nullptr;
}

xh_error* Special(const xh_text*, const char* token, int32_t*) {
  return Error(XH_NOT_FOUND, "no special token \"" + std::string(token) + "\"");
}

xh_error* OpenStream(const xh_text*, xh_text_stream** out) {
  *out = new xh_text_stream;
  return nullptr;
}

bool Whole(const std::string& bytes) {
  const unsigned char c = static_cast<unsigned char>(bytes[0]);
  return bytes.size() >= (c < 0x80 ? 1u : c < 0xe0 ? 2u : c < 0xf0 ? 3u : 4u);
}

xh_error* Push(xh_text_stream* stream, int32_t id, const char** piece, int64_t* size) {
  if (xh_error* error = CheckId(id)) return error;
  stream->held += static_cast<char>(id);
  stream->piece.clear();
  if (Whole(stream->held)) stream->piece.swap(stream->held);
  if (FAULT == STREAM_DIFFERS && stream->piece == " ") stream->piece = "_";
  *piece = stream->piece.data();
  *size = static_cast<int64_t>(stream->piece.size());
  return nullptr;
}

void CloseStream(xh_text_stream* stream) { delete stream; }

xh_error* Render(const xh_text*, const xh_message*, int64_t, int32_t, char*, int64_t, int64_t*) {
  return Error(XH_UNSUPPORTED, "there is no chat template");
}

constexpr xh_text_table kTable = {XH_SIZED(xh_text_table),
                                  0,
                                  "letters",
                                  Open,
                                  Close,
                                  VocabSize,
                                  Encode,
                                  Decode,
                                  Special,
                                  OpenStream,
                                  Push,
                                  CloseStream,
                                  Render};
constexpr xh_plugin kPlugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_TEXT, 1,      "letters", "1.0.0",
                               "Apache-2.0",        nullptr,        &kTable,        nullptr};

}  // namespace

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  the_host = host;
  return index == 0 ? &kPlugin : nullptr;
}
