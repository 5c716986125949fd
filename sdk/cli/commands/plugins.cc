#include <iostream>

#include "../context.h"
#include "../table.h"

namespace cli {
namespace {

const char* KindName(xh_plugin_kind kind) {
  constexpr const char* kNames[] = {"?", "backend", "stage", "merge", "text"};
  return kind >= 1 && kind <= 4 ? kNames[kind] : kNames[0];
}

json Describe(const xh_plugin_info& info) {
  json schema = json::parse(info.options_schema, nullptr, false);
  return {{"kind", KindName(info.kind)},
          {"name", info.name},
          {"version", info.version},
          {"license", info.license},
          {"score", info.score},
          {"path", info.path},
          {"options", schema.is_object() ? schema["options"] : json::array()}};
}

}  // namespace

void AddPlugins(CLI::App& app, Context& context) {
  auto options = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("plugins", "List the plugins that were found");
  command->add_flag("--options", *options, "With the options of each");
  command->footer("Example: xhybrid plugins --options");
  command->callback([&context, options] {
    context.command = [&context, options] {
      json all = json::array();
      Table table({"kind", "name", "version", "licence", "path"});
      for (const xh_plugin_info& info : context.runtime().plugins()) {
        all.push_back(Describe(info));
        table.AddRow({KindName(info.kind), info.name, info.version, info.license, info.path});
      }
      if (context.as_json) {
        PrintJson(all);
        return 0;
      }
      table.Print(std::cout);
      for (const json& plugin : all) {
        if (!*options || plugin["options"].empty()) continue;
        std::cout << "\n" << plugin["kind"].get<std::string>() << " " << plugin["name"].get<std::string>() << "\n";
        PrintSchema(json{{"options", plugin["options"]}}.dump());
      }
      return 0;
    };
  });
}

}  // namespace cli
