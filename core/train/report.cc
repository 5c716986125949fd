#include "core/train/report.h"

#include <algorithm>

#include "core/checkpoint/dtype.h"

namespace xh {
namespace {

using nlohmann::json;

double Ratio(double error, double power) { return power > 0 ? error / power : 0; }

int64_t ParameterCount(const Student& student) {
  int64_t count = 0;
  for (const auto& [name, weight] : student.weights) count += ElementCount(weight.shape);
  return count;
}

}  // namespace

json MetricsToJson(const StepMetrics& metrics) {
  json object = {
      {"loss", metrics.loss}, {"learning_rate", metrics.learning_rate}, {"gradient_norm", metrics.gradient_norm}};
  if (metrics.skipped) object["skipped"] = true;
  if (metrics.sums.layers.empty()) {
    const double targets = static_cast<double>(std::max<int64_t>(1, metrics.targets));
    object["cross_entropy"] = metrics.sums.cross_entropy / targets;
    object["kl"] = metrics.sums.kl / targets;
    return object;
  }
  double error = 0, power = 0;
  json layers = json::array();
  for (const LossSums::Layer& layer : metrics.sums.layers) {
    error += layer.error;
    power += layer.power;
    layers.push_back({{"layer", layer.layer}, {"relative_loss", Ratio(layer.error, layer.power)}});
  }
  object["relative_loss"] = Ratio(error, power);
  object["layers"] = std::move(layers);
  return object;
}

json PlanEvent(const DistillRun& run) {
  const Recipe& recipe = run.recipe();
  json stages = json::array();
  int64_t largest = 0;
  for (const StagePlan& plan : run.plans()) {
    stages.push_back({{"stage", plan.name},
                      {"steps", plan.steps},
                      {"trained_parameters", plan.trained_parameters},
                      {"memory_bytes", plan.memory_bytes}});
    largest = std::max(largest, plan.memory_bytes);
  }
  int64_t documents = 0, tokens = 0;
  for (const Documents& source : run.batches().sources()) {
    documents += source.count();
    tokens += static_cast<int64_t>(source.tokens.size());
  }
  return {{"kind", "plan"},
          {"teacher", recipe.teacher},
          {"student", recipe.start.empty() ? "new" : recipe.start},
          {"output", recipe.output},
          {"parameters", ParameterCount(run.student())},
          {"stages", std::move(stages)},
          {"memory_bytes", largest},
          {"memory", MemoryToJson(run.memory())},
          {"documents", documents},
          {"skipped_rows", run.skipped_rows()},
          {"tokens", tokens},
          {"rows", run.batches().rows_per_epoch()},
          {"context", recipe.context},
          {"batch", recipe.batch},
          {"micro_batch", recipe.micro_batch},
          {"tokens_per_step", recipe.batch * recipe.context},
          {"total_step", run.total_step()},
          {"total_steps", run.total_steps()}};
}

json StepEvent(const DistillRun& run, const DistillRun::StepReport& report, double seconds_per_step) {
  json event = MetricsToJson(report.metrics);
  const double tokens = static_cast<double>(run.recipe().batch * run.recipe().context);
  event["kind"] = "step";
  event["stage"] = report.stage;
  event["step"] = report.step;
  event["steps"] = report.steps;
  event["total_step"] = report.total_step;
  event["total_steps"] = report.total_steps;
  event["tokens"] = report.total_step * run.recipe().batch * run.recipe().context;
  event["step_seconds"] = report.seconds;
  event["tokens_per_second"] = tokens / std::max(report.seconds, 1e-9);
  event["memory_bytes"] = run.memory_bytes();
  event["eta_seconds"] = seconds_per_step * static_cast<double>(report.total_steps - report.total_step);
  return event;
}

}  // namespace xh
