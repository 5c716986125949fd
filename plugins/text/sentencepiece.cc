// The tokenizer of models that ship a tokenizer.model, by the sentencepiece library.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "charsmap.h"
#include "chat_template.h"
#include "xhybrid_plugin.h"

namespace {

constexpr char kOrigin[] = "text.sentencepiece";
constexpr char kMainFile[] = "tokenizer.model";
const xh_host* the_host = nullptr;

// How many bytes at the start of `bytes` (not empty) form one character of UTF-8; 0 when they may yet become one by
// more bytes, -1 when they never do.
int CharacterBytes(const std::string& bytes) {
  auto at = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return -1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  // The second byte's range keeps out overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (bytes.size() > 1 && (at(1) < low || at(1) > high)) return -1;
  for (size_t i = 2; i < std::min(length, bytes.size()); ++i) {
    if ((at(i) & 0xC0) != 0x80) return -1;
  }
  return bytes.size() < length ? 0 : static_cast<int>(length);
}

// A message as one line of UTF-8: the library's own repeat pieces of the file, which may be damaged.
std::string Line(const std::string& text) {
  std::string line;
  for (size_t at = 0; at < text.size();) {
    const int whole = CharacterBytes(text.substr(at, 4));
    const bool shown = whole > 1 || (whole == 1 && static_cast<unsigned char>(text[at]) >= ' ');
    line += shown ? text.substr(at, static_cast<size_t>(whole)) : "?";
    at += static_cast<size_t>(std::max(whole, 1));
  }
  return line;
}

xh_error* Error(xh_code code, const std::string& text) {
  return the_host->error_new(code, kOrigin, Line(text).c_str());
}

// No exception leaves the plugin.
template <typename Body>
xh_error* Guard(Body body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return Error(XH_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return Error(XH_INTERNAL, error.what());
  }
}

}  // namespace

struct xh_text {
  sentencepiece::SentencePieceProcessor processor;
  bool add_bos = false;
  bool add_eos = false;
  std::string chat_template;
  std::string unknown;  // what the unknown piece decodes to
};

struct xh_text_stream {
  const xh_text* text;
  std::string bytes;       // of byte pieces that may still become a character
  std::string piece;       // lent to the caller
  std::vector<int> start;  // ids before the first text came out: there the library drops the space that encoding added
  bool started = false;
};

namespace {

// Reads what matters of tokenizer_config.json; a damaged one is an error, an absent one is not.
xh_error* ReadConfig(const std::string& bytes, xh_text* text) {
  nlohmann::json config = nlohmann::json::parse(bytes, nullptr, false);
  if (!config.is_object()) return Error(XH_CORRUPT, "tokenizer_config.json is not a JSON object");
  auto flag = [&](const char* name) {
    return config.contains(name) && config[name].is_boolean() && config[name].get<bool>();
  };
  text->add_bos = flag("add_bos_token");
  text->add_eos = flag("add_eos_token");
  if (config.contains("chat_template") && config["chat_template"].is_string())
    text->chat_template = config["chat_template"];
  return nullptr;
}

xh_error* OpenFiles(const xh_text_file* files, int64_t count, xh_text** out) {
  auto text = std::make_unique<xh_text>();
  std::string template_file;
  bool loaded = false;
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = files[i].name;
    const std::string bytes(static_cast<const char*>(files[i].bytes), files[i].size);
    if (name == kMainFile) {
      if (!xh::text::CharsmapsAreSound(bytes)) {
        return Error(XH_CORRUPT, "tokenizer.model is damaged: its character map leads outside itself");
      }
      const auto status = text->processor.LoadFromSerializedProto(bytes);
      if (!status.ok()) return Error(XH_CORRUPT, "tokenizer.model is not a sentencepiece model: " + status.ToString());
      loaded = text->processor.GetPieceSize() > 0;
    } else if (name == "tokenizer_config.json") {
      if (xh_error* error = ReadConfig(bytes, text.get())) return error;
    } else if (name == "chat_template.jinja") {
      template_file = bytes;
    }
  }
  if (!template_file.empty()) text->chat_template = template_file;  // newer than the field of the config
  if (!loaded) return Error(XH_CORRUPT, "tokenizer.model holds no pieces");
  const auto status = text->processor.Decode(std::vector<int>{text->processor.unk_id()}, &text->unknown);
  if (!status.ok()) return Error(XH_CORRUPT, "tokenizer.model cannot decode its unknown piece: " + status.ToString());
  *out = text.release();
  return nullptr;
}

xh_error* Open(const xh_text_file* files, int64_t count, xh_text** out) {
  return Guard([&] { return OpenFiles(files, count, out); });
}

void Close(xh_text* text) { delete text; }

int64_t VocabSize(const xh_text* text) { return text->processor.GetPieceSize(); }

xh_error* Encode(const xh_text* text, const char* bytes, int64_t size, int32_t add_special, int32_t* ids,
                 int64_t capacity, int64_t* count) {
  return Guard([&]() -> xh_error* {
    std::vector<int> encoded;
    const auto status = text->processor.Encode(std::string(bytes, size), &encoded);
    if (!status.ok()) return Error(XH_INTERNAL, "encoding failed: " + status.ToString());
    if (add_special != 0 && text->add_bos && text->processor.bos_id() >= 0) {
      encoded.insert(encoded.begin(), text->processor.bos_id());
    }
    if (add_special != 0 && text->add_eos && text->processor.eos_id() >= 0) encoded.push_back(text->processor.eos_id());
    std::copy_n(encoded.begin(), std::min<int64_t>(capacity, static_cast<int64_t>(encoded.size())), ids);
    *count = static_cast<int64_t>(encoded.size());
    return nullptr;
  });
}

xh_error* CheckId(const xh_text* text, int32_t id) {
  if (id >= 0 && id < text->processor.GetPieceSize()) return nullptr;
  return Error(XH_INVALID_ARGUMENT, "token id " + std::to_string(id) + "; allowed: 0 to " +
                                        std::to_string(text->processor.GetPieceSize() - 1));
}

// What there is room for; gives the size of all. `out` may be NULL without room.
int64_t CopyOut(const std::string& text, char* out, int64_t capacity) {
  const int64_t size = static_cast<int64_t>(text.size());
  std::copy_n(text.data(), std::min(capacity, size), out);
  return size;
}

xh_error* Decode(const xh_text* text, const int32_t* ids, int64_t count, char* out, int64_t capacity, int64_t* size) {
  return Guard([&]() -> xh_error* {
    for (int64_t i = 0; i < count; ++i) {
      if (xh_error* error = CheckId(text, ids[i])) return error;
    }
    std::string decoded;
    const auto status = text->processor.Decode(std::vector<int>(ids, ids + count), &decoded);
    if (!status.ok()) return Error(XH_INTERNAL, "decoding failed: " + status.ToString());
    *size = CopyOut(decoded, out, capacity);
    return nullptr;
  });
}

xh_error* Special(const xh_text* text, const char* token, int32_t* id) {
  return Guard([&]() -> xh_error* {
    const int found = text->processor.PieceToId(std::string(token));
    if (text->processor.IdToPiece(found) != token) {
      return Error(XH_NOT_FOUND, std::string("the vocabulary has no token \"") + token + "\"");
    }
    *id = found;
    return nullptr;
  });
}

xh_error* StreamOpen(const xh_text* text, xh_text_stream** out) {
  return Guard([&]() -> xh_error* {
    *out = new xh_text_stream{text, {}, {}, {}, false};
    return nullptr;
  });
}

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD, as the library writes what is no character
constexpr char kSpacePiece[] = "\xE2\x96\x81";   // U+2581 stands for a space in pieces

// Moves whole characters from the front of `bytes` to `out`; with `all`, what never becomes one as well.
void TakeCharacters(std::string* bytes, bool all, std::string* out) {
  while (!bytes->empty()) {
    const int length = CharacterBytes(*bytes);
    if (length == 0 && !all) return;
    *out += length > 0 ? bytes->substr(0, length) : kReplacement;
    bytes->erase(0, std::max(length, 1));
  }
}

// What a piece adds to a text that has begun.
std::string PieceText(const xh_text& text, int32_t id) {
  if (text.processor.IsControl(id)) return "";
  if (text.processor.IsUnknown(id)) return text.unknown;
  const std::string& piece = text.processor.IdToPiece(id);
  std::string out;
  for (size_t i = 0; i < piece.size();) {
    const bool space = piece.compare(i, 3, kSpacePiece) == 0;
    out += space ? ' ' : piece[i];
    i += space ? 3 : 1;
  }
  return out;
}

// The text that became complete by `id`: as decoding of all ids so far would end.
xh_error* Advance(xh_text_stream* stream, int32_t id, std::string* out) {
  const auto& processor = stream->text->processor;
  if (processor.IsByte(id)) {
    stream->bytes += static_cast<char>(std::stoi(processor.IdToPiece(id).substr(3, 2), nullptr, 16));  // "<0xE2>"
    TakeCharacters(&stream->bytes, false, out);
    return nullptr;
  }
  TakeCharacters(&stream->bytes, true, out);
  if (stream->started || !out->empty()) {
    *out += PieceText(*stream->text, id);
    return nullptr;
  }
  if (processor.IsControl(id)) return nullptr;
  stream->start.push_back(id);
  const auto status = processor.Decode(stream->start, out);
  return status.ok() ? nullptr : Error(XH_INTERNAL, "decoding failed: " + status.ToString());
}

xh_error* StreamPush(xh_text_stream* stream, int32_t id, const char** piece, int64_t* size) {
  return Guard([&]() -> xh_error* {
    if (xh_error* error = CheckId(stream->text, id)) return error;
    std::string added;
    if (xh_error* error = Advance(stream, id, &added)) return error;
    stream->started = stream->started || !added.empty();
    stream->piece = std::move(added);
    *piece = stream->piece.c_str();
    *size = static_cast<int64_t>(stream->piece.size());
    return nullptr;
  });
}

void StreamClose(xh_text_stream* stream) { delete stream; }

xh_error* Render(const xh_text* text, const xh_message* messages, int64_t count, int32_t add_generation_prompt,
                 char* out, int64_t capacity, int64_t* size) {
  return Guard([&]() -> xh_error* {
    if (text->chat_template.empty()) return Error(XH_UNSUPPORTED, "the model has no chat template");
    if (!xh::text::IsChatMl(text->chat_template)) {
      return Error(XH_UNSUPPORTED,
                   "this chat template needs the text plugin \"huggingface\", which has a Jinja engine; this one "
                   "renders ChatML");
    }
    const std::string rendered = xh::text::RenderChatMl(messages, count, add_generation_prompt != 0);
    *size = CopyOut(rendered, out, capacity);
    return nullptr;
  });
}

constexpr xh_text_table kTable = {XH_SIZED(xh_text_table),
                                  0,
                                  kMainFile,
                                  Open,
                                  Close,
                                  VocabSize,
                                  Encode,
                                  Decode,
                                  Special,
                                  StreamOpen,
                                  StreamPush,
                                  StreamClose,
                                  Render};
constexpr xh_plugin kPlugin = {XH_SIZED(xh_plugin), XH_ABI_VERSION, XH_PLUGIN_TEXT, 1,       "sentencepiece",
                               XHYBRID_RELEASE,     "Apache-2.0",   nullptr,        &kTable, nullptr};

}  // namespace

const xh_plugin* xh_plugin_v1(const xh_host* host, int32_t index) {
  the_host = host;
  return index == 0 ? &kPlugin : nullptr;
}
