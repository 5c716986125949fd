// Element types: sizes, names, and conversion to and from f32.
#ifndef XHYBRID_CORE_CHECKPOINT_DTYPE_H_
#define XHYBRID_CORE_CHECKPOINT_DTYPE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "xhybrid.h"

namespace xh {

// Bytes of one element; 0 when `dtype` is not one of XH_F32 ... XH_U8.
int64_t DTypeBytes(xh_dtype dtype);
// "f32", "f16", "bf16", "i32", "i64" or "u8"; "unknown" for anything else. Static.
const char* DTypeName(xh_dtype dtype);
StatusOr<xh_dtype> ParseDType(const std::string& name);

// Elements of a shape that was checked before.
int64_t ElementCount(const std::vector<int64_t>& shape);
// Bytes of a tensor of this shape. InvalidArgument for an unknown dtype, more than XH_MAX_RANK dimensions, a negative
// dimension, or a size beyond int64_t (dimensions of 0 count as 1 in that check, so that strides fit as well).
StatusOr<int64_t> TensorBytes(xh_dtype dtype, const std::vector<int64_t>& shape);

// Converts `n` elements by value; the arrays must not overlap and need no alignment. Any thread.
void ToF32(xh_dtype from, const void* in, int64_t n, float* out);
// Rounds to nearest, ties to even. In f16 and bf16 a NaN stays a NaN and values beyond the range become infinite;
// integer types saturate, and NaN becomes 0. Nothing happens for an unknown dtype.
void FromF32(const float* in, int64_t n, xh_dtype to, void* out);

// One value, in plain C++: what the array forms use where the processor has no F16C instructions.
float F16ToF32(uint16_t half);
uint16_t F32ToF16(float value);

}  // namespace xh

#endif  // XHYBRID_CORE_CHECKPOINT_DTYPE_H_
