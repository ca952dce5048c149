#pragma once

#include <memory>
#include <twoheads/base/matrix.hpp>
#include <utility>

namespace twoheads {

/// A function of single rows, usable in every scalar: the paper's MLPs phi and psi may be any such function.
///
///   Shapes   rows (n, width), changed in place; `first_row` is the position of rows.row(0) in the sequence
///   Laws     a row's result depends on that row and its position alone
///   Source   Yu & Alman, section 2 (input MLP, layer MLP)
class RowFunction {
 public:
  RowFunction() = default;

  /// From a callable `f(Index first_row, auto& rows)`, where rows is a MatrixSpan of any RealScalar.
  template <class F>
  explicit RowFunction(F function) : body_(std::make_shared<const Body<F>>(std::move(function))) {}

  [[nodiscard]] explicit operator bool() const { return body_ != nullptr; }  ///< whether there is a function

  /// Changes rows in place; the first one stands at position first_row.
  template <RealScalar Scalar>
  void operator()(Index first_row, MatrixSpan<Scalar> rows) const {
    if (!body_) throw SpecError("a row function is called that was never set");
    body_->apply(first_row, rows);
  }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual void apply(Index first_row, MatrixSpan<float>& rows) const = 0;
    virtual void apply(Index first_row, MatrixSpan<double>& rows) const = 0;
    virtual void apply(Index first_row, MatrixSpan<long double>& rows) const = 0;
  };

  template <class F>
  struct Body final : Interface {
    explicit Body(F f) : function(std::move(f)) {}
    void apply(Index first_row, MatrixSpan<float>& rows) const override { function(first_row, rows); }
    void apply(Index first_row, MatrixSpan<double>& rows) const override { function(first_row, rows); }
    void apply(Index first_row, MatrixSpan<long double>& rows) const override { function(first_row, rows); }
    F function;
  };

  std::shared_ptr<const Interface> body_;
};

}  // namespace twoheads
