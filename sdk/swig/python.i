/* Typemaps of Python. What they call is written by hand in sdk/python/native; SWIG writes the argument lists, releases
 * the GIL around every call (-threads) and keeps the two from drifting apart. */
%{
#include "native.h"
%}

%init %{
  NativeInit(m); /* an exception that it leaves fails the import */
%}

/* Structs are made from values of Python, and values of Python from structs. */
%ignore xh_option;
%ignore xh_runtime_config;
%ignore xh_plugin_info;
%ignore xh_tensor;

/* ---- errors: an exception in place of a result ------------------------------------------------------------------- */

%typemap(out) xh_error * {
  NativeDrainLog();
  if ($1 != NULL) {
    NativeRaiseError($1);
    SWIG_fail;
  }
  $result = SWIG_Py_Void();
}

/* ---- handles ----------------------------------------------------------------------------------------------------- */

/* An argument holds its handle for the call: closing it meanwhile frees it afterwards. SHARED handles take any number of
 * calls at once, the others one. */
%define HANDLE(TYPE, KIND, GUARD)
%typemap(in) TYPE * (NativeHandle *held = NULL) {
  held = NativeTake($input, &KIND, GUARD);
  if (held == NULL) SWIG_fail;
  $1 = (TYPE *)held->object;
}
%typemap(freearg) TYPE * { NativeGive(held$argnum, GUARD); }
%apply TYPE * { const TYPE * };
%enddef
%define HANDED_OVER(TYPE, KIND)
%typemap(in, numinputs=0) TYPE **out (TYPE *made = NULL) { $1 = &made; }
%typemap(argout) TYPE **out { $result = NativeInstead($result, NativeWrap(*$1, &KIND)); }
%enddef
HANDLE(xh_runtime, native_runtime, NATIVE_SHARED)
HANDLE(xh_checkpoint, native_checkpoint, NATIVE_SHARED)
HANDLE(xh_model, native_model, NATIVE_SHARED)
HANDLE(xh_session, native_session, NATIVE_ALONE)
HANDLE(xh_batch, native_batch, NATIVE_ALONE)
HANDLE(xh_job, native_job, NATIVE_ALONE)
HANDED_OVER(xh_runtime, native_runtime)
HANDED_OVER(xh_checkpoint, native_checkpoint)
HANDED_OVER(xh_model, native_model)
HANDED_OVER(xh_session, native_session)
HANDED_OVER(xh_batch, native_batch)
HANDED_OVER(xh_job, native_job)

/* A handle frees itself: NativeHandle.close, or when it is collected. */
%ignore xh_runtime_close;
%ignore xh_checkpoint_free;
%ignore xh_model_free;
%ignore xh_session_free;
%ignore xh_batch_free;
%ignore xh_job_free;

/* The one call that another thread may make while a job works. */
%typemap(in) xh_job *any_thread (NativeHandle *held = NULL) {
  held = NativeTake($input, &native_job, NATIVE_SHARED);
  if (held == NULL) SWIG_fail;
  $1 = (xh_job *)held->object;
}
%typemap(freearg) xh_job *any_thread { NativeGive(held$argnum, NATIVE_SHARED); }
%ignore xh_job_cancel;
%rename(xh_job_cancel) NativeCancel;
%inline %{
static void NativeCancel(xh_job *any_thread) { xh_job_cancel(any_thread); }
%}

/* ---- text, bytes, arrays ----------------------------------------------------------------------------------------- */

/* str as UTF-8, or bytes (a path of os.fsencode). None where the C function takes NULL, which says so itself. */
%typemap(in) const char * {
  if (NativeText($input, "$1_name", &$1, NULL) != 0) SWIG_fail;
}
%typemap(freearg) const char * "";
%typemap(in) (const char *text, int64_t text_size) {
  if (NativeText($input, "$1_name", &$1, &$2) != 0) SWIG_fail;
}
%typemap(freearg) (const char *text, int64_t text_size) "";
%typemap(out) const char * { $result = NativeString($1); }

%typemap(in) (const void *data, int64_t size) (NativeBuffer buffer = {0}) {
  if (NativeReadable($input, &buffer) != 0) SWIG_fail;
  $1 = buffer.view.buf;
  $2 = (int64_t)buffer.view.len;
}
%typemap(freearg) (const void *data, int64_t size) { NativeRelease(&buffer$argnum); }

%typemap(in) (const int32_t *ids, int64_t count) (NativeIds ids = {0}) {
  if (NativeIdsFrom($input, &ids) != 0) SWIG_fail;
  $1 = (int32_t *)ids.data;
  $2 = ids.count;
}
%typemap(freearg) (const int32_t *ids, int64_t count) { NativeIdsRelease(&ids$argnum); }

%typemap(in) (float *out, int64_t capacity) (NativeBuffer buffer = {0}) {
  if (NativeFloats($input, &buffer) != 0) SWIG_fail;
  $1 = (float *)buffer.view.buf;
  $2 = (int64_t)(buffer.view.len / (Py_ssize_t)sizeof(float));
}
%typemap(freearg) (float *out, int64_t capacity) { NativeRelease(&buffer$argnum); }

/* Scores need one place fewer than there are ids; the caller makes room for as many as there are ids. */
%typemap(in) (const int32_t *ids, int64_t count, float *out) (NativeIds ids = {0}, PyObject *made = NULL) {
  if (NativeIdsFrom($input, &ids) != 0) SWIG_fail;
  $1 = (int32_t *)ids.data;
  $2 = ids.count;
  made = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)sizeof(float) * (ids.count > 1 ? ids.count - 1 : 1));
  if (made == NULL) SWIG_fail;
  $3 = (float *)PyByteArray_AsString(made);
}
%typemap(argout) (const int32_t *ids, int64_t count, float *out) {
  if (PyByteArray_Resize(made$argnum, (Py_ssize_t)sizeof(float) * ($2 > 1 ? $2 - 1 : 0)) != 0) SWIG_fail;
  Py_INCREF(made$argnum);
  $result = NativeInstead($result, made$argnum);
}
%typemap(freearg) (const int32_t *ids, int64_t count, float *out) {
  NativeIdsRelease(&ids$argnum);
  Py_XDECREF(made$argnum);
}

/* Takes a capacity. Gives a list of ids, or their number where they did not fit. */
%typemap(in) (int32_t *ids, int64_t capacity, int64_t *count) (int32_t *room = NULL, int64_t found = 0) {
  if (NativeRoom($input, &room, &$2) != 0) SWIG_fail;
  $1 = room;
  $3 = &found;
}
%typemap(argout) (int32_t *ids, int64_t capacity, int64_t *count) {
  PyObject *ids = *$3 > $2 ? PyLong_FromLongLong(*$3) : NativeIdsList($1, *$3);
  if (ids == NULL) SWIG_fail;
  Py_DECREF($result);
  $result = ids;
}
%typemap(freearg) (int32_t *ids, int64_t capacity, int64_t *count) { PyMem_Free(room$argnum); }

%typemap(in, numinputs=0) int64_t *size (int64_t made = 0) { $1 = &made; }
%typemap(argout) int64_t *size { $result = NativeInstead($result, PyLong_FromLongLong(*$1)); }

%typemap(in, numinputs=0) xh_bytes **out (xh_bytes *made = NULL) { $1 = &made; }
%typemap(argout) xh_bytes **out {
  PyObject *bytes = PyBytes_FromStringAndSize((const char *)xh_bytes_data(*$1), (Py_ssize_t)xh_bytes_size(*$1));
  xh_bytes_free(*$1);
  if (bytes == NULL) SWIG_fail;
  $result = NativeInstead($result, bytes);
}

/* A copy: what is lent ends with the next call. */
%typemap(in, numinputs=0) (const float **logits, int64_t *count) (const float *lent = NULL, int64_t number = 0) {
  $1 = ($1_ltype)&lent;
  $2 = &number;
}
%typemap(argout) (const float **logits, int64_t *count) {
  PyObject *copy = PyByteArray_FromStringAndSize((const char *)*$1, (Py_ssize_t)sizeof(float) * (Py_ssize_t)*$2);
  if (copy == NULL) SWIG_fail;
  $result = NativeInstead($result, copy);
}

/* ---- structs ----------------------------------------------------------------------------------------------------- */

/* A dict: str is text, bool, int and float what they say; a tuple of str repeats its key. */
%typemap(in) (const xh_option *options, int64_t option_count) (NativeOptions options = {0}) {
  if (NativeOptionsFrom($input, &options) != 0) SWIG_fail;
  $1 = options.items;
  $2 = options.count;
}
%typemap(freearg) (const xh_option *options, int64_t option_count) { NativeOptionsRelease(&options$argnum); }

/* (plugin path or None, dict of options) */
%typemap(in) const xh_runtime_config * (xh_runtime_config config, NativeOptions options = {0}) {
  if (NativeConfigFrom($input, &config, &options) != 0) SWIG_fail;
  $1 = &config;
}
%typemap(freearg) const xh_runtime_config * { NativeOptionsRelease(&options$argnum); }

%typemap(in, numinputs=0) xh_plugin_info *out (xh_plugin_info made) {
  memset(&made, 0, sizeof(made));
  made.struct_size = XH_SIZED(xh_plugin_info);
  $1 = &made;
}
%typemap(argout) xh_plugin_info *out { $result = NativeInstead($result, NativePluginInfo($1)); }

/* A view that keeps its checkpoint, the first argument, open. */
%typemap(in, numinputs=0) xh_tensor *out (xh_tensor made) { $1 = &made; }
%typemap(argout) xh_tensor *out { $result = NativeInstead($result, NativeTensorView($1, swig_obj[0])); }

/* ---- what is pulled ---------------------------------------------------------------------------------------------- */

/* (id, piece, finished) */
%typemap(in, numinputs=0) (int32_t *token, const char **piece, int64_t *piece_size, int32_t *finished)
    (int32_t id = 0, const char *text = NULL, int64_t length = 0, int32_t last = 0) {
  $1 = &id;
  $2 = ($2_ltype)&text;
  $3 = &length;
  $4 = &last;
}
%typemap(argout) (int32_t *token, const char **piece, int64_t *piece_size, int32_t *finished) {
  PyObject *token = NativeToken(*$1, *$2, *$3, *$4);
  if (token == NULL) SWIG_fail;
  $result = NativeInstead($result, token);
}

/* Takes the number of slots. Gives a list of (id, piece, finished), None where a slot is empty. */
%typemap(in) (int32_t *tokens, const char **pieces, int64_t *piece_sizes, int32_t *finished, int64_t slots)
    (NativeSlots slots = {0}) {
  if (NativeSlotsOf($input, &slots) != 0) SWIG_fail;
  $1 = slots.tokens;
  $2 = ($2_ltype)slots.pieces;
  $3 = slots.sizes;
  $4 = slots.finished;
  $5 = slots.count;
}
%typemap(argout) (int32_t *tokens, const char **pieces, int64_t *piece_sizes, int32_t *finished, int64_t slots) {
  PyObject *tokens = NativeSlotTokens(&slots$argnum);
  if (tokens == NULL) SWIG_fail;
  Py_DECREF($result);
  $result = tokens;
}
%typemap(freearg) (int32_t *tokens, const char **pieces, int64_t *piece_sizes, int32_t *finished, int64_t slots) {
  NativeSlotsRelease(&slots$argnum);
}

/* (event, finished) */
%typemap(in, numinputs=0) (const char **event, int32_t *finished) (const char *text = NULL, int32_t last = 0) {
  $1 = ($1_ltype)&text;
  $2 = &last;
}
%typemap(argout) (const char **event, int32_t *finished) {
  PyObject *event = Py_BuildValue("(yO)", *$1, *$2 ? Py_True : Py_False);
  if (event == NULL) SWIG_fail;
  $result = NativeInstead($result, event);
}

/* Answered at once: handing the GIL over would cost more than the call. */
%nothread xh_version;
%nothread xh_release;
%nothread xh_runtime_plugin_count;
%nothread xh_runtime_plugin_at;
%nothread xh_checkpoint_tensor_count;
%nothread xh_checkpoint_tensor_name;
%nothread xh_model_vocab_size;
%nothread xh_session_position;
%nothread xh_session_state_bytes;
%nothread xh_batch_state_bytes;
%nothread NativeCancel;
