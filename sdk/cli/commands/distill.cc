#include <fstream>
#include <iostream>
#include <iterator>

#include "../context.h"
#include "../job_runner.h"
#include "../table.h"

namespace cli {
namespace {

struct Flags {
  std::string recipe, teacher, student, plan, output, dtype;
  std::vector<std::string> stages, data, set;
  std::vector<int64_t> steps;
  std::vector<double> learning_rates;
  std::string mixer, feature_map;
  int64_t window = 0, sinks = 0, features = 0;
  int64_t context = 0, batch = 0, micro_batch = 0, seed = 0, save_every = 0;
  bool dry_run = false, no_resume = false, checkpoint_blocks = false;
};

json ReadRecipe(const std::string& path) {
  if (path.empty()) return json::object();
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("the recipe " + path + " cannot be opened");
  json recipe = ParseOrThrow(std::string(std::istreambuf_iterator<char>(file), {}), "the recipe " + path);
  if (!recipe.is_object()) throw UsageError("the recipe " + path + " is not a JSON object");
  return recipe;
}

// "PATH" or "PATH:WEIGHT".
json DataEntry(const std::string& text) {
  const size_t colon = text.rfind(':');
  json entry = {{"path", text}};
  if (colon == std::string::npos) return entry;
  char* end = nullptr;
  const double weight = std::strtod(text.c_str() + colon + 1, &end);
  if (*end != '\0' || end == text.c_str() + colon + 1) return entry;
  return {{"path", text.substr(0, colon)}, {"weight", weight}};
}

// The values of a flag, one for each stage in order or a single one for all, as "key" of the stages.
template <typename T>
void SetOfStages(json* stages, const char* flag, const char* key, const std::vector<T>& values) {
  if (values.empty()) return;
  if (!stages->is_array() || stages->empty())
    throw UsageError(std::string("distill: ") + flag + " needs a --stage, or a recipe with stages");
  if (values.size() != 1 && values.size() != stages->size()) {
    throw UsageError(std::string("distill: ") + flag + " is given " + std::to_string(values.size()) + " times for " +
                     std::to_string(stages->size()) + " stages; allowed: once, or once for each");
  }
  for (size_t i = 0; i < stages->size(); ++i) {
    json& stage = (*stages)[i];
    if (stage.is_string()) stage = json{{"stage", stage}};
    if (!stage.is_object()) throw UsageError("distill: the recipe's stages are not a list of objects");
    stage[key] = values[values.size() == 1 ? 0 : i];
  }
}

void SetStages(json* recipe, const Flags& flags) {
  if (!flags.stages.empty()) (*recipe)["stages"] = flags.stages;
  if (flags.steps.empty() && flags.learning_rates.empty()) return;
  json& stages = (*recipe)["stages"];
  SetOfStages(&stages, "--steps", "steps", flags.steps);
  SetOfStages(&stages, "--learning-rate", "learning_rate", flags.learning_rates);
}

// The recipe with every given flag on top.
json Overridden(json recipe, const Flags& flags, const CLI::App& command) {
  auto given = [&](const char* flag) { return command.count(flag) > 0; };
  auto set = [&](const char* flag, const char* key, const auto& value) {
    if (given(flag)) recipe[key] = value;
  };
  set("--teacher", "teacher", flags.teacher);
  set("--student", "student", flags.student);
  set("--plan", "plan", flags.plan);
  set("--output", "output", flags.output);
  set("--dtype", "dtype", flags.dtype);
  set("--context", "context", flags.context);
  set("--batch", "batch", flags.batch);
  set("--micro-batch", "micro_batch", flags.micro_batch);
  set("--seed", "seed", flags.seed);
  set("--save-every", "save_every", flags.save_every);
  auto mixer = [&](const char* flag, const char* key, const auto& value) {
    if (!given(flag)) return;
    if (!recipe.contains("student")) recipe["student"] = json::object();
    if (!recipe["student"].is_object())
      throw UsageError(std::string(flag) + " describes a new student, and --student names one");
    recipe["student"][key] = value;
  };
  mixer("--mixer", "kind", flags.mixer);
  mixer("--feature-map", "feature_map", flags.feature_map);
  mixer("--features", "features", flags.features);
  mixer("--window", "window", flags.window);
  mixer("--sinks", "sinks", flags.sinks);
  SetStages(&recipe, flags);
  if (given("--data")) {
    recipe["data"] = json::array();
    for (const std::string& entry : flags.data) recipe["data"].push_back(DataEntry(entry));
  }
  if (flags.checkpoint_blocks) recipe["checkpoint_blocks"] = true;
  if (flags.dry_run) recipe["dry_run"] = true;
  if (flags.no_resume) recipe["resume"] = "no";
  for (const std::string& assignment : flags.set) SetByPath(&recipe, assignment);
  return recipe;
}

void AddFlags(CLI::App* command, Flags& flags) {
  auto plain = [](CLI::Option* option) { option->default_str(""); };  // the recipe's schema has the defaults
  command->add_option("--recipe", flags.recipe, "Recipe, a JSON file; flags below go on top of it");
  command->add_option("--teacher", flags.teacher, "Checkpoint or Hugging Face directory");
  command->add_option("--student", flags.student, "Checkpoint of a student to go on with (default: a new one)");
  command->add_option("--plan", flags.plan, "New student: window, sinks and kept heads as xhybrid probe found them");
  command->add_option("--output", flags.output, "Directory of the run; student.xhy is written there");
  Repeatable(command->add_option("--stage", flags.stages, "Stage plugin, in order; may repeat"));
  Repeatable(command->add_option("--steps", flags.steps, "Steps of each stage, once for each or once for all"));
  Repeatable(command->add_option("--learning-rate", flags.learning_rates, "Learning rate of each stage, likewise"));
  Repeatable(command->add_option("--data", flags.data, "JSONL file, gzip'd or not, PATH or PATH:WEIGHT; may repeat"));
  plain(command->add_option("--context", flags.context, "Tokens of a row"));
  plain(command->add_option("--batch", flags.batch, "Rows of a step"));
  plain(command->add_option("--micro-batch", flags.micro_batch, "Rows of a forward and backward"));
  plain(command->add_option("--seed", flags.seed, "Order of the data"));
  plain(command->add_option("--dtype", flags.dtype, "Parameters and activations in f32 or bf16"));
  command->add_flag("--checkpoint-blocks", flags.checkpoint_blocks, "Less memory for a second forward of every block");
  plain(command->add_option("--save-every", flags.save_every, "Steps between training checkpoints"));
  plain(command->add_option("--mixer", flags.mixer, "New student: hybrid, attention, window or mlstm"));
  plain(command->add_option("--feature-map", flags.feature_map, "New student: softmax, hedgehog or none"));
  plain(command->add_option("--features", flags.features, "New student: features a head, 0 for the head dimension"));
  plain(command->add_option("--window", flags.window, "New student: tokens that the local branch sees"));
  plain(command->add_option("--sinks", flags.sinks, "New student: first tokens that stay visible"));
  Repeatable(command->add_option("--set", flags.set, "Any recipe field, KEY=VALUE with dots in KEY; may repeat"));
  command->add_flag("--no-resume", flags.no_resume, "Refuse a directory that already holds a run");
  command->add_flag("--dry-run", flags.dry_run, "Check everything, show the plan, train nothing");
}

void PrintMemory(const json& plan) {
  Table table({"stage", "teacher", "student", "gradients", "optimizer", "activations", "total"});
  for (const json& stage : plan["stages"]) {
    table.AddRow({stage["stage"], Bytes(plan["teacher_bytes"]), Bytes(stage["student_bytes"]),
                  Bytes(stage["gradient_bytes"]), Bytes(stage["optimizer_bytes"]), Bytes(stage["activation_bytes"]),
                  Bytes(stage["total_bytes"])});
  }
  table.Print(std::cout);
  std::cout << "\ndevice " << plan["device"].get<std::string>() << ": " << Bytes(plan["available_bytes"])
            << " available of " << Bytes(plan["memory_bytes"]) << "; the run "
            << (plan["fits"].get<bool>() ? "fits" : "does not fit")
            << "\na session of the student at its whole context: " << Bytes(plan["decode_state_bytes"])
            << " of state\n";
}

}  // namespace

void AddPlan(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("plan", "Say what a distill recipe will hold in the device's memory");
  AddFlags(command, *flags);
  AddOptionsFlag(command, context, "plan");
  command->footer(
      "Example: xhybrid plan --recipe recipe.json --device cuda --micro-batch 2\nData and output need not be given.");
  command->callback([&context, flags, command] {
    context.command = [&context, flags, command] {
      const json plan = RunJob(context, "plan", Overridden(ReadRecipe(flags->recipe), *flags, *command));
      context.as_json ? PrintJson(plan) : PrintMemory(plan);
      return 0;
    };
  });
}

void AddDistill(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("distill", "Turn a teacher into a hybrid student, stage by stage");
  AddFlags(command, *flags);
  AddOptionsFlag(command, context, "distill");
  command->footer(
      "Example: xhybrid distill --teacher teacher.xhy --stage align --steps 150 --window 64 --data domain.jsonl "
      "--output runs/seed\nThe same command goes on with an interrupted run.");
  command->callback([&context, flags, command] {
    context.command = [&context, flags, command] {
      const json result = RunJob(context, "distill", Overridden(ReadRecipe(flags->recipe), *flags, *command));
      if (context.as_json) {
        PrintJson(result);
      } else if (!flags->dry_run) {
        std::cout << "student: " << result.value("student", "") << "\n";
      }
      return 0;
    };
  });
}

}  // namespace cli
