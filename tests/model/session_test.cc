// Sessions: limits, states as bytes, forks, generation.
#include "core/generate/session.h"

#include <cmath>
#include <limits>

#include "core/checkpoint/digest.h"
#include "tests/model/model_fixture.h"

namespace xh::test {
namespace {

using nlohmann::json;

constexpr char kTeacher[] = "hf_qwen2";

std::vector<int32_t> Ids() { return ExpectedIds(kTeacher, "input_ids"); }  // 90 of them

std::shared_ptr<const Model> Hybrid() {
  return MakeStudent(*LoadTeacher(kTeacher),
                     json::parse(R"({"window": 6, "layers": [{"layer": 1, "kind": "attention"}]})"));
}

std::unique_ptr<Session> OpenSession(std::shared_ptr<const Model> model, int64_t capacity = 0) {
  auto session = Session::Open(std::move(model), capacity);
  EXPECT_TRUE(session.ok()) << session.status();
  return *std::move(session);
}

std::vector<float> LogitsOf(const Session& session) {
  auto logits = session.Logits();
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? **logits : std::vector<float>();
}

// ---- limits ----

TEST(Session, RefusesTokensOutsideTheVocabularyAndKeepsItsState) {
  auto session = OpenSession(Hybrid());
  const std::vector<int32_t> ids = Ids();
  ASSERT_TRUE(session->Feed(ids.data(), 10).ok());
  const std::vector<float> before = LogitsOf(*session);
  const std::string state = *session->Snapshot();
  for (int32_t bad : {-1, 160, std::numeric_limits<int32_t>::max()}) {
    const int32_t batch[] = {ids[10], ids[11], bad};
    EXPECT_THAT(session->Feed(batch, 3),
                FailsWith(XH_INVALID_ARGUMENT, absl::StrCat("token id ", bad, " at index 2; allowed: 0 to 159")));
  }
  EXPECT_EQ(session->position(), 10);
  EXPECT_EQ(LogitsOf(*session), before);
  EXPECT_EQ(*session->Snapshot(), state);
}

TEST(Session, RefusesMoreThanItsCapacity) {
  auto session = OpenSession(Hybrid(), 16);
  const std::vector<int32_t> ids = Ids();
  EXPECT_THAT(session->Feed(ids.data(), 17), FailsWith(XH_INVALID_ARGUMENT, "position 17 exceeds capacity 16"));
  EXPECT_EQ(session->position(), 0);
  ASSERT_TRUE(session->Feed(ids.data(), 16).ok());
  EXPECT_THAT(session->Next(), FailsWith(XH_INVALID_ARGUMENT, "position 17 exceeds capacity 16"));
  EXPECT_THAT(Session::Open(Hybrid(), -1), FailsWith(XH_INVALID_ARGUMENT, "\"capacity\" is -1"));
}

// The cpu backend, saying how many tokens are worth reading at once; keeps what EMBED plans are opened for.
struct Prefill {
  xh_backend real{}, table{};
  int64_t most = 0;
  std::vector<int64_t> chunks;
} prefill;

std::shared_ptr<Device> OpenPrefillDevice(int64_t most) {
  prefill = Prefill{};
  prefill.real = prefill.table = **CpuRuntime()->registry().FindBackend("cpu");
  prefill.most = most;
  prefill.table.device_query = [](xh_device* device, const char* key, xh_option* out) -> xh_error* {
    if (std::string(key) != "prefill_tokens") return prefill.real.device_query(device, key, out);
    out->kind = XH_OPTION_INT;
    out->integer = prefill.most;
    return nullptr;
  };
  prefill.table.plan_open = [](xh_device* device, const xh_op_desc* desc, xh_plan** out, xh_plan_info* info) {
    if (desc->op == XH_OP_EMBED) prefill.chunks.push_back(desc->args[1].shape[0]);
    return prefill.real.plan_open(device, desc, out, info);
  };
  return *Device::Open(&prefill.table, "cpu", 0, nullptr, 0);
}

TEST(Session, ReadsAsManyTokensAtOnceAsTheDeviceFindsWorthIt) {
  const std::vector<int32_t> ids = Ids();
  auto whole = OpenSession(Hybrid());
  ASSERT_TRUE(whole->Feed(ids.data(), 90).ok());
  const std::pair<int64_t, std::vector<int64_t>> cases[] = {
      {37, {32, 16, 8, 2}}, {1 << 30, {64, 16, 8, 2}}, {0, {1}}, {-5, {1}}};
  for (const auto& [most, chunks] : cases) {
    auto model = std::make_shared<Model>(*Hybrid());  // the same host memory on another device
    model->device = OpenPrefillDevice(most);
    auto session = OpenSession(model);
    ASSERT_TRUE(session->Feed(ids.data(), 90).ok());
    EXPECT_EQ(prefill.chunks, chunks) << most;
    EXPECT_LT(RelativeError(LogitsOf(*session), LogitsOf(*whole)), 1e-4) << most;
  }
}

TEST(Session, HasNoLogitsBeforeTheFirstToken) {
  auto session = OpenSession(Hybrid());
  EXPECT_THAT(session->Logits(), FailsWith(XH_INVALID_STATE, "read no token"));
  EXPECT_THAT(session->Next(), FailsWith(XH_INVALID_STATE, "read no token"));
  EXPECT_TRUE(session->Feed(nullptr, 0).ok());
  EXPECT_EQ(session->position(), 0);
}

TEST(Session, TakesTheModelsContextAsItsCapacity) { EXPECT_EQ(OpenSession(Hybrid())->capacity(), 256); }

TEST(Session, StateIsAsLargeAsItsTensors) {
  auto model = Hybrid();  // 4 heads, 2 key/value heads of 16; layers: hybrid, attention, hybrid
  const int64_t mlstm = 4 * (16 * 16 + 16 + 1) * 4;
  const int64_t window = 2 * (6 + 4) * 16 * 2 * 4;
  for (int64_t capacity : {32, 64}) {
    EXPECT_EQ(OpenSession(model, capacity)->state_bytes(), 2 * (mlstm + window) + capacity * 2 * 16 * 2 * 4);
  }
  const json state = model->Describe()["state"];
  EXPECT_EQ(state["constant_bytes"], 2 * (mlstm + window));
  EXPECT_EQ(state["bytes_per_token"], 2 * 16 * 2 * 4);
  EXPECT_EQ(state["teacher_bytes_per_token"], 3 * 2 * 16 * 2 * 4);
}

TEST(Session, SaysWhereLogitsAreNotFiniteAndIsUsableAfterReset) {
  // Embeddings and head are apart in this teacher: only token 7 is bad.
  auto model = std::make_shared<Model>(*MakeStudent(*LoadTeacher("hf_llama"), {{"window", 6}}));
  std::vector<float> table = ReadWeight(*model, "model.embed_tokens.weight");
  table[7 * 64 + 5] = NAN;
  model->weights["model.embed_tokens.weight"] = NewWeight(*model, {160, 64}, table);
  auto session = OpenSession(model);
  const int32_t ids[] = {3, 4, 7};
  ASSERT_TRUE(session->Feed(ids, 2).ok());
  EXPECT_THAT(session->Feed(ids + 2, 1), FailsWith(XH_INVALID_STATE, "the logits at position 2 are not finite"));
  EXPECT_THAT(session->Logits(), FailsWith(XH_INVALID_STATE, "reset or restore it"));
  EXPECT_THAT(session->Feed(ids, 1), FailsWith(XH_INVALID_STATE, "the session's state is lost"));
  EXPECT_THAT(session->Snapshot(), FailsWith(XH_INVALID_STATE, "the session's state is lost"));
  ASSERT_TRUE(session->Reset().ok());
  ASSERT_TRUE(session->Feed(ids, 2).ok());
  EXPECT_TRUE(std::isfinite(LogitsOf(*session)[0]));
}

TEST(Session, ResetBeginsAnew) {
  auto session = OpenSession(Hybrid());
  const std::vector<int32_t> ids = Ids();
  ASSERT_TRUE(session->Feed(ids.data(), 20).ok());
  const std::vector<float> first = LogitsOf(*session);
  ASSERT_TRUE(session->Feed(ids.data() + 40, 30).ok());
  ASSERT_TRUE(session->Reset().ok());
  EXPECT_EQ(session->position(), 0);
  ASSERT_TRUE(session->Feed(ids.data(), 20).ok());
  EXPECT_EQ(LogitsOf(*session), first);
}

// ---- states as bytes ----

TEST(Snapshot, RestoresToTheSameContinuation) {
  for (const char* kind : {"hybrid", "mlstm", "attention", "window"}) {
    SCOPED_TRACE(kind);
    auto model = MakeStudent(*LoadTeacher(kTeacher), {{"kind", kind}, {"window", 6}});
    const std::vector<int32_t> ids = Ids();
    for (int64_t position : {1, 5, 30}) {
      auto session = OpenSession(model, 64);
      ASSERT_TRUE(session->Feed(ids.data(), position).ok());
      auto bytes = session->Snapshot();
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      auto other = OpenSession(model, 48);  // another capacity, and something else in it
      ASSERT_TRUE(other->Feed(ids.data() + 50, 40).ok());
      const Status restored = other->Restore(bytes->data(), static_cast<int64_t>(bytes->size()));
      ASSERT_TRUE(restored.ok()) << restored;
      EXPECT_EQ(other->position(), position);
      EXPECT_EQ(LogitsOf(*other), LogitsOf(*session));
      EXPECT_EQ(*other->Snapshot(), *bytes);
      ASSERT_TRUE(session->Feed(ids.data() + position, 17).ok());
      ASSERT_TRUE(other->Feed(ids.data() + position, 17).ok());
      EXPECT_EQ(LogitsOf(*other), LogitsOf(*session));
    }
  }
}

TEST(Snapshot, OfTheStartIsTheStart) {
  auto model = Hybrid();
  auto session = OpenSession(model);
  const std::string start = *session->Snapshot();
  const std::vector<int32_t> ids = Ids();
  ASSERT_TRUE(session->Feed(ids.data(), 9).ok());
  ASSERT_TRUE(session->Restore(start.data(), static_cast<int64_t>(start.size())).ok());
  EXPECT_EQ(session->position(), 0);
  EXPECT_THAT(session->Logits(), FailsWith(XH_INVALID_STATE, "read no token"));
}

TEST(Snapshot, GrowsOnlyWithUnlimitedHeads) {
  const std::vector<int32_t> ids = Ids();
  auto size_at = [&](const std::shared_ptr<const Model>& model, int64_t position) {
    auto session = OpenSession(model);
    EXPECT_TRUE(session->Feed(ids.data(), position).ok());
    return session->Snapshot()->size();
  };
  auto window = MakeStudent(*LoadTeacher(kTeacher), {{"window", 6}});
  EXPECT_EQ(size_at(window, 20), size_at(window, 60));
  auto mixed = Hybrid();
  EXPECT_EQ(size_at(mixed, 60) - size_at(mixed, 20), 40u * 2 * 16 * 2 * 4);
}

TEST(Snapshot, RefusesForeignAndDamagedBytes) {
  auto model = Hybrid();
  auto session = OpenSession(model);
  const std::vector<int32_t> ids = Ids();
  ASSERT_TRUE(session->Feed(ids.data(), 12).ok());
  const std::string good = *session->Snapshot();
  auto restore = [&](const std::string& bytes) {
    return session->Restore(bytes.data(), static_cast<int64_t>(bytes.size()));
  };
  EXPECT_THAT(restore(""), FailsWith(XH_CORRUPT, "0 bytes"));
  EXPECT_THAT(session->Restore(nullptr, 0), FailsWith(XH_CORRUPT, "0 bytes"));
  EXPECT_THAT(restore(std::string(4096, 'x')), FailsWith(XH_CORRUPT, "no snapshot"));
  for (size_t size : {size_t{1}, size_t{8}, size_t{91}, size_t{92}, good.size() / 2, good.size() - 1}) {
    EXPECT_THAT(restore(good.substr(0, size)), FailsWith(XH_CORRUPT, "")) << size;
  }
  for (size_t at = 0; at < good.size(); at += 97) {
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    EXPECT_FALSE(restore(damaged).ok()) << at;
  }
  std::string future = good;
  future[8] = 2;
  EXPECT_THAT(restore(future), FailsWith(XH_INCOMPATIBLE, "version 2; allowed: 1"));
  // None of these changed anything.
  EXPECT_EQ(*session->Snapshot(), good);
}

TEST(Snapshot, WithAPositionThatItsBytesDoNotCarryIsRefused) {
  auto session = OpenSession(Hybrid());
  const std::vector<int32_t> ids = Ids();
  ASSERT_TRUE(session->Feed(ids.data(), 12).ok());
  std::string bytes = *session->Snapshot();
  auto with_position = [&](int64_t position) {
    bytes.replace(48, 8, reinterpret_cast<const char*>(&position), 8);
    const uint32_t checksum = Crc32c(bytes.data(), bytes.size() - 4);
    bytes.replace(bytes.size() - 4, 4, reinterpret_cast<const char*>(&checksum), 4);
    return session->Restore(bytes.data(), static_cast<int64_t>(bytes.size()));
  };
  EXPECT_THAT(with_position(13), FailsWith(XH_CORRUPT, "its position needs"));
  EXPECT_THAT(with_position(0), FailsWith(XH_CORRUPT, "its position needs"));
  EXPECT_THAT(with_position(-1), FailsWith(XH_INVALID_ARGUMENT, "exceeds capacity"));
  EXPECT_THAT(with_position(int64_t{1} << 60), FailsWith(XH_INVALID_ARGUMENT, "exceeds capacity"));
  EXPECT_TRUE(with_position(12).ok());
}

TEST(Snapshot, BelongsToOneShapeOfModel) {
  auto session = OpenSession(Hybrid());
  const std::vector<int32_t> ids = Ids();
  ASSERT_TRUE(session->Feed(ids.data(), 12).ok());
  const std::string bytes = *session->Snapshot();
  auto restore_into = [&](std::shared_ptr<const Model> model, int64_t capacity) {
    return OpenSession(std::move(model), capacity)->Restore(bytes.data(), static_cast<int64_t>(bytes.size()));
  };
  auto teacher = LoadTeacher(kTeacher);
  EXPECT_THAT(restore_into(teacher, 0), FailsWith(XH_INCOMPATIBLE, "another shape"));
  EXPECT_THAT(restore_into(LoadTeacher("hf_llama"), 0), FailsWith(XH_INCOMPATIBLE, "another shape"));
  EXPECT_THAT(restore_into(Hybrid(), 11), FailsWith(XH_INVALID_ARGUMENT, "position 12 of the snapshot exceeds"));
  EXPECT_TRUE(restore_into(Hybrid(), 12).ok());
}

TEST(Fork, ContinuesAloneFromTheSameState) {
  auto session = OpenSession(Hybrid(), 80);
  const std::vector<int32_t> ids = Ids();
  SamplerOptions sampler;
  sampler.temperature = 1;
  sampler.seed = 5;
  ASSERT_TRUE(session->SetSampler(sampler).ok());
  ASSERT_TRUE(session->Feed(ids.data(), 12).ok());
  ASSERT_TRUE(session->Next().ok());
  auto fork = session->Fork();
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_EQ((*fork)->position(), 13);
  EXPECT_EQ((*fork)->capacity(), 80);
  for (int i = 0; i < 10; ++i) EXPECT_EQ((*fork)->Next()->token, session->Next()->token) << i;
  const std::vector<float> logits = LogitsOf(*session);
  ASSERT_TRUE((*fork)->Feed(ids.data(), 20).ok());
  EXPECT_EQ(LogitsOf(*session), logits);
  EXPECT_EQ(session->position(), 23);
}

// ---- kept heads ----

TEST(Session, OfAKeptHeadDecodesTheForwardBeyondSixteenWindowsThroughRestoreAndFork) {
  const std::vector<int32_t> ids = Ids();
  for (const char* layers : {R"([{"layer": 1, "window": [0, 4]}])", R"([{"layer": 0, "window": [4, 0]}])"}) {
    SCOPED_TRACE(layers);
    auto model = MakeStudent(*LoadTeacher(kTeacher), {{"window", 4}, {"sinks", 2}, {"layers", json::parse(layers)}});
    const std::vector<float> forward = Forward(*model, ids, 1).logits;
    const int64_t vocab = model->config.vocab_size, count = static_cast<int64_t>(ids.size());
    ASSERT_GT(count, 16 * 4 + 2);
    auto session = OpenSession(model);
    for (int64_t t = 0; t < count; ++t) {
      if (t == 30 || t == 70) {
        const std::string bytes = *session->Snapshot();
        session = OpenSession(model, count);
        ASSERT_TRUE(session->Restore(bytes.data(), static_cast<int64_t>(bytes.size())).ok());
      }
      if (t == 50 || t == 80) session = *session->Fork();
      ASSERT_TRUE(session->Feed(ids.data() + t, 1).ok());
      EXPECT_LT(RelativeError(LogitsOf(*session), RowOf(forward, t, vocab)), 1e-5) << "token " << t;
    }
  }
}

// ---- writing ----

TEST(Next, EndsAfterTheMostTokens) {
  auto session = OpenSession(LoadTeacher("hf_llama"));
  const std::vector<int32_t> ids = ExpectedIds("hf_llama", "input_ids");
  ASSERT_TRUE(session->Feed(ids.data(), 9).ok());
  SamplerOptions sampler;
  sampler.max_tokens = 3;
  ASSERT_TRUE(session->SetSampler(sampler).ok());
  EXPECT_FALSE(session->Next()->finished);
  EXPECT_FALSE(session->Next()->finished);
  EXPECT_TRUE(session->Next()->finished);
  EXPECT_THAT(session->Next(), FailsWith(XH_INVALID_STATE, "the text has ended"));
  EXPECT_EQ(session->position(), 12);
  ASSERT_TRUE(session->SetSampler(sampler).ok());
  EXPECT_TRUE(session->Next().ok());
}

TEST(Next, EndsAtAnyOfTheEndTokens) {
  auto teacher = LoadTeacher("hf_llama");
  const std::vector<int32_t> expected = ExpectedIds("hf_llama", "greedy_from_9");
  auto model = std::make_shared<Model>(*teacher);
  model->config.eos_ids = {159, expected[11]};
  auto session = OpenSession(model);
  ASSERT_TRUE(session->Feed(expected.data(), 9).ok());
  EXPECT_FALSE(session->Next()->finished);
  EXPECT_FALSE(session->Next()->finished);
  auto last = session->Next();
  EXPECT_EQ(last->token, expected[11]);
  EXPECT_TRUE(last->finished);
  EXPECT_EQ(last->piece, "");
  EXPECT_EQ(session->position(), 12);  // the end token is part of the sequence
  EXPECT_FALSE(session->Next().ok());
  ASSERT_TRUE(session->Feed(expected.data(), 1).ok());
  EXPECT_TRUE(session->Next().ok());
}

TEST(SetSampler, RefusesWhatIsNotAllowed) {
  auto session = OpenSession(LoadTeacher("hf_llama"));
  auto set = [&](void (*change)(SamplerOptions&)) {
    SamplerOptions options;
    change(options);
    return session->SetSampler(options);
  };
  EXPECT_THAT(set([](SamplerOptions& o) { o.temperature = -1; }),
              FailsWith(XH_INVALID_ARGUMENT, "\"temperature\" is -1"));
  EXPECT_THAT(set([](SamplerOptions& o) { o.temperature = NAN; }), FailsWith(XH_INVALID_ARGUMENT, "\"temperature\""));
  EXPECT_THAT(set([](SamplerOptions& o) { o.top_k = -1; }), FailsWith(XH_INVALID_ARGUMENT, "\"top_k\" is -1"));
  EXPECT_THAT(set([](SamplerOptions& o) { o.top_p = 0; }), FailsWith(XH_INVALID_ARGUMENT, "\"top_p\" is 0"));
  EXPECT_THAT(set([](SamplerOptions& o) { o.top_p = 1.1; }), FailsWith(XH_INVALID_ARGUMENT, "\"top_p\" is 1.1"));
  EXPECT_THAT(set([](SamplerOptions& o) { o.max_tokens = 0; }), FailsWith(XH_INVALID_ARGUMENT, "\"max_tokens\" is 0"));
  EXPECT_THAT(set([](SamplerOptions& o) { o.stop = {""}; }), FailsWith(XH_INVALID_ARGUMENT, "\"stop\""));
  EXPECT_THAT(set([](SamplerOptions& o) { o.stop = {"\xff"}; }), FailsWith(XH_INVALID_ARGUMENT, "\"stop\""));
  EXPECT_THAT(set([](SamplerOptions& o) { o.stop = {"x"}; }), FailsWith(XH_INVALID_STATE, "needs a tokenizer"));
}

}  // namespace
}  // namespace xh::test
