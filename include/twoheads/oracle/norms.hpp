#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <twoheads/attention/norm.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/spec.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// The norms and the residual stream around an oracle's one attention layer.
///
///   Math     rows -> norm_after(rows + attend(norm_before(rows))), without `rows +` where it is not residual
///   Corner   an empty gain is 1, an empty shift 0, for tokens of any width; a gain or a shift that is given says how
///            many columns the rows that its norm sees have, always
struct NormsAround {
  NormKind before = NormKind::none;  ///< norm before the attention
  NormKind after = NormKind::none;   ///< norm after it
  double epsilon = 1e-5;             ///< added under the root
  bool residual = false;
  std::vector<double> gain_before = {}, shift_before = {};  ///< a number a column, or empty
  std::vector<double> gain_after = {}, shift_after = {};    ///< a number a column, or empty

  /// Throws LimitError for what cannot be taken back.
  void require_valid() const {
    if (!(epsilon >= 0 && std::isfinite(epsilon)))
      throw LimitError(detail::text("the epsilon of norms is ", epsilon, ", expected a number of 0 or more"));
    require_norm("before", before, gain_before, shift_before);
    require_norm("after", after, gain_after, shift_after);
    if (residual && cols_before() > 0 && cols_after() > 0 && cols_before() != cols_after())
      throw LimitError(detail::text("the norms before and after a residual layer have ", cols_before(), " and ",
                                    cols_after(), " columns, expected the same"));
  }

  /// Columns that a norm sees always, or 0 for any.
  [[nodiscard]] Index cols_before() const { return cols_of(gain_before, shift_before); }
  [[nodiscard]] Index cols_after() const { return cols_of(gain_after, shift_after); }  ///< the same for the norm after

 private:
  static Index cols_of(const std::vector<double>& gain, const std::vector<double>& shift) {
    return static_cast<Index>(std::max(gain.size(), shift.size()));
  }

  static void require_norm(const char* which, NormKind kind, const std::vector<double>& gain,
                           const std::vector<double>& shift) {
    if (kind == NormKind::none && !(gain.empty() && shift.empty()))
      throw LimitError(detail::text("there is no norm ", which, " the attention, and it has a gain or a shift"));
    if (kind == NormKind::rms && !shift.empty())
      throw LimitError(detail::text("the RMS norm ", which, " the attention has a shift, expected none"));
    if (!gain.empty() && !shift.empty() && gain.size() != shift.size())
      throw LimitError(detail::text("the norm ", which, " the attention has ", gain.size(), " gains and ", shift.size(),
                                    " shifts, expected as many"));
    for (const double g : gain)
      if (!(g != 0 && std::isfinite(g)))
        throw LimitError(detail::text("a gain of the norm ", which, " the attention is ", g,
                                      ": its column is lost, expected a number other than 0"));
    for (const double s : shift)
      if (!std::isfinite(s)) throw LimitError(detail::text("a shift of the norm ", which, " the attention is ", s));
  }
};

namespace detail {

[[nodiscard]] inline double gain_at(const std::vector<double>& gain, Index col) {
  return gain.empty() ? 1.0 : gain[static_cast<std::size_t>(col)];
}
[[nodiscard]] inline double shift_at(const std::vector<double>& shift, Index col) {
  return shift.empty() ? 0.0 : shift[static_cast<std::size_t>(col)];
}

/// Norms are known from layer to layer only if there is one layer: a second one would be fed what the first found.
template <RealScalar Scalar>
void require_one_plain_layer(const OracleCall<Scalar>& call) {
  if (call.weights->layers.size() != 1)
    throw LimitError(text("weights of ", call.weights->layers.size(),
                          " layers around which norms stand: the norms between them see what is not known before the "
                          "call, and cannot be held constant; expected 1 layer"));
  if (call.weights->layers.front().mlp) throw LimitError("norms stand around an attention layer: expected no MLP");
}

}  // namespace detail

/// Emulates a one-layer oracle with norms and a residual stream on an oracle that has none.
///
///   Throws   LimitError for an inner oracle with several layers or a residual stream of its own, for weights with
///            several layers or an MLP, and for rows of another width than a gain's
template <Oracle O>
class NormedOracle {
 public:
  using Scalar = typename O::Scalar;

  NormedOracle(O inner, NormsAround norms) : inner_(std::move(inner)), norms_(std::move(norms)) {
    norms_.require_valid();
    if (inner_.limits().layers != 1 || inner_.limits().residual)
      throw LimitError("norms stand around one attention layer: expected an oracle of one layer, without a residual");
  }

  [[nodiscard]] OracleLimits limits() const {
    OracleLimits limits = inner_.limits();
    limits.residual = norms_.residual;
    return limits;
  }

  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    require_within(limits(), call);
    detail::require_one_plain_layer(call);
    Matrix<Scalar> rows =
        inner_.run({call.weights, norm(call.rows, norms_.before, norms_.gain_before, norms_.shift_before)});
    if (norms_.residual) rows += call.rows;
    return norm(rows, norms_.after, norms_.gain_after, norms_.shift_after);
  }

 private:
  [[nodiscard]] Matrix<Scalar> norm(const Matrix<Scalar>& rows, NormKind kind, const std::vector<double>& gain,
                                    const std::vector<double>& shift) const {
    NormWeights<Scalar> weights;
    const auto cols = static_cast<Index>(std::max(gain.size(), shift.size()));
    if (cols > 0 && cols != rows.cols())
      throw LimitError(detail::text("a norm of ", cols, " columns was given rows of ", rows.cols()));
    weights.gain.resize(rows.cols());
    for (Index col = 0; col < rows.cols(); ++col) weights.gain[col] = static_cast<Scalar>(detail::gain_at(gain, col));
    if (!shift.empty()) {
      weights.shift.resize(rows.cols());
      for (Index col = 0; col < rows.cols(); ++col)
        weights.shift[col] = static_cast<Scalar>(shift[static_cast<std::size_t>(col)]);
    }
    return normed(view(rows), weights, kind, norms_.epsilon);
  }

  O inner_;
  NormsAround norms_;
};

/// A one-layer oracle with known norms and a residual stream around its attention, as an oracle that has none: what
/// the norms do is made the same for all rows of a call, or known from two columns of each answer, and undone.
///
///   Shapes   rows of the inner oracle: [ x | slack s | constant k | answer columns ] as far as they are needed, each
///            number next to its negative where a layer norm sees it: the mean is 0 in most orders of summation
///   Math     before   s^2 = width (c^2 - epsilon) - |row|^2 makes the norm x / c; c is a power of two, and the weights
///                     are multiplied by it, so that nothing is rounded
///            after    z = y / deviation + rest is known in the columns of k: y = k z / z_k, of a layer norm by the
///                     differences of z between a number and its negative
///            residual answers are added to columns of zeros
///   Corner   without a residual stream the constant is a value column of a head, whose weights sum to 1. limits() has
///            one layer, no residual stream, and fewer columns than the inner oracle's.
///            A shift takes digits of rows that are much smaller than the largest of a call.
///            OracleCall::fault is about the outer answer: this belongs into a pool of oracles, not around one.
///   Throws   LimitError for an inner oracle or weights of several layers, an MLP, or too few columns
///   Source   not in the paper, whose transformers have neither norms nor residual streams
template <Oracle O>
class WithoutNorms {
 public:
  using Scalar = typename O::Scalar;

  WithoutNorms(O inner, NormsAround norms) : inner_(std::move(inner)), norms_(std::move(norms)) {
    norms_.require_valid();
    const OracleLimits limits = inner_.limits();
    if (limits.layers != 1)
      throw LimitError(detail::text("an oracle has ", limits.layers,
                                    " layers and norms around its attention: the norms between layers see what "
                                    "is not known before the call, and cannot be held constant; expected 1 layer"));
    if (limits.residual != norms_.residual)
      throw LimitError(detail::text("an oracle declares ", limits.residual ? "a" : "no",
                                    " residual stream, the description of its norms ",
                                    norms_.residual ? "has one" : "has none"));
    for (const Index cols : {norms_.cols_before(), norms_.cols_after()})
      if (cols > limits.width)
        throw LimitError(detail::text("a norm has ", cols, " columns, the oracle takes ", limits.width));
    if (this->limits().width < 1)
      throw LimitError(
          detail::text("an oracle of ", width(), " columns has none left beside those that its norms need"));
  }

  [[nodiscard]] OracleLimits limits() const {
    OracleLimits limits = inner_.limits();
    limits.residual = false;
    limits.layers = 1;
    if (limits.value_cols != OracleLimits::unlimited)
      limits.value_cols = limits.value_cols / answer_copies() - (answers_constant() ? 1 : 0);
    Index most = OracleLimits::unlimited;
    if (width() != OracleLimits::unlimited)
      most = std::max<Index>(0, width() - extra_tokens()) / (copies() + (norms_.residual ? answer_copies() : 0));
    if (!norms_.residual && answer_width() != OracleLimits::unlimited)
      most = std::min(most, answer_width() / answer_copies() - (answers_constant() ? 1 : 0));
    limits.width = most;
    return limits;
  }

  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    const Fed fed = feed(call);
    const Matrix<Scalar> found = inner_.run(fed.call);
    return read(call, fed, found);
  }

  void run_batch(std::span<const OracleCall<Scalar>> calls, const Answer<Scalar>& answer) requires HasRunBatch<O> {
    std::vector<Fed> fed;
    std::vector<OracleCall<Scalar>> inner;
    for (const OracleCall<Scalar>& call : calls) {
      fed.push_back(feed(call));
      inner.push_back(fed.back().call);
    }
    inner_.run_batch(std::span<const OracleCall<Scalar>>(inner), [&](std::size_t index, Matrix<Scalar> rows) {
      answer(index, index < calls.size() ? read(calls[index], fed[index], rows) : std::move(rows));
    });
  }

 private:
  /// A call of the inner oracle, and where its answer stands.
  struct Fed {
    std::unique_ptr<SmallWeights<Scalar>> weights;
    OracleCall<Scalar> call;
    RowVector<double> answer_sizes;        ///< powers of two that answer columns were divided by
    Index constant_at = 0, answer_at = 0;  ///< where y is 1, and where the answer begins
  };

  // What the rows hold beside x.
  [[nodiscard]] bool mirrored() const {
    return norms_.before == NormKind::layer || (norms_.residual && norms_.after == NormKind::layer);
  }
  [[nodiscard]] Index copies() const { return mirrored() ? 2 : 1; }
  [[nodiscard]] bool has_slack() const { return norms_.before != NormKind::none; }
  [[nodiscard]] bool has_constant() const { return norms_.after != NormKind::none || !norms_.shift_before.empty(); }
  /// Columns that an answer column takes, and the constant beside them.
  [[nodiscard]] Index answer_copies() const { return norms_.after == NormKind::layer ? 2 : 1; }
  /// A head's values carry the constant, where no residual stream does.
  [[nodiscard]] bool answers_constant() const { return norms_.after != NormKind::none && !norms_.residual; }
  [[nodiscard]] Index extra_tokens() const { return copies() * ((has_slack() ? 1 : 0) + (has_constant() ? 1 : 0)); }

  /// Columns of the inner oracle's rows: exactly so many where a gain says so, at most so many otherwise.
  [[nodiscard]] Index fixed_width() const {
    return std::max(norms_.cols_before(), norms_.residual ? norms_.cols_after() : Index{0});
  }
  [[nodiscard]] Index width() const { return fixed_width() > 0 ? fixed_width() : inner_.limits().width; }
  [[nodiscard]] Index answer_width() const {
    return norms_.cols_after() > 0 ? norms_.cols_after() : inner_.limits().width;
  }

  [[nodiscard]] Fed feed(const OracleCall<Scalar>& call) const {
    require_within(limits(), call);
    detail::require_one_plain_layer(call);
    const SmallLayer<Scalar>& layer = call.weights->layers.front();
    const Index cols = call.rows.cols();
    const Index slack_at = copies() * cols;
    const Index one_at = slack_at + (has_slack() ? copies() : 0);
    const Index tokens = copies() * cols + extra_tokens();
    Fed fed;
    fed.answer_at = norms_.residual ? tokens : 0;
    const Index used = tokens + (norms_.residual ? answer_copies() * layer.output_width : 0);
    const Index width = fixed_width() > 0 ? fixed_width() : used;
    // Norms compare the columns of a row, and shifts are of about 1: so are all columns, by powers of two.
    const RowVector<double> sizes = sizes_of(call.rows);
    fed.answer_sizes = sizes_of_answers(call);

    Matrix<Scalar>& rows = fed.call.rows;
    rows = Matrix<Scalar>::Zero(call.rows.rows(), width);
    for (Index col = 0; col < cols; ++col)
      rows.col(copies() * col) = call.rows.col(col) / static_cast<Scalar>(sizes[col]);
    if (has_constant()) rows.col(one_at).setOnes();
    if (mirrored())
      for (Index col = 0; col < tokens - 1; col += 2)
        if (col < slack_at || (has_constant() && col == one_at)) rows.col(col + 1) = -rows.col(col);
    const double factor = has_slack() ? even_out(rows, slack_at) : 1.0;

    fed.weights = std::make_unique<SmallWeights<Scalar>>();
    fed.weights->width = width;
    SmallLayer<Scalar> inner{{}, norms_.residual ? width : answer_copies() * layer.output_width, {}};
    const auto last =
        std::max_element(layer.heads.begin(), layer.heads.end(),
                         [](const SmallHead<Scalar>& a, const SmallHead<Scalar>& b) { return end_of(a) < end_of(b); });
    for (auto head = layer.heads.begin(); head != layer.heads.end(); ++head) {
      const auto map = [&](const Projection<Scalar>& projection) {
        Matrix<double> whole = projection.to_matrix(cols).template cast<double>();
        whole.array().colwise() *= sizes.transpose().array();
        return whole;
      };
      Matrix<double> values = map(head->wv);
      values.array().rowwise() /= fed.answer_sizes.segment(head->output_begin, values.cols()).array();
      inner.heads.push_back(
          {undone(head->wq, map(head->wq), one_at, factor, 1, false),
           undone(head->wk, map(head->wk), one_at, factor, 1, false),
           undone(head->wv, values, one_at, factor, answer_copies(), answers_constant() && head == last),
           fed.answer_at + answer_copies() * head->output_begin});
    }
    fed.constant_at = one_at;
    if (answers_constant()) {
      if (layer.heads.empty()) throw LimitError("an oracle with a norm after its attention was given no head");
      fed.constant_at = answer_copies() * end_of(*last);
      inner.output_width = std::max(inner.output_width, fed.constant_at + answer_copies());
      if (norms_.cols_after() > 0) inner.output_width = norms_.cols_after();
    }
    fed.weights->layers.push_back(std::move(inner));
    fed.call.weights = fed.weights.get();
    return fed;
  }

  [[nodiscard]] static Index end_of(const SmallHead<Scalar>& head) { return head.output_begin + head.wv.cols(); }

  /// Powers of two about as large as the largest number of each column; 1 for columns of zeros.
  [[nodiscard]] static RowVector<double> sizes_of(const Matrix<Scalar>& rows) {
    RowVector<double> sizes = RowVector<double>::Ones(rows.cols());
    for (Index col = 0; col < rows.cols(); ++col) {
      const auto most = static_cast<double>(rows.col(col).cwiseAbs().maxCoeff());
      if (most > 0 && std::isfinite(most)) sizes[col] = std::exp2(std::round(std::log2(most)));
    }
    return sizes;
  }

  /// The same of the columns of an answer, where a norm comes after; the values of several heads may share one.
  [[nodiscard]] RowVector<double> sizes_of_answers(const OracleCall<Scalar>& call) const {
    RowVector<double> sizes = RowVector<double>::Ones(call.weights->output_width());
    if (norms_.after == NormKind::none) return sizes;
    sizes.setZero();
    Matrix<Scalar> values;
    for (const SmallHead<Scalar>& head : call.weights->layers.front().heads) {
      head.wv.apply(call.rows, values);
      auto of_head = sizes.segment(head.output_begin, values.cols());
      of_head = of_head.cwiseMax(values.template cast<double>().cwiseAbs().colwise().maxCoeff()).eval();
    }
    for (double& size : sizes) size = size > 0 && std::isfinite(size) ? std::exp2(std::round(std::log2(size))) : 1.0;
    return sizes;
  }

  /// Writes the slack that makes the norm before divide each row by the same power of two, and returns that.
  [[nodiscard]] double even_out(Matrix<Scalar>& rows, Index slack_at) const {
    const Vector<double> squares = rows.template cast<double>().rowwise().squaredNorm();
    const auto width = static_cast<double>(rows.cols());
    const double most = squares.maxCoeff() / width + norms_.epsilon;
    const double factor = most > 0 ? std::exp2(std::ceil(std::log2(1.001 * most) / 2)) : 1.0;
    for (Index row = 0; row < rows.rows(); ++row) {
      const double left = width * (factor * factor - norms_.epsilon) - squares[row];
      rows(row, slack_at) = static_cast<Scalar>(std::sqrt(std::max(0.0, left) / static_cast<double>(copies())));
      if (mirrored()) rows(row, slack_at + 1) = -rows(row, slack_at);
    }
    return factor;
  }

  /// A projection, as a matrix over all columns, of what the norm before leaves of x, gain x / factor + shift; with a
  /// last column of ones, if asked for. With two answers each column stands next to its negative.
  [[nodiscard]] Projection<Scalar> undone(const Projection<Scalar>& projection, const Matrix<double>& whole,
                                          Index one_at, double factor, Index answers, bool ones) const {
    const bool reads_constant = ones || !norms_.shift_before.empty();
    const Index begin = copies() * projection.begin();
    const Index end = reads_constant ? one_at + 1 : copies() * projection.end();
    Matrix<double> single = Matrix<double>::Zero(end - begin, whole.cols() + (ones ? 1 : 0));
    RowVector<double> shift = RowVector<double>::Zero(single.cols());
    for (Index col = projection.begin(); col < projection.end(); ++col) {
      const double undo = factor / detail::gain_at(norms_.gain_before, copies() * col);
      single.row(copies() * col - begin).head(whole.cols()) = undo * whole.row(col);
      shift.head(whole.cols()) -= detail::shift_at(norms_.shift_before, copies() * col) * undo * whole.row(col);
    }
    if (ones) shift[whole.cols()] = 1;
    if (reads_constant)
      single.row(one_at - begin) = shift / (detail::gain_at(norms_.gain_before, one_at) / factor +
                                            detail::shift_at(norms_.shift_before, one_at));
    auto made = std::make_shared<Matrix<Scalar>>(single.rows(), answers * single.cols());
    for (Index col = 0; col < made->cols(); ++col)
      made->col(col) = ((col % answers == 0 ? 1.0 : -1.0) * single.col(col / answers)).template cast<Scalar>();
    return Projection<Scalar>::dense(begin, made);
  }

  /// The answer to the outer call.
  [[nodiscard]] Matrix<Scalar> read(const OracleCall<Scalar>& call, const Fed& fed, const Matrix<Scalar>& found) const {
    detail::require_answer(fed.call, found);
    const Index cols = call.weights->output_width();
    if (norms_.after == NormKind::none) return found.middleCols(fed.answer_at, cols);
    Matrix<Scalar> answer(found.rows(), cols);
    const auto plain = [&](Index row, Index col) {
      return (static_cast<double>(found(row, col)) - detail::shift_at(norms_.shift_after, col)) /
             detail::gain_at(norms_.gain_after, col);
    };
    // What a layer norm takes from both of a pair, their difference does not have.
    const auto known = [&](Index row, Index col) {
      return answer_copies() == 1 ? plain(row, col) : (plain(row, col) - plain(row, col + 1)) / 2;
    };
    for (Index row = 0; row < answer.rows(); ++row) {
      const double one = known(row, fed.constant_at);
      for (Index col = 0; col < cols; ++col)
        answer(row, col) =
            static_cast<Scalar>(known(row, fed.answer_at + answer_copies() * col) / one * fed.answer_sizes[col]);
    }
    return answer;
  }

  O inner_;
  NormsAround norms_;
};

}  // namespace twoheads
