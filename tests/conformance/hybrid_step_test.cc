// A hybrid mixer's token as one op: from any position of every sequence on, each token's h is that of the composed
// formulas over the whole sequence, and state and cache go on as XH_OP_MLSTM and XH_OP_ATTENTION leave them.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/conformance/attention_oracle.h"
#include "tests/conformance/mlstm_oracle.h"
#include "tests/conformance/oracle_dense.h"

namespace xh::test {
namespace {

enum { kQ, kK, kV, kTable, kPosition, kQueryMap, kKeyMap, kI, kF, kW, kB, kS, kZ, kM, kCacheK, kCacheV, kH };

enum class Map { kNone, kSoftmax, kHedgehog };

struct Size {
  xh_dtype dtype;
  int64_t heads, kv_heads, dim, columns;  // columns of a map
  Map map;
  std::vector<int32_t> windows;
  int32_t sinks;
  std::vector<int64_t> from;  // tokens before the first call, by sequence
  int64_t calls;

  int64_t batch() const { return static_cast<int64_t>(from.size()); }
  int64_t tokens() const { return *std::max_element(from.begin(), from.end()) + calls; }
  int64_t features() const { return map == Map::kNone ? dim : columns * (map == Map::kHedgehog ? 2 : 1); }
  double mlstm_scale() const { return map == Map::kNone ? 1.0 / std::sqrt(static_cast<double>(dim)) : 1.0; }
  double tolerance() const { return dtype == XH_F32 ? 1e-5 : 1e-2; }
  AttentionSize attention() const { return {1, heads, kv_heads, tokens(), dim, windows, sinks, 0}; }
  MlstmSize mlstm(int64_t count) const {
    return {1, heads, kv_heads, count, features(), dim, map == Map::kNone, mlstm_scale()};
  }
  xh_hybrid_step_params Params() const {
    xh_hybrid_step_params params = {};
    params.struct_size = sizeof(params);
    params.map = map == Map::kHedgehog ? XH_FEATURE_HEDGEHOG : XH_FEATURE_SOFTMAX;
    params.normalizer = map == Map::kNone ? XH_NORMALIZER_MAX : XH_NORMALIZER_PLAIN;
    params.mlstm_scale = static_cast<float>(mlstm_scale());
    params.scale = 1.0f / std::sqrt(static_cast<float>(dim));
    params.sinks = sinks;
    params.kv_heads = static_cast<int32_t>(kv_heads);
    params.windows = windows.data();
    return params;
  }
};

Doubles Part(const Doubles& all, int64_t index, int64_t count) {
  const int64_t each = static_cast<int64_t>(all.size()) / count;
  return Doubles(all.begin() + index * each, all.begin() + (index + 1) * each);
}

// Tokens [from, from + count) of rows [heads, tokens, width].
Doubles Tokens(const Doubles& rows, int64_t heads, int64_t tokens, int64_t width, int64_t from, int64_t count) {
  Doubles out;
  for (int64_t h = 0; h < heads; ++h) {
    const auto first = rows.begin() + (h * tokens + from) * width;
    out.insert(out.end(), first, first + count * width);
  }
  return out;
}

// All tokens of every sequence, and what the composed formulas make of them.
class Sequences {
 public:
  explicit Sequences(const Size& size) : s_(size) {
    const int64_t b = s_.batch(), t = s_.tokens(), d = s_.dim;
    q_ = Random(s_.dtype, {b, s_.heads, t, d}, 1);
    k_ = Random(s_.dtype, {b, s_.kv_heads, t, d}, 2);
    v_ = Random(s_.dtype, {b, s_.kv_heads, t, d}, 3);
    i_ = Random(XH_F32, {b, s_.heads, t}, 4);
    f_ = Random(XH_F32, {b, s_.heads, t}, 5);
    for (double& x : f_.values) x = RoundTo(XH_F32, x + 2.0);
    maps_[0] = Random(s_.dtype, {s_.heads, d, s_.columns}, 6, 0.2);
    maps_[1] = Random(s_.dtype, {s_.heads, d, s_.columns}, 7, 0.2);
    w_ = Random(s_.dtype, {s_.heads, 3 * d}, 8, 0.1);
    b_ = Random(s_.dtype, {s_.heads}, 9);
    table_ = Output(XH_F32, {t, d});
    for (int64_t p = 0; p < t; ++p) {
      for (int64_t j = 0; j < d; ++j) {
        const double pair = static_cast<double>(j % (d / 2)), angle = static_cast<double>(p) * std::pow(0.8, pair);
        table_.values.push_back(RoundTo(XH_F32, j < d / 2 ? std::cos(angle) : std::sin(angle)));
      }
    }
    for (int64_t sequence = 0; sequence < b; ++sequence) Compose(sequence);
  }

  // Arguments of the call for the token at position[b] of every sequence, without state and output.
  std::vector<Arg> Call(const std::vector<int64_t>& position) const {
    std::vector<Arg> args = {Slice(q_, position, s_.heads),
                             Slice(k_, position, s_.kv_heads),
                             Slice(v_, position, s_.kv_heads),
                             table_,
                             Of(XH_I32, {s_.batch()}, Doubles(position.begin(), position.end())),
                             s_.map == Map::kNone ? Absent() : maps_[0],
                             s_.map == Map::kNone ? Absent() : maps_[1],
                             Slice(i_, position, s_.heads),
                             Slice(f_, position, s_.heads),
                             w_,
                             b_};
    return args;
  }

  Doubles Expected(const std::vector<int64_t>& position) const {
    Doubles h;
    for (int64_t b = 0; b < s_.batch(); ++b) {
      const Doubles one = Tokens(h_[At(b)], s_.heads, s_.tokens(), s_.dim, position[At(b)], 1);
      h.insert(h.end(), one.begin(), one.end());
    }
    return h;
  }

  // S, z, m, cache_k and cache_v after position[b] tokens of every sequence; slots that hold nothing are NaN.
  std::vector<Arg> State(const std::vector<int64_t>& position) const {
    const int64_t b = s_.batch(), p = s_.features(), slots = s_.attention().Slots();
    std::vector<Arg> state = {Output(XH_F32, {b, s_.heads, p, s_.dim}), Output(XH_F32, {b, s_.heads, p}),
                              Output(XH_F32, {b, s_.heads}), Output(s_.dtype, {b, slots, s_.dim}),
                              Output(s_.dtype, {b, slots, s_.dim})};
    for (int64_t sequence = 0; sequence < b; ++sequence) {
      const std::vector<Doubles> recurrent = Recurrence(sequence, position[At(sequence)]);
      for (size_t part = 0; part < 3; ++part) {
        Doubles& to = state[part].values;
        to.insert(to.end(), recurrent[part + 1].begin(), recurrent[part + 1].end());
      }
      Cache(sequence, position[At(sequence)], rotated_k_[At(sequence)], &state[3].values);
      Cache(sequence, position[At(sequence)], Part(v_.values, sequence, b), &state[4].values);
    }
    for (Arg& arg : state) arg = Of(arg.dtype, arg.shape, arg.values);
    return state;
  }

 private:
  static size_t At(int64_t index) { return static_cast<size_t>(index); }

  // [B,H,T(,d)] -> [B,H,1(,d)], held as [B,1,H(,d)], as projections leave it.
  Arg Slice(const Arg& all, const std::vector<int64_t>& position, int64_t heads) const {
    Arg one = all;
    const int64_t width = all.shape.size() == 4 ? all.shape[3] : 1;
    one.shape[2] = 1;
    one.values.clear();
    for (int64_t b = 0; b < s_.batch(); ++b) {
      const Doubles rows = Tokens(Part(all.values, b, s_.batch()), heads, s_.tokens(), width, position[At(b)], 1);
      one.values.insert(one.values.end(), rows.begin(), rows.end());
    }
    return all.shape.size() == 4 ? TokenMajor(one, 3 * s_.dim) : one;
  }

  Doubles Rotated(const Arg& rows, int64_t sequence, int64_t heads) const {
    return oracle::Rope(Part(rows.values, sequence, s_.batch()), table_.values, Doubles(At(heads), 0.0), heads,
                        s_.tokens(), 1, s_.dim);
  }

  Doubles Features(const Doubles& rows, int64_t heads, const Arg& map) const {
    const int64_t t = s_.tokens();
    if (s_.map != Map::kNone) {
      return oracle::FeatureMap(rows, map.values, 1, heads, s_.heads, t, s_.dim, s_.columns, s_.map == Map::kHedgehog);
    }
    Doubles repeated;
    for (int64_t h = 0; h < s_.heads; ++h) {
      const Doubles one = Part(rows, h / (s_.heads / heads), heads);
      repeated.insert(repeated.end(), one.begin(), one.end());
    }
    return repeated;
  }

  void Compose(int64_t sequence) {
    const int64_t t = s_.tokens(), b = s_.batch();
    const Doubles q = Rotated(q_, sequence, s_.heads), v = Part(v_.values, sequence, b);
    rotated_k_.push_back(Rotated(k_, sequence, s_.kv_heads));
    phi_q_.push_back(Features(q, s_.heads, maps_[0]));
    phi_k_.push_back(Features(rotated_k_.back(), s_.kv_heads, maps_[1]));
    const Doubles linear = Recurrence(sequence, t)[0];
    const Doubles window = AttentionOracle(s_.attention(), {q, rotated_k_.back(), v})[0];
    const Doubles gate = oracle::HeadGate(Part(q_.values, sequence, b), Part(k_.values, sequence, b), v, w_.values,
                                          b_.values, 1, s_.heads, s_.kv_heads, t, s_.dim);
    h_.push_back(oracle::Mix(gate, linear, window, s_.dim));
  }

  // h, S, z, m of the first `count` tokens.
  std::vector<Doubles> Recurrence(int64_t sequence, int64_t count) const {
    const int64_t t = s_.tokens(), b = s_.batch();
    const auto first = [&](const Doubles& rows, int64_t heads, int64_t width) {
      return Tokens(rows, heads, t, width, 0, count);
    };
    std::vector<Doubles> out = MlstmOracle(s_.mlstm(count), {first(phi_q_[At(sequence)], s_.heads, s_.features()),
                                                             first(phi_k_[At(sequence)], s_.heads, s_.features()),
                                                             first(Part(v_.values, sequence, b), s_.kv_heads, s_.dim),
                                                             first(Part(i_.values, sequence, b), s_.heads, 1),
                                                             first(Part(f_.values, sequence, b), s_.heads, 1),
                                                             {},
                                                             {},
                                                             {}});
    return out;
  }

  void Cache(int64_t sequence, int64_t end, const Doubles& rows, Doubles* to) const {
    (void)sequence;
    for (int64_t j = 0; j < s_.kv_heads; ++j) {
      const int64_t window = s_.windows[At(j)];
      Doubles slots(At((s_.sinks + window) * s_.dim), NAN);
      for (int64_t p = 0; p < end; ++p) {
        const int64_t slot = p < s_.sinks ? p : s_.sinks + (p - s_.sinks) % window;
        for (int64_t c = 0; c < s_.dim; ++c)
          slots[At(slot * s_.dim + c)] = rows[At((j * s_.tokens() + p) * s_.dim + c)];
      }
      to->insert(to->end(), slots.begin(), slots.end());
    }
  }

  const Size& s_;
  Arg q_, k_, v_, i_, f_, maps_[2], w_, b_, table_;
  std::vector<Doubles> rotated_k_, phi_q_, phi_k_, h_;  // by sequence
};

Doubles WithoutNan(Doubles values) {
  for (double& x : values) x = std::isnan(x) ? 0.0 : x;
  return values;
}

void ExpectState(const Size& s, const std::vector<Arg>& args, const std::vector<Arg>& expected) {
  for (int part : {kS, kZ}) {
    const Doubles is = TrueState(args[static_cast<size_t>(part)].values, args[kM].values);
    const Doubles should = TrueState(expected[static_cast<size_t>(part - kS)].values, expected[2].values);
    EXPECT_LE(RelativeError(is, should), s.tolerance()) << (part == kS ? "S" : "z");
  }
  for (int part : {kCacheK, kCacheV}) {
    const Arg& is = args[static_cast<size_t>(part)];
    const Arg& should = expected[static_cast<size_t>(part - kS)];
    EXPECT_LE(RelativeError(WithoutNan(is.values), WithoutNan(should.values)), s.tolerance()) << "cache";
  }
}

void CheckSteps(const Size& s) {
  Op op(XH_OP_HYBRID_STEP, s.Params());
  {  // what a backend leaves out costs no oracle
    const int64_t b = s.batch(), t = s.tokens();
    const auto rows = [&](int64_t heads) { return TokenMajor(Output(s.dtype, {b, heads, 1, s.dim}), 3 * s.dim); };
    const Arg map = s.map == Map::kNone ? Absent() : Output(s.dtype, {s.heads, s.dim, s.columns});
    const Arg gate = Output(XH_F32, {b, s.heads, 1}), cache = Output(s.dtype, {b, s.attention().Slots(), s.dim});
    OpenOrGap(op, XH_INFER,
              {rows(s.heads), rows(s.kv_heads), rows(s.kv_heads), Output(XH_F32, {t, s.dim}), Output(XH_I32, {b}), map,
               map, gate, gate, Output(s.dtype, {s.heads, 3 * s.dim}), Output(s.dtype, {s.heads}),
               Output(XH_F32, {b, s.heads, s.features(), s.dim}), Output(XH_F32, {b, s.heads, s.features()}),
               Output(XH_F32, {b, s.heads}), cache, cache, rows(s.heads)});
  }
  const Sequences sequences(s);
  std::vector<int64_t> position = s.from;
  std::vector<Arg> state = sequences.State(position);
  for (int64_t call = 0; call < s.calls; ++call) {
    std::vector<Arg> args = sequences.Call(position);
    args.insert(args.end(), state.begin(), state.end());
    args.push_back(TokenMajor(Output(s.dtype, {s.batch(), s.heads, 1, s.dim}), 3 * s.dim));
    MustRun(op, XH_INFER, &args);
    EXPECT_LE(RelativeError(args[kH].values, sequences.Expected(position)), s.tolerance())
        << "call " << call << " at position " << position[0];
    for (int64_t& p : position) ++p;
    state.assign(args.begin() + kS, args.begin() + kH);
    if (call + 1 == s.calls) ExpectState(s, args, sequences.State(position));
  }
}

TEST(HybridStep, ADozenTokensFromNothingOverTheEndOfTheWindow) {
  for (xh_dtype dtype : {XH_F32, XH_BF16}) {
    CheckSteps({dtype, 4, 1, 64, 64, Map::kHedgehog, {5}, 2, {0}, 12});
    CheckSteps({dtype, 4, 1, 128, 128, Map::kSoftmax, {5}, 0, {0}, 12});
  }
}

class HybridStepGroups : public testing::TestWithParam<int64_t> {};

TEST_P(HybridStepGroups, AgreesWithTheFormulas) {
  for (xh_dtype dtype : {XH_F32, XH_BF16}) {
    CheckSteps({dtype, 2 * GetParam(), 2, 64, 64, Map::kHedgehog, {4, 9}, 3, {6}, 5});
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, HybridStepGroups, testing::Values(1, 2, 3, 4, 7, 8, 16));

TEST(HybridStep, SequencesStandAtTheirOwnPositions) {
  for (xh_dtype dtype : {XH_F32, XH_BF16}) {
    CheckSteps({dtype, 8, 2, 128, 64, Map::kHedgehog, {16, 7}, 4, {0, 5, 41}, 12});
    CheckSteps({dtype, 4, 2, 64, 32, Map::kSoftmax, {16, 7}, 4, {3, 0, 17}, 12});
  }
}

TEST(HybridStep, LongWindowsAndManyFeatures) {
  CheckSteps({XH_BF16, 4, 1, 128, 64, Map::kHedgehog, {512}, 4, {530}, 3});
  CheckSteps({XH_BF16, 4, 1, 128, 64, Map::kHedgehog, {512}, 4, {70}, 3});
  CheckSteps({XH_F32, 2, 1, 128, 128, Map::kHedgehog, {600}, 4, {700}, 3});
  CheckSteps({XH_BF16, 1, 1, 64, 128, Map::kHedgehog, {300}, 0, {333}, 3});
}

TEST(HybridStep, ManySequences) {
  CheckSteps({XH_BF16, 8, 2, 128, 64, Map::kHedgehog, {20, 150}, 4, std::vector<int64_t>(40, 37), 3});
  CheckSteps({XH_F32, 16, 2, 64, 64, Map::kHedgehog, {20, 90}, 4, std::vector<int64_t>(40, 100), 3});
}

// 1,152 heads: a backend may take the op in parts then.
Size ManyHeads(int64_t dim, int64_t columns, Map map) {
  std::vector<int64_t> from(36);
  for (size_t b = 0; b < from.size(); ++b) from[b] = static_cast<int64_t>(b) * 7 % 30;
  return {XH_BF16, 32, 8, dim, columns, map, {3, 20, 9, 16, 20, 5, 17, 33}, 4, std::move(from), 2};
}

TEST(HybridStep, SoManySequencesThatTheirHeadsFillADevice) {
  CheckSteps(ManyHeads(128, 64, Map::kHedgehog));
  CheckSteps(ManyHeads(64, 64, Map::kSoftmax));
  CheckSteps(ManyHeads(64, 128, Map::kHedgehog));
}

TEST(HybridStep, RawKeysAndQueriesAsFeatures) {
  for (xh_dtype dtype : {XH_F32, XH_BF16}) {
    CheckSteps({dtype, 4, 2, 64, 0, Map::kNone, {8, 8}, 1, {0, 20}, 12});
  }
}

// A valid call, and its parameters.
struct ValidCall {
  explicit ValidCall(Size s = {XH_F32, 4, 2, 64, 64, Map::kSoftmax, {8, 8}, 2, {0, 3}, 2}) : size(std::move(s)) {
    const Sequences sequences(size);
    args = sequences.Call(size.from);
    const std::vector<Arg> state = sequences.State(size.from);
    args.insert(args.end(), state.begin(), state.end());
    args.push_back(Output(size.dtype, {size.batch(), size.heads, 1, size.dim}));
  }
  Size size;
  std::vector<Arg> args;
};

TEST(HybridStep, PositionsPastTheTableAreRefusedAndNothingIsWritten) {
  for (const ValidCall& call : {ValidCall(), ValidCall(ManyHeads(64, 64, Map::kSoftmax))}) {
    Op op(XH_OP_HYBRID_STEP, call.size.Params());
    for (double position : {-1.0, static_cast<double>(call.size.tokens())}) {
      std::vector<Arg> args = call.args;
      args[kPosition].values.back() = position;
      EXPECT_EQ(RunOrGap(op, XH_INFER, &args).code, XH_INVALID_ARGUMENT) << position;
      EXPECT_EQ(args[kS].values, call.args[kS].values);
      EXPECT_EQ(WithoutNan(args[kCacheK].values), WithoutNan(call.args[kCacheK].values));
    }
  }
}

TEST(HybridStep, WrongArgumentsAreNamed) {
  const ValidCall call;
  const auto names = [&](const xh_hybrid_step_params& params, const std::vector<Arg>& args,
                         std::initializer_list<const char*> words) {
    const Outcome outcome = Op(XH_OP_HYBRID_STEP, params).Open(XH_INFER, args);
    EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
    EXPECT_TRUE(Names(outcome.message, words)) << outcome.message;
  };
  const xh_hybrid_step_params params = call.size.Params();
  Op whole(XH_OP_HYBRID_STEP, params);
  EXPECT_EQ(OpenOrGap(whole, XH_INFER, call.args).code, 0);
  EXPECT_EQ(whole.Open(XH_FORWARD, call.args).code, XH_UNSUPPORTED);

  const int32_t unlimited[] = {8, 0};
  xh_hybrid_step_params wrong = params;
  wrong.windows = unlimited;
  names(wrong, call.args, {"windows[1]", "0"});
  wrong = params;
  wrong.sinks = 3;
  names(wrong, call.args, {"cache_k", "20", "22"});
  wrong = params;
  wrong.map = XH_FEATURE_HEDGEHOG;
  names(wrong, call.args, {"S", "64", "128"});

  std::vector<Arg> args = call.args;
  args[kKeyMap] = Absent();
  names(params, args, {"key_map"});
  args = call.args;
  args[kW] = Output(XH_F32, {4, 64});
  names(params, args, {"w", "64", "192"});
}

}  // namespace
}  // namespace xh::test
