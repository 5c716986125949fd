// Names that come from files: what is allowed, and how they are shown in a message.
#ifndef XHYBRID_CORE_CHECKPOINT_NAMES_H_
#define XHYBRID_CORE_CHECKPOINT_NAMES_H_

#include <string>

#include "core/error.h"

namespace xh {

// True for well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool IsUtf8(const std::string& text);

// `text` in quotes, fit for one line of a message: control and malformed bytes as '?', long text cut.
std::string Quoted(const std::string& text);

// A name of a tensor, key or mixer kind: 1 to 1,023 bytes of UTF-8 without control characters. InvalidArgument
// otherwise, with `what` ("tensor name") in the message.
Status CheckName(const std::string& what, const std::string& name);

// A file name without any directory: 1 to 255 bytes, not beginning with '.', without '/' and control characters.
Status CheckBareFileName(const std::string& name);

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_NAMES_H_
