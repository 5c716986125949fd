#include "native.h"

static void FreeRuntime(void* object) { xh_runtime_close((xh_runtime*)object); }
static void FreeCheckpoint(void* object) { xh_checkpoint_free((xh_checkpoint*)object); }
static void FreeModel(void* object) { xh_model_free((xh_model*)object); }
static void FreeSession(void* object) { xh_session_free((xh_session*)object); }
static void FreeBatch(void* object) { xh_batch_free((xh_batch*)object); }
static void FreeJob(void* object) { xh_job_free((xh_job*)object); }

const NativeKind native_runtime = {"runtime", FreeRuntime};
const NativeKind native_checkpoint = {"checkpoint", FreeCheckpoint};
const NativeKind native_model = {"model", FreeModel};
const NativeKind native_session = {"session", FreeSession};
const NativeKind native_batch = {"batch", FreeBatch};
const NativeKind native_job = {"job", FreeJob};

static PyTypeObject* handle_type;

/* The pointer is gone before the GIL is: no other thread can come by a freed object. */
static void FreeObject(NativeHandle* handle) {
  void* object = handle->object;
  handle->object = NULL;
  if (object == NULL) return;
  Py_BEGIN_ALLOW_THREADS;
  handle->kind->free(object);
  Py_END_ALLOW_THREADS;
}

PyObject* NativeWrap(void* object, const NativeKind* kind) {
  NativeHandle* handle = PyObject_New(NativeHandle, handle_type);
  if (handle == NULL) {
    kind->free(object);
    return NULL;
  }
  handle->object = object;
  handle->kind = kind;
  handle->uses = 0;
  handle->busy = 0;
  handle->closed = 0;
  return (PyObject*)handle;
}

static int Refuse(const NativeKind* kind, const char* why) {
  char message[128];
  snprintf(message, sizeof(message), "the %s %s", kind->name, why);
  NativeRaise(XH_INVALID_STATE, message, "python");
  return -1;
}

NativeHandle* NativeTake(PyObject* value, const NativeKind* kind, int guard) {
  NativeHandle* handle = (NativeHandle*)value;
  if (Py_TYPE(value) != handle_type || handle->kind != kind) {
    PyErr_Format(PyExc_TypeError, "a %s is needed, not %.100s", kind->name, Py_TYPE(value)->tp_name);
    return NULL;
  }
  if (handle->closed) return Refuse(kind, "is closed"), NULL;
  if (guard == NATIVE_ALONE && handle->busy) {
    return Refuse(kind, "is in use by another thread; it takes one at a time"), NULL;
  }
  if (guard == NATIVE_ALONE) handle->busy = 1;
  ++handle->uses;
  Py_INCREF(handle);
  return handle;
}

void NativeGive(NativeHandle* handle, int guard) {
  if (handle == NULL) return;
  if (guard == NATIVE_ALONE) handle->busy = 0;
  if (--handle->uses == 0 && handle->closed) FreeObject(handle);
  Py_DECREF(handle);
}

static PyObject* Close(PyObject* self, PyObject* none) {
  NativeHandle* handle = (NativeHandle*)self;
  (void)none;
  handle->closed = 1;
  if (handle->uses == 0) FreeObject(handle);
  Py_RETURN_NONE;
}

static PyObject* IsClosed(PyObject* self, void* closure) {
  (void)closure;
  return PyBool_FromLong(((NativeHandle*)self)->closed);
}

static PyObject* Represent(PyObject* self) {
  const NativeHandle* handle = (const NativeHandle*)self;
  return PyUnicode_FromFormat("<native %s%s>", handle->kind->name, handle->closed ? ", closed" : "");
}

static void Deallocate(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  FreeObject((NativeHandle*)self);
  PyObject_Free(self);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {{"close", Close, METH_NOARGS, "Frees the object once no call uses it"},
                                {NULL, NULL, 0, NULL}};
static PyGetSetDef properties[] = {{"closed", IsClosed, NULL, "True after close()", NULL},
                                   {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot slots[] = {{Py_tp_dealloc, Deallocate},
                              {Py_tp_repr, Represent},
                              {Py_tp_methods, methods},
                              {Py_tp_getset, properties},
                              {0, NULL}};
static PyType_Spec spec = {"xhybrid._native.Handle", sizeof(NativeHandle), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

int NativeInitHandles(PyObject* module) {
  handle_type = (PyTypeObject*)PyType_FromSpec(&spec);
  if (handle_type == NULL) return -1;
  Py_INCREF(handle_type);
  return PyModule_AddObject(module, "Handle", (PyObject*)handle_type);
}
