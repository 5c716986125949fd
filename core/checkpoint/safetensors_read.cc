#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>

#include "core/checkpoint/dtype.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/names.h"
#include "core/checkpoint/safetensors.h"
#include "core/json_fields.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr int64_t kHeaderCap = 100000000;
constexpr int64_t kLargestExact = 1ll << 53;
constexpr char kMetadataKey[] = "__metadata__";
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr xh_dtype kDTypes[] = {XH_F32, XH_F16, XH_BF16, XH_I32, XH_I64, XH_U8};

// One tensor and where it lies.
struct Entry {
  SafeTensor tensor;
  size_t file = 0;
  int64_t offset = 0;  // in the file
};

struct OpenFile {
  File file;
  int64_t bytes = 0;
  std::mutex mutex;
  Region view;  // of the whole file, made by the first View
};

Status AsCorrupt(const Status& status) { return Corrupt(std::string(status.message())); }

StatusOr<xh_dtype> FindDType(const std::string& name, const std::string& where) {
  for (xh_dtype dtype : kDTypes) {
    if (name == SafetensorsDTypeName(dtype)) return dtype;
  }
  return Unsupported(where, " has dtype ", Quoted(name), "; supported: F32, F16, BF16, I32, I64, U8");
}

// An array of `least` to `most` integers from 0 to 2^53.
StatusOr<std::vector<int64_t>> Integers(const json* array, const std::string& where) {
  if (array == nullptr || !array->is_array()) return Corrupt(where, " is not an array of integers");
  std::vector<int64_t> numbers;
  for (const json& item : *array) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > static_cast<uint64_t>(kLargestExact)) {
      return Corrupt(where, " holds ", Quoted(item.is_structured() ? "[...]" : item.dump()),
                     "; allowed: integers from 0 to ", kLargestExact);
    }
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

// Parses the header of one file.
class HeaderReader {
 public:
  HeaderReader(const File& file, int64_t file_bytes) : file_(file), file_bytes_(file_bytes) {}

  Status Read() {
    XH_ASSIGN_OR_RETURN(const json header, ReadHeader());
    for (const auto& item : header.items()) {
      if (item.key() == kMetadataKey) {
        XH_RETURN_IF_ERROR(ReadMetadata(item.value()));
      } else {
        XH_RETURN_IF_ERROR(ReadEntry(item.key(), item.value()));
      }
    }
    return CheckLayout();
  }

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

 private:
  StatusOr<json> ReadHeader() {
    if (file_bytes_ < 8) return Corrupt(file_.path(), " is not a safetensors file: it has ", file_bytes_, " bytes");
    uint64_t length = 0;
    XH_RETURN_IF_ERROR(file_.ReadAt(0, &length, sizeof(length)));
    if (length > static_cast<uint64_t>(kHeaderCap)) {
      return Corrupt(file_.path(), " is not a safetensors file: its header has ", length, " bytes; allowed: at most ",
                     kHeaderCap);
    }
    data_ = 8 + static_cast<int64_t>(length);
    if (data_ > file_bytes_) {
      return Corrupt(file_.path(), " is truncated: it has ", file_bytes_, " bytes, its header ends at ", data_);
    }
    std::string text(length, '\0');
    XH_RETURN_IF_ERROR(file_.ReadAt(8, text.data(), static_cast<int64_t>(length)));
    if (text.empty() || text[0] != '{') return Corrupt(file_.path(), " is not a safetensors file: no JSON header");
    StatusOr<json> header = ParseJson(text, file_.path() + " (header)", kHeaderCap);
    if (!header.ok()) return AsCorrupt(header.status());
    return header;
  }

  Status ReadMetadata(const json& object) {
    if (!object.is_object()) return Corrupt(file_.path(), ": ", kMetadataKey, " is not an object");
    for (const auto& item : object.items()) {
      if (!item.value().is_string()) {
        return Corrupt(file_.path(), ": ", kMetadataKey, " entry ", Quoted(item.key()), " is not text");
      }
      metadata[item.key()] = item.value().get<std::string>();
    }
    return absl::OkStatus();
  }

  Status ReadEntry(const std::string& name, const json& object) {
    const std::string where = absl::StrCat(file_.path(), ": tensor ", Quoted(name));
    const Status named = CheckName("tensor name", name);
    if (!named.ok()) return Corrupt(file_.path(), ": ", std::string(named.message()));
    JsonFields fields(&object, where);
    StatusOr<std::string> dtype = fields.Text("dtype");
    if (!dtype.ok()) return AsCorrupt(dtype.status());
    Entry entry;
    entry.tensor.name = name;
    XH_ASSIGN_OR_RETURN(entry.tensor.dtype, FindDType(*dtype, where));
    XH_ASSIGN_OR_RETURN(entry.tensor.shape, Integers(fields.Get("shape"), where + ", shape,"));
    XH_ASSIGN_OR_RETURN(const std::vector<int64_t> range,
                        Integers(fields.Get("data_offsets"), where + ", data_offsets,"));
    const Status known = fields.NoOthers();
    if (!known.ok()) return AsCorrupt(known);
    if (entry.tensor.shape.size() > XH_MAX_RANK) {
      return Unsupported(where, " has ", entry.tensor.shape.size(), " dimensions; supported: at most ", XH_MAX_RANK);
    }
    StatusOr<int64_t> bytes = TensorBytes(entry.tensor.dtype, entry.tensor.shape);
    if (!bytes.ok()) return Corrupt(where, ": ", std::string(bytes.status().message()));
    if (range.size() != 2 || range[1] < range[0] || range[1] - range[0] != *bytes) {
      return Corrupt(where, " takes ", *bytes, " bytes; its data_offsets do not span as many");
    }
    entry.tensor.bytes = *bytes;
    entry.offset = data_ + range[0];
    entries.push_back(std::move(entry));
    return absl::OkStatus();
  }

  // Every byte after the header belongs to exactly one tensor: nothing can hide in the file.
  Status CheckLayout() {
    std::vector<const Entry*> order;
    for (const Entry& entry : entries) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
      return std::tie(a->offset, a->tensor.bytes) < std::tie(b->offset, b->tensor.bytes);
    });
    int64_t end = data_;
    for (const Entry* entry : order) {
      if (entry->offset != end) {
        return Corrupt(file_.path(), ": tensor ", Quoted(entry->tensor.name), " begins at byte ", entry->offset - data_,
                       " of the data; ", end - data_, " is expected (no holes, no overlaps)");
      }
      end += entry->tensor.bytes;
      if (end > file_bytes_) break;
    }
    if (end == file_bytes_) return absl::OkStatus();
    return Corrupt(file_.path(), end > file_bytes_ ? " is truncated" : " has bytes after its last tensor", ": it has ",
                   file_bytes_, " bytes; its header describes ", end > file_bytes_ ? "more" : std::to_string(end));
  }

  const File& file_;
  const int64_t file_bytes_;
  int64_t data_ = 0;  // where the tensors begin
};

bool Exists(const std::string& path) {
  struct stat about;
  return ::stat(path.c_str(), &about) == 0;
}

bool IsDirectory(const std::string& path) {
  struct stat about;
  return ::stat(path.c_str(), &about) == 0 && S_ISDIR(about.st_mode);
}

// Tensor name to bare file name.
StatusOr<std::map<std::string, std::string>> ReadWeightMap(const std::string& path) {
  XH_ASSIGN_OR_RETURN(const json index, ReadJsonFile(path, kHeaderCap));
  const auto found = index.is_object() ? index.find("weight_map") : index.end();
  if (found == index.end() || !found->is_object() || found->empty()) {
    return Corrupt(path, ": \"weight_map\" is missing or not an object with tensor names");
  }
  std::map<std::string, std::string> weights;
  for (const auto& item : found->items()) {
    const std::string where = absl::StrCat(path, ": tensor ", Quoted(item.key()));
    if (!item.value().is_string()) return Corrupt(where, " is not mapped to a file name");
    const std::string file = item.value().get<std::string>();
    const Status bare = CheckBareFileName(file);
    if (!bare.ok()) return Corrupt(where, ": ", std::string(bare.message()));
    weights[item.key()] = file;
  }
  return weights;
}

}  // namespace

struct SafetensorsReader::State {
  std::vector<std::unique_ptr<OpenFile>> files;
  std::vector<Entry> entries;       // sorted by name
  std::vector<SafeTensor> tensors;  // beside entries
  std::map<std::string, std::string> metadata;

  Status AddFile(const std::string& path) {
    auto opened = std::make_unique<OpenFile>();
    XH_ASSIGN_OR_RETURN(opened->file, File::OpenRead(path, Links::kFollow));
    XH_ASSIGN_OR_RETURN(opened->bytes, opened->file.Size());
    HeaderReader header(opened->file, opened->bytes);
    XH_RETURN_IF_ERROR(header.Read());
    for (Entry& entry : header.entries) {
      entry.file = files.size();
      entries.push_back(std::move(entry));
    }
    metadata.insert(header.metadata.begin(), header.metadata.end());
    files.push_back(std::move(opened));
    return absl::OkStatus();
  }

  Status AddSharded(const std::string& directory) {
    const std::string index = directory + "/" + kIndexFile;
    XH_ASSIGN_OR_RETURN(const auto weights, ReadWeightMap(index));
    std::map<std::string, size_t> numbers;  // file name to index in `files`
    for (const auto& [name, file] : weights) numbers.emplace(file, 0);
    for (auto& [file, number] : numbers) {
      number = files.size();
      XH_RETURN_IF_ERROR(AddFile(directory + "/" + file));
    }
    for (const Entry& entry : entries) {
      const auto mapped = weights.find(entry.tensor.name);
      if (mapped == weights.end() || numbers.at(mapped->second) != entry.file) {
        return Corrupt(index, ": tensor ", Quoted(entry.tensor.name), " lies in ", files[entry.file]->file.path(),
                       "; \"weight_map\" says ", mapped == weights.end() ? "nothing of it" : Quoted(mapped->second));
      }
    }
    // Every tensor found is mapped to its file, so none is in two files; equal counts leave none missing.
    if (entries.size() == weights.size()) return absl::OkStatus();
    return Corrupt(index, ": \"weight_map\" names ", weights.size(), " tensors; the files hold ", entries.size());
  }

  void Sort() {
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return a.tensor.name < b.tensor.name; });
    for (const Entry& entry : entries) tensors.push_back(entry.tensor);
  }

  StatusOr<const Entry*> Need(const std::string& name) const {
    const auto found =
        std::lower_bound(entries.begin(), entries.end(), name,
                         [](const Entry& entry, const std::string& key) { return entry.tensor.name < key; });
    if (found != entries.end() && found->tensor.name == name) return &*found;
    return NotFound(files[0]->file.path(), files.size() > 1 ? " and the files beside it have" : " has", " no tensor ",
                    Quoted(name));
  }
};

SafetensorsReader::SafetensorsReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsReader::~SafetensorsReader() = default;

StatusOr<std::shared_ptr<SafetensorsReader>> SafetensorsReader::Open(const std::string& path) {
  auto state = std::make_unique<State>();
  if (!IsDirectory(path)) {
    XH_RETURN_IF_ERROR(state->AddFile(path));
  } else if (Exists(path + "/" + kSingleFile)) {
    XH_RETURN_IF_ERROR(state->AddFile(path + "/" + kSingleFile));
  } else if (Exists(path + "/" + kIndexFile)) {
    XH_RETURN_IF_ERROR(state->AddSharded(path));
  } else {
    return NotFound(path, " has neither ", kSingleFile, " nor ", kIndexFile);
  }
  state->Sort();
  return std::shared_ptr<SafetensorsReader>(new SafetensorsReader(std::move(state)));
}

const std::vector<SafeTensor>& SafetensorsReader::tensors() const { return state_->tensors; }
const std::map<std::string, std::string>& SafetensorsReader::file_metadata() const { return state_->metadata; }

const SafeTensor* SafetensorsReader::Find(const std::string& name) const {
  StatusOr<const Entry*> entry = state_->Need(name);
  return entry.ok() ? &(*entry)->tensor : nullptr;
}

Status SafetensorsReader::Read(const std::string& name, void* out, int64_t bytes) const {
  XH_ASSIGN_OR_RETURN(const Entry* entry, state_->Need(name));
  if (bytes != entry->tensor.bytes) {
    return InvalidArgument("tensor ", Quoted(name), " has ", entry->tensor.bytes, " bytes; ", bytes, " are asked for");
  }
  return state_->files[entry->file]->file.ReadAt(entry->offset, out, bytes);
}

StatusOr<const void*> SafetensorsReader::View(const std::string& name) const {
  XH_ASSIGN_OR_RETURN(const Entry* entry, state_->Need(name));
  OpenFile& opened = *state_->files[entry->file];
  // As a mapping raises SIGBUS beyond the end of its file: one that was cut off since is refused.
  XH_ASSIGN_OR_RETURN(const int64_t bytes, opened.file.Size());
  if (bytes < opened.bytes) {
    return Corrupt(opened.file.path(), " has ", bytes, " bytes; it had ", opened.bytes, " when it was opened");
  }
  std::lock_guard<std::mutex> lock(opened.mutex);
  if (opened.view.data() == nullptr) {
    XH_ASSIGN_OR_RETURN(opened.view, Region::MapOrCopy(opened.file, 0, opened.bytes));
  }
  return opened.view.data() + entry->offset;
}

}  // namespace xh
