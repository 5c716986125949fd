// Golden vectors: a safetensors file is a length, a JSON header and raw little-endian tensors.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/conformance/backend_fixture.h"

namespace xh::test {

Vectors::Vectors(const std::string& name) {
  std::ifstream file(VectorsDirectory() + "/" + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << "cannot read " << name;
  std::stringstream buffer;
  buffer << file.rdbuf();
  const std::string bytes = buffer.str();
  uint64_t header = 0;
  if (bytes.size() < 8) return;
  std::memcpy(&header, bytes.data(), 8);
  const nlohmann::json json = nlohmann::json::parse(bytes.substr(8, header), nullptr, false);
  EXPECT_FALSE(json.is_discarded()) << name;
  for (const auto& [key, entry] : json.items()) {
    if (key == "__metadata__") {
      for (const auto& [fact, value] : entry.items()) metadata_[fact] = value.get<std::string>();
      continue;
    }
    Arg arg;
    arg.shape = entry["shape"].get<std::vector<int64_t>>();
    const bool ids = entry["dtype"] == "I64";
    arg.dtype = ids ? XH_I32 : XH_F32;
    const char* data = bytes.data() + 8 + header + entry["data_offsets"][0].get<size_t>();
    for (int64_t i = 0; i < arg.size(); ++i) {
      int64_t id = 0;
      float value = 0.0f;
      if (ids) {
        std::memcpy(&id, data + 8 * i, 8);
      } else {
        std::memcpy(&value, data + 4 * i, 4);
      }
      arg.values.push_back(ids ? static_cast<double>(id) : value);
    }
    tensors_[key] = std::move(arg);
  }
}

const Arg& Vectors::operator[](const std::string& tensor) const {
  static const Arg none;
  const auto found = tensors_.find(tensor);
  EXPECT_NE(found, tensors_.end()) << "no tensor " << tensor;
  return found == tensors_.end() ? none : found->second;
}

double Vectors::Number(const std::string& key) const {
  const auto found = metadata_.find(key);
  EXPECT_NE(found, metadata_.end()) << "no metadata " << key;
  return found == metadata_.end() ? 0.0 : std::stod(found->second);
}

}  // namespace xh::test
