#include "core/line_reader.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"

namespace xh {
namespace {

constexpr int64_t kBlockBytes = 1ll << 20;
constexpr int64_t kLongestLine = 64ll << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

void AddLine(std::string line, std::vector<std::string>* lines) {
  if (!line.empty() && line.back() == '\r') line.pop_back();
  lines->push_back(std::move(line));
}

}  // namespace

StatusOr<LineReader> LineReader::Open(const std::string& path) {
  XH_ASSIGN_OR_RETURN(File file, File::OpenRead(path, Links::kFollow));
  XH_ASSIGN_OR_RETURN(const int64_t size, file.Size());
  return LineReader(std::move(file), size);
}

Status LineReader::NextBlock(std::vector<std::string>* lines, int64_t* first) {
  lines->clear();
  *first = next_line_;
  while (lines->empty() && !AtEnd()) XH_RETURN_IF_ERROR(ReadMore(lines));
  if (AtEnd() && !rest_.empty()) AddLine(std::move(rest_), lines), rest_.clear();
  next_line_ += static_cast<int64_t>(lines->size());
  return absl::OkStatus();
}

std::string LineReader::Digest() {
  const Sha256::Digest digest = sha_.Finish();
  return absl::BytesToHexString(std::string(digest.begin(), digest.end()));
}

// Replaces *block by the next bytes of the file.
Status LineReader::ReadFile(std::string* block) {
  block->resize(static_cast<size_t>(std::min(kBlockBytes, size_ - offset_)));
  XH_RETURN_IF_ERROR(file_.ReadAt(offset_, block->data(), static_cast<int64_t>(block->size())));
  sha_.Update(block->data(), block->size());
  offset_ += static_cast<int64_t>(block->size());
  return absl::OkStatus();
}

// Replaces text_ by the next text, which may be none where the file is gzip'd.
Status LineReader::ReadText() {
  const bool first = offset_ == 0;
  if (first || !gunzip_) {
    XH_RETURN_IF_ERROR(ReadFile(&text_));
  } else if (packed_.empty() && !more_) {
    XH_RETURN_IF_ERROR(ReadFile(&packed_));
  }
  if (first && Gunzip::Recognizes(text_)) {
    gunzip_.emplace(file_.path());
    packed_.swap(text_);
  }
  if (gunzip_) XH_RETURN_IF_ERROR(Unpack());
  if (first && text_.starts_with(kByteOrderMark)) text_.erase(0, kByteOrderMark.size());
  return absl::OkStatus();
}

// Replaces text_ by what the next of packed_ inflates to.
Status LineReader::Unpack() {
  text_.clear();
  std::string_view left = packed_;
  XH_ASSIGN_OR_RETURN(more_, gunzip_->Inflate(&left, kBlockBytes, &text_));
  packed_.erase(0, packed_.size() - left.size());
  return AtEnd() ? gunzip_->Finish() : absl::OkStatus();
}

Status LineReader::ReadMore(std::vector<std::string>* lines) {
  XH_RETURN_IF_ERROR(ReadText());
  size_t start = 0;
  for (size_t end; (end = text_.find('\n', start)) != std::string::npos; start = end + 1) {
    rest_.append(text_, start, end - start);
    AddLine(std::move(rest_), lines);
    rest_.clear();
  }
  rest_.append(text_, start);
  if (static_cast<int64_t>(rest_.size()) > kLongestLine) {
    return InvalidArgument(file_.path(), ":", next_line_ + static_cast<int64_t>(lines->size()),
                           ": the line is longer than ", kLongestLine, " bytes");
  }
  return absl::OkStatus();
}

}  // namespace xh
