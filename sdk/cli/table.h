// Tables for people: columns as wide as their widest cell.
#ifndef XHYBRID_SDK_CLI_TABLE_H_
#define XHYBRID_SDK_CLI_TABLE_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  void AddRule() { rules_.push_back(rows_.size()); }  // a line before the next row
  void Print(std::ostream& out) const;
  void PrintCsv(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<size_t> rules_;
};

std::string Fixed(double value, int digits);  // "0.781"; "-" when not finite
std::string Bytes(double bytes);              // "12.6 MB"
std::string Duration(double seconds);         // "1:02:03" or "2:03"

}  // namespace cli

#endif  // XHYBRID_SDK_CLI_TABLE_H_
