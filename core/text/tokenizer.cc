#include "core/text/tokenizer.h"

namespace xh {
namespace {

Status Named(xh_error* error, const std::string& plugin) {
  Status status = FromError(error);
  return status.ok() || OriginOf(status) != "plugin" ? status : WithOrigin(status, absl::StrCat("text.", plugin));
}

// Calls a function that fills a buffer and says how much there is, a second time when the first guess was too small.
template <typename Buffer, typename Fill>
StatusOr<Buffer> Filled(size_t guess, Fill fill) {
  Buffer buffer(guess, {});
  for (int attempt = 0; attempt < 2; ++attempt) {
    int64_t needed = 0;
    XH_RETURN_IF_ERROR(fill(buffer.data(), static_cast<int64_t>(buffer.size()), &needed));
    if (needed < 0) return Internal("a text plugin returned the size ", needed);
    const bool fits = needed <= static_cast<int64_t>(buffer.size());
    buffer.resize(needed);
    if (fits) return buffer;
  }
  return Internal("a text plugin returned two sizes for one text");
}

}  // namespace

const std::vector<std::string>& TokenizerFileNames() {
  static const std::vector<std::string> names = {"tokenizer.model",
                                                 "tokenizer.json",
                                                 "tokenizer_config.json",
                                                 "special_tokens_map.json",
                                                 "added_tokens.json",
                                                 "chat_template.jinja",
                                                 "vocab.json",
                                                 "merges.txt"};
  return names;
}

StatusOr<std::shared_ptr<Tokenizer>> Tokenizer::Open(const Registry& registry,
                                                     std::map<std::string, std::string> files) {
  std::vector<std::string> names;
  std::vector<xh_text_file> views;
  for (const auto& [name, bytes] : files) {
    names.push_back(name);
    views.push_back({name.c_str(), bytes.data(), static_cast<int64_t>(bytes.size())});
  }
  XH_ASSIGN_OR_RETURN(const xh_plugin* plugin, registry.FindText(names));
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer);
  tokenizer->table_ = static_cast<const xh_text_table*>(plugin->table);
  tokenizer->plugin_name_ = plugin->name;
  xh_text* text = nullptr;
  XH_RETURN_IF_ERROR(
      Named(tokenizer->table_->open(views.data(), static_cast<int64_t>(views.size()), &text), plugin->name));
  tokenizer->text_ = {text, tokenizer->table_->close};
  tokenizer->files_ = std::move(files);
  return tokenizer;
}

int64_t Tokenizer::vocab_size() const { return table_->vocab_size(text_.get()); }

StatusOr<std::vector<int32_t>> Tokenizer::Encode(const std::string& text, bool add_special) const {
  return Filled<std::vector<int32_t>>(text.size() / 2 + 16, [&](int32_t* ids, int64_t capacity, int64_t* count) {
    return Named(table_->encode(text_.get(), text.data(), static_cast<int64_t>(text.size()), add_special ? 1 : 0, ids,
                                capacity, count),
                 plugin_name_);
  });
}

StatusOr<std::string> Tokenizer::Decode(const std::vector<int32_t>& ids) const {
  return Filled<std::string>(ids.size() * 8 + 16, [&](char* out, int64_t capacity, int64_t* size) {
    return Named(table_->decode(text_.get(), ids.data(), static_cast<int64_t>(ids.size()), out, capacity, size),
                 plugin_name_);
  });
}

StatusOr<int32_t> Tokenizer::Special(const std::string& token) const {
  int32_t id = -1;
  XH_RETURN_IF_ERROR(Named(table_->special(text_.get(), token.c_str(), &id), plugin_name_));
  return id;
}

StatusOr<std::string> Tokenizer::RenderChat(const std::vector<Message>& messages, bool add_generation_prompt) const {
  std::vector<xh_message> views;
  size_t guess = 64;
  for (const Message& message : messages) {
    views.push_back({message.role.c_str(), message.content.c_str()});
    guess += message.role.size() + message.content.size() + 64;
  }
  return Filled<std::string>(guess, [&](char* out, int64_t capacity, int64_t* size) {
    return Named(table_->render(text_.get(), views.data(), static_cast<int64_t>(views.size()),
                                add_generation_prompt ? 1 : 0, out, capacity, size),
                 plugin_name_);
  });
}

StatusOr<Tokenizer::Stream> Tokenizer::OpenStream(std::shared_ptr<const Tokenizer> tokenizer) {
  xh_text_stream* stream = nullptr;
  XH_RETURN_IF_ERROR(Named(tokenizer->table_->stream_open(tokenizer->text_.get(), &stream), tokenizer->plugin_name_));
  Stream opened;
  opened.stream_ = {stream, tokenizer->table_->stream_close};
  opened.tokenizer_ = std::move(tokenizer);
  return opened;
}

StatusOr<std::string> Tokenizer::Stream::Push(int32_t id) {
  const char* piece = nullptr;
  int64_t size = 0;
  XH_RETURN_IF_ERROR(
      Named(tokenizer_->table_->stream_push(stream_.get(), id, &piece, &size), tokenizer_->plugin_name_));
  return std::string(piece != nullptr ? piece : "", piece != nullptr ? size : 0);
}

}  // namespace xh
