// A row packed from documents gives what its documents give alone.
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

// A row of documents of these lengths, the first of which holds one token.
const std::vector<int64_t> kLengths = {1, 20, 3, 21};

void ExpectDocumentsAsAlone(const Model& model, const std::vector<int32_t>& ids) {
  std::vector<int32_t> starts;
  for (int64_t length : kLengths) starts.insert(starts.end(), length, static_cast<int32_t>(starts.size()));
  ASSERT_EQ(starts.size(), ids.size());
  const Results packed = Forward(model, ids, 1, starts);
  EXPECT_GT(RelativeError(Forward(model, ids, 1).logits, packed.logits), 1e-2) << "a row that runs on is the same";
  const int64_t vocab = model.config.vocab_size;
  int64_t from = 0;
  for (int64_t length : kLengths) {
    const std::vector<int32_t> document(ids.begin() + from, ids.begin() + from + length);
    const Results alone = Forward(model, document, 1);
    const std::vector<float> part(packed.logits.begin() + from * vocab,
                                  packed.logits.begin() + (from + length) * vocab);
    EXPECT_LE(RelativeError(part, alone.logits), 2e-5) << "document at " << from;
    from += length;
  }
}

std::vector<int32_t> Ids() {
  std::vector<int32_t> ids = ExpectedIds("hf_qwen2", "input_ids");
  ids.resize(45);
  return ids;
}

TEST(Documents, ATeacherSeesItsDocumentAlone) { ExpectDocumentsAsAlone(*LoadTeacher("hf_qwen2"), Ids()); }

TEST(Documents, AStudentOfEveryKindSeesItsDocumentAlone) {
  const auto teacher = LoadTeacher("hf_qwen2");
  for (const char* options : {R"({"window": 7, "sinks": 3})", R"({"window": 7, "sinks": 3, "feature_map": "hedgehog"})",
                              R"({"window": 4, "feature_map": "none"})", R"({"kind": "mlstm"})",
                              R"({"kind": "window", "window": 5, "sinks": 2})"}) {
    SCOPED_TRACE(options);
    ExpectDocumentsAsAlone(*MakeStudent(*teacher, json::parse(options)), Ids());
  }
}

}  // namespace
}  // namespace xh::test
