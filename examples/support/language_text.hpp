#pragma once

#include <memory>
#include <optional>
#include <string>
#include <twoheads/base/index.hpp>
#include <twoheads/model/weights.hpp>
#include <vector>

namespace programs {

/// A decoder from a llama2.c file, or from a folder as Hugging Face lays it out. Compiled once for all programs.
template <class Scalar>
[[nodiscard]] twoheads::LanguageModel<Scalar> read_language_model(const std::string& path);

/// Text to token ids and back, by the tokenizer of a llama2.c model or of a folder; a folder of 256 ids and no
/// tokenizer is one of a model of bytes.
class LanguageText {
 public:
  /// `path`: a llama2.c tokenizer file, or a folder. `vocabulary` is the model's.
  [[nodiscard]] static LanguageText read(const std::string& path, twoheads::Index vocabulary);

  LanguageText(LanguageText&&) noexcept;
  ~LanguageText();

  /// The ids of a text, with the tokens that the tokenizer sets before and after it.
  [[nodiscard]] std::vector<int> encode(const std::string& text) const;
  /// The ids of a text that follows another: no such tokens.
  [[nodiscard]] std::vector<int> encode_rest(const std::string& text) const;
  /// The ids of a text that is to be gone on from: no token that ends one, and at least one.
  [[nodiscard]] std::vector<int> encode_prompt(const std::string& text) const;
  /// Whether a token ends the text.
  [[nodiscard]] bool ends(int token) const;

  /// What a token adds to the text after those before it; never a part of a character.
  [[nodiscard]] std::string add(int token);
  /// What was held back of a character that never ended.
  [[nodiscard]] std::string finish();

 private:
  struct Body;
  explicit LanguageText(std::unique_ptr<Body> body);
  std::unique_ptr<Body> body_;
};

}  // namespace programs
