#include "backends/common/arguments.h"

#include <cstring>

namespace xh::backend {
namespace {

const char* DtypeName(xh_dtype dtype) {
  switch (dtype) {
    case 0:
      return "absent";
    case XH_F32:
      return "f32";
    case XH_F16:
      return "f16";
    case XH_BF16:
      return "bf16";
    case XH_I32:
      return "i32";
    case XH_I64:
      return "i64";
    case XH_U8:
      return "u8";
    default:
      return "unknown";
  }
}

const char* Allowed(Type type) {
  switch (type) {
    case Type::kF32:
      return "f32";
    case Type::kI32:
      return "i32";
    case Type::kAny:
      return "f32, f16, bf16, i32, i64 or u8";
    default:
      return "f32 or bf16";
  }
}

bool Matches(Type type, xh_dtype dtype) {
  switch (type) {
    case Type::kF32:
      return dtype == XH_F32;
    case Type::kI32:
      return dtype == XH_I32;
    case Type::kAny:
      return dtype >= XH_F32 && dtype <= XH_U8;
    default:
      return dtype == XH_F32 || dtype == XH_BF16;
  }
}

bool MayBeZero(char letter) { return letter == 'B' || letter == 'M' || letter == 'N' || letter == 'T'; }

class Checker {
 public:
  Checker(const char* op, const Request& request, Dims* dims)
      : where_(std::string(op) + " " + PassName(request.pass) + ": "), dims_(dims) {}

  // One present tensor against its row. `written` tensors may not have several elements at one place.
  Refusal Tensor(const ArgSpec& spec, const std::string& name, const xh_tensor& tensor, Type type, bool written,
                 bool may_accumulate) {
    if (!Matches(type, tensor.dtype)) {
      return Bad(name + " has dtype " + DtypeName(tensor.dtype) + "(" + std::to_string(tensor.dtype) +
                 "), allowed is " + Allowed(type));
    }
    if (type == Type::kActivation) {
      if (dims_->activation == 0) dims_->activation = tensor.dtype;
      if (dims_->activation != tensor.dtype) {
        return Bad(name + " has dtype " + DtypeName(tensor.dtype) + ", but the other activations are " +
                   DtypeName(dims_->activation));
      }
    }
    if ((tensor.flags & ~(may_accumulate ? XH_TENSOR_ACCUMULATE : 0)) != 0) {
      return Bad(name + ".flags is " + std::to_string(tensor.flags) + ", allowed is 0" +
                 (may_accumulate ? " or XH_TENSOR_ACCUMULATE" : ""));
    }
    if (tensor.device != 0) return Bad(name + ".device is " + std::to_string(tensor.device) + ", allowed is 0");
    Refusal refusal = Sizes(spec, name, tensor);
    if (refusal.code != 0) return refusal;
    return Strides(name, tensor, (spec.traits & kAnyStride) != 0, written);
  }

  Refusal Bad(const std::string& text) const { return Invalid(where_ + text); }

 private:
  Refusal Sizes(const ArgSpec& spec, const std::string& name, const xh_tensor& tensor) {
    const bool any_rank = spec.dims[0] == '*';
    const int rank = any_rank ? tensor.rank : static_cast<int>(std::strlen(spec.dims));
    if (tensor.rank != rank || rank < 0 || rank > XH_MAX_RANK) {
      return Bad(name + " has rank " + std::to_string(tensor.rank) + ", expected " +
                 (any_rank ? "0 to " + std::to_string(XH_MAX_RANK)
                           : std::to_string(rank) + " ([" + std::string(spec.dims) + "])"));
    }
    for (int i = 0; i < rank; ++i) {
      const std::string dimension = name + ".shape[" + std::to_string(i) + "]";
      const int64_t size = tensor.shape[i];
      if (any_rank) {
        if (size < 0) return Bad(dimension + " is " + std::to_string(size) + ", at least 0 is allowed");
        continue;
      }
      const char letter = spec.dims[i];
      const int64_t least = MayBeZero(letter) ? 0 : 1;
      if (size < least) {
        return Bad(dimension + " is " + std::to_string(size) + ", at least " + std::to_string(least) + " is allowed");
      }
      int64_t& bound = (*dims_)[letter];
      if (bound >= 0 && bound != size) {
        return Bad(dimension + " is " + std::to_string(size) + ", but " + std::string(1, letter) + " is " +
                   std::to_string(bound));
      }
      bound = size;
    }
    return {};
  }

  Refusal Strides(const std::string& name, const xh_tensor& tensor, bool any_stride, bool written) {
    int64_t last = 0;  // index of the last element: its byte offset must fit
    bool empty = false;
    for (int i = 0; i < tensor.rank; ++i) {
      const int64_t size = tensor.shape[i], stride = tensor.stride[i];
      const std::string dimension = name + ".stride[" + std::to_string(i) + "]";
      empty = empty || size == 0;
      if (size <= 1) continue;
      const int64_t least = written ? 1 : 0;
      if (stride < least) {
        return Bad(dimension + " is " + std::to_string(stride) + ", at least " + std::to_string(least) + " is allowed");
      }
      if (i == tensor.rank - 1 && !any_stride && stride != 1) {
        return Bad(dimension + " is " + std::to_string(stride) + ", the last dimension must be contiguous (1)");
      }
      int64_t reach = 0;
      if (__builtin_mul_overflow(size - 1, stride, &reach) || __builtin_add_overflow(last, reach, &last) ||
          last > INT64_MAX / 16) {
        return Bad(name + " reaches past the address space: shape and stride overflow");
      }
    }
    int64_t count = 1;
    for (int i = 0; i < tensor.rank && !empty; ++i) {
      if (__builtin_mul_overflow(count, tensor.shape[i], &count) || count > INT64_MAX / 16) {
        return Bad(name + " has too many elements: its shape overflows");
      }
    }
    return {};
  }

  std::string where_;
  Dims* dims_;
};

Type GradientType(const ArgSpec& spec) {
  return (spec.traits & kParameter) != 0 || spec.type == Type::kF32 ? Type::kF32 : spec.type;
}

}  // namespace

const char* PassName(xh_pass pass) {
  switch (pass) {
    case XH_INFER:
      return "INFER";
    case XH_FORWARD:
      return "FORWARD";
    case XH_BACKWARD:
      return "BACKWARD";
    default:
      return "unknown pass";
  }
}

Refusal Invalid(std::string text) { return {XH_INVALID_ARGUMENT, std::move(text)}; }
Refusal Unsupported(std::string text) { return {XH_UNSUPPORTED, std::move(text)}; }

Refusal RequireInfer(const char* op, const Request& request) {
  if (request.pass == XH_INFER) return {};
  return Unsupported(std::string(op) + ": pass is " + PassName(request.pass) + ", it has INFER only");
}

Refusal CheckParams(const char* op, const Request& request, uint32_t needed) {
  const std::string where = std::string(op) + ": ";
  if (request.params == nullptr) return Invalid(where + "params is NULL, this op needs them");
  uint32_t struct_size = 0;
  if (request.params_size >= sizeof(struct_size)) std::memcpy(&struct_size, request.params, sizeof(struct_size));
  if (request.params_size < needed || struct_size < needed) {
    return Invalid(where + "params_size is " + std::to_string(request.params_size) + " and params.struct_size " +
                   std::to_string(struct_size) + ", at least " + std::to_string(needed) + " is needed");
  }
  return {};
}

Refusal CheckArguments(const char* op, const Request& request, std::initializer_list<ArgSpec> inputs,
                       std::initializer_list<ArgSpec> outputs, Dims* dims) {
  Checker checker(op, request, dims);
  const bool backward = request.pass == XH_BACKWARD;
  size_t at = 0;
  for (const auto& specs : {inputs, outputs}) {
    const bool written = specs.begin() == outputs.begin() && !backward;
    for (const ArgSpec& spec : specs) {
      const xh_tensor& tensor = request.args[at++];
      if (!Present(tensor)) {
        const bool required = (spec.traits & kOptional) == 0 && (!backward || (spec.traits & kNeeded) != 0);
        if (required) return checker.Bad(std::string(spec.name) + " is absent, it is required");
        continue;
      }
      Refusal refusal = checker.Tensor(spec, spec.name, tensor, spec.type, written, false);
      if (refusal.code != 0) return refusal;
    }
  }
  if (!backward) return {};
  for (const auto& specs : {outputs, inputs}) {
    const bool written = specs.begin() == inputs.begin();
    for (const ArgSpec& spec : specs) {
      const xh_tensor& tensor = request.args[at++];
      if (!Present(tensor)) continue;
      const std::string name = std::string("gradient of ") + spec.name;
      if ((spec.traits & kConstant) != 0) return checker.Bad(name + " is present, there is none");
      Refusal refusal = checker.Tensor(spec, name, tensor, GradientType(spec), written, written);
      if (refusal.code != 0) return refusal;
    }
  }
  return {};
}

}  // namespace xh::backend
