#include "core/bench/bench_job.h"

#include <algorithm>

#include "core/bench/ceilings.h"
#include "core/bench/made_up_model.h"
#include "core/bench/work.h"
#include "core/generate/batch.h"
#include "core/generate/session.h"
#include "core/json_fields.h"
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
  {"name": "dtype", "type": "text", "default": "f32", "choices": ["f32", "bf16"], "help": "of weights and activations"},
  {"name": "made_up_weights", "type": "bool", "default": false,
   "help": "of the model's directory config.json alone is read, and the weights are made up"},
  {"name": "parts", "type": "list", "default": ["align", "distill", "prefill", "decode"], "help": "what is measured"},
  {"name": "checkpoint_blocks", "type": "bool", "default": false,
   "help": "stage II computes the insides of blocks again for the backward"},
  {"name": "prefill_tokens", "type": "int", "default": 0, "min": 0, "max": 1048576,
   "help": "tokens read at once; 0: as many as context"},
  {"name": "decode_after", "type": "int", "default": 0, "min": 0, "max": 1048576,
   "help": "tokens that were read before the first decoded one"},
  {"name": "decode_batch", "type": "int", "default": 1, "min": 1, "max": 1024,
   "help": "sequences that are decoded together"},
  {"name": "decode_tokens", "type": "int", "default": 256, "min": 1, "max": 1000000, "help": "tokens decoded in a run"},
  {"name": "repeats", "type": "int", "default": 5, "min": 1, "max": 1000, "help": "runs whose median counts"}]})json";

namespace {

// Shares of `seconds`. On a GPU their sum is more than 1: single ops are waited for.
json OpsToJson(const std::map<std::string, OpTime>& times, double seconds) {
  json ops = json::array();
  for (const auto& [op, time] : times) {
    ops.push_back({{"op", op}, {"calls", time.calls}, {"share", time.seconds / seconds}});
  }
  return ops;
}

class BenchJob : public Job {
 public:
  BenchJob(std::shared_ptr<Runtime> runtime, json recipe)
      : runtime_(std::move(runtime)),
        recipe_(std::move(recipe)),
        dtype_(recipe_["dtype"] == "bf16" ? XH_BF16 : XH_F32) {}

  // Which parts are measured, in the order given.
  Status Choose() {
    for (const json& name : recipe_["parts"]) {
      size_t i = 0;
      while (i < std::size(kParts) && name != kParts[i].name) ++i;
      if (i == std::size(kParts)) {
        return InvalidArgument("bench: \"parts\" has ", ShownJson(name), "; allowed: align, distill, prefill, decode");
      }
      chosen_.push_back(i);
    }
    return absl::OkStatus();
  }

  StatusOr<bool> Next(json* event) override {
    if (cancelled()) return Cancelled("bench stopped; nothing is kept");
    const Part* const part = part_ < 0 ? nullptr : &kParts[chosen_[static_cast<size_t>(part_)]];
    XH_RETURN_IF_ERROR(part == nullptr ? MeasureCeilings() : (this->*part->measure)());
    ++part_;
    const auto total = static_cast<int64_t>(chosen_.size());
    *event = {{"kind", "bench"},
              {"part", part == nullptr ? "ceilings" : part->name},
              {"done", part_ + 1},
              {"total", total + 1}};
    if (!rows_.empty()) (*event)["row"] = rows_.back();
    return part_ == total;
  }

  json Result() const override {
    return {{"dtype", recipe_["dtype"]},
            {"product_size", product_size_},
            {"product_gflops", product_ * 1e-9},
            {"copy_gb_per_second", copy_ * 1e-9},
            {"rows", rows_}};
  }

 private:
  struct Part {
    const char* name;
    Status (BenchJob::*measure)();
  };
  static const Part kParts[4];

  int64_t repeats() const { return Count("repeats"); }
  int64_t Count(const char* option) const { return recipe_[option].get<int64_t>(); }
  StepShape shape() const {
    StepShape shape{Count("micro_batch"), 1, Count("context"), dtype_};
    shape.checkpoint_blocks = recipe_["checkpoint_blocks"].get<bool>();
    return shape;
  }

  Status MeasureCeilings() {
    if (recipe_["made_up_weights"].get<bool>()) {
      XH_ASSIGN_OR_RETURN(teacher_, MakeUpModel(runtime_, recipe_["model"], dtype_));
    } else {
      XH_ASSIGN_OR_RETURN(teacher_, Model::Load(runtime_, recipe_["model"], dtype_));
    }
    XH_ASSIGN_OR_RETURN(student_, SeedStudent(*teacher_, recipe_["student"], dtype_));
    XH_ASSIGN_OR_RETURN(const ProductRate product, ProductCeiling(teacher_->device, dtype_, repeats()));
    product_ = product.flops;
    product_size_ = product.size;
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
    const std::vector<int32_t> ids = MakeUpTokens(tokens + 1, teacher_->config.vocab_size);
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
                {"ops", OpsToJson(times, seconds)}};
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

  // Its text never ends.
  std::shared_ptr<const Model> StudentModel() const {
    auto model = std::make_shared<Model>(*teacher_);
    model->config = student_.config;
    model->config.eos_ids.clear();
    model->weights = student_.weights;
    return model;
  }

  Status MeasurePrefill() {
    const int64_t tokens = Count("prefill_tokens") > 0 ? Count("prefill_tokens") : shape().tokens;
    XH_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, Session::Open(StudentModel(), tokens));
    const std::vector<int32_t> ids = MakeUpTokens(tokens, teacher_->config.vocab_size);
    const auto read = [&]() -> Status {
      XH_RETURN_IF_ERROR(session->Reset());
      return session->Feed(ids.data(), tokens);
    };
    XH_ASSIGN_OR_RETURN(double seconds, MedianSeconds(repeats(), read));
    std::map<std::string, OpTime> times;
    session->Profile(&times);
    XH_RETURN_IF_ERROR(read());
    const ForwardWork work = CountForward(student_.config, tokens);
    const double flops = work.projections + work.maps + work.recurrence + work.attention;
    const double rate = flops * static_cast<double>(tokens) / seconds;
    rows_.push_back({{"name", "prefill, batch 1"},
                     {"tokens_per_second", static_cast<double>(tokens) / seconds},
                     {"gflops", rate * 1e-9},
                     {"ceiling", "product"},
                     {"share", rate / product_},
                     {"ops", OpsToJson(times, seconds)}});
    return absl::OkStatus();
  }

  // Of a run that warms up, those that count, and a token that is profiled.
  int64_t DecodeCapacity() const { return Count("decode_after") + Count("decode_tokens") * (repeats() + 1) + 1; }

  Status MeasureDecode() {
    const std::shared_ptr<const Model> model = StudentModel();
    XH_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, Session::Open(model, DecodeCapacity()));
    return Count("decode_batch") == 1 ? DecodeAlone(session.get()) : DecodeTogether(model, session.get());
  }

  Status DecodeAlone(Session* session) {
    const int64_t tokens = Count("decode_tokens"), before = Count("decode_after");
    const std::vector<int32_t> ids = MakeUpTokens(std::max(before, tokens), teacher_->config.vocab_size);
    XH_RETURN_IF_ERROR(session->Feed(ids.data(), before));
    XH_ASSIGN_OR_RETURN(double seconds, MedianSeconds(repeats(), [&]() -> Status {
                          for (int64_t t = 0; t < tokens; ++t) XH_RETURN_IF_ERROR(session->Feed(&ids[t], 1));
                          return absl::OkStatus();
                        }));
    std::map<std::string, OpTime> times;
    session->Profile(&times);
    XH_RETURN_IF_ERROR(session->Feed(ids.data(), 1));
    return AddDecodeRow(seconds, times);
  }

  // Every sequence is one of its own: another stretch of the tokens.
  Status DecodeTogether(const std::shared_ptr<const Model>& model, Session* session) {
    const int64_t tokens = Count("decode_tokens"), before = std::max<int64_t>(1, Count("decode_after"));
    const int64_t sequences = Count("decode_batch");
    XH_ASSIGN_OR_RETURN(std::unique_ptr<Batch> batch, Batch::Open(model, sequences, DecodeCapacity() + 1));
    const std::vector<int32_t> ids = MakeUpTokens(before + sequences, teacher_->config.vocab_size);
    SamplerOptions greedy;
    greedy.max_tokens = DecodeCapacity();
    XH_RETURN_IF_ERROR(session->SetSampler(greedy));
    for (int64_t slot = 0; slot < sequences; ++slot) {
      XH_RETURN_IF_ERROR(session->Reset());
      XH_RETURN_IF_ERROR(session->Feed(ids.data() + slot, before));
      XH_RETURN_IF_ERROR(batch->Put(slot, *session));
    }
    XH_ASSIGN_OR_RETURN(double seconds, MedianSeconds(repeats(), [&]() -> Status {
                          for (int64_t t = 0; t < tokens; ++t) XH_RETURN_IF_ERROR(batch->Next().status());
                          return absl::OkStatus();
                        }));
    std::map<std::string, OpTime> times;
    batch->Profile(&times);
    XH_RETURN_IF_ERROR(batch->Next().status());
    return AddDecodeRow(seconds, times);
  }

  // Every weight is read and every state touched once a step.
  StatusOr<int64_t> DecodeBytes() {
    // The state as it is half way: a cache without a window grows.
    const int64_t half_way = (Count("decode_after") + DecodeCapacity() + 1) / 2;
    XH_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, Session::Open(StudentModel(), half_way));
    int64_t bytes = Count("decode_batch") * session->state_bytes();
    for (const auto& [name, weight] : student_.weights) {
      // Of an embedding of its own one row a sequence is read.
      const bool rows_only = name == "model.embed_tokens.weight" && !student_.config.tied_embeddings;
      bytes += rows_only ? 0 : weight.buffer->bytes();
    }
    return bytes;
  }

  // `seconds` of decode_tokens steps; `times` of one.
  Status AddDecodeRow(double seconds, const std::map<std::string, OpTime>& times) {
    XH_ASSIGN_OR_RETURN(const int64_t bytes, DecodeBytes());
    const double steps = static_cast<double>(Count("decode_tokens"));
    const double rate = static_cast<double>(bytes) * steps / seconds;
    rows_.push_back({{"name", absl::StrCat("decode, batch ", Count("decode_batch"))},
                     {"tokens_per_second", steps * static_cast<double>(Count("decode_batch")) / seconds},
                     {"ms_per_step", 1e3 * seconds / steps},
                     {"gb_per_second", rate * 1e-9},
                     {"bytes_per_step", bytes},
                     {"ceiling", "copy"},
                     {"share", rate / copy_},
                     {"ops", OpsToJson(times, seconds / steps)}});
    return absl::OkStatus();
  }

  std::shared_ptr<Runtime> runtime_;
  json recipe_;
  xh_dtype dtype_;
  std::shared_ptr<Model> teacher_;
  Student student_;
  double product_ = 0, copy_ = 0;
  int64_t product_size_ = 0;
  std::vector<json> rows_;
  std::vector<size_t> chosen_;  // of kParts
  int64_t part_ = -1;           // of chosen_; the ceilings come before
};

const BenchJob::Part BenchJob::kParts[4] = {{"align", &BenchJob::MeasureAlign},
                                            {"distill", &BenchJob::MeasureDistill},
                                            {"prefill", &BenchJob::MeasurePrefill},
                                            {"decode", &BenchJob::MeasureDecode}};

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenBenchJob(const std::shared_ptr<Runtime>& runtime, const json& recipe) {
  XH_ASSIGN_OR_RETURN(json checked, CheckOptions(kBenchSchema, recipe, "bench"));
  auto job = std::make_unique<BenchJob>(runtime, std::move(checked));
  XH_RETURN_IF_ERROR(job->Choose());
  return job;
}

}  // namespace xh
