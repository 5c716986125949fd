// The files of a tokenizer: tokenizer.model or tokenizer.json, tokenizer_config.json with its chat template, and
// others.
#include "core/text/tokenizer.h"

#include <algorithm>

#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

void Stream(const std::shared_ptr<Tokenizer>& tokenizer, const std::vector<int32_t>& ids) {
  auto stream = Tokenizer::OpenStream(tokenizer);
  if (!Accepted(stream)) return;
  for (int32_t id : ids) CheckMessage(stream->Push(id).status());
}

void Use(const std::shared_ptr<Tokenizer>& tokenizer) {
  for (const char* text : {"", "A Hello, w\xC3\xB6rld 12\n", "<|im_start|>user\xF0\x9F\x98\x80\xE2\x96\x81"}) {
    const auto ids = tokenizer->Encode(text, true);
    if (!Accepted(ids)) continue;
    for (int32_t id : *ids) Require(id >= 0 && id < tokenizer->vocab_size(), "an id is beyond the vocabulary");
    CheckMessage(tokenizer->Decode(*ids).status());
    Stream(tokenizer, *ids);
  }
  const int64_t size = tokenizer->vocab_size();
  std::vector<int32_t> others = {-1, INT32_MAX};
  for (int64_t id = 0; id < std::min<int64_t>(size, 64); ++id) others.push_back(static_cast<int32_t>(id));
  Stream(tokenizer, others);
  CheckMessage(tokenizer->Special("<s>").status());
  CheckMessage(tokenizer->RenderChat({{"system", "s"}, {"user", "a\nb"}, {"assistant", "c"}}, true).status());
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  const Registry& plugins = fuzz::Plugins()->registry();
  const auto tokenizer = Tokenizer::Open(plugins, fuzz::SplitFiles(data, size, "tokenizer.json"));
  if (fuzz::Accepted(tokenizer)) fuzz::Use(*tokenizer);
  return 0;
}
