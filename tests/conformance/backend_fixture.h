// Runs single ops of a backend plugin on tensors given as doubles. The plugin is loaded through xh_plugin_v1 with a
// host table of host.h: no part of the core is involved. Every run surrounds outputs, workspace and saved memory
// with bytes that must not change, fills what is not yet written with NaN, and checks that inputs are left alone.
#ifndef XHYBRID_TESTS_CONFORMANCE_BACKEND_FIXTURE_H_
#define XHYBRID_TESTS_CONFORMANCE_BACKEND_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/conformance/host.h"
#include "xhybrid_plugin.h"

namespace xh::test {

// One argument of a call. `values` are in row-major order of `shape` whatever the layout in memory; of an output they
// are replaced by the run. Empty values of an output start as NaN.
struct Arg {
  xh_dtype dtype = 0;  // 0: absent
  std::vector<int64_t> shape;
  std::vector<double> values;
  std::vector<int> order = {};  // dimensions from outermost to innermost in memory; empty: 0, 1, 2, ...
  int64_t gap = 0;              // unused elements after each innermost run in memory
  int64_t offset = 0;           // elements between a 64-byte boundary and the first element
  bool accumulate = false;      // XH_TENSOR_ACCUMULATE
  int alias = -1;               // the argument whose memory this one shares

  int64_t size() const;
};

Arg Absent();
Arg Of(xh_dtype dtype, std::vector<int64_t> shape, std::vector<double> values);  // values rounded to the dtype
Arg Output(xh_dtype dtype, std::vector<int64_t> shape);
// A gradient to be written, and the same to be added to `before`.
Arg Added(Arg gradient, std::vector<double> before);
// Normal numbers times `scale`, rounded to the dtype.
Arg Random(xh_dtype dtype, std::vector<int64_t> shape, uint32_t seed, double scale = 1.0);
// A [B,H,T,d] argument stored token by token, [B,T,H,d], with `gap` unused elements after each row.
Arg TokenMajor(Arg arg, int64_t gap = 0);

// One op with its parameters on one device. FORWARD keeps its saved memory for the BACKWARD that follows.
class Op {
 public:
  explicit Op(xh_op op, int threads = 2);
  template <class P>
  Op(xh_op op, const P& params, int threads = 2) : Op(op, threads) {
    params_.assign(reinterpret_cast<const char*>(&params), sizeof(P));
  }
  void SetParams(std::string bytes) { params_ = std::move(bytes); }
  ~Op();
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;

  // Opens a plan and closes it again.
  Outcome Open(xh_pass pass, const std::vector<Arg>& args);
  // Opens a plan, runs it and reads every argument back. A breach of the memory rules is a GoogleTest failure.
  Outcome Run(xh_pass pass, std::vector<Arg>* args);

  int64_t workspace_bytes() const { return workspace_bytes_; }
  int64_t saved_bytes() const { return static_cast<int64_t>(saved_.size()); }
  const std::string& implementation() const { return implementation_; }
  xh_op op() const { return op_; }

 private:
  Outcome OpenPlan(xh_pass pass, const std::vector<xh_tensor>& tensors, xh_plan** plan, xh_plan_info* info);

  xh_op op_;
  std::string params_;
  xh_device* device_ = nullptr;
  xh_stream* stream_ = nullptr;
  std::vector<char> saved_;
  int64_t workspace_bytes_ = 0;
  std::string implementation_;
};

// What the plugin interface calls an argument; data is NULL.
xh_tensor TensorOf(const Arg& arg);

// Device 0 and a stream while it lives.
class OpenDeviceScope {
 public:
  OpenDeviceScope();
  ~OpenDeviceScope();
  OpenDeviceScope(const OpenDeviceScope&) = delete;
  xh_device* device() { return device_; }
  xh_stream* stream() { return stream_; }

 private:
  xh_device* device_ = nullptr;
  xh_stream* stream_ = nullptr;
};

// Gives the outcome back. Where the backend leaves the call out (XH_UNSUPPORTED) the test ends here, as a gap.
Outcome EndAtGap(xh_op op, const std::string& dtype, xh_pass pass, const Outcome& outcome);
// As Open and Run of the op, behind EndAtGap.
Outcome OpenOrGap(Op& op, xh_pass pass, const std::vector<Arg>& args);
Outcome RunOrGap(Op& op, xh_pass pass, std::vector<Arg>* args);
// Runs a pass that must succeed or be left out. Where it fails the test ends here.
void MustRun(Op& op, xh_pass pass, std::vector<Arg>* args);

// What is thrown at a gap, already reported: a check of several calls may catch it and go on.
class Unsupported : public testing::AssertionException {
 public:
  using testing::AssertionException::AssertionException;
};

// The backend under test. Without UseBackend it is xhybrid_cpu.so of this build.
void UseBackend(const xh_plugin* plugin);
const xh_plugin& BackendPlugin();
const xh_backend& Backend();

// What this backend promises beyond the interface, and tests may ask for: with `exact`, INFER gives FORWARD's bits and
// no result depends on the number of threads.
struct Promises {
  bool exact = false;
};
Promises& PromisesOfBackend();

// Where golden vectors lie; tests/vectors of this source tree unless set.
void SetVectorsDirectory(const std::string& path);
const std::string& VectorsDirectory();

// ||out - reference|| / ||reference||; the absolute norm where the reference is zero. NaN anywhere gives NaN.
double RelativeError(const std::vector<double>& out, const std::vector<double>& reference);
double RoundTo(xh_dtype dtype, double value);

// A file of VectorsDirectory(). f32 tensors stay f32; i64 become i32.
class Vectors {
 public:
  explicit Vectors(const std::string& name);
  const Arg& operator[](const std::string& tensor) const;
  double Number(const std::string& key) const;  // of the metadata

 private:
  std::map<std::string, Arg> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace xh::test

#endif  // XHYBRID_TESTS_CONFORMANCE_BACKEND_FIXTURE_H_
