#include "core/train/student.h"

#include <cstring>
#include <set>

#include "core/checkpoint/digest.h"
#include "core/checkpoint/dtype.h"
#include "core/model/student.h"
#include "core/model/weight_memory.h"

namespace xh {
namespace {

// A weight of its own with these bytes, from host or device.
StatusOr<Weight> NewWeight(Device& device, xh_dtype dtype, const Shape& shape, const void* bytes) {
  XH_ASSIGN_OR_RETURN(const int64_t size, TensorBytes(dtype, shape));
  XH_ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(size));
  XH_RETURN_IF_ERROR(device.Copy(buffer.data(), bytes, size));
  XH_RETURN_IF_ERROR(device.Synchronize());
  return Weight{dtype, shape, std::make_shared<Buffer>(std::move(buffer))};
}

StatusOr<std::vector<char>> HostBytes(Device& device, const Weight& weight) {
  XH_ASSIGN_OR_RETURN(const int64_t size, TensorBytes(weight.dtype, weight.shape));
  std::vector<char> bytes(static_cast<size_t>(size));
  XH_RETURN_IF_ERROR(device.Copy(bytes.data(), weight.buffer->data(), size));
  XH_RETURN_IF_ERROR(device.Synchronize());
  return bytes;
}

Status WriteSeed(Device& device, const ParameterSpec& spec, const Weight& weight) {
  XH_ASSIGN_OR_RETURN(const std::vector<float> values, InitialValue(spec));
  std::vector<char> bytes(static_cast<size_t>(weight.buffer->bytes()));
  FromF32(values.data(), static_cast<int64_t>(values.size()), weight.dtype, bytes.data());
  XH_RETURN_IF_ERROR(device.Copy(weight.buffer->data(), bytes.data(), weight.buffer->bytes()));
  return device.Synchronize();
}

// What a student has in common with its teacher; `field` values differ when it is another's.
Status CheckSameTeacher(const ModelConfig& student, const ModelConfig& teacher, const std::string& where) {
  const struct {
    const char* field;
    int64_t student, teacher;
  } sizes[] = {{"vocab_size", student.vocab_size, teacher.vocab_size},
               {"hidden_size", student.hidden_size, teacher.hidden_size},
               {"layer_count", student.layer_count, teacher.layer_count},
               {"heads", student.heads, teacher.heads},
               {"kv_heads", student.kv_heads, teacher.kv_heads},
               {"head_dim", student.head_dim, teacher.head_dim},
               {"intermediate_size", student.intermediate_size, teacher.intermediate_size}};
  if (student.family != teacher.family) {
    return Incompatible(where, ": \"family\" is \"", student.family, "\", the teacher's is \"", teacher.family, "\"");
  }
  for (const auto& size : sizes) {
    if (size.student == size.teacher) continue;
    return Incompatible(where, ": \"", size.field, "\" is ", size.student, ", the teacher's is ", size.teacher);
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<Student> SeedStudent(const Model& teacher, const nlohmann::json& options, xh_dtype dtype) {
  Student student;
  XH_ASSIGN_OR_RETURN(student.config, StudentConfig(teacher.config, options));
  student.history = teacher.history;
  std::vector<ParameterSpec> fresh;
  for (const ParameterSpec& spec : ParametersOf(student.config)) {
    const auto copied = teacher.weights.find(spec.name);
    if (copied != teacher.weights.end()) {
      student.weights[spec.name] = copied->second;
      continue;
    }
    if (spec.init == Init::kFromTeacher) return Internal("the teacher has no parameter \"", spec.name, "\"");
    student.weights[spec.name] = {dtype, spec.shape, nullptr};
    fresh.push_back(spec);
  }
  XH_RETURN_IF_ERROR(AllocateWeights(*teacher.device, &student.weights));
  for (const ParameterSpec& spec : fresh) {
    XH_RETURN_IF_ERROR(WriteSeed(*teacher.device, spec, student.weights.at(spec.name)));
  }
  return student;
}

StatusOr<Student> LoadStudent(const std::shared_ptr<Runtime>& runtime, const std::string& path, const Model& teacher,
                              xh_dtype dtype) {
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<Model> model, Model::Load(runtime, path, dtype));
  XH_RETURN_IF_ERROR(CheckSameTeacher(model->config, teacher.config, path));
  Student student{model->config, model->weights, model->history};
  XH_RETURN_IF_ERROR(ShareWithTeacher(teacher, &student));
  return student;
}

StatusOr<Student> SketchStudent(const std::string& path, const Model& teacher, xh_dtype dtype) {
  XH_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, SketchModel(teacher.device, path, dtype));
  XH_RETURN_IF_ERROR(CheckSameTeacher(model->config, teacher.config, path));
  Student student{model->config, model->weights, model->history};
  for (auto& [name, weight] : student.weights) {
    const auto other = teacher.weights.find(name);
    const bool same =
        other != teacher.weights.end() && other->second.dtype == weight.dtype && other->second.shape == weight.shape;
    if (same) weight = other->second;
  }
  return student;
}

Status ShareWithTeacher(const Model& teacher, Student* student) {
  std::set<const Buffer*> left;  // memory of several weights, one of which now uses the teacher's
  for (auto& [name, weight] : student->weights) {
    const auto other = teacher.weights.find(name);
    if (other == teacher.weights.end() || other->second.dtype != weight.dtype) continue;
    if (other->second.shape != weight.shape || other->second.buffer == weight.buffer) continue;
    XH_ASSIGN_OR_RETURN(const std::vector<char> own, HostBytes(*teacher.device, weight));
    XH_ASSIGN_OR_RETURN(const std::vector<char> theirs, HostBytes(*teacher.device, other->second));
    if (own != theirs) continue;
    left.insert(weight.buffer->whole());
    weight = other->second;
  }
  for (auto& [name, weight] : student->weights) {  // what stays would hold the memory of what left
    if (weight.buffer->whole() == nullptr || left.count(weight.buffer->whole()) == 0) continue;
    XH_ASSIGN_OR_RETURN(weight, NewWeight(*teacher.device, weight.dtype, weight.shape, weight.buffer->data()));
  }
  return absl::OkStatus();
}

Status OwnTrained(const Model& teacher, const std::function<bool(const std::string&)>& trains, Student* student) {
  for (auto& [name, weight] : student->weights) {
    const auto other = teacher.weights.find(name);
    if (!trains(name) || other == teacher.weights.end() || other->second.buffer != weight.buffer) continue;
    XH_ASSIGN_OR_RETURN(weight, NewWeight(*teacher.device, weight.dtype, weight.shape, weight.buffer->data()));
  }
  return absl::OkStatus();
}

StatusOr<uint32_t> WeightsChecksum(const Model& model) {
  uint32_t checksum = 0;
  for (const auto& [name, weight] : model.weights) {
    XH_ASSIGN_OR_RETURN(const std::vector<char> bytes, HostBytes(*model.device, weight));
    checksum = Crc32c(bytes.data(), bytes.size(), Crc32c(name.data(), name.size(), checksum));
  }
  return checksum;
}

}  // namespace xh
