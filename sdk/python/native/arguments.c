#include "native.h"

int NativeText(PyObject* value, const char* name, char** text, int64_t* size) {
  Py_ssize_t length = 0;
  if (value == Py_None) {
    *text = NULL;
  } else if (PyUnicode_Check(value)) {
    *text = (char*)PyUnicode_AsUTF8AndSize(value, &length);
    if (*text == NULL) return -1;
  } else if (PyBytes_Check(value)) {
    *text = PyBytes_AS_STRING(value);
    length = PyBytes_GET_SIZE(value);
  } else {
    PyErr_Format(PyExc_TypeError, "%s is %.100s; allowed: str", name, Py_TYPE(value)->tp_name);
    return -1;
  }
  if (size != NULL) {
    *size = (int64_t)length;
  } else if (*text != NULL && strlen(*text) != (size_t)length) {
    PyErr_Format(PyExc_ValueError, "%s has a zero byte inside", name);
    return -1;
  }
  return 0;
}

int NativeReadable(PyObject* value, NativeBuffer* buffer) {
  if (PyObject_GetBuffer(value, &buffer->view, PyBUF_SIMPLE) != 0) return -1;
  buffer->held = 1;
  return 0;
}

/* True for a format of one item, in this machine's order, whose letter is among `letters`. */
static int IsFormat(const Py_buffer* view, const char* letters) {
  const char* format = view->format != NULL ? view->format : "B";
  if (format[0] == '@' || format[0] == '=' || format[0] == '<') ++format;
  return format[0] != '\0' && format[1] == '\0' && strchr(letters, format[0]) != NULL;
}

int NativeFloats(PyObject* value, NativeBuffer* buffer) {
  if (PyObject_GetBuffer(value, &buffer->view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) != 0) return -1;
  buffer->held = 1;
  if (IsFormat(&buffer->view, "f")) return 0;
  PyErr_Format(PyExc_TypeError, "out has elements of format \"%s\"; allowed: float32", buffer->view.format);
  return -1;
}

void NativeRelease(NativeBuffer* buffer) {
  if (buffer->held) PyBuffer_Release(&buffer->view);
  buffer->held = 0;
}

static int32_t* Room(int64_t count) {
  return (int32_t*)PyMem_Malloc(sizeof(int32_t) * (size_t)(count > 0 ? count : 1));
}

static int RefuseId(Py_ssize_t index) {
  PyErr_Format(PyExc_ValueError, "ids[%zd] is out of range; allowed: token ids, which are 32-bit integers", index);
  return -1;
}

/* An integer of 1 to 8 bytes. One that does not fit into 64 bits with a sign is out of range in any case. */
static int64_t IntegerAt(const char* at, Py_ssize_t size, int is_signed) {
  uint64_t bits = 0;
  memcpy(&bits, at, (size_t)size); /* little-endian, as every machine that the library runs on */
  if (size == 8) return !is_signed && bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
  const uint64_t sign = (uint64_t)1 << (8 * size - 1);
  return is_signed && (bits & sign) ? (int64_t)bits - (int64_t)(sign << 1) : (int64_t)bits;
}

/* Integers of another width, or with a step between them. */
static int CopyBuffer(const Py_buffer* view, NativeIds* ids) {
  const Py_ssize_t step = view->strides != NULL ? view->strides[0] : view->itemsize;
  const int is_signed = IsFormat(view, "bhilq");
  for (Py_ssize_t i = 0; i < (Py_ssize_t)ids->count; ++i) {
    const int64_t id = IntegerAt((const char*)view->buf + i * step, view->itemsize, is_signed);
    if (id < INT32_MIN || id > INT32_MAX) return RefuseId(i);
    ids->copy[i] = (int32_t)id;
  }
  return 0;
}

static int IdsFromBuffer(PyObject* value, NativeIds* ids) {
  if (PyObject_GetBuffer(value, &ids->buffer.view, PyBUF_STRIDES | PyBUF_FORMAT) != 0) return -1;
  ids->buffer.held = 1;
  const Py_buffer* view = &ids->buffer.view;
  if (view->ndim != 1) {
    PyErr_Format(PyExc_ValueError, "ids has %d dimensions; allowed: 1", view->ndim);
    return -1;
  }
  if (!IsFormat(view, "bBhHiIlLqQ")) {
    PyErr_Format(PyExc_TypeError, "ids has elements of format \"%s\"; allowed: integers", view->format);
    return -1;
  }
  ids->count = (int64_t)view->shape[0];
  if (view->itemsize == 4 && IsFormat(view, "il") && PyBuffer_IsContiguous(view, 'C')) {
    ids->data = (const int32_t*)view->buf;
    return 0;
  }
  ids->copy = Room(ids->count);
  if (ids->copy == NULL) return PyErr_NoMemory(), -1;
  ids->data = ids->copy;
  return CopyBuffer(view, ids);
}

static int IdFrom(PyObject* item, Py_ssize_t index, int32_t* id) {
  PyObject* number = PyNumber_Index(item);
  if (number == NULL) {
    PyErr_Format(PyExc_TypeError, "ids[%zd] is %.100s; allowed: int", index, Py_TYPE(item)->tp_name);
    return -1;
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
  Py_DECREF(number);
  if (overflow != 0 || value < INT32_MIN || value > INT32_MAX) return RefuseId(index);
  *id = (int32_t)value;
  return 0;
}

static int IdsFromSequence(PyObject* value, NativeIds* ids) {
  PyObject* items = PySequence_Tuple(value); /* a copy: what is computed must not move while other threads run */
  if (items == NULL) return -1;
  ids->count = (int64_t)PyTuple_GET_SIZE(items);
  ids->copy = Room(ids->count);
  ids->data = ids->copy;
  int failed = ids->copy == NULL;
  if (failed) PyErr_NoMemory();
  for (Py_ssize_t i = 0; !failed && i < (Py_ssize_t)ids->count; ++i) {
    failed = IdFrom(PyTuple_GET_ITEM(items, i), i, &ids->copy[i]) != 0;
  }
  Py_DECREF(items);
  return failed ? -1 : 0;
}

int NativeIdsFrom(PyObject* value, NativeIds* ids) {
  if (PyUnicode_Check(value) || PyBytes_Check(value)) {
    PyErr_Format(PyExc_TypeError, "ids is %.100s; allowed: integers, as Model.encode gives them",
                 Py_TYPE(value)->tp_name);
    return -1;
  }
  return PyObject_CheckBuffer(value) ? IdsFromBuffer(value, ids) : IdsFromSequence(value, ids);
}

void NativeIdsRelease(NativeIds* ids) {
  PyMem_Free(ids->copy);
  ids->copy = NULL;
  NativeRelease(&ids->buffer);
}

int NativeRoom(PyObject* capacity, int32_t** room, int64_t* count) {
  *count = PyLong_AsLongLong(capacity);
  if (*count == -1 && PyErr_Occurred()) return -1;
  *room = Room(*count);
  return *room != NULL ? 0 : (PyErr_NoMemory(), -1);
}

int NativeSlotsOf(PyObject* count, NativeSlots* slots) {
  slots->count = PyLong_AsLongLong(count);
  if (slots->count == -1 && PyErr_Occurred()) return -1;
  const size_t number = (size_t)(slots->count > 0 ? slots->count : 1);
  slots->tokens = (int32_t*)PyMem_Calloc(number, sizeof(int32_t));
  slots->finished = (int32_t*)PyMem_Calloc(number, sizeof(int32_t));
  slots->sizes = (int64_t*)PyMem_Calloc(number, sizeof(int64_t));
  slots->pieces = (const char**)PyMem_Calloc(number, sizeof(char*));
  if (slots->tokens && slots->finished && slots->sizes && slots->pieces) return 0;
  return PyErr_NoMemory(), -1;
}

void NativeSlotsRelease(NativeSlots* slots) {
  PyMem_Free(slots->tokens);
  PyMem_Free(slots->finished);
  PyMem_Free(slots->sizes);
  PyMem_Free((void*)slots->pieces);
}
