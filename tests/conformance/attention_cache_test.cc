// Attention with a cache: however a sequence is cut into calls, the outputs are those of the whole sequence, and the
// cache holds what xhybrid_plugin.h says.
#include <gtest/gtest.h>

#include "tests/conformance/attention_oracle.h"

namespace xh::test {
namespace {

struct Sequence {
  AttentionSize size;
  std::vector<Arg> inputs;
  Doubles expected;  // o of the whole
};

Sequence MakeSequence(const AttentionSize& s, xh_dtype dtype) {
  const std::vector<Arg> inputs = AttentionInputs(s, dtype);
  return {s, inputs, AttentionOracle(s, {inputs[0].values, inputs[1].values, inputs[2].values})[0]};
}

// The batch `times` over: many sequences for the oracle's work on few.
Sequence Repeat(Sequence sequence, int64_t times) {
  const auto repeat = [times](Doubles* values) {
    const size_t size = values->size();
    for (int64_t i = 1; i < times; ++i) values->insert(values->end(), values->begin(), values->begin() + size);
  };
  for (size_t i = 0; i < 3; ++i) {
    repeat(&sequence.inputs[i].values);
    sequence.inputs[i].shape[0] *= times;
  }
  repeat(&sequence.expected);
  sequence.size.batch *= times;
  return sequence;
}

// Tokens [from[b], from[b] + count) of every batch row b.
Arg Slice(const Arg& arg, const std::vector<int64_t>& from, int64_t count) {
  const int64_t heads = arg.shape[1], tokens = arg.shape[2], d = arg.shape[3];
  Arg out = arg;
  out.shape[2] = count;
  out.values.clear();
  for (int64_t b = 0; b < arg.shape[0]; ++b) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t first = ((b * heads + head) * tokens + from[static_cast<size_t>(b)]) * d;
      for (int64_t e = first; e < first + count * d; ++e) out.values.push_back(arg.values[static_cast<size_t>(e)]);
    }
  }
  return out;
}

class Decoder {
 public:
  explicit Decoder(const Sequence& sequence) : sequence_(sequence) {
    const AttentionSize& s = sequence.size;
    cache_k_ = cache_v_ = Output(sequence.inputs[0].dtype, {s.batch, s.Slots(), s.dim});  // starts as NaN
  }

  // Runs `count` tokens from position[b] on and compares o with the whole sequence's.
  void Step(const std::vector<int64_t>& position, int64_t count, double tolerance) {
    const AttentionSize& s = sequence_.size;
    Op op(XH_OP_ATTENTION, s.Params());
    std::vector<Arg> args;
    for (size_t i = 0; i < 3; ++i) args.push_back(Slice(sequence_.inputs[i], position, count));
    args.push_back(cache_k_);
    args.push_back(cache_v_);
    args.push_back(Of(XH_I32, {s.batch}, Doubles(position.begin(), position.end())));
    args.push_back(Absent());
    args.push_back(Output(args[0].dtype, args[0].shape));
    MustRun(op, XH_INFER, &args);
    cache_k_ = args[3];
    cache_v_ = args[4];
    Arg whole = Output(XH_F32, {s.batch, s.heads, s.tokens, s.dim});
    whole.values = sequence_.expected;
    EXPECT_LE(RelativeError(args[7].values, Slice(whole, position, count).values), tolerance)
        << count << " tokens at position " << position[0];
  }

  void ExpectLayout(const std::vector<int64_t>& length) const {
    const AttentionSize& s = sequence_.size;
    for (int64_t b = 0; b < s.batch; ++b) {
      int64_t base = 0;
      for (int64_t j = 0; j < s.kv_heads; ++j) {
        const int64_t window = s.windows[static_cast<size_t>(j)], end = length[static_cast<size_t>(b)];
        for (int64_t p = 0; p < end; ++p) {
          if (window != 0 && p >= s.sinks && p < end - window) continue;
          const int64_t slot = window == 0 || p < s.sinks ? p : s.sinks + (p - s.sinks) % window;
          for (int64_t c = 0; c < s.dim; ++c) {
            const size_t at = static_cast<size_t>((b * s.Slots() + base + slot) * s.dim + c);
            const size_t from = static_cast<size_t>(((b * s.kv_heads + j) * s.tokens + p) * s.dim + c);
            ASSERT_EQ(cache_k_.values[at], sequence_.inputs[1].values[from]) << "key " << p << " of head " << j;
            ASSERT_EQ(cache_v_.values[at], sequence_.inputs[2].values[from]) << "value " << p << " of head " << j;
          }
        }
        base += window == 0 ? s.capacity : s.sinks + window;
      }
    }
  }

 private:
  const Sequence& sequence_;
  Arg cache_k_, cache_v_;
};

class AttentionCuts : public testing::TestWithParam<int64_t> {};

TEST_P(AttentionCuts, CallsOfAnyLengthGiveTheWholeSequence) {
  const int64_t step = GetParam();
  for (int32_t sinks : {0, 4}) {
    const Sequence sequence = MakeSequence({2, 8, 4, 60, 10, {1, 3, 8, 0}, sinks, 61}, XH_F32);
    Decoder decoder(sequence);
    for (int64_t at = 0; at < 60; at += step) {
      decoder.Step({at, at}, std::min(step, 60 - at), 1e-5);
    }
    decoder.ExpectLayout({60, 60});
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, AttentionCuts, testing::Values(1, 2, 5, 17, 60));

TEST(AttentionCache, RowsOfABatchStandAtTheirOwnPositions) {
  const Sequence sequence = MakeSequence({2, 4, 2, 40, 16, {8, 0}, 2, 40}, XH_F32);
  Decoder decoder(sequence);
  decoder.Step({0, 0}, 3, 1e-5);
  // The second row is held back: what it writes in the meantime it writes again.
  for (int64_t at = 3; at < 20; ++at) decoder.Step({at, 3}, 1, 1e-5);
  for (int64_t at = 0; at < 16; at += 4) decoder.Step({20 + at, 4 + at}, 4, 1e-5);
  decoder.ExpectLayout({36, 20});
}

TEST(AttentionCache, PromptThenDecodingInBfloat) {
  const Sequence sequence = MakeSequence({1, 6, 2, 50, 12, {16, 0}, 4, 64}, XH_BF16);
  Decoder decoder(sequence);
  decoder.Step({0}, 33, 1e-2);
  for (int64_t at = 33; at < 50; ++at) decoder.Step({at}, 1, 1e-2);
  decoder.ExpectLayout({50});
}

TEST(AttentionCache, ManyHeadsOfOneGroupOnManyThreads) {
  const AttentionSize s = {1, 7, 1, 300, 64, {0}, 0, 300};
  const Sequence sequence = MakeSequence(s, XH_F32);
  Decoder decoder(sequence);
  decoder.Step({0}, 298, 1e-5);
  decoder.Step({298}, 1, 1e-5);
  decoder.Step({299}, 1, 1e-5);
}

// So many sequences that those of any GPU are busy; each goes forward at its own pace.
void DecodeMany(const AttentionSize& s, int64_t times, int64_t prompt) {
  const Sequence sequence = Repeat(MakeSequence(s, XH_BF16), times);
  Decoder decoder(sequence);
  std::vector<int64_t> position(static_cast<size_t>(sequence.size.batch), 0);
  decoder.Step(position, prompt, 1e-2);
  for (int64_t step = 0; prompt + step < s.tokens; ++step) {
    for (size_t b = 0; b < position.size(); ++b) {
      position[b] = prompt + step * (static_cast<int64_t>(b) % 7 + 1) / 7;
    }
    decoder.Step(position, 1, 1e-2);
  }
  for (int64_t& p : position) ++p;
  decoder.ExpectLayout(position);
}
TEST(AttentionCache, ManySequencesAtTheirOwnPositions) {
  DecodeMany({2, 8, 4, 202, 64, {40, 150, 0, 7}, 3, 202}, 36, 200);
  DecodeMany({2, 12, 4, 9, 64, {40, 2, 0, 7}, 3, 9}, 36, 1);  // from the first token on, groups of three
  DecodeMany({2, 16, 4, 78, 128, {24, 60, 0, 9}, 4, 78}, 36, 74);
}

TEST(AttentionCache, PositionsWithoutRoomAreRefusedAmongManySequences) {
  const AttentionSize s = {80, 16, 8, 1, 64, {2, 2, 2, 2, 0, 0, 0, 0}, 1, 8};
  std::vector<Arg> args = AttentionInputs(s, XH_BF16);
  args[3] = args[4] = Random(XH_BF16, {80, s.Slots(), 64}, 8);
  args.push_back(Output(XH_BF16, {80, 16, 1, 64}));
  const Doubles before = args[3].values;
  for (double position : {8.0, -1.0}) {
    args[5] = Of(XH_I32, {80}, Doubles(80, 3.0));
    args[5].values[77] = position;
    Op op(XH_OP_ATTENTION, s.Params());
    EXPECT_EQ(RunOrGap(op, XH_INFER, &args).code, XH_INVALID_ARGUMENT) << position;
    EXPECT_EQ(args[3].values, before);
  }
}

TEST(AttentionCache, PositionsWithoutRoomAreRefusedAndNothingIsWritten) {
  const AttentionSize s = {2, 2, 2, 3, 4, {2, 0}, 1, 8};
  std::vector<Arg> args = AttentionInputs(s, XH_F32);
  args[3] = args[4] = Random(XH_F32, {2, s.Slots(), 4}, 8);
  args.push_back(Output(XH_F32, {2, 2, 3, 4}));
  const Doubles before = args[3].values;
  for (int64_t position : {6, -1}) {
    args[5] = Of(XH_I32, {2}, {0.0, static_cast<double>(position)});
    Op op(XH_OP_ATTENTION, s.Params());
    EXPECT_EQ(RunOrGap(op, XH_INFER, &args).code, XH_INVALID_ARGUMENT) << position;
    EXPECT_EQ(args[3].values, before);
  }
  args[5] = Of(XH_I32, {2}, {0.0, 5.0});
  EXPECT_EQ(Op(XH_OP_ATTENTION, s.Params()).Open(XH_INFER, args).code, 0);
}

}  // namespace
}  // namespace xh::test
