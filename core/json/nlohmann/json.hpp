// nlohmann/json.hpp, found before the installed one, with what there needs memory in a noexcept function, where
// std::bad_alloc ends the process.
#pragma once
#pragma GCC system_header  // include_next is an extension
#include_next <nlohmann/json.hpp>

// The installed destructor moves the children of a list or an object into a vector first, so that deep nesting cannot
// exhaust the stack. Here they are destroyed where they are: ParseJson bounds the nesting. Null: an assignment that ran
// out of memory leaves the type of a list or an object without one.
template <>
inline void nlohmann::json::json_value::destroy(value_t type) {
  if (type == value_t::object) delete object;
  if (type == value_t::array) delete array;
  if (type == value_t::string) delete string;
  if (type == value_t::binary) delete binary;
}

// The installed comparisons with a text make a json of it first.
namespace nlohmann {
inline bool operator==(const json& value, const char* text) {
  const auto* held = value.get_ptr<const json::string_t*>();
  return held != nullptr && *held == text;
}
inline bool operator!=(const json& value, const char* text) { return !(value == text); }
}  // namespace nlohmann
