#include "chat_template.h"

namespace xh::text {
namespace {

constexpr char kSpaces[] = " \t\r\n";

// One spelling for all that mean the same: no white space outside quotes, quotes as ', a line feed inside quotes as
// "\n", joined literals as one, message.role for message['role'].
std::string Normalized(const std::string& tag) {
  std::string out;
  char quote = 0;
  for (char c : tag) {
    if (c == '"' || c == '\'') {
      const bool border = quote == 0 || quote == c;
      if (border) quote = quote == 0 ? c : 0;
      out += border ? '\'' : c;
    } else if (quote != 0 && c == '\n') {
      out += "\\n";
    } else if (quote != 0 || std::string(kSpaces).find(c) == std::string::npos) {
      out += c;
    }
  }
  auto replace = [&out](const std::string& from, const std::string& to) {
    for (size_t at = out.find(from); at != std::string::npos; at = out.find(from, at + to.size())) {
      out.replace(at, from.size(), to);
    }
  };
  replace("message['role']", "message.role");
  replace("message['content']", "message.content");
  replace("'+'", "");
  return out;
}

// The end of the tag that begins at `at`, behind its closing braces; npos without one. Braces in quotes do not close.
size_t TagEnd(const std::string& text, size_t at) {
  const char closing = text[at + 1] == '%' ? '%' : '}';
  char quote = 0;
  for (size_t i = at + 2; i + 1 < text.size(); ++i) {
    if (quote != 0) {
      if (text[i] == quote) quote = 0;
    } else if (text[i] == '"' || text[i] == '\'') {
      quote = text[i];
    } else if (text[i] == closing && text[i + 1] == '}') {
      return i + 2;
    }
  }
  return std::string::npos;
}

// What the rendering leaves of the text between two tags. `before` and `after` are those tags, "" at the borders.
std::string Rendered(std::string text, const std::string& before, const std::string& after) {
  const bool trims_start = before.size() > 4 && before[before.size() - 3] == '-';
  const bool trims_end = after.size() > 4 && after[2] == '-';
  if (trims_start) text.erase(0, text.find_first_not_of(kSpaces));
  if (trims_end) text.erase(text.find_last_not_of(kSpaces) + 1);
  const bool block_before = before.size() > 4 && before[1] == '%';
  const bool block_after = after.size() > 4 && after[1] == '%';
  if (block_before && !text.empty() && text[0] == '\n') text.erase(0, 1);  // trim_blocks
  if (block_after && !trims_end) {                                         // lstrip_blocks
    const size_t line = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    const bool starts_a_line = line > 0 || before.empty() || block_before;
    if (starts_a_line && text.find_first_not_of(" \t", line) == std::string::npos) text.erase(line);
  }
  return text;
}

// The tags of a template, each normalised and without trim marks, with what is rendered between them.
std::string Skeleton(const std::string& text) {
  std::string out, before;
  for (size_t at = 0; at <= text.size();) {
    size_t open = text.find('{', at);
    while (open != std::string::npos && (open + 1 >= text.size() || (text[open + 1] != '%' && text[open + 1] != '{'))) {
      open = text.find('{', open + 1);
    }
    const size_t end = open == std::string::npos ? std::string::npos : TagEnd(text, open);
    if (end == std::string::npos) return out + Rendered(text.substr(at), before, "");
    const std::string tag = text.substr(open, end - open);
    out += Rendered(text.substr(at, open - at), before, tag);
    std::string inside = tag.substr(2, tag.size() - 4);
    if (!inside.empty() && inside.front() == '-') inside.erase(0, 1);
    if (!inside.empty() && inside.back() == '-') inside.pop_back();
    out += tag.substr(0, 2) + Normalized(inside) + tag.substr(tag.size() - 2);
    before = tag;
    at = end;
  }
  return out;
}

}  // namespace

bool IsChatMl(const std::string& chat_template) {
  static const std::string known = Skeleton(
      "{% for message in messages %}"
      "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
      "{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
  return Skeleton(chat_template) == known;
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
