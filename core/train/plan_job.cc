#include "core/train/plan_job.h"

#include "core/train/memory_plan.h"

namespace xh {
namespace {

using nlohmann::json;

class PlanJob : public Job {
 public:
  PlanJob(std::shared_ptr<Runtime> runtime, Recipe recipe) : runtime_(std::move(runtime)), recipe_(std::move(recipe)) {}

  StatusOr<bool> Next(json* event) override {
    if (cancelled()) return Cancelled("plan stopped; nothing is kept");
    XH_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(runtime_, recipe_));
    result_ = MemoryToJson(plan);
    *event = result_;
    (*event)["kind"] = "memory";
    return true;
  }

  json Result() const override { return result_; }

 private:
  std::shared_ptr<Runtime> runtime_;
  Recipe recipe_;
  json result_;
};

}  // namespace

StatusOr<std::unique_ptr<Job>> OpenPlanJob(const std::shared_ptr<Runtime>& runtime, const json& given) {
  json whole = given;
  for (const char* unread : {"data", "output"}) {
    if (whole.is_object() && !whole.contains(unread)) whole[unread] = "unread";
  }
  XH_ASSIGN_OR_RETURN(Recipe recipe, ReadRecipe(runtime->registry(), whole));
  return std::unique_ptr<Job>(std::make_unique<PlanJob>(runtime, std::move(recipe)));
}

}  // namespace xh
