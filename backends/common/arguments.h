// Checks the arguments of a request against a table with one row an argument. Any thread.
#ifndef XHYBRID_BACKENDS_COMMON_ARGUMENTS_H_
#define XHYBRID_BACKENDS_COMMON_ARGUMENTS_H_

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "backends/common/request.h"

namespace xh::backend {

enum class Type : uint8_t {
  kActivation,  // f32 or bf16, the same for all of these in a request
  kFloat,       // f32 or bf16, on its own
  kF32,
  kI32,
  kAny
};

// Traits of an argument.
enum : uint32_t {
  kOptional = 1,   // may be absent
  kNeeded = 2,     // BACKWARD reads it
  kParameter = 4,  // its gradient is f32
  kConstant = 8,   // it has no gradient: the slot is absent
  kAnyStride = 16  // the last dimension need not be contiguous
};

struct ArgSpec {
  const char* name;
  const char* dims;  // a letter a dimension: equal letters mean equal sizes; "*" is any rank
  Type type;
  uint32_t traits;
};

// Sizes by letter, -1 where no argument of the request has the letter, and the dtype of the activations.
class Dims {
 public:
  Dims() { sizes_.fill(-1); }
  int64_t operator[](char letter) const { return sizes_[Slot(letter)]; }
  int64_t& operator[](char letter) { return sizes_[Slot(letter)]; }
  xh_dtype activation = 0;

 private:
  static size_t Slot(char letter) { return static_cast<unsigned char>(letter) & 127u; }
  std::array<int64_t, 128> sizes_;
};

// Checks presence, dtype, rank, sizes, strides and flags of every argument. B, M, N and T may be 0, every other size is
// at least 1. `dims` is filled when the result's code is 0. The argument count was checked by the plugin.
Refusal CheckArguments(const char* op, const Request& request, std::initializer_list<ArgSpec> inputs,
                       std::initializer_list<ArgSpec> outputs, Dims* dims);

const char* PassName(xh_pass pass);
Refusal Invalid(std::string text);
Refusal Unsupported(std::string text);
// For ops without a backward pass.
Refusal RequireInfer(const char* op, const Request& request);
Refusal CheckParams(const char* op, const Request& request, uint32_t needed);

// Copies the op's parameters out of the request.
template <class T>
Refusal Params(const char* op, const Request& request, T* out) {
  Refusal refusal = CheckParams(op, request, sizeof(T));
  if (refusal.code == 0) *out = *static_cast<const T*>(request.params);
  return refusal;
}

inline bool Present(const xh_tensor& tensor) { return tensor.dtype != 0; }
inline bool Accumulates(const xh_tensor& tensor) { return (tensor.flags & XH_TENSOR_ACCUMULATE) != 0; }
inline int64_t ElementBytes(xh_dtype dtype) {
  switch (dtype) {
    case XH_F32:
    case XH_I32:
      return 4;
    case XH_F16:
    case XH_BF16:
      return 2;
    case XH_I64:
      return 8;
    default:
      return 1;
  }
}

}  // namespace xh::backend

#endif  // XHYBRID_BACKENDS_COMMON_ARGUMENTS_H_
