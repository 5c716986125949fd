// What every tokenizer plugin has to do with any tokenizer: counts, round trips, streams, threads, damaged files.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <thread>

#include "tests/conformance/heap.h"
#include "tests/conformance/host.h"
#include "tests/conformance/program/settings.h"

namespace xh::test {
namespace {

using Ids = std::vector<int32_t>;

struct File {
  std::string name, bytes;
};

// The files named on the command line, under their own names without directories.
const std::vector<File>& Files() {
  static const std::vector<File> files = [] {
    std::vector<File> all;
    for (const std::string& path : TheSettings().tokenizer_files) {
      std::ifstream file(path, std::ios::binary);
      EXPECT_TRUE(file.good()) << "cannot read " << path;
      all.push_back({path.substr(path.rfind('/') + 1), std::string(std::istreambuf_iterator<char>(file), {})});
    }
    return all;
  }();
  return files;
}

struct CloseText {
  void operator()(xh_text* text) const { TextTable().close(text); }
};
struct CloseStream {
  void operator()(xh_text_stream* stream) const { TextTable().stream_close(stream); }
};
using Text = std::unique_ptr<xh_text, CloseText>;
using Stream = std::unique_ptr<xh_text_stream, CloseStream>;

Outcome OpenText(const std::vector<File>& files, Text* out) {
  std::vector<xh_text_file> table;
  for (const File& file : files) {
    table.push_back({file.name.c_str(), file.bytes.data(), static_cast<int64_t>(file.bytes.size())});
  }
  xh_text* text = nullptr;
  const Outcome outcome = TakeError(TextTable().open(table.data(), static_cast<int64_t>(table.size()), &text));
  EXPECT_EQ(outcome.code == 0, text != nullptr);
  if (outcome.code == 0) out->reset(text);
  return outcome;
}

Text Opened() {
  Text text;
  const Outcome outcome = OpenText(Files(), &text);
  EXPECT_EQ(outcome.message, "") << "the tokenizer files are refused";
  return text;
}

// Fails the test and leaves it: nothing else can be asked of a tokenizer that does not open.
#define XH_OPEN(text)         \
  const Text text = Opened(); \
  ASSERT_NE(text, nullptr)

Outcome Encode(const xh_text* text, const std::string& bytes, bool special, Ids* ids) {
  int64_t count = -1;
  const int64_t size = static_cast<int64_t>(bytes.size());
  const Outcome asked = TakeError(TextTable().encode(text, bytes.data(), size, special, nullptr, 0, &count));
  if (asked.code != 0) return asked;
  EXPECT_GE(count, 0);
  ids->assign(static_cast<size_t>(count) + 1, -7);
  int64_t again = -1;
  const Outcome given = TakeError(TextTable().encode(text, bytes.data(), size, special, ids->data(), count, &again));
  EXPECT_EQ(again, count) << "encode counts otherwise with room than without";
  EXPECT_EQ(ids->back(), -7) << "encode writes more ids than there is room for";
  ids->pop_back();
  return given;
}

Outcome Decode(const xh_text* text, const Ids& ids, std::string* out) {
  int64_t size = -1;
  const int64_t count = static_cast<int64_t>(ids.size());
  const Outcome asked = TakeError(TextTable().decode(text, ids.data(), count, nullptr, 0, &size));
  if (asked.code != 0) return asked;
  out->assign(static_cast<size_t>(size) + 1, '\x7f');
  int64_t again = -1;
  const Outcome given = TakeError(TextTable().decode(text, ids.data(), count, out->data(), size, &again));
  EXPECT_EQ(again, size) << "decode counts otherwise with room than without";
  EXPECT_EQ(out->back(), '\x7f') << "decode writes more bytes than there is room for";
  out->pop_back();
  return given;
}

Ids Encoded(const xh_text* text, const std::string& bytes, bool special = false) {
  Ids ids;
  EXPECT_EQ(Encode(text, bytes, special, &ids).message, "");
  return ids;
}

std::string Decoded(const xh_text* text, const Ids& ids) {
  std::string out;
  EXPECT_EQ(Decode(text, ids, &out).message, "");
  return out;
}

// All pieces of a stream, joined.
std::string Streamed(const xh_text* text, const Ids& ids) {
  xh_text_stream* opened = nullptr;
  EXPECT_EQ(TakeError(TextTable().stream_open(text, &opened)).message, "");
  const Stream stream(opened);
  std::string all;
  for (int32_t id : ids) {
    const char* piece = nullptr;
    int64_t size = -1;
    const Outcome outcome = TakeError(TextTable().stream_push(stream.get(), id, &piece, &size));
    EXPECT_EQ(outcome.message, "");
    if (outcome.code != 0 || size < 0) break;
    const std::string bytes = size == 0 ? std::string() : std::string(piece, static_cast<size_t>(size));
    EXPECT_TRUE(IsUtf8(bytes)) << "stream_push gives part of a character";
    all += bytes;
  }
  return all;
}

const char* const kTexts[] = {"Hello, world",
                              "The quick brown fox jumps over the lazy dog.",
                              "3.14159 and 2,718",
                              "a",
                              "Stra\xc3\x9f"
                              "e \xe2\x82\xac 5, na\xc3\xafve",
                              "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e",
                              "\xf0\x9f\x98\x80\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x94\xac",
                              "two  spaces and\ta tab",
                              "line one\nline two\n\nline four",
                              " leading and trailing ",
                              "{\"json\": [1, 2, 3]}"};

TEST(TextFiles, AreTakenAndHaveAVocabulary) {
  XH_OPEN(text);
  EXPECT_GT(TextTable().vocab_size(text.get()), 0);
  ASSERT_NE(TextTable().main_file, nullptr);
  EXPECT_GT(std::string(TextTable().main_file).size(), 0u);
}

// Decoding may normalise a text once (Unicode forms, spaces); what it gives then stays as it is. Words of plain letters
// have nothing to normalise.
TEST(TextRoundTrip, OfATextIsStable) {
  XH_OPEN(text);
  for (const char* sample : kTexts) {
    const std::string once = Decoded(text.get(), Encoded(text.get(), sample));
    EXPECT_EQ(Decoded(text.get(), Encoded(text.get(), once)), once) << "the round trip of \"" << sample << "\" drifts";
  }
  for (const char* plain : {"Hello world", "The quick brown fox"}) {
    EXPECT_EQ(Decoded(text.get(), Encoded(text.get(), plain)), plain) << "the round trip changes plain words";
  }
}

TEST(TextRoundTrip, IdsAreOfTheVocabulary) {
  XH_OPEN(text);
  const int64_t vocabulary = TextTable().vocab_size(text.get());
  for (const char* sample : kTexts) {
    for (bool special : {false, true}) {
      for (int32_t id : Encoded(text.get(), sample, special)) {
        EXPECT_TRUE(id >= 0 && id < vocabulary) << "id " << id << " of \"" << sample << "\"";
      }
    }
  }
}

// Room for a part: the first ids are written, the count is of all.
TEST(TextCounts, LittleRoomGivesTheBeginning) {
  XH_OPEN(text);
  const std::string sample = kTexts[1];
  const Ids ids = Encoded(text.get(), sample);
  ASSERT_GT(ids.size(), 2u);
  Ids some(3, -7);
  int64_t count = 0;
  EXPECT_EQ(TakeError(TextTable().encode(text.get(), sample.data(), static_cast<int64_t>(sample.size()), 0, some.data(),
                                         2, &count))
                .message,
            "");
  EXPECT_EQ(count, static_cast<int64_t>(ids.size())) << "encode counts only what it has room for";
  EXPECT_EQ(some, (Ids{ids[0], ids[1], -7}));
  const std::string whole = Decoded(text.get(), ids);
  std::string part(5, '\x7f');
  EXPECT_EQ(
      TakeError(TextTable().decode(text.get(), ids.data(), static_cast<int64_t>(ids.size()), part.data(), 4, &count))
          .message,
      "");
  EXPECT_EQ(count, static_cast<int64_t>(whole.size())) << "decode counts only what it has room for";
  EXPECT_EQ(part, whole.substr(0, 4) + '\x7f');
}

TEST(TextCounts, NothingGivesNothing) {
  XH_OPEN(text);
  EXPECT_EQ(Encoded(text.get(), ""), Ids());
  EXPECT_EQ(Decoded(text.get(), {}), "");
}

TEST(TextStream, GivesWhatDecodingGives) {
  XH_OPEN(text);
  for (const char* sample : kTexts) {
    const Ids ids = Encoded(text.get(), sample, true);
    EXPECT_EQ(Streamed(text.get(), ids), Decoded(text.get(), ids))
        << "a stream of \"" << sample << "\" differs from decode";
  }
}

// Two streams of one text do not know of each other, and a stream does not know of what was decoded in between.
TEST(TextStream, IsItsOwn) {
  XH_OPEN(text);
  const Ids ids = Encoded(text.get(), kTexts[4]);
  xh_text_stream *first = nullptr, *second = nullptr;
  ASSERT_EQ(TakeError(TextTable().stream_open(text.get(), &first)).message, "");
  ASSERT_EQ(TakeError(TextTable().stream_open(text.get(), &second)).message, "");
  const Stream streams[] = {Stream(first), Stream(second)};
  std::string all[2];
  for (int32_t id : ids) {
    for (size_t i = 0; i < 2; ++i) {
      const char* piece = nullptr;
      int64_t size = 0;
      EXPECT_EQ(TakeError(TextTable().stream_push(streams[i].get(), id, &piece, &size)).message, "");
      if (size > 0) all[i].append(piece, static_cast<size_t>(size));
    }
  }
  EXPECT_EQ(all[0], Decoded(text.get(), ids));
  EXPECT_EQ(all[1], all[0]);
}

TEST(TextIds, OutsideTheVocabularyAreRefused) {
  XH_OPEN(text);
  const int64_t vocabulary = TextTable().vocab_size(text.get());
  for (int64_t id : {int64_t{-1}, vocabulary, int64_t{2147483647}}) {
    std::string out;
    const Outcome outcome = Decode(text.get(), {static_cast<int32_t>(id)}, &out);
    EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT) << "decode of id " << id;
    EXPECT_TRUE(Names(outcome.message, {std::to_string(id).c_str()})) << outcome.message;
    xh_text_stream* opened = nullptr;
    ASSERT_EQ(TakeError(TextTable().stream_open(text.get(), &opened)).message, "");
    const Stream stream(opened);
    const char* piece = nullptr;
    int64_t size = 0;
    EXPECT_EQ(TakeError(TextTable().stream_push(stream.get(), static_cast<int32_t>(id), &piece, &size)).code,
              XH_INVALID_ARGUMENT)
        << "stream_push of id " << id;
  }
}

TEST(TextIds, AnUnknownSpecialTokenIsNotFound) {
  XH_OPEN(text);
  int32_t id = -7;
  const Outcome outcome = TakeError(TextTable().special(text.get(), "<|no such token|>", &id));
  EXPECT_EQ(outcome.code, XH_NOT_FOUND);
  EXPECT_TRUE(Names(outcome.message, {"<|no such token|>"})) << outcome.message;
}

TEST(TextHostile, BytesThatAreNoTextDoNotCrash) {
  XH_OPEN(text);
  for (const std::string& bytes :
       {std::string("\xff\xfe\x80"), std::string("\xf0\x9f"), std::string("a\0b", 3), std::string("\xed\xa0\x80"),
        std::string(200000, 'a'), std::string(100000, '\xff')}) {
    Ids ids;
    const Outcome outcome = Encode(text.get(), bytes, true, &ids);
    if (outcome.code != 0) continue;
    std::string out;
    EXPECT_EQ(Decode(text.get(), ids, &out).message, "") << "what was encoded does not decode";
  }
}

TEST(TextHostile, DamagedFilesAreRefusedOrWork) {
  std::mt19937 generator(7);
  for (int round = 0; round < 60; ++round) {
    std::vector<File> files = Files();
    std::string& bytes = files[generator() % files.size()].bytes;
    if (bytes.empty()) continue;
    if (round % 3 == 0) {
      bytes.resize(generator() % bytes.size());
    } else {
      for (int change = 0; change < 3; ++change) bytes[generator() % bytes.size()] = static_cast<char>(generator());
    }
    Text text;
    if (OpenText(files, &text).code != 0) continue;
    Ids ids;
    std::string out;
    if (Encode(text.get(), kTexts[4], true, &ids).code == 0) Decode(text.get(), ids, &out);
  }
}

TEST(TextHostile, AMainFileThatIsNoneIsRefused) {
  for (const std::string& bytes : {std::string(), std::string("x"), std::string(5000, '\xff'), std::string("{}")}) {
    Text text;
    EXPECT_NE(OpenText({{TextTable().main_file, bytes}}, &text).code, 0) << bytes.size() << " bytes are taken";
  }
}

TEST(TextThreads, GiveTheSame) {
  XH_OPEN(text);
  std::vector<Ids> expected;
  for (const char* sample : kTexts) expected.push_back(Encoded(text.get(), sample));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        for (size_t at = 0; at < expected.size(); ++at) {
          EXPECT_EQ(Encoded(text.get(), kTexts[at]), expected[at]);
          EXPECT_EQ(Streamed(text.get(), expected[at]), Decoded(text.get(), expected[at]));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TextRender, CountsWhatItWritesOrSaysThatItCannot) {
  XH_OPEN(text);
  const xh_message messages[] = {{"user", "hi"}, {"assistant", "yes"}};
  int64_t size = -1;
  const Outcome asked = TakeError(TextTable().render(text.get(), messages, 2, 1, nullptr, 0, &size));
  if (asked.code != 0) {
    EXPECT_EQ(asked.code, XH_UNSUPPORTED) << asked.message;
    return;
  }
  std::string out(static_cast<size_t>(size) + 1, '\x7f');
  int64_t again = -1;
  EXPECT_EQ(TakeError(TextTable().render(text.get(), messages, 2, 1, out.data(), size, &again)).message, "");
  EXPECT_EQ(again, size);
  EXPECT_EQ(out.back(), '\x7f') << "render writes more than there is room for";
  EXPECT_NE(out.find("hi"), std::string::npos) << out;
}

TEST(TextMemory, CallsGiveItBack) {
  XH_OPEN(text);
  ExpectNoLeak("encode and decode", [&] { Decoded(text.get(), Encoded(text.get(), kTexts[1])); });
  ExpectNoLeak("stream_open and stream_close", [&] {
    xh_text_stream* stream = nullptr;
    EXPECT_EQ(TakeError(TextTable().stream_open(text.get(), &stream)).message, "");
    TextTable().stream_close(stream);
  });
  ExpectNoLeak("refusals of open", [] {
    Text refused;
    OpenText({{TextTable().main_file, "x"}}, &refused);
  });
}

}  // namespace
}  // namespace xh::test
