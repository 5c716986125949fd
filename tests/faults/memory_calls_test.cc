// Every call of the C interface that can fail, with each of its allocations failing in turn: alone, and with all after
// it. The call gives XH_OUT_OF_MEMORY and leaves its outputs alone, nothing leaks, and the same call made again works
// and gives the same result. A call may also do without the memory and succeed. Two kinds of exceptions are allowed,
// each marked in the table: a call that does without and gives less, and a session that says that its state is lost.
//
// Plugins are loaded before, once: what their libraries' own initialisers do without memory is not ours to say.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "failing_malloc.h"
#include "place.h"

namespace {

using faults::Outcome;
using faults::Place;
using faults::Take;

constexpr int64_t kOneByOne = 200;  // allocations that fail one after the other; of those that follow, samples
constexpr int64_t kSamples = 60;

// What calls write to.
struct Outputs {
  void* object;
  const void* borrowed;
  int64_t count;
  int32_t token, finished;
  int32_t ids[64];
  float floats[4 * 4096];
  xh_tensor tensor;
  xh_plugin_info info;
};

// What calls need, made once: objects that stay as they are, and students of a teacher with and one without a
// tokenizer.
struct World {
  World() {
    runtime = faults::OpenRuntime();
    faults::WriteText(place / "data.jsonl", "{\"text\": \"Once upon a time there was a small dog who ran away.\"}\n");
    teacher = faults::ByteTeacher(place);
    student = Train(teacher, "data.jsonl", "run");
    faults::WriteRows(place / "ids.jsonl");
    silent = Train(faults::SmallTeacher(), "ids.jsonl", "silent");
    EXPECT_EQ(Take(xh_model_load(runtime, student.c_str(), nullptr, 0, &model)).code, 0);
    EXPECT_EQ(Take(xh_checkpoint_open(runtime, student.c_str(), nullptr, 0, &checkpoint)).code, 0);
    const char text[] = "Once up";
    EXPECT_EQ(Take(xh_model_encode(model, text, 7, 1, ids, 8, &id_count)).code, 0);
    EXPECT_GE(id_count, 4);
  }
  ~World() {
    xh_checkpoint_free(checkpoint);
    xh_model_free(model);
    xh_runtime_close(runtime);
  }

  std::string Train(const std::string& teacher, const std::string& data, const std::string& output) {
    nlohmann::json recipe = faults::TrainingRecipe(place, output);
    recipe["teacher"] = teacher;
    recipe["data"] = {place / data};
    recipe["context"] = 8;
    recipe["stages"] = {{{"stage", "align"}, {"steps", 1}}};
    const Outcome trained = faults::RunJob(runtime, "distill", recipe);
    EXPECT_EQ(trained.code, 0) << trained.message;
    return place / (output + "/student.xhy");
  }

  Place place;
  std::string teacher;  // that speaks in bytes
  std::string student;  // of it
  std::string silent;   // of the small one
  xh_runtime* runtime = nullptr;
  xh_model* model = nullptr;
  xh_checkpoint* checkpoint = nullptr;
  int32_t ids[8] = {};
  int64_t id_count = 0;
};

World* world = nullptr;

class MemoryTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { world = new World; }
  static void TearDownTestSuite() {
    delete world;
    world = nullptr;
  }
};

struct Case {
  const char* name;
  std::function<xh_error*(Outputs&)> call;
  std::function<std::string(Outputs&)> result = [](Outputs&) { return std::string(); };  // frees what it is given
  std::function<void()> prepare = [] {};
  std::function<void()> finish = [] {};
  bool may_give_less = false;  // succeeds without what it had no memory for
  bool may_lose_state = false;
  bool needs_none = false;  // allocates nothing
};

std::string BytesOf(Outputs& outputs) {
  auto* bytes = static_cast<xh_bytes*>(outputs.object);
  std::string text(static_cast<const char*>(xh_bytes_data(bytes)), static_cast<size_t>(xh_bytes_size(bytes)));
  xh_bytes_free(bytes);
  return text;
}

std::string FloatsOf(Outputs& outputs) {
  return std::string(reinterpret_cast<const char*>(outputs.floats), sizeof(outputs.floats)) +
         std::to_string(outputs.count);
}

void Fill(Outputs* outputs) {
  std::memset(static_cast<void*>(outputs), 0xA5, sizeof(*outputs));
  outputs->info.struct_size = XH_SIZED(xh_plugin_info);
}

// One round: the n-th allocation fails (0: none). Returns whether the call came that far.
bool Round(const Case& c, int64_t n, bool onwards, const std::string& expected) {
  static Outputs outputs, untouched;
  Fill(&outputs);
  Fill(&untouched);
  c.prepare();
  fail_allocation(n > 0 ? n : INT64_MAX, onwards ? 1 : 0);
  xh_error* error = c.call(outputs);
  const bool failed = end_failures() > 0;
  const Outcome outcome = Take(error);
  const std::string at = std::string(c.name) + ", allocation " + std::to_string(n) + (onwards ? " and on" : "");
  if (outcome.code == 0) {
    const std::string result = c.result(outputs);
    EXPECT_TRUE(result == expected || (c.may_give_less && failed)) << at << ": the result differs";
  } else {
    EXPECT_EQ(outcome.code, XH_OUT_OF_MEMORY) << at << ": " << outcome.message;
    EXPECT_NE(outcome.message, "") << at;
    EXPECT_EQ(std::memcmp(&outputs, &untouched, sizeof(outputs)), 0) << at << ": an output was written";
    Fill(&outputs);
    const Outcome again = Take(c.call(outputs));
    if (again.code == 0) {
      EXPECT_TRUE(c.result(outputs) == expected) << at << ": the result differs the second time";
    } else {
      EXPECT_TRUE(c.may_lose_state) << at << ": " << again.message;
      EXPECT_EQ(again.code, XH_INVALID_STATE) << at << ": " << again.message;
      EXPECT_NE(again.message.find("lost"), std::string::npos) << at << ": " << again.message;
    }
  }
  c.finish();
  return failed;
}

int Problems() { return testing::UnitTest::GetInstance()->current_test_info()->result()->total_part_count(); }

void Sweep(const Case& c) {
  SCOPED_TRACE(c.name);
  static Outputs outputs;
  Fill(&outputs);
  c.prepare();
  fail_allocation(INT64_MAX, 0);
  const Outcome first = Take(c.call(outputs));
  end_failures();
  const int64_t asked = allocations_asked();
  ASSERT_EQ(first.code, 0) << first.message;
  const std::string expected = c.result(outputs);
  c.finish();
  Round(c, 0, false, expected);  // from here on what a first call leaves for later ones is there
  const int64_t before = blocks_held();
  const int64_t stride = std::max<int64_t>(1, (asked - kOneByOne) / kSamples);
  bool failed = true;
  int64_t rounds = 0;
  const int problems = Problems();
  for (int64_t n = 1; failed && Problems() == problems; n += n < kOneByOne ? 1 : stride) {
    for (bool onwards : {false, true}) {
      failed = Round(c, n, onwards, expected);
      EXPECT_LE(blocks_held(), before) << "allocation " << n << (onwards ? " and on" : "") << ": a leak";
      ++rounds;
    }
  }
  EXPECT_EQ(asked > 0, !c.needs_none) << "what this case was to test";
  std::printf("%-28s %6lld allocations, %lld rounds\n", c.name, static_cast<long long>(asked),
              static_cast<long long>(rounds));
}

// ---- runtime, checkpoints ----

TEST_F(MemoryTest, Runtime) {
  Case open{"xh_runtime_open", [](Outputs& o) {
              xh_runtime_config config = {};
              config.struct_size = XH_SIZED(xh_runtime_config);
              config.plugin_path = XH_TEST_PLUGINS;
              return xh_runtime_open(&config, reinterpret_cast<xh_runtime**>(&o.object));
            }};
  open.result = [](Outputs& o) {
    auto* runtime = static_cast<xh_runtime*>(o.object);
    const std::string count = std::to_string(xh_runtime_plugin_count(runtime));
    xh_runtime_close(runtime);
    return count;
  };
  open.may_give_less = true;  // a plugin that cannot be loaded is reported and left out
  Sweep(open);

  Case plugin{"xh_runtime_plugin_at", [](Outputs& o) { return xh_runtime_plugin_at(world->runtime, 0, &o.info); }};
  plugin.needs_none = true;
  plugin.result = [](Outputs& o) { return std::string(o.info.name); };
  Sweep(plugin);

  Case report{"xh_runtime_report",
              [](Outputs& o) { return xh_runtime_report(world->runtime, reinterpret_cast<xh_bytes**>(&o.object)); },
              BytesOf};
  Sweep(report);
}

TEST_F(MemoryTest, Checkpoint) {
  for (const char* mode : {"map", "copy"}) {
    Case open{"xh_checkpoint_open", [mode](Outputs& o) {
                xh_option option = {};
                option.key = "load_mode";
                option.kind = XH_OPTION_TEXT;
                option.text = mode;
                return xh_checkpoint_open(world->runtime, world->student.c_str(), &option, 1,
                                          reinterpret_cast<xh_checkpoint**>(&o.object));
              }};
    open.result = [](Outputs& o) {
      auto* checkpoint = static_cast<xh_checkpoint*>(o.object);
      const std::string count = std::to_string(xh_checkpoint_tensor_count(checkpoint));
      xh_checkpoint_free(checkpoint);
      return count;
    };
    Sweep(open);
  }

  static xh_checkpoint* fresh = nullptr;  // digests are checked on first use
  const auto prepare = [] {
    EXPECT_EQ(Take(xh_checkpoint_open(world->runtime, world->student.c_str(), nullptr, 0, &fresh)).code, 0);
  };
  const auto finish = [] { xh_checkpoint_free(fresh); };
  Case tensor{"xh_checkpoint_tensor",
              [](Outputs& o) { return xh_checkpoint_tensor(fresh, xh_checkpoint_tensor_name(fresh, 0), &o.tensor); }};
  tensor.result = [](Outputs& o) { return std::to_string(o.tensor.shape[0]); };
  tensor.prepare = prepare;
  tensor.finish = finish;
  Sweep(tensor);

  Case verify{"xh_checkpoint_verify", [](Outputs&) { return xh_checkpoint_verify(fresh); }};
  verify.prepare = prepare;
  verify.finish = finish;
  Sweep(verify);

  Sweep({"xh_checkpoint_describe",
         [](Outputs& o) { return xh_checkpoint_describe(world->checkpoint, reinterpret_cast<xh_bytes**>(&o.object)); },
         BytesOf});
}

// ---- models ----

TEST_F(MemoryTest, Loading) {
  for (const std::string& path : {world->silent, faults::SmallTeacher(), world->student, world->teacher}) {
    Case load{"xh_model_load", [path](Outputs& o) {
                return xh_model_load(world->runtime, path.c_str(), nullptr, 0, reinterpret_cast<xh_model**>(&o.object));
              }};
    load.result = [](Outputs& o) {
      auto* model = static_cast<xh_model*>(o.object);
      xh_bytes* bytes = nullptr;
      EXPECT_EQ(Take(xh_model_describe(model, &bytes)).code, 0);
      const std::string described(static_cast<const char*>(xh_bytes_data(bytes)));
      xh_bytes_free(bytes);
      xh_model_free(model);
      return described;
    };
    Sweep(load);
  }
}

TEST_F(MemoryTest, Model) {
  Sweep({"xh_model_describe",
         [](Outputs& o) { return xh_model_describe(world->model, reinterpret_cast<xh_bytes**>(&o.object)); }, BytesOf});
  Case encode{"xh_model_encode", [](Outputs& o) {
                return xh_model_encode(world->model, "a small dog ran away", 20, 1, o.ids, 64, &o.count);
              }};
  encode.result = [](Outputs& o) {
    return std::string(reinterpret_cast<const char*>(o.ids), sizeof(o.ids)) + std::to_string(o.count);
  };
  Sweep(encode);
  Sweep({"xh_model_decode",
         [](Outputs& o) {
           return xh_model_decode(world->model, world->ids, world->id_count, reinterpret_cast<xh_bytes**>(&o.object));
         },
         BytesOf});
  Sweep({"xh_model_chat",
         [](Outputs& o) {
           return xh_model_chat(world->model, R"([{"role": "user", "content": "What is a dog, and what is a cat?"}])",
                                1, reinterpret_cast<xh_bytes**>(&o.object));
         },
         BytesOf});
  for (const char* tap : {"hidden.1", "layers.0.mixer.gate"}) {
    Sweep(
        {"xh_model_forward",
         [tap](Outputs& o) { return xh_model_forward(world->model, world->ids, 4, tap, o.floats, 4 * 4096, &o.count); },
         FloatsOf});
  }
  Case score{"xh_model_score", [](Outputs& o) { return xh_model_score(world->model, world->ids, 4, o.floats); }};
  score.result = [](Outputs& o) { return std::string(reinterpret_cast<const char*>(o.floats), 3 * sizeof(float)); };
  Sweep(score);
}

// ---- sessions ----

xh_session* session = nullptr;

void OpenSession() {
  xh_option capacity = {};
  capacity.key = "capacity";
  capacity.kind = XH_OPTION_INT;
  capacity.integer = 32;
  ASSERT_EQ(Take(xh_session_open(world->model, &capacity, 1, &session)).code, 0);
}
void FeedSession() {
  OpenSession();
  ASSERT_EQ(Take(xh_session_feed(session, world->ids, 3)).code, 0);
}
void FreeSession() {
  xh_session_free(session);
  session = nullptr;
}

// Where the session in hand stands: position, logits, and what it says next.
std::string Standing(xh_session* of) {
  std::string text = std::to_string(xh_session_position(of));
  const float* logits = nullptr;
  int64_t count = 0;
  const Outcome outcome = Take(xh_session_logits(of, &logits, &count));
  if (outcome.code != 0) return text + outcome.message;
  return text + std::string(reinterpret_cast<const char*>(logits), static_cast<size_t>(count) * sizeof(float));
}

Case OfSession(const char* name, std::function<xh_error*(Outputs&)> call, std::function<void()> prepare = FeedSession) {
  Case c{name, std::move(call), [](Outputs&) { return Standing(session); }, std::move(prepare), FreeSession};
  return c;
}

std::vector<xh_option> SamplerOptions() {
  std::vector<xh_option> options(3);
  options[0].key = "temperature";
  options[0].kind = XH_OPTION_REAL;
  options[0].real = 1.0;
  options[1].key = "seed";
  options[1].kind = XH_OPTION_INT;
  options[1].integer = 7;
  options[2].key = "stop";
  options[2].kind = XH_OPTION_TEXT;
  options[2].text = "a text that never comes and is longer than a short string";
  return options;
}

TEST_F(MemoryTest, Session) {
  Case open{"xh_session_open", [](Outputs& o) {
              return xh_session_open(world->model, nullptr, 0, reinterpret_cast<xh_session**>(&o.object));
            }};
  open.result = [](Outputs& o) {
    auto* opened = static_cast<xh_session*>(o.object);
    const std::string bytes = std::to_string(xh_session_state_bytes(opened));
    xh_session_free(opened);
    return bytes;
  };
  Sweep(open);
  for (const auto& prepare : {std::function<void()>(OpenSession), std::function<void()>([] {
                                OpenSession();
                                ASSERT_EQ(Take(xh_session_feed(session, world->ids, 3)).code, 0);
                                ASSERT_EQ(Take(xh_session_reset(session)).code, 0);
                              })}) {
    Case feed = OfSession(
        "xh_session_feed", [](Outputs&) { return xh_session_feed(session, world->ids, 3); }, prepare);
    feed.may_lose_state = true;
    Sweep(feed);
  }
  Case logits = OfSession("xh_session_logits", [](Outputs& o) {
    return xh_session_logits(session, reinterpret_cast<const float**>(&o.borrowed), &o.count);
  });
  logits.needs_none = true;
  Sweep(logits);
  Case reset = OfSession("xh_session_reset", [](Outputs&) { return xh_session_reset(session); });
  reset.needs_none = true;
  Sweep(reset);
}

TEST_F(MemoryTest, SessionState) {
  Case snapshot = OfSession("xh_session_snapshot", [](Outputs& o) {
    return xh_session_snapshot(session, reinterpret_cast<xh_bytes**>(&o.object));
  });
  snapshot.result = [](Outputs& o) { return BytesOf(o) + Standing(session); };
  Sweep(snapshot);

  FeedSession();
  xh_bytes* bytes = nullptr;
  ASSERT_EQ(Take(xh_session_snapshot(session, &bytes)).code, 0);
  FreeSession();
  Sweep(OfSession(
      "xh_session_restore",
      [bytes](Outputs&) { return xh_session_restore(session, xh_bytes_data(bytes), xh_bytes_size(bytes)); },
      [] {
        OpenSession();
        ASSERT_EQ(Take(xh_session_feed(session, world->ids, 2)).code, 0);
      }));
  xh_bytes_free(bytes);

  Case fork = OfSession("xh_session_fork",
                        [](Outputs& o) { return xh_session_fork(session, reinterpret_cast<xh_session**>(&o.object)); });
  fork.result = [](Outputs& o) {
    auto* forked = static_cast<xh_session*>(o.object);
    const std::string standing = Standing(forked) + Standing(session);
    xh_session_free(forked);
    return standing;
  };
  Sweep(fork);
}

// ---- batches ----

xh_batch* batch = nullptr;

void OpenBatch() {
  FeedSession();
  std::vector<xh_option> options(2);
  options[0].key = "slots";
  options[1].key = "capacity";
  options[0].integer = 1;
  options[1].integer = 32;
  for (xh_option& option : options) option.kind = XH_OPTION_INT;
  ASSERT_EQ(Take(xh_batch_open(world->model, options.data(), 2, &batch)).code, 0);
}
void FillBatch() {
  OpenBatch();
  ASSERT_EQ(Take(xh_batch_put(batch, 0, session)).code, 0);
}
void FreeBatch() {
  xh_batch_free(batch);
  batch = nullptr;
  FreeSession();
}

// What the batch in hand writes next.
xh_error* WriteNext(Outputs& o) {
  return xh_batch_next(batch, &o.token, reinterpret_cast<const char**>(&o.borrowed), &o.count, &o.finished, 1);
}
std::string Written(const Outputs& o) {
  return std::to_string(o.token) + std::string(static_cast<const char*>(o.borrowed), static_cast<size_t>(o.count));
}
std::string StandingOfBatch() {
  static Outputs outputs;
  const Outcome outcome = Take(WriteNext(outputs));
  return outcome.code != 0 ? outcome.message : Written(outputs);
}

TEST_F(MemoryTest, Batch) {
  Case open = OfSession("xh_batch_open", [](Outputs& o) {
    return xh_batch_open(world->model, nullptr, 0, reinterpret_cast<xh_batch**>(&o.object));
  });
  open.result = [](Outputs& o) {
    auto* opened = static_cast<xh_batch*>(o.object);
    const std::string bytes = std::to_string(xh_batch_state_bytes(opened));
    xh_batch_free(opened);
    return bytes;
  };
  Sweep(open);
  const auto standing = [](Outputs&) { return StandingOfBatch(); };
  Sweep({"xh_batch_put", [](Outputs&) { return xh_batch_put(batch, 0, session); }, standing, OpenBatch, FreeBatch});
  Case drop{"xh_batch_drop", [](Outputs&) { return xh_batch_drop(batch, 0); }, standing, FillBatch, FreeBatch};
  drop.needs_none = true;
  Sweep(drop);
  Case next{"xh_batch_next", WriteNext, [](Outputs& o) { return Written(o) + StandingOfBatch(); }, FillBatch,
            FreeBatch};
  next.may_lose_state = true;
  Sweep(next);
}

TEST_F(MemoryTest, Sampling) {
  const auto choose = [] {
    FeedSession();
    const std::vector<xh_option> options = SamplerOptions();
    ASSERT_EQ(Take(xh_session_sampler(session, options.data(), 3)).code, 0);
  };
  Case sampler = OfSession("xh_session_sampler", [](Outputs&) {
    static const std::vector<xh_option> options = SamplerOptions();
    return xh_session_sampler(session, options.data(), 3);
  });
  Sweep(sampler);

  Case next = OfSession(
      "xh_session_next",
      [](Outputs& o) {
        return xh_session_next(session, &o.token, reinterpret_cast<const char**>(&o.borrowed), &o.count, &o.finished);
      },
      choose);
  next.result = [](Outputs& o) {
    std::string text = std::to_string(o.token) + "," + std::string(static_cast<const char*>(o.borrowed)) + "," +
                       std::to_string(o.finished) + Standing(session);
    for (int i = 0; i < 3; ++i) {  // and how it goes on
      const char* piece = nullptr;
      const Outcome more = Take(xh_session_next(session, &o.token, &piece, &o.count, &o.finished));
      text += more.code == 0 ? std::to_string(o.token) + piece : more.message;
    }
    return text;
  };
  next.may_lose_state = true;
  Sweep(next);
}

// ---- jobs: what comes before the work; the work itself is in memory_jobs_test.cc ----

TEST_F(MemoryTest, Jobs) {
  for (const char* kind : {static_cast<const char*>(nullptr), "distill"}) {
    Sweep({"xh_job_schema",
           [kind](Outputs& o) { return xh_job_schema(world->runtime, kind, reinterpret_cast<xh_bytes**>(&o.object)); },
           BytesOf});
  }
  static const std::string recipe = faults::TrainingRecipe(world->place, "unused").dump();
  Case open{"xh_job_open", [](Outputs& o) {
              return xh_job_open(world->runtime, "distill", recipe.c_str(), reinterpret_cast<xh_job**>(&o.object));
            }};
  open.result = [](Outputs& o) {
    xh_job_free(static_cast<xh_job*>(o.object));
    return std::string();
  };
  Sweep(open);
}

// Errors that are themselves reported without memory.
TEST_F(MemoryTest, ErrorsNeedNoMemory) {
  const auto refused = [](bool all) {
    fail_allocation(1, all ? 1 : 0);
    xh_model* model = nullptr;
    xh_error* error =
        xh_model_load(world->runtime, "/nowhere/at/all/and/longer/than/a/short/string", nullptr, 0, &model);
    end_failures();
    return error;
  };
  xh_error* error = refused(true);
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(xh_error_code(error), XH_OUT_OF_MEMORY);
  EXPECT_STREQ(xh_error_origin(error), "core");
  xh_error* second = refused(true);
  EXPECT_STREQ(xh_error_message(second), xh_error_message(error));
  xh_error_free(second);
  xh_error_free(error);
}

}  // namespace
