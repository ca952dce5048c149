#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/text/json_field.hpp>
#include <twoheads/text/pattern.hpp>
#include <twoheads/text/unicode.hpp>
#include <utility>
#include <variant>
#include <vector>

namespace twoheads::detail {

/// A pattern field: {"String": ..} or {"Regex": ..}. Throws FormatError that names the field.
[[nodiscard]] inline TextPattern pattern_of(const JsonField& field) {
  field.allow({"String", "Regex"});
  const std::optional<JsonField> literal = field.find("String");
  const std::optional<JsonField> regex = field.find("Regex");
  if (literal.has_value() == regex.has_value()) throw field.error("is no String or Regex, expected one of them");
  try {
    return literal ? TextPattern::literal(literal->string()) : TextPattern::regex(regex->string());
  } catch (const SpecError& error) {
    throw field.error("does not serve: ", error.what());
  }
}

/// Text with every match of `pattern` replaced.
///
///   Throws   SpecError where that makes more than 64 times the text and 1 MiB: only a damaged file asks for that
[[nodiscard]] inline std::string replace_all(std::string_view in, const TextPattern& pattern,
                                             std::string_view content) {
  const std::vector<TextRange> matches = pattern.matches(in);
  const std::size_t most = 64 * in.size() + (1U << 20);
  if (!matches.empty() && content.size() > most / matches.size())
    throw SpecError(text("a text of ", in.size(), " bytes would grow beyond ", most, " bytes in one replacement"));
  std::string replaced;
  for (const TextRange& range : with_gaps(matches, in.size()))
    replaced += range.match ? content : in.substr(range.begin, range.end - range.begin);
  return replaced;
}

/// What BERT does to a text before it is split.
struct BertCleaning {
  bool clean_text = true;  // controls and U+FFFD go, every white space becomes a space
  bool cjk_apart = true;   // a space before and after each CJK ideograph
  bool strip_accents = true;
  bool lower = true;

  [[nodiscard]] std::string operator()(std::string_view text) const {
    std::string cleaned;
    cleaned.reserve(text.size());
    for_each_character(text, [&](const Character& character) {
      const UChar32 c = character.value;
      const bool blank = c == '\t' || c == '\n' || c == '\r' || is_white_space(c);
      if (clean_text) {
        if (c == 0 || c == 0xFFFD) return;
        const bool control = (U_GET_GC_MASK(c) & U_GC_C_MASK) != 0 && c != '\t' && c != '\n' && c != '\r';
        if (control) return;
      }
      if (clean_text && blank) {
        cleaned += ' ';
      } else if (cjk_apart && is_cjk(c)) {
        cleaned += ' ';
        append_utf8(cleaned, c);
        cleaned += ' ';
      } else {
        append_utf8(cleaned, c);
      }
    });
    if (strip_accents) cleaned = without_categories(normal_form(cleaned, NormalForm::nfd), U_GC_MN_MASK);
    if (lower) cleaned = lower_case(cleaned);
    return cleaned;
  }
};

/// The normalizer of a tokenizer.json: steps that change a text before it is split.
///
///   Corner   an empty text stays empty
///   Throws   SpecError where the text grows beyond 64 times its size and 1 MiB
class TextNormalizer {
 public:
  struct Lower {};
  struct StripAccents {};
  struct Prepend {
    std::string content;
  };
  struct Replace {
    TextPattern pattern;
    std::string content;
  };
  using Step = std::variant<NormalForm, Lower, StripAccents, Prepend, Replace, BertCleaning>;

  TextNormalizer() = default;
  explicit TextNormalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  /// Throws FormatError that names a type or field that is not known.
  [[nodiscard]] static TextNormalizer read(const JsonField& field) {
    TextNormalizer normalizer;
    normalizer.add(field);
    return normalizer;
  }

  [[nodiscard]] std::string operator()(std::string_view in) const {
    std::string normal(in);
    for (const Step& step : steps_) {
      if (normal.empty()) break;
      normal = std::visit([&](const auto& each) { return apply(each, normal); }, step);
      if (normal.size() > 64 * in.size() + (1U << 20))
        throw SpecError(text("a text of ", in.size(), " bytes grows to ", normal.size(), " when it is normalized"));
    }
    return normal;
  }

 private:
  static std::string apply(NormalForm form, const std::string& text) { return normal_form(text, form); }
  static std::string apply(Lower, const std::string& text) { return lower_case(text); }
  static std::string apply(StripAccents, const std::string& text) { return without_categories(text, U_GC_M_MASK); }
  static std::string apply(const Prepend& step, const std::string& text) { return step.content + text; }
  static std::string apply(const Replace& step, const std::string& text) {
    return replace_all(text, step.pattern, step.content);
  }
  static std::string apply(const BertCleaning& step, const std::string& text) { return step(text); }

  void add(const JsonField& field) {
    const JsonField type_field = field.at("type");
    const std::string& type = type_field.string();
    if (type == "Sequence") {
      field.allow({"type", "normalizers"});
      for (const JsonField& element : field.at("normalizers").elements()) add(element);
    } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
      field.allow({"type"});
      steps_.emplace_back(type == "NFC"    ? NormalForm::nfc
                          : type == "NFD"  ? NormalForm::nfd
                          : type == "NFKC" ? NormalForm::nfkc
                                           : NormalForm::nfkd);
    } else if (type == "Lowercase") {
      field.allow({"type"});
      steps_.emplace_back(Lower{});
    } else if (type == "StripAccents") {
      field.allow({"type"});
      steps_.emplace_back(StripAccents{});
    } else if (type == "Prepend") {
      field.allow({"type", "prepend"});
      steps_.emplace_back(Prepend{field.at("prepend").string()});
    } else if (type == "Replace") {
      field.allow({"type", "pattern", "content"});
      steps_.emplace_back(Replace{pattern_of(field.at("pattern")), field.at("content").string()});
    } else if (type == "BertNormalizer") {
      field.allow({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
      BertCleaning step;
      step.clean_text = field.boolean_or("clean_text", true);
      step.cjk_apart = field.boolean_or("handle_chinese_chars", true);
      step.lower = field.boolean_or("lowercase", true);
      step.strip_accents = field.boolean_or("strip_accents", step.lower);
      steps_.emplace_back(step);
    } else {
      throw type_field.error("is ", type_field.shown(), ", which is no normalizer known here");
    }
  }

  std::vector<Step> steps_;
};

}  // namespace twoheads::detail
