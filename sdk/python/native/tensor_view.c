/* A tensor of a checkpoint where it lies: the buffer protocol for NumPy, DLPack for everyone else. */
#include <stdlib.h>

#include "dlpack.h"
#include "native.h"

typedef struct View {
  PyObject_HEAD NativeHandle* checkpoint; /* in use as long as the view lives */
  xh_tensor tensor;
  Py_ssize_t shape[XH_MAX_RANK], strides[XH_MAX_RANK]; /* strides in bytes */
} View;

typedef struct Element {
  const char* format; /* of the struct module; bf16 has none and is shown as its bits */
  uint8_t code, bytes;
} Element;

static const Element elements[] = {{NULL, 0, 0},     {"f", kDlFloat, 4}, {"e", kDlFloat, 2}, {"H", kDlBfloat, 2},
                                   {"i", kDlInt, 4}, {"q", kDlInt, 8},   {"B", kDlUint, 1}};

static PyTypeObject* view_type;

static const Element* ElementOf(const xh_tensor* tensor) {
  const int known = tensor->dtype > 0 && tensor->dtype < (xh_dtype)(sizeof(elements) / sizeof(elements[0]));
  return known ? &elements[tensor->dtype] : NULL;
}

PyObject* NativeTensorView(const xh_tensor* tensor, PyObject* checkpoint) {
  const Element* element = ElementOf(tensor);
  if (element == NULL) return PyErr_Format(PyExc_TypeError, "the tensor's dtype %d is not known", (int)tensor->dtype);
  NativeHandle* held = NativeTake(checkpoint, &native_checkpoint, NATIVE_SHARED);
  View* view = held != NULL ? PyObject_New(View, view_type) : NULL;
  if (view == NULL) return NativeGive(held, NATIVE_SHARED), NULL;
  view->checkpoint = held;
  view->tensor = *tensor;
  for (int32_t i = 0; i < tensor->rank; ++i) {
    view->shape[i] = (Py_ssize_t)tensor->shape[i];
    view->strides[i] = (Py_ssize_t)tensor->stride[i] * element->bytes;
  }
  return (PyObject*)view;
}

static void Deallocate(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  NativeGive(((View*)self)->checkpoint, NATIVE_SHARED);
  PyObject_Free(self);
  Py_DECREF(type);
}

static Py_ssize_t Elements(const View* view) {
  Py_ssize_t count = 1;
  for (int32_t i = 0; i < view->tensor.rank; ++i) count *= view->shape[i];
  return count;
}

static int GetBuffer(PyObject* self, Py_buffer* buffer, int flags) {
  View* view = (View*)self;
  const Element* element = ElementOf(&view->tensor);
  if ((flags & PyBUF_WRITABLE) == PyBUF_WRITABLE) {
    buffer->obj = NULL;
    PyErr_SetString(PyExc_BufferError, "a tensor of a checkpoint is read-only");
    return -1;
  }
  *buffer = (Py_buffer){.buf = view->tensor.data,
                        .len = Elements(view) * element->bytes,
                        .itemsize = element->bytes,
                        .readonly = 1,
                        .ndim = view->tensor.rank,
                        .format = (flags & PyBUF_FORMAT) ? (char*)element->format : NULL,
                        .shape = (flags & PyBUF_ND) ? view->shape : NULL,
                        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? view->strides : NULL};
  Py_INCREF(self);
  buffer->obj = self;
  return 0;
}

/* ---- DLPack ---- */

/* A consumer may let go from any thread, with or without the GIL. */
static void LetGo(void* owner) {
  if (!Py_IsInitialized()) return;
  const PyGILState_STATE state = PyGILState_Ensure();
  Py_DECREF((PyObject*)owner);
  PyGILState_Release(state);
}

static void Delete(DlManaged* managed) {
  LetGo(managed->owner);
  free(managed);
}

static void DeleteVersioned(DlManagedVersioned* managed) {
  LetGo(managed->owner);
  free(managed);
}

/* Of capsules that nobody took. A consumer renames those that it takes. */
static void Drop(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, "dltensor")) return;
  Delete((DlManaged*)PyCapsule_GetPointer(capsule, "dltensor"));
}

static void DropVersioned(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, "dltensor_versioned")) return;
  DeleteVersioned((DlManagedVersioned*)PyCapsule_GetPointer(capsule, "dltensor_versioned"));
}

static void Fill(View* view, DlTensor* out) {
  const Element* element = ElementOf(&view->tensor);
  out->data = view->tensor.data;
  out->device.device_type = kDlCpu;
  out->ndim = view->tensor.rank;
  out->dtype.code = element->code;
  out->dtype.bits = (uint8_t)(8 * element->bytes);
  out->dtype.lanes = 1;
  out->shape = view->tensor.shape; /* the owner lives as long as they are read */
  out->strides = view->tensor.stride;
}

static PyObject* Capsule(View* view) {
  DlManaged* managed = (DlManaged*)calloc(1, sizeof(DlManaged));
  if (managed == NULL) return PyErr_NoMemory();
  Fill(view, &managed->tensor);
  managed->owner = view;
  managed->deleter = Delete;
  Py_INCREF(view);
  PyObject* capsule = PyCapsule_New(managed, "dltensor", Drop);
  if (capsule == NULL) Delete(managed);
  return capsule;
}

static PyObject* VersionedCapsule(View* view) {
  DlManagedVersioned* managed = (DlManagedVersioned*)calloc(1, sizeof(DlManagedVersioned));
  if (managed == NULL) return PyErr_NoMemory();
  managed->version.major = kDlMajor;
  managed->version.minor = kDlMinor;
  managed->flags = kDlReadOnly;
  Fill(view, &managed->tensor);
  managed->owner = view;
  managed->deleter = DeleteVersioned;
  Py_INCREF(view);
  PyObject* capsule = PyCapsule_New(managed, "dltensor_versioned", DropVersioned);
  if (capsule == NULL) DeleteVersioned(managed);
  return capsule;
}

static PyObject* DlPack(PyObject* self, PyObject* versioned) {
  const int with_version = PyObject_IsTrue(versioned);
  if (with_version < 0) return NULL;
  return with_version ? VersionedCapsule((View*)self) : Capsule((View*)self);
}

/* ---- what it is ---- */

static PyObject* Shape(PyObject* self, void* closure) {
  const View* view = (const View*)self;
  (void)closure;
  PyObject* shape = PyTuple_New(view->tensor.rank);
  for (int32_t i = 0; shape != NULL && i < view->tensor.rank; ++i) {
    PyTuple_SET_ITEM(shape, i, PyLong_FromSsize_t(view->shape[i]));
  }
  return shape;
}

static PyObject* DType(PyObject* self, void* closure) {
  (void)closure;
  return PyLong_FromLong(((View*)self)->tensor.dtype);
}

static PyMethodDef methods[] = {{"dlpack", DlPack, METH_O, "A capsule; of DLPack 1.0 when the argument is true"},
                                {NULL, NULL, 0, NULL}};
static PyGetSetDef properties[] = {{"shape", Shape, NULL, NULL, NULL},
                                   {"dtype", DType, NULL, "One of XH_F32, ...", NULL},
                                   {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot slots[] = {{Py_tp_dealloc, Deallocate},
                              {Py_bf_getbuffer, GetBuffer},
                              {Py_tp_methods, methods},
                              {Py_tp_getset, properties},
                              {0, NULL}};
static PyType_Spec spec = {"xhybrid._native.TensorView", sizeof(View), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

int NativeInitTensors(PyObject* module) {
  view_type = (PyTypeObject*)PyType_FromSpec(&spec);
  if (view_type == NULL) return -1;
  Py_INCREF(view_type);
  return PyModule_AddObject(module, "TensorView", (PyObject*)view_type);
}
