#include <iostream>

#include "../context.h"
#include "../job_runner.h"
#include "../table.h"

namespace cli {

void AddImport(CLI::App& app, Context& context) {
  struct Flags {
    std::string model, output, dtype = "stored";
    bool replace = false, dry_run = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("import", "Read a Hugging Face directory into a checkpoint");
  command->add_option("model", flags->model, "Directory with config.json, safetensors and tokenizer")->required();
  command->add_option("output", flags->output, "Checkpoint to write, NAME.xhy");
  command->add_option("--dtype", flags->dtype, "What weights are stored in")
      ->check(CLI::IsMember({"stored", "f32", "bf16"}));
  command->add_flag("--replace", flags->replace, "Replace an existing checkpoint");
  command->add_flag("--dry-run", flags->dry_run, "Check everything and write nothing");
  AddOptionsFlag(command, context, "import");
  command->footer("Example: xhybrid import models/llama-3m teacher.xhy");
  command->callback([&context, flags] {
    context.command = [&context, flags] {
      const json result = RunJob(context, "import",
                                 {{"model", flags->model},
                                  {"output", flags->output},
                                  {"dtype", flags->dtype},
                                  {"replace", flags->replace},
                                  {"dry_run", flags->dry_run}});
      if (context.as_json) {
        PrintJson(result);
      } else {
        std::cout << result.value("family", "") << ", " << result.value("layers", 0) << " layers, "
                  << result.value("parameters", int64_t{0}) << " parameters"
                  << (flags->dry_run ? ": can be imported" : ": " + result.value("output", "")) << "\n";
      }
      return 0;
    };
  });
}

}  // namespace cli
