#pragma once

#include <cmath>
#include <filesystem>
#include <string_view>
#include <twoheads/attention/language.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/io/folder_weights.hpp>
#include <twoheads/io/model_folder.hpp>
#include <twoheads/io/read_config.hpp>
#include <twoheads/io/sentence_config.hpp>
#include <utility>

namespace twoheads {

/// A model whose rows stand for tokens in their context, and how they become one vector.
///
///   Shapes   pooler (width, width) and its bias (width), or empty: BERT's dense layer for the first row
///   Corner   the model has no output: its logits would be products with the embedding
template <RealScalar Scalar>
struct EncoderModel {
  LanguageModel<Scalar> model;
  SentenceConfig sentence;  ///< how rows become a vector
  Matrix<Scalar> pooler;
  RowVector<Scalar> pooler_bias;  ///< empty where there is no pooler
};

/// Reads an encoder (BERT, RoBERTa, DistilBERT) from a folder as Hugging Face lays it out, and how its rows are pooled
/// where the folder is one of sentence-transformers.
///
///   Corner   heads for other tasks are left unread: rows do not depend on them. RoBERTa gives the padding's id another
///            position; texts hold none. All tokens see each other: inputs are not padded.
///   Throws   as read_model() does
template <RealScalar Scalar>
[[nodiscard]] EncoderModel<Scalar> read_encoder(const std::filesystem::path& folder) {
  const ModelConfig config = read_model_config(folder / "config.json");
  if (!config.encoder)
    throw SpecError(
        detail::text(folder.string(), ": ", config.model_type,
                     " is a decoder, whose rows know nothing of later tokens: expected bert, roberta or distilbert"));
  EncoderModel<Scalar> encoder;
  encoder.sentence = read_sentence_config(folder);
  detail::FolderWeights file(folder);
  encoder.model = detail::read_weights<Scalar>(file, config);
  if (config.family == ModelFamily::bert && file.has("pooler.dense.weight")) {
    encoder.pooler = file.linear<Scalar>("pooler.dense", config.spec.width, config.spec.width);
    encoder.pooler_bias = file.bias<Scalar>("pooler.dense", config.spec.width, true);
  }
  file.require_nothing_left([&](std::string_view name) { return detail::harmless_tensor(config, name); });
  return encoder;
}

/// One vector of an encoder's rows.
///
///   Shapes   rows (tokens, width), as forward() gives them; result (width)
///   Math     mean: of all rows; cls: the first row c; pooler: tanh(c pooler + pooler_bias)
///   Throws   ShapeError where there is no row; SpecError where the encoder has no pooler
template <RealScalar Scalar>
[[nodiscard]] RowVector<Scalar> pooled(const EncoderModel<Scalar>& encoder, const MatrixView<Scalar>& rows,
                                       Pooling pooling) {
  if (rows.rows() < 1) throw ShapeError("there are no rows to be pooled: expected 1 or more");
  if (pooling == Pooling::cls) return rows.row(0);
  if (pooling == Pooling::mean) {
    using Sum = SumScalar<Scalar>;
    const RowVector<Sum> sum = rows.template cast<Sum>().colwise().sum();
    return (sum / static_cast<Sum>(rows.rows())).template cast<Scalar>();
  }
  if (encoder.pooler.size() == 0) throw SpecError("the encoder has no pooler: expected mean or cls");
  const RowVector<Scalar> dense = rows.row(0) * encoder.pooler + encoder.pooler_bias;
  return dense.unaryExpr([](Scalar t) { return std::tanh(t); });
}

}  // namespace twoheads
