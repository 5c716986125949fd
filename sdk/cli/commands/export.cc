#include <iostream>

#include "../context.h"
#include "../job_runner.h"
#include "../table.h"

namespace cli {
namespace {

struct Flags {
  std::string model, output, dtype = "stored";
  uint64_t shard_size = 5'000'000'000;
  bool replace = false, dry_run = false;
};

void PrintResult(const json& result, bool dry_run) {
  const bool needs_code = result.value("needs_code", false);
  std::cout << result.value("family", "") << (needs_code ? " student, " : ", ") << result.value("layers", 0)
            << " layers, " << Bytes(result.value("bytes", 0.0)) << " of weights in " << result.value("shards", 0)
            << (result.value("shards", 0) == 1 ? " file" : " files")
            << (dry_run ? ": can be exported" : ": " + result.value("output", "")) << "\n";
  if (needs_code && !dry_run) std::cout << "transformers loads it with trust_remote_code=True\n";
}

}  // namespace

void AddExport(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("export", "Write a model as a Hugging Face directory");
  command->add_option("model", flags->model, "Checkpoint, or Hugging Face directory")->required();
  command->add_option("output", flags->output, "Directory to write");
  command->add_option("--dtype", flags->dtype, "What weights are written in")
      ->check(CLI::IsMember({"stored", "f32", "bf16"}));
  command->add_option("--shard-size", flags->shard_size, "Most bytes of weights a file: 5000000000, 5GB, 500MiB")
      ->transform(CLI::AsSizeValue(true))
      ->check(AtLeast(1));
  command->add_flag("--replace", flags->replace, "Replace an existing directory that holds a model");
  command->add_flag("--dry-run", flags->dry_run, "Check everything and write nothing");
  AddOptionsFlag(command, context, "export");
  command->footer("Example: xhybrid export runs/math/student.xhy math-student");
  command->callback([&context, flags] {
    context.command = [&context, flags] {
      const json result = RunJob(context, "export",
                                 {{"model", flags->model},
                                  {"output", flags->output},
                                  {"dtype", flags->dtype},
                                  {"shard_size", flags->shard_size},
                                  {"replace", flags->replace},
                                  {"dry_run", flags->dry_run}});
      if (context.as_json) {
        PrintJson(result);
      } else {
        PrintResult(result, flags->dry_run);
      }
      return 0;
    };
  });
}

}  // namespace cli
