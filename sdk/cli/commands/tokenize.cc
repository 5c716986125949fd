#include <iostream>

#include "../context.h"
#include "../job_runner.h"
#include "../table.h"

namespace cli {

void AddTokenize(CLI::App& app, Context& context) {
  struct Flags {
    std::string model, output, kind = "auto", loss_on = "all";
    std::vector<std::string> data;
    bool replace = false, dry_run = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("tokenize", "Turn data files into rows of token ids, once for many runs");
  command->add_option("model", flags->model, "Model directory, or one that holds tokenizer files alone")->required();
  Repeatable(command->add_option("--data", flags->data, "JSONL file, gzip'd or not; may repeat"))->required();
  command->add_option("--output", flags->output, "JSONL file to write");
  command->add_option("--kind", flags->kind, "What rows are")->check(CLI::IsMember({"auto", "chat", "text"}));
  command->add_option("--loss-on", flags->loss_on, "Mark what an assistant did not write")
      ->check(CLI::IsMember({"all", "assistant"}));
  command->add_flag("--replace", flags->replace, "Replace an existing file");
  command->add_flag("--dry-run", flags->dry_run, "Count and write nothing");
  AddOptionsFlag(command, context, "tokenize");
  command->footer("Example: xhybrid tokenize teacher.xhy --data chat.jsonl --output chat.ids.jsonl");
  command->callback([&context, flags] {
    context.command = [&context, flags] {
      const json result = RunJob(context, "tokenize",
                                 {{"model", flags->model},
                                  {"data", flags->data},
                                  {"output", flags->output},
                                  {"kind", flags->kind},
                                  {"loss_on", flags->loss_on},
                                  {"replace", flags->replace},
                                  {"dry_run", flags->dry_run}});
      if (context.as_json) {
        PrintJson(result);
      } else {
        std::cout << result["documents"] << " documents, " << result["tokens"] << " tokens, "
                  << Bytes(result["bytes_per_second"]) << "/s\n";
      }
      return 0;
    };
  });
}

}  // namespace cli
