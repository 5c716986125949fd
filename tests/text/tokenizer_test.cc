// The sentencepiece plugin through the core: known encodings, decoding as a whole and as a stream, chat, damaged files.
#include "core/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <random>

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

// Sequences that no text encodes to: byte pieces that form no characters, unknown pieces, control tokens, spaces at
// the start.
TEST_F(TokenizerTest, AStreamOfAnyIdsGivesWhatDecodingGives) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  std::vector<int32_t> pieces = {*tokenizer->Special("<s>"),
                                 *tokenizer->Special("<unk>"),
                                 *tokenizer->Special("\xE2\x96\x81"),
                                 *tokenizer->Special("<|im_end|>"),
                                 397,
                                 386};
  for (const char* byte : {"<0x20>", "<0x41>", "<0x80>", "<0xBF>", "<0xC3>", "<0xE2>", "<0x96>", "<0xED>", "<0xA0>",
                           "<0xF0>", "<0x9F>", "<0xF4>", "<0xFF>"}) {
    pieces.push_back(*tokenizer->Special(byte));
  }
  std::mt19937 generator(1);
  for (int sequence = 0; sequence < 2000; ++sequence) {
    std::vector<int32_t> ids;
    for (uint32_t length = generator() % 12; length > 0; --length) ids.push_back(pieces[generator() % pieces.size()]);
    ids.push_back(397);  // bytes before it can no longer become a character
    auto stream = Tokenizer::OpenStream(tokenizer);
    ASSERT_TRUE(stream.ok());
    std::string whole;
    for (int32_t id : ids) whole += *stream->Push(id);
    ASSERT_EQ(whole, *tokenizer->Decode(ids)) << ::testing::PrintToString(ids);
  }
}

TEST_F(TokenizerTest, AStreamHoldsBackBytesUntilTheyAreACharacter) {
  auto stream = Tokenizer::OpenStream(*Open());
  ASSERT_TRUE(stream.ok());
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  EXPECT_EQ(*stream->Push(*tokenizer->Special("<0xE2>")), "");
  EXPECT_EQ(*stream->Push(*tokenizer->Special("<0x82>")), "");
  EXPECT_EQ(*stream->Push(*tokenizer->Special("<0xAC>")), "\xE2\x82\xAC");
  EXPECT_EQ(CodeOf(stream->Push(4096).status()), XH_INVALID_ARGUMENT);
}

TEST_F(TokenizerTest, SpecialAddsWhatTheConfigAsksFor) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  auto plain = *tokenizer->Encode("hi", false);
  auto special = *tokenizer->Encode("hi", true);
  ASSERT_EQ(special.size(), plain.size() + 1);
  EXPECT_EQ(special[0], *tokenizer->Special("<s>"));
  files_["tokenizer_config.json"] = R"({"add_bos_token": false, "add_eos_token": true})";
  tokenizer = *Open();
  special = *tokenizer->Encode("hi", true);
  ASSERT_EQ(special.size(), plain.size() + 1);
  EXPECT_EQ(special.back(), *tokenizer->Special("</s>"));
  files_.erase("tokenizer_config.json");
  EXPECT_EQ(*(*Open())->Encode("hi", true), plain);
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

TEST_F(TokenizerTest, ChatMlIsKnownInEverySpellingThatRendersTheSame) {
  const std::string expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
  for (const char* same :
       {"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "{%- for message in messages -%}\n  {{- \"<|im_start|>\" + message.role + \"\\n\" + message.content + "
        "\"<|im_end|>\\n\" -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n  {{- "
        "\"<|im_start|>assistant\\n\" -}}\n{%- endif -%}\n",
        "{% for message in messages %}\n{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>' + '\\n' }}{% endfor %}\n{% if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}"
        "{% endif %}"}) {
    files_["tokenizer_config.json"] = nlohmann::json({{"chat_template", same}}).dump();
    auto text = (*Open())->RenderChat({{"user", "hi"}}, true);
    ASSERT_TRUE(text.ok()) << text.status() << same;
    EXPECT_EQ(*text, expected);
  }
}

TEST_F(TokenizerTest, AlmostChatMlIsUnsupported) {
  for (const char* other :
       {// a line feed more a message
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>\\n' }}\n{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        // no line feed after a message
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        // text before
        "Chat: {% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        // another role
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}",
        "{% for", "{{ '", "{", "", " "}) {
    files_["tokenizer_config.json"] = nlohmann::json({{"chat_template", other}}).dump();
    EXPECT_EQ(CodeOf((*Open())->RenderChat({{"user", "hi"}}, true).status()), XH_UNSUPPORTED) << other;
  }
}

TEST_F(TokenizerTest, ATemplateFileGoesBeforeTheConfig) {
  files_["chat_template.jinja"] = "{{ messages }}";
  EXPECT_EQ(CodeOf((*Open())->RenderChat({{"user", "hi"}}, true).status()), XH_UNSUPPORTED);
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

std::string LengthAndBytes(const std::string& bytes) {
  std::string out;
  for (size_t left = bytes.size();; left >>= 7) {
    out += static_cast<char>((left & 0x7f) | (left >= 0x80 ? 0x80 : 0));
    if (left < 0x80) return out + bytes;
  }
}

// A model whose normaliser writes the text at `value` of "a\0" for "A". Protobuf takes the last of a field.
std::string WithCharacterMap(const std::string& model, uint32_t root, uint32_t value) {
  std::vector<uint32_t> trie(256);
  trie[0] = root;
  trie['A' ^ 1] = 'A' | 1u << 8 | 2u << 10;  // has a value, its children are 2 away
  trie['A' ^ 1 ^ 2] = 1u << 31 | value;
  const uint32_t bytes = static_cast<uint32_t>(trie.size() * sizeof(uint32_t));
  std::string map(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
  map.append(reinterpret_cast<const char*>(trie.data()), bytes).append("a", 2);
  return model + "\x1a" + LengthAndBytes("\x12" + LengthAndBytes(map));
}

// The library does not look where a map leads, and read far outside of it.
TEST_F(TokenizerTest, ACharacterMapThatLeadsOutsideItselfIsCorrupt) {
  const std::string model = files_["tokenizer.model"];
  constexpr uint32_t kRoot = 1u << 10;  // its children are 1 away
  files_["tokenizer.model"] = WithCharacterMap(model, kRoot, 0);
  auto tokenizer = Open();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("bAd", false), *(*tokenizer)->Encode("bad", false));
  const std::string corrupt[] = {WithCharacterMap(model, 0x3ffffu << 10 | 1u << 9, 0),
                                 WithCharacterMap(model, kRoot, 2), WithCharacterMap(model, kRoot, 0x7fffffff),
                                 model + "\x1a" + LengthAndBytes("\x12" + LengthAndBytes(std::string(5, '\0')))};
  for (const std::string& bytes : corrupt) {
    files_["tokenizer.model"] = bytes;
    EXPECT_EQ(CodeOf(Open().status()), XH_CORRUPT);
    EXPECT_THAT(std::string(Open().status().message()), HasSubstr("character map leads outside itself"));
  }
}

TEST_F(TokenizerTest, AModelWithChangedBytesIsCorruptOrWorks) {
  const std::string whole = files_["tokenizer.model"];
  std::mt19937 generator(7);
  int corrupt = 0;
  for (int round = 0; round < 200; ++round) {
    std::string& bytes = files_["tokenizer.model"] = whole;
    for (int change = 0; change < 3; ++change) bytes[generator() % bytes.size()] = static_cast<char>(generator());
    auto tokenizer = Open();
    if (!tokenizer.ok()) {
      EXPECT_EQ(CodeOf(tokenizer.status()), XH_CORRUPT) << tokenizer.status();
      ++corrupt;
      continue;
    }
    auto ids = (*tokenizer)->Encode("Hello, w\xC3\xB6rld \xF0\x9F\x98\x80", true);
    if (ids.ok()) {
      EXPECT_TRUE((*tokenizer)->Decode(*ids).ok());
    }
  }
  EXPECT_GT(corrupt, 0);
}

TEST_F(TokenizerTest, AFileThatNoPluginReadsIsNamed) {
  auto tokenizer = Tokenizer::Open(runtime_->registry(), {{"tokenizer.json", "{}"}});
  EXPECT_EQ(CodeOf(tokenizer.status()), XH_NOT_FOUND);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace xh
