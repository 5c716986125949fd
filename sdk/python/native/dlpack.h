/* The structs of DLPack (https://dmlc.github.io/dlpack/latest/c_api.html) that an exporter fills, as its specification
 * lays them out. */
#ifndef XHYBRID_PYTHON_DLPACK_H_
#define XHYBRID_PYTHON_DLPACK_H_

#include <stdint.h>

enum { kDlCpu = 1 };
enum { kDlInt = 0, kDlUint = 1, kDlFloat = 2, kDlBfloat = 4 };
enum { kDlMajor = 1, kDlMinor = 0, kDlReadOnly = 1 };

typedef struct DlTensor {
  void* data;
  struct {
    int32_t device_type, device_id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides; /* in elements */
  uint64_t byte_offset;
} DlTensor;

/* Behind the capsule "dltensor". */
typedef struct DlManaged {
  DlTensor tensor;
  void* owner;
  void (*deleter)(struct DlManaged* self);
} DlManaged;

/* Behind the capsule "dltensor_versioned"; it can say that memory is read-only. */
typedef struct DlManagedVersioned {
  struct {
    uint32_t major, minor;
  } version;
  void* owner;
  void (*deleter)(struct DlManagedVersioned* self);
  uint64_t flags;
  DlTensor tensor;
} DlManagedVersioned;

#endif  // XHYBRID_PYTHON_DLPACK_H_
