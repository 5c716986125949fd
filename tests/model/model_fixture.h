// What the tests of models share: a runtime on the CPU, teachers with what they must give, students of them, and errors
// measured as ||a - b|| / ||b||.
#ifndef XHYBRID_TESTS_MODEL_MODEL_FIXTURE_H_
#define XHYBRID_TESTS_MODEL_MODEL_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/model/model.h"
#include "core/model/student.h"

namespace xh::test {

// The process's runtime, on the backend "cpu".
const std::shared_ptr<Runtime>& CpuRuntime();

inline std::string TeacherPath(const std::string& name) { return std::string(XH_TEST_DATA) + "/teachers/" + name; }
std::shared_ptr<const Model> LoadTeacher(const std::string& name, xh_dtype dtype = 0);

// A tensor of expected.safetensors beside the teacher.
std::vector<float> ExpectedFloats(const std::string& teacher, const std::string& tensor);
std::vector<int32_t> ExpectedIds(const std::string& teacher, const std::string& tensor);

// A student of `teacher` in f32 with random values added to what its new parameters start with, so that gates and
// features differ between heads and tokens.
std::shared_ptr<const Model> MakeStudent(const Model& teacher, const nlohmann::json& options, uint32_t seed = 1);

// A model with random weights, on a device with one thread: it is too small to share work.
std::shared_ptr<const Model> RandomModel(const ModelConfig& config, uint32_t seed);

// Random values from -1 to 1.
std::vector<float> RandomValues(int64_t count, uint32_t seed);
Weight NewWeight(const Model& model, const Shape& shape, const std::vector<float>& values);
std::vector<float> ReadWeight(const Model& model, const std::string& name);

// A whole forward of `batch` sequences of the same length; `starts` as ForwardInput's start, empty: absent.
struct Results {
  std::vector<std::vector<float>> hidden;     // [B*T, D]
  std::vector<std::vector<float>> mixer_out;  // [B*T, H*d]
  std::vector<float> logits;                  // [B*T, V]
};
Results Forward(const Model& model, const std::vector<int32_t>& ids, int64_t batch,
                const std::vector<int32_t>& starts = {});

double RelativeError(const std::vector<float>& got, const std::vector<float>& want);
std::vector<float> RowOf(const std::vector<float>& matrix, int64_t row, int64_t width);

inline Status StatusOf(const Status& status) { return status; }
template <typename T>
Status StatusOf(const StatusOr<T>& result) {
  return result.status();
}

// Status and StatusOr: the code, and a part of the message.
MATCHER_P2(FailsWith, code, part, "") {
  const Status status = StatusOf(arg);
  *result_listener << "which is " << status;
  return !status.ok() && CodeOf(status) == code && std::string(status.message()).find(part) != std::string::npos;
}

}  // namespace xh::test

#endif  // XHYBRID_TESTS_MODEL_MODEL_FIXTURE_H_
