#pragma once

#include <Eigen/Core>
#include <cmath>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/train/parameters.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// The constants of AdamW.
struct AdamWOptions {
  double beta1 = 0.9;            ///< of the mean of gradients
  double beta2 = 0.95;           ///< of the mean of their squares
  double epsilon = 1e-8;         ///< added to the root
  double decay = 0.1;            ///< of the matrices that multiply rows: see Parameter::decays
  bool decays_embedding = true;  ///< whether those of tokens, positions and types are among them

  /// Throws SpecError that names the field.
  void require_valid() const {
    for (const double beta : {beta1, beta2})
      if (!(beta >= 0 && beta < 1))
        throw SpecError(detail::text("a beta of AdamW is ", beta, ", expected 0 to below 1"));
    if (!(epsilon > 0 && std::isfinite(epsilon)))
      throw SpecError(detail::text("AdamW's epsilon is ", epsilon, ", expected > 0"));
    if (!(decay >= 0 && std::isfinite(decay)))
      throw SpecError(detail::text("the weight decay is ", decay, ", expected 0 or more"));
  }

  friend bool operator==(const AdamWOptions&, const AdamWOptions&) = default;
};

/// The length of a gradient as one vector: squares are summed in float64, array after array, entry after entry.
template <RealScalar Scalar>
[[nodiscard]] double global_norm(const std::vector<Parameter<Scalar>>& gradient) {
  double sum = 0;
  for (const Parameter<Scalar>& array : gradient)
    for (Index i = 0; i < array.size; ++i) {
      const auto value = static_cast<double>(array.data[i]);
      sum += value * value;
    }
  return std::sqrt(sum);
}

/// What a gradient of this length is multiplied by, so that its length is `most` or less; most = 0: it stays.
[[nodiscard]] inline double clip_factor(double norm, double most) {
  return most > 0 && norm > most ? most / norm : 1.0;
}

/// Adam with weight decay apart from the gradient.
///
///   Math     step t = 1, 2, ...: m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
///            p <- (1 - rate decay) p - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
///   Laws     entries are updated each by itself, in the model's scalar; factors are computed in float64. The two
///            moments take twice the memory of the model.
///   Source   Loshchilov, Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), Algorithm 2, with the decay
///            times the whole rate, as PyTorch has it; the paper's is times the schedule alone
template <RealScalar Scalar>
class AdamW {
 public:
  AdamW(Index parameters, const AdamWOptions& options)
      : options_(options), first_(Vector<Scalar>::Zero(parameters)), second_(Vector<Scalar>::Zero(parameters)) {
    options.require_valid();
    if (static_cast<Scalar>(options.epsilon) == Scalar(0))
      throw SpecError(detail::text("AdamW's epsilon is ", options.epsilon, ", which the scalar rounds to 0"));
  }

  /// One step with the gradient times `factor`.
  ///
  ///   Throws   ShapeError if model and gradient are of other sizes than each other, or than before
  void update(const std::vector<Parameter<Scalar>>& model, const std::vector<Parameter<Scalar>>& gradient, double rate,
              double factor = 1.0) {
    detail::require_same_arrays("a gradient", model, gradient);
    Index count = 0;
    for (const Parameter<Scalar>& array : model) count += array.size;
    if (count != first_.size())
      throw ShapeError(detail::text("a model of ", count, " numbers, the moments are of ", first_.size()));
    ++steps_;
    const auto t = static_cast<double>(steps_);
    const auto scalar = [](double value) { return static_cast<Scalar>(value); };
    const Scalar scale = scalar(factor);
    const Scalar keep1 = scalar(options_.beta1);
    const Scalar keep2 = scalar(options_.beta2);
    const Scalar take1 = scalar(1.0 - options_.beta1);
    const Scalar take2 = scalar(1.0 - options_.beta2);
    const Scalar length = scalar(rate / (1.0 - std::pow(options_.beta1, t)));
    const Scalar correction = scalar(1.0 / (1.0 - std::pow(options_.beta2, t)));
    const Scalar epsilon = scalar(options_.epsilon);
    Index begin = 0;
    for (std::size_t i = 0; i < model.size(); ++i) {
      using Values = Eigen::Array<Scalar, Eigen::Dynamic, 1>;
      const Index size = model[i].size;
      Eigen::Map<Values> p(model[i].data, size);
      const Eigen::Map<const Values> g(gradient[i].data, size);
      Eigen::Map<Values> m(first_.data() + begin, size);
      Eigen::Map<Values> v(second_.data() + begin, size);
      const Scalar left = scalar(1.0 - (decays(model[i]) ? rate * options_.decay : 0.0));
      m = keep1 * m + take1 * (scale * g);
      v = keep2 * v + take2 * (scale * g).square();
      p = left * p - length * m / ((correction * v).sqrt() + epsilon);
      begin += size;
    }
  }

  [[nodiscard]] Index steps() const { return steps_; }                    ///< done so far
  [[nodiscard]] const Vector<Scalar>& first() const { return first_; }    ///< means of gradients
  [[nodiscard]] const Vector<Scalar>& second() const { return second_; }  ///< means of squares

  /// Goes on from moments of an earlier run, after so many steps.
  void restore(Index steps, Vector<Scalar> first, Vector<Scalar> second) {
    if (steps < 0) throw SpecError(detail::text("moments after ", steps, " steps, expected 0 or more"));
    detail::require_shape("the first moments", first, first_.rows(), 1);
    detail::require_shape("the second moments", second, second_.rows(), 1);
    steps_ = steps;
    first_ = std::move(first);
    second_ = std::move(second);
  }

 private:
  [[nodiscard]] bool decays(const Parameter<Scalar>& array) const {
    const bool embedding = array.name == "embedding" || array.name == "positions" || array.name == "token types";
    return array.decays && (options_.decays_embedding || !embedding);
  }

  AdamWOptions options_;
  Index steps_ = 0;
  Vector<Scalar> first_, second_;
};

}  // namespace twoheads
