#include "core/train/document.h"

#include <algorithm>

#include "core/json_fields.h"

namespace xh {
namespace {

using nlohmann::json;

StatusOr<const Tokenizer*> NeedTokenizer(const DocumentOptions& options) {
  if (options.tokenizer != nullptr) return options.tokenizer;
  return InvalidArgument("the teacher has no tokenizer (", options.tokenizer_problem,
                         "); allowed without one: \"ids\"");
}

Status CheckIds(const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return InvalidArgument("token id ", id, " is not in the vocabulary; allowed: 0 to ", vocab_size - 1);
    }
  }
  return absl::OkStatus();
}

// Documents must be told apart: where the tokenizer marks neither end, the model's end token does.
void CloseDocument(const ModelConfig& config, std::vector<int32_t>* ids) {
  const std::vector<int32_t>& ends = config.eos_ids;
  if (ids->empty() || ends.empty()) return;
  const bool opened = config.bos_id >= 0 && ids->front() == config.bos_id;
  const bool closed = std::find(ends.begin(), ends.end(), ids->back()) != ends.end();
  if (!opened && !closed) ids->push_back(ends.front());
}

StatusOr<std::vector<int32_t>> EncodeText(const std::string& text, const DocumentOptions& options) {
  XH_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, NeedTokenizer(options));
  return tokenizer->Encode(text, true);
}

StatusOr<std::vector<Message>> ReadMessages(const json& list) {
  if (!list.is_array() || list.empty()) return InvalidArgument("\"messages\" is not a list of at least one message");
  std::vector<Message> messages;
  for (size_t i = 0; i < list.size(); ++i) {
    JsonFields fields(&list[i], absl::StrCat("messages[", i, "]"));
    Message message;
    XH_ASSIGN_OR_RETURN(message.role, fields.Text("role"));
    XH_ASSIGN_OR_RETURN(message.content, fields.Text("content"));
    messages.push_back(std::move(message));
  }
  return messages;
}

size_t CommonPrefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

// Marks with ~ what is not an assistant's reply. A reply runs from where the tokens of the prompt with the generation
// prompt end to where those of the conversation up to it end: the tokens of a part are a prefix of the whole's, but for
// one that may span the border and then counts as the reply's.
Status MaskPrompts(const std::vector<Message>& messages, const DocumentOptions& options, std::vector<int32_t>* ids) {
  std::vector<int32_t> masked;
  masked.reserve(ids->size());
  for (int32_t id : *ids) masked.push_back(~id);
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role != "assistant") continue;
    const std::vector<Message> before(messages.begin(), messages.begin() + static_cast<int64_t>(i));
    const std::vector<Message> through(messages.begin(), messages.begin() + static_cast<int64_t>(i) + 1);
    XH_ASSIGN_OR_RETURN(const std::string prompt, options.tokenizer->RenderChat(before, true));
    XH_ASSIGN_OR_RETURN(const std::string reply, options.tokenizer->RenderChat(through, false));
    XH_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt_ids, options.tokenizer->Encode(prompt, true));
    XH_ASSIGN_OR_RETURN(const std::vector<int32_t> reply_ids, options.tokenizer->Encode(reply, true));
    const size_t end = CommonPrefix(reply_ids, *ids);
    for (size_t t = CommonPrefix(prompt_ids, *ids); t < end; ++t) masked[t] = (*ids)[t];
  }
  *ids = std::move(masked);
  return absl::OkStatus();
}

StatusOr<std::vector<int32_t>> ReadChat(const json& list, const DocumentOptions& options) {
  XH_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, NeedTokenizer(options));
  XH_ASSIGN_OR_RETURN(const std::vector<Message> messages, ReadMessages(list));
  XH_ASSIGN_OR_RETURN(const std::string text, tokenizer->RenderChat(messages, false));
  XH_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(text, true));
  XH_RETURN_IF_ERROR(CheckIds(ids, options.config->vocab_size));
  CloseDocument(*options.config, &ids);
  if (options.loss_on_assistant) XH_RETURN_IF_ERROR(MaskPrompts(messages, options, &ids));
  return ids;
}

// "masked" beside "ids": ranges [first, end) of tokens that an assistant did not write.
Status MaskRanges(const json& ranges, std::vector<int32_t>* ids) {
  const int64_t count = static_cast<int64_t>(ids->size());
  int64_t least = 0;
  if (!ranges.is_array()) return InvalidArgument("\"masked\" is not a list of ranges [first, end]");
  for (const json& range : ranges) {
    const bool whole = range.is_array() && range.size() == 2 && range[0].is_number_integer() &&
                       range[1].is_number_integer() && range[0] >= least && range[0] < range[1] && range[1] <= count;
    if (!whole) {
      return InvalidArgument("\"masked\" holds ", ShownJson(range),
                             "; allowed: increasing ranges [first, end] within 0 to ", count);
    }
    least = range[1].get<int64_t>();
    for (int64_t t = range[0].get<int64_t>(); t < least; ++t) (*ids)[t] = ~(*ids)[t];
  }
  return absl::OkStatus();
}

StatusOr<std::vector<int32_t>> ReadIds(const json& list) {
  if (!list.is_array()) return InvalidArgument("\"ids\" is not a list of token ids");
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const json& id : list) {
    if (!id.is_number_integer()) return InvalidArgument("\"ids\" holds something other than integers");
    const int64_t value = id.get<int64_t>();
    ids.push_back(value < 0 || value > INT32_MAX ? -1 : static_cast<int32_t>(value));
  }
  return ids;
}

}  // namespace

StatusOr<std::vector<int32_t>> ReadDocument(const std::string& line, const std::string& kind,
                                            const DocumentOptions& options) {
  XH_ASSIGN_OR_RETURN(const json row, ParseJson(line, "the row"));
  if (!row.is_object()) return InvalidArgument("the row is not a JSON object");
  const bool chat = kind == "chat" || (kind == "auto" && row.contains("messages"));
  const bool ready = kind == "ids" || (kind == "auto" && !chat && row.contains("ids"));
  JsonFields fields(&row, "the row");
  if (chat) {
    const json* messages = fields.Get("messages");
    if (messages == nullptr) return InvalidArgument("the row has no \"messages\"");
    return ReadChat(*messages, options);
  }
  std::vector<int32_t> ids;
  if (ready) {
    const json* list = fields.Get("ids");
    if (list == nullptr) return InvalidArgument("the row has no \"ids\"");
    XH_ASSIGN_OR_RETURN(ids, ReadIds(*list));
    XH_RETURN_IF_ERROR(CheckIds(ids, options.config->vocab_size));
    const json* masked = fields.Get("masked");
    if (masked != nullptr && options.loss_on_assistant) XH_RETURN_IF_ERROR(MaskRanges(*masked, &ids));
    return ids;
  } else {
    XH_ASSIGN_OR_RETURN(const std::string text, fields.Text("text"));
    XH_ASSIGN_OR_RETURN(ids, EncodeText(text, options));
    CloseDocument(*options.config, &ids);
  }
  XH_RETURN_IF_ERROR(CheckIds(ids, options.config->vocab_size));
  return ids;
}

}  // namespace xh
