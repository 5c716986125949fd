#include "tests/conformance/backend_fixture.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/conformance/coverage.h"
#include "tests/conformance/device_memory.h"

namespace xh::test {
namespace {

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
    case XH_OP_HYBRID_STEP:
      return {16, 1};
    case XH_OP_DENSE:
    case XH_OP_HEAD_GATE:
    case XH_OP_DISTILL_LOSS:
      return {5, 1};
    case XH_OP_ADAMW:
      return {2, 4};
    default:
      return {2, 1};
  }
}

// Whether the op may write argument `index` in this pass. A decoding attention also writes its cache, a step of a
// hybrid mixer its state too.
bool Written(xh_op op, xh_pass pass, int index) {
  const Counts counts = CountsOf(op);
  if (pass == XH_BACKWARD) return index >= counts.inputs + 2 * counts.outputs;
  const bool cache = op == XH_OP_ATTENTION && (index == 3 || index == 4);
  const bool state = op == XH_OP_HYBRID_STEP && index >= 11;
  return index >= counts.inputs || cache || state;
}

// Writes argument `i` into its memory, and marks the bytes that the op may write.
void Fill(const Arg& arg, const xh_tensor& tensor, bool may_write, std::vector<DeviceMemory>* memory,
          std::vector<std::vector<bool>>* written, size_t i) {
  const size_t place = arg.alias < 0 ? i : static_cast<size_t>(arg.alias);
  for (int64_t e = 0; e < Count(tensor); ++e) {
    const int64_t at = (arg.offset + OffsetOf(tensor, e)) * Bytes(arg.dtype);
    if (!arg.values.empty() && arg.alias < 0) {
      Write((*memory)[i].host() + at, arg.dtype, arg.values[static_cast<size_t>(e)]);
    }
    for (int64_t b = 0; may_write && b < Bytes(arg.dtype); ++b) (*written)[place][static_cast<size_t>(at + b)] = true;
  }
}

void ReadBack(Arg* arg, const xh_tensor& tensor, DeviceMemory& memory) {
  arg->values.resize(static_cast<size_t>(Count(tensor)));
  for (int64_t e = 0; e < Count(tensor); ++e) {
    const int64_t at = (arg->offset + OffsetOf(tensor, e)) * Bytes(arg->dtype);
    arg->values[static_cast<size_t>(e)] = Read(memory.host() + at, arg->dtype);
  }
}

const xh_plugin* LoadCpu() {
  const std::string path = std::string(XH_TEST_PLUGINS) + "/xhybrid_cpu.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "cannot load %s: %s\n", path.c_str(), dlerror());
    std::exit(2);
  }
  return reinterpret_cast<xh_plugin_entry>(dlsym(library, "xh_plugin_v1"))(&TestHost(), 0);
}

const xh_plugin*& ThePlugin() {
  static const xh_plugin* plugin = nullptr;
  return plugin;
}

std::string& TheVectors() {
  static std::string path = XH_TEST_DATA;
  return path;
}

// Opens a device with this number of threads; backends without threads do not know the option.
xh_device* OpenDevice(int threads) {
  xh_option option = {};
  option.key = "threads";
  option.kind = XH_OPTION_INT;
  option.integer = threads;
  xh_device* device = nullptr;
  Outcome outcome = TakeError(Backend().device_open(0, &option, 1, &device));
  if (outcome.code == XH_INVALID_ARGUMENT) outcome = TakeError(Backend().device_open(0, nullptr, 0, &device));
  EXPECT_EQ(outcome.code, 0) << outcome.message;
  return device;
}

// The skip of a test because of what a backend does not support, reported; the caller has to leave.
void SkipTest(const std::string& why) { GTEST_SKIP() << why; }
void FailTest(const std::string& why) { FAIL() << why; }

}  // namespace

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

void UseBackend(const xh_plugin* plugin) { ThePlugin() = plugin; }

const xh_plugin& BackendPlugin() {
  if (ThePlugin() == nullptr) ThePlugin() = LoadCpu();
  return *ThePlugin();
}

const xh_backend& Backend() { return *static_cast<const xh_backend*>(BackendPlugin().table); }

Promises& PromisesOfBackend() {
  static Promises promises;
  return promises;
}

void SetVectorsDirectory(const std::string& path) { TheVectors() = path; }
const std::string& VectorsDirectory() { return TheVectors(); }

OpenDeviceScope::OpenDeviceScope() {
  EXPECT_EQ(TakeError(Backend().device_open(0, nullptr, 0, &device_)).message, "");
  EXPECT_EQ(TakeError(Backend().stream_open(device_, nullptr, &stream_)).message, "");
}

OpenDeviceScope::~OpenDeviceScope() {
  Backend().stream_close(stream_);
  Backend().device_close(device_);
}

Op::Op(xh_op op, int threads) : op_(op), device_(OpenDevice(threads)) {
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

  std::vector<DeviceMemory> memory;
  std::vector<std::vector<bool>> written;
  memory.reserve(args->size());
  for (size_t i = 0; i < args->size(); ++i) {
    const Arg& arg = (*args)[i];
    memory.emplace_back(arg.dtype == 0 ? 0 : (Span(tensors[i]) + arg.offset) * Bytes(arg.dtype));
    written.emplace_back(static_cast<size_t>(memory[i].bytes()), false);
    if (arg.dtype != 0) Fill(arg, tensors[i], Written(op_, pass, static_cast<int>(i)), &memory, &written, i);
  }
  for (DeviceMemory& m : memory) m.Upload(device_, stream_);
  for (size_t i = 0; i < args->size(); ++i) {
    const Arg& arg = (*args)[i];
    const size_t place = arg.alias < 0 ? i : static_cast<size_t>(arg.alias);
    if (arg.dtype != 0) {
      tensors[i].data = static_cast<char*>(memory[place].device()) + arg.offset * Bytes(arg.dtype);
    }
  }
  DeviceMemory workspace(info.workspace_bytes, std::max<int64_t>(info.alignment, 1));
  DeviceMemory saved(info.saved_bytes, std::max<int64_t>(info.alignment, 1));
  if (pass == XH_BACKWARD && info.saved_bytes > 0) {
    EXPECT_EQ(info.saved_bytes, saved_bytes()) << "FORWARD and BACKWARD disagree on the bytes saved";
    if (info.saved_bytes == saved_bytes()) std::memcpy(saved.host(), saved_.data(), saved_.size());
  }
  if (pass == XH_INFER) {
    EXPECT_EQ(info.saved_bytes, 0) << "INFER saves nothing";
  }
  workspace.Upload(device_, stream_);
  saved.Upload(device_, stream_);
  outcome = TakeError(Backend().plan_run(plan, stream_, tensors.data(), static_cast<int32_t>(tensors.size()),
                                         workspace.device(), saved.device()));
  const Outcome later = TakeError(Backend().synchronize(stream_));
  Backend().plan_close(plan);
  if (outcome.code == 0) outcome = later;

  workspace.Download();
  saved.Download();
  for (DeviceMemory& m : memory) m.Download();
  if (!workspace.GuardsIntact()) {
    ADD_FAILURE() << OpName(op_) << " wrote outside the workspace of " << info.workspace_bytes << " bytes";
  }
  if (!saved.GuardsIntact()) {
    ADD_FAILURE() << OpName(op_) << " wrote outside the saved memory of " << info.saved_bytes << " bytes";
  }
  for (size_t i = 0; i < args->size(); ++i) {
    if (!memory[i].Unchanged(written[i])) {
      ADD_FAILURE() << OpName(op_) << " changed bytes of argument " << i << " that are not its to write";
    }
    Arg& arg = (*args)[i];
    if (arg.dtype != 0) ReadBack(&arg, tensors[i], memory[arg.alias < 0 ? i : static_cast<size_t>(arg.alias)]);
  }
  if (pass == XH_FORWARD) saved_.assign(saved.host(), saved.host() + info.saved_bytes);
  return outcome;
}

namespace {

std::string DtypesOf(const std::vector<Arg>& args) {
  std::vector<xh_dtype> dtypes;
  for (const Arg& arg : args) dtypes.push_back(arg.dtype);
  return DtypeName(dtypes);
}

}  // namespace

Outcome EndAtGap(xh_op op, const std::string& dtype, xh_pass pass, const Outcome& outcome) {
  if (outcome.code != XH_UNSUPPORTED) return outcome;
  CountCall(op, dtype, pass, false, outcome.message);
  const std::string why = std::string(OpName(op)) + " " + dtype + ": " + outcome.message;
  SkipTest(why);
  throw Unsupported(testing::TestPartResult(testing::TestPartResult::kSkip, __FILE__, __LINE__, why.c_str()));
}

Outcome OpenOrGap(Op& op, xh_pass pass, const std::vector<Arg>& args) {
  return EndAtGap(op.op(), DtypesOf(args), pass, op.Open(pass, args));
}

Outcome RunOrGap(Op& op, xh_pass pass, std::vector<Arg>* args) {
  const std::string dtype = DtypesOf(*args);
  return EndAtGap(op.op(), dtype, pass, op.Run(pass, args));
}

void MustRun(Op& op, xh_pass pass, std::vector<Arg>* args) {
  const std::string dtype = DtypesOf(*args);
  const Outcome outcome = RunOrGap(op, pass, args);
  CountCall(op.op(), dtype, pass, true, "");
  if (outcome.code == 0) return;
  const std::string why = std::string(OpName(op.op())) + " " + dtype + ": " + outcome.message;
  FailTest(why);
  throw testing::AssertionException(
      testing::TestPartResult(testing::TestPartResult::kFatalFailure, __FILE__, __LINE__, why.c_str()));
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
