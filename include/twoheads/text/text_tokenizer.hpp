#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/text/added_tokens.hpp>
#include <twoheads/text/byte_level_bpe.hpp>
#include <twoheads/text/json_document.hpp>
#include <twoheads/text/json_field.hpp>
#include <twoheads/text/text_parts.hpp>
#include <twoheads/text/word_piece.hpp>
#include <utility>
#include <variant>
#include <vector>

namespace twoheads {

/// The tokenizer of a Hugging Face folder, whichever it is.
class TextTokenizer {
 public:
  explicit TextTokenizer(ByteLevelBpe tokenizer) : tokenizer_(std::move(tokenizer)) {}
  explicit TextTokenizer(WordPiece tokenizer) : tokenizer_(std::move(tokenizer)) {}

  /// Reads the tokenizer.json of a folder, else its vocab.json and merges.txt, else its vocab.txt. Of its
  /// tokenizer_config.json the names of the start and end tokens count, and without a tokenizer.json also added tokens
  /// and how text is cleaned. `vocabulary` is the model's.
  ///
  ///   Throws   FileError where a file cannot be read, or that names those of which none is there; FormatError that
  ///            names file and field, as ByteLevelBpe and WordPiece say; SpecError if vocabulary < 1
  [[nodiscard]] static TextTokenizer read(const std::filesystem::path& folder, Index vocabulary) {
    const auto has = [&](const char* name) {
      std::error_code error;
      return std::filesystem::exists(folder / name, error);
    };
    detail::TextDocument config;
    config.name = (folder / "tokenizer_config.json").string();
    config.tree = nlohmann::json::object();
    if (has("tokenizer_config.json")) config = detail::read_document(folder / "tokenizer_config.json", "-", "-");
    const detail::JsonField settings(config.tree, config.name);
    TextTokenizer tokenizer = has("tokenizer.json")                    ? read_json(folder, vocabulary)
                              : has("vocab.json") && has("merges.txt") ? read_pairs(folder, vocabulary, settings, has)
                              : has("vocab.txt")                       ? read_lines(folder, vocabulary, settings)
                                                                       : none(folder);
    tokenizer.name_ends(settings);
    return tokenizer;
  }

  /// The parts that do not depend on the kind of tokenizer; what a TextStream needs.
  [[nodiscard]] const TextParts& parts() const {
    return std::visit([](const auto& each) -> const TextParts& { return each; }, tokenizer_);
  }

  /// Token ids of a text; `special` says whether the tokens that the tokenizer sets before and after it are there.
  ///
  ///   Throws   SpecError where a character has no piece and there is no unknown token, or where a pattern takes too
  ///            many steps
  [[nodiscard]] std::vector<int> encode(std::string_view text, bool special = true) const {
    return std::visit([&](const auto& each) { return each.encode(text, special); }, tokenizer_);
  }

  /// The text of a sequence of ids. Throws SpecError that names an id outside the vocabulary.
  [[nodiscard]] std::string decode(std::span<const int> ids, bool skip_special = true) const {
    return parts().decode(ids, skip_special);
  }

  [[nodiscard]] Index vocabulary() const { return parts().vocabulary(); }  ///< ids there are
  /// The id of a piece, if there is one.
  [[nodiscard]] std::optional<int> id_of(std::string_view piece) const { return parts().id_of(piece); }
  [[nodiscard]] std::string piece(int token) const { return parts().piece(token); }       ///< the piece of an id
  [[nodiscard]] std::optional<int> start_token() const { return parts().start_token(); }  ///< before a text, if any
  [[nodiscard]] std::optional<int> end_token() const { return parts().end_token(); }      ///< after a text, if any

 private:
  using Settings = detail::JsonField;

  [[nodiscard]] static TextTokenizer read_json(const std::filesystem::path& folder, Index vocabulary) {
    const detail::TextDocument document =
        detail::read_document(folder / "tokenizer.json", "/model/vocab", "/model/merges");
    const detail::JsonField model = detail::JsonField(document.tree, document.name).at("model");
    // Files of 2020 name no type; only byte-pair models have merges.
    const std::optional<detail::JsonField> type = model.find("type");
    const std::string kind = type ? type->string() : model.find("merges") ? "BPE" : "WordPiece";
    if (kind == "BPE") return TextTokenizer(ByteLevelBpe(document, vocabulary));
    if (kind == "WordPiece") return TextTokenizer(WordPiece(document, vocabulary));
    throw type->error("is ", type->shown(), ", expected \"BPE\" or \"WordPiece\"");
  }

  template <class Has>
  [[nodiscard]] static TextTokenizer read_pairs(const std::filesystem::path& folder, Index vocabulary,
                                                const Settings& settings, const Has& has) {
    if (has("added_tokens.json"))
      throw FormatError((folder / "added_tokens.json").string() +
                        ": is not read; expected a tokenizer.json that has these tokens");
    // Other classes split the same files at other places, or add tokens of their own.
    if (const auto kind = settings.find("tokenizer_class");
        kind && kind->string() != "GPT2Tokenizer" && kind->string() != "GPT2TokenizerFast")
      throw kind->error("is ", kind->shown(), ", expected \"GPT2Tokenizer\", or a tokenizer.json in the folder");
    if (settings.boolean_or("add_bos_token", false))
      throw settings.at("add_bos_token").error("is true, expected false, or a tokenizer.json in the folder");
    ByteLevelOptions options;
    options.add_prefix_space = settings.boolean_or("add_prefix_space", false);
    if (const auto added = settings.find("added_tokens_decoder")) {
      if (!added->value().is_object()) throw added->error("is ", added->shown(), ", expected an object");
      for (const auto& item : added->value().items()) {
        const std::string& name = item.key();
        const bool digits =
            !name.empty() && name.size() < 10 && name.find_first_not_of("0123456789") == std::string::npos;
        if (!digits) throw added->error("has the id ", name.substr(0, 60), ", expected a whole number");
        options.added.push_back(detail::AddedTokens::read(added->at(name), std::stoi(name)));
      }
    } else {
      options.special = {"<|endoftext|>"};
    }
    return TextTokenizer(ByteLevelBpe::read(folder / "vocab.json", folder / "merges.txt", vocabulary, options));
  }

  [[nodiscard]] static TextTokenizer read_lines(const std::filesystem::path& folder, Index vocabulary,
                                                const Settings& settings) {
    WordPieceOptions options;
    options.lower = settings.boolean_or("do_lower_case", true);
    if (settings.find("strip_accents")) options.strip_accents = settings.at("strip_accents").boolean();
    options.cjk_apart = settings.boolean_or("tokenize_chinese_chars", true);
    options.unknown = piece_of(settings, "unk_token").value_or(options.unknown);
    options.start = piece_of(settings, "cls_token").value_or(options.start);
    options.end = piece_of(settings, "sep_token").value_or(options.end);
    return TextTokenizer(WordPiece::read_lines(folder / "vocab.txt", vocabulary, options));
  }

  [[noreturn]] static TextTokenizer none(const std::filesystem::path& folder) {
    throw FileError(folder.string() + ": no tokenizer.json, no vocab.json with merges.txt and no vocab.txt");
  }

  /// A token that settings name, as a string or an object with its content.
  [[nodiscard]] static std::optional<std::string> piece_of(const Settings& settings, const std::string& name) {
    const std::optional<Settings> found = settings.find(name);
    if (!found) return std::nullopt;
    return found->value().is_object() ? found->at("content").string() : found->string();
  }

  void name_ends(const Settings& settings) {
    const auto token = [&](const char* name) -> std::optional<int> {
      const std::optional<std::string> piece = piece_of(settings, name);
      if (!piece) return std::nullopt;
      const std::optional<int> id = id_of(*piece);
      if (!id) throw settings.at(name).error("is \"", piece->substr(0, 60), "\", which is no piece");
      return id;
    };
    const std::optional<int> start = token("bos_token");
    const std::optional<int> end = token("eos_token");
    std::visit(
        [&](auto& each) {
          if (start) each.set_start_token(*start);
          if (end) each.set_end_token(*end);
        },
        tokenizer_);
  }

  std::variant<ByteLevelBpe, WordPiece> tokenizer_;
};

}  // namespace twoheads
