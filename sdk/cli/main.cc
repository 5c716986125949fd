// The program `xhybrid`.
#include <cstdio>
#include <exception>

#include "context.h"

namespace {

constexpr int kBadArguments = 2;

void AddGlobalFlags(CLI::App& app, cli::Context& context) {
  app.add_option("--plugins", context.plugins, "Directories or .so files searched first for plugins, ':' between");
  app.add_option("--device", context.device, "Backend to run on (default: the best found)");
  app.add_option("--threads", context.threads, "Threads, 0 for every core")->check(CLI::Range(0, 4096));
  app.add_flag("--quiet,-q", context.quiet, "No progress");
  app.add_flag("--json", context.as_json, "Result as JSON on standard output, events as JSON lines on standard error");
  app.add_option("--events", context.events, "File for the events of a job, one JSON object a line");
}

// What the parser says of a mistake, with the command it belongs to and where to read on.
std::string Explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> given = app.get_subcommands();
  if (!given.empty()) {
    const std::string name = given.back()->get_name();
    return name + ": " + error.what() + " (see xhybrid " + name + " --help)";
  }
  for (const std::string& word : app.remaining()) {
    if (!word.empty() && word[0] != '-') return "unknown command \"" + word + "\" (see xhybrid --help)";
  }
  return std::string(error.what()) + " (see xhybrid --help)";
}

int Parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const cli::EndOfParsing&) {
    return 0;
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success) == 0 ? -1 : kBadArguments;
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "xhybrid: %s\n", Explain(app, error).c_str());
    return kBadArguments;
  }
  return 0;
}

int Run(const cli::Context& context) {
  try {
    return context.command();
  } catch (const xh::Error& error) {
    std::fprintf(stderr, "xhybrid: %s: %s\n", error.origin().c_str(), error.what());
    return error.code() == XH_CANCELLED ? 130 : 1;
  } catch (const cli::UsageError& error) {
    std::fprintf(stderr, "xhybrid: %s\n", error.what());
    return kBadArguments;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "xhybrid: %s\n", error.what());
    return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Distils transformer LLMs into hybrid xLSTM students, merges, measures and runs them.", "xhybrid");
  cli::Context context;
  app.set_version_flag("--version", std::string("xhybrid ") + xh_release());
  app.require_subcommand(1);
  app.fallthrough();  // global flags may come after the command
  app.option_defaults()->always_capture_default();
  AddGlobalFlags(app, context);
  for (auto add : {cli::AddImport, cli::AddExport, cli::AddPlan, cli::AddDistill, cli::AddMerge, cli::AddProbe,
                   cli::AddTokenize, cli::AddGenerate, cli::AddEvaluate, cli::AddInspect, cli::AddBench,
                   cli::AddPlugins, cli::AddDoctor, cli::AddCompletion}) {
    add(app, context);
  }
  const int parsed = Parse(app, argc, argv);
  if (parsed != 0) return parsed < 0 ? 0 : parsed;
  return Run(context);
}
