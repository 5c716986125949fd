#include <fstream>
#include <iostream>

#include "../context.h"
#include "../job_runner.h"
#include "../table.h"

namespace cli {
namespace {

struct Flags {
  std::vector<std::string> models, names, tasks;
  int64_t limit = 0, max_tokens = 96;
  std::string output, csv;
  bool gates = false;
};

std::string ScoreCell(const json& task) {
  if (task.contains("perplexity")) return "ppl " + Fixed(task["perplexity"], 2);
  return Fixed(task["accuracy"], 3) + " ±" + Fixed(task["standard_error"], 3);
}

// Sums of a count over the tasks of a model.
int64_t Total(const json& model, const char* key) {
  int64_t total = 0;
  for (const json& task : model["tasks"]) total += task.value(key, int64_t{0});
  return total;
}

double MeanRecovery(const json& model) {
  double sum = 0;
  int64_t count = 0;
  for (const json& task : model["tasks"]) {
    if (!task.contains("recovery")) continue;
    sum += task["recovery"].get<double>();
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

Table ResultTable(const json& result) {
  const json& models = result["models"];
  std::vector<std::string> header = {"task"};
  for (const json& model : models) header.push_back(model["name"]);
  Table table(header);
  for (size_t t = 0; t < models[0]["tasks"].size(); ++t) {
    std::vector<std::string> row = {models[0]["tasks"][t]["task"]};
    for (const json& model : models) row.push_back(ScoreCell(model["tasks"][t]));
    table.AddRow(row);
  }
  if (models.size() < 2 || !models[1].contains("alpha_star")) return table;
  table.AddRule();
  std::vector<std::string> recovery = {"recovery"}, outcomes = {"win/tie/loss"}, c_0 = {"C_0"}, alpha = {"alpha*"};
  for (size_t m = 0; m < models.size(); ++m) {
    const json& model = models[m];
    const bool teacher = m == 0;
    recovery.push_back(teacher ? "-" : Fixed(MeanRecovery(model), 3));
    outcomes.push_back(teacher ? "-"
                               : std::to_string(Total(model, "wins")) + "/" + std::to_string(Total(model, "ties")) +
                                     "/" + std::to_string(Total(model, "losses")));
    c_0.push_back(teacher ? "-" : Fixed(model["c_0"], 2));
    alpha.push_back(teacher ? "-" : Fixed(model["alpha_star"], 3));
  }
  for (const auto& row : {recovery, outcomes, c_0, alpha}) table.AddRow(row);
  return table;
}

// Accuracies over the depths of one length, in percent of the questions: "1.000 0.500 0.250".
std::string DepthCells(const json& cells, int64_t length) {
  std::string out;
  for (const json& cell : cells) {
    if (cell["length"] == length) out += (out.empty() ? "" : " ") + Fixed(cell["accuracy"], 2);
  }
  return out;
}

// A task made for lengths and depths: a row a length, a column a model.
void PrintRetrieval(const json& models, size_t task) {
  const json& first = models[0]["tasks"][task];
  if (!first.contains("cells")) return;
  std::vector<std::string> header = {"length"};
  for (const json& model : models) header.push_back(model["name"]);
  Table table(header);
  std::string depths;
  int64_t previous = -1;
  for (const json& cell : first["cells"]) {
    const int64_t length = cell["length"];
    if (length != previous) {
      std::vector<std::string> row = {std::to_string(length)};
      for (const json& model : models) row.push_back(DepthCells(model["tasks"][task]["cells"], length));
      table.AddRow(row);
      previous = length;
    }
    if (length == first["cells"][0]["length"]) depths += " " + Fixed(cell["depth"], 2);
  }
  std::cout << "\n" << first["task"].get<std::string>() << ", accuracy at depths" << depths << ":\n";
  table.Print(std::cout);
}

// The mean gate of each layer and head that has one.
void PrintGates(const json& model) {
  if (!model.contains("gates")) return;
  std::cout << "\nmean gate of " << model["name"].get<std::string>() << " (0 is the window, 1 the mLSTM):\n";
  Table table({"layer", "heads"});
  for (size_t layer = 0; layer < model["gates"].size(); ++layer) {
    std::string heads;
    for (const json& gate : model["gates"][layer])
      heads += (gate.is_number() ? Fixed(gate, 3) : "-") + std::string(" ");
    table.AddRow({std::to_string(layer), heads});
  }
  table.Print(std::cout);
}

void PrintAll(const json& result, const Table& table) {
  table.Print(std::cout);
  const json& models = result["models"];
  for (size_t task = 0; task < models[0]["tasks"].size(); ++task) PrintRetrieval(models, task);
  for (const json& model : models) PrintGates(model);
}

int Evaluate(Context& context, const Flags& flags) {
  const json result = RunJob(context, "evaluate",
                             {{"models", flags.models},
                              {"names", flags.names},
                              {"tasks", flags.tasks},
                              {"limit", flags.limit},
                              {"max_tokens", flags.max_tokens},
                              {"gates", flags.gates},
                              {"output", flags.output}});
  const Table table = ResultTable(result);
  if (!flags.csv.empty()) {
    std::ofstream file(flags.csv);
    table.PrintCsv(file);
    if (!file.flush()) throw std::runtime_error("the table " + flags.csv + " cannot be written");
  }
  if (context.as_json) {
    PrintJson(result);
  } else {
    PrintAll(result, table);
  }
  return 0;
}

}  // namespace

void AddEvaluate(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("evaluate", "Measure models on tasks, and students against their teacher");
  command
      ->add_option("models", flags->models,
                   "Checkpoints or directories; the first is the teacher. PATH:window or PATH:mlstm: that "
                   "branch of a hybrid student alone")
      ->required();
  Repeatable(command->add_option("--names", flags->names, "What to call them in tables: teacher,student"))
      ->delimiter(',');
  Repeatable(command->add_option("--task", flags->tasks,
                                 "JSONL file: rows with \"messages\" (exact match) or \"text\" (perplexity), or a JSON "
                                 "file that describes questions by length; may repeat"))
      ->required();
  command->add_option("--limit", flags->limit, "Rows of each task, 0 for all")->check(AtLeast(0));
  command->add_option("--max-tokens", flags->max_tokens, "Longest answer")->check(AtLeast(1));
  command->add_option("--output", flags->output,
                      "JSON report with every answer, NAME.json; plots go beside it as NAME.html");
  command->add_option("--csv", flags->csv, "The table as CSV");
  command->add_flag("--gates", flags->gates, "The mean gate of every layer and head");
  AddOptionsFlag(command, context, "evaluate");
  command->footer("Example: xhybrid evaluate teacher.xhy student.xhy --task math.test.jsonl --task chat.test.jsonl");
  command->callback([&context, flags] { context.command = [&context, flags] { return Evaluate(context, *flags); }; });
}

}  // namespace cli
