/* What the typemaps of java.i call: between JNI and plain C. A function that fails leaves a Java exception pending;
 * one that writes into Java does nothing while an exception is pending. Every count is of elements. */
#ifndef XHYBRID_JAVA_SUPPORT_H_
#define XHYBRID_JAVA_SUPPORT_H_

#include <jni.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xhybrid.h"

/* Throws org.xhybrid.XhybridException and frees the error. NULL: does nothing. */
void java_throw(JNIEnv* env, xh_error* error);

/* The bytes with a final NUL, to be freed by the caller. NULL for null. */
char* java_text(JNIEnv* env, jbyteArray bytes);
int32_t* java_ints(JNIEnv* env, jintArray array, int64_t* count); /* to be freed by the caller */
/* Zeroed memory for as many elements as the array has, to be freed by the caller. */
void* java_room(JNIEnv* env, jarray array, size_t element, int64_t* count);

/* Where floats are written to: the memory of a direct FloatBuffer, or a copy of what float[] will hold. */
typedef struct java_floats {
  float* data;
  int64_t count;
  jfloatArray array; /* NULL: a buffer, written in place */
} java_floats;
java_floats java_floats_room(JNIEnv* env, jobject array_or_buffer);
void java_floats_written(JNIEnv* env, const java_floats* floats);
void java_floats_free(java_floats* floats);

/* A new byte[]; null for a negative size. */
jbyteArray java_bytes(JNIEnv* env, const void* data, int64_t size);
void java_set_int(JNIEnv* env, jintArray array, int32_t value);
void java_set_long(JNIEnv* env, jlongArray array, int64_t value);
void java_set_ints(JNIEnv* env, jintArray array, const int32_t* values, int64_t count);
void java_set_bytes(JNIEnv* env, jobjectArray array, jsize place, const void* data, int64_t size);
void java_set_floats(JNIEnv* env, jobjectArray array, const float* values, int64_t count);
void java_set_tensor(JNIEnv* env, jlongArray array, const xh_tensor* tensor);
void java_set_plugin(JNIEnv* env, jobjectArray array, const xh_plugin_info* info);

xh_option* java_options(JNIEnv* env, jobjectArray packed, int64_t* count);
void java_options_free(xh_option* options, int64_t count);

/* A listener in Java that native threads may speak to. It has to outlive the runtime and all that was opened from it.
 */
typedef struct java_log java_log;
java_log* java_log_new(JNIEnv* env, jobject listener);
void java_log_free(JNIEnv* env, java_log* log);
/* `log` may be NULL. */
XH_CHECKED xh_error* java_runtime_open(const char* plugin_path, const xh_option* options, int64_t option_count,
                                       java_log* log, xh_runtime** out);

/* A direct ByteBuffer over memory that is not Java's. */
jobject java_view(JNIEnv* env, int64_t address, int64_t size);

#endif /* XHYBRID_JAVA_SUPPORT_H_ */
