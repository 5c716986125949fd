#include "backends/cuda/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "backends/common/host.h"

namespace xh::gpu {
namespace {

using backend::Refusal;
using backend::RunError;

constexpr char kSoname[] = "libcublasLt.so.13";
constexpr char kVariable[] = "XHYBRID_CUBLASLT";
constexpr uint64_t kMostWorkspace = 32 << 20;
constexpr int kCandidates = 8;

// The functions in use. Descriptors live in the caller's memory, hence the inner forms of what the header has inline.
#define XH_LT_FUNCTIONS(F)                 \
  F(cublasLtCreate)                        \
  F(cublasLtGetStatusString)               \
  F(cublasLtMatmul)                        \
  F(cublasLtMatmulAlgoGetHeuristic)        \
  F(cublasLtMatmulDescInit_internal)       \
  F(cublasLtMatmulDescSetAttribute)        \
  F(cublasLtMatrixLayoutInit_internal)     \
  F(cublasLtMatmulPreferenceInit_internal) \
  F(cublasLtMatmulPreferenceSetAttribute)

struct Table {
#define XH_LT_MEMBER(name) decltype(&::name) name = nullptr;
  XH_LT_FUNCTIONS(XH_LT_MEMBER)
#undef XH_LT_MEMBER
};

std::string PluginFolder() {
  Dl_info info = {};
  if (dladdr(reinterpret_cast<const void*>(&OpenLtProduct), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::vector<std::string> Places() {
  std::vector<std::string> places = {kSoname};
  if (const char* const given = std::getenv(kVariable); given != nullptr && *given != 0) places.push_back(given);
  const std::string folder = PluginFolder();
  for (const std::string& place : {folder, folder + "/../nvidia/cu13/lib", std::string("/usr/local/cuda/lib64"),
                                   std::string("/usr/local/cuda-13/lib64"), std::string("/opt/cuda/lib64")}) {
    if (!place.empty() && place[0] != 0) places.push_back(place + "/" + kSoname);
  }
  return places;
}

// Never unloaded: products may outlive everything else of the plugin.
class Library {
 public:
  static const Library& Get() {
    static const Library* const library = new Library();
    return *library;
  }
  const Table& functions() const { return functions_; }
  const std::string& missing() const { return missing_; }  // why there is none; empty when there is

 private:
  Library() {
    std::string tried;
    for (const std::string& place : Places()) {
      void* const library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) {
        const char* const reason = dlerror();
        tried += (tried.empty() ? "" : "; ") + (reason == nullptr ? place : std::string(reason));
        continue;
      }
      Resolve(library, place);
      return;
    }
    missing_ = "cuBLASLt is not to be found; name its file in " + std::string(kVariable) + ". Tried: " + tried;
  }

  void Resolve(void* library, const std::string& place) {
    const auto resolve = [&](const char* name, auto* function) {
      *function = reinterpret_cast<std::remove_reference_t<decltype(*function)>>(dlsym(library, name));
      if (*function == nullptr) missing_ = place + " lacks " + name;
    };
#define XH_LT_RESOLVE(name) resolve(#name, &functions_.name);
    XH_LT_FUNCTIONS(XH_LT_RESOLVE)
#undef XH_LT_RESOLVE
  }

  Table functions_;
  std::string missing_;
};

std::string Said(const Table& lt, const char* where, cublasStatus_t status) {
  return std::string(where) + ": " + lt.cublasLtGetStatusString(status) + " (" + std::to_string(status) + ")";
}

xh_code CodeOf(cublasStatus_t status) { return status == CUBLAS_STATUS_ALLOC_FAILED ? XH_OUT_OF_MEMORY : XH_INTERNAL; }

// The handle of the current device: one for the life of the process, used by any number of threads.
Refusal CurrentHandle(const Table& lt, cublasLtHandle_t* out) {
  static std::mutex mutex;
  static auto* const handles = new std::map<int, cublasLtHandle_t>();
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) {
    return {XH_INTERNAL, std::string("cudaGetDevice: ") + cudaGetErrorString(error)};
  }
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = handles->find(device);
  if (found != handles->end()) {
    *out = found->second;
    return {};
  }
  const cublasStatus_t status = lt.cublasLtCreate(out);
  if (status != CUBLAS_STATUS_SUCCESS) {
    return {CodeOf(status), Said(lt, "cublasLtCreate", status)};
  }
  (*handles)[device] = *out;
  return {};
}

cudaDataType DataType(xh_dtype dtype) { return dtype == XH_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

// The alignment to count on: rows keep it, and 16 bytes is the most that an algorithm asks for.
uint32_t Alignment(int64_t leading, xh_dtype dtype) {
  const uint64_t bytes = static_cast<uint64_t>(leading) * (dtype == XH_BF16 ? 2 : 4);
  return static_cast<uint32_t>(std::min<uint64_t>(bytes & (~bytes + 1), 16));
}
bool Aligned(const void* pointer, uint32_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

// The library thinks in columns: of row-major matrices it sees the transposes, and computes D^T = B^T A^T.
class Product final : public LtProduct {
 public:
  Product(const Table& lt, cublasLtHandle_t handle, const LtShape& shape) : lt_(lt), handle_(handle), shape_(shape) {
    a_alignment_ = Alignment(shape.a_leading, shape.inputs);
    b_alignment_ = Alignment(shape.b_leading, shape.inputs);
    d_alignment_ = Alignment(shape.d_leading, shape.result);
  }

  // False: there is no algorithm.
  bool Find() {
    const void* const aligned = reinterpret_cast<const void*>(uintptr_t{kBiasAlignment});
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatmulPreferenceOpaque_t preference;
    if (!Layouts() || !Describe(shape_.bias ? aligned : nullptr, &operation) || !Prefer(&preference)) return false;
    cublasLtMatmulHeuristicResult_t results[kCandidates] = {};
    int count = 0;
    if (lt_.cublasLtMatmulAlgoGetHeuristic(handle_, &operation, &b_, &a_, &d_, &d_, &preference, kCandidates, results,
                                           &count) != CUBLAS_STATUS_SUCCESS) {
      return false;
    }
    for (int i = 0; i < count; ++i) {
      if (results[i].state != CUBLAS_STATUS_SUCCESS || results[i].workspaceSize > kMostWorkspace) continue;
      algorithm_ = results[i].algo;
      workspace_bytes = static_cast<int64_t>(results[i].workspaceSize);
      return true;
    }
    return false;
  }

  bool Takes(const void* a, const void* b, const void* bias, const void* d) const override {
    return Aligned(a, a_alignment_) && Aligned(b, b_alignment_) && Aligned(d, d_alignment_) &&
           (!shape_.bias || Aligned(bias, kBiasAlignment));
  }

  void Run(gpuStream_t stream, const void* a, const void* b, const void* bias, const void* c, void* d,
           void* workspace) const override {
    cublasLtMatmulDescOpaque_t operation;
    if (!Describe(bias, &operation)) throw RunError{XH_INTERNAL, "cuBLASLt refuses the description of a product"};
    // The interface takes descriptors that it does not change by mutable pointers.
    const auto layout = [](const cublasLtMatrixLayoutOpaque_t& l) { return const_cast<cublasLtMatrixLayout_t>(&l); };
    const float alpha = 1.0f, beta = shape_.accumulate ? 1.0f : 0.0f;
    const cublasStatus_t status =
        lt_.cublasLtMatmul(handle_, &operation, &alpha, b, layout(b_), a, layout(a_), &beta, c, layout(d_), d,
                           layout(d_), &algorithm_, workspace, static_cast<size_t>(workspace_bytes), stream);
    if (status != CUBLAS_STATUS_SUCCESS) throw RunError{CodeOf(status), Said(lt_, "cublasLtMatmul", status)};
  }

 private:
  static constexpr uint32_t kBiasAlignment = 16;

  bool Layouts() {
    const auto make = [&](cublasLtMatrixLayoutOpaque_t* layout, xh_dtype dtype, int64_t rows, int64_t width,
                          int64_t leading) {
      return lt_.cublasLtMatrixLayoutInit_internal(layout, sizeof(*layout), DataType(dtype),
                                                   static_cast<uint64_t>(width), static_cast<uint64_t>(rows),
                                                   leading) == CUBLAS_STATUS_SUCCESS;
    };
    const LtShape& s = shape_;
    return make(&a_, s.inputs, s.a_transposed ? s.depth : s.rows, s.a_transposed ? s.rows : s.depth, s.a_leading) &&
           make(&b_, s.inputs, s.b_transposed ? s.columns : s.depth, s.b_transposed ? s.depth : s.columns,
                s.b_leading) &&
           make(&d_, s.result, s.rows, s.columns, s.d_leading);
  }

  // CUBLAS_COMPUTE_32F: products of f32 in f32, never in a shorter type.
  bool Describe(const void* bias, cublasLtMatmulDescOpaque_t* out) const {
    if (lt_.cublasLtMatmulDescInit_internal(out, sizeof(*out), CUBLAS_COMPUTE_32F, CUDA_R_32F) !=
        CUBLAS_STATUS_SUCCESS) {
      return false;
    }
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      return lt_.cublasLtMatmulDescSetAttribute(out, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
    };
    const int32_t first = shape_.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int32_t second = shape_.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (!set(CUBLASLT_MATMUL_DESC_TRANSA, first) || !set(CUBLASLT_MATMUL_DESC_TRANSB, second)) return false;
    if (!shape_.bias) return true;
    const uint32_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const int32_t dtype = DataType(shape_.result);
    return set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue) && set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, dtype) &&
           set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }

  // Of the ways to add the parts of a split sum only the one that keeps f32 and adds in a fixed order.
  bool Prefer(cublasLtMatmulPreferenceOpaque_t* out) const {
    if (lt_.cublasLtMatmulPreferenceInit_internal(out, sizeof(*out)) != CUBLAS_STATUS_SUCCESS) return false;
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      return lt_.cublasLtMatmulPreferenceSetAttribute(out, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
    };
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    return set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace) &&
           set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions) &&
           set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b_alignment_) &&
           set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a_alignment_) &&
           set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d_alignment_) &&
           set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d_alignment_);
  }

  const Table& lt_;
  cublasLtHandle_t handle_;
  LtShape shape_;
  uint32_t a_alignment_, b_alignment_, d_alignment_;
  cublasLtMatrixLayoutOpaque_t a_ = {}, b_ = {}, d_ = {};
  cublasLtMatmulAlgo_t algorithm_ = {};
};

}  // namespace

Refusal OpenLtProduct(const LtShape& shape, std::unique_ptr<LtProduct>* out) {
  const Library& library = Library::Get();
  if (!library.missing().empty()) return {XH_UNSUPPORTED, "MATMUL: " + library.missing()};
  cublasLtHandle_t handle = nullptr;
  Refusal refusal = CurrentHandle(library.functions(), &handle);
  if (refusal.code != 0) return refusal;
  auto product = std::make_unique<Product>(library.functions(), handle, shape);
  if (product->Find()) *out = std::move(product);
  return {};
}

}  // namespace xh::gpu
