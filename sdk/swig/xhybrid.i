/* The C interface for SWIG: what is the same for every target language. The typemaps of one language are in its own
 * file; they are read before the header that they apply to. */
%module native

%{
#include "xhybrid.h"
%}

%include <stdint.i>

/* Reading an error and the bytes of a result is the typemaps' work. */
%ignore xh_error_code;
%ignore xh_error_message;
%ignore xh_error_origin;
%ignore xh_error_free;
%ignore xh_bytes_data;
%ignore xh_bytes_size;
%ignore xh_bytes_free;

#if defined(SWIGPYTHON)
%include "python.i"
#elif defined(SWIGJAVA)
%include "java.i"
#endif

%include "xhybrid.h"
