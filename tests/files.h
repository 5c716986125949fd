// Files and directories as texts, for tests.
#ifndef XHYBRID_TESTS_FILES_H_
#define XHYBRID_TESTS_FILES_H_

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

namespace test_files {

inline void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

inline std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Every file below a directory, relative name and bytes; none where there is no directory.
inline std::map<std::string, std::string> ReadTree(const std::string& path) {
  std::map<std::string, std::string> files;
  if (!std::filesystem::exists(path)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    const std::string name = std::filesystem::relative(entry.path(), path).string();
    if (entry.is_regular_file()) files[name] = ReadText(entry.path().string());
  }
  return files;
}

}  // namespace test_files

#endif  // XHYBRID_TESTS_FILES_H_
