// A small checkpoint with every feature of the format: several dtypes, an empty tensor, a scalar, layers, metadata.
#ifndef XHYBRID_TESTS_CHECKPOINT_SAMPLE_H_
#define XHYBRID_TESTS_CHECKPOINT_SAMPLE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/reader.h"
#include "core/checkpoint/writer.h"

#define ASSERT_OK(expression) ASSERT_TRUE(::xh::test::Ok(expression))
#define EXPECT_OK(expression) EXPECT_TRUE(::xh::test::Ok(expression))

namespace xh::test {

inline ::testing::AssertionResult Ok(const Status& status) {
  return status.ok() ? ::testing::AssertionSuccess() : ::testing::AssertionFailure() << status.ToString();
}

// The status has the public code `code` and its message holds `part`.
inline ::testing::AssertionResult Fails(const Status& status, xh_code code, const std::string& part) {
  if (status.ok()) return ::testing::AssertionFailure() << "ok, but an error with \"" << part << "\" is expected";
  const std::string message(status.message());
  if (CodeOf(status) == code && message.find(part) != std::string::npos && message.find('\n') == std::string::npos) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "code " << CodeOf(status) << " instead of " << code << ", or no \"" << part
                                       << "\" in: " << message;
}

inline std::vector<float> Ramp(int64_t n, float first) {
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = first + static_cast<float>(i);
  return values;
}

// The tensors of the sample: what is stored under each name, as bytes.
struct SampleTensor {
  std::string name;
  xh_dtype dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline std::string AsBytes(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

// `first` tells one sample from another.
inline std::vector<SampleTensor> SampleTensors(float first) {
  return {{"model.embed", XH_F32, {3, 2}, AsBytes(Ramp(6, first))},
          {"blocks.0.gate", XH_BF16, {5}, std::string("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a", 10)},
          {"empty", XH_F16, {4, 0, 2}, ""},
          {"scalar", XH_I64, {}, std::string("\x2a\0\0\0\0\0\0\0", 8)},
          {"stage/bytes", XH_U8, {3}, "xyz"}};
}

inline Status WriteSample(const std::string& path, float first, const WriteOptions& options = {}) {
  XH_ASSIGN_OR_RETURN(std::unique_ptr<CheckpointWriter> writer, CheckpointWriter::Open(path, options));
  for (const SampleTensor& tensor : SampleTensors(first)) {
    XH_RETURN_IF_ERROR(writer->AddTensor(tensor.name, tensor.dtype, tensor.shape, tensor.bytes.data()));
  }
  writer->AddLayer({"hybrid", {{"window", "64"}, {"sinks", "4"}}});
  writer->AddLayer({"attention", {}});
  writer->SetMetadata("config", "{\"family\": \"llama\"}");
  writer->SetMetadata("tokenizer/tokenizer.model", std::string("\0\xff\x80 any bytes", 13));
  return writer->Commit();
}

// Every tensor, layer and piece of metadata is what WriteSample(path, first) wrote, and every digest is right.
inline Status CheckSample(const std::string& path, float first, LoadMode mode = LoadMode::kMap) {
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<CheckpointReader> reader, CheckpointReader::Open(path, mode));
  XH_RETURN_IF_ERROR(reader->Verify());
  const std::vector<SampleTensor> expected = SampleTensors(first);
  if (reader->tensors().size() != expected.size()) return Internal("other number of tensors");
  for (const SampleTensor& tensor : expected) {
    const TensorEntry* entry = reader->Find(tensor.name);
    if (entry == nullptr || entry->dtype != tensor.dtype || entry->shape != tensor.shape) {
      return Internal("other tensor ", tensor.name);
    }
    XH_ASSIGN_OR_RETURN(const void* data, reader->Data(tensor.name));
    if (reinterpret_cast<uintptr_t>(data) % 64 != 0) return Internal("unaligned tensor ", tensor.name);
    if (std::string(static_cast<const char*>(data), tensor.bytes.size()) != tensor.bytes) {
      return Internal("other bytes in ", tensor.name);
    }
  }
  const bool layers = reader->layers().size() == 2 && reader->layers()[0].kind == "hybrid" &&
                      reader->layers()[0].settings.at("window") == "64" && reader->layers()[1].settings.empty();
  if (!layers) return Internal("other layers");
  if (reader->metadata().size() != 2 || reader->metadata().count("config") != 1) return Internal("other metadata");
  return absl::OkStatus();
}

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CHECKPOINT_SAMPLE_H_
