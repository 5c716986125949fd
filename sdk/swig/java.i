/* Typemaps for Java (JNI). The generated class is package-private; hand-written classes of org.xhybrid stand on it.
 *
 *   xh_x *                      long: the address, which the caller keeps alive during the call
 *   xh_error *                  void; throws XhybridException
 *   xh_x **out, integer *out    long[1], int[1]
 *   const char *                String; UTF-8 here, where JNI's own strings are modified UTF-8
 *   xh_bytes **out              byte[1][]
 *   const T *ids, count         T[], copied at once, so that no call holds up the garbage collector
 *   float *out                  float[], or a direct FloatBuffer that is written in place
 *
 * A typemap that fails leaves a Java exception pending and the wrapper goes on to where everything is freed: that is
 * why outputs are written only while no exception is pending. */

%{
#include "java_support.h"
%}

%pragma(java) jniclassclassmodifiers="final class"
%pragma(java) moduleclassmodifiers="final class"
%pragma(java) jniclasscode=%{
  static {
    NativeLoader.load();
  }
%}
%javaconst(1);
%typemap(javafinalize) SWIGTYPE ""
%typemap(javaclassmodifiers) SWIGTYPE "final class"
%typemap(javainterfacemodifiers) SWIGTYPE "interface"

/* The structs are filled and read by typemaps. */
%ignore xh_option;
%ignore xh_runtime_config;
%ignore xh_runtime_open; /* java_runtime_open */
%ignore xh_plugin_info;
%ignore xh_tensor;
%ignore XH_ABI_MAJOR; /* "1u" is no number of Java */
%ignore XH_ABI_MINOR;
%ignore XH_ABI_VERSION;

/* ---- errors ---- */

%typemap(jni) xh_error * "void"
%typemap(jtype) xh_error * "void"
%typemap(jstype) xh_error * "void"
%typemap(javaout) xh_error * { $jnicall; }
%typemap(out, null="") xh_error * "java_throw(jenv, $1);"
/* Nothing is called with inputs that could not be read. */
%exception {
  if (!(*jenv)->ExceptionCheck(jenv)) { $action }
}
/* These have no input that could fail. */
%noexception java_log_new;
%noexception java_view;
%noexception xh_version;
%noexception xh_release;
%noexception xh_runtime_plugin_count;
%noexception xh_checkpoint_tensor_count;
%noexception xh_model_vocab_size;
%noexception xh_session_position;
%noexception xh_session_state_bytes;
%noexception xh_batch_state_bytes;

/* ---- handles ---- */

%define HANDLE(type)
%typemap(jni) type *, const type * "jlong"
%typemap(jtype) type *, const type * "long"
%typemap(jstype) type *, const type * "long"
%typemap(javain) type *, const type * "$javainput"
%typemap(javaout) type *, const type * { return $jnicall; }
%typemap(in) type *, const type * "$1 = ($1_ltype)(intptr_t)$input;"
%typemap(out) type *, const type * "$result = (jlong)(intptr_t)$1;"
%typemap(jni) type **out "jlongArray"
%typemap(jtype) type **out "long[]"
%typemap(jstype) type **out "long[]"
%typemap(javain) type **out "$javainput"
%typemap(in) type **out (type *made = NULL) "$1 = &made;"
%typemap(argout) type **out "java_set_long(jenv, $input, (jlong)(intptr_t)made$argnum);"
%enddef
HANDLE(xh_runtime)
HANDLE(xh_checkpoint)
HANDLE(xh_model)
HANDLE(xh_session)
HANDLE(xh_batch)
HANDLE(xh_job)
HANDLE(java_log)

/* ---- text and bytes ---- */

%typemap(jni) const char * "jbyteArray"
%typemap(jtype) const char * "byte[]"
%typemap(jstype) const char * "String"
%typemap(javain) const char * "Text.ended($javainput)"
%typemap(javaout) const char * { return Text.of($jnicall); }
%typemap(in) const char * "$1 = java_text(jenv, $input);"
%typemap(freearg) const char * "free((void *)$1);"
%typemap(out) const char * "$result = java_bytes(jenv, $1, $1 ? (int64_t)strlen($1) : -1);"

/* Text with its size, which may hold any character. */
%typemap(jni) (const char *text, int64_t text_size) "jbyteArray"
%typemap(jtype) (const char *text, int64_t text_size) "byte[]"
%typemap(jstype) (const char *text, int64_t text_size) "String"
%typemap(javain) (const char *text, int64_t text_size) "Text.utf8($javainput)"
%typemap(in) (const char *text, int64_t text_size) {
  $1 = java_text(jenv, $input);
  $2 = $1 ? (*jenv)->GetArrayLength(jenv, $input) : 0;
}
%typemap(freearg) (const char *text, int64_t text_size) "free((void *)$1);"

%typemap(jni) xh_bytes **out, const char **event, (const char **piece, int64_t *piece_size) "jobjectArray"
%typemap(jtype) xh_bytes **out, const char **event, (const char **piece, int64_t *piece_size) "byte[][]"
%typemap(jstype) xh_bytes **out, const char **event, (const char **piece, int64_t *piece_size) "byte[][]"
%typemap(javain) xh_bytes **out, const char **event, (const char **piece, int64_t *piece_size) "$javainput"
%typemap(in) xh_bytes **out (xh_bytes *made = NULL) "$1 = &made;"
%typemap(argout) xh_bytes **out {
  java_set_bytes(jenv, $input, 0, xh_bytes_data(made$argnum), made$argnum ? xh_bytes_size(made$argnum) : -1);
}
%typemap(freearg) xh_bytes **out "xh_bytes_free(made$argnum);"
%typemap(in) const char **event (const char *lent = NULL) "$1 = ($1_ltype)&lent;"
%typemap(argout) const char **event {
  java_set_bytes(jenv, $input, 0, lent$argnum, lent$argnum ? (int64_t)strlen(lent$argnum) : -1);
}
%typemap(in) (const char **piece, int64_t *piece_size) (const char *lent = NULL, int64_t size = 0) {
  $1 = ($1_ltype)&lent;
  $2 = &size;
}
%typemap(argout) (const char **piece, int64_t *piece_size) {
  java_set_bytes(jenv, $input, 0, lent$argnum, lent$argnum ? size$argnum : -1);
}

%typemap(jni) (const void *data, int64_t size) "jbyteArray"
%typemap(jtype) (const void *data, int64_t size) "byte[]"
%typemap(jstype) (const void *data, int64_t size) "byte[]"
%typemap(javain) (const void *data, int64_t size) "$javainput"
%typemap(in) (const void *data, int64_t size) {
  $1 = java_text(jenv, $input);
  $2 = $1 ? (*jenv)->GetArrayLength(jenv, $input) : 0;
}
%typemap(freearg) (const void *data, int64_t size) "free((void *)$1);"

/* ---- numbers ---- */

%define NUMBER_OUT(type, name, jarray, jname, set)
%typemap(jni) type *name "jarray"
%typemap(jtype) type *name "jname[]"
%typemap(jstype) type *name "jname[]"
%typemap(javain) type *name "$javainput"
%typemap(in) type *name (type number = 0) "$1 = &number;"
%typemap(argout) type *name "set(jenv, $input, number$argnum);"
%enddef
NUMBER_OUT(int32_t, token, jintArray, int, java_set_int)
NUMBER_OUT(int32_t, finished, jintArray, int, java_set_int)
NUMBER_OUT(int64_t, count, jlongArray, long, java_set_long)
NUMBER_OUT(int64_t, size, jlongArray, long, java_set_long)

/* Token ids that are read. */
%typemap(jni) (const int32_t *ids, int64_t count) "jintArray"
%typemap(jtype) (const int32_t *ids, int64_t count) "int[]"
%typemap(jstype) (const int32_t *ids, int64_t count) "int[]"
%typemap(javain) (const int32_t *ids, int64_t count) "$javainput"
%typemap(in) (const int32_t *ids, int64_t count) "$1 = java_ints(jenv, $input, &$2);"
%typemap(freearg) (const int32_t *ids, int64_t count) "free((void *)$1);"

/* Token ids that are written, as many as the array has room for. */
%typemap(jni) (int32_t *ids, int64_t capacity) "jintArray"
%typemap(jtype) (int32_t *ids, int64_t capacity) "int[]"
%typemap(jstype) (int32_t *ids, int64_t capacity) "int[]"
%typemap(javain) (int32_t *ids, int64_t capacity) "$javainput"
%typemap(in) (int32_t *ids, int64_t capacity) "$1 = java_room(jenv, $input, sizeof(int32_t), &$2);"
%typemap(argout) (int32_t *ids, int64_t capacity) "java_set_ints(jenv, $input, $1, $2);"
%typemap(freearg) (int32_t *ids, int64_t capacity) "free($1);"

/* Floats that are written: float[] or a direct FloatBuffer from its first place. */
%typemap(jni) float *out, (float *out, int64_t capacity) "jobject"
%typemap(jtype) float *out, (float *out, int64_t capacity) "Object"
%typemap(jstype) float *out, (float *out, int64_t capacity) "Object"
%typemap(javain) float *out, (float *out, int64_t capacity) "$javainput"
%typemap(in) float *out (java_floats room) {
  room = java_floats_room(jenv, $input);
  $1 = room.data;
}
%typemap(in) (float *out, int64_t capacity) (java_floats room) {
  room = java_floats_room(jenv, $input);
  $1 = room.data;
  $2 = room.count;
}
%typemap(argout) float *out, (float *out, int64_t capacity) "java_floats_written(jenv, &room$argnum);"
%typemap(freearg) float *out, (float *out, int64_t capacity) "java_floats_free(&room$argnum);"

/* Floats that are lent until the next call: copied into float[1][]. */
%typemap(jni) (const float **logits, int64_t *count) "jobjectArray"
%typemap(jtype) (const float **logits, int64_t *count) "float[][]"
%typemap(jstype) (const float **logits, int64_t *count) "float[][]"
%typemap(javain) (const float **logits, int64_t *count) "$javainput"
%typemap(in) (const float **logits, int64_t *count) (const float *lent = NULL, int64_t size = 0) {
  $1 = ($1_ltype)&lent;
  $2 = &size;
}
%typemap(argout) (const float **logits, int64_t *count) {
  java_set_floats(jenv, $input, lent$argnum, size$argnum);
}

/* ---- options, tensors, plugins ---- */

/* Object[] of String keys and texts (as byte[][]), long[], double[] and int[] kinds: Options.packed(). */
%typemap(jni) (const xh_option *options, int64_t option_count) "jobjectArray"
%typemap(jtype) (const xh_option *options, int64_t option_count) "Object[]"
%typemap(jstype) (const xh_option *options, int64_t option_count) "Object[]"
%typemap(javain) (const xh_option *options, int64_t option_count) "$javainput"
%typemap(in) (const xh_option *options, int64_t option_count) "$1 = java_options(jenv, $input, &$2);"
%typemap(freearg) (const xh_option *options, int64_t option_count) "java_options_free((xh_option *)$1, $2);"

/* long[]: data, rank, dtype, shape. */
%typemap(jni) xh_tensor *out "jlongArray"
%typemap(jtype) xh_tensor *out "long[]"
%typemap(jstype) xh_tensor *out "long[]"
%typemap(javain) xh_tensor *out "$javainput"
%typemap(in) xh_tensor *out (xh_tensor tensor) {
  memset(&tensor, 0, sizeof(tensor));
  $1 = &tensor;
}
%typemap(argout) xh_tensor *out "java_set_tensor(jenv, $input, &tensor$argnum);"

/* byte[7][]: kind and score as text, name, version, licence, path, options schema. */
%typemap(jni) xh_plugin_info *out "jobjectArray"
%typemap(jtype) xh_plugin_info *out "byte[][]"
%typemap(jstype) xh_plugin_info *out "byte[][]"
%typemap(javain) xh_plugin_info *out "$javainput"
%typemap(in) xh_plugin_info *out (xh_plugin_info info) {
  memset(&info, 0, sizeof(info));
  info.struct_size = XH_SIZED(xh_plugin_info);
  $1 = &info;
}
%typemap(argout) xh_plugin_info *out "java_set_plugin(jenv, $input, &info$argnum);"

/* ---- a token of every sequence of a batch ---- */

%typemap(jni) int32_t *tokens "jintArray"
%typemap(jtype) int32_t *tokens "int[]"
%typemap(jstype) int32_t *tokens "int[]"
%typemap(javain) int32_t *tokens "$javainput"
%typemap(in) int32_t *tokens (int64_t room) "$1 = java_room(jenv, $input, sizeof(int32_t), &room);"
%typemap(argout) int32_t *tokens "java_set_ints(jenv, $input, $1, room$argnum);"
%typemap(freearg) int32_t *tokens "free($1);"

%typemap(jni) (int32_t *finished, int64_t slots) "jintArray"
%typemap(jtype) (int32_t *finished, int64_t slots) "int[]"
%typemap(jstype) (int32_t *finished, int64_t slots) "int[]"
%typemap(javain) (int32_t *finished, int64_t slots) "$javainput"
%typemap(in) (int32_t *finished, int64_t slots) "$1 = java_room(jenv, $input, sizeof(int32_t), &$2);"
%typemap(argout) (int32_t *finished, int64_t slots) "java_set_ints(jenv, $input, $1, $2);"
%typemap(freearg) (int32_t *finished, int64_t slots) "free($1);"

%typemap(jni) (const char **pieces, int64_t *piece_sizes) "jobjectArray"
%typemap(jtype) (const char **pieces, int64_t *piece_sizes) "byte[][]"
%typemap(jstype) (const char **pieces, int64_t *piece_sizes) "byte[][]"
%typemap(javain) (const char **pieces, int64_t *piece_sizes) "$javainput"
%typemap(in) (const char **pieces, int64_t *piece_sizes) (int64_t room) {
  $1 = java_room(jenv, $input, sizeof(char *), &room);
  $2 = java_room(jenv, $input, sizeof(int64_t), &room);
}
%typemap(argout) (const char **pieces, int64_t *piece_sizes) {
  for (int64_t slot = 0; slot < room$argnum; ++slot) java_set_bytes(jenv, $input, (jsize)slot, $1[slot], $2[slot]);
}
%typemap(freearg) (const char **pieces, int64_t *piece_sizes) {
  free($1);
  free($2);
}

/* ---- what Java needs beside the interface ---- */

%typemap(jni) jobject listener, jobject java_view "jobject"
%typemap(jtype) jobject listener "LogListener"
%typemap(jstype) jobject listener "LogListener"
%typemap(javain) jobject listener "$javainput"
%typemap(jtype) jobject java_view "java.nio.ByteBuffer"
%typemap(jstype) jobject java_view "java.nio.ByteBuffer"
%typemap(javaout) jobject java_view { return $jnicall; }
%typemap(in, numinputs=0) JNIEnv *jenv "$1 = jenv;"

java_log *java_log_new(JNIEnv *jenv, jobject listener);
void java_log_free(JNIEnv *jenv, java_log *log);
xh_error *java_runtime_open(const char *plugin_path, const xh_option *options, int64_t option_count, java_log *log,
                            xh_runtime **out);
jobject java_view(JNIEnv *jenv, int64_t address, int64_t size);
