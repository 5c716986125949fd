#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <iterator>

#include "../context.h"
#include "../table.h"

namespace cli {
namespace {

struct Flags {
  std::string model, prompt, system;
  std::vector<std::string> stop;
  int64_t max_tokens = 256, top_k = 0, seed = 0;
  double temperature = 0, top_p = 1;
  bool raw = false, stats = false;
};

xh::Options SamplerOptions(const Flags& flags) {
  xh::Options options = {{"temperature", flags.temperature},
                         {"top_k", flags.top_k},
                         {"top_p", flags.top_p},
                         {"seed", flags.seed},
                         {"max_tokens", flags.max_tokens}};
  for (const std::string& stop : flags.stop) options.emplace_back("stop", stop);
  return options;
}

struct Written {
  std::string text;
  std::vector<int32_t> ids;
};

// One answer; shows each piece on standard output as it comes unless `silent`.
Written Write(xh::Session& session, const Flags& flags, bool silent) {
  session.sampler(SamplerOptions(flags));
  Written written;
  for (bool finished = false; !finished;) {
    const xh::Token token = session.next();
    finished = token.finished;
    written.ids.push_back(token.id);
    written.text += token.piece;
    if (!silent) std::cout << token.piece << std::flush;
  }
  if (!silent) std::cout << "\n";
  return written;
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void PrintStats(const json& stats) {
  const double seconds = stats["write_seconds"];
  std::cerr << stats["tokens_read"] << " tokens read in " << Fixed(stats["read_seconds"], 3) << " s, "
            << stats["tokens_written"] << " written in " << Fixed(seconds, 3) << " s, "
            << Fixed(stats["tokens_written"].get<double>() / seconds, 0) << " tokens/s, state "
            << Bytes(stats["state_bytes"]) << "\n";
}

int Answer(const xh::Model& model, const Flags& flags, const std::string& prompt, bool as_json) {
  xh::Session session = model.session();
  std::vector<xh::Message> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  messages.push_back({"user", prompt});
  const std::vector<int32_t> ids = model.encode(flags.raw ? prompt : model.chat(messages), true);
  auto start = std::chrono::steady_clock::now();
  session.feed(ids);
  const double read_seconds = SecondsSince(start);
  start = std::chrono::steady_clock::now();
  const Written written = Write(session, flags, as_json);
  const json result = {{"text", written.text},
                       {"ids", written.ids},
                       {"tokens_read", ids.size()},
                       {"tokens_written", written.ids.size()},
                       {"read_seconds", read_seconds},
                       {"write_seconds", SecondsSince(start)},
                       {"state_bytes", session.state_bytes()}};
  if (flags.stats) PrintStats(result);
  if (as_json) PrintJson(result);
  return 0;
}

// Reads the conversation so far: only what is new where the state holds a beginning of it, everything otherwise.
void ReadOn(xh::Session& session, std::vector<int32_t>* fed, const std::vector<int32_t>& ids) {
  const bool goes_on = fed->size() <= ids.size() && std::equal(fed->begin(), fed->end(), ids.begin());
  if (!goes_on) {
    session.reset();
    fed->clear();
  }
  session.feed(std::vector<int32_t>(ids.begin() + static_cast<std::ptrdiff_t>(fed->size()), ids.end()));
  *fed = ids;
}

int Converse(const xh::Model& model, const Flags& flags) {
  xh::Session session = model.session();
  std::vector<xh::Message> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  std::vector<int32_t> fed;
  std::cout << "Ctrl-D ends.\n> " << std::flush;
  for (std::string line; std::getline(std::cin, line); std::cout << "> " << std::flush) {
    messages.push_back({"user", line});
    ReadOn(session, &fed, model.encode(model.chat(messages), true));
    const Written written = Write(session, flags, false);
    fed.insert(fed.end(), written.ids.begin(), written.ids.end());
    messages.push_back({"assistant", written.text});
  }
  std::cout << "\n";
  return 0;
}

int Generate(Context& context, const Flags& flags) {
  const xh::Model model = context.runtime().load(flags.model);
  const bool nothing_to_say = flags.prompt.empty() && isatty(STDIN_FILENO) != 0;
  if (nothing_to_say && !flags.raw && !context.as_json) return Converse(model, flags);
  std::string prompt = flags.prompt;
  if (prompt.empty() || prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  return Answer(model, flags, prompt, context.as_json);
}

}  // namespace

void AddGenerate(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("generate", "Answer a question, or converse");
  command->add_option("model", flags->model, "Checkpoint or Hugging Face directory")->required();
  command->add_option("prompt", flags->prompt, "Question; '-' reads standard input, none on a terminal converses");
  command->add_option("--system", flags->system, "System message");
  command->add_flag("--raw", flags->raw, "Go on with the prompt itself, without the chat template");
  command->add_option("--max-tokens", flags->max_tokens, "Longest answer")->check(AtLeast(1));
  command->add_option("--temperature", flags->temperature, "0 takes the likeliest token")->check(AtLeast(0));
  command->add_option("--top-k", flags->top_k, "Choose among so many tokens, 0 for all")->check(AtLeast(0));
  command->add_option("--top-p", flags->top_p, "Choose among the likeliest of this total probability")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--seed", flags->seed, "Of the choice");
  Repeatable(command->add_option("--stop", flags->stop, "Text that ends the answer; may repeat"));
  command->add_flag("--stats", flags->stats, "Tokens a second and state size on standard error");
  command->footer("Example: xhybrid generate student.xhy \"What is 7 times 5?\"");
  command->callback([&context, flags] { context.command = [&context, flags] { return Generate(context, *flags); }; });
}

}  // namespace cli
