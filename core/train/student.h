// The student while it trains: parameters that differ from the teacher's have memory of their own, frozen ones that
// equal the teacher's share its memory, so that a graph computes what both need only once (SPEC.md 3).
#ifndef XHYBRID_CORE_TRAIN_STUDENT_H_
#define XHYBRID_CORE_TRAIN_STUDENT_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/model/model.h"

namespace xh {

struct Student {
  ModelConfig config;
  std::map<std::string, Weight> weights;  // every parameter of ParametersOf(config)
  nlohmann::json history = nlohmann::json::array();
};

// A student that has not been trained: the teacher's parameters, shared, and new ones as SPEC.md 1.3 says, in `dtype`.
// `options` are those of kStudentSchema.
StatusOr<Student> SeedStudent(const Model& teacher, const nlohmann::json& options, xh_dtype dtype);

// The student of an earlier run or of a training checkpoint, in `dtype`. Incompatible when it is not one of this
// teacher: other sizes or vocabulary.
StatusOr<Student> LoadStudent(const std::shared_ptr<Runtime>& runtime, const std::string& path, const Model& teacher,
                              xh_dtype dtype);

// The same without its content, on the teacher's device, which rehearses: what the teacher has too is taken as shared.
StatusOr<Student> SketchStudent(const std::string& path, const Model& teacher, xh_dtype dtype);

// Lets every parameter that equals the teacher's bit for bit use the teacher's memory.
Status ShareWithTeacher(const Model& teacher, Student* student);

// Gives every parameter for which `trains` says so memory of its own.
Status OwnTrained(const Model& teacher, const std::function<bool(const std::string&)>& trains, Student* student);

// Checksum of every weight in the order of the names: tells whether a teacher is still the same.
StatusOr<uint32_t> WeightsChecksum(const Model& model);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_STUDENT_H_
