#include "core/train/memory_plan.h"

#include <algorithm>
#include <utility>

#include "core/format.h"
#include "core/json_fields.h"
#include "core/probe/plan.h"

namespace xh {
namespace {

using nlohmann::json;

int64_t OwnBytes(const Model& teacher, const Student& student) {
  int64_t bytes = 0;
  for (const auto& [name, weight] : student.weights) {
    const auto shared = teacher.weights.find(name);
    const bool own = shared == teacher.weights.end() || shared->second.buffer != weight.buffer;
    if (own) bytes += weight.buffer->bytes();
  }
  return bytes;
}

StatusOr<Student> SketchedStudent(const Recipe& recipe, const Model& teacher) {
  if (!recipe.start.empty()) return SketchStudent(recipe.start, teacher, recipe.dtype);
  return SeedStudent(teacher, recipe.student_options, recipe.dtype);
}

// The stage as it will be compiled; afterwards *student owns what it trains.
StatusOr<StageMemory> PlanStage(const StageRecipe& stage, const Recipe& recipe, const Model& teacher,
                                Student* student) {
  XH_ASSIGN_OR_RETURN(const std::unique_ptr<StageTrainer> trainer,
                      StageTrainer::Create(teacher, student, stage, BatchShapeOf(recipe), recipe.dtype));
  StageMemory memory;
  memory.stage = stage.name;
  memory.steps = stage.schedule.steps;
  memory.trained_parameters = trainer->optimizer().parameter_count();
  memory.student = OwnBytes(teacher, *student);
  memory.gradients = trainer->optimizer().gradient_bytes();
  memory.optimizer = trainer->optimizer().bytes() - memory.gradients;
  memory.activations = trainer->program().memory_bytes();
  memory.total = teacher.device->rehearsed_bytes();
  return memory;
}

std::string Text(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value >= 1e9) return Format("%.2f GB", value * 1e-9);
  if (value >= 1e6) return Format("%.2f MB", value * 1e-6);
  return absl::StrCat(bytes, " bytes");
}

// Another way to run the recipe in less memory.
struct Change {
  Recipe recipe;
  std::string text;
};

// In the order of what they cost: smaller micro-batches nothing but speed, recomputing a second forward, and shorter
// rows what the student learns.
std::vector<Change> SmallerRuns(const Recipe& recipe) {
  std::vector<Change> changes;
  std::vector<int64_t> rows;
  for (int64_t micro = recipe.micro_batch / 2; micro >= 1; micro /= 2) {
    while (recipe.batch % micro != 0) --micro;
    rows.push_back(micro);
  }
  for (int64_t micro : rows) {
    changes.push_back({recipe, absl::StrCat("\"micro_batch\": ", micro)});
    changes.back().recipe.micro_batch = micro;
  }
  rows.insert(rows.begin(), recipe.micro_batch);
  for (int64_t micro : rows) {
    if (recipe.checkpoint_blocks) break;
    changes.push_back({recipe, absl::StrCat("\"checkpoint_blocks\": true, \"micro_batch\": ", micro)});
    changes.back().recipe.micro_batch = micro;
    changes.back().recipe.checkpoint_blocks = true;
  }
  for (int64_t context = recipe.context / 2; context >= 64; context /= 2) {
    changes.push_back(
        {recipe, absl::StrCat("\"checkpoint_blocks\": true, \"micro_batch\": 1, \"context\": ", context)});
    Recipe& changed = changes.back().recipe;
    changed.micro_batch = 1;
    changed.checkpoint_blocks = true;
    changed.context = context;
  }
  return changes;
}

// What would make the recipe fit, for a message.
std::string Advice(const std::shared_ptr<Runtime>& runtime, const Recipe& recipe, int64_t available) {
  for (const Change& change : SmallerRuns(recipe)) {
    const StatusOr<MemoryPlan> plan = PlanMemory(runtime, change.recipe);
    if (plan.ok() && plan->largest().total <= available) return absl::StrCat("it fits with ", change.text);
  }
  return "no smaller \"micro_batch\", \"checkpoint_blocks\" or shorter \"context\" makes it fit; a stage that trains "
         "less, or \"dtype\": \"bf16\" may";
}

}  // namespace

const StageMemory& MemoryPlan::largest() const {
  return *std::max_element(stages.begin(), stages.end(),
                           [](const StageMemory& a, const StageMemory& b) { return a.total < b.total; });
}

BatchShape BatchShapeOf(const Recipe& recipe) {
  return {recipe.batch, recipe.micro_batch, recipe.context, recipe.reset_at_document, recipe.checkpoint_blocks};
}

Status CheckTeacher(const Recipe& recipe, const ModelConfig& teacher) {
  if (recipe.context <= teacher.context) return absl::OkStatus();
  return InvalidArgument("distill: \"context\" is ", recipe.context, "; allowed: 2 to ", teacher.context,
                         ", the teacher's");
}

Status ReadStudentPlan(const ModelConfig& teacher, Recipe* recipe) {
  if (recipe->plan.empty()) return absl::OkStatus();
  XH_ASSIGN_OR_RETURN(const json object, ReadJsonFile(recipe->plan));
  XH_ASSIGN_OR_RETURN(const Plan plan, PlanFromJson(teacher, object, recipe->plan));
  XH_ASSIGN_OR_RETURN(recipe->student_options, StudentOptions(plan, recipe->student_options, recipe->plan));
  return absl::OkStatus();
}

StatusOr<MemoryPlan> PlanMemory(const std::shared_ptr<Runtime>& runtime, const Recipe& given) {
  Recipe recipe = given;
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<Device> device, runtime->OpenDevice());
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> teacher,
                      SketchModel(Device::Rehearse(device), recipe.teacher, recipe.dtype));
  XH_RETURN_IF_ERROR(CheckTeacher(recipe, teacher->config));
  XH_RETURN_IF_ERROR(ReadStudentPlan(teacher->config, &recipe));
  MemoryPlan plan;
  plan.device = device->backend_name();
  XH_ASSIGN_OR_RETURN(plan.memory_bytes, device->QueryInt("memory_bytes"));
  plan.available = device->QueryInt("free_bytes").value_or(plan.memory_bytes);
  plan.teacher = teacher->device->rehearsed_bytes();
  XH_ASSIGN_OR_RETURN(Student student, SketchedStudent(recipe, *teacher));
  plan.decode_state = DecodeStateBytes(student.config, student.config.context, recipe.dtype);
  for (const StageRecipe& stage : recipe.stages) {
    XH_ASSIGN_OR_RETURN(StageMemory memory, PlanStage(stage, recipe, *teacher, &student));
    plan.stages.push_back(std::move(memory));
  }
  return plan;
}

Status CheckFits(const std::shared_ptr<Runtime>& runtime, const Recipe& recipe, const MemoryPlan& plan,
                 int64_t available) {
  const StageMemory& most = plan.largest();
  if (most.total <= available) return absl::OkStatus();
  return OutOfMemory("distill: stage \"", most.stage, "\" needs ", Text(most.total), " of the device ", plan.device,
                     " (teacher ", Text(plan.teacher), ", student ", Text(most.student), ", gradients ",
                     Text(most.gradients), ", optimizer ", Text(most.optimizer), ", activations ",
                     Text(most.activations), "), and ", Text(available), " are available; ",
                     Advice(runtime, recipe, available));
}

json MemoryToJson(const MemoryPlan& plan) {
  json stages = json::array();
  for (const StageMemory& stage : plan.stages) {
    stages.push_back({{"stage", stage.stage},
                      {"steps", stage.steps},
                      {"trained_parameters", stage.trained_parameters},
                      {"student_bytes", stage.student},
                      {"gradient_bytes", stage.gradients},
                      {"optimizer_bytes", stage.optimizer},
                      {"activation_bytes", stage.activations},
                      {"total_bytes", stage.total}});
  }
  return {{"device", plan.device},
          {"memory_bytes", plan.memory_bytes},
          {"available_bytes", plan.available},
          {"teacher_bytes", plan.teacher},
          {"decode_state_bytes", plan.decode_state},
          {"total_bytes", plan.largest().total},
          {"fits", plan.largest().total <= plan.available},
          {"stages", std::move(stages)}};
}

}  // namespace xh
