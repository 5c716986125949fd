#include "core/bench/bench_job.h"

#include <chrono>

#include "core/bench/ceilings.h"
#include "core/bench/work.h"
#include "core/generate/session.h"
#include "core/model/student.h"
#include "core/options.h"
#include "core/train/optimizer.h"
#include "core/train/step_program.h"

using nlohmann::json;

namespace xh {

const char kBenchSchema[] = R"json({"options": [
  {"name": "model", "type": "text", "help": "the teacher: a checkpoint or a Hugging Face directory"},
  {"name": "student", "type": "object", "default": {"window": 64, "feature_map": "hedgehog"},
   "help": "mixer options of the student, as in a distill recipe"},
  {"name": "context", "type": "int", "default": 512, "min": 2, "max": 1000000, "help": "tokens of a training row"},
  {"name": "micro_batch", "type": "int", "default": 8, "min": 1, "max": 4096, "help": "rows of a forward and backward"},
  {"name": "decode_tokens", "type": "int", "default": 256, "min": 1, "max": 1000000, "help": "tokens decoded in a run"},
  {"name": "repeats", "type": "int", "default": 5, "min": 1, "max": 1000, "help": "runs whose median counts"}]})json";

namespace {

// A fixed stream of token ids.
std::vector<int32_t> MadeUpTokens(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> ids;
  uint64_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    ids.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocabulary)));
  }
  return ids;
}

class BenchJob : public Job {
 public:
  BenchJob(std::shared_ptr<Runtime> runtime, json recipe) : runtime_(std::move(runtime)), recipe_(std::move(recipe)) {}

  StatusOr<bool> Next(json* event) override {
    if (cancelled()) return Cancelled("bench stopped; nothing is kept");
    using Part = Status (BenchJob::*)();
    static constexpr struct {
      const char* name;
      Part run;
    } kParts[] = {{"ceilings", &BenchJob::MeasureCeilings},
                  {"align", &BenchJob::MeasureAlign},
                  {"distill", &BenchJob::MeasureDistill},
                  {"prefill", &BenchJob::MeasurePrefill},
                  {"decode", &BenchJob::MeasureDecode}};
    const auto& part = kParts[part_];
    XH_RETURN_IF_ERROR((this->*part.run)());
    *event = {{"kind", "bench"}, {"part", part.name}, {"done", part_ + 1}, {"total", std::size(kParts)}};
    if (!rows_.empty()) (*event)["row"] = rows_.back();
    return ++part_ == std::size(kParts);
  }

  json Result() const override {
    return {{"product_gflops", product_ * 1e-9}, {"copy_gb_per_second", copy_ * 1e-9}, {"rows", rows_}};
  }

 private:
  int64_t repeats() const { return recipe_["repeats"].get<int64_t>(); }
  StepShape shape() const {
    return {recipe_["micro_batch"].get<int64_t>(), 1, recipe_["context"].get<int64_t>(), XH_F32};
  }

  Status MeasureCeilings() {
    XH_ASSIGN_OR_RETURN(teacher_, Model::Load(runtime_, recipe_["model"], XH_F32));
    XH_ASSIGN_OR_RETURN(student_, SeedStudent(*teacher_, recipe_["student"], XH_F32));
    XH_ASSIGN_OR_RETURN(product_, ProductCeiling(teacher_->device, repeats()));
    XH_ASSIGN_OR_RETURN(copy_, CopyCeiling(teacher_->device, repeats()));
    return absl::OkStatus();
  }

  // Times gradient and update of one micro-batch, and where the time goes.
  Status MeasureTraining(const char* name, const DeclaredLoss& loss, const char* trains, double flops) {
    Student student = student_;
    auto matches = [&](const std::string& parameter) { return MatchesPattern(trains, parameter); };
    XH_RETURN_IF_ERROR(OwnTrained(*teacher_, matches, &student));
    std::map<std::string, Weight> trained;
    for (const auto& [parameter, weight] : student.weights) {
      if (matches(parameter)) trained[parameter] = weight;
    }
    XH_ASSIGN_OR_RETURN(std::unique_ptr<Optimizer> optimizer, Optimizer::Create(teacher_->device, trained, {}));
    auto gradient_of = [&](const std::string& parameter) { return optimizer->GradientOf(parameter); };
    XH_ASSIGN_OR_RETURN(std::unique_ptr<StepProgram> program,
                        StepProgram::Build(*teacher_, student, gradient_of, loss, shape()));
    const int64_t tokens = shape().rows * shape().tokens;
    const std::vector<int32_t> ids = MadeUpTokens(tokens + 1, teacher_->config.vocab_size);
    XH_RETURN_IF_ERROR(optimizer->Compile(program->sums(), program->sum_count()));
    auto step = [&]() -> Status {
      XH_RETURN_IF_ERROR(optimizer->ZeroGradients());
      XH_RETURN_IF_ERROR(program->Run(0, ids.data(), ids.data() + 1, nullptr, 1.0f / static_cast<float>(tokens)));
      XH_RETURN_IF_ERROR(optimizer->Update(0));
      XH_RETURN_IF_ERROR(program->FetchSums());
      return optimizer->Finish().status();
    };
    XH_ASSIGN_OR_RETURN(double seconds, MedianSeconds(repeats(), step));
    std::map<std::string, OpTime> times;
    program->Profile(&times);
    XH_RETURN_IF_ERROR(step());
    program->Profile(nullptr);
    const double rate = flops * static_cast<double>(tokens) / seconds;
    json row = {{"name", name},
                {"tokens_per_second", static_cast<double>(tokens) / seconds},
                {"gflops", rate * 1e-9},
                {"ceiling", "product"},
                {"share", rate / product_},
                {"flops_per_token", flops},
                {"memory_bytes", program->memory_bytes() + optimizer->bytes()},
                {"ops", json::array()}};
    for (const auto& [op, time] : times) {
      row["ops"].push_back({{"op", op}, {"calls", time.calls}, {"share", time.seconds / seconds}});
    }
    rows_.push_back(std::move(row));
    return absl::OkStatus();
  }

  Status MeasureAlign() {
    const DeclaredLoss loss{XH_OP_ALIGN_LOSS, Tap::kMixerOut, XH_STUDENT_MIXERS, {}, 0};
    return MeasureTraining("stage I (align)", loss, "*.xlstm.*",
                           AlignFlops(teacher_->config, student_.config, shape().tokens));
  }

  Status MeasureDistill() {
    const xh_distill_params params{XH_SIZED(xh_distill_params), XH_KL_RENORMALIZED, 0.9f, 0.1f, 1.0f};
    const auto top_k = static_cast<int32_t>(std::min<int64_t>(256, teacher_->config.vocab_size));
    const DeclaredLoss loss{XH_OP_DISTILL_LOSS, Tap::kLogits, XH_STUDENT, params, top_k};
    return MeasureTraining("stage II (distill)", loss, "*",
                           DistillFlops(teacher_->config, student_.config, shape().tokens));
  }

  StatusOr<std::unique_ptr<Session>> OpenSession(int64_t capacity) {
    auto model = std::make_shared<Model>(*teacher_);
    model->config = student_.config;
    model->weights = student_.weights;
    return Session::Open(std::move(model), capacity);
  }

  Status MeasurePrefill() {
    const int64_t tokens = shape().tokens;
    XH_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, OpenSession(tokens));
    const std::vector<int32_t> ids = MadeUpTokens(tokens, teacher_->config.vocab_size);
    XH_ASSIGN_OR_RETURN(double seconds, MedianSeconds(repeats(), [&]() -> Status {
                          XH_RETURN_IF_ERROR(session->Reset());
                          return session->Feed(ids.data(), tokens);
                        }));
    const ForwardWork work = CountForward(student_.config, tokens);
    const double flops = work.projections + work.maps + work.recurrence + work.attention;
    const double rate = flops * static_cast<double>(tokens) / seconds;
    rows_.push_back({{"name", "prefill, batch 1"},
                     {"tokens_per_second", static_cast<double>(tokens) / seconds},
                     {"gflops", rate * 1e-9},
                     {"ceiling", "product"},
                     {"share", rate / product_}});
    return absl::OkStatus();
  }

  // Every weight is read and the state touched once a token.
  Status MeasureDecode() {
    const int64_t tokens = recipe_["decode_tokens"].get<int64_t>();
    XH_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, OpenSession(tokens));
    const std::vector<int32_t> ids = MadeUpTokens(tokens, teacher_->config.vocab_size);
    XH_ASSIGN_OR_RETURN(double seconds, MedianSeconds(repeats(), [&]() -> Status {
                          XH_RETURN_IF_ERROR(session->Reset());
                          for (int64_t t = 0; t < tokens; ++t) XH_RETURN_IF_ERROR(session->Feed(&ids[t], 1));
                          return absl::OkStatus();
                        }));
    // The state as it is half way: a cache without a window grows.
    XH_ASSIGN_OR_RETURN(std::unique_ptr<Session> half_way, OpenSession((tokens + 1) / 2));
    int64_t bytes = half_way->state_bytes();
    for (const auto& [name, weight] : student_.weights) {
      // Of an embedding of its own one row is read.
      const bool rows_only = name == "model.embed_tokens.weight" && !student_.config.tied_embeddings;
      bytes += rows_only ? 0 : weight.buffer->bytes();
    }
    const double rate = static_cast<double>(bytes * tokens) / seconds;
    rows_.push_back({{"name", "decode, batch 1"},
                     {"tokens_per_second", static_cast<double>(tokens) / seconds},
                     {"gb_per_second", rate * 1e-9},
                     {"bytes_per_token", bytes},
                     {"ceiling", "copy"},
                     {"share", rate / copy_}});
    return absl::OkStatus();
  }

  std::shared_ptr<Runtime> runtime_;
  json recipe_;
  std::shared_ptr<Model> teacher_;
  Student student_;
  double product_ = 0, copy_ = 0;
  std::vector<json> rows_;
  size_t part_ = 0;
};

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenBenchJob(const std::shared_ptr<Runtime>& runtime, const json& recipe) {
  XH_ASSIGN_OR_RETURN(json checked, CheckOptions(kBenchSchema, recipe, "bench"));
  return std::unique_ptr<Job>(new BenchJob(runtime, std::move(checked)));
}

}  // namespace xh
