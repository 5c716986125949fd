#include "core/train/recipe.h"

#include "core/checkpoint/dtype.h"
#include "core/json_fields.h"
#include "core/options.h"

namespace xh {

const char kDistillSchema[] = R"json({"options": [
  {"name": "teacher", "type": "text", "help": "checkpoint or Hugging Face directory of the teacher"},
  {"name": "student", "type": "text", "default": "",
   "help": "checkpoint of a student to go on with; or an object of options of a new one, {\"window\": 64, ...}"},
  {"name": "plan", "type": "text", "default": "",
   "help": "what xhybrid probe wrote: window, sinks and kept heads of a new student"},
  {"name": "stages", "type": "list",
   "help": "stages in order, [{\"stage\": \"align\", \"steps\": 150, ...}, {\"stage\": \"distill\", \"steps\": 250}]"},
  {"name": "data", "type": "list",
   "help": "JSONL files, gzip'd or not, [{\"path\": ..., \"weight\": share of the tokens, \"kind\": auto, chat, text or ids}]"},
  {"name": "output", "type": "text", "help": "directory of the run; the student becomes student.xhy in it"},
  {"name": "context", "type": "int", "default": 512, "min": 2, "max": 1048576, "help": "tokens of a row"},
  {"name": "batch", "type": "int", "default": 64, "min": 1, "max": 1048576, "help": "rows of a step"},
  {"name": "micro_batch", "type": "int", "default": 0, "min": 0, "max": 1048576,
   "help": "rows of one forward and backward, a divisor of batch; 0: at most 4096 tokens"},
  {"name": "seed", "type": "int", "default": 0, "min": 0, "max": 9007199254740992, "help": "of the order of the data"},
  {"name": "dtype", "type": "text", "default": "f32", "choices": ["f32", "bf16"],
   "help": "of parameters and activations; bf16 keeps an f32 master copy of what trains"},
  {"name": "checkpoint_blocks", "type": "bool", "default": false,
   "help": "keep only the inputs of the student's blocks and compute the rest again for the backward: the same result in less memory"},
  {"name": "loss_on", "type": "text", "default": "all", "choices": ["all", "assistant"],
   "help": "tokens that the distillation loss counts: all, or the assistant's replies of chat rows"},
  {"name": "reset_at_document", "type": "bool", "default": false,
   "help": "state and window begin anew with every document of a row, the teacher's attention too; else they run on"},
  {"name": "max_bad_rows", "type": "int", "default": 10, "min": 0, "max": 1000000000,
   "help": "malformed rows a file that are skipped with a warning before the run stops"},
  {"name": "save_every", "type": "int", "default": 100, "min": 0, "max": 1000000000,
   "help": "steps between training checkpoints; 0: at the end of a stage only"},
  {"name": "keep", "type": "int", "default": 1, "min": 1, "max": 1000000, "help": "training checkpoints that stay"},
  {"name": "resume", "type": "text", "default": "auto", "choices": ["auto", "no"],
   "help": "auto: go on with the run that is in output; no: refuse when there is one"},
  {"name": "dry_run", "type": "bool", "default": false, "help": "check everything, show the plan, train nothing"}
]})json";

namespace {

using nlohmann::json;

constexpr char kWhere[] = "distill";
constexpr int64_t kMicroBatchTokens = 4096;  // of an automatic micro-batch: enough to fill the matrix units

// A list whose items may be written as their first field alone: "a.jsonl" for {"path": "a.jsonl"}.
StatusOr<std::vector<json>> ReadList(const json& recipe, const char* key, const char* first_field) {
  const auto found = recipe.is_object() ? recipe.find(key) : recipe.end();
  if (!recipe.is_object() || found == recipe.end() || found->is_null()) {
    return InvalidArgument(kWhere, ": \"", key, "\" is missing; allowed: a list of objects with \"", first_field, "\"");
  }
  const json list = found->is_array() ? *found : json::array({*found});
  std::vector<json> items;
  for (const json& item : list) {
    items.push_back(item.is_string() ? json{{first_field, item}} : item);
    if (items.back().is_object()) continue;
    return InvalidArgument(kWhere, ": \"", key, "\" holds ", ShownJson(item), "; allowed: objects with \"", first_field,
                           "\"");
  }
  if (items.empty()) return InvalidArgument(kWhere, ": \"", key, "\" is empty; allowed: at least one entry");
  return items;
}

Status ReadStages(const Registry& registry, const json& given, Recipe* recipe) {
  XH_ASSIGN_OR_RETURN(const std::vector<json> items, ReadList(given, "stages", "stage"));
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string where = absl::StrCat(kWhere, ": stages[", i, "]");
    JsonFields fields(&items[i], where);
    XH_ASSIGN_OR_RETURN(const std::string name, fields.Text("stage"));
    XH_ASSIGN_OR_RETURN(const xh_stage_table* table, registry.FindStage(name));
    XH_ASSIGN_OR_RETURN(StageRecipe stage, ReadStage(name, table, items[i], where));
    recipe->stages.push_back(std::move(stage));
  }
  return absl::OkStatus();
}

Status ReadData(const json& given, Recipe* recipe) {
  XH_ASSIGN_OR_RETURN(const std::vector<json> items, ReadList(given, "data", "path"));
  for (size_t i = 0; i < items.size(); ++i) {
    JsonFields fields(&items[i], absl::StrCat(kWhere, ": data[", i, "]"));
    DataSource source;
    XH_ASSIGN_OR_RETURN(source.path, fields.Text("path"));
    XH_ASSIGN_OR_RETURN(source.weight, fields.Real("weight", 1e-6, 1e6, 1.0));
    XH_ASSIGN_OR_RETURN(source.kind, fields.Choice("kind", {"auto", "chat", "text", "ids"}, "auto"));
    XH_RETURN_IF_ERROR(fields.NoOthers());
    recipe->data.push_back(std::move(source));
  }
  return absl::OkStatus();
}

// "student": a path, or the options of a new student as an object or as its JSON text (from a command line).
Status ReadStudent(const json& given, Recipe* recipe) {
  recipe->student_options = json::object();
  const auto found = given.find("student");
  if (found == given.end() || found->is_null()) return absl::OkStatus();
  if (found->is_object()) {
    recipe->student_options = *found;
    return absl::OkStatus();
  }
  JsonFields fields(&given, kWhere);
  XH_ASSIGN_OR_RETURN(const std::string text, fields.Text("student"));
  if (text.empty() || text[0] != '{') {
    recipe->start = text;
    return absl::OkStatus();
  }
  XH_ASSIGN_OR_RETURN(recipe->student_options, ParseJson(text, absl::StrCat(kWhere, ": \"student\"")));
  return absl::OkStatus();
}

// The largest divisor of the batch that keeps a micro-batch small.
int64_t AutomaticMicroBatch(int64_t batch, int64_t context) {
  int64_t best = 1;
  for (int64_t rows = 1; rows <= batch && rows * context <= kMicroBatchTokens; ++rows) {
    if (batch % rows == 0) best = rows;
  }
  return best;
}

Status ReadShape(const json& options, Recipe* recipe) {
  recipe->context = options["context"].get<int64_t>();
  recipe->batch = options["batch"].get<int64_t>();
  recipe->micro_batch = options["micro_batch"].get<int64_t>();
  if (recipe->micro_batch == 0) recipe->micro_batch = AutomaticMicroBatch(recipe->batch, recipe->context);
  if (recipe->batch % recipe->micro_batch != 0) {
    return InvalidArgument(kWhere, ": \"micro_batch\" is ", recipe->micro_batch, "; allowed: a divisor of \"batch\", ",
                           recipe->batch);
  }
  return absl::OkStatus();
}

std::string Difference(const json& now, const json& before, const std::string& path) {
  if (now == before) return "";
  if (now.is_object() && before.is_object()) {
    for (const auto& [key, value] : now.items()) {
      const std::string inside = path.empty() ? key : absl::StrCat(path, ".", key);
      if (!before.contains(key)) return absl::StrCat("\"", inside, "\" is ", ShownJson(value), ", was not there");
      const std::string found = Difference(value, before[key], inside);
      if (!found.empty()) return found;
    }
    for (const auto& [key, value] : before.items()) {
      if (now.contains(key)) continue;
      return absl::StrCat("\"", path.empty() ? key : absl::StrCat(path, ".", key), "\" is not there, was ",
                          ShownJson(value));
    }
  }
  if (now.is_array() && before.is_array() && now.size() == before.size()) {
    for (size_t i = 0; i < now.size(); ++i) {
      const std::string found = Difference(now[i], before[i], absl::StrCat(path, "[", i, "]"));
      if (!found.empty()) return found;
    }
  }
  if (now.is_array() && before.is_array() && now.size() != before.size()) {
    return absl::StrCat("\"", path, "\" has ", now.size(), " entries, had ", before.size());
  }
  return absl::StrCat("\"", path, "\" is ", ShownJson(now), ", was ", ShownJson(before));
}

}  // namespace

StatusOr<Recipe> ReadRecipe(const Registry& registry, const json& given) {
  Recipe recipe;
  if (!given.is_object()) return InvalidArgument(kWhere, ": the recipe is not a JSON object");
  json plain = given;  // what is read here is shown to the checks below as present and well formed
  XH_RETURN_IF_ERROR(ReadStudent(given, &recipe));
  XH_RETURN_IF_ERROR(ReadData(given, &recipe));
  XH_RETURN_IF_ERROR(ReadStages(registry, given, &recipe));
  plain["student"] = "";
  plain["data"] = json::array({json::object()});
  plain["stages"] = json::array({json::object()});
  XH_ASSIGN_OR_RETURN(const json options, CheckOptions(kDistillSchema, plain, kWhere));
  XH_RETURN_IF_ERROR(ReadShape(options, &recipe));
  recipe.teacher = options["teacher"].get<std::string>();
  recipe.output = options["output"].get<std::string>();
  recipe.plan = options["plan"].get<std::string>();
  if (!recipe.plan.empty() && !recipe.start.empty()) {
    return InvalidArgument(kWhere, ": \"plan\" is for a new student, and \"student\" names one; allowed: one of both");
  }
  if (recipe.teacher.empty()) return InvalidArgument(kWhere, ": \"teacher\" is empty; allowed: a model directory");
  if (recipe.output.empty()) return InvalidArgument(kWhere, ": \"output\" is empty; allowed: a directory");
  recipe.seed = options["seed"].get<uint64_t>();
  recipe.dtype = options["dtype"] == "bf16" ? XH_BF16 : XH_F32;
  recipe.loss_on_assistant = options["loss_on"] == "assistant";
  recipe.reset_at_document = options["reset_at_document"].get<bool>();
  recipe.checkpoint_blocks = options["checkpoint_blocks"].get<bool>();
  recipe.max_bad_rows = options["max_bad_rows"].get<int64_t>();
  recipe.save_every = options["save_every"].get<int64_t>();
  recipe.keep = options["keep"].get<int64_t>();
  recipe.resume = options["resume"] == "auto";
  recipe.dry_run = options["dry_run"].get<bool>();
  return recipe;
}

json Recipe::Describe() const {
  json sources = json::array(), steps = json::array();
  for (const DataSource& source : data) {
    sources.push_back({{"path", source.path}, {"weight", source.weight}, {"kind", source.kind}});
  }
  for (const StageRecipe& stage : stages) {
    json entry = stage.options;
    entry["stage"] = stage.name;
    steps.push_back(std::move(entry));
  }
  json student = start.empty() ? student_options : json(start);
  return {{"teacher", teacher},
          {"student", std::move(student)},
          {"stages", std::move(steps)},
          {"data", std::move(sources)},
          {"context", context},
          {"batch", batch},
          {"micro_batch", micro_batch},
          {"seed", seed},
          {"dtype", DTypeName(dtype)},
          {"loss_on", loss_on_assistant ? "assistant" : "all"},
          {"reset_at_document", reset_at_document}};
}

std::string FirstDifference(const json& now, const json& before) { return Difference(now, before, ""); }

}  // namespace xh
