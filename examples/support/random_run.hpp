#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/model/weights.hpp>
#include <vector>

namespace programs {

using twoheads::Index;
using twoheads::Matrix;

/// At most `most` rows, spread evenly.
template <class Scalar>
[[nodiscard]] Matrix<Scalar> spread_rows(const Matrix<Scalar>& rows, Index most) {
  const Index count = std::min<Index>(rows.rows(), most);
  Matrix<Scalar> result(count, rows.cols());
  for (Index row = 0; row < count; ++row) result.row(row) = rows.row(row * rows.rows() / count);
  return result;
}

/// Scales each layer's query weights so that the largest |score| is near 3 * scale on 256 tokens spread over the
/// input: at scale 1 it then lies between 1 and 10 over all of them.
inline void set_logit_scale(twoheads::Model<double>& model, const Matrix<double>& x, const Matrix<double>* memory,
                            double scale) {
  constexpr double target = 3.0;
  constexpr Index sample = 256;
  const Matrix<double> few = spread_rows(x, sample);
  const Matrix<double> few_keys = memory != nullptr ? spread_rows(*memory, sample) : Matrix<double>();
  // The documents of the input are not those of the sample.
  const twoheads::Mask mask = model.spec.attention.mask;
  if (mask.kind == twoheads::MaskKind::documents)
    model.spec.attention.mask = mask.causal_documents ? twoheads::Mask::causal() : twoheads::Mask::full();
  std::vector<double> factors;
  const auto attend = [&](const twoheads::AttentionInput<double>& input, twoheads::MatrixSpan<double> out) {
    twoheads::DirectAttention<double> measure;
    measure(input, out);
    factors.push_back(scale * (measure.max_logit() > 0 ? target / measure.max_logit() : 1.0));
    const Matrix<double> scaled = factors.back() * input.q;
    twoheads::DirectAttention<double> direct;
    direct({input.spec, input.layer, twoheads::view(scaled), input.k, input.v, input.query_tokens, input.key_tokens,
            input.weights},
           out);
  };
  static_cast<void>(twoheads::forward(model, few, attend, memory != nullptr ? &few_keys : nullptr));
  model.spec.attention.mask = mask;
  for (std::size_t layer = 0; layer < factors.size(); ++layer) model.layers[layer].attention.wq *= factors[layer];
}

/// Largest and mean ||y - ref|| / ||ref|| over rows.
struct RowErrors {
  double max = 0;
  double mean = 0;
};

/// The errors of rows. A NaN makes both infinite; a zero reference row counts its error as absolute.
template <class Scalar, class Reference>
[[nodiscard]] RowErrors row_errors(const Matrix<Scalar>& rows, const Matrix<Reference>& reference) {
  RowErrors errors;
  for (Index row = 0; row < rows.rows(); ++row) {
    const auto size = static_cast<double>(reference.row(row).norm());
    const auto error = static_cast<double>((rows.row(row).template cast<Reference>() - reference.row(row)).norm());
    const double relative = size > 0 ? error / size : error;
    constexpr double infinite = std::numeric_limits<double>::infinity();
    if (std::isnan(relative)) return {infinite, infinite};
    errors.max = std::max(errors.max, relative);
    errors.mean += relative / static_cast<double>(rows.rows());
  }
  return errors;
}

template <class Scalar, class Reference>
[[nodiscard]] double max_row_error(const Matrix<Scalar>& rows, const Matrix<Reference>& reference) {
  return row_errors(rows, reference).max;
}

/// Rows that hold a NaN or an infinity.
template <class Scalar>
[[nodiscard]] Index bad_rows(const Matrix<Scalar>& rows) {
  Index bad = 0;
  for (Index row = 0; row < rows.rows(); ++row)
    if (twoheads::detail::first_row_not_finite(rows.row(row)) >= 0) ++bad;
  return bad;
}

}  // namespace programs
