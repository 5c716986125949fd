#include <iostream>

#include "../context.h"
#include "../table.h"

namespace cli {
namespace {

void PrintReport(const json& report) {
  const json& cpu = report["cpu"];
  std::string isa;
  for (const json& flag : cpu["isa"]) isa += (isa.empty() ? "" : " ") + flag.get<std::string>();
  std::cout << "libxhybrid " << report.value("release", "") << ", ABI " << report.value("abi", "") << "\n"
            << "cpu: " << cpu.value("model", "") << ", " << cpu.value("cores", 0) << " cores, "
            << Bytes(cpu.value("memory_bytes", 0.0)) << ", " << isa << "\n";
  const json& device = report["device"];
  if (device.contains("error")) {
    std::cout << "device: none can be used: " << device["error"].get<std::string>() << "\n";
  } else {
    std::cout << "device: " << device.value("backend", "") << ", " << device.value("name", "") << ", "
              << device.value("isa", "") << ", " << device.value("threads", 0) << " threads\n";
  }
  std::cout << "\n";
  Table plugins({"plugin", "name", "can run here"});
  for (const json& plugin : report["plugins"]) {
    const std::string why = plugin.value("unavailable", "");
    plugins.AddRow(
        {plugin.value("kind", ""), plugin.value("name", ""), plugin.value("score", 0) > 0 ? "yes" : "no: " + why});
  }
  plugins.Print(std::cout);
  for (const json& line : report.value("missing", json::array())) {
    std::cout << "missing: " << line.get<std::string>() << "\n";
  }
  std::cout << "\n";
  Table searched({"sought", "outcome"});
  for (const json& place : report["searched"]) searched.AddRow({place.value("path", ""), place.value("outcome", "")});
  searched.Print(std::cout);
}

}  // namespace

void AddDoctor(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("doctor", "What this host can run, and why not");
  command->footer("Ends with status 0 when a backend can run.\nExample: xhybrid doctor --plugins /opt/xhybrid-cuda");
  command->callback([&context] {
    context.command = [&context] {
      const json report = json::parse(context.runtime().report());
      if (context.as_json) {
        PrintJson(report);
      } else {
        PrintReport(report);
      }
      return report["device"].contains("error") ? 1 : 0;
    };
  });
}

}  // namespace cli
