#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/base/errors.hpp>
#include <twoheads/io/config_fields.hpp>
#include <twoheads/io/json_scanner.hpp>
#include <twoheads/io/mapped_file.hpp>
#include <utility>

namespace twoheads {

/// How the rows of an encoder become one vector: their mean, the first one, or the first one through a dense layer and
/// tanh as BERT has it.
enum class Pooling { mean, cls, pooler };

/// The name as a report has it.
[[nodiscard]] constexpr const char* name(Pooling pooling) {
  switch (pooling) {
    case Pooling::mean:
      return "mean";
    case Pooling::cls:
      return "cls";
    case Pooling::pooler:
      break;
  }
  return "pooler";
}

/// What a sentence-transformers folder says beside the encoder itself.
struct SentenceConfig {
  Pooling pooling = Pooling::mean;  ///< which rows make the vector
  bool normalize = false;           ///< vectors are divided by their length
};

namespace detail {

[[nodiscard]] inline Pooling read_pooling(const std::filesystem::path& path) {
  const MappedFile file(path);
  ConfigFields fields(file.text_at(0, file.bytes().size()), file.name());
  const bool mean = fields.flag_or("pooling_mode_mean_tokens", false);
  const bool cls = fields.flag_or("pooling_mode_cls_token", false);
  for (const char* other : {"pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
                            "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"})
    fields.expect_flag(other, false, "only mean and cls are read");
  // Without a prompt it changes nothing, and we give none.
  fields.pass({"word_embedding_dimension", "include_prompt"});
  fields.require_nothing_left();
  if (mean == cls)
    throw SpecError(text(file.name(), ": ", mean ? "both" : "none", " of pooling_mode_mean_tokens and ",
                         "pooling_mode_cls_token are set, expected one"));
  return mean ? Pooling::mean : Pooling::cls;
}

}  // namespace detail

/// Reads modules.json and the folder of its pooling, where they are there; else rows are pooled by their mean.
///
///   Throws   FileError for a file that cannot be read; FormatError for what is no such file; SpecError for modules
///            other than an encoder, a pooling by mean or first token, and a division by the length
///   Source   UKPLab/sentence-transformers, modules.json and 1_Pooling/config.json
[[nodiscard]] inline SentenceConfig read_sentence_config(const std::filesystem::path& folder) {
  SentenceConfig config;
  const std::filesystem::path path = folder / "modules.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return config;
  const detail::MappedFile file(path);
  const std::string_view json = file.text_at(0, file.bytes().size());
  detail::JsonScanner scanner(json, file.name());
  int place = 0;
  scanner.array([&] {
    scanner.skip_space();
    const std::size_t begin = scanner.at();
    scanner.skip_value();
    detail::ConfigFields module(json.substr(begin, scanner.at() - begin), file.name());
    const std::string type = module.word("type");
    const std::string kind = type.substr(type.rfind('.') + 1);
    const std::string own = module.word_or("path", "");
    module.pass({"idx", "name", "kwargs"});
    module.require_nothing_left();
    // The name of a folder in this one: a damaged file leads nowhere else.
    const bool plain = own.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos && own != "..";
    if (place == 0 && kind == "Transformer" && own.empty()) {
    } else if (place == 1 && kind == "Pooling" && plain) {
      config.pooling = detail::read_pooling(folder / own / "config.json");
    } else if (place == 2 && kind == "Normalize") {
      config.normalize = true;
    } else {
      throw SpecError(detail::text(file.name(), ": module ", place, " is '", detail::excerpt(type), "' in '",
                                   detail::excerpt(own),
                                   "', expected Transformer in '', Pooling, and then Normalize or none"));
    }
    ++place;
  });
  scanner.expect_end();
  if (place < 2)
    throw SpecError(detail::text(file.name(), ": ", place, " modules, expected an encoder and its pooling"));
  return config;
}

}  // namespace twoheads
