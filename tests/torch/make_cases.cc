// make_cases OUTPUT: students of every tiny teacher as OUTPUT/<case>.xhy, each with what the library computes from it
// in OUTPUT/<case>.safetensors: ids i32 [batch, tokens], logits f32 [batch, tokens, vocabulary], and the tokens that
// follow the first sequence greedily, i32 [kGreedy]. The case "<teacher>.teacher" is the teacher as it is.
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "core/checkpoint/safetensors.h"
#include "core/model/save.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

constexpr int64_t kBatch = 2;
constexpr int64_t kTokens = 100;  // more than the windows, and more than the chunk of the Python mLSTM
constexpr int64_t kGreedy = 24;

const std::pair<const char*, const char*> kStudents[] = {
    {"softmax", R"({"window": 9, "sinks": 2})"},
    {"wide", R"({"window": 9, "features": 24})"},
    {"hedgehog", R"({"feature_map": "hedgehog", "window": 70, "sinks": 0})"},
    {"none", R"({"feature_map": "none", "window": 5, "sinks": 1})"},
    {"kept", R"({"window": 6, "layers": [{"layer": 0, "window": [0, 5]}, {"layer": 2, "window": [7, 0],
                 "feature_map": "hedgehog"}]})"},
    {"mlstm", R"({"kind": "mlstm"})"},
    {"mixed", R"({"window": 6, "layers": [{"layer": 0, "kind": "window", "window": [4, 0], "sinks": 3},
                  {"layer": 1, "kind": "attention"}, {"layer": 2, "window": [2, 30], "feature_map": "hedgehog"}]})"},
};

std::vector<int32_t> RandomIds(int64_t count, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (float value : RandomValues(count, 7)) {
    ids.push_back(std::min(static_cast<int32_t>((value + 1) / 2 * static_cast<float>(vocab_size)),
                           static_cast<int32_t>(vocab_size - 1)));
  }
  return ids;
}

std::vector<int32_t> Greedy(const Model& model, std::vector<int32_t> ids) {
  const int64_t vocab = model.config.vocab_size;
  for (int64_t step = 0; step < kGreedy; ++step) {
    const std::vector<float> logits = Forward(model, ids, 1).logits;
    const auto last = logits.end() - vocab;
    ids.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
  }
  return std::vector<int32_t>(ids.end() - kGreedy, ids.end());
}

Status WriteCase(const Model& model, const std::string& path) {
  XH_ASSIGN_OR_RETURN(auto writer, CheckpointWriter::Open(path + ".xhy"));
  ModelFiles files = FilesOf(model);
  files.history = {{{"kind", "made for a test"}}};
  XH_RETURN_IF_ERROR(AddModel(*writer, model.config, model.weights, *model.device, files));
  XH_RETURN_IF_ERROR(writer->Commit());
  const std::vector<int32_t> ids = RandomIds(kBatch * kTokens, model.config.vocab_size);
  const std::vector<float> logits = Forward(model, ids, kBatch).logits;
  const std::vector<int32_t> greedy = Greedy(model, std::vector<int32_t>(ids.begin(), ids.begin() + kTokens));
  return WriteSafetensors(path + ".safetensors",
                          {{"ids", XH_I32, {kBatch, kTokens}, ids.data()},
                           {"logits", XH_F32, {kBatch, kTokens, model.config.vocab_size}, logits.data()},
                           {"greedy", XH_I32, {kGreedy}, greedy.data()}});
}

Status WriteCases(const std::string& output) {
  for (const auto& entry : std::filesystem::directory_iterator(TeacherPath(""))) {
    const std::string name = entry.path().filename().string();
    const std::shared_ptr<const Model> teacher = LoadTeacher(name);
    if (teacher == nullptr) return Incompatible(name, " is no teacher");
    XH_RETURN_IF_ERROR(WriteCase(*teacher, output + "/" + name + ".teacher"));
    for (const auto& [label, options] : kStudents) {
      const std::shared_ptr<const Model> student = MakeStudent(*teacher, json::parse(options));
      XH_RETURN_IF_ERROR(WriteCase(*student, absl::StrCat(output, "/", name, ".", label)));
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace xh::test

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: make_cases OUTPUT\n"), 2;
  const xh::Status made = xh::test::WriteCases(argv[1]);
  if (!made.ok()) std::fprintf(stderr, "make_cases: %s\n", std::string(made.message()).c_str());
  return made.ok() && !testing::Test::HasFailure() ? 0 : 1;
}
