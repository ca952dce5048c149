#include "support/command_line.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace programs {
namespace {

/// How many letters are to be put in, left out or changed to make one word of another.
std::size_t changes(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

/// What an option takes, as in "it takes full|causal"; empty for a flag without a value.
std::string takes(const CLI::Option& option) {
  return option.get_items_expected_max() == 0 ? std::string() : ", it takes " + option.get_type_name();
}

}  // namespace

std::string nearest_flag(const CLI::App& app, const std::string& word) {
  // A third of the letters, rounded, may be others.
  std::size_t least = (word.size() + 1) / 3 + 1;
  std::string nearest;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) {
      const std::string flag = "--" + name;
      // A flag that was cut short is meant by its beginning.
      const bool begins = word.size() > 3 && flag.compare(0, word.size(), word) == 0;
      const std::size_t distance = begins ? 1 : changes(word, flag);
      if (distance >= least) continue;
      least = distance;
      nearest = flag;
    }
  return nearest;
}

std::string fault_of(const CLI::App& app, const CLI::ParseError& error) {
  const std::string said = error.what();
  const bool lacks = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  const bool is_more = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  const std::vector<std::string> words = app.remaining();
  // What is missing may be there, misspelt.
  if (lacks || is_more)
    for (const std::string& word : words) {
      if (word.size() < 2 || word.front() != '-') continue;
      const std::string flag = word.substr(0, word.find('='));
      const std::string nearest = nearest_flag(app, flag);
      return flag + " is no flag of this program" + (nearest.empty() ? "" : "; " + nearest + " is one");
    }
  if (is_more && !words.empty()) return "'" + words.front() + "' stands behind no flag that takes it";
  // These begin with the name of the flag.
  const std::string name = said.substr(0, said.find_first_of(": "));
  const CLI::Option* const option = app.get_option_no_throw(name);
  if (option == nullptr) return said;
  if (lacks) return said + takes(*option);
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    if (said.find(" missing") != std::string::npos) return name + " has no value" + takes(*option);
    if (said.find("At Most") != std::string::npos)
      return name + " is given " + std::to_string(option->count()) + " times, expected once";
  }
  return said;
}

}  // namespace programs
