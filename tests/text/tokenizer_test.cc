// The sentencepiece plugin through the core: known encodings, decoding as a whole and as a stream, chat, damaged files.
#include "core/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "core/runtime.h"
#include "nlohmann/json.hpp"

namespace xh {
namespace {

using ::testing::HasSubstr;

std::string ReadFile(const std::string& name) {
  std::ifstream file(std::string(XH_TEST_DATA) + "/text/" + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class TokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto runtime = Runtime::Open({});
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *runtime;
    files_ = {{"tokenizer.model", ReadFile("tokenizer.model")},
              {"tokenizer_config.json", ReadFile("tokenizer_config.json")}};
  }
  StatusOr<std::shared_ptr<Tokenizer>> Open() { return Tokenizer::Open(runtime_->registry(), files_); }

  std::shared_ptr<Runtime> runtime_;
  std::map<std::string, std::string> files_;
};

TEST_F(TokenizerTest, EncodesAndDecodesAsTheReference) {
  auto tokenizer = Open();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  nlohmann::json cases = nlohmann::json::parse(ReadFile("sentencepiece.json"));
  ASSERT_EQ(cases.size(), 69u);
  for (const auto& expected : cases) {
    auto ids = (*tokenizer)->Encode(expected["text"].get<std::string>(), false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected["ids"].get<std::vector<int32_t>>()) << expected["text"];
    auto text = (*tokenizer)->Decode(*ids);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, expected["decoded"].get<std::string>());
  }
}

TEST_F(TokenizerTest, AStreamGivesTheWholeTextInWholeCharacters) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  for (const auto& expected : nlohmann::json::parse(ReadFile("sentencepiece.json"))) {
    auto stream = Tokenizer::OpenStream(tokenizer);
    ASSERT_TRUE(stream.ok());
    std::string whole;
    for (int32_t id : expected["ids"].get<std::vector<int32_t>>()) {
      auto piece = stream->Push(id);
      ASSERT_TRUE(piece.ok()) << piece.status();
      EXPECT_NO_THROW(nlohmann::json(*piece).dump()) << "half a character in " << expected["text"];
      whole += *piece;
    }
    EXPECT_EQ(whole, expected["decoded"].get<std::string>());
  }
}

TEST_F(TokenizerTest, SpecialAddsWhatTheConfigAsksFor) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  auto plain = *tokenizer->Encode("hi", false);
  auto special = *tokenizer->Encode("hi", true);
  ASSERT_EQ(special.size(), plain.size() + 1);
  EXPECT_EQ(special[0], *tokenizer->Special("<s>"));
}

TEST_F(TokenizerTest, ASpecialTokenIsFoundByItsExactText) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  EXPECT_EQ(*tokenizer->Special("<|im_end|>"), 4);
  auto missing = tokenizer->Special("<|nothing|>");
  EXPECT_EQ(CodeOf(missing.status()), XH_NOT_FOUND);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("<|nothing|>"));
}

TEST_F(TokenizerTest, AnIdOutOfRangeIsRefusedByValue) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  for (int32_t id : {-1, 4096}) {
    auto text = tokenizer->Decode({id});
    EXPECT_EQ(CodeOf(text.status()), XH_INVALID_ARGUMENT);
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(std::to_string(id)));
    EXPECT_EQ(OriginOf(text.status()), "text.sentencepiece");
  }
}

TEST_F(TokenizerTest, RendersChatMl) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  auto text = tokenizer->RenderChat({{"user", "hi"}, {"assistant", "yes"}}, true);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(TokenizerTest, AnotherTemplateIsUnsupportedRatherThanRenderedWrongly) {
  files_["tokenizer_config.json"] = R"({"chat_template": "{% for m in messages %}[INST]{{ m.content }}{% endfor %}"})";
  auto text = (*Open())->RenderChat({{"user", "hi"}}, true);
  EXPECT_EQ(CodeOf(text.status()), XH_UNSUPPORTED);
  files_["tokenizer_config.json"] = "{}";
  EXPECT_THAT(std::string((*Open())->RenderChat({{"user", "hi"}}, true).status().message()),
              HasSubstr("no chat template"));
}

TEST_F(TokenizerTest, DamagedFilesAreCorrupt) {
  const std::string whole = files_["tokenizer.model"];
  for (size_t size : {size_t{0}, size_t{1}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    files_["tokenizer.model"] = whole.substr(0, size);
    EXPECT_EQ(CodeOf(Open().status()), XH_CORRUPT) << size << " bytes";
  }
  files_["tokenizer.model"] = std::string(5000, 'x');
  EXPECT_EQ(CodeOf(Open().status()), XH_CORRUPT);
  files_["tokenizer.model"] = whole;
  files_["tokenizer_config.json"] = "{";
  EXPECT_EQ(CodeOf(Open().status()), XH_CORRUPT);
}

TEST_F(TokenizerTest, AFileThatNoPluginReadsIsNamed) {
  auto tokenizer = Tokenizer::Open(runtime_->registry(), {{"tokenizer.json", "{}"}});
  EXPECT_EQ(CodeOf(tokenizer.status()), XH_NOT_FOUND);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace xh
