// What xhybrid.h allows from several threads at once, done from several threads at once. Says little on its own: run it
// in build/tsan (./bootstrap tsan). Every runtime works with one thread but where the library's own threads are meant:
// the threads of libgomp are invisible to the sanitizer, which would report every handover between them.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "place.h"

namespace {

using faults::Outcome;
using faults::Place;
using faults::Take;
using nlohmann::json;

constexpr int kThreads = 8;

// Runs body(0) ... body(kThreads - 1), each on a thread of its own, all beginning together.
void AtOnce(const std::function<void(int)>& body) {
  std::atomic<int> ready{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      ++ready;
      while (ready.load() < kThreads) std::this_thread::yield();
      body(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class Runtime {
 public:
  Runtime() : runtime_(faults::OpenRuntime()) {}
  ~Runtime() { xh_runtime_close(runtime_); }
  operator xh_runtime*() const { return runtime_; }

 private:
  xh_runtime* runtime_;
};

class Model {
 public:
  explicit Model(const std::string& path) {
    EXPECT_EQ(Take(xh_model_load(runtime_, path.c_str(), nullptr, 0, &model_)).message, "");
  }
  ~Model() { xh_model_free(model_); }
  operator const xh_model*() const { return model_; }

 private:
  Runtime runtime_;
  xh_model* model_ = nullptr;
};

// What a session of its own says after a text.
std::string Speak(const xh_model* model, const std::string& text) {
  int32_t ids[64];
  int64_t count = 0;
  EXPECT_EQ(Take(xh_model_encode(model, text.data(), static_cast<int64_t>(text.size()), 1, ids, 64, &count)).code, 0);
  xh_option capacity = {};
  capacity.key = "capacity";
  capacity.kind = XH_OPTION_INT;
  capacity.integer = 64;
  xh_session* session = nullptr;
  EXPECT_EQ(Take(xh_session_open(model, &capacity, 1, &session)).code, 0);
  EXPECT_EQ(Take(xh_session_feed(session, ids, count)).code, 0);
  std::string said;
  int32_t finished = 0;
  for (int i = 0; i < 8 && finished == 0; ++i) {
    int32_t token = 0;
    const char* piece = nullptr;
    int64_t size = 0;
    EXPECT_EQ(Take(xh_session_next(session, &token, &piece, &size, &finished)).code, 0);
    said.append(piece, static_cast<size_t>(size));
  }
  xh_session_free(session);
  return said;
}

TEST(ThreadsTest, EightSessionsOnOneModel) {
  const Model model(faults::SpeakingTeacher());
  const std::string texts[2] = {"Once upon a time", "The dog"};
  const std::string alone[2] = {Speak(model, texts[0]), Speak(model, texts[1])};
  AtOnce([&](int i) { EXPECT_EQ(Speak(model, texts[i % 2]), alone[i % 2]); });
}

TEST(ThreadsTest, EveryCallOnOneModel) {
  const Model model(faults::SpeakingTeacher());
  const int32_t ids[4] = {1, 300, 301, 302};
  float scores[3];
  ASSERT_EQ(Take(xh_model_score(model, ids, 4, scores)).code, 0);
  AtOnce([&](int) {
    float own[3] = {};
    EXPECT_EQ(Take(xh_model_score(model, ids, 4, own)).code, 0);
    EXPECT_EQ(own[2], scores[2]);
    xh_bytes* bytes = nullptr;
    EXPECT_EQ(Take(xh_model_chat(model, R"([{"role": "user", "content": "Hello"}])", 1, &bytes)).message, "");
    xh_bytes_free(bytes);
    EXPECT_EQ(Take(xh_model_describe(model, &bytes)).code, 0);
    xh_bytes_free(bytes);
    EXPECT_EQ(Take(xh_model_decode(model, ids, 4, &bytes)).code, 0);
    xh_bytes_free(bytes);
  });
}

TEST(ThreadsTest, OneCheckpointWhoseDigestsAreCheckedOnFirstUse) {
  const Place place;
  const Runtime runtime;
  const json recipe = {{"model", faults::SmallTeacher()}, {"output", place / "a.xhy"}};
  ASSERT_EQ(faults::RunJob(runtime, "import", recipe).message, "");
  xh_checkpoint* checkpoint = nullptr;
  ASSERT_EQ(Take(xh_checkpoint_open(runtime, (place / "a.xhy").c_str(), nullptr, 0, &checkpoint)).code, 0);
  AtOnce([&](int i) {
    for (int64_t k = 0; k < xh_checkpoint_tensor_count(checkpoint); ++k) {
      xh_tensor tensor = {};
      EXPECT_EQ(Take(xh_checkpoint_tensor(checkpoint, xh_checkpoint_tensor_name(checkpoint, k), &tensor)).code, 0);
    }
    if (i == 0) {
      EXPECT_EQ(Take(xh_checkpoint_verify(checkpoint)).code, 0);
    }
  });
  xh_checkpoint_free(checkpoint);
}

TEST(ThreadsTest, RuntimesOpenedAndClosed) {
  AtOnce([](int) {
    for (int round = 0; round < 5; ++round) {
      const Runtime runtime;
      xh_bytes* report = nullptr;
      EXPECT_EQ(Take(xh_runtime_report(runtime, &report)).code, 0);
      xh_bytes_free(report);
    }
  });
}

TEST(ThreadsTest, OneRuntimeLoadsManyModels) {
  const Runtime runtime;
  AtOnce([&](int) {
    xh_model* model = nullptr;
    EXPECT_EQ(Take(xh_model_load(runtime, faults::SmallTeacher().c_str(), nullptr, 0, &model)).code, 0);
    xh_model_free(model);
  });
}

TEST(ThreadsTest, ErrorsFreedOnOtherThreads) {
  const Runtime runtime;
  std::vector<std::atomic<xh_error*>> errors(kThreads);
  AtOnce([&](int i) {
    xh_model* model = nullptr;
    errors[i] = xh_model_load(runtime, ("/nowhere/" + std::to_string(i)).c_str(), nullptr, 0, &model);
    xh_error* other = nullptr;
    while (other == nullptr) other = errors[(i + 1) % kThreads].load();
    EXPECT_NE(std::string(xh_error_message(other)).find("/nowhere/"), std::string::npos);
    xh_error_free(other);
  });
}

TEST(ThreadsTest, AJobCancelledWhileItRuns) {
  const Place place;
  const Runtime runtime;
  faults::WriteRows(place / "data.jsonl", 64);  // enough that rows are read by several threads
  for (int round = 0; round < 3; ++round) {
    json recipe = faults::TrainingRecipe(place, "out" + std::to_string(round));
    recipe["stages"] = {{{"stage", "align"}, {"steps", 1000000}}};
    recipe["save_every"] = 0;
    xh_job* job = nullptr;
    ASSERT_EQ(Take(xh_job_open(runtime, "distill", recipe.dump().c_str(), &job)).code, 0);
    std::atomic<int> pieces{0};
    std::thread canceller([&] {
      while (pieces.load() < 2 + round) std::this_thread::yield();
      xh_job_cancel(job);
    });
    const char* event = nullptr;
    int32_t finished = 0;
    Outcome outcome;
    while (outcome.code == 0) {
      outcome = Take(xh_job_next(job, &event, &finished));
      ++pieces;
    }
    canceller.join();
    EXPECT_EQ(outcome.code, XH_CANCELLED) << outcome.message;
    xh_job_free(job);
  }
}

// ---- logs ----

struct Heard {
  std::mutex mutex;
  std::set<std::string> texts;
};

void Hear(void* user, xh_log_level, const char* origin, const char* text) {
  auto* heard = static_cast<Heard*>(user);
  const std::lock_guard<std::mutex> lock(heard->mutex);
  heard->texts.insert(std::string(origin) + ": " + text);
}

xh_runtime* OpenTalking(Heard* heard, int threads) {
  xh_option option = {};
  option.key = "threads";
  option.kind = XH_OPTION_INT;
  option.integer = threads;
  xh_runtime_config config = {};
  config.struct_size = XH_SIZED(xh_runtime_config);
  config.plugin_path = XH_THREAD_PLUGINS ":" XH_TEST_PLUGINS;
  config.options = &option;
  config.option_count = 1;
  config.log = Hear;
  config.log_user = heard;
  xh_runtime* runtime = nullptr;
  EXPECT_EQ(Take(xh_runtime_open(&config, &runtime)).message, "");
  return runtime;
}

// The plugin talks on the threads of the merge. Others listen meanwhile, and none hears a word after it has closed:
// what it hears with is gone then.
TEST(ThreadsTest, LogsOfWorkersWhileListenersComeAndGo) {
  const Place place;
  Heard heard;
  xh_runtime* runtime = OpenTalking(&heard, 4);
  std::atomic<bool> merged{false};
  std::thread listener([&] {
    for (int round = 0; round < 3 || !merged.load(); ++round) {
      auto passing = std::make_unique<Heard>();
      xh_runtime_close(OpenTalking(passing.get(), 1));
    }
  });
  const json recipe = {{"models", {faults::SpeakingTeacher(), faults::SpeakingTeacher()}},
                       {"method", "talking"},
                       {"output", place / "merged.xhy"}};
  EXPECT_EQ(faults::RunJob(runtime, "merge", recipe).message, "");
  merged = true;
  listener.join();
  xh_runtime_close(runtime);
  EXPECT_EQ(heard.texts.count("merge.talking: model.embed_tokens.weight"), 1u);
}

TEST(ThreadsTest, AJobTalksToItsRuntimeAfterThatWasClosed) {
  const Place place;
  Heard heard;
  xh_runtime* runtime = OpenTalking(&heard, 2);
  const json recipe = {{"models", {faults::SpeakingTeacher(), faults::SpeakingTeacher()}},
                       {"method", "talking"},
                       {"output", place / "merged.xhy"}};
  xh_job* job = nullptr;
  ASSERT_EQ(Take(xh_job_open(runtime, "merge", recipe.dump().c_str(), &job)).message, "");
  xh_runtime_close(runtime);
  for (int32_t finished = 0; finished == 0;) {
    const char* event = nullptr;
    ASSERT_EQ(Take(xh_job_next(job, &event, &finished)).message, "");
  }
  xh_job_free(job);
  EXPECT_EQ(heard.texts.count("merge.talking: model.embed_tokens.weight"), 1u);
}

}  // namespace
