// JSON that others wrote: parsed without exceptions, and read field by field with the allowed values in every message.
#ifndef XHYBRID_CORE_JSON_FIELDS_H_
#define XHYBRID_CORE_JSON_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"

namespace xh {

// Parses one JSON text of at most `max_bytes`. `where` ("recipe.json") stands in messages. InvalidArgument for syntax
// errors (with line and column), duplicate keys, more than 64 levels, text after the value, or what is not UTF-8.
StatusOr<nlohmann::json> ParseJson(const std::string& text, const std::string& where, int64_t max_bytes = 64 << 20);

// The same for a regular file, whose path stands in messages. Malformed content is Corrupt.
StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, int64_t max_bytes = 64 << 20);

// A value as messages show it: its text in ASCII on one line, cut short where it is long.
std::string ShownJson(const nlohmann::json& value);

// The fields of one object. Each getter returns InvalidArgument that names `where`, the key, the value and what is
// allowed:
//   recipe.json: "steps" is -3; allowed: integer from 1 to 1000000000
// A field that is null counts as missing; without a default, a missing field is an error. One thread at a time.
class JsonFields {
 public:
  // `object` must outlive this. When it is NULL or not an object, every getter and NoOthers says so.
  explicit JsonFields(const nlohmann::json* object, std::string where);

  // Integers are written without fraction or exponent and lie within +-2^53, whatever `min` and `max` are.
  StatusOr<int64_t> Int(const std::string& key, int64_t min, int64_t max);
  StatusOr<int64_t> Int(const std::string& key, int64_t min, int64_t max, int64_t missing);
  // Finite numbers; an integer is accepted when a double holds it exactly.
  StatusOr<double> Real(const std::string& key, double min, double max);
  StatusOr<double> Real(const std::string& key, double min, double max, double missing);
  StatusOr<bool> Bool(const std::string& key);
  StatusOr<bool> Bool(const std::string& key, bool missing);
  // Text without NUL characters.
  StatusOr<std::string> Text(const std::string& key);
  StatusOr<std::string> Text(const std::string& key, const std::string& missing);
  StatusOr<std::string> Choice(const std::string& key, const std::vector<std::string>& allowed);
  StatusOr<std::string> Choice(const std::string& key, const std::vector<std::string>& allowed,
                               const std::string& missing);

  bool Has(const std::string& key);                   // false for null too
  const nlohmann::json* Get(const std::string& key);  // NULL when missing or null; borrowed from the object
  // InvalidArgument when the object has a key that was not asked for by any call above, with the nearest known one.
  Status NoOthers() const;

 private:
  Status CheckObject() const;
  StatusOr<const nlohmann::json*> Need(const std::string& key, const std::string& allowed);
  Status Wrong(const std::string& key, const nlohmann::json& value, const std::string& allowed) const;

  const nlohmann::json* object_;
  std::string where_;
  std::set<std::string> known_;
};

}  // namespace xh

#endif  // XHYBRID_CORE_JSON_FIELDS_H_
