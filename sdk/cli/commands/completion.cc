#include <iostream>

#include "../context.h"

namespace cli {
namespace {

std::string Flags(const CLI::App& command) {
  std::string flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) flags += " --" + name;
  }
  return flags;
}

// A function that completes the command first, then its flags, then files.
void PrintBash(const CLI::App& app, bool zsh) {
  std::string names, cases;
  for (const CLI::App* command : app.get_subcommands({})) {
    names += " " + command->get_name();
    cases += "    " + command->get_name() + ") words=\"" + Flags(*command) + Flags(app) + "\" ;;\n";
  }
  if (zsh) std::cout << "autoload -U +X bashcompinit && bashcompinit\n";
  std::cout << "_xhybrid() {\n"
               "  local current=\"${COMP_WORDS[COMP_CWORD]}\" words\n"
               "  case \"${COMP_WORDS[1]}\" in\n"
            << cases << "    *) words=\"" << names << Flags(app)
            << "\" ;;\n"
               "  esac\n"
               "  if ((COMP_CWORD == 1)); then words=\""
            << names << Flags(app)
            << "\"; fi\n"
               "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\") $(compgen -f -- \"$current\"))\n"
               "}\n"
               "complete -o filenames -F _xhybrid xhybrid\n";
}

void PrintFish(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands({})) {
    const std::string name = command->get_name();
    std::cout << "complete -c xhybrid -n __fish_use_subcommand -a " << name << " -d '" << command->get_description()
              << "'\n";
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& flag : option->get_lnames()) {
        std::cout << "complete -c xhybrid -n '__fish_seen_subcommand_from " << name << "' -l " << flag << "\n";
      }
    }
  }
}

}  // namespace

void AddCompletion(CLI::App& app, Context& context) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print a completion script for a shell");
  command->add_option("shell", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->footer("Example: source <(xhybrid completion bash)");
  command->callback([&app, &context, shell] {
    context.command = [&app, shell] {
      if (*shell == "fish") {
        PrintFish(app);
      } else {
        PrintBash(app, *shell == "zsh");
      }
      return 0;
    };
  });
}

}  // namespace cli
