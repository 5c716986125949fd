#include <filesystem>
#include <iostream>

#include "../context.h"
#include "../table.h"

namespace cli {
namespace {

struct Flags {
  std::string path;
  bool tensors = false, verify = false, load = false;
};

std::string Plain(const json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

void PrintFields(const json& object, const std::string& indent) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      std::cout << indent << key << ":\n";
      PrintFields(value, indent + "  ");
    } else if (!value.is_array() || value.empty() || !value[0].is_object()) {
      std::cout << indent << key << ": " << Plain(value) << "\n";
    }
  }
}

void PrintMixers(const json& layers) {
  Table table({"layer", "mixer", "settings"});
  for (size_t i = 0; i < layers.size(); ++i) {
    std::string settings;
    const json fields = layers[i].value("settings", json::object());
    for (const auto& [key, value] : fields.items()) {
      settings += (settings.empty() ? "" : ", ") + key + " " + Plain(value);
    }
    table.AddRow({std::to_string(i), layers[i].value("kind", ""), settings});
  }
  table.Print(std::cout);
}

void PrintState(const json& state) {
  std::cout << "\nstate of a session: " << Bytes(state.value("constant_bytes", 0.0)) << " + "
            << Bytes(state.value("bytes_per_token", 0.0))
            << " a token (the teacher's cache: " << Bytes(state.value("teacher_bytes_per_token", 0.0)) << " a token)\n";
}

void PrintTensors(const json& tensors) {
  Table table({"tensor", "dtype", "shape", "bytes"});
  for (const json& tensor : tensors) {
    table.AddRow({tensor.value("name", ""), tensor.value("dtype", ""), tensor["shape"].dump(),
                  std::to_string(tensor.value("bytes", int64_t{0}))});
  }
  table.Print(std::cout);
}

int InspectCheckpoint(Context& context, const Flags& flags) {
  const xh::Checkpoint checkpoint = context.runtime().open(flags.path);
  if (flags.verify) checkpoint.verify();
  json described = json::parse(checkpoint.describe());
  described["verified"] = flags.verify;
  if (flags.load) described["state"] = json::parse(context.runtime().load(flags.path).describe())["state"];
  if (context.as_json) {
    PrintJson(described);
    return 0;
  }
  std::cout << flags.path << ": " << described.value("parameters", int64_t{0}) << " parameters, "
            << Bytes(described.value("bytes", 0.0)) << " in " << described["tensors"].size() << " tensors, written by "
            << described.value("producer", "?") << (flags.verify ? ", every digest is right" : "") << "\n\n";
  json config = described.value("config", json::object());
  if (config.is_object()) config.erase("mixers");
  PrintFields({{"config", config}, {"files", described.value("files", json::object())}}, "");
  std::cout << "\n";
  PrintMixers(described.value("layers", json::array()));
  if (flags.load) PrintState(described["state"]);
  std::cout << "\nhistory:\n";
  for (const json& entry : described.value("history", json::array())) std::cout << "  " << entry.dump() << "\n";
  if (flags.tensors) {
    std::cout << "\n";
    PrintTensors(described["tensors"]);
  }
  return 0;
}

// A directory that is no checkpoint is loaded as a model.
int InspectModel(Context& context, const Flags& flags) {
  const json described = json::parse(context.runtime().load(flags.path).describe());
  if (context.as_json) {
    PrintJson(described);
  } else {
    PrintFields(described, "");
  }
  return 0;
}

}  // namespace

void AddInspect(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a checkpoint or a Hugging Face directory holds");
  command->add_option("path", flags->path, "Checkpoint or directory")->required();
  command->add_flag("--tensors", flags->tensors, "List every tensor");
  command->add_flag("--verify", flags->verify, "Read everything and check every digest");
  command->add_flag("--load", flags->load, "Load the model too and show the size of a session's state");
  command->footer("Example: xhybrid inspect student.xhy --verify");
  command->callback([&context, flags] {
    context.command = [&context, flags] {
      const bool foreign = std::filesystem::exists(std::filesystem::path(flags->path) / "config.json");
      return foreign ? InspectModel(context, *flags) : InspectCheckpoint(context, *flags);
    };
  });
}

}  // namespace cli
