// What a session writes as text: pieces that join to the decoded whole, stop texts, forks.
#include "core/generate/session.h"
#include "tests/checkpoint/scratch.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

// A small random model with a real tokenizer; `padding` ids more than it has pieces.
std::shared_ptr<const Model> TalkingModel(int64_t padding = 0) {
  const std::string directory = std::string(XH_TEST_DATA) + "/text/";
  std::map<std::string, std::string> files;
  for (const char* name : {"tokenizer.model", "tokenizer_config.json"}) files[name] = ReadBytes(directory + name);
  auto tokenizer = Tokenizer::Open(CpuRuntime()->registry(), files);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  const json object = {{"model_type", "llama"},
                       {"vocab_size", (*tokenizer)->vocab_size() + padding},
                       {"hidden_size", 16},
                       {"num_hidden_layers", 1},
                       {"num_attention_heads", 2},
                       {"intermediate_size", 16},
                       {"max_position_embeddings", 128}};
  auto config = ConfigFromHuggingFace(object, nullptr, "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  auto model = std::make_shared<Model>(*RandomModel(*config, 3));
  model->tokenizer = *tokenizer;
  return model;
}

SamplerOptions Warm(int64_t tokens, std::vector<std::string> stop = {}) {
  SamplerOptions options;
  options.temperature = 1;
  options.seed = 11;
  options.max_tokens = tokens;
  options.stop = std::move(stop);
  return options;
}

struct Written {
  std::vector<int32_t> ids;
  std::string text;
};

Written WriteAll(Session& session) {
  Written written;
  for (bool finished = false; !finished;) {
    auto chosen = session.Next();
    EXPECT_TRUE(chosen.ok()) << chosen.status();
    if (!chosen.ok()) break;
    written.ids.push_back(chosen->token);
    written.text += chosen->piece;
    finished = chosen->finished;
  }
  return written;
}

std::unique_ptr<Session> Prompted(const std::shared_ptr<const Model>& model, const std::vector<int32_t>& prompt) {
  auto session = Session::Open(model);
  EXPECT_TRUE(session.ok()) << session.status();
  EXPECT_TRUE((*session)->Feed(prompt.data(), static_cast<int64_t>(prompt.size())).ok());
  return *std::move(session);
}

TEST(Text, PiecesContinueThePrompt) {
  auto model = TalkingModel();
  const std::vector<int32_t> prompt = *model->tokenizer->Encode("What is 2 + 2?", true);
  auto session = Prompted(model, prompt);
  ASSERT_TRUE(session->SetSampler(Warm(40)).ok());
  const Written written = WriteAll(*session);
  EXPECT_EQ(written.ids.size(), 40u);
  std::vector<int32_t> whole = prompt;
  whole.insert(whole.end(), written.ids.begin(), written.ids.end());
  const std::string before = *model->tokenizer->Decode(prompt), after = *model->tokenizer->Decode(whole);
  // A character that the last token leaves unfinished is not shown.
  ASSERT_GE(after.size(), before.size() + written.text.size());
  EXPECT_LE(after.size(), before.size() + written.text.size() + 3);
  EXPECT_EQ(after.substr(before.size(), written.text.size()), written.text);
}

TEST(Text, EndsBeforeAStopTextAndNeverShowsIt) {
  auto model = TalkingModel();
  const std::vector<int32_t> prompt = *model->tokenizer->Encode("Once upon a time", true);
  auto session = Prompted(model, prompt);
  ASSERT_TRUE(session->SetSampler(Warm(40)).ok());
  const Written free = WriteAll(*session);
  // Whole characters from the middle of what the model writes: they span pieces.
  size_t first = free.text.size() / 2;
  while (first < free.text.size() && (static_cast<unsigned char>(free.text[first]) & 0xc0) == 0x80) ++first;
  size_t last = first + 6;
  while (last < free.text.size() && (static_cast<unsigned char>(free.text[last]) & 0xc0) == 0x80) ++last;
  const std::string stop = free.text.substr(first, last - first);
  session = Prompted(model, prompt);
  ASSERT_TRUE(session->SetSampler(Warm(40, {"never written", stop})).ok());
  const Written stopped = WriteAll(*session);
  EXPECT_EQ(stopped.text, free.text.substr(0, free.text.find(stop)));
  EXPECT_LT(stopped.ids.size(), free.ids.size());
  EXPECT_EQ(session->position(), static_cast<int64_t>(prompt.size() + stopped.ids.size()));
}

TEST(Text, OfAForkIsTheSame) {
  auto model = TalkingModel();
  auto session = Prompted(model, *model->tokenizer->Encode("Once upon a time", true));
  ASSERT_TRUE(session->SetSampler(Warm(30)).ok());
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(session->Next().ok());
  auto fork = session->Fork();
  ASSERT_TRUE(fork.ok()) << fork.status();
  const Written own = WriteAll(*session), forked = WriteAll(**fork);
  EXPECT_EQ(own.ids, forked.ids);
  EXPECT_EQ(own.text, forked.text);
}

TEST(Text, IdsBeyondTheTokenizerHaveNone) {
  auto model = std::make_shared<Model>(*TalkingModel(64));
  // Only padded ids are likely: their rows of the head point where the others do not.
  std::vector<float> head = ReadWeight(*model, "lm_head.weight");
  const int64_t pieces = model->tokenizer->vocab_size();
  std::fill(head.begin(), head.begin() + pieces * 16, 0.0f);
  model->weights["lm_head.weight"] = NewWeight(*model, {pieces + 64, 16}, head);
  auto session = Prompted(model, {5, 6, 7});
  ASSERT_TRUE(session
                  ->SetSampler([] {
                    SamplerOptions options;
                    options.max_tokens = 5;
                    return options;
                  }())
                  .ok());
  const Written written = WriteAll(*session);
  for (int32_t id : written.ids) EXPECT_GE(id, pieces);
  EXPECT_EQ(written.text, "");
}

}  // namespace
}  // namespace xh::test
