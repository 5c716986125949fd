#include "tests/conformance/backend_fixture.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

struct xh_error {
  xh_code code;
  std::string origin, text;
};

namespace xh::test {
namespace {

constexpr int64_t kGuard = 256;            // bytes before and after every piece of memory
constexpr unsigned char kUnwritten = 255;  // every float of it is NaN

xh_error* NewError(xh_code code, const char* origin, const char* text) { return new xh_error{code, origin, text}; }
void Log(xh_log_level, const char*, const char*) {}
const xh_host kHost = {sizeof(xh_host), XH_ABI_VERSION, NewError, Log};

int64_t Bytes(xh_dtype dtype) {
  switch (dtype) {
    case XH_F16:
    case XH_BF16:
      return 2;
    case XH_I64:
      return 8;
    case XH_U8:
      return 1;
    default:
      return 4;
  }
}

uint16_t ToBf16(double value) {
  const float x = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void Write(char* to, xh_dtype dtype, double value) {
  if (dtype == XH_F32) {
    const float x = static_cast<float>(value);
    std::memcpy(to, &x, 4);
  } else if (dtype == XH_BF16 || dtype == XH_F16) {
    const uint16_t x = ToBf16(value);
    std::memcpy(to, &x, 2);
  } else if (dtype == XH_I32) {
    const int32_t x = static_cast<int32_t>(value);
    std::memcpy(to, &x, 4);
  } else if (dtype == XH_I64) {
    const int64_t x = static_cast<int64_t>(value);
    std::memcpy(to, &x, 8);
  } else {
    *to = static_cast<char>(value);
  }
}

double Read(const char* from, xh_dtype dtype) {
  if (dtype == XH_F32) {
    float x;
    std::memcpy(&x, from, 4);
    return x;
  }
  if (dtype == XH_BF16 || dtype == XH_F16) {
    uint16_t half;
    std::memcpy(&half, from, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  if (dtype == XH_I32) {
    int32_t x;
    std::memcpy(&x, from, 4);
    return x;
  }
  if (dtype == XH_I64) {
    int64_t x;
    std::memcpy(&x, from, 8);
    return static_cast<double>(x);
  }
  return static_cast<unsigned char>(*from);
}

// 64-byte aligned memory with guards.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(bytes), all_(static_cast<size_t>(bytes + 2 * kGuard + 64), kUnwritten) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(all_.data()) + kGuard;
    first_ = static_cast<int64_t>((at + 63) / 64 * 64 - at) + kGuard;
  }
  char* data() { return reinterpret_cast<char*>(all_.data()) + first_; }
  int64_t bytes() const { return bytes_; }
  std::vector<unsigned char> Snapshot() const { return all_; }
  bool GuardsIntact() const {
    for (int64_t i = 0; i < static_cast<int64_t>(all_.size()); ++i) {
      if ((i < first_ || i >= first_ + bytes_) && all_[static_cast<size_t>(i)] != kUnwritten) return false;
    }
    return true;
  }
  // Whether every byte outside `written` (relative to data()) is as in the snapshot.
  bool Unchanged(const std::vector<unsigned char>& before, const std::vector<bool>& written) const {
    for (int64_t i = 0; i < static_cast<int64_t>(all_.size()); ++i) {
      const int64_t at = i - first_;
      const bool mine = at >= 0 && at < bytes_ && written[static_cast<size_t>(at)];
      if (!mine && all_[static_cast<size_t>(i)] != before[static_cast<size_t>(i)]) return false;
    }
    return true;
  }

 private:
  int64_t bytes_, first_;
  std::vector<unsigned char> all_;
};

xh_tensor TensorOf(const Arg& arg) {
  xh_tensor tensor = {};
  tensor.dtype = arg.dtype;
  if (arg.dtype == 0) return tensor;
  tensor.rank = static_cast<int32_t>(arg.shape.size());
  tensor.flags = arg.accumulate ? XH_TENSOR_ACCUMULATE : 0;
  std::vector<int> order = arg.order;
  for (int i = 0; order.empty() && i < tensor.rank; ++i) {
    for (int j = 0; j < tensor.rank; ++j) order.push_back(j);
  }
  int64_t stride = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    const int dimension = order[static_cast<size_t>(i)];
    const int64_t size = arg.shape[static_cast<size_t>(dimension)];
    tensor.shape[dimension] = size;
    tensor.stride[dimension] = stride;
    stride *= std::max<int64_t>(size, 1);
    if (i == tensor.rank - 1) stride += arg.gap;
  }
  return tensor;
}

int64_t Count(const xh_tensor& tensor) {
  int64_t count = 1;
  for (int i = 0; i < tensor.rank; ++i) count *= tensor.shape[i];
  return count;
}

// Offset in elements of the row-major element `index`.
int64_t OffsetOf(const xh_tensor& tensor, int64_t index) {
  int64_t offset = 0;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    offset += index % tensor.shape[i] * tensor.stride[i];
    index /= tensor.shape[i];
  }
  return offset;
}

int64_t Span(const xh_tensor& tensor) { return Count(tensor) == 0 ? 0 : OffsetOf(tensor, Count(tensor) - 1) + 1; }

struct Counts {
  int inputs, outputs;
};

// Inputs and outputs of each op (xhybrid_plugin.h).
Counts CountsOf(xh_op op) {
  switch (op) {
    case XH_OP_MATMUL:
    case XH_OP_ROPE:
    case XH_OP_MIX:
    case XH_OP_ALIGN_LOSS:
      return {3, 1};
    case XH_OP_CAST:
    case XH_OP_REDUCE:
    case XH_OP_SELECT_HEADS:
      return {1, 1};
    case XH_OP_FILL:
      return {0, 1};
    case XH_OP_TOP_K:
      return {1, 2};
    case XH_OP_MLSTM:
      return {9, 4};
    case XH_OP_ATTENTION:
      return {7, 1};
    case XH_OP_HEAD_GATE:
    case XH_OP_DISTILL_LOSS:
      return {5, 1};
    case XH_OP_ADAMW:
      return {2, 4};
    default:
      return {2, 1};
  }
}

// Whether the op may write argument `index` in this pass. A decoding attention also writes its cache.
bool Written(xh_op op, xh_pass pass, int index) {
  const Counts counts = CountsOf(op);
  if (pass == XH_BACKWARD) return index >= counts.inputs + 2 * counts.outputs;
  const bool cache = op == XH_OP_ATTENTION && (index == 3 || index == 4);
  return index >= counts.inputs || cache;
}

const xh_plugin* LoadPlugin() {
  const char* other = std::getenv("XH_TEST_BACKEND");
  const std::string path = other != nullptr ? other : std::string(XH_TEST_PLUGINS) + "/xhybrid_cpu.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "cannot load %s: %s\n", path.c_str(), dlerror());
    std::exit(1);
  }
  const auto entry = reinterpret_cast<xh_plugin_entry>(dlsym(library, "xh_plugin_v1"));
  const xh_plugin* plugin = entry == nullptr ? nullptr : entry(&kHost, 0);
  if (plugin == nullptr || plugin->kind != XH_PLUGIN_BACKEND) {
    std::fprintf(stderr, "%s is not a backend plugin\n", path.c_str());
    std::exit(1);
  }
  return plugin;
}

}  // namespace

int64_t Arg::size() const {
  int64_t count = 1;
  for (int64_t s : shape) count *= s;
  return count;
}

Arg Absent() { return {}; }

double RoundTo(xh_dtype dtype, double value) {
  char bytes[8];
  Write(bytes, dtype, value);
  return Read(bytes, dtype);
}

Arg Of(xh_dtype dtype, std::vector<int64_t> shape, std::vector<double> values) {
  for (double& value : values) value = RoundTo(dtype, value);
  Arg arg;
  arg.dtype = dtype;
  arg.shape = std::move(shape);
  arg.values = std::move(values);
  EXPECT_EQ(arg.size(), static_cast<int64_t>(arg.values.size()));
  return arg;
}

Arg Output(xh_dtype dtype, std::vector<int64_t> shape) {
  Arg arg;
  arg.dtype = dtype;
  arg.shape = std::move(shape);
  return arg;
}

Arg Added(Arg gradient, std::vector<double> before) {
  for (double& value : before) value = RoundTo(gradient.dtype, value);
  gradient.values = std::move(before);
  gradient.accumulate = true;
  return gradient;
}

Arg Random(xh_dtype dtype, std::vector<int64_t> shape, uint32_t seed, double scale) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Arg arg = Output(dtype, std::move(shape));
  std::vector<double> values(static_cast<size_t>(arg.size()));
  for (double& value : values) value = normal(generator) * scale;
  return Of(dtype, arg.shape, std::move(values));
}

Arg TokenMajor(Arg arg, int64_t gap) {
  arg.order = {0, 2, 1, 3};
  arg.gap = gap;
  return arg;
}

const xh_plugin& BackendPlugin() {
  static const xh_plugin* const plugin = LoadPlugin();
  return *plugin;
}

const xh_backend& Backend() { return *static_cast<const xh_backend*>(BackendPlugin().table); }

Outcome TakeError(xh_error* error) {
  if (error == nullptr) return {};
  Outcome outcome = {error->code, error->text};
  EXPECT_NE(error->code, 0);
  EXPECT_EQ(outcome.message.find('\n'), std::string::npos) << "an error message is one line: " << outcome.message;
  delete error;
  return outcome;
}

Op::Op(xh_op op, int threads) : op_(op) {
  xh_option option = {};
  option.key = "threads";
  option.kind = XH_OPTION_INT;
  option.integer = threads;
  EXPECT_EQ(TakeError(Backend().device_open(0, &option, 1, &device_)).message, "");
  EXPECT_EQ(TakeError(Backend().stream_open(device_, nullptr, &stream_)).message, "");
}

Op::~Op() {
  Backend().stream_close(stream_);
  Backend().device_close(device_);
}

Outcome Op::OpenPlan(xh_pass pass, const std::vector<xh_tensor>& tensors, xh_plan** plan, xh_plan_info* info) {
  xh_op_desc desc = {};
  desc.struct_size = XH_SIZED(xh_op_desc);
  desc.op = op_;
  desc.pass = pass;
  desc.args = tensors.data();
  desc.arg_count = static_cast<int32_t>(tensors.size());
  desc.params_size = static_cast<uint32_t>(params_.size());
  desc.params = params_.empty() ? nullptr : params_.data();
  *info = {};
  info->struct_size = XH_SIZED(xh_plan_info);
  return TakeError(Backend().plan_open(device_, &desc, plan, info));
}

Outcome Op::Open(xh_pass pass, const std::vector<Arg>& args) {
  std::vector<xh_tensor> tensors;
  for (const Arg& arg : args) tensors.push_back(TensorOf(arg));
  xh_plan* plan = nullptr;
  xh_plan_info info;
  Outcome outcome = OpenPlan(pass, tensors, &plan, &info);
  EXPECT_EQ(outcome.code == 0, plan != nullptr);
  Backend().plan_close(plan);
  return outcome;
}

Outcome Op::Run(xh_pass pass, std::vector<Arg>* args) {
  std::vector<xh_tensor> tensors;
  for (const Arg& arg : *args) tensors.push_back(TensorOf(arg));
  xh_plan* plan = nullptr;
  xh_plan_info info;
  Outcome outcome = OpenPlan(pass, tensors, &plan, &info);
  if (outcome.code != 0) return outcome;
  workspace_bytes_ = info.workspace_bytes;
  implementation_ = info.implementation;

  std::vector<Memory> memory;
  std::vector<std::vector<bool>> written;
  memory.reserve(args->size());
  for (size_t i = 0; i < args->size(); ++i) {
    Arg& arg = (*args)[i];
    const int64_t bytes = arg.dtype == 0 ? 0 : (Span(tensors[i]) + arg.offset) * Bytes(arg.dtype);
    memory.emplace_back(bytes);
    written.emplace_back(static_cast<size_t>(bytes), false);
    if (arg.dtype == 0) continue;
    const size_t place = arg.alias < 0 ? i : static_cast<size_t>(arg.alias);
    tensors[i].data = memory[place].data() + arg.offset * Bytes(arg.dtype);
    for (int64_t e = 0; e < Count(tensors[i]); ++e) {
      const int64_t at = OffsetOf(tensors[i], e) * Bytes(arg.dtype);
      if (!arg.values.empty() && arg.alias < 0) {
        Write(static_cast<char*>(tensors[i].data) + at, arg.dtype, arg.values[static_cast<size_t>(e)]);
      }
      if (!Written(op_, pass, static_cast<int>(i))) continue;
      for (int64_t b = 0; b < Bytes(arg.dtype); ++b) {
        written[place][static_cast<size_t>(arg.offset * Bytes(arg.dtype) + at + b)] = true;
      }
    }
  }
  std::vector<std::vector<unsigned char>> before;
  for (const Memory& m : memory) before.push_back(m.Snapshot());
  Memory workspace(info.workspace_bytes), saved(info.saved_bytes);
  if (pass == XH_BACKWARD && info.saved_bytes > 0) {
    EXPECT_EQ(info.saved_bytes, saved_bytes()) << "FORWARD and BACKWARD disagree on the bytes saved";
    if (info.saved_bytes == saved_bytes()) std::memcpy(saved.data(), saved_.data(), saved_.size());
  }
  if (pass == XH_INFER) {
    EXPECT_EQ(info.saved_bytes, 0);
  }
  outcome = TakeError(Backend().plan_run(plan, stream_, tensors.data(), static_cast<int32_t>(tensors.size()),
                                         workspace.data(), saved.data()));
  const Outcome later = TakeError(Backend().synchronize(stream_));
  Backend().plan_close(plan);
  if (outcome.code == 0) outcome = later;

  EXPECT_TRUE(workspace.GuardsIntact()) << "wrote outside the workspace of " << info.workspace_bytes << " bytes";
  EXPECT_TRUE(saved.GuardsIntact()) << "wrote outside the saved memory of " << info.saved_bytes << " bytes";
  for (size_t i = 0; i < args->size(); ++i) {
    EXPECT_TRUE(memory[i].Unchanged(before[i], written[i])) << "changed bytes of argument " << i << " that are not its";
    Arg& arg = (*args)[i];
    if (arg.dtype == 0) continue;
    arg.values.resize(static_cast<size_t>(Count(tensors[i])));
    for (int64_t e = 0; e < Count(tensors[i]); ++e) {
      arg.values[static_cast<size_t>(e)] =
          Read(static_cast<char*>(tensors[i].data) + OffsetOf(tensors[i], e) * Bytes(arg.dtype), arg.dtype);
    }
  }
  if (pass == XH_FORWARD) saved_.assign(saved.data(), saved.data() + info.saved_bytes);
  return outcome;
}

void MustRun(Op& op, xh_pass pass, std::vector<Arg>* args) {
  const Outcome outcome = op.Run(pass, args);
  ASSERT_EQ(outcome.code, 0) << outcome.message;
}

double RelativeError(const std::vector<double>& out, const std::vector<double>& reference) {
  if (out.size() != reference.size()) return INFINITY;
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < out.size(); ++i) {
    difference += (out[i] - reference[i]) * (out[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  return norm == 0.0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace xh::test
