#include <algorithm>
#include <iostream>

#include "../context.h"
#include "../job_runner.h"
#include "../table.h"

namespace cli {
namespace {

struct Flags {
  std::string model, output, dtype = "stored";
  std::vector<std::string> kinds, tasks;
  std::vector<int64_t> lengths;
  int64_t window = 512, sinks = 4, questions = 32, keep_heads = -1, bytes_per_token = -1, seed = 0;
  double target = 0.95;
};

// Accuracies of one measure, a column a kind of question in the order of `kinds`.
void AddMeasure(Table* table, const json& kinds, const std::string& name, const std::string& gain,
                const std::string& drop, const json& measure) {
  std::vector<std::string> row = {name, gain, drop};
  for (const auto& [kind, score] : kinds.items()) {
    const bool asked = measure.contains(kind);
    row.push_back(asked ? Fixed(measure[kind]["accuracy"], 3) : "-");
    row.push_back(asked ? Fixed(measure[kind]["log_probability"], 3) : "-");
  }
  table->AddRow(row);
}

std::string NameOf(const json& entry) {
  std::string name = "layer " + std::to_string(entry["layer"].get<int64_t>());
  if (entry.contains("head")) name += " head " + std::to_string(entry["head"].get<int64_t>());
  return name + " kept alone";
}

void PrintTable(const json& result) {
  std::vector<std::string> header = {"", "gain", "drop"};
  for (const auto& [kind, score] : result["all_kept"].items()) {
    header.push_back(kind);
    header.push_back("log p");
  }
  Table table(header);
  AddMeasure(&table, result["all_kept"], "all kept", "1.000", "-", result["all_kept"]);
  AddMeasure(&table, result["all_kept"], "all cut", "0.000", "-", result["all_cut"]);
  table.AddRule();
  for (const char* part : {"layers", "heads"}) {
    for (const json& entry : result[part]) {
      AddMeasure(&table, result["all_kept"], NameOf(entry), Fixed(entry["gain"], 3), Fixed(entry["drop"], 3),
                 entry["kept_alone"]);
    }
  }
  if (result.contains("chosen")) {
    table.AddRule();
    AddMeasure(&table, result["all_kept"], "chosen", Fixed(result["recovered"], 3), "-", result["chosen"]);
  }
  table.Print(std::cout);
}

void PrintPlan(const json& result, const Flags& flags) {
  std::string kept;
  for (const json& entry : result["plan"]["keep"]) {
    kept += (kept.empty() ? "layer " : ", layer ") + std::to_string(entry["layer"].get<int64_t>()) + " heads " +
            entry["heads"].dump();
  }
  std::cout << "keep: " << (kept.empty() ? "nothing" : kept) << "\n";
  std::cout << "state grows by " << Bytes(result["bytes_per_token"]) << " a token; the teacher's by "
            << Bytes(result["teacher_bytes_per_token"]) << "\n";
  if (result.contains("note")) std::cout << result["note"].get<std::string>() << "\n";
  if (!flags.output.empty()) std::cout << "plan: " << flags.output << "\n";
}

int Probe(Context& context, const Flags& flags) {
  json recipe = {
      {"model", flags.model},         {"output", flags.output},         {"window", flags.window},
      {"sinks", flags.sinks},         {"tasks", flags.tasks},           {"lengths", flags.lengths},
      {"questions", flags.questions}, {"keep_heads", flags.keep_heads}, {"bytes_per_token", flags.bytes_per_token},
      {"target", flags.target},       {"dtype", flags.dtype},           {"seed", flags.seed}};
  if (!flags.kinds.empty()) recipe["kinds"] = flags.kinds[0] == "none" ? std::vector<std::string>() : flags.kinds;
  const json result = RunJob(context, "probe", recipe);
  if (context.as_json) {
    PrintJson(result);
  } else {
    PrintTable(result);
    PrintPlan(result, flags);
  }
  return 0;
}

}  // namespace

void AddProbe(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("probe", "Find the heads that carry retrieval, and plan a student that keeps them");
  command->add_option("model", flags->model, "Teacher: checkpoint or Hugging Face directory")->required();
  command->add_option("--window", flags->window, "Tokens that a cut head sees")->check(AtLeast(1));
  command->add_option("--sinks", flags->sinks, "First tokens that stay visible")->check(AtLeast(0));
  command->add_option("--output", flags->output, "Plan to write, NAME.json; a heat map goes beside it as NAME.html");
  command->add_option("--keep-heads", flags->keep_heads, "Key/value heads to keep, -1 for as many as it takes");
  command->add_option("--bytes-per-token", flags->bytes_per_token, "The same budget in bytes of state, -1 for none");
  command->add_option("--target", flags->target, "Share of the gap in log-probability at which enough is kept");
  Repeatable(command->add_option("--kinds", flags->kinds, "Questions to build: recall,copy,induction, or none"))
      ->delimiter(',');
  Repeatable(command->add_option("--task", flags->tasks, "JSONL file of questions of your own; may repeat"));
  Repeatable(
      command->add_option("--lengths", flags->lengths, "Tokens of the questions: 128,1024 (default: 2 to 16 windows)"))
      ->delimiter(',');
  command->add_option("--questions", flags->questions, "Of a kind and length; rows of a task")->check(AtLeast(1));
  command->add_option("--seed", flags->seed, "Of the questions")->check(AtLeast(0));
  command->add_option("--dtype", flags->dtype, "What is computed in")->check(CLI::IsMember({"stored", "f32", "bf16"}));
  AddOptionsFlag(command, context, "probe");
  command->footer(
      "Example: xhybrid probe teacher.xhy --window 64 --output plan.json\n"
      "Then: xhybrid distill --teacher teacher.xhy --plan plan.json ...\n"
      "Forward passes only. The same command goes on with an interrupted probe.");
  command->callback([&context, flags] { context.command = [&context, flags] { return Probe(context, *flags); }; });
}

}  // namespace cli
