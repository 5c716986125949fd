#include <stdio.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/names.h"
#include "core/checkpoint/safetensors.h"

namespace xh {
namespace {

using nlohmann::json;

StatusOr<std::string> MakeHeader(const std::vector<SafeTensor>& tensors,
                                 const std::map<std::string, std::string>& metadata, std::vector<int64_t>* sizes) {
  json header = json::object();
  for (const auto& [key, value] : metadata) {
    if (!IsUtf8(key) || !IsUtf8(value)) return InvalidArgument("metadata ", Quoted(key), " is not UTF-8");
  }
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t begin = 0;
  for (const SafeTensor& tensor : tensors) {
    XH_RETURN_IF_ERROR(CheckName("tensor name", tensor.name));
    if (tensor.name == "__metadata__" || header.contains(tensor.name)) {
      return InvalidArgument("tensor name ", Quoted(tensor.name), " is taken; names must be unique");
    }
    StatusOr<int64_t> bytes = TensorBytes(tensor.dtype, tensor.shape);
    if (!bytes.ok()) return Annotate(bytes.status(), absl::StrCat("tensor ", Quoted(tensor.name)));
    int64_t end = 0;
    if (__builtin_add_overflow(begin, *bytes, &end)) return InvalidArgument("the tensors together do not fit 63 bits");
    header[tensor.name] = {
        {"dtype", SafetensorsDTypeName(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    sizes->push_back(*bytes);
    begin = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begins at a multiple of 8
  return text;
}

Status WriteContent(const File& directory, const std::string& name, const std::vector<SafeTensor>& tensors,
                    const std::vector<SafeTensorData>& data, const std::map<std::string, std::string>& metadata) {
  XH_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(directory, name, tensors, metadata));
  for (const SafeTensorData& tensor : data) XH_RETURN_IF_ERROR(writer.Write(tensor.data));
  return writer.Close();
}

}  // namespace

const char* SafetensorsDTypeName(xh_dtype dtype) {
  switch (dtype) {
    case XH_F32:
      return "F32";
    case XH_F16:
      return "F16";
    case XH_BF16:
      return "BF16";
    case XH_I32:
      return "I32";
    case XH_I64:
      return "I64";
    case XH_U8:
      return "U8";
    default:
      return nullptr;
  }
}

StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const File& directory, const std::string& name,
                                                      const std::vector<SafeTensor>& tensors,
                                                      const std::map<std::string, std::string>& metadata) {
  std::vector<int64_t> sizes;
  XH_ASSIGN_OR_RETURN(const std::string header, MakeHeader(tensors, metadata, &sizes));
  XH_ASSIGN_OR_RETURN(File file, File::CreateAt(directory, name));
  const uint64_t length = header.size();
  XH_RETURN_IF_ERROR(file.Write(&length, sizeof(length)));
  XH_RETURN_IF_ERROR(file.Write(header.data(), static_cast<int64_t>(header.size())));
  return SafetensorsWriter(std::move(file), std::move(sizes));
}

Status SafetensorsWriter::Write(const void* data) {
  if (next_ == sizes_.size()) return InvalidState(file_.path(), ": all ", sizes_.size(), " tensors are written");
  XH_RETURN_IF_ERROR(file_.Write(data, sizes_[next_]));
  ++next_;
  return absl::OkStatus();
}

Status SafetensorsWriter::Close() {
  if (next_ < sizes_.size()) {
    return InvalidState(file_.path(), ": ", next_, " of ", sizes_.size(), " tensors are written");
  }
  XH_RETURN_IF_ERROR(file_.Sync());
  return file_.Close();
}

Status WriteSafetensors(const std::string& path, const std::vector<SafeTensorData>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  std::vector<SafeTensor> list;
  for (const SafeTensorData& tensor : tensors) list.push_back({tensor.name, tensor.dtype, tensor.shape});
  const size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  XH_RETURN_IF_ERROR(CheckBareFileName(name));
  XH_ASSIGN_OR_RETURN(File directory, File::OpenDirectory(parent));
  const std::string temporary = absl::StrCat(".", name, ".tmp-", ::getpid());
  ::unlinkat(directory.descriptor(), temporary.c_str(), 0);  // of a dead process that had this id
  Status written = WriteContent(directory, temporary, list, tensors, metadata);
  if (written.ok() && (StorageRefused("rename") || ::renameat(directory.descriptor(), temporary.c_str(),
                                                              directory.descriptor(), name.c_str()) != 0)) {
    written = SystemError("rename to", path);
  }
  if (!written.ok()) {
    ::unlinkat(directory.descriptor(), temporary.c_str(), 0);
    return written;
  }
  return directory.Sync();
}

}  // namespace xh
