// Training documents: JSONL files, gzip'd or not, tokenised once and held in memory.
#ifndef XHYBRID_CORE_TRAIN_DATASET_H_
#define XHYBRID_CORE_TRAIN_DATASET_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model/config.h"
#include "core/text/tokenizer.h"

namespace xh {

struct DataSource {
  std::string path;
  double weight = 1;          // share of the tokens, relative to the other sources
  std::string kind = "auto";  // "chat" {"messages": [...]}, "text" {"text": ...}, "ids" {"ids": [...], "masked":
                              // [[first, end], ...]}, or by row
};

// One file's documents, one after another. A token that is not to be predicted (a prompt, with loss_on = assistant) is
// held as ~id, so that a document costs four bytes a token.
struct Documents {
  std::string path;
  std::string sha256;  // of the file, hexadecimal
  std::vector<int32_t> tokens;
  std::vector<int64_t> starts = {0};  // document i is [starts[i], starts[i + 1])
  int64_t skipped_rows = 0;
  std::string last_problem;  // why the last of them was skipped

  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
};

struct DocumentOptions {
  const Tokenizer* tokenizer = nullptr;  // may be NULL for "ids"
  std::string tokenizer_problem;         // why it is NULL
  const ModelConfig* config = nullptr;
  bool loss_on_assistant = false;
  int64_t max_bad_rows = 0;
  std::function<void(const std::string&)> warn;  // one line for each row that is skipped
};

// Reads a file a block of rows at a time, tokenised on all cores. One thread at a time.
class DocumentReader {
 public:
  static StatusOr<std::unique_ptr<DocumentReader>> Open(const DataSource& source, const DocumentOptions& options);
  ~DocumentReader();
  // Appends the documents of the next block; false at the end of the file, when *documents has its digest. A file
  // without any document is InvalidArgument there. `max_bad_rows` counts in *documents.
  StatusOr<bool> Next(Documents* documents);
  int64_t bytes() const;       // of the file
  int64_t bytes_read() const;  // so far

 private:
  struct State;
  explicit DocumentReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Reads the file line by line; never holds more than a block of its text. A text or chat document is what the tokenizer
// makes of it with its special tokens; where those neither open nor close a document, the model's end token closes it.
// A malformed row is skipped with a warning "path:line: why" until `max_bad_rows` is passed, then it is the error.
StatusOr<Documents> ReadDocuments(const DataSource& source, const DocumentOptions& options);

}  // namespace xh

#endif  // XHYBRID_CORE_TRAIN_DATASET_H_
