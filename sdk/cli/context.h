// What every command shares: global flags, the runtime, and how a command ends.
#ifndef XHYBRID_SDK_CLI_CONTEXT_H_
#define XHYBRID_SDK_CLI_CONTEXT_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "xhybrid.hpp"

namespace cli {

using nlohmann::json;

struct Context {
  std::string plugins;  // searched first
  std::string device;
  int64_t threads = 0;
  bool quiet = false;
  bool as_json = false;          // results as JSON on standard output
  std::string events;            // file for a job's events, one JSON object a line
  std::function<int()> command;  // set by the subcommand that was given; returns the exit status

  xh::Runtime& runtime();  // opened on first use

 private:
  std::optional<xh::Runtime> runtime_;
};

// A mistake in the arguments that the option parser cannot see: one line, exit status 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void PrintJson(const json& value);                                    // indented, on standard output
json ParseOrThrow(const std::string& text, const std::string& what);  // UsageError naming `what`
// Sets "a.b.c" of an object from "a.b.c=value"; the value is JSON where it parses as such, else text.
void SetByPath(json* object, const std::string& assignment);
// An option that may repeat takes one value each time, so that what follows it is not swallowed.
CLI::Option* Repeatable(CLI::Option* option);
// Accepts numbers from `least` on; the message says what is allowed in few words.
CLI::Validator AtLeast(int least);
// Prints the options of a job kind, or of a plugin's schema, as a table.
void PrintSchema(const std::string& schema_json);
// Thrown while parsing by a flag that ends it, as --help does, and leaves context.command to run.
struct EndOfParsing : CLI::Success {};
// --options: prints every recipe field of the job kind and ends; nothing else need be given.
void AddOptionsFlag(CLI::App* command, Context& context, const std::string& kind);

// Each adds its command.
void AddImport(CLI::App& app, Context& context);
void AddExport(CLI::App& app, Context& context);
void AddDistill(CLI::App& app, Context& context);
void AddPlan(CLI::App& app, Context& context);
void AddMerge(CLI::App& app, Context& context);
void AddProbe(CLI::App& app, Context& context);
void AddTokenize(CLI::App& app, Context& context);
void AddGenerate(CLI::App& app, Context& context);
void AddEvaluate(CLI::App& app, Context& context);
void AddInspect(CLI::App& app, Context& context);
void AddBench(CLI::App& app, Context& context);
void AddPlugins(CLI::App& app, Context& context);
void AddDoctor(CLI::App& app, Context& context);
void AddCompletion(CLI::App& app, Context& context);

}  // namespace cli

#endif  // XHYBRID_SDK_CLI_CONTEXT_H_
