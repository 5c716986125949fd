// Task files: task.jsonl with rows, or task.json that describes questions, made of text.jsonl; and rows of training
// data.
#include <filesystem>

#include "core/evaluate/tasks.h"
#include "core/train/dataset.h"
#include "tests/fuzz/support.h"

namespace xh::fuzz {
namespace {

constexpr int64_t kRows = 3;  // of made questions, which take long

// What questions are made with: a tokenizer and a short context, no weights.
const Model& Maker() {
  static const Model maker = [] {
    const std::string data = std::string(XH_TEST_DATA) + "/text/";
    Model model;
    model.config.vocab_size = 4000;
    model.config.context = 96;
    model.config.eos_ids = {2};
    model.path = "maker";
    model.tokenizer =
        *Tokenizer::Open(Plugins()->registry(), {{"tokenizer.model", ReadAll(data + "tokenizer.model")},
                                                 {"tokenizer_config.json", ReadAll(data + "tokenizer_config.json")}});
    return model;
  }();
  return maker;
}

void ReadAsTrainingData(const std::string& path, const std::string& kind) {
  DocumentOptions options;
  options.tokenizer = Maker().tokenizer.get();
  options.config = &Maker().config;
  options.loss_on_assistant = true;
  options.max_bad_rows = 2;
  options.warn = [](const std::string& text) { CheckMessage(InvalidArgument(text)); };
  CheckMessage(ReadDocuments({path, 1, kind}, options).status());
}

}  // namespace
}  // namespace xh::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace xh;  // NOLINT: the library under test
  fuzz::Maker();       // not part of what an input takes
  const std::string directory = fuzz::FreshDirectory();
  const fuzz::MemoryBound bound(32 << 20, 512, size);
  for (const auto& [name, bytes] : fuzz::SplitFiles(data, size, "task.jsonl")) fuzz::Put(name, bytes);
  for (const char* name : {"task.jsonl", "task.json"}) {
    if (!std::filesystem::exists(name)) continue;
    fuzz::CheckMessage(ReadTask(name, fuzz::kRows, &fuzz::Maker()).status());
    for (const char* kind : {"auto", "chat", "text", "ids"}) fuzz::ReadAsTrainingData(name, kind);
  }
  return 0;
}
