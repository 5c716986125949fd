// Chat templates that need no template engine: ChatML, told by its text.
#ifndef XHYBRID_PLUGINS_TEXT_CHAT_TEMPLATE_H_
#define XHYBRID_PLUGINS_TEXT_CHAT_TEMPLATE_H_

#include <string>

#include "xhybrid_plugin.h"

namespace xh::text {

// True for the templates that write each message as "<|im_start|>role\ncontent<|im_end|>\n", then the generation prompt
// where it is asked for, and nothing else. White space and quoting inside a tag do not matter, nor does white space
// between tags that the rendering drops (trim marks, and the line rules trim_blocks and lstrip_blocks).
bool IsChatMl(const std::string& chat_template);
std::string RenderChatMl(const xh_message* messages, int64_t count, bool add_generation_prompt);

}  // namespace xh::text

#endif  // XHYBRID_PLUGINS_TEXT_CHAT_TEMPLATE_H_
