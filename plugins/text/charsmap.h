// The character map inside a sentencepiece model: how its normaliser rewrites text before the pieces are looked up.
#ifndef XHYBRID_PLUGINS_TEXT_CHARSMAP_H_
#define XHYBRID_PLUGINS_TEXT_CHARSMAP_H_

#include <string>

namespace xh::text {

// The library follows the indices in the maps of a model (normaliser and denormaliser) without looking at their sizes.
// False when one of them leads outside its map: such a model must not reach the library. `model` is a serialised
// ModelProto; bytes that are none are left to the library, which refuses them.
bool CharsmapsAreSound(const std::string& model);

}  // namespace xh::text

#endif  // XHYBRID_PLUGINS_TEXT_CHARSMAP_H_
