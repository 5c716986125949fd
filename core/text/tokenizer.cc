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
  for (const auto& [name, bytes] : files) names.push_back(name);
  XH_ASSIGN_OR_RETURN(const xh_plugin* plugin, registry.FindText(names));
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer);
  tokenizer->files_ = std::move(files);
  XH_ASSIGN_OR_RETURN(tokenizer->own_, tokenizer->OpenPlugin(*plugin));
  XH_RETURN_IF_ERROR(tokenizer->FindOpening());
  for (const LoadedPlugin& loaded : registry.plugins()) {
    const bool other = loaded.plugin->kind == XH_PLUGIN_TEXT && loaded.plugin != plugin && loaded.plugin->score > 0;
    if (other) tokenizer->others_.push_back(loaded.plugin);
  }
  return tokenizer;
}

StatusOr<Tokenizer::Opened> Tokenizer::OpenPlugin(const xh_plugin& plugin) const {
  std::vector<xh_text_file> views;
  for (const auto& [name, bytes] : files_) {
    views.push_back({name.c_str(), bytes.data(), static_cast<int64_t>(bytes.size())});
  }
  Opened opened;
  opened.table = static_cast<const xh_text_table*>(plugin.table);
  opened.plugin_name = plugin.name;
  xh_text* text = nullptr;
  XH_RETURN_IF_ERROR(
      Named(opened.table->open(views.data(), static_cast<int64_t>(views.size()), &text), opened.plugin_name));
  opened.text = {text, opened.table->close};
  return opened;
}

const std::vector<Tokenizer::Opened>& Tokenizer::OtherRenderers() const {
  std::call_once(others_opened_, [this] {
    for (const xh_plugin* plugin : others_) {
      StatusOr<Opened> opened = OpenPlugin(*plugin);
      if (opened.ok()) renderers_.push_back(*std::move(opened));
    }
  });
  return renderers_;
}

int64_t Tokenizer::vocab_size() const { return own_.table->vocab_size(own_.text.get()); }

// Of any text: what comes with special tokens before what comes without them.
Status Tokenizer::FindOpening() {
  XH_ASSIGN_OR_RETURN(const std::vector<int32_t> plain, Encode("a", false));
  XH_ASSIGN_OR_RETURN(const std::vector<int32_t> marked, Encode("a", true));
  if (marked.size() > plain.size() && !plain.empty() && marked[0] != plain[0]) opening_ = marked[0];
  return absl::OkStatus();
}

StatusOr<std::vector<int32_t>> Tokenizer::Encode(const std::string& text, bool add_special) const {
  XH_ASSIGN_OR_RETURN(
      std::vector<int32_t> ids,
      Filled<std::vector<int32_t>>(text.size() / 2 + 16, [&](int32_t* out, int64_t capacity, int64_t* count) {
        return Named(own_.table->encode(own_.text.get(), text.data(), static_cast<int64_t>(text.size()),
                                        add_special ? 1 : 0, out, capacity, count),
                     own_.plugin_name);
      }));
  // A tokenizer.json may name ids of its own in what it puts around a text.
  const int64_t size = vocab_size();
  for (int32_t id : ids) {
    if (id >= 0 && id < size) continue;
    return Corrupt("the tokenizer ", own_.plugin_name, " gives the token id ", id, "; its vocabulary ends at ",
                   size - 1);
  }
  const bool twice = add_special && opening_ >= 0 && ids.size() > 1 && ids[0] == opening_ && ids[1] == opening_;
  if (twice) ids.erase(ids.begin());
  return ids;
}

StatusOr<std::string> Tokenizer::Decode(const std::vector<int32_t>& ids) const {
  return Filled<std::string>(ids.size() * 8 + 16, [&](char* out, int64_t capacity, int64_t* size) {
    return Named(own_.table->decode(own_.text.get(), ids.data(), static_cast<int64_t>(ids.size()), out, capacity, size),
                 own_.plugin_name);
  });
}

StatusOr<int32_t> Tokenizer::Special(const std::string& token) const {
  int32_t id = -1;
  XH_RETURN_IF_ERROR(Named(own_.table->special(own_.text.get(), token.c_str(), &id), own_.plugin_name));
  return id;
}

StatusOr<std::string> Tokenizer::RenderChat(const std::vector<Message>& messages, bool add_generation_prompt) const {
  std::vector<xh_message> views;
  size_t guess = 64;
  for (const Message& message : messages) {
    views.push_back({message.role.c_str(), message.content.c_str()});
    guess += message.role.size() + message.content.size() + 64;
  }
  auto rendered_by = [&](const Opened& opened) {
    return Filled<std::string>(guess, [&](char* out, int64_t capacity, int64_t* size) {
      return Named(opened.table->render(opened.text.get(), views.data(), static_cast<int64_t>(views.size()),
                                        add_generation_prompt ? 1 : 0, out, capacity, size),
                   opened.plugin_name);
    });
  };
  StatusOr<std::string> rendered = rendered_by(own_);
  if (rendered.ok() || CodeOf(rendered.status()) != XH_UNSUPPORTED) return rendered;
  for (const Opened& other : OtherRenderers()) {
    StatusOr<std::string> second = rendered_by(other);
    if (second.ok() || CodeOf(second.status()) != XH_UNSUPPORTED) return second;
  }
  return rendered;
}

StatusOr<Tokenizer::Stream> Tokenizer::OpenStream(std::shared_ptr<const Tokenizer> tokenizer) {
  xh_text_stream* stream = nullptr;
  XH_RETURN_IF_ERROR(
      Named(tokenizer->own_.table->stream_open(tokenizer->own_.text.get(), &stream), tokenizer->own_.plugin_name));
  Stream opened;
  opened.stream_ = {stream, tokenizer->own_.table->stream_close};
  opened.tokenizer_ = std::move(tokenizer);
  return opened;
}

StatusOr<std::string> Tokenizer::Stream::Push(int32_t id) {
  const char* piece = nullptr;
  int64_t size = 0;
  XH_RETURN_IF_ERROR(
      Named(tokenizer_->own_.table->stream_push(stream_.get(), id, &piece, &size), tokenizer_->own_.plugin_name));
  return std::string(piece != nullptr ? piece : "", piece != nullptr ? size : 0);
}

}  // namespace xh
