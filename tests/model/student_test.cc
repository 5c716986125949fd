// Students: what mixers of each kind compute, and that reading whole, in pieces and token by token is the same.
#include "core/generate/session.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

constexpr const char* kTeachers[] = {"hf_llama", "hf_llama3_rope_tied", "hf_qwen2", "hf_qwen3", "hf_olmo2", "hf_olmo3"};

std::vector<int32_t> FirstSequence(const std::string& teacher) {
  std::vector<int32_t> ids = ExpectedIds(teacher, "input_ids");
  ids.resize(45);
  return ids;
}

TEST(Student, WithAttentionInEveryLayerIsTheTeacher) {
  for (const char* name : kTeachers) {
    auto teacher = LoadTeacher(name);
    auto student = MakeStudent(*teacher, {{"kind", "attention"}});
    const std::vector<int32_t> ids = ExpectedIds(name, "input_ids");
    EXPECT_EQ(Forward(*student, ids, 2).logits, Forward(*teacher, ids, 2).logits) << name;
  }
}

TEST(Student, WithAWindowOfTheWholeSequenceIsTheTeacher) {
  for (const char* name : kTeachers) {
    auto teacher = LoadTeacher(name);
    const std::vector<int32_t> ids = ExpectedIds(name, "input_ids");
    const std::vector<float> want = Forward(*teacher, ids, 2).logits;
    for (int window : {45, 46, 512}) {
      // A teacher's sliding layers have no sinks.
      auto student = MakeStudent(*teacher, {{"kind", "window"}, {"window", window}, {"sinks", 0}});
      // The same sums in another order at most: f32 rounding.
      EXPECT_LE(RelativeError(Forward(*student, ids, 2).logits, want), 1e-6) << name << " " << window;
    }
  }
}

TEST(Student, WithAShortWindowIsNotTheTeacher) {
  auto teacher = LoadTeacher("hf_llama");
  const std::vector<int32_t> ids = ExpectedIds("hf_llama", "input_ids");
  auto student = MakeStudent(*teacher, {{"kind", "window"}, {"window", 8}});
  EXPECT_GE(RelativeError(Forward(*student, ids, 2).logits, Forward(*teacher, ids, 2).logits), 1e-2);
}

TEST(Student, SeesSinksBesidesItsWindow) {
  auto teacher = LoadTeacher("hf_llama");
  std::vector<int32_t> ids = FirstSequence("hf_llama");
  auto with_sinks = MakeStudent(*teacher, {{"kind", "window"}, {"window", 8}, {"sinks", 4}});
  auto without = MakeStudent(*teacher, {{"kind", "window"}, {"window", 8}, {"sinks", 0}});
  const std::vector<float> before[] = {Forward(*with_sinks, ids, 1).logits, Forward(*without, ids, 1).logits};
  ids[1] = (ids[1] + 1) % 160;
  // Three layers carry what a token saw at most 3 * 7 positions further.
  EXPECT_NE(RowOf(Forward(*with_sinks, ids, 1).logits, 44, 160), RowOf(before[0], 44, 160));
  EXPECT_EQ(RowOf(Forward(*without, ids, 1).logits, 44, 160), RowOf(before[1], 44, 160));
}

TEST(Student, HasNoFutureInAnyKind) {
  auto teacher = LoadTeacher("hf_qwen2");
  for (const char* kind : {"hybrid", "attention", "window", "mlstm"}) {
    auto student = MakeStudent(*teacher, {{"kind", kind}, {"window", 8}});
    std::vector<int32_t> ids = FirstSequence("hf_qwen2");
    const std::vector<float> before = Forward(*student, ids, 1).logits;
    ids[40] = (ids[40] + 1) % 160;
    const std::vector<float> after = Forward(*student, ids, 1).logits;
    EXPECT_EQ(RowOf(after, 39, 160), RowOf(before, 39, 160)) << kind;
    EXPECT_NE(RowOf(after, 40, 160), RowOf(before, 40, 160)) << kind;
  }
}

TEST(Student, WithTheGateNearlyClosedIsItsWindow) {
  auto teacher = LoadTeacher("hf_llama");
  const std::vector<int32_t> ids = ExpectedIds("hf_llama", "input_ids");
  auto config = StudentConfig(teacher->config, {{"window", 8}, {"output_gate_bias", -40}});
  ASSERT_TRUE(config.ok()) << config.status();
  auto closed = std::make_shared<Model>(*teacher);
  closed->config = *config;
  for (const ParameterSpec& spec : ParametersOf(*config)) {
    if (spec.init != Init::kFromTeacher) {
      closed->weights[spec.name] = NewWeight(*teacher, spec.shape, *InitialValue(spec));
    }
  }
  auto window = MakeStudent(*teacher, {{"kind", "window"}, {"window", 8}});
  EXPECT_LE(RelativeError(Forward(*closed, ids, 2).logits, Forward(*window, ids, 2).logits), 1e-6);
}

// ---- whole, in pieces, token by token ----

struct Variant {
  const char* teacher;
  json options;
  // Without features the output is divided by max(|q.z|, 1): where q.z decides, a sum of both signs, rounding grows by
  // what cancels in it. Small input gates let the 1 decide.
  bool small_input_gates = false;
};

std::vector<Variant> Variants() {
  std::vector<Variant> variants;
  for (const char* teacher : kTeachers) {
    for (const char* kind : {"hybrid", "mlstm"}) {
      for (const char* map : {"softmax", "hedgehog", "none"}) {
        variants.push_back(
            {teacher, {{"kind", kind}, {"feature_map", map}, {"window", 8}}, map == std::string("none")});
      }
    }
    variants.push_back({teacher, {{"kind", "attention"}}});
    variants.push_back({teacher, {{"kind", "window"}, {"window", 8}}});
    variants.push_back({teacher, {{"kind", "window"}, {"window", 1}, {"sinks", 0}}});
    variants.push_back({teacher, {{"feature_map", "softmax"}, {"features", 24}, {"window", 5}, {"sinks", 3}}});
    variants.push_back({teacher, json::parse(R"({"window": 6, "layers": [
        {"layer": 1, "kind": "attention"}, {"layer": 2, "kind": "window", "window": [7, 0]}]})")});
    variants.push_back({teacher, json::parse(R"({"window": 6, "layers": [
        {"layer": 0, "window": [0, 5]}, {"layer": 2, "window": [7, 0], "feature_map": "hedgehog"}]})")});
  }
  return variants;
}

std::shared_ptr<const Model> WithInputGates(const Model& student, float bias) {
  auto changed = std::make_shared<Model>(student);
  for (auto& [name, weight] : changed->weights) {
    if (name.find("input_gate.bias") == std::string::npos) continue;
    weight = NewWeight(student, weight.shape, std::vector<float>(static_cast<size_t>(weight.shape[0]), bias));
  }
  return changed;
}

std::vector<float> FedInPieces(const std::shared_ptr<const Model>& model, const std::vector<int32_t>& ids,
                               const std::vector<int64_t>& pieces) {
  auto session = Session::Open(model, 64);
  EXPECT_TRUE(session.ok()) << session.status();
  const int32_t* next = ids.data();
  for (int64_t piece : pieces) {
    const Status fed = (*session)->Feed(next, piece);
    EXPECT_TRUE(fed.ok()) << fed;
    next += piece;
  }
  EXPECT_EQ((*session)->position(), next - ids.data());
  auto logits = (*session)->Logits();
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? **logits : std::vector<float>();
}

TEST(Session, ReadsTheSameWholeInPiecesAndTokenByToken) {
  for (const Variant& variant : Variants()) {
    SCOPED_TRACE(absl::StrCat(variant.teacher, " ", variant.options.dump()));
    auto student = MakeStudent(*LoadTeacher(variant.teacher), variant.options);
    if (variant.small_input_gates) student = WithInputGates(*student, -8);
    const std::vector<int32_t> ids = FirstSequence(variant.teacher);
    const std::vector<float> whole = RowOf(Forward(*student, ids, 1).logits, 44, 160);
    const double tolerance = 1e-5;
    EXPECT_LE(RelativeError(FedInPieces(student, ids, {45}), whole), tolerance);
    EXPECT_LE(RelativeError(FedInPieces(student, ids, {3, 17, 1, 24}), whole), tolerance);
    EXPECT_LE(RelativeError(FedInPieces(student, ids, std::vector<int64_t>(45, 1)), whole), tolerance);
  }
}

TEST(Session, WorksWithATeacherInBf16AndNewParametersInF32) {
  for (const Variant& variant : Variants()) {
    SCOPED_TRACE(absl::StrCat(variant.teacher, " ", variant.options.dump()));
    auto exact = MakeStudent(*LoadTeacher(variant.teacher), variant.options);
    auto rounded = MakeStudent(*LoadTeacher(variant.teacher, XH_BF16), variant.options);
    EXPECT_EQ(rounded->activation_dtype(), XH_BF16);
    const std::vector<int32_t> ids = FirstSequence(variant.teacher);
    const std::vector<float> logits = FedInPieces(rounded, ids, {32, 9, 1, 3});
    // Raw queries and keys are read, but divide by what cancels: rounding to 8 bits leaves nothing to compare.
    if (variant.options.value("feature_map", "") == "none") continue;
    EXPECT_LE(RelativeError(logits, FedInPieces(exact, ids, {45})), 0.05);  // 8 bits in three blocks
  }
}

TEST(Student, MayKeepAHeadAtUnlimitedWindow) {
  auto teacher = LoadTeacher("hf_llama");
  auto student =
      MakeStudent(*teacher, json::parse(R"({"kind": "window", "layers": [{"layer": 0, "window": [8, 0]}]})"));
  EXPECT_EQ(student->config.mixers[0].windows, (std::vector<int32_t>{8, 0}));
  EXPECT_EQ(student->config.mixers[1].windows, (std::vector<int32_t>{512, 512}));
}

TEST(Student, HasNoMlstmInKeptHeadsAndComputesThemAsTheTeacher) {
  auto teacher = LoadTeacher("hf_qwen2");  // 4 heads, 2 key/value heads of 16
  auto student = MakeStudent(*teacher, json::parse(R"({"window": 6, "layers": [{"layer": 0, "window": [6, 0]}]})"));
  const std::string mixer = "model.layers.0.self_attn.xlstm.";
  EXPECT_EQ(student->weights.at(mixer + "query_features.weight").shape, (Shape{2, 16, 16}));
  EXPECT_EQ(student->weights.at(mixer + "forget_gate.bias").shape, Shape{2});
  EXPECT_EQ(student->weights.at(mixer + "output_gate.weight").shape, (Shape{2, 48}));
  const std::vector<int32_t> ids = ExpectedIds("hf_qwen2", "input_ids");
  const std::vector<float> whole = Forward(*teacher, ids, 2).mixer_out[0],
                           kept = Forward(*student, ids, 2).mixer_out[0];
  for (int64_t row = 0; row < 90; ++row) {
    const std::vector<float> want = RowOf(whole, row, 64), got = RowOf(kept, row, 64);
    const std::vector<float> want_kept(want.begin() + 32, want.end()), got_kept(got.begin() + 32, got.end());
    EXPECT_LE(RelativeError(got_kept, want_kept), 1e-6) << row;
    // The others are mixed; of one token both branches make the same.
    EXPECT_EQ(RelativeError(got, want) > 1e-4, row % 45 > 0) << row;
  }
}

TEST(Student, StateGrowsWithKeptHeadsAlone) {
  auto teacher = LoadTeacher("hf_qwen2");
  auto student = MakeStudent(*teacher, json::parse(R"({"window": 6, "layers": [{"layer": 0, "window": [6, 0]}]})"));
  const json state = student->Describe()["state"];
  const int64_t mlstm = 16 * 16 + 16 + 1, window = (6 + 4) * 16 * 2;
  EXPECT_EQ(state["constant_bytes"], 4 * ((2 + 4 + 4) * mlstm + (1 + 2 + 2) * window));
  EXPECT_EQ(state["bytes_per_token"], 4 * 16 * 2);
}

TEST(StudentConfig, TakesTheDocumentedDefaults) {
  auto teacher = LoadTeacher("hf_llama");
  auto config = StudentConfig(teacher->config, json::object());
  ASSERT_TRUE(config.ok()) << config.status();
  for (const MixerConfig& mixer : config->mixers) {
    EXPECT_EQ(mixer.kind, "hybrid");
    EXPECT_EQ(mixer.feature_map, "softmax");
    EXPECT_EQ(mixer.features, teacher->config.head_dim);
    EXPECT_EQ(mixer.windows, (std::vector<int32_t>{512, 512}));
    EXPECT_EQ(mixer.sinks, 4);
  }
}

TEST(StudentConfig, SeesNoFurtherThanATeacherThatSlides) {
  const ModelConfig teacher = LoadTeacher("hf_olmo3")->config;  // layers 0 to 2 slide over 8 tokens
  auto student = StudentConfig(teacher, json::parse(R"({"window": 64, "layers": [{"layer": 2, "window": 12}]})"));
  ASSERT_TRUE(student.ok()) << student.status();
  EXPECT_EQ(student->mixers[0].windows, (std::vector<int32_t>{8, 8}));
  EXPECT_EQ(student->mixers[2].windows, (std::vector<int32_t>{12, 12}));  // told so itself
  EXPECT_EQ(student->mixers[3].windows, (std::vector<int32_t>{64, 64}));
}

TEST(StudentConfig, RefusesWhatIsNotAllowed) {
  const ModelConfig teacher = LoadTeacher("hf_llama")->config;
  const struct {
    const char* options;
    xh_code code;
    const char* part;
  } cases[] = {
      {R"({"kind": "lstm"})", XH_INVALID_ARGUMENT, "\"kind\" is \"lstm\"; allowed: \"hybrid\""},
      {R"({"windows": 8})", XH_INVALID_ARGUMENT, "unknown \"windows\" (did you mean \"window\"?)"},
      {R"({"feature_map": "relu"})", XH_INVALID_ARGUMENT, "\"feature_map\" is \"relu\""},
      {R"({"features": -1})", XH_INVALID_ARGUMENT, "\"features\" is -1"},
      {R"({"window": -8})", XH_INVALID_ARGUMENT, "\"window\" is -8"},
      {R"({"window": 0})", XH_INVALID_ARGUMENT, "allowed with \"hybrid\": at least one window"},
      {R"({"window": [8, 8, 8]})", XH_INVALID_ARGUMENT, "\"windows\" has 3 numbers; allowed: one a key/value head (2)"},
      {R"({"sinks": 1e12})", XH_INVALID_ARGUMENT, "\"sinks\""},
      {R"({"layers": 3})", XH_INVALID_ARGUMENT, "\"layers\" is not a list"},
      {R"({"layers": [{"layer": 3}]})", XH_INVALID_ARGUMENT, "\"layer\" is 3; allowed: integer from 0 to 2"},
      {R"({"layers": [{"kind": "attention"}]})", XH_INVALID_ARGUMENT, "\"layer\" is missing"},
      {R"({"layers": [{"layer": 1}, {"layer": 1}]})", XH_INVALID_ARGUMENT, "names layer 1 twice"},
      {R"({"layer": 1})", XH_INVALID_ARGUMENT, "outside of \"layers\""},
  };
  for (const auto& bad : cases) {
    EXPECT_THAT(StudentConfig(teacher, json::parse(bad.options)), FailsWith(bad.code, bad.part)) << bad.options;
  }
}

TEST(InitialValue, IsThatOfTheSpecification) {
  const ModelConfig teacher = LoadTeacher("hf_llama")->config;  // 4 heads of 16
  auto values = [&](const json& options, const std::string& suffix) {
    auto config = StudentConfig(teacher, options);
    for (const ParameterSpec& spec : ParametersOf(*config)) {
      if (spec.name == "model.layers.1.self_attn.xlstm." + suffix) return *InitialValue(spec);
    }
    return std::vector<float>();
  };
  const json defaults = json::object();
  EXPECT_EQ(values(defaults, "forget_gate.bias"), (std::vector<float>{3, 4, 5, 6}));
  EXPECT_EQ(values(defaults, "input_gate.bias"), std::vector<float>(4, 0));
  EXPECT_EQ(values(defaults, "output_gate.bias"), std::vector<float>(4, -2));
  EXPECT_EQ(values(defaults, "output_gate.weight"), std::vector<float>(4 * 48, 0));
  std::vector<float> identity(4 * 16 * 16, 0);
  for (int i = 0; i < 4 * 16; ++i) identity[i * 16 + i % 16] = 1;
  EXPECT_EQ(values(defaults, "key_features.weight"), identity);
  for (float& value : identity) value *= 2;
  EXPECT_EQ(values({{"feature_map", "hedgehog"}}, "query_features.weight"), identity);
  EXPECT_TRUE(values({{"feature_map", "none"}}, "query_features.weight").empty());
}

TEST(InitialValue, OfMoreFeaturesIsRandomButAlwaysTheSame) {
  ParameterSpec spec{"model.layers.0.self_attn.xlstm.query_features.weight", {4, 16, 256}, Init::kIdentity, 2};
  const std::vector<float> values = *InitialValue(spec);
  double sum = 0, squares = 0;
  for (float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const double count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, 0, 0.02);             // N(0, 4/16): a standard error of 0.004
  EXPECT_NEAR(squares / count, 4.0 / 16, 0.01);  // a standard error of 0.003
  EXPECT_EQ(values, *InitialValue(spec));
  spec.name = "model.layers.0.self_attn.xlstm.key_features.weight";
  EXPECT_NE(values, *InitialValue(spec));
}

}  // namespace
}  // namespace xh::test
