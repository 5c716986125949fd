#include "chat_template.h"

namespace xh::text {
namespace {

// A template with everything removed that does not change what it renders: white space outside quotes, "-" trims at tag
// borders, the kind of quote, and message.role against message['role'].
std::string Normalized(const std::string& text) {
  std::string out;
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quote != 0) {
      out += c == quote ? '\'' : c;
      if (c == quote) quote = 0;
      continue;
    }
    if (c == '\'' || c == '"') {
      quote = c;
      out += '\'';
      continue;
    }
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r') continue;
    if (c == '-' && i + 1 < text.size() && (text[i + 1] == '%' || text[i + 1] == '}')) continue;
    if (c == '-' && !out.empty() && (out.back() == '%' || out.back() == '{')) continue;
    out += c;
  }
  auto replace = [&out](const std::string& from, const std::string& to) {
    for (size_t at = out.find(from); at != std::string::npos; at = out.find(from, at + to.size())) {
      out.replace(at, from.size(), to);
    }
  };
  replace("message['role']", "message.role");
  replace("message['content']", "message.content");
  replace("'+'", "");  // joined literals
  return out;
}

}  // namespace

bool IsChatMl(const std::string& chat_template) {
  static const std::string known = Normalized(
      "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' "
      "}}"
      "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
  // In tokenizer_config.json "\n" inside a quoted literal is a line feed by the time it is read.
  std::string given;
  for (char c : chat_template) {
    if (c == '\n') {
      given += "\\n";
    } else {
      given += c;
    }
  }
  return Normalized(given) == known || Normalized(chat_template) == known;
}

std::string RenderChatMl(const xh_message* messages, int64_t count, bool add_generation_prompt) {
  std::string out;
  for (int64_t i = 0; i < count; ++i) {
    out.append("<|im_start|>").append(messages[i].role).append("\n");
    out.append(messages[i].content).append("<|im_end|>\n");
  }
  if (add_generation_prompt) out += "<|im_start|>assistant\n";
  return out;
}

}  // namespace xh::text
