// Errors inside the library: absl::Status with one constructor per public xh_code, and the way out to xh_error.
#ifndef XHYBRID_CORE_ERROR_H_
#define XHYBRID_CORE_ERROR_H_

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "xhybrid.h"

// The opaque error of the C ABI. Plain strings; one static instance stands for out-of-memory.
struct xh_error {
  xh_code code;
  std::string origin;
  std::string message;
};

namespace xh {

using absl::Status;
using absl::StatusOr;

// Each builds a status whose public code is the one of its name; the arguments are concatenated as by absl::StrCat.
Status MakeStatus(xh_code code, const std::string& message);
template <typename... Args>
Status InvalidArgument(const Args&... args) {
  return MakeStatus(XH_INVALID_ARGUMENT, absl::StrCat(args...));
}
template <typename... Args>
Status InvalidState(const Args&... args) {
  return MakeStatus(XH_INVALID_STATE, absl::StrCat(args...));
}
template <typename... Args>
Status NotFound(const Args&... args) {
  return MakeStatus(XH_NOT_FOUND, absl::StrCat(args...));
}
template <typename... Args>
Status Unsupported(const Args&... args) {
  return MakeStatus(XH_UNSUPPORTED, absl::StrCat(args...));
}
template <typename... Args>
Status OutOfMemory(const Args&... args) {
  return MakeStatus(XH_OUT_OF_MEMORY, absl::StrCat(args...));
}
template <typename... Args>
Status IoError(const Args&... args) {
  return MakeStatus(XH_IO, absl::StrCat(args...));
}
template <typename... Args>
Status Corrupt(const Args&... args) {
  return MakeStatus(XH_CORRUPT, absl::StrCat(args...));
}
template <typename... Args>
Status Incompatible(const Args&... args) {
  return MakeStatus(XH_INCOMPATIBLE, absl::StrCat(args...));
}
template <typename... Args>
Status Cancelled(const Args&... args) {
  return MakeStatus(XH_CANCELLED, absl::StrCat(args...));
}
template <typename... Args>
Status Internal(const Args&... args) {
  return MakeStatus(XH_INTERNAL, absl::StrCat(args...));
}

xh_code CodeOf(const Status& status);
// The same status with another origin ("cpu", "merge.ties"); without one the origin is "core".
Status WithOrigin(Status status, const std::string& origin);
std::string OriginOf(const Status& status);
// The same code and origin, the message preceded by "context: ".
Status Annotate(const Status& status, const std::string& context);

// Plain text, so that a caller without memory need not make a string first.
xh_error* NewError(xh_code code, std::string_view origin, std::string_view message) noexcept;
xh_error* ToError(const Status& status) noexcept;  // NULL when ok
Status FromError(xh_error* error);                 // takes the error over; NULL is ok

}  // namespace xh

#define XH_CONCAT_INNER(a, b) a##b
#define XH_CONCAT(a, b) XH_CONCAT_INNER(a, b)
// Returns from the enclosing function when `expression` (a Status) is not ok.
#define XH_RETURN_IF_ERROR(expression)       \
  do {                                       \
    ::absl::Status xh_status = (expression); \
    if (!xh_status.ok()) return xh_status;   \
  } while (false)
// Declares `target` from a StatusOr, or returns its status.
#define XH_ASSIGN_OR_RETURN(target, expression) \
  XH_ASSIGN_OR_RETURN_INNER(XH_CONCAT(xh_result_, __LINE__), target, expression)
#define XH_ASSIGN_OR_RETURN_INNER(result, target, expression) \
  auto result = (expression);                                 \
  if (!result.ok()) return std::move(result).status();        \
  target = *std::move(result)

#endif  // XHYBRID_CORE_ERROR_H_
