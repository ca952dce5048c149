// The strict cost model end to end: the host moves handles and never sees a number; calls are the closed forms.

#include <gtest/gtest.h>

#include <twoheads/model/random.hpp>
#include <twoheads/oracle/wrappers.hpp>
#include <twoheads/paper/strict.hpp>
#include <variant>

#include "support/bounds.hpp"
#include "support/instances.hpp"
#include "support/naive.hpp"

namespace {

using namespace twoheads;
using naive::Real;
template <class S>
using Counted = CountingOracle<SmallTransformer<S>>;

// --- a double of the cells: names of numbers, and no numbers ---------------------------------------------------------

/// The number of a machine's table, or a constant that the host itself wrote.
using Handle = std::variant<std::size_t, double>;

/// Cells without numbers: the host that moves them could not compute with what they stand for if it tried.
class HandleCells {
 public:
  using Scalar = double;

  HandleCells() = default;
  HandleCells(Index rows, Index cols) : rows_(rows), cols_(cols), handles_(naive::at(rows * cols), Handle(0.0)) {}

  static HandleCells constants(const Matrix<double>& values) {
    HandleCells cells(values.rows(), values.cols());
    for (Index i = 0; i < values.rows(); ++i)
      for (Index j = 0; j < values.cols(); ++j) cells.at(i, j) = values(i, j);
    return cells;
  }
  static HandleCells constants(Index rows, Index cols, double value) {
    return constants(Matrix<double>::Constant(rows, cols, value));
  }

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Handle& at(Index i, Index j) { return handles_[naive::at(i * cols_ + j)]; }
  const Handle& at(Index i, Index j) const { return handles_[naive::at(i * cols_ + j)]; }

  HandleCells columns(Index begin, Index count) const {
    HandleCells cells(rows_, count);
    for (Index i = 0; i < rows_; ++i)
      for (Index j = 0; j < count; ++j) cells.at(i, j) = at(i, begin + j);
    return cells;
  }
  HandleCells gather(std::span<const Index> which) const {
    HandleCells cells(static_cast<Index>(which.size()), cols_);
    for (Index i = 0; i < cells.rows(); ++i)
      for (Index j = 0; j < cols_ && which[naive::at(i)] >= 0; ++j) cells.at(i, j) = at(which[naive::at(i)], j);
    return cells;
  }
  static HandleCells beside(const std::vector<HandleCells>& blocks) {
    Index cols = 0;
    for (const HandleCells& block : blocks) cols += block.cols();
    HandleCells result(blocks.front().rows(), cols);
    Index begin = 0;
    for (const HandleCells& block : blocks) {
      for (Index i = 0; i < block.rows(); ++i)
        for (Index j = 0; j < block.cols(); ++j) result.at(i, begin + j) = block.at(i, j);
      begin += block.cols();
    }
    return result;
  }
  static HandleCells below(const std::vector<HandleCells>& blocks) {
    Index rows = 0;
    for (const HandleCells& block : blocks) rows += block.rows();
    HandleCells result(rows, blocks.front().cols());
    Index begin = 0;
    for (const HandleCells& block : blocks) {
      for (Index i = 0; i < block.rows(); ++i)
        for (Index j = 0; j < block.cols(); ++j) result.at(begin + i, j) = block.at(i, j);
      begin += block.rows();
    }
    return result;
  }

 private:
  Index rows_ = 0;
  Index cols_ = 0;
  std::vector<Handle> handles_;
};

/// Looks handles up when, and only when, a call is made; keeps the weights of all calls for comparison.
class HandleMachine {
 public:
  using Scalar = double;
  using Cells = HandleCells;

  explicit HandleMachine(Counted<double>& oracle) : oracle_(oracle) {}

  OracleLimits limits() const { return oracle_.limits(); }
  Index calls() const { return calls_; }

  Cells take(const Matrix<double>& values) {
    Cells cells(values.rows(), values.cols());
    for (Index i = 0; i < values.rows(); ++i)
      for (Index j = 0; j < values.cols(); ++j) {
        cells.at(i, j) = table_.size();
        table_.push_back(values(i, j));
      }
    return cells;
  }
  Matrix<double> reveal(const Cells& cells) const {
    Matrix<double> values(cells.rows(), cells.cols());
    for (Index i = 0; i < cells.rows(); ++i)
      for (Index j = 0; j < cells.cols(); ++j) {
        const Handle& handle = cells.at(i, j);
        values(i, j) = handle.index() == 0 ? table_[std::get<0>(handle)] : std::get<1>(handle);
      }
    return values;
  }
  std::vector<Cells> run(const std::vector<CellCall<Cells>>& calls) {
    std::vector<Cells> answers;
    for (const CellCall<Cells>& call : calls) {
      for (const SmallLayer<double>& layer : call.weights.layers)
        for (const SmallHead<double>& head : layer.heads)
          for (const Projection<double>* p : {&head.wq, &head.wk, &head.wv})
            weights_.push_back(p->to_matrix(call.weights.width));
      answers.push_back(take(oracle_.run({&call.weights, reveal(call.rows)})));
      ++calls_;
    }
    return answers;
  }

  const std::vector<Matrix<double>>& weights() const { return weights_; }

 private:
  Counted<double>& oracle_;
  std::vector<double> table_;
  std::vector<Matrix<double>> weights_;
  Index calls_ = 0;
};

static_assert(Machine<HandleMachine>);
static_assert(!std::convertible_to<Handle, double>);

// --- the laws --------------------------------------------------------------------------------------------------------

struct Case {
  Mask mask = Mask::full();
  Index tokens = 60;
  Index rows = 16;
  Index heads = 2;
  Index oracle_heads = 1;
  Index layers = 2;
  MlpKind mlp = MlpKind::relu;
  bool input_mlp = false;
  bool fixed = false;
  double score_scale = 1.0;
};

const std::vector<Case> cases{
    {},
    {Mask::causal()},
    {Mask::full(), 60, 16, 2, 2},
    {Mask::causal(), 60, 16, 2, 3},
    {Mask::full(), 1, 2},
    {Mask::causal(), 1, 2},
    {Mask::full(), 4, 3, 3, 1, 1, MlpKind::none},
    {Mask::causal(), 7, 5, 3, 2, 1, MlpKind::gelu, true},
    {Mask::full(), 45, 16, 2, 4, 2, MlpKind::swiglu, true, true, 0.5},
    {Mask::causal(), 46, 16, 1, 2, 2, MlpKind::relu, true, true, 0.5},
    {Mask::full(), 240, 16, 2, 3, 1},
    {Mask::full(), 16, 16, 1, 1, 3},
    {Mask::causal(), 17, 18, 1, 1, 1},
    {Mask::full(), 33, 16, 2, 2, 2, MlpKind::custom},
};

OracleLimits limits_of(const Case& c) {
  OracleLimits limits;
  limits.kind = c.mask.kind == MaskKind::full ? OracleKind::plain : OracleKind::causal;
  limits.rows = c.rows;
  limits.heads = c.oracle_heads;
  limits.fixed_rows = c.fixed;
  limits.score_scale = c.score_scale;
  return limits;
}

/// Adds to each row what only its position says.
const RowFunction by_position([](Index first, auto& rows) {
  using Scalar = typename std::decay_t<decltype(rows)>::Scalar;
  for (Index i = 0; i < rows.rows(); ++i) rows.row(i).array() += Scalar(1) / static_cast<Scalar>(first + i + 1);
});

Model<double> model_of(const Case& c, double logits = 1.0) {
  Model<double> model = random_model<double>(paper_layer(c.layers, 4 * c.heads, c.heads, c.mask, c.mlp, 8), 7);
  for (LayerWeights<double>& layer : model.layers) layer.attention.wq *= logits;
  if (c.input_mlp) model.input_mlp = by_position;
  if (c.mlp == MlpKind::custom)
    for (LayerWeights<double>& layer : model.layers) layer.mlp.custom = by_position;
  return model;
}

Matrix<double> tokens_of(const Case& c) { return Random(11).matrix<double>(c.tokens, 4 * c.heads); }

PaperTask task_of(const Case& c) { return {c.mask, c.tokens, 0, c.heads, c.layers, limits_of(c)}; }

std::string say(const Case& c) {
  return detail::text(name(c.mask.kind), ", N ", c.tokens, ", R ", c.rows, ", H ", c.heads, ", H' ", c.oracle_heads,
                      ", L ", c.layers);
}

/// Direct evaluation in long double, and the largest logit that it met.
Matrix<long double> truth_of(const Model<double>& model, const Matrix<double>& x, double* max_logit = nullptr) {
  DirectAttention<long double> direct;
  Matrix<long double> rows = forward(cast_model<long double>(model), x.cast<long double>().eval(), direct);
  if (max_logit != nullptr) *max_logit = direct.max_logit();
  return rows;
}

TEST(StrictModel, IsTheTransformerWithTheCallsOfTheClosedForms) {
  for (const Case& c : cases) {
    const Matrix<double> x = tokens_of(c);
    double logit = 0;
    static_cast<void>(truth_of(model_of(c), x, &logit));
    const Model<double> model = model_of(c, 4.9 / logit);
    const Matrix<long double> truth = truth_of(model, x, &logit);
    ASSERT_LE(logit, 5.0) << say(c);
    ASSERT_GE(logit, 3.0) << say(c);
    SmallTransformer<double> small(limits_of(c));
    Counted<double> oracle(small);
    CellMachine<Counted<double>> machine(oracle);
    const StrictResult<Cells<double>> found = strict_forward(machine, model, machine.take(x));
    const naive::Table expected_rows = naive::plain(truth);
    const Real error = bounds::max_row_error(machine.reveal(found.rows), expected_rows, naive::largest(expected_rows));
    EXPECT_LE(error, 1e-10) << say(c);
    const StrictCounts expected = strict_counts(task_of(c), c.input_mlp, c.mlp != MlpKind::none);
    EXPECT_EQ(found.made, expected) << say(c);
    EXPECT_EQ(found.calls, expected.calls()) << say(c);
    EXPECT_EQ(oracle.calls(), expected.calls()) << say(c);
    EXPECT_LE(oracle.longest(), c.rows) << say(c);
  }
}

TEST(StrictModel, RunsOnHandlesThatHoldNoNumber) {
  for (const Case& c : cases) {
    const Model<double> model = model_of(c);
    const Matrix<double> x = tokens_of(c);
    SmallTransformer<double> small(limits_of(c));
    Counted<double> oracle(small);
    HandleMachine handles(oracle);
    const StrictResult<HandleCells> found = strict_forward(handles, model, handles.take(x));
    CellMachine<Counted<double>> machine(oracle);
    const StrictResult<Cells<double>> numbers = strict_forward(machine, model, machine.take(x));
    EXPECT_EQ(handles.reveal(found.rows), machine.reveal(numbers.rows)) << say(c);
    EXPECT_EQ(found.calls, numbers.calls) << say(c);
    // Nothing that the host wrote reaches the result: every entry is an oracle's.
    for (Index i = 0; i < found.rows.rows(); ++i)
      for (Index j = 0; j < found.rows.cols(); ++j) {
        ASSERT_EQ(found.rows.at(i, j).index(), 0U) << say(c);
        EXPECT_GE(std::get<0>(found.rows.at(i, j)), static_cast<std::size_t>(x.size())) << say(c);
      }
  }
}

TEST(StrictModel, AsksWithWeightsThatDoNotDependOnTheTokens) {
  const Case c{Mask::causal(), 20, 10, 2, 2, 2, MlpKind::relu, true};
  const Model<double> model = model_of(c);
  std::vector<Matrix<double>> first;
  for (const double factor : {1.0, -0.5}) {
    SmallTransformer<double> small(limits_of(c));
    Counted<double> oracle(small);
    HandleMachine handles(oracle);
    static_cast<void>(strict_forward(handles, model, handles.take(factor * tokens_of(c))));
    if (first.empty()) {
      first = handles.weights();
      continue;
    }
    ASSERT_EQ(handles.weights().size(), first.size());
    for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(handles.weights()[i], first[i]);
  }
}

TEST(StrictModel, OfSixtyTokensThroughSixteenRowsHasTheseCounts) {
  // L 2, H 2, N 60, R 16: T = 4.
  const StrictCounts one = strict_counts(task_of({}), false, true);
  EXPECT_EQ(one.steps, 2 * 16 * 2);  // 2 T^2 H
  EXPECT_EQ(one.products, 30);       // 60 * 4 * 2 rows of A and B / A, 16 to a call
  EXPECT_EQ(one.merges, 30);         // 120 queries and heads, 4 groups of 4 to a call
  EXPECT_EQ(one.layer_mlp, 4);       // 60 rows, 16 to a call
  EXPECT_EQ(one.calls(), 2 * (64 + 30 + 30 + 4));
  EXPECT_EQ(one.rounds(), 8);
  const StrictCounts two = strict_counts(task_of({Mask::full(), 60, 16, 2, 2}), true, true);
  EXPECT_EQ(two.calls(), 2 + 2 * (32 + 15 + 15 + 2));
  EXPECT_EQ(two.rounds(), 9);
  // Causal: a query of block t sums 2 t + 1 terms, 7 at most; 15 * (1 + 3 + 5 + 7) rows a head.
  const StrictCounts causal = strict_counts(task_of({Mask::causal()}), false, true);
  EXPECT_EQ(causal.steps, 64);
  EXPECT_EQ(causal.products, 30);
  EXPECT_EQ(causal.merges, 60);
  EXPECT_EQ(causal.calls(), 2 * (64 + 30 + 60 + 4));
}

TEST(StrictModel, FailsAtLargeLogitsLikeThePrint) {
  const Case c;
  const Model<double> model = model_of(c, 60.0);
  const Matrix<double> x = tokens_of(c);
  SmallTransformer<double> oracle(limits_of(c));
  CellMachine<SmallTransformer<double>> machine(oracle);
  const StrictResult<Cells<double>> found = strict_forward(machine, model, machine.take(x));
  EXPECT_GE(bounds::max_row_error(machine.reveal(found.rows), naive::plain(truth_of(model, x)), 1), 1e-2);
}

template <class E>
void expect_refused(const Case& c, const Model<double>& model, OracleLimits limits, const std::string& words) {
  SmallTransformer<double> small(limits);
  Counted<double> oracle(small);
  CellMachine<Counted<double>> machine(oracle);
  try {
    static_cast<void>(strict_forward(machine, model, machine.take(tokens_of(c))));
    ADD_FAILURE() << "nothing was thrown: " << words;
  } catch (const E& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
  EXPECT_EQ(oracle.calls(), 0) << words;
}

TEST(StrictModel, RefusesWhatItDoesNotRunBeforeTheFirstCall) {
  Case c{Mask::full(), 100, 8};
  expect_refused<LimitError>(c, model_of(c), limits_of(c), "15 partial sums, more than the 8 rows");
  c = {Mask::sliding_window(3), 20, 8};
  expect_refused<SpecError>(c, model_of(c), limits_of(c), "expected a full or causal mask");
  c = {Mask::full(), 20, 8};
  Model<double> model = model_of(c);
  model.spec.residual = true;
  expect_refused<SpecError>(c, model, limits_of(c), "the paper's own layer");
  OracleLimits causal = limits_of(c);
  causal.kind = OracleKind::causal;
  expect_refused<LimitError>(c, model_of(c), causal, "full mask on a causal oracle");
  c.heads = 3;
  expect_refused<ShapeError>(c, model_of({Mask::full(), 20, 8}), limits_of(c), "cells of 12 columns, expected 8");
}

}  // namespace
