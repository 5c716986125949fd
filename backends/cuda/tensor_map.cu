// Descriptions of tensors for the bulk copy engine, made by the driver.
#include <string>

#include "backends/cuda/sm90.cuh"

namespace xh::gpu::sm90 {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, asked of the runtime so that the driver library need not be linked.
Encode Encoder() {
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
  }();
  return encode;
}

// Dimensions from the innermost; strides in elements, of those after the first.
CUtensorMap Make(void* data, const uint64_t (&sizes)[4], const int64_t (&strides)[3], int rows) {
  const Encode encode = Encoder();
  if (encode == nullptr) throw RunError{XH_INTERNAL, "this driver has no cuTensorMapEncodeTiled"};
  cuuint64_t dims[4], bytes[3];
  for (int i = 0; i < 4; ++i) dims[i] = sizes[i];
  for (int i = 0; i < 3; ++i) {
    // The stride of a dimension of size 1 is never used but must be a legal one.
    bytes[i] = dims[i + 1] > 1 ? static_cast<cuuint64_t>(strides[i]) * sizeof(bf16) : 16;
  }
  const cuuint32_t box[4] = {kBlockColumns, static_cast<cuuint32_t>(rows), 1, 1}, steps[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, data, dims, bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw RunError{XH_INTERNAL, "cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(result))};
  }
  return map;
}

}  // namespace

bool MapsTensor(const xh_tensor& tensor) {
  constexpr int64_t kMostSize = int64_t{1} << 31, kMostStride = (int64_t{1} << 40) / 2;
  if (tensor.dtype != XH_BF16 || tensor.rank < 2 || tensor.rank > 4) return false;
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.shape[i] < 1 || tensor.shape[i] > kMostSize) return false;
    if (i + 1 == tensor.rank || tensor.shape[i] == 1) continue;
    if (tensor.stride[i] < 8 || tensor.stride[i] % 8 != 0 || tensor.stride[i] >= kMostStride) return false;
  }
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
}

CUtensorMap MakeTensorMap(const xh_tensor& tensor, int rows) {
  const uint64_t sizes[4] = {static_cast<uint64_t>(tensor.shape[3]), static_cast<uint64_t>(tensor.shape[2]),
                             static_cast<uint64_t>(tensor.shape[1]), static_cast<uint64_t>(tensor.shape[0])};
  return Make(tensor.data, sizes, {tensor.stride[2], tensor.stride[1], tensor.stride[0]}, rows);
}

CUtensorMap MakeMatrixMap(const xh_tensor& tensor, int rows) {
  const uint64_t sizes[4] = {static_cast<uint64_t>(tensor.shape[1]), static_cast<uint64_t>(tensor.shape[0]), 1, 1};
  return Make(tensor.data, sizes, {tensor.stride[0], 0, 0}, rows);
}

}  // namespace xh::gpu::sm90
