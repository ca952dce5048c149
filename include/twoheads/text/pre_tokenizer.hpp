#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <twoheads/text/byte_characters.hpp>
#include <twoheads/text/json_field.hpp>
#include <twoheads/text/normalizer.hpp>
#include <twoheads/text/pattern.hpp>
#include <twoheads/text/unicode.hpp>
#include <utility>
#include <variant>
#include <vector>

namespace twoheads::detail {

/// A part of a text, and whether it begins where the text does.
struct TextPart {
  std::string text;
  bool first = false;
};

/// How SentencePiece writes spaces.
struct Metaspace {
  enum class Prepend { always, first, never };
  std::string replacement = "\xE2\x96\x81";  // U+2581
  Prepend prepend = Prepend::always;
  bool split = true;

  /// Throws FormatError that names the field.
  [[nodiscard]] static Metaspace read(const JsonField& field) {
    field.allow({"type", "replacement", "str_rep", "prepend_scheme", "add_prefix_space", "split"});
    Metaspace step;
    step.replacement = field.at("replacement").string();
    if (step.replacement.empty() || character_at(step.replacement, 0).end != step.replacement.size())
      throw field.at("replacement").error("is ", field.at("replacement").shown(), ", expected one character");
    if (const auto given = field.find("str_rep"); given && given->string() != step.replacement)
      throw given->error("is ", given->shown(), ", expected the replacement ", step.replacement);
    if (!field.boolean_or("add_prefix_space", true)) step.prepend = Prepend::never;
    if (const auto scheme = field.find("prepend_scheme")) {
      const std::string& name = scheme->string();
      if (name != "always" && name != "first" && name != "never")
        throw scheme->error("is ", scheme->shown(), ", expected always, first or never");
      step.prepend = name == "always" ? Prepend::always : name == "first" ? Prepend::first : Prepend::never;
    }
    step.split = field.boolean_or("split", true);
    return step;
  }
};

/// The pre-tokenizer of a tokenizer.json: steps that split a text into words. Pieces never reach across words.
class PreTokenizer {
 public:
  /// GPT-2's pattern.
  ///
  ///   Source   openai/gpt-2, encoder.py
  static constexpr const char* gpt2_pattern =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

  /// GPT-2's: splits by its pattern and writes bytes as characters.
  struct ByteLevel {
    bool add_prefix_space = false;
    std::optional<TextPattern> pattern;
  };
  struct Split {
    TextPattern pattern;
    SplitBehavior behavior;
    bool invert;
  };
  struct Digits {
    bool individual;
  };
  struct Punctuation {
    SplitBehavior behavior;
  };
  /// At white space, and for BERT then around each punctuation.
  struct Words {
    bool punctuation_apart;
  };
  using Step = std::variant<ByteLevel, Split, Digits, Punctuation, Words, Metaspace>;

  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  [[nodiscard]] static ByteLevel byte_level(bool add_prefix_space, bool use_regex = true) {
    ByteLevel step{add_prefix_space, std::nullopt};
    if (use_regex) step.pattern = TextPattern::regex(gpt2_pattern);
    return step;
  }

  /// Throws FormatError that names a type or field that is not known.
  [[nodiscard]] static PreTokenizer read(const JsonField& field) {
    PreTokenizer pre_tokenizer;
    pre_tokenizer.add(field);
    return pre_tokenizer;
  }

  /// Whether words are written in GPT-2's byte characters.
  [[nodiscard]] bool writes_bytes() const {
    bool found = false;
    for (const Step& step : steps_) found = found || std::holds_alternative<ByteLevel>(step);
    return found;
  }

  /// The words of a part of a text in order, none of them empty.
  [[nodiscard]] std::vector<std::string> operator()(TextPart part) const {
    std::vector<TextPart> parts;
    if (!part.text.empty()) parts.push_back(std::move(part));
    for (const Step& step : steps_) {
      std::vector<TextPart> next;
      for (TextPart& each : parts) std::visit([&](const auto& known) { apply(known, each, next); }, step);
      parts = std::move(next);
    }
    std::vector<std::string> words;
    words.reserve(parts.size());
    for (TextPart& each : parts) words.push_back(std::move(each.text));
    return words;
  }

 private:
  static void append(const TextPart& part, const std::vector<TextRange>& ranges, std::vector<TextPart>& parts) {
    for (const TextRange& range : ranges)
      parts.push_back({part.text.substr(range.begin, range.end - range.begin), part.first && range.begin == 0});
  }

  static void apply(const ByteLevel& step, TextPart& part, std::vector<TextPart>& parts) {
    if (step.add_prefix_space && !part.text.starts_with(' ')) part.text.insert(0, 1, ' ');
    const std::size_t before = parts.size();
    if (step.pattern) {
      append(part, split_ranges(with_gaps(step.pattern->matches(part.text), part.text.size()), SplitBehavior::isolated),
             parts);
    } else {
      parts.push_back(std::move(part));
    }
    for (std::size_t at = before; at < parts.size(); ++at) parts[at].text = byte_characters().encode(parts[at].text);
  }

  static void apply(const Split& step, const TextPart& part, std::vector<TextPart>& parts) {
    std::vector<TextRange> ranges = with_gaps(step.pattern.matches(part.text), part.text.size());
    if (step.invert)
      for (TextRange& range : ranges) range.match = !range.match;
    append(part, split_ranges(std::move(ranges), step.behavior), parts);
  }

  static void apply(const Digits& step, const TextPart& part, std::vector<TextPart>& parts) {
    append(part,
           split_ranges(ranges_of(part.text, is_numeric),
                        step.individual ? SplitBehavior::isolated : SplitBehavior::contiguous),
           parts);
  }

  static void apply(const Punctuation& step, const TextPart& part, std::vector<TextPart>& parts) {
    append(part, split_ranges(ranges_of(part.text, is_punctuation), step.behavior), parts);
  }

  static void apply(const Words& step, const TextPart& part, std::vector<TextPart>& parts) {
    std::vector<TextPart> words;
    append(part, split_ranges(ranges_of(part.text, is_white_space), SplitBehavior::removed), words);
    for (TextPart& word : words) {
      if (step.punctuation_apart)
        apply(Punctuation{SplitBehavior::isolated}, word, parts);
      else
        parts.push_back(std::move(word));
    }
  }

  static void apply(const Metaspace& step, TextPart& part, std::vector<TextPart>& parts) {
    const TextPattern space = TextPattern::literal(" ");
    part.text = replace_all(part.text, space, step.replacement);
    const bool wanted =
        step.prepend == Metaspace::Prepend::always || (step.prepend == Metaspace::Prepend::first && part.first);
    if (wanted && !part.text.starts_with(step.replacement)) part.text.insert(0, step.replacement);
    if (!step.split) {
      parts.push_back(std::move(part));
      return;
    }
    const TextPattern replacement = TextPattern::literal(step.replacement);
    append(part,
           split_ranges(with_gaps(replacement.matches(part.text), part.text.size()), SplitBehavior::merged_with_next),
           parts);
  }

  [[nodiscard]] static SplitBehavior behavior_of(const JsonField& field) {
    const std::string& name = field.string();
    if (name == "Removed") return SplitBehavior::removed;
    if (name == "Isolated") return SplitBehavior::isolated;
    if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
    if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
    if (name == "Contiguous") return SplitBehavior::contiguous;
    throw field.error("is ", field.shown(), ", expected Removed, Isolated, MergedWithPrevious, MergedWithNext or ",
                      "Contiguous");
  }

  void add(const JsonField& field) {
    const JsonField type_field = field.at("type");
    const std::string& type = type_field.string();
    if (type == "Sequence") {
      field.allow({"type", "pretokenizers"});
      for (const JsonField& element : field.at("pretokenizers").elements()) add(element);
    } else if (type == "ByteLevel") {
      field.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      if (writes_bytes()) throw field.error("is a second ByteLevel, expected one");
      steps_.emplace_back(byte_level(field.boolean_or("add_prefix_space", true), field.boolean_or("use_regex", true)));
    } else if (type == "Split") {
      field.allow({"type", "pattern", "behavior", "invert"});
      steps_.emplace_back(
          Split{pattern_of(field.at("pattern")), behavior_of(field.at("behavior")), field.boolean_or("invert", false)});
    } else if (type == "Digits") {
      field.allow({"type", "individual_digits"});
      steps_.emplace_back(Digits{field.boolean_or("individual_digits", false)});
    } else if (type == "Punctuation") {
      field.allow({"type", "behavior"});
      const std::optional<JsonField> behavior = field.find("behavior");
      steps_.emplace_back(Punctuation{behavior ? behavior_of(*behavior) : SplitBehavior::isolated});
    } else if (type == "WhitespaceSplit" || type == "BertPreTokenizer") {
      field.allow({"type"});
      steps_.emplace_back(Words{type == "BertPreTokenizer"});
    } else if (type == "Metaspace") {
      steps_.emplace_back(Metaspace::read(field));
    } else {
      throw type_field.error("is ", type_field.shown(), ", which is no pre-tokenizer known here");
    }
  }

  std::vector<Step> steps_;
};

}  // namespace twoheads::detail
