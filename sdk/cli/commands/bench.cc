#include <algorithm>
#include <iostream>

#include "../context.h"
#include "../job_runner.h"
#include "../table.h"

namespace cli {
namespace {

struct Flags {
  std::string model, feature_map = "hedgehog", mixer = "hybrid", dtype = "f32";
  std::vector<std::string> parts = {"align", "distill", "prefill", "decode"};
  bool made_up_weights = false, checkpoint_blocks = false;
  int64_t window = 64, sinks = 4, features = 0, context = 512, micro_batch = 8, prefill_tokens = 0, decode_after = 0,
          decode_batch = 1, decode_tokens = 256;
  int64_t repeats = 5;
};

void PrintRows(const json& result) {
  std::cout << "ceilings of this run: product " << Fixed(result["product_gflops"], 1) << " GFLOP/s ("
            << result["dtype"].get<std::string>() << ", " << result["product_size"] << "^3), copy "
            << Fixed(result["copy_gb_per_second"], 1) << " GB/s (256 MiB, read + write)\n\n";
  Table table({"work", "tokens/s", "rate", "ceiling", "share"});
  for (const json& row : result["rows"]) {
    const bool product = row["ceiling"] == "product";
    table.AddRow({row["name"], Fixed(row["tokens_per_second"], 0),
                  product ? Fixed(row["gflops"], 1) + " GFLOP/s" : Fixed(row["gb_per_second"], 2) + " GB/s",
                  row["ceiling"], Fixed(100 * row["share"].get<double>(), 1) + " %"});
  }
  table.Print(std::cout);
}

void PrintTimes(const json& row) {
  if (!row.contains("ops")) return;
  std::vector<json> ops(row["ops"].begin(), row["ops"].end());
  std::sort(ops.begin(), ops.end(), [](const json& a, const json& b) { return a["share"] > b["share"]; });
  std::cout << "\n" << row["name"].get<std::string>() << ": where the time goes\n";
  Table table({"op", "calls", "share"});
  for (const json& op : ops) {
    if (op["share"].get<double>() < 0.005) continue;
    table.AddRow({op["op"], op["calls"].dump(), Fixed(100 * op["share"].get<double>(), 1) + " %"});
  }
  table.Print(std::cout);
}

int Bench(Context& context, const Flags& flags) {
  const json student = {{"kind", flags.mixer},
                        {"window", flags.window},
                        {"sinks", flags.sinks},
                        {"feature_map", flags.feature_map},
                        {"features", flags.features}};
  const json result = RunJob(context, "bench",
                             {{"model", flags.model},
                              {"student", student},
                              {"context", flags.context},
                              {"micro_batch", flags.micro_batch},
                              {"dtype", flags.dtype},
                              {"made_up_weights", flags.made_up_weights},
                              {"parts", flags.parts},
                              {"checkpoint_blocks", flags.checkpoint_blocks},
                              {"prefill_tokens", flags.prefill_tokens},
                              {"decode_after", flags.decode_after},
                              {"decode_batch", flags.decode_batch},
                              {"decode_tokens", flags.decode_tokens},
                              {"repeats", flags.repeats}});
  if (context.as_json) {
    PrintJson(result);
    return 0;
  }
  PrintRows(result);
  for (const json& row : result["rows"]) PrintTimes(row);
  return 0;
}

}  // namespace

void AddBench(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("bench", "Time training and decoding against this machine's ceilings");
  command->add_option("model", flags->model, "Teacher: checkpoint or Hugging Face directory")->required();
  command->add_option("--mixer", flags->mixer, "Student: hybrid, attention, window or mlstm");
  command->add_option("--window", flags->window, "Student: window")->check(AtLeast(1));
  command->add_option("--sinks", flags->sinks, "Student: sinks")->check(AtLeast(0));
  command->add_option("--feature-map", flags->feature_map, "Student: softmax, hedgehog or none");
  command->add_option("--features", flags->features, "Student: features a head, 0 for the head dimension");
  command->add_option("--context", flags->context, "Tokens of a training row")->check(AtLeast(1));
  command->add_option("--micro-batch", flags->micro_batch, "Rows of a forward and backward")->check(AtLeast(1));
  command->add_option("--dtype", flags->dtype, "Of weights and activations: f32 or bf16");
  command->add_flag("--made-up-weights", flags->made_up_weights,
                    "Of the model's directory read config.json alone and make up the weights");
  command->add_option("--parts", flags->parts, "What is measured: align, distill, prefill, decode")->delimiter(',');
  command->add_flag("--checkpoint-blocks", flags->checkpoint_blocks, "Compute the insides of blocks again");
  command->add_option("--prefill-tokens", flags->prefill_tokens, "Tokens read at once, 0: as many as the context")
      ->check(AtLeast(0));
  command->add_option("--decode-after", flags->decode_after, "Tokens read before the first decoded one")
      ->check(AtLeast(0));
  command->add_option("--decode-batch", flags->decode_batch, "Sequences decoded together")->check(AtLeast(1));
  command->add_option("--decode-tokens", flags->decode_tokens, "Tokens decoded in a run")->check(AtLeast(1));
  command->add_option("--repeats", flags->repeats, "Runs whose median counts")->check(AtLeast(1));
  AddOptionsFlag(command, context, "bench");
  command->footer("Example: xhybrid bench teacher.xhy --window 64");
  command->callback([&context, flags] { context.command = [&context, flags] { return Bench(context, *flags); }; });
}

}  // namespace cli
