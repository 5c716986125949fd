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

// Streams one answer to standard output and returns its number of tokens.
int64_t Stream(xh::Session& session, const Flags& flags) {
  session.sampler(SamplerOptions(flags));
  int64_t tokens = 0;
  for (bool finished = false; !finished; ++tokens) {
    const xh::Token token = session.next();
    finished = token.finished;
    std::cout << token.piece << std::flush;
  }
  std::cout << "\n";
  return tokens;
}

void PrintStats(int64_t read, int64_t written, double seconds, const xh::Session& session) {
  std::cerr << read << " tokens read, " << written << " written in " << Fixed(seconds, 2) << " s, "
            << Fixed(static_cast<double>(written) / seconds, 0) << " tokens/s, state "
            << Bytes(static_cast<double>(session.state_bytes())) << "\n";
}

int Answer(const xh::Model& model, const Flags& flags, const std::string& prompt) {
  xh::Session session = model.session();
  std::vector<xh::Message> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  messages.push_back({"user", prompt});
  const std::vector<int32_t> ids = model.encode(flags.raw ? prompt : model.chat(messages), true);
  const auto start = std::chrono::steady_clock::now();
  session.feed(ids);
  const int64_t written = Stream(session, flags);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.stats) PrintStats(static_cast<int64_t>(ids.size()), written, seconds, session);
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
    session.sampler(SamplerOptions(flags));
    messages.push_back({"assistant", ""});
    for (bool finished = false; !finished;) {
      const xh::Token token = session.next();
      finished = token.finished;
      fed.push_back(token.id);
      messages.back().content += token.piece;
      std::cout << token.piece << std::flush;
    }
    std::cout << "\n";
  }
  std::cout << "\n";
  return 0;
}

int Generate(Context& context, const Flags& flags) {
  const xh::Model model = context.runtime().load(flags.model);
  if (flags.prompt.empty() && isatty(STDIN_FILENO) != 0 && !flags.raw) return Converse(model, flags);
  std::string prompt = flags.prompt;
  if (prompt.empty() || prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  return Answer(model, flags, prompt);
}

}  // namespace

void AddGenerate(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("generate", "Answer a question, or converse");
  command->add_option("model", flags->model, "Checkpoint or Hugging Face directory")->required();
  command->add_option("prompt", flags->prompt, "Question; '-' reads standard input, none on a terminal converses");
  command->add_option("--system", flags->system, "System message");
  command->add_flag("--raw", flags->raw, "Go on with the prompt itself, without the chat template");
  command->add_option("--max-tokens", flags->max_tokens, "Longest answer")->check(CLI::PositiveNumber);
  command->add_option("--temperature", flags->temperature, "0 takes the likeliest token")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--top-k", flags->top_k, "Choose among so many tokens, 0 for all");
  command->add_option("--top-p", flags->top_p, "Choose among the likeliest of this total probability");
  command->add_option("--seed", flags->seed, "Of the choice");
  command->add_option("--stop", flags->stop, "Text that ends the answer; may repeat");
  command->add_flag("--stats", flags->stats, "Tokens a second and state size on standard error");
  command->footer("Example: xhybrid generate student.xhy \"What is 7 times 8?\"");
  command->callback([&context, flags] { context.command = [&context, flags] { return Generate(context, *flags); }; });
}

}  // namespace cli
