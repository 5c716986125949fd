#include "core/error.h"

#include <memory>
#include <new>

#include "absl/strings/cord.h"

namespace xh {
namespace {

constexpr char kOriginKey[] = "xhybrid/origin";
constexpr size_t kLongestMessage = 4000;

// Public codes beside the absl codes that carry them inside. One to one, so that nothing is lost on the way.
struct CodePair {
  xh_code code;
  absl::StatusCode inside;
};
constexpr CodePair kCodes[] = {
    {XH_INVALID_ARGUMENT, absl::StatusCode::kInvalidArgument},
    {XH_INVALID_STATE, absl::StatusCode::kFailedPrecondition},
    {XH_NOT_FOUND, absl::StatusCode::kNotFound},
    {XH_UNSUPPORTED, absl::StatusCode::kUnimplemented},
    {XH_OUT_OF_MEMORY, absl::StatusCode::kResourceExhausted},
    {XH_IO, absl::StatusCode::kUnavailable},
    {XH_CORRUPT, absl::StatusCode::kDataLoss},
    {XH_INCOMPATIBLE, absl::StatusCode::kOutOfRange},
    {XH_DEVICE_LOST, absl::StatusCode::kAborted},
    {XH_CANCELLED, absl::StatusCode::kCancelled},
    {XH_INTERNAL, absl::StatusCode::kInternal},
};

// One line of bounded length, whatever the texts of others that it quotes hold: names, paths, what a plugin said.
std::string OneLine(std::string message) {
  if (message.size() > kLongestMessage) {
    size_t end = kLongestMessage;
    while (end > 0 && (message[end] & 0xc0) == 0x80) --end;  // not within a character
    message.replace(end, std::string::npos, "...");
  }
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return message;
}

xh_error* OutOfMemoryError() {
  static xh_error error{XH_OUT_OF_MEMORY, "core", "out of memory"};  // short: std::string holds it without memory
  return &error;
}

}  // namespace

Status MakeStatus(xh_code code, const std::string& message) {
  for (const CodePair& pair : kCodes) {
    if (pair.code == code) return Status(pair.inside, OneLine(message));
  }
  return Status(absl::StatusCode::kInternal, OneLine(absl::StrCat("error code ", code, " is not known: ", message)));
}

xh_code CodeOf(const Status& status) {
  for (const CodePair& pair : kCodes) {
    if (pair.inside == status.code()) return pair.code;
  }
  return XH_INTERNAL;
}

Status WithOrigin(Status status, const std::string& origin) {
  if (!status.ok()) status.SetPayload(kOriginKey, absl::Cord(origin));
  return status;
}

std::string OriginOf(const Status& status) {
  auto payload = status.GetPayload(kOriginKey);
  return payload.has_value() ? std::string(*payload) : "core";
}

Status Annotate(const Status& status, const std::string& context) {
  if (status.ok()) return status;
  Status annotated(status.code(), OneLine(absl::StrCat(context, ": ", status.message())));
  return WithOrigin(std::move(annotated), OriginOf(status));
}

xh_error* NewError(xh_code code, std::string_view origin, std::string_view message) noexcept {
  try {
    return new xh_error{code, std::string(origin), std::string(message)};
  } catch (const std::bad_alloc&) {
    return OutOfMemoryError();
  }
}

xh_error* ToError(const Status& status) noexcept {
  if (status.ok()) return nullptr;
  try {
    return new xh_error{CodeOf(status), OriginOf(status), std::string(status.message())};
  } catch (const std::bad_alloc&) {
    return OutOfMemoryError();
  }
}

Status FromError(xh_error* error) {
  if (error == nullptr) return absl::OkStatus();
  const std::unique_ptr<xh_error, void (*)(xh_error*)> owned(error, xh_error_free);  // what follows may throw
  return WithOrigin(MakeStatus(error->code, error->message), error->origin);
}

}  // namespace xh

extern "C" {

xh_code xh_error_code(const xh_error* error) { return error != nullptr ? error->code : 0; }
const char* xh_error_message(const xh_error* error) { return error != nullptr ? error->message.c_str() : ""; }
const char* xh_error_origin(const xh_error* error) { return error != nullptr ? error->origin.c_str() : ""; }
void xh_error_free(xh_error* error) {
  if (error != xh::OutOfMemoryError()) delete error;
}
}
