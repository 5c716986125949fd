/* What the typemaps of sdk/swig/python.i call. Everything here runs with the GIL held, NativeLog apart; a function that
 * can fail sets a Python exception and gives -1 or NULL. */
#ifndef XHYBRID_PYTHON_NATIVE_H_
#define XHYBRID_PYTHON_NATIVE_H_

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "xhybrid.h"

/* Adds the types and functions below to the module. */
int NativeInit(PyObject* module);
int NativeInitHandles(PyObject* module);
int NativeInitErrors(PyObject* module);
int NativeInitLog(PyObject* module);
int NativeInitTensors(PyObject* module);

/* ---- errors ---- */

void NativeRaise(xh_code code, const char* message, const char* origin);
void NativeRaiseError(xh_error* error); /* takes it over */

/* ---- log ---- */

/* Keeps a message until a thread of Python comes by; any thread, without the GIL. */
void NativeLog(void* user, xh_log_level level, const char* origin, const char* text);
/* Hands what was kept to the function that Python gave, if there is something. */
void NativeDrainLog(void);

/* ---- handles ---- */

typedef struct NativeKind {
  const char* name;
  void (*free)(void*);
} NativeKind;
extern const NativeKind native_runtime, native_checkpoint, native_model, native_session, native_batch, native_job;

/* An object of the library. It is freed once: when it was closed and nothing uses it any more, or with the last
 * reference. */
typedef struct NativeHandle {
  PyObject_HEAD void* object; /* NULL when freed */
  const NativeKind* kind;
  Py_ssize_t uses; /* calls in progress and views of its memory */
  int busy;        /* a call that suffers no other is in progress */
  int closed;
} NativeHandle;

enum { NATIVE_SHARED = 0, NATIVE_ALONE = 1 };
PyObject* NativeWrap(void* object, const NativeKind* kind);
/* A handle of this kind, in use until NativeGive; refused when closed, or when NATIVE_ALONE finds it busy. */
NativeHandle* NativeTake(PyObject* value, const NativeKind* kind, int guard);
void NativeGive(NativeHandle* handle, int guard); /* NULL is allowed */

/* ---- arguments ---- */

/* UTF-8 of a str, or bytes; size may be NULL, and then zero bytes inside are refused. None gives NULL. */
int NativeText(PyObject* value, const char* name, char** text, int64_t* size);

typedef struct NativeBuffer {
  Py_buffer view;
  int held;
} NativeBuffer;
int NativeReadable(PyObject* value, NativeBuffer* buffer);
int NativeFloats(PyObject* value, NativeBuffer* buffer); /* writable, contiguous, float32 */
void NativeRelease(NativeBuffer* buffer);

/* Token ids: lent by a buffer of int32, else copied. */
typedef struct NativeIds {
  const int32_t* data;
  int64_t count;
  int32_t* copy;
  NativeBuffer buffer;
} NativeIds;
int NativeIdsFrom(PyObject* value, NativeIds* ids);
void NativeIdsRelease(NativeIds* ids);
int NativeRoom(PyObject* capacity, int32_t** room, int64_t* count);

typedef struct NativeOptions {
  xh_option* items;
  int64_t count;
} NativeOptions;
int NativeOptionsFrom(PyObject* dict, NativeOptions* options);
void NativeOptionsRelease(NativeOptions* options);
int NativeConfigFrom(PyObject* value, xh_runtime_config* config, NativeOptions* options);

typedef struct NativeSlots {
  int64_t count;
  int32_t* tokens;
  int32_t* finished;
  int64_t* sizes;
  const char** pieces;
} NativeSlots;
int NativeSlotsOf(PyObject* count, NativeSlots* slots);
void NativeSlotsRelease(NativeSlots* slots);

/* ---- results ---- */

/* `made` in the place of a result that is none; every wrapped function has one output. */
static inline PyObject* NativeInstead(PyObject* none, PyObject* made) {
  Py_XDECREF(none);
  return made;
}

PyObject* NativeString(const char* text); /* None for NULL */
PyObject* NativeIdsList(const int32_t* ids, int64_t count);
PyObject* NativeToken(int32_t id, const char* piece, int64_t size, int32_t finished);
PyObject* NativeSlotTokens(const NativeSlots* slots);
PyObject* NativePluginInfo(const xh_plugin_info* info);
/* A read-only view with the buffer protocol and DLPack; its checkpoint's memory stays while it lives. */
PyObject* NativeTensorView(const xh_tensor* tensor, PyObject* checkpoint);

#endif  // XHYBRID_PYTHON_NATIVE_H_
