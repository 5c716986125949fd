#include "core/bench/ceilings.h"

#include <algorithm>
#include <chrono>
#include <vector>

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

StatusOr<double> ProductCeiling(const std::shared_ptr<Device>& device, int64_t repeats) {
  constexpr int64_t kSize = 2048;
  Graph graph(device);
  Value x = graph.Input(XH_F32, {kSize, kSize});
  Value w = graph.Input(XH_F32, {kSize, kSize});
  graph.Keep(MatMul(graph, x, w));
  XH_RETURN_IF_ERROR(graph.Compile());
  const std::vector<float> data(kSize * kSize, 0.5f);
  for (Value input : {x, w}) {
    XH_RETURN_IF_ERROR(graph.Write(input, data.data(), static_cast<int64_t>(data.size() * sizeof(float))));
  }
  XH_ASSIGN_OR_RETURN(double seconds, MedianSeconds(repeats, [&]() -> Status {
                        XH_RETURN_IF_ERROR(graph.Run());
                        return device->Synchronize();
                      }));
  return 2.0 * kSize * kSize * kSize / seconds;
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
