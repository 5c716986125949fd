/* A libcuda.so.1 that is not what a GPU needs. XH_DRIVER_VERSION: the version it answers (13000 unless set);
 * XH_DRIVER_INIT: what cuInit fails with (0 unless set: it succeeds, and there are XH_DRIVER_DEVICES devices, 0 unless
 * set). The CUDA runtime finds every function of the driver through cuGetProcAddress. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*Function)(void);
enum { kInvalidValue = 1, kNotInitialized = 3 };

static int Number(const char* variable, int otherwise) {
  const char* text = getenv(variable);
  return text ? atoi(text) : otherwise;
}

int cuDriverGetVersion(int* version) {
  *version = Number("XH_DRIVER_VERSION", 13000);
  return 0;
}

int cuInit(unsigned flags) {
  (void)flags;
  return Number("XH_DRIVER_INIT", 0);
}

int cuDeviceGetCount(int* count) {
  *count = Number("XH_DRIVER_DEVICES", 0);
  return 0;
}

/* Tables that the runtime knows by number: a driver may lack them. */
int cuGetExportTable(const void** table, const void* id) {
  (void)table;
  (void)id;
  return kInvalidValue;
}

static int Anything(void) { return kNotInitialized; }

int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, int* found) {
  static const struct {
    const char* name;
    Function function;
  } known[] = {{"cuInit", (Function)cuInit},
               {"cuDriverGetVersion", (Function)cuDriverGetVersion},
               {"cuDeviceGetCount", (Function)cuDeviceGetCount},
               {"cuGetExportTable", (Function)cuGetExportTable},
               {"cuGetProcAddress", (Function)cuGetProcAddress_v2}};
  Function result = (Function)Anything;
  size_t i;
  (void)version;
  (void)flags;
  for (i = 0; i < sizeof(known) / sizeof(known[0]); ++i) {
    if (strcmp(known[i].name, name) == 0) result = known[i].function;
  }
  memcpy(function, &result, sizeof(result));
  if (found) *found = 0;
  return 0;
}
