#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "attention_task.hpp"

/// Attention by Eigen's own products, as one would first write it, and as one would write it next.
namespace benches {

/// Calls body(thread) on so many threads, this one among them.
template <class Body>
void on_threads(Index threads, const Body& body) {
  std::vector<std::thread> others;
  for (Index thread = 1; thread < threads; ++thread) others.emplace_back([&body, thread] { body(thread); });
  body(0);
  for (std::thread& other : others) other.join();
}

/// Calls body(thread, item) for items 0 .. count - 1, the next one by whichever thread is free.
template <class Body>
void share_out(Index threads, Index count, const Body& body) {
  std::atomic<Index> next{0};
  on_threads(threads, [&](Index thread) {
    for (Index item = next++; item < count; item = next++) body(thread, item);
  });
}

/// All N x N scores of a head at once, then the softmax of each row, then one product. Full and causal masks.
class EigenNaive {
 public:
  EigenNaive(const Task& task, Index threads) : task_(task), threads_(threads), scores_(at(threads)) {}

  void operator()(const Inputs<float>& in, Matrix<float>& out) {
    share_out(std::min(threads_, task_.heads), task_.heads,
              [&](Index thread, Index head) { evaluate(in, head, scores_[at(thread)], out); });
  }

 private:
  static std::size_t at(Index index) { return static_cast<std::size_t>(index); }

  void evaluate(const Inputs<float>& in, Index head, Matrix<float>& scores, Matrix<float>& out) const {
    const Index n = task_.tokens;
    const auto rows = [&](const Matrix<float>& all) { return all.middleRows(head * n, n); };
    scores.resize(n, n);
    scores.noalias() = rows(in.q) * rows(in.k).transpose();
    for (Index i = 0; i < n; ++i) {
      const Index visible = task_.end_key(i);
      auto seen = scores.row(i).head(visible).array();
      seen = ((seen - seen.maxCoeff()) * static_cast<float>(task_.scale())).exp();
      seen /= seen.sum();
      scores.row(i).tail(n - visible).setZero();
    }
    out.middleRows(head * n, n).noalias() = scores * rows(in.v);
  }

  Task task_;
  Index threads_;
  std::vector<Matrix<float>> scores_;
};

/// Blocks of 256 queries and 256 keys with a running maximum and sum for each query; hidden blocks are left out.
class EigenBlocks {
 public:
  static constexpr Index block = 256;

  EigenBlocks(const Task& task, Index threads)
      : task_(task), threads_(threads), work_(static_cast<std::size_t>(threads)) {}

  void operator()(const Inputs<float>& in, Matrix<float>& out) {
    const Index blocks = twoheads::ceil_div(task_.tokens, block);
    // The last query blocks of a causal mask take longest and go first.
    share_out(threads_, task_.heads * blocks, [&](Index thread, Index item) {
      const Index begin = (blocks - 1 - item / task_.heads) * block;
      evaluate(in, item % task_.heads, {begin, std::min(begin + block, task_.tokens)},
               work_[static_cast<std::size_t>(thread)], out);
    });
  }

 private:
  struct Work {
    Matrix<float> q, scores, sums;
    Eigen::ArrayXf largest, total;
  };

  void evaluate(const Inputs<float>& in, Index head, Rows queries, Work& work, Matrix<float>& out) const {
    const Index first = head * task_.tokens;
    work.q = in.q.middleRows(first + queries.begin, queries.size()) * static_cast<float>(task_.scale());
    work.sums.setZero(queries.size(), task_.value_dim);
    work.total.setZero(queries.size());
    // Finite, so that a row whose keys are all hidden in a block adds exp(-inf) = 0 to it.
    work.largest.setConstant(queries.size(), -1e30F);

    const Index near = task_.first_key(queries.begin);
    const Index sinks = task_.far_sinks(queries.end - 1);
    if (sinks > 0 && near > 0) add_keys(in, first, queries, {0, std::min(sinks, near)}, work);
    const Index end = task_.end_key(queries.end - 1);
    for (Index begin = near; begin < end; begin += block)
      add_keys(in, first, queries, {begin, std::min(begin + block, end)}, work);
    out.middleRows(first + queries.begin, queries.size()) = work.sums.array().colwise() / work.total;
  }

  void add_keys(const Inputs<float>& in, Index first, Rows queries, Rows keys, Work& work) const {
    work.scores.resize(queries.size(), keys.size());
    work.scores.noalias() = work.q * in.k.middleRows(first + keys.begin, keys.size()).transpose();
    for (Index row = 0; row < queries.size(); ++row) {
      const Index query = queries.begin + row;
      constexpr float hidden = -std::numeric_limits<float>::infinity();
      const auto hide = [&](Index begin, Index end) {
        begin = std::max(begin, keys.begin);
        end = std::min(end, keys.end);
        if (begin < end) work.scores.row(row).segment(begin - keys.begin, end - begin).setConstant(hidden);
      };
      hide(task_.far_sinks(query), task_.first_key(query));
      hide(task_.end_key(query), keys.end);
      auto scores = work.scores.row(row).array();
      const float largest = std::max(work.largest[row], scores.maxCoeff());
      const float shrink = std::exp(work.largest[row] - largest);
      scores = (scores - largest).exp();
      work.total[row] = work.total[row] * shrink + scores.sum();
      work.sums.row(row) *= shrink;
      work.largest[row] = largest;
    }
    work.sums.noalias() += work.scores * in.v.middleRows(first + keys.begin, keys.size());
  }

  Task task_;
  Index threads_;
  std::vector<Work> work_;
};

}  // namespace benches
