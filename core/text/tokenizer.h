// A model's tokenizer: a text plugin opened on the files that travel inside the checkpoint.
#ifndef XHYBRID_CORE_TEXT_TOKENIZER_H_
#define XHYBRID_CORE_TEXT_TOKENIZER_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/registry.h"

namespace xh {

struct Message {
  std::string role;
  std::string content;
};

// Files that belong to a tokenizer, when a directory has them.
const std::vector<std::string>& TokenizerFileNames();

// Safe from any thread.
class Tokenizer {
 public:
  // `files`: name -> bytes. Chooses the text plugin whose main file is among them.
  static StatusOr<std::shared_ptr<Tokenizer>> Open(const Registry& registry, std::map<std::string, std::string> files);

  const std::map<std::string, std::string>& files() const { return files_; }
  int64_t vocab_size() const;
  // With `add_special` the special tokens that the tokenizer adds; the one that opens a text is not added where the
  // text begins with it itself, as some chat templates write it.
  StatusOr<std::vector<int32_t>> Encode(const std::string& text, bool add_special) const;
  StatusOr<std::string> Decode(const std::vector<int32_t>& ids) const;
  StatusOr<int32_t> Special(const std::string& token) const;
  // The messages as the model's chat template writes them. A template that the tokenizer's own plugin cannot render is
  // shown to the other text plugins, opened on the same files. Unsupported when none can; InvalidArgument with the
  // template's words when it refuses the messages.
  StatusOr<std::string> RenderChat(const std::vector<Message>& messages, bool add_generation_prompt) const;

  // Text completed by one token after another: whole characters only.
  class Stream {
   public:
    StatusOr<std::string> Push(int32_t id);

   private:
    friend class Tokenizer;
    std::shared_ptr<const Tokenizer> tokenizer_;
    std::unique_ptr<xh_text_stream, void (*)(xh_text_stream*)> stream_{nullptr, nullptr};
  };
  static StatusOr<Stream> OpenStream(std::shared_ptr<const Tokenizer> tokenizer);

 private:
  // One plugin, opened on the files.
  struct Opened {
    const xh_text_table* table = nullptr;
    std::string plugin_name;
    std::unique_ptr<xh_text, void (*)(xh_text*)> text{nullptr, nullptr};
  };

  Tokenizer() = default;
  StatusOr<Opened> OpenPlugin(const xh_plugin& plugin) const;
  Status FindOpening();
  const std::vector<Opened>& OtherRenderers() const;

  std::map<std::string, std::string> files_;
  Opened own_;
  int32_t opening_ = -1;                   // the special token that is added before a text; -1: none
  std::vector<const xh_plugin*> others_;   // text plugins that can run here
  mutable std::once_flag others_opened_;   // on the first template that the own plugin cannot render
  mutable std::vector<Opened> renderers_;  // those of the others that open the files
};

}  // namespace xh

#endif  // XHYBRID_CORE_TEXT_TOKENIZER_H_
