#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <twoheads/text/json_field.hpp>
#include <twoheads/text/pieces.hpp>
#include <vector>

namespace twoheads::detail {

/// The tokens that stand before and after those of a text.
struct TokenTemplate {
  std::vector<int> before, after;

  /// The post-processor of a tokenizer.json, for one text. Types of tokens and offsets are of no effect on ids.
  ///
  ///   Throws   FormatError that names a type or field that is not known, or an id that contradicts its piece
  [[nodiscard]] static TokenTemplate read(const JsonField& field, const PieceTable& pieces) {
    TokenTemplate tokens;
    bool done = false;
    tokens.add(field, pieces, done);
    return tokens;
  }

 private:
  static int id_of(const JsonField& piece, const JsonField& id, const PieceTable& pieces) {
    const std::optional<int> known = pieces.find(piece.string());
    if (!known) throw piece.error("is ", piece.shown(), ", which is no piece");
    if (id.integer(0, pieces.vocabulary() - 1) != *known)
      throw id.error("is ", id.shown(), ", expected ", *known, ", the id of ", piece.shown());
    return *known;
  }

  void add(const JsonField& field, const PieceTable& pieces, bool& done) {
    const JsonField type_field = field.at("type");
    const std::string& type = type_field.string();
    if (type == "ByteLevel") {
      field.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      return;
    }
    if (type == "Sequence") {
      field.allow({"type", "processors"});
      for (const JsonField& element : field.at("processors").elements()) add(element, pieces, done);
      return;
    }
    if (done) throw type_field.error("is ", type_field.shown(), ", a second step that adds tokens, expected one");
    done = true;
    if (type == "TemplateProcessing") {
      field.allow({"type", "single", "pair", "special_tokens"});
      add_template(field, pieces);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      field.allow({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
      const auto token = [&](const char* name) {
        const std::vector<JsonField> pair = field.at(name).elements();
        if (pair.size() != 2) throw field.at(name).error("has ", pair.size(), " elements, expected a piece and an id");
        return id_of(pair[0], pair[1], pieces);
      };
      before.push_back(token("cls"));
      after.push_back(token("sep"));
    } else {
      throw type_field.error("is ", type_field.shown(), ", which is no post-processor known here");
    }
  }

  void add_template(const JsonField& field, const PieceTable& pieces) {
    bool text_seen = false;
    for (const JsonField& element : field.at("single").elements()) {
      element.allow({"Sequence", "SpecialToken"});
      const std::optional<JsonField> sequence = element.find("Sequence");
      const std::optional<JsonField> special = element.find("SpecialToken");
      if (sequence.has_value() == special.has_value())
        throw element.error("is no Sequence or SpecialToken, expected one of them");
      if (sequence) {
        if (sequence->at("id").string() != "A" || text_seen)
          throw sequence->error("is a second text or not A, expected the text A once");
        text_seen = true;
        continue;
      }
      const JsonField token = field.at("special_tokens").at(special->at("id").string());
      const std::vector<JsonField> names = token.at("tokens").elements();
      const std::vector<JsonField> ids = token.at("ids").elements();
      if (names.size() != ids.size())
        throw token.error("has ", names.size(), " tokens and ", ids.size(), " ids, expected as many");
      for (std::size_t at = 0; at < ids.size(); ++at)
        (text_seen ? after : before).push_back(id_of(names[at], ids[at], pieces));
    }
    if (!text_seen) throw field.at("single").error("has no text, expected the text A once");
  }
};

}  // namespace twoheads::detail
