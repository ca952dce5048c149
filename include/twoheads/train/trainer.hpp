#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/executor.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/train/adamw.hpp>
#include <twoheads/train/backward.hpp>
#include <twoheads/train/example.hpp>
#include <twoheads/train/parameters.hpp>
#include <twoheads/train/schedule.hpp>
#include <twoheads/train/trainable.hpp>
#include <twoheads/train/training_state.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// How a model is trained.
struct TrainingOptions {
  Schedule schedule;   ///< learning rates
  AdamWOptions adamw;  ///< the optimiser's constants
  double clip = 1.0;   ///< longest gradient; longer ones are shortened to it; 0: none are

  /// Throws SpecError that names the field.
  void require_valid() const {
    schedule.require_valid();
    adamw.require_valid();
    if (!(clip >= 0 && std::isfinite(clip)))
      throw SpecError(detail::text("gradients are clipped at ", clip, ", expected a finite number of 0 or more"));
  }
  friend bool operator==(const TrainingOptions&, const TrainingOptions&) = default;
};

/// What a step found and did.
struct TrainingStep {
  Index step = 0;            ///< steps done, this one among them
  double loss = 0;           ///< mean cross-entropy of the batch's targets before the step; nats
  double gradient_norm = 0;  ///< before clipping
  double rate = 0;           ///< learning rate of the step
  Index targets = 0;         ///< of the batch
};

/// Trains a language model step by step.
///
///   Math     a step takes the gradient of the mean cross-entropy over all targets of its batch, clips it and hands it
///            to AdamW with the schedule's rate
///   Laws     sequences are differentiated each by itself, several at once where the executor is concurrent, and their
///            gradients are added in their order: bits depend neither on threads nor on how a batch is cut into parts.
///            Held are the model, its moments, the sum of gradients, and two gradients a thread or fewer.
///   Corner   make_attend() gives the attention (TrainableAttention) of one thread for one part of a batch
///   Throws   InputError where loss or gradient are NaN or infinite: the weights stay as they were before the step; or
///            where the update itself leaves the scalar's range: they are lost
template <RealScalar S, class MakeAttend, Executor Exec = Serial>
class Trainer {
 public:
  using Scalar = S;

  Trainer(LanguageModel<Scalar> model, const TrainingOptions& options, MakeAttend make_attend, Exec exec = {})
      : model_(std::make_unique<Arrays>(std::move(model))),
        sum_(std::make_unique<Arrays>(zero_like(model_->model))),
        options_(options),
        make_attend_(std::move(make_attend)),
        exec_(std::move(exec)),
        adamw_(count_parameters(model_->model), options.adamw) {
    options.require_valid();
  }

  /// One step by a batch.
  TrainingStep step(std::span<const Example> batch) {
    clear();
    Index targets = 0;
    for (const Example& example : batch) targets += example.counted();
    add(batch, targets);
    return finish();
  }

  /// Adds a part of a batch that has `targets` targets in all: for batches that are not held at once. The parts of one
  /// step are added in order, and finish() ends it.
  ///
  ///   Throws   SpecError where parts of a step differ in `targets`. Whatever is thrown, the step begins anew.
  void add(std::span<const Example> part, Index targets) {
    if (targets < 1) throw SpecError("a batch without targets: expected one or more to learn from");
    if (wanted_ > 0 && targets != wanted_) {
      const Index before = wanted_;
      clear();
      throw SpecError(detail::text("a part of a batch of ", targets, " targets after one of a batch of ", before,
                                   ": expected the same number"));
    }
    wanted_ = targets;
    try {
      add_part(part, 1.0 / static_cast<double>(targets));
    } catch (...) {
      clear();
      throw;
    }
  }

  /// Ends a step: clips, updates the weights and forgets the gradient.
  ///
  ///   Throws   SpecError where the parts that were added have fewer targets than the batch, or more
  TrainingStep finish() {
    if (targets_ != wanted_ || wanted_ == 0) {
      const Index added = targets_;
      const Index wanted = wanted_;
      clear();
      throw SpecError(detail::text("a step of ", added, " targets, expected the ", wanted, " of its batch, 1 or more"));
    }
    TrainingStep done;
    done.step = steps() + 1;
    done.targets = targets_;
    done.loss = loss_ / static_cast<double>(targets_);
    done.gradient_norm = global_norm(sum_->list);
    done.rate = options_.schedule.rate(steps());
    const bool finite = std::isfinite(done.loss) && std::isfinite(done.gradient_norm);
    if (finite) adamw_.update(model_->list, sum_->list, done.rate, clip_factor(done.gradient_norm, options_.clip));
    clear();
    for (const Parameter<Scalar>& array : model_->list)
      if (detail::first_row_not_finite(Eigen::Map<const RowVector<Scalar>>(array.data, array.size)) >= 0)
        throw InputError(detail::text("step ", done.step, ": ", array.name,
                                      " is NaN or infinite after the update: a smaller rate would do"));
    if (!finite)
      throw InputError(detail::text("step ", done.step, ": the loss is ", done.loss, " and the gradient's norm ",
                                    done.gradient_norm,
                                    ", expected finite numbers; the weights stay as they were, and a smaller "
                                    "rate would do"));
    return done;
  }

  [[nodiscard]] const LanguageModel<Scalar>& model() const { return model_->model; }  ///< as trained so far
  [[nodiscard]] const TrainingOptions& options() const { return options_; }           ///< as given
  [[nodiscard]] Index steps() const { return adamw_.steps(); }                        ///< done so far
  [[nodiscard]] Index parameter_count() const { return adamw_.first().size(); }       ///< numbers of the model

  /// What the steps to come depend on.
  [[nodiscard]] TrainingState<Scalar> state() const {
    TrainingState<Scalar> state;
    state.steps = steps();
    state.weights.resize(adamw_.first().size());
    Index begin = 0;
    for (const Parameter<Scalar>& array : model_->list) {
      std::copy_n(array.data, array.size, state.weights.data() + begin);
      begin += array.size;
    }
    state.first = adamw_.first();
    state.second = adamw_.second();
    return state;
  }

  /// Goes on from a state of the same model and options.
  ///
  ///   Throws   ShapeError if it is of another number of weights
  void restore(TrainingState<Scalar> state) {
    detail::require_shape("the weights", state.weights, adamw_.first().size(), 1);
    adamw_.restore(state.steps, std::move(state.first), std::move(state.second));
    Index begin = 0;
    for (const Parameter<Scalar>& array : model_->list) {
      std::copy_n(state.weights.data() + begin, array.size, array.data);
      begin += array.size;
    }
    clear();
  }

 private:
  /// Adds a part's gradients, each times `scale`, in order.
  void add_part(std::span<const Example> part, double scale) {
    struct Found {
      std::unique_ptr<Arrays> gradient;
      double loss = 0;
    };
    std::size_t next = 0;
    exec_.in_order(
        make_attend_,
        [&]() -> std::optional<std::size_t> {
          if (next == part.size()) return std::nullopt;
          return next++;
        },
        [&](auto& attend, std::size_t& item) {
          const Example& example = part[item];
          Found found{take_buffer(), 0.0};
          found.loss = add_gradient(model(), std::span<const int>(example.ids), std::span<const int>(example.targets),
                                    attend, found.gradient->model, scale);
          return found;
        },
        [&](std::size_t& item, Found found) {
          sum_->add(*found.gradient);
          loss_ += found.loss;
          targets_ += part[item].counted();
          give_back(std::move(found.gradient));
        });
  }

  /// A model, or a gradient, and the list of its arrays.
  struct Arrays {
    explicit Arrays(LanguageModel<Scalar> of) : model(std::move(of)), list(parameters(model)) {}
    Arrays(const Arrays&) = delete;
    Arrays& operator=(const Arrays&) = delete;

    void add(const Arrays& other) {
      for (std::size_t i = 0; i < list.size(); ++i) {
        Scalar* const to = list[i].data;
        const Scalar* const from = other.list[i].data;
        for (Index at = 0; at < list[i].size; ++at) to[at] += from[at];
      }
    }
    void set_zero() {
      for (const Parameter<Scalar>& array : list) std::fill_n(array.data, array.size, Scalar(0));
    }

    LanguageModel<Scalar> model;
    std::vector<Parameter<Scalar>> list;
  };

  [[nodiscard]] std::unique_ptr<Arrays> take_buffer() {
    std::unique_ptr<Arrays> buffer;
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        buffer = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (!buffer) return std::make_unique<Arrays>(zero_like(model_->model));
    buffer->set_zero();
    return buffer;
  }
  void give_back(std::unique_ptr<Arrays> buffer) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(buffer));
  }

  void clear() {
    sum_->set_zero();
    loss_ = 0;
    targets_ = wanted_ = 0;
  }

  std::unique_ptr<Arrays> model_, sum_;
  TrainingOptions options_;
  MakeAttend make_attend_;
  Exec exec_;
  AdamW<Scalar> adamw_;
  double loss_ = 0;
  Index targets_ = 0;  ///< added in this step
  Index wanted_ = 0;   ///< of its batch
  std::mutex mutex_;
  std::vector<std::unique_ptr<Arrays>> free_;
};

}  // namespace twoheads
