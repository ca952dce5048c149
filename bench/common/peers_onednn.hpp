#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <limits>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

#include "attention_task.hpp"
#include "peers_eigen.hpp"

/// Attention by oneDNN 2's matrix products and its softmax, a strip of queries at a time, and its plain product.
namespace benches {

/// Sets how many threads oneDNN takes for what this thread asks of it. Its OpenMP runtime is asked for by name, since
/// the compiler's own may be another; false where there is none.
[[nodiscard]] inline bool set_onednn_threads(int threads) {
  using Set = void (*)(int);
  static const Set set = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set != nullptr) set(threads);
  return set != nullptr;
}

/// Row-major c (rows, cols) = a b, or a b' where `transposed` is set, or added to c.
struct Product {
  const float* a = nullptr;
  Index stride_a = 0;
  const float* b = nullptr;
  Index stride_b = 0;
  bool transposed = false;
  float* c = nullptr;
  Index stride_c = 0;
  Index rows = 0, cols = 0, inner = 0;
  bool add = false;

  void operator()() const {
    const auto status = dnnl::sgemm('N', transposed ? 'T' : 'N', rows, cols, inner, 1.0F, a, stride_a, b, stride_b,
                                    add ? 1.0F : 0.0F, c, stride_c);
    if (status != dnnl::status::success) throw std::runtime_error("oneDNN's sgemm failed");
  }
};

class OneDnnStrips {
 public:
  static constexpr Index block = 128;

  OneDnnStrips(const Task& task, Index threads)
      : task_(task), threads_(threads), work_(static_cast<std::size_t>(threads)) {}

  void operator()(const Inputs<float>& in, Matrix<float>& out) {
    const Index blocks = twoheads::ceil_div(task_.tokens, block);
    share_out(threads_, task_.heads * blocks, [&](Index thread, Index item) {
      // Each of our threads runs oneDNN on itself alone.
      static_cast<void>(set_onednn_threads(1));
      const Index begin = (blocks - 1 - item / task_.heads) * block;
      evaluate(in, item % task_.heads, {begin, std::min(begin + block, task_.tokens)},
               work_[static_cast<std::size_t>(thread)], out);
    });
  }

 private:
  struct Work {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::map<std::pair<Index, Index>, dnnl::softmax_forward> softmax;
    Matrix<float> q, scores;
  };

  void evaluate(const Inputs<float>& in, Index head, Rows queries, Work& work, Matrix<float>& out) const {
    const Index first = head * task_.tokens;
    const Index near = task_.first_key(queries.begin);
    const Index end = task_.end_key(queries.end - 1);
    const Index sinks = std::min(task_.far_sinks(queries.end - 1), near);
    const Index keys = sinks + end - near;
    work.q = in.q.middleRows(first + queries.begin, queries.size()) * static_cast<float>(task_.scale());
    // Room for the longest strip, so that no strip moves the others' memory.
    if (work.scores.size() < queries.size() * keys) work.scores.resize(block, std::max(keys, longest()));
    float* scores = work.scores.data();

    const Rows parts[] = {{0, sinks}, {near, end}};
    Index column = 0;
    for (const Rows& part : parts) {
      if (part.empty()) continue;
      Product{work.q.data(),  task_.head_dim, in.k.row(first + part.begin).data(),
              task_.head_dim, true,           scores + column,
              keys,           queries.size(), part.size(),
              task_.head_dim}();
      column += part.size();
    }
    constexpr float hidden = -std::numeric_limits<float>::infinity();
    for (Index row = 0; row < queries.size(); ++row) {
      const Index query = queries.begin + row;
      float* of_row = scores + row * keys + sinks;
      // Sinks that do not lie before the strip's first key are among its other keys.
      const Index kept = std::max(task_.far_sinks(query), near);
      std::fill(of_row + kept - near, of_row + std::max(kept, task_.first_key(query)) - near, hidden);
      std::fill(of_row + task_.end_key(query) - near, of_row + end - near, hidden);
    }
    const dnnl::memory::desc shape({queries.size(), keys}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab);
    auto made = work.softmax.find({queries.size(), keys});
    if (made == work.softmax.end()) {
      const dnnl::softmax_forward::desc description(dnnl::prop_kind::forward_inference, shape, 1);
      made = work.softmax.emplace(std::pair(queries.size(), keys), dnnl::softmax_forward({description, work.engine}))
                 .first;
    }
    const dnnl::memory rows(shape, work.engine, scores);
    made->second.execute(work.stream, {{DNNL_ARG_SRC, rows}, {DNNL_ARG_DST, rows}});
    work.stream.wait();

    column = 0;
    for (const Rows& part : parts) {
      if (part.empty()) continue;
      Product{scores + column, keys,           in.v.row(first + part.begin).data(),
              task_.value_dim, false,          out.row(first + queries.begin).data(),
              task_.value_dim, queries.size(), task_.value_dim,
              part.size(),     column > 0}();
      column += part.size();
    }
  }

  [[nodiscard]] Index longest() const {
    if (task_.pattern == Pattern::full || task_.pattern == Pattern::causal) return task_.tokens;
    return std::min(task_.tokens, Task::window + Task::sinks + block);
  }

  Task task_;
  Index threads_;
  std::vector<Work> work_;
};

}  // namespace benches
