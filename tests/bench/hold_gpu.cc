// Takes the memory of GPU 0 until so many megabytes are left, says so, and holds it until its standard input ends:
//   hold_gpu MEGABYTES
// Through the driver alone, so that it is built without a toolkit: g++ -std=c++20 hold_gpu.cc -ldl
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

namespace {

void* g_driver = nullptr;

// Calls a function of the driver; ends the program where it fails and `must` is set.
template <class... Arguments>
int Call(bool must, const char* name, Arguments... arguments) {
  const auto function = reinterpret_cast<int (*)(Arguments...)>(dlsym(g_driver, name));
  const int error = function == nullptr ? -1 : function(arguments...);
  if (error == 0 || !must) return error;
  std::fprintf(stderr, "hold_gpu: %s: error %d\n", name, error);
  std::exit(1);
}

size_t FreeBytes() {
  size_t free = 0, total = 0;
  Call(true, "cuMemGetInfo_v2", &free, &total);
  return free;
}

// Pieces that become smaller where the free memory is in parts.
size_t Take(size_t leave) {
  size_t taken = 0;
  for (size_t piece = size_t{1} << 36; piece >= size_t{1} << 21;) {
    unsigned long long memory = 0;
    if (FreeBytes() >= leave + piece && Call(false, "cuMemAlloc_v2", &memory, piece) == 0) {
      taken += piece;
    } else {
      piece /= 2;
    }
  }
  return taken;
}

}  // namespace

int main(int argc, char** argv) {
  g_driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (argc != 2 || g_driver == nullptr) {
    std::fprintf(stderr, "usage: hold_gpu MEGABYTES (%s)\n", g_driver == nullptr ? dlerror() : "one number");
    return 2;
  }
  void* context = nullptr;
  Call(true, "cuInit", 0u);
  Call(true, "cuDevicePrimaryCtxRetain", &context, 0);
  Call(true, "cuCtxSetCurrent", context);
  const size_t taken = Take(static_cast<size_t>(std::atoll(argv[1])) << 20);
  std::printf("holds %zu MiB, %zu MiB are free\n", taken >> 20, FreeBytes() >> 20);
  std::fflush(stdout);
  while (std::getchar() != EOF) continue;
  return 0;
}
