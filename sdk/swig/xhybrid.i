/* The part of the bindings that every language shares: which declarations of xhybrid.h are wrapped. How arguments travel
 * is in one file a language, which also makes sure that an error is raised and that a handle is freed once. */
%module native
%{
#include "xhybrid.h"
%}
%include "stdint.i"
#define XH_API
#define XH_CHECKED

/* An error becomes an exception where it arrives. */
%ignore xh_error_code;
%ignore xh_error_message;
%ignore xh_error_origin;
%ignore xh_error_free;

/* Bytes become a value of the language where they arrive. */
%ignore xh_bytes_data;
%ignore xh_bytes_size;
%ignore xh_bytes_free;

/* Structs that a caller fills are made from values of the language. */
%ignore xh_option;
%ignore xh_runtime_config;
%ignore xh_plugin_info;
%ignore xh_tensor;

#if defined(SWIGPYTHON)
%include "python.i"
#elif defined(SWIGJAVA)
%include "java.i"
#endif

%include "xhybrid.h"
