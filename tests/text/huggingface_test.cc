// The huggingface plugin through the core: known encodings, decoding as a whole and as a stream, chat templates, tokens
// of the config, damaged files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "core/runtime.h"
#include "core/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace xh {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

std::string ReadPath(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string ReadFile(const std::string& name) { return ReadPath(std::string(XH_TEST_DATA) + "/text/" + name); }

class HuggingFaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto runtime = Runtime::Open({});
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *runtime;
    files_ = {{"tokenizer.json", ReadFile("tokenizer.json")}};
  }
  StatusOr<std::shared_ptr<Tokenizer>> Open() { return Tokenizer::Open(runtime_->registry(), files_); }
  void SetConfig(const json& config) { files_["tokenizer_config.json"] = config.dump(); }

  void ExpectVectors(const std::string& name) {
    auto tokenizer = Open();
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const json cases = json::parse(ReadFile("huggingface.json"))[name];
    ASSERT_EQ(cases.size(), 70u);
    for (const json& expected : cases) {
      auto ids = (*tokenizer)->Encode(expected["text"].get<std::string>(), false);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, expected["ids"].get<std::vector<int32_t>>()) << expected["text"];
      EXPECT_EQ(*(*tokenizer)->Decode(*ids), expected["decoded"].get<std::string>());
      auto stream = Tokenizer::OpenStream(*tokenizer);
      ASSERT_TRUE(stream.ok());
      std::string whole;
      for (int32_t id : *ids) {
        const std::string piece = *stream->Push(id);
        EXPECT_NO_THROW(json(piece).dump()) << "half a character in " << expected["text"];
        whole += piece;
      }
      EXPECT_EQ(whole, expected["decoded"].get<std::string>());
    }
  }

  // Random ids of `choices`, then `last`, behind whose text no byte is held back.
  void ExpectStreamsAsDecoded(const std::vector<int32_t>& choices, int32_t last) {
    auto tokenizer = Open();
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    std::mt19937 generator(1);
    for (int sequence = 0; sequence < 1000; ++sequence) {
      std::vector<int32_t> ids;
      for (uint32_t length = generator() % 12; length > 0; --length) {
        ids.push_back(choices[generator() % choices.size()]);
      }
      ids.push_back(last);
      auto stream = Tokenizer::OpenStream(*tokenizer);
      ASSERT_TRUE(stream.ok());
      std::string whole;
      for (int32_t id : ids) {
        const std::string piece = *stream->Push(id);
        ASSERT_NO_THROW(json(piece).dump()) << "half a character";
        whole += piece;
      }
      ASSERT_EQ(whole, *(*tokenizer)->Decode(ids)) << ::testing::PrintToString(ids);
    }
  }

  std::shared_ptr<Runtime> runtime_;
  std::map<std::string, std::string> files_;
};

TEST_F(HuggingFaceTest, EncodesDecodesAndStreamsAsTheReference) { ExpectVectors("olmo2-3m"); }

// Tokenizers too large to keep here: XHYBRID_TOKENIZERS names a directory with dolma2.json and qwen2.json.
TEST_F(HuggingFaceTest, LargeVocabulariesEncodeAsTheReferenceWhereTheyAreGiven) {
  const char* directory = std::getenv("XHYBRID_TOKENIZERS");
  if (directory == nullptr) return;
  for (const char* name : {"dolma2", "qwen2"}) {
    files_["tokenizer.json"] = ReadPath(std::string(directory) + "/" + name + ".json");
    ExpectVectors(name);
  }
}

TEST_F(HuggingFaceTest, AStreamOfAnyByteLevelIdsGivesWhatDecodingGives) {
  std::vector<int32_t> every;
  for (int32_t id = 0; id < 400; ++id) every.push_back(id);  // all bytes and special tokens are among them
  ExpectStreamsAsDecoded(every, *(*Open())->Special("A"));
}

// Metaspace with byte pieces, as vocabularies that come of sentencepiece have it.
TEST_F(HuggingFaceTest, AStreamOfAnyByteFallbackIdsGivesWhatDecodingGives) {
  json vocabulary = {{"<unk>", 0}, {"\xE2\x96\x81", 1}, {"\xE2\x96\x81hi", 2}, {"a", 3}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocabulary[name] = 4 + byte;
  }
  const json decoder = json::parse(R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  json file = {{"version", "1.0"}, {"added_tokens", json::array()}, {"decoder", decoder}};
  file["model"] = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}, {"byte_fallback", true}};
  files_["tokenizer.json"] = file.dump();
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  EXPECT_EQ(*tokenizer->Decode({2, 1, 3}), "hi a");
  EXPECT_EQ(*tokenizer->Decode({3, 4 + 0xE2, 4 + 0x82, 4 + 0xAC}), "a\xE2\x82\xAC");
  auto stream = Tokenizer::OpenStream(tokenizer);
  EXPECT_EQ(*stream->Push(4 + 0xE2), "");
  EXPECT_EQ(*stream->Push(4 + 0x82), "");
  EXPECT_EQ(*stream->Push(4 + 0xAC), "\xE2\x82\xAC");
  ExpectStreamsAsDecoded({0, 1, 2, 3, 4 + 0x20, 4 + 0x41, 4 + 0x80, 4 + 0xBF, 4 + 0xC3, 4 + 0xE2, 4 + 0xF0, 4 + 0xFF},
                         3);
}

TEST_F(HuggingFaceTest, RendersTemplatesAsTheReference) {
  const json vectors = json::parse(ReadFile("chat_templates.json"));
  ASSERT_EQ(vectors["cases"].size(), 32u);
  for (const json& expected : vectors["cases"]) {
    SetConfig({{"bos_token", vectors["bos_token"]},
               {"eos_token", {{"content", vectors["eos_token"]}}},
               {"chat_template", vectors["templates"][expected["template"].get<std::string>()]}});
    std::vector<Message> messages;
    for (const json& message : expected["messages"]) messages.push_back({message["role"], message["content"]});
    auto text = (*Open())->RenderChat(messages, expected["add_generation_prompt"].get<bool>());
    if (expected.contains("rendered")) {
      ASSERT_TRUE(text.ok()) << text.status() << expected;
      EXPECT_EQ(*text, expected["rendered"].get<std::string>()) << expected["template"];
    } else {
      EXPECT_EQ(CodeOf(text.status()), XH_INVALID_ARGUMENT);
      EXPECT_EQ(std::string(text.status().message()), expected["error"].get<std::string>());
    }
  }
}

TEST_F(HuggingFaceTest, RendersWhatTemplatesUse) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ {'a': [1, 2.0, none, true], 'é<': 'x\\n'} | tojson }}", "{\"a\": [1, 2.0, null, true], \"é<\": \"x\\n\"}"},
      {"{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}"},
      {"{{ ' x '.strip() + 'a,b'.split(',')[-1] + 'ab'.title() }}", "xbAb"},
      {"{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"},
      {"{% for m in messages[::-1] %}{{ m.role }} {% endfor %}", "assistant user "},
      {"{{ true }} {{ none }} {{ ['a', 1] }}{{ missing }}", "True None ['a', 1]"},
      {"{% generation %}{{ 'x' }}{% endgeneration %}", "x"},
      {"{{ tools is none }}{{ messages[0].get('content') }}", "Truehi"},
      {"a\n  {% if true %}\nb\n  {% endif %}\n", "a\nb\n"},
      {"{{ strftime_now('%Y') | length }}", "4"}};
  for (const auto& [chat_template, expected] : cases) {
    SetConfig({{"chat_template", chat_template}});
    auto text = (*Open())->RenderChat({{"user", "hi"}, {"assistant", "yes"}}, false);
    ASSERT_TRUE(text.ok()) << text.status() << chat_template;
    EXPECT_EQ(*text, expected) << chat_template;
  }
}

std::string Repeated(const std::string& text, size_t count) {
  std::string out;
  while (count-- > 0) out += text;
  return out;
}

// The parser calls itself for each of these, which took the whole stack of the caller.
TEST_F(HuggingFaceTest, ALongRowOfOperatorsTakesNoMoreStackThanThereIs) {
  for (const std::string& row : {"{{ " + Repeated("-", 130000) + "1 }}", "{{ " + Repeated("not ", 32000) + "1 }}",
                                 "{% if 1 %}" + Repeated("{%elif 1%}", 12000) + "{% endif %}"}) {
    files_["chat_template.jinja"] = row;
    auto tokenizer = Open();
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_TRUE((*tokenizer)->RenderChat({{"user", "hi"}}, true).ok()) << row.substr(0, 20);
  }
}

TEST_F(HuggingFaceTest, AnEnormousTemplateIsRefused) {
  files_["chat_template.jinja"] = std::string(200000, 'x');
  const Status status = (*Open())->RenderChat({{"user", "hi"}}, true).status();
  EXPECT_EQ(CodeOf(status), XH_UNSUPPORTED);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has 200000 bytes; allowed: at most 131072"));
}

TEST_F(HuggingFaceTest, FindsTheTemplateWhereverItIsWritten) {
  EXPECT_EQ(CodeOf((*Open())->RenderChat({{"user", "hi"}}, false).status()), XH_UNSUPPORTED);
  const json other = {{"name", "tool_use"}, {"template", "tool"}};
  SetConfig({{"chat_template", {other, {{"name", "default"}, {"template", "list"}}}}});
  EXPECT_EQ(*(*Open())->RenderChat({{"user", "hi"}}, false), "list");
  files_["chat_template.jinja"] = "file {{ bos_token }}";
  files_["special_tokens_map.json"] = R"({"bos_token": {"content": "<b>"}})";
  EXPECT_EQ(*(*Open())->RenderChat({{"user", "hi"}}, false), "file <b>");
  files_["chat_template.jinja"] = "{% for";
  EXPECT_EQ(CodeOf((*Open())->RenderChat({{"user", "hi"}}, false).status()), XH_UNSUPPORTED);
}

// The sentencepiece plugin knows one template; the others are rendered from the same files.
TEST_F(HuggingFaceTest, RendersForASentencepieceModel) {
  files_ = {{"tokenizer.model", ReadFile("tokenizer.model")}};
  SetConfig({{"bos_token", "<s>"},
             {"chat_template",
              "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]"
              "{% if m['role'] != 'user' %}{{ raise_exception('Only users') }}{% endif %}{% endfor %}"}});
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  EXPECT_EQ(*tokenizer->RenderChat({{"user", "hi"}}, false), "<s>[INST] hi [/INST]");
  auto refused = tokenizer->RenderChat({{"assistant", "hi"}}, false);
  EXPECT_EQ(CodeOf(refused.status()), XH_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(refused.status().message()), "Only users");
  EXPECT_EQ((*tokenizer->Encode("hi", false)).size(), tokenizer->Encode("hi", true)->size());
}

TEST_F(HuggingFaceTest, TheConfigsEndsReplaceThePostProcessor) {
  const std::vector<int32_t> plain = *(*Open())->Encode("hi", true);
  SetConfig({{"bos_token", "<|endoftext|>"}, {"eos_token", "<|im_end|>"}});
  EXPECT_EQ(*(*Open())->Encode("hi", true), plain);
  SetConfig({{"bos_token", "<|endoftext|>"}, {"eos_token", "<|im_end|>"}, {"add_bos_token", true}});
  std::vector<int32_t> opened = plain;
  opened.insert(opened.begin(), 0);
  EXPECT_EQ(*(*Open())->Encode("hi", true), opened);
  EXPECT_EQ(*(*Open())->Encode("hi", false), plain);
  // A chat template may write the opening token itself: it comes once.
  EXPECT_EQ(*(*Open())->Encode("<|endoftext|>hi", true), opened);
  SetConfig({{"eos_token", "<|im_end|>"}, {"add_eos_token", true}});
  EXPECT_EQ((*(*Open())->Encode("hi", true)).back(), 2);
}

TEST_F(HuggingFaceTest, SpecialTokensAreFoundByText) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  EXPECT_EQ(*tokenizer->Special("<|im_end|>"), 2);
  EXPECT_EQ(CodeOf(tokenizer->Special("<|nothing|>").status()), XH_NOT_FOUND);
}

TEST_F(HuggingFaceTest, IdsOutOfRangeAndTextThatIsNotUtf8AreRefused) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  for (int64_t id : {int64_t{-1}, tokenizer->vocab_size(), int64_t{INT32_MAX}}) {
    auto text = tokenizer->Decode({static_cast<int32_t>(id)});
    EXPECT_EQ(CodeOf(text.status()), XH_INVALID_ARGUMENT);
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(std::to_string(id)));
    EXPECT_EQ(OriginOf(text.status()), "text.huggingface");
  }
  auto ids = tokenizer->Encode("a\xFF", false);
  EXPECT_EQ(CodeOf(ids.status()), XH_INVALID_ARGUMENT);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("byte 1"));
}

TEST_F(HuggingFaceTest, DamagedFilesAreCorrupt) {
  const std::string whole = files_["tokenizer.json"];
  for (size_t size : {size_t{0}, size_t{1}, whole.size() / 2, whole.size() - 1}) {
    files_["tokenizer.json"] = whole.substr(0, size);
    EXPECT_EQ(CodeOf(Open().status()), XH_CORRUPT) << size;
  }
  for (const char* bad :
       {"{}", "[]", "null", "\xFF", R"({"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}})",
        R"({"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}})"}) {
    files_["tokenizer.json"] = bad;
    EXPECT_EQ(CodeOf(Open().status()), XH_CORRUPT) << bad;
  }
  files_["tokenizer.json"] = whole;
  files_["tokenizer_config.json"] = "{";
  EXPECT_EQ(CodeOf(Open().status()), XH_CORRUPT);
}

TEST_F(HuggingFaceTest, AnOpeningTokenBeyondTheVocabularyIsCorrupt) {
  json tokenizer = json::parse(files_["tokenizer.json"]);
  tokenizer["post_processor"] =
      json::parse(R"({"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1000000], "tokens": ["<s>"]}}})");
  files_["tokenizer.json"] = tokenizer.dump();
  const Status refused = Open().status();
  EXPECT_EQ(CodeOf(refused), XH_CORRUPT);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("token id 1000000"));
}

TEST_F(HuggingFaceTest, ManyThreadsEncodeAtOnce) {
  std::shared_ptr<Tokenizer> tokenizer = *Open();
  const json cases = json::parse(ReadFile("huggingface.json"))["olmo2-3m"];
  std::vector<std::jthread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const json& expected : cases) {
        auto ids = tokenizer->Encode(expected["text"].get<std::string>(), false);
        if (!ids.ok() || *ids != expected["ids"].get<std::vector<int32_t>>()) ++wrong;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace xh
