#include "native.h"

int NativeInit(PyObject* module) {
  return NativeInitErrors(module) || NativeInitLog(module) || NativeInitHandles(module) || NativeInitTensors(module)
             ? -1
             : 0;
}
