#include "core/train/dataset.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <optional>
#include <system_error>
#include <thread>

#include "core/line_reader.h"
#include "core/train/document.h"

namespace xh {
namespace {

bool IsBlank(const std::string& line) { return line.find_first_not_of(" \t") == std::string::npos; }

using Row = std::optional<StatusOr<std::vector<int32_t>>>;  // empty for a blank line

// An exception must not end a thread, and with it the process.
StatusOr<std::vector<int32_t>> Guarded(const std::string& line, const std::string& kind,
                                       const DocumentOptions& options) {
  try {
    return ReadDocument(line, kind, options);
  } catch (const std::bad_alloc&) {
    return Status(absl::StatusCode::kResourceExhausted, "");  // a status without a text needs no memory
  }
}

// Tokenises lines on all cores; the order of the rows is that of the lines.
std::vector<Row> ReadRows(const std::vector<std::string>& lines, const std::string& kind,
                          const DocumentOptions& options) {
  std::vector<Row> rows(lines.size());
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i; (i = next++) < lines.size();) {
      if (!IsBlank(lines[i])) rows[i] = Guarded(lines[i], kind, options);
    }
  };
  std::vector<std::jthread> helpers;
  const size_t threads = std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), lines.size() / 16 + 1);
  helpers.reserve(threads);
  try {
    for (size_t i = 1; i < threads; ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: those there are do the work.
  }
  work();
  helpers.clear();
  return rows;
}

Status AddRow(const Row& row, const std::string& place, const DocumentOptions& options, Documents* documents) {
  if (!row.has_value()) return absl::OkStatus();
  if (row->ok() && !(*row)->empty()) {
    documents->tokens.insert(documents->tokens.end(), (*row)->begin(), (*row)->end());
    documents->starts.push_back(static_cast<int64_t>(documents->tokens.size()));
    return absl::OkStatus();
  }
  if (!row->ok() && CodeOf(row->status()) == XH_OUT_OF_MEMORY) {
    return OutOfMemory(place, ": out of memory");  // the row is as good as any other: never skipped
  }
  const Status why = Annotate(row->ok() ? InvalidArgument("the document is empty") : row->status(), place);
  if (documents->skipped_rows >= options.max_bad_rows) return why;
  ++documents->skipped_rows;
  documents->last_problem = std::string(why.message());
  if (options.warn) options.warn(absl::StrCat("row skipped: ", documents->last_problem));
  return absl::OkStatus();
}

}  // namespace

struct DocumentReader::State {
  DataSource source;
  DocumentOptions options;
  LineReader lines;
  std::vector<std::string> block;
  bool found = false;  // a document
};

DocumentReader::DocumentReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
DocumentReader::~DocumentReader() = default;
int64_t DocumentReader::bytes() const { return state_->lines.bytes(); }
int64_t DocumentReader::bytes_read() const { return state_->lines.bytes_read(); }

StatusOr<std::unique_ptr<DocumentReader>> DocumentReader::Open(const DataSource& source,
                                                               const DocumentOptions& options) {
  XH_ASSIGN_OR_RETURN(LineReader lines, LineReader::Open(source.path));
  return std::unique_ptr<DocumentReader>(
      new DocumentReader(std::make_unique<State>(State{source, options, std::move(lines), {}, false})));
}

StatusOr<bool> DocumentReader::Next(Documents* documents) {
  State& state = *state_;
  int64_t first = 0;
  XH_RETURN_IF_ERROR(state.lines.NextBlock(&state.block, &first));
  documents->path = state.source.path;
  if (state.block.empty()) {
    documents->sha256 = state.lines.Digest();
    if (state.found) return false;
    return InvalidArgument(state.source.path, " holds no document: ",
                           documents->last_problem.empty() ? "it is empty" : documents->last_problem);
  }
  const std::vector<Row> rows = ReadRows(state.block, state.source.kind, state.options);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string place = absl::StrCat(state.source.path, ":", first + static_cast<int64_t>(i));
    XH_RETURN_IF_ERROR(AddRow(rows[i], place, state.options, documents));
  }
  state.found = state.found || documents->count() > 0;
  return true;
}

StatusOr<Documents> ReadDocuments(const DataSource& source, const DocumentOptions& options) {
  Documents documents;
  XH_ASSIGN_OR_RETURN(const std::unique_ptr<DocumentReader> reader, DocumentReader::Open(source, options));
  for (bool more = true; more;) {
    XH_ASSIGN_OR_RETURN(more, reader->Next(&documents));
  }
  return documents;
}

}  // namespace xh
