#include "core/json_fields.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <numeric>

#include "absl/strings/str_join.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/names.h"
#include "core/format.h"

namespace xh {
namespace {

using nlohmann::json;

constexpr size_t kDeepest = 64;
constexpr int64_t kLargestExact = 1ll << 53;

// Reads characters and remembers how far it came, so that an error found above the lexer has a place.
struct Cursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** reached;

  reference operator*() const {
    *reached = at;
    return *at;
  }
  Cursor& operator++() {
    ++at;
    return *this;
  }
  bool operator==(const Cursor& other) const { return at == other.at; }
  bool operator!=(const Cursor& other) const { return at != other.at; }
};

// Builds the value, refusing duplicate keys and deep nesting.
class Builder : public nlohmann::json_sax<json> {
 public:
  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(number_integer_t value) override { return Put(value); }
  bool number_unsigned(number_unsigned_t value) override { return Put(value); }
  bool number_float(number_float_t value, const string_t&) override { return Put(value); }
  bool string(string_t& value) override { return Put(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Enter(json::object()); }
  bool start_array(size_t) override { return Enter(json::array()); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }

  bool key(string_t& name) override {
    if (open_.back()->contains(name)) return Refuse("duplicate key " + Quoted(name));
    key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.kind.number] parse error at line 1, column 2: reason"; the place is given by the caller.
    std::string text = error.what();
    const size_t kind = text.find("] ");
    if (kind != std::string::npos) text.erase(0, kind + 2);
    const size_t place = text.rfind("parse error at", 0) == 0 ? text.find(": ") : std::string::npos;
    return Refuse(place == std::string::npos ? text : text.substr(place + 2));
  }

  json root;
  std::string problem;  // empty when there was none

 private:
  bool Refuse(std::string what) {
    problem = std::move(what);
    return false;
  }

  bool Put(json value) {
    *Place() = std::move(value);
    return true;
  }

  bool Enter(json container) {
    if (open_.size() >= kDeepest) return Refuse(absl::StrCat("nested more than ", kDeepest, " levels deep"));
    json* place = Place();
    *place = std::move(container);
    open_.push_back(place);
    return true;
  }

  bool Leave() {
    open_.pop_back();
    return true;
  }

  json* Place() {
    if (open_.empty()) return &root;
    if (open_.back()->is_object()) return &(*open_.back())[key_];
    open_.back()->push_back(nullptr);
    return &open_.back()->back();
  }

  std::vector<json*> open_;  // a container is the last element of the one before, so none of them moves
  std::string key_;
};

// The problem as one line of ASCII of bounded length: the parser quotes the text that it met.
std::string OneLine(const std::string& text) {
  const std::string quoted = Quoted(text);
  return quoted.substr(1, quoted.size() - 2);
}

std::string Shown(const json& value) {
  switch (value.type()) {
    case json::value_t::object:
      return "an object";
    case json::value_t::array:
      return "an array";
    case json::value_t::string:
      return Quoted(value.get_ref<const std::string&>());
    default:
      return value.dump();
  }
}

std::string Range(const char* kind, const std::string& min, const std::string& max) {
  return absl::StrCat(kind, " from ", min, " to ", max);
}

// Number of single-character changes that make `a` into `b`.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::string Nearest(const std::string& key, const std::set<std::string>& known) {
  std::string nearest;
  if (key.size() > 64) return nearest;
  size_t best = std::max<size_t>(2, key.size() / 3) + 1;
  for (const std::string& name : known) {
    const size_t distance = EditDistance(key, name);
    if (distance < best) best = distance, nearest = name;
  }
  return nearest;
}

Status NotJson(const std::string& where, const std::string& text, const char* at, const std::string& problem) {
  const int64_t line = 1 + std::count(text.data(), at, '\n');
  const char* line_start = at;
  while (line_start > text.data() && line_start[-1] != '\n') --line_start;
  return InvalidArgument(where, " is not valid JSON at line ", line, ", column ", at - line_start + 1, ": ",
                         OneLine(problem));
}

}  // namespace

StatusOr<json> ParseJson(const std::string& text, const std::string& where, int64_t max_bytes) {
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return InvalidArgument(where, " has ", text.size(), " bytes; allowed: at most ", max_bytes);
  }
  const char* reached = text.data();
  const char* end = text.data() + text.size();
  // The parser takes a NUL character for the end of the text.
  const void* nul = std::memchr(text.data(), 0, text.size());
  if (nul != nullptr) return NotJson(where, text, static_cast<const char*>(nul), "NUL character");
  Builder builder;
  if (json::sax_parse(Cursor{text.data(), &reached}, Cursor{end, &reached}, &builder)) return std::move(builder.root);
  return NotJson(where, text, reached, builder.problem);
}

StatusOr<json> ReadJsonFile(const std::string& path, int64_t max_bytes) {
  XH_ASSIGN_OR_RETURN(const File file, File::OpenRead(path, Links::kFollow));
  XH_ASSIGN_OR_RETURN(const int64_t bytes, file.Size());
  if (bytes > max_bytes) return Corrupt(path, " has ", bytes, " bytes; allowed: at most ", max_bytes);
  std::string text(static_cast<size_t>(bytes), '\0');
  XH_RETURN_IF_ERROR(file.ReadAt(0, text.data(), bytes));
  StatusOr<json> parsed = ParseJson(text, path, max_bytes);
  if (!parsed.ok()) return Corrupt(std::string(parsed.status().message()));
  return parsed;
}

std::string ShownJson(const json& value) {
  constexpr size_t kLongest = 200;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, "...");
  return text;
}

JsonFields::JsonFields(const json* object, std::string where) : object_(object), where_(std::move(where)) {}

Status JsonFields::CheckObject() const {
  if (object_ != nullptr && object_->is_object()) return absl::OkStatus();
  return InvalidArgument(where_, " is ", object_ == nullptr ? "missing" : Shown(*object_), "; allowed: an object");
}

const json* JsonFields::Get(const std::string& key) {
  known_.insert(key);
  if (!CheckObject().ok()) return nullptr;
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

bool JsonFields::Has(const std::string& key) { return Get(key) != nullptr; }

StatusOr<const json*> JsonFields::Need(const std::string& key, const std::string& allowed) {
  XH_RETURN_IF_ERROR(CheckObject());
  const json* value = Get(key);
  if (value == nullptr) return InvalidArgument(where_, ": ", Quoted(key), " is missing; allowed: ", allowed);
  return value;
}

Status JsonFields::Wrong(const std::string& key, const json& value, const std::string& allowed) const {
  return InvalidArgument(where_, ": ", Quoted(key), " is ", Shown(value), "; allowed: ", allowed);
}

StatusOr<int64_t> JsonFields::Int(const std::string& key, int64_t min, int64_t max) {
  min = std::max(min, -kLargestExact);
  max = std::min(max, kLargestExact);
  const std::string allowed = Range("integer", std::to_string(min), std::to_string(max));
  XH_ASSIGN_OR_RETURN(const json* value, Need(key, allowed));
  const bool beyond = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(kLargestExact);
  if (!value->is_number_integer() || beyond) return Wrong(key, *value, allowed);
  const int64_t number = value->get<int64_t>();
  if (number < min || number > max) return Wrong(key, *value, allowed);
  return number;
}

StatusOr<int64_t> JsonFields::Int(const std::string& key, int64_t min, int64_t max, int64_t missing) {
  XH_RETURN_IF_ERROR(CheckObject());
  return Has(key) ? Int(key, min, max) : missing;
}

StatusOr<double> JsonFields::Real(const std::string& key, double min, double max) {
  const std::string allowed = Range("number", Format("%.17g", min), Format("%.17g", max));
  XH_ASSIGN_OR_RETURN(const json* value, Need(key, allowed));
  if (!value->is_number()) return Wrong(key, *value, allowed);
  const double number = value->get<double>();
  const bool inexact = value->is_number_integer() && std::abs(number) > static_cast<double>(kLargestExact);
  if (!std::isfinite(number) || inexact || number < min || number > max) return Wrong(key, *value, allowed);
  return number;
}

StatusOr<double> JsonFields::Real(const std::string& key, double min, double max, double missing) {
  XH_RETURN_IF_ERROR(CheckObject());
  return Has(key) ? Real(key, min, max) : missing;
}

StatusOr<bool> JsonFields::Bool(const std::string& key) {
  XH_ASSIGN_OR_RETURN(const json* value, Need(key, "true or false"));
  if (!value->is_boolean()) return Wrong(key, *value, "true or false");
  return value->get<bool>();
}

StatusOr<bool> JsonFields::Bool(const std::string& key, bool missing) {
  XH_RETURN_IF_ERROR(CheckObject());
  return Has(key) ? Bool(key) : missing;
}

StatusOr<std::string> JsonFields::Text(const std::string& key) {
  XH_ASSIGN_OR_RETURN(const json* value, Need(key, "text"));
  if (!value->is_string()) return Wrong(key, *value, "text");
  const std::string& text = value->get_ref<const std::string&>();
  if (text.find('\0') != std::string::npos) return Wrong(key, *value, "text without NUL characters");
  return text;
}

StatusOr<std::string> JsonFields::Text(const std::string& key, const std::string& missing) {
  XH_RETURN_IF_ERROR(CheckObject());
  return Has(key) ? Text(key) : missing;
}

StatusOr<std::string> JsonFields::Choice(const std::string& key, const std::vector<std::string>& allowed) {
  const auto quote = [](std::string* out, const std::string& name) { *out += Quoted(name); };
  const std::string listed = absl::StrJoin(allowed, ", ", quote);
  XH_ASSIGN_OR_RETURN(const json* value, Need(key, listed));
  const bool known = value->is_string() && std::count(allowed.begin(), allowed.end(), value->get<std::string>()) > 0;
  if (!known) return Wrong(key, *value, listed);
  return value->get<std::string>();
}

StatusOr<std::string> JsonFields::Choice(const std::string& key, const std::vector<std::string>& allowed,
                                         const std::string& missing) {
  XH_RETURN_IF_ERROR(CheckObject());
  return Has(key) ? Choice(key, allowed) : missing;
}

Status JsonFields::NoOthers() const {
  XH_RETURN_IF_ERROR(CheckObject());
  std::string unknown, hint;
  for (const auto& item : object_->items()) {
    if (known_.count(item.key()) > 0) continue;
    absl::StrAppend(&unknown, unknown.empty() ? "" : ", ", Quoted(item.key()));
    const std::string nearest = Nearest(item.key(), known_);
    if (!nearest.empty()) absl::StrAppend(&hint, hint.empty() ? " (did you mean " : ", ", Quoted(nearest));
    if (unknown.size() > 400) break;  // enough to see what is wrong
  }
  if (unknown.empty()) return absl::OkStatus();
  const auto quote = [](std::string* out, const std::string& name) { *out += Quoted(name); };
  return InvalidArgument(where_, ": unknown ", unknown, hint, hint.empty() ? "" : "?)",
                         "; allowed: ", absl::StrJoin(known_, ", ", quote));
}

}  // namespace xh
