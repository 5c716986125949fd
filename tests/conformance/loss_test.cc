// ALIGN_LOSS, DISTILL_LOSS and ADAMW: golden vectors, the oracle, and what must not happen.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/conformance/backend_check.h"
#include "tests/conformance/oracle_dense.h"

namespace xh::test {
namespace {

struct HeadSize {
  int64_t b, h, t, d;
};

Case AlignCase(HeadSize s, xh_dtype dtype, int64_t gap = 0) {
  const double scale = 0.25;
  Case c;
  c.op = XH_OP_ALIGN_LOSS;
  c.inputs = {TokenMajor(Random(dtype, {s.b, s.h, s.t, s.d}, 1), gap), Random(dtype, {s.b, s.h, s.t, s.d}, 2),
              Of(XH_F32, {1}, {scale})};
  c.outputs = {Output(XH_F32, {2})};
  c.needs_inputs = 0b111;
  c.differentiable = 0b001;
  c.forward = [](const std::vector<Doubles>& in) {
    Doubles sums = {0.0, 0.0};
    for (size_t i = 0; i < in[0].size(); ++i) {
      sums[0] += (in[0][i] - in[1][i]) * (in[0][i] - in[1][i]);
      sums[1] += in[1][i] * in[1][i];
    }
    return std::vector<Doubles>{sums};
  };
  c.objective = [forward = c.forward, scale](const std::vector<Doubles>& in) { return scale * forward(in)[0][0]; };
  if (dtype == XH_BF16) c.gradient_tolerance = 1e-2;
  return c;
}

TEST(AlignLoss, MatchesTheOracleInEveryLayout) {
  CheckOp(AlignCase({1, 1, 1, 1}, XH_F32));
  CheckOp(AlignCase({2, 3, 7, 5}, XH_F32, 3));
  CheckOp(AlignCase({2, 3, 65, 64}, XH_F32));
  CheckOp(AlignCase({2, 3, 7, 17}, XH_BF16, 1));
}

struct DistillSize {
  int64_t m, v, k;
};

xh_distill_params DistillParams(xh_kl_mode mode, float temperature) {
  return {XH_SIZED(xh_distill_params), mode, 0.9f, 0.35f, temperature};
}

// The teacher's values: any numbers, or log-probabilities that leave some mass for the rest.
Doubles TeacherValues(DistillSize s, xh_kl_mode mode) {
  Doubles values = Random(XH_F32, {s.m, s.k}, 2, 1.5).values;
  if (mode != XH_KL_TAIL_BUCKET) return values;
  for (int64_t m = 0; m < s.m; ++m) {
    double sum = 0.0;
    for (int64_t j = 0; j < s.k; ++j) sum += std::exp(values[static_cast<size_t>(m * s.k + j)]);
    for (int64_t j = 0; j < s.k; ++j) values[static_cast<size_t>(m * s.k + j)] += std::log(0.7 / sum);
  }
  return values;
}

Case DistillCase(DistillSize s, xh_kl_mode mode, float temperature, xh_dtype dtype = XH_F32, int64_t gap = 0) {
  const double scale = 0.5;
  Doubles targets, ids;
  for (int64_t m = 0; m < s.m; ++m) {
    targets.push_back(m > 0 && m == s.m - 1 ? -100 : static_cast<double>(m * 5 % s.v));
    for (int64_t j = 0; j < s.k; ++j)
      ids.push_back(static_cast<double>((m + j * 3) % s.v));  // distinct: 3 and V coprime
  }
  Case c;
  c.op = XH_OP_DISTILL_LOSS;
  c.Params(DistillParams(mode, temperature));
  Arg logits = Random(dtype, {s.m, s.v}, 1, 2.0);
  logits.gap = gap;
  c.inputs = {logits, Of(XH_I32, {s.m}, targets), s.k == 0 ? Absent() : Of(XH_F32, {s.m, s.k}, TeacherValues(s, mode)),
              s.k == 0 ? Absent() : Of(XH_I32, {s.m, s.k}, ids), Of(XH_F32, {1}, {scale})};
  c.outputs = {Output(XH_F32, {s.m, 2})};
  c.needs_inputs = 0b11111;
  c.differentiable = 0b00001;
  c.forward = [s, mode, temperature](const std::vector<Doubles>& in) {
    Doubles losses;
    for (int64_t m = 0; m < s.m; ++m) {
      oracle::DistillRow row = {0.0, 0.0};
      const auto logits_row = in[0].begin() + m * s.v;
      Doubles values;
      std::vector<int64_t> row_ids;
      for (int64_t j = 0; j < s.k; ++j) {
        values.push_back(in[2][static_cast<size_t>(m * s.k + j)]);
        row_ids.push_back(static_cast<int64_t>(in[3][static_cast<size_t>(m * s.k + j)]));
      }
      const int64_t target = static_cast<int64_t>(in[1][static_cast<size_t>(m)]);
      if (target >= 0) {
        row = oracle::Distill(Doubles(logits_row, logits_row + s.v), target, values, row_ids, {mode, temperature});
      }
      losses.push_back(row.cross_entropy);
      losses.push_back(row.kl);
    }
    return std::vector<Doubles>{losses};
  };
  c.objective = [forward = c.forward, scale, temperature](const std::vector<Doubles>& in) {
    double sum = 0.0;
    const Doubles losses = forward(in)[0];
    for (size_t m = 0; m < losses.size() / 2; ++m) {
      sum += 0.9f * losses[2 * m] + 0.35f * temperature * temperature * losses[2 * m + 1];
    }
    return scale * sum;
  };
  if (dtype == XH_BF16) UseBf16Tolerance(&c);
  return c;
}

const DistillSize kDistill[] = {{1, 7, 1}, {3, 65, 7}, {7, 20, 20}, {4, 50, 17}, {5, 10, 0}};

TEST(DistillLoss, RenormalizedMatchesTheOracle) {
  for (DistillSize s : kDistill) CheckOp(DistillCase(s, XH_KL_RENORMALIZED, 1.0f));
  CheckOp(DistillCase({3, 65, 7}, XH_KL_RENORMALIZED, 2.5f, XH_F32, 3));
  CheckOp(DistillCase({30, 500, 65}, XH_KL_RENORMALIZED, 0.7f));
}
TEST(DistillLoss, FullStudentMatchesTheOracle) {
  for (DistillSize s : kDistill) CheckOp(DistillCase(s, XH_KL_FULL_STUDENT, 1.0f));
  CheckOp(DistillCase({3, 65, 7}, XH_KL_FULL_STUDENT, 2.5f, XH_F32, 3));
  CheckOp(DistillCase({30, 500, 65}, XH_KL_FULL_STUDENT, 0.7f));
}
TEST(DistillLoss, TailBucketMatchesTheOracle) {
  for (DistillSize s : kDistill) {
    if (s.k < s.v) CheckOp(DistillCase(s, XH_KL_TAIL_BUCKET, 1.0f));
  }
  CheckOp(DistillCase({3, 65, 7}, XH_KL_TAIL_BUCKET, 2.5f, XH_F32, 3));
  CheckOp(DistillCase({30, 500, 65}, XH_KL_TAIL_BUCKET, 0.7f));
}
TEST(DistillLoss, TakesBf16InEveryMode) {
  for (xh_kl_mode mode : {XH_KL_RENORMALIZED, XH_KL_FULL_STUDENT, XH_KL_TAIL_BUCKET}) {
    CheckOp(DistillCase({3, 65, 7}, mode, 1.0f, XH_BF16, 1));
    CheckOp(DistillCase({30, 500, 65}, mode, 2.0f, XH_BF16));
  }
}
TEST(DistillLoss, AllMassOnTheTopKLeavesNoTail) {
  Case c = DistillCase({1, 7, 2}, XH_KL_TAIL_BUCKET, 1.0f);
  c.inputs[2] = Of(XH_F32, {1, 2}, {std::log(0.5), std::log(0.5)});
  Op op(XH_OP_DISTILL_LOSS);
  op.SetParams(c.params);
  std::vector<Arg> args = c.inputs;
  args.push_back(c.outputs[0]);
  MustRun(op, XH_INFER, &args);
  EXPECT_TRUE(std::isfinite(args[5].values[1]));
  EXPECT_GT(args[5].values[1], 0.0);
}

// Runs FORWARD and BACKWARD; in place over the logits when asked.
struct DistillResult {
  Doubles losses, gradient;
};
DistillResult RunDistill(const Case& c, bool in_place) {
  Op op(XH_OP_DISTILL_LOSS);
  op.SetParams(c.params);
  std::vector<Arg> args = c.inputs;
  args.push_back(c.outputs[0]);
  MustRun(op, XH_FORWARD, &args);
  std::vector<Arg> backward = c.inputs;
  Arg gradient = c.inputs[0];
  gradient.values.clear();
  gradient.alias = in_place ? 0 : -1;
  backward.insert(backward.end(), {Absent(), Absent(), gradient, Absent(), Absent(), Absent(), Absent()});
  MustRun(op, XH_BACKWARD, &backward);
  return {args[5].values, backward[7].values};
}

TEST(DistillLoss, GradientMayReplaceTheLogits) {
  for (xh_kl_mode mode : {XH_KL_RENORMALIZED, XH_KL_FULL_STUDENT, XH_KL_TAIL_BUCKET}) {
    for (xh_dtype dtype : {XH_F32, XH_BF16}) {
      const Case c = DistillCase({5, 65, 7}, mode, 1.5f, dtype);
      EXPECT_EQ(RunDistill(c, true).gradient, RunDistill(c, false).gradient);
    }
  }
}
TEST(DistillLoss, IgnoredRowsGiveZeroEvenForNan) {
  Case c = DistillCase({3, 20, 7}, XH_KL_RENORMALIZED, 1.0f);
  for (size_t v = 0; v < 20; ++v) c.inputs[0].values[40 + v] = NAN;  // the last row has a negative target
  const DistillResult result = RunDistill(c, false);
  for (size_t v = 0; v < 20; ++v) EXPECT_EQ(result.gradient[40 + v], 0.0);
  EXPECT_EQ(result.losses[4], 0.0);
  EXPECT_EQ(result.losses[5], 0.0);
  for (double loss : result.losses) EXPECT_TRUE(std::isfinite(loss));
}
TEST(DistillLoss, StaysFiniteForLargeLogits) {
  for (xh_kl_mode mode : {XH_KL_RENORMALIZED, XH_KL_FULL_STUDENT, XH_KL_TAIL_BUCKET}) {
    Case c = DistillCase({3, 65, 7}, mode, 1.0f);
    for (double& logit : c.inputs[0].values) logit = RoundTo(XH_F32, logit * 1e4);
    const DistillResult result = RunDistill(c, false);
    for (double value : result.losses) EXPECT_TRUE(std::isfinite(value));
    for (double value : result.gradient) EXPECT_TRUE(std::isfinite(value));
    EXPECT_LE(RelativeError(
                  result.losses,
                  c.forward({c.inputs[0].values, c.inputs[1].values, c.inputs[2].values, c.inputs[3].values, {}})[0]),
              1e-5);
  }
}
TEST(DistillLoss, RefusesIdsOutOfTheVocabulary) {
  for (int which : {1, 3}) {
    Case c = DistillCase({3, 20, 7}, XH_KL_RENORMALIZED, 1.0f);
    c.inputs[static_cast<size_t>(which)].values[0] = 20;
    Op op(XH_OP_DISTILL_LOSS);
    op.SetParams(c.params);
    std::vector<Arg> args = c.inputs;
    args.push_back(c.outputs[0]);
    const Outcome outcome = RunOrGap(op, XH_INFER, &args);
    EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
    EXPECT_TRUE(Names(outcome.message, {"20"})) << outcome.message;
  }
}
TEST(DistillLoss, RefusesHalfATeacherAndBadParameters) {
  Case c = DistillCase({3, 20, 7}, XH_KL_RENORMALIZED, 1.0f);
  std::vector<Arg> args = c.inputs;
  args.push_back(c.outputs[0]);
  const auto message = [&](xh_distill_params params) {
    Op op(XH_OP_DISTILL_LOSS, params);
    const Outcome outcome = OpenOrGap(op, XH_INFER, args);
    EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
    return outcome.message;
  };
  EXPECT_TRUE(Names(message(DistillParams(7, 1.0f)), {"mode", "7"}));
  EXPECT_TRUE(Names(message(DistillParams(0, 0.0f)), {"temperature", "0"}));
  EXPECT_TRUE(Names(message(DistillParams(0, NAN)), {"temperature"}));
  args[3] = Absent();
  EXPECT_TRUE(Names(message(DistillParams(0, 1.0f)), {"teacher"}));
}

// The golden files: mean over kept tokens of 0.9 ce + 0.1 KL, both sides renormalised on the teacher's top k.
// With the teacher's logits in the file, the loss on what TOP_K selects from them is checked too.
void CheckGolden(const std::string& name, bool has_teacher_logits) {
  SCOPED_TRACE(name);
  const Vectors golden("kernels/" + name + ".safetensors");
  const Arg& logits = golden["student_logits"];
  const Arg& targets = golden["targets"];
  double kept = 0.0;
  for (double target : targets.values) kept += target >= 0 ? 1.0 : 0.0;

  const int64_t k = golden["topk_ids"].shape[1];
  std::vector<Arg> selected;
  if (has_teacher_logits) {
    Op top_k(XH_OP_TOP_K, xh_top_k_params{XH_SIZED(xh_top_k_params), static_cast<int32_t>(k)});
    selected = {golden["teacher_logits"], Output(XH_F32, {logits.shape[0], k}), Output(XH_I32, {logits.shape[0], k})};
    MustRun(top_k, XH_INFER, &selected);
    EXPECT_EQ(selected[1].values, golden["topk_logits"].values);
  }

  for (bool own_top_k : {false, true}) {
    if (own_top_k && !has_teacher_logits) continue;
    Case c;
    c.op = XH_OP_DISTILL_LOSS;
    c.Params(xh_distill_params{XH_SIZED(xh_distill_params), XH_KL_RENORMALIZED, 0.9f, 0.1f, 1.0f});
    c.inputs = {logits, targets, own_top_k ? selected[1] : golden["topk_logits"],
                own_top_k ? selected[2] : golden["topk_ids"], Of(XH_F32, {1}, {1.0 / kept})};
    c.outputs = {Output(XH_F32, {logits.shape[0], 2})};
    const DistillResult result = RunDistill(c, false);
    double loss = 0.0;
    Doubles ce, kl, ce_expected, kl_expected;
    for (size_t m = 0; m < targets.values.size(); ++m) {
      loss += (0.9 * result.losses[2 * m] + 0.1 * result.losses[2 * m + 1]) / kept;
      if (targets.values[m] < 0) continue;
      ce.push_back(result.losses[2 * m]);
      kl.push_back(result.losses[2 * m + 1]);
      ce_expected.push_back(golden["ce"].values[m]);
      kl_expected.push_back(golden["kl"].values[m]);
    }
    EXPECT_LE(RelativeError(ce, ce_expected), 1e-5);
    EXPECT_LE(RelativeError(kl, kl_expected), 1e-5);
    EXPECT_NEAR(loss / golden["loss"].values[0], 1.0, 1e-5);
    EXPECT_LE(RelativeError(result.gradient, golden["d_student_logits"].values), 1e-4);
  }
}
TEST(Golden, DistillLoss) {
  CheckGolden("distill_loss_k1", true);
  CheckGolden("distill_loss_small", true);
  CheckGolden("distill_loss_vocab4096", false);
}

Arg Flat(const Arg& arg) {
  Arg flat = arg;
  flat.shape = {arg.size()};
  return flat;
}

TEST(Golden, AdamwTrajectory) {
  const Vectors golden("kernels/adamw.safetensors");
  const float beta1 = 0.9f, beta2 = 0.95f;
  const xh_adamw_params params = {XH_SIZED(xh_adamw_params), beta1, beta2, static_cast<float>(golden.Number("eps")),
                                  static_cast<float>(golden.Number("weight_decay"))};
  Arg param = Flat(golden["p0"]);
  Arg first = Of(XH_F32, param.shape, Doubles(param.values.size(), 0.0)), second = first;
  for (int step = 1; step <= 5; ++step) {
    Op op(XH_OP_ADAMW, params);
    Arg grad = Flat(golden["g" + std::to_string(step - 1)]);
    for (double& g : grad.values) g *= 4.0;  // undone by the gradient scale
    std::vector<Arg> args = {
        grad,   Of(XH_F32, {4}, {golden.Number("lr"), 1 - std::pow(0.9, step), 1 - std::pow(0.95, step), 0.25}),
        param,  first,
        second, Absent()};
    MustRun(op, XH_INFER, &args);
    param = args[2];
    first = args[3];
    second = args[4];
    EXPECT_LE(RelativeError(param.values, golden["p" + std::to_string(step)].values), 1e-6) << "step " << step;
  }
}
TEST(Adamw, Bf16ParameterFollowsItsMaster) {
  const xh_adamw_params params = {XH_SIZED(xh_adamw_params), 0.9f, 0.95f, 1e-8f, 0.1f};
  const int64_t n = 70001;  // several blocks, both threads, an odd rest
  const Arg start = Random(XH_F32, {n}, 1), grad = Random(XH_F32, {n}, 2),
            zero = Of(XH_F32, {n}, Doubles(static_cast<size_t>(n), 0.0));
  const Arg schedule = Of(XH_F32, {4}, {1e-3, 0.1, 0.05, 1.0});
  Op op(XH_OP_ADAMW, params);
  std::vector<Arg> mixed = {grad, schedule, Of(XH_BF16, {n}, start.values), zero, zero, start};
  std::vector<Arg> single = {grad, schedule, start, zero, zero, Absent()};
  MustRun(op, XH_INFER, &mixed);
  MustRun(op, XH_INFER, &single);
  EXPECT_EQ(mixed[5].values, single[2].values);
  for (size_t i = 0; i < mixed[2].values.size(); ++i) {
    ASSERT_EQ(mixed[2].values[i], RoundTo(XH_BF16, mixed[5].values[i]));
  }
}
// How a step is skipped without asking the host.
TEST(Adamw, AScaleThatIsNotFiniteChangesNothing) {
  const xh_adamw_params params = {XH_SIZED(xh_adamw_params), 0.9f, 0.95f, 1e-8f, 0.1f};
  const int64_t n = 1027;
  const Arg start = Random(XH_F32, {n}, 1), first = Random(XH_F32, {n}, 2), second = Random(XH_F32, {n}, 3);
  Arg grad = Random(XH_F32, {n}, 4);
  grad.values[17] = NAN;
  Op op(XH_OP_ADAMW, params);
  for (const double scale : {static_cast<double>(NAN), static_cast<double>(INFINITY), -static_cast<double>(INFINITY)}) {
    const Arg schedule = Of(XH_F32, {4}, {1e-3, 0.1, 0.05, scale}), rounded = Of(XH_BF16, {n}, start.values);
    std::vector<Arg> single = {grad, schedule, start, first, second, Absent()};
    std::vector<Arg> mixed = {grad, schedule, rounded, first, second, start};
    MustRun(op, XH_INFER, &single);
    MustRun(op, XH_INFER, &mixed);
    EXPECT_EQ(single[2].values, start.values) << scale;
    EXPECT_EQ(mixed[5].values, start.values) << scale;
    EXPECT_EQ(mixed[2].values[5], RoundTo(XH_BF16, start.values[5])) << scale;
    for (const std::vector<Arg>* args : {&single, &mixed}) {
      EXPECT_EQ((*args)[3].values, first.values) << scale;
      EXPECT_EQ((*args)[4].values, second.values) << scale;
    }
  }
}
double ClipFactor(float limit, const Doubles& squares, const Doubles& sums) {
  Op op(XH_OP_CLIP, xh_clip_params{XH_SIZED(xh_clip_params), limit});
  const auto count = [](const Doubles& values) { return static_cast<int64_t>(values.size()); };
  std::vector<Arg> args = {Of(XH_F32, {count(squares)}, squares),
                           sums.empty() ? Absent() : Of(XH_F32, {count(sums)}, sums), Output(XH_F32, {1})};
  MustRun(op, XH_INFER, &args);
  return args[2].values[0];
}
TEST(Clip, FactorByTheNorm) {
  EXPECT_EQ(ClipFactor(1.0f, {9.0, 16.0}, {}), RoundTo(XH_F32, 0.2));
  EXPECT_EQ(ClipFactor(5.0f, {9.0, 16.0}, {1.0, -2.0}), 1.0) << "a norm of the limit is not clipped";
  EXPECT_EQ(ClipFactor(0.0f, {9.0, 16.0}, {1.0}), 1.0) << "a limit of 0 clips nothing";
  EXPECT_EQ(ClipFactor(1.0f, {0.0}, {}), 1.0);
  EXPECT_NEAR(ClipFactor(1.0f, Doubles(1000, 3e38), {}) * std::sqrt(3e41), 1.0, 1e-6) << "summed in double";
}
TEST(Clip, WhatIsNotFiniteSkipsTheStep) {
  for (const double wrong : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    for (const float limit : {0.0f, 1.0f}) {
      EXPECT_TRUE(std::isnan(ClipFactor(limit, {9.0, wrong}, {}))) << limit << ' ' << wrong;
      EXPECT_TRUE(std::isnan(ClipFactor(limit, {9.0}, {1.0, wrong, 1.0}))) << limit << ' ' << wrong;
    }
  }
  EXPECT_TRUE(
      std::isnan(ClipFactor(1.0f, {1.0}, Doubles{static_cast<double>(INFINITY), -static_cast<double>(INFINITY)})));
}
TEST(Clip, RefusesBadParameters) {
  const Arg x = Random(XH_F32, {3}, 1);
  Op negative(XH_OP_CLIP, xh_clip_params{XH_SIZED(xh_clip_params), -1.0f});
  const Outcome limit = OpenOrGap(negative, XH_INFER, {x, Absent(), Output(XH_F32, {1})});
  EXPECT_EQ(limit.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(limit.message, {"limit"})) << limit.message;
  Op op(XH_OP_CLIP, xh_clip_params{XH_SIZED(xh_clip_params), 1.0f});
  EXPECT_EQ(OpenOrGap(op, XH_INFER, {x, Absent(), Output(XH_F32, {2})}).code, XH_INVALID_ARGUMENT);
}
TEST(Adamw, RefusesBadParameters) {
  Op op(XH_OP_ADAMW, xh_adamw_params{XH_SIZED(xh_adamw_params), 1.0f, 0.95f, 1e-8f, 0.1f});
  const Arg x = Random(XH_F32, {3}, 1);
  const Outcome outcome = OpenOrGap(op, XH_INFER, {x, Random(XH_F32, {4}, 1), x, x, x, Absent()});
  EXPECT_EQ(outcome.code, XH_INVALID_ARGUMENT);
  EXPECT_TRUE(Names(outcome.message, {"beta1"})) << outcome.message;
}

}  // namespace
}  // namespace xh::test
