#include <iostream>

#include "../context.h"
#include "../job_runner.h"

namespace cli {

void AddMerge(CLI::App& app, Context& context) {
  struct Flags {
    std::vector<std::string> models, options;
    std::vector<double> weights;
    std::string base, method = "linear", output, dtype = "stored";
    bool replace = false, dry_run = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("merge", "Merge students that began from the same weights");
  command->add_option("models", flags->models, "Checkpoints")->required();
  command->add_option("--method", flags->method, "Merge plugin (xhybrid plugins lists them with their options)");
  Repeatable(command->add_option("--weights", flags->weights, "One for each model: 0.5,0.5"))->delimiter(',');
  command->add_option("--base", flags->base, "What the models began from, where the method needs it");
  Repeatable(command->add_option("--option", flags->options, "Option of the method, KEY=VALUE; may repeat"));
  command->add_option("--output", flags->output, "Checkpoint to write, NAME.xhy");
  command->add_option("--dtype", flags->dtype, "What weights are stored in")
      ->check(CLI::IsMember({"stored", "f32", "bf16"}));
  command->add_flag("--replace", flags->replace, "Replace an existing checkpoint");
  command->add_flag("--dry-run", flags->dry_run, "Check everything and write nothing");
  AddOptionsFlag(command, context, "merge");
  command->footer("Example: xhybrid merge math.xhy chat.xhy --weights 0.5,0.5 --output merged.xhy");
  command->callback([&context, flags] {
    context.command = [&context, flags] {
      json options = json::object();
      if (!flags->weights.empty()) options["weights"] = flags->weights;
      for (const std::string& assignment : flags->options) SetByPath(&options, assignment);
      const json result = RunJob(context, "merge",
                                 {{"models", flags->models},
                                  {"base", flags->base},
                                  {"method", flags->method},
                                  {"options", options},
                                  {"output", flags->output},
                                  {"dtype", flags->dtype},
                                  {"replace", flags->replace},
                                  {"dry_run", flags->dry_run}});
      if (context.as_json) {
        PrintJson(result);
      } else {
        std::cout << (flags->dry_run ? "can be merged" : "merged: " + flags->output) << "\n";
      }
      return 0;
    };
  });
}

}  // namespace cli
