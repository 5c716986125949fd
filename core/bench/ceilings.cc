#include "core/bench/ceilings.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/checkpoint/dtype.h"
#include "core/ops.h"

namespace xh {

StatusOr<double> MedianSeconds(int64_t repeats, const std::function<Status()>& run) {
  XH_RETURN_IF_ERROR(run());
  std::vector<double> seconds;
  for (int64_t i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    XH_RETURN_IF_ERROR(run());
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[static_cast<size_t>(repeats / 2)];
}

namespace {

// Seconds of a product of square matrices.
StatusOr<double> ProductSeconds(const std::shared_ptr<Device>& device, xh_dtype dtype, int64_t size, int64_t repeats) {
  Graph graph(device);
  Value x = graph.Input(dtype, {size, size});
  Value w = graph.Input(dtype, {size, size});
  graph.Keep(MatMul(graph, x, w));
  XH_RETURN_IF_ERROR(graph.Compile());
  // Numbers that differ: a chip runs faster on constant ones, as fewer wires change.
  std::vector<float> data(static_cast<size_t>(size * size));
  uint32_t state = 1;
  for (float& value : data) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 16) / 65536.0f - 0.5f;
  }
  std::vector<char> bytes(data.size() * static_cast<size_t>(DTypeBytes(dtype)));
  FromF32(data.data(), static_cast<int64_t>(data.size()), dtype, bytes.data());
  for (Value input : {x, w}) XH_RETURN_IF_ERROR(graph.Write(input, bytes.data(), static_cast<int64_t>(bytes.size())));
  return MedianSeconds(repeats, [&]() -> Status {
    XH_RETURN_IF_ERROR(graph.Run());
    return device->Synchronize();
  });
}

}  // namespace

StatusOr<ProductRate> ProductCeiling(const std::shared_ptr<Device>& device, xh_dtype dtype, int64_t repeats) {
  constexpr double kTooShort = 2e-3;  // seconds: starting and ending would count
  ProductRate rate{0, 2048};
  XH_ASSIGN_OR_RETURN(double seconds, ProductSeconds(device, dtype, rate.size, repeats));
  if (seconds < kTooShort) {
    rate.size = 8192;
    XH_ASSIGN_OR_RETURN(seconds, ProductSeconds(device, dtype, rate.size, repeats));
  }
  const auto size = static_cast<double>(rate.size);
  rate.flops = 2.0 * size * size * size / seconds;
  return rate;
}

StatusOr<double> CopyCeiling(const std::shared_ptr<Device>& device, int64_t repeats) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  XH_ASSIGN_OR_RETURN(Buffer from, device->Allocate(kBytes));
  XH_ASSIGN_OR_RETURN(Buffer to, device->Allocate(kBytes));
  Graph fill(device);  // pages that were never written are not real memory
  Fill(fill, fill.External(from.data(), XH_F32, {kBytes / 4}), 1.0f);
  XH_RETURN_IF_ERROR(fill.Compile());
  XH_RETURN_IF_ERROR(fill.Run());
  XH_ASSIGN_OR_RETURN(double seconds, MedianSeconds(repeats, [&]() -> Status {
                        XH_RETURN_IF_ERROR(device->Copy(to.data(), from.data(), kBytes));
                        return device->Synchronize();
                      }));
  return 2.0 * kBytes / seconds;
}

}  // namespace xh
