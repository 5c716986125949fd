#include "core/train/distill_job.h"

#include "core/train/html_report.h"
#include "core/train/report.h"
#include "core/train/run.h"
#include "core/train/tensorboard.h"

namespace xh {
namespace {

using nlohmann::json;

class DistillJob : public Job {
 public:
  DistillJob(std::shared_ptr<Runtime> runtime, Recipe recipe)
      : runtime_(std::move(runtime)), recipe_(std::move(recipe)) {}

  StatusOr<bool> Next(json* event) override {
    if (cancelled()) return Stop();
    XH_ASSIGN_OR_RETURN(const bool finished, Advance(event));
    if (cancelled() && !finished) return Stop();
    return finished;
  }

  json Result() const override {
    return {{"output", recipe_.output},
            {"student", student_path_},
            {"total_step", run_->total_step()},
            {"dry_run", recipe_.dry_run},
            {"history", run_->student().history}};
  }

 private:
  enum class Phase { kPlan, kStep, kSave, kStageEnd, kStudent };

  StatusOr<bool> Advance(json* event) {
    switch (phase_) {
      case Phase::kPlan:
        return Plan(event);
      case Phase::kStep:
        return Step(event);
      case Phase::kSave: {
        XH_ASSIGN_OR_RETURN(const std::string path, run_->Save());
        *event = {{"kind", "saved"}, {"path", path}, {"total_step", run_->total_step()}};
        phase_ = Phase::kStep;
        return false;
      }
      case Phase::kStageEnd:
        return EndStage(event);
      default:
        XH_ASSIGN_OR_RETURN(student_path_, run_->WriteFinalStudent());
        XH_RETURN_IF_ERROR(WriteHtmlReport(recipe_.output));
        *event = {{"kind", "done"}, {"path", student_path_}, {"total_step", run_->total_step()}};
        return true;
    }
  }

  StatusOr<bool> Plan(json* event) {
    if (run_ == nullptr) {
      XH_ASSIGN_OR_RETURN(run_, DistillRun::Open(runtime_, recipe_));
    }
    XH_ASSIGN_OR_RETURN(const bool ready, run_->Prepare());
    if (!ready) {
      *event = {{"kind", "data"}, {"done", run_->data_bytes_read()}, {"total", run_->data_bytes()}};
      return false;
    }
    *event = PlanEvent(*run_);
    phase_ = run_->finished() ? Phase::kStudent : Phase::kStep;
    return recipe_.dry_run;
  }

  StatusOr<bool> Step(json* event) {
    XH_ASSIGN_OR_RETURN(const DistillRun::StepReport report, run_->Step());
    // Recent steps count more: stages differ in speed.
    seconds_per_step_ = seconds_per_step_ == 0 ? report.seconds : 0.9 * seconds_per_step_ + 0.1 * report.seconds;
    *event = StepEvent(*run_, report, seconds_per_step_);
    XH_RETURN_IF_ERROR(run_->AppendMetrics(*event));
    XH_RETURN_IF_ERROR(AppendEvent(*event));
    last_metrics_ = MetricsToJson(report.metrics);
    if (run_->stage_finished()) {
      phase_ = Phase::kStageEnd;
    } else if (run_->save_due()) {
      phase_ = Phase::kSave;
    }
    return false;
  }

  // The numbers of a step for TensorBoard, by stage.
  Status AppendEvent(const json& event) {
    if (events_ == nullptr) {
      XH_ASSIGN_OR_RETURN(events_, EventWriter::Open(recipe_.output + "/tensorboard"));
    }
    const std::string stage = event["stage"].get<std::string>() + "/";
    std::vector<std::pair<std::string, double>> scalars;
    for (const char* key :
         {"loss", "relative_loss", "cross_entropy", "kl", "learning_rate", "gradient_norm", "tokens_per_second"}) {
      if (event.contains(key) && event[key].is_number()) scalars.emplace_back(stage + key, event[key].get<double>());
    }
    return events_->Append(event["total_step"].get<int64_t>(), scalars);
  }

  StatusOr<bool> EndStage(json* event) {
    const std::string stage = run_->recipe().stages[static_cast<size_t>(run_->stage())].name;
    XH_RETURN_IF_ERROR(run_->FinishStage());
    *event = {{"kind", "stage_done"}, {"stage", stage}, {"total_step", run_->total_step()}, {"metrics", last_metrics_}};
    phase_ = run_->finished() ? Phase::kStudent : Phase::kStep;
    seconds_per_step_ = 0;
    return false;
  }

  // Saves what was trained since the last checkpoint and says how to go on.
  Status Stop() {
    if (phase_ == Phase::kPlan || recipe_.dry_run) return Cancelled("cancelled before the first step");
    if (phase_ == Phase::kStageEnd) {
      json ignored;
      XH_RETURN_IF_ERROR(EndStage(&ignored).status());
    }
    if (!run_->saved() && run_->total_step() > 0) XH_RETURN_IF_ERROR(run_->Save().status());
    return Cancelled("cancelled after step ", run_->total_step(), " of ", run_->total_steps(),
                     ", which is saved; run the same recipe with \"output\" ", recipe_.output, " to go on");
  }

  std::shared_ptr<Runtime> runtime_;
  Recipe recipe_;
  std::unique_ptr<DistillRun> run_;
  Phase phase_ = Phase::kPlan;
  double seconds_per_step_ = 0;
  json last_metrics_;
  std::unique_ptr<EventWriter> events_;
  std::string student_path_;
};

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenDistillJob(const std::shared_ptr<Runtime>& runtime, const json& given) {
  XH_ASSIGN_OR_RETURN(Recipe recipe, ReadRecipe(runtime->registry(), given));
  return std::unique_ptr<Job>(std::make_unique<DistillJob>(runtime, std::move(recipe)));
}

}  // namespace xh
