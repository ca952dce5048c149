#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/attention/project.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/key_cache.hpp>
#include <twoheads/model/weights.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// By what positions count once keys have been dropped: the text's, or those of the keys that are held, so that a model
/// trained on short texts never meets a distance that it has not seen.
enum class CachePositions { original, in_cache };

/// How a session holds what it has read.
struct SessionOptions {
  CachePositions positions = CachePositions::original;  ///< by what rotary positions count
  /// Tokens that pass through the layers at once: a longer input is cut. More take memory, fewer make short products.
  Index chunk = 512;
};

/// A language model that is given its text piece by piece: keys and values of what came before are held.
///
///   Shapes   append(ids) yields the last layer's rows of these tokens, final norm applied: (n, width)
///   Laws     rows are those of one pass over the whole text up to rounding, whatever the pieces. With KernelAttention
///            of a fixed number of rows and a causal mask the bits are the same for pieces of multiples of these rows
///            and of 128. Of a window and sinks, memory stays as it is however long the text is.
///   Corner   positions in_cache: the window's keys keep their distances, a sink stands as far before the window as it
///            would in a text of nothing but what is held; for rotary positions alone. From the first dropped key on
///            tokens pass one by one. An exception of append() leaves the session as it was; where a window has dropped
///            keys since, after the last whole chunk.
///   Throws   SpecError for a mask under which a token sees later ones, more tokens than the model has positions, and
///            as embed() says; whatever `attend` throws
///   Source   Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (ICLR 2024)
template <RealScalar S, Attend<S> A>
class Session {
 public:
  using Scalar = S;

  /// Model and attention must outlive the session.
  Session(const LanguageModel<Scalar>& model, A& attend, const SessionOptions& options = {})
      : model_(model), attend_(attend), options_(options) {
    require_shapes(model);
    if (options.chunk < 1) throw SpecError(detail::text("chunk is ", options.chunk, ", expected 1 or more"));
    const ModelSpec& spec = model.body.spec;
    for (Index layer = 0; layer < spec.layers; ++layer) {
      specs_.push_back(spec.attention_of(layer));
      caches_.emplace_back(specs_.back(), options.chunk);
    }
    if (options.positions == CachePositions::in_cache) require_rotary();
  }

  /// Tokens so far.
  [[nodiscard]] Index tokens() const { return tokens_; }
  [[nodiscard]] const LanguageModel<Scalar>& model() const { return model_; }  ///< that reads
  [[nodiscard]] const SessionOptions& options() const { return options_; }     ///< as given

  /// Goes on by these tokens.
  template <class Ids>
  Matrix<Scalar> append(const Ids& ids) {
    const std::span<const int> all(ids);
    const auto count = static_cast<Index>(all.size());
    Matrix<Scalar> rows(count, model_.body.spec.width);
    const Index before = tokens_;
    Matrix<Scalar> last_before = last_row_;
    Rows part{0, 0};
    try {
      while (part.end < count) {
        part = {part.end, part.end + next_chunk(count - part.end)};
        const auto piece = all.subspan(static_cast<std::size_t>(part.begin), static_cast<std::size_t>(part.size()));
        rows.middleRows(part.begin, part.size()) = pass(piece);
        last_row_ = rows.row(part.end - 1);
      }
    } catch (...) {
      // Some layers may have the keys of a pass that was not finished.
      keep(tokens_);
      if (reaches_back(before)) {
        keep(before);
        last_row_ = std::move(last_before);
      }
      throw;
    }
    return rows;
  }

  /// Scores of the token that comes next, (1, vocabulary).
  ///
  ///   Throws   SpecError before the first token
  [[nodiscard]] Matrix<Scalar> next_logits() const {
    if (last_row_.rows() == 0)
      throw SpecError(detail::text("a session of ", tokens_, " tokens, none of them appended ",
                                   tokens_ == 0 ? "yet" : "since it went back",
                                   ", has no next one: append some first"));
    return logits(model_, view(last_row_));
  }

  /// Whether the session can go back to where it stood after so many tokens: what they see has not been dropped.
  [[nodiscard]] bool reaches_back(Index tokens) const {
    return tokens >= 0 && tokens <= tokens_ &&
           std::all_of(caches_.begin(), caches_.end(),
                       [&](const KeyCache<Scalar>& cache) { return cache.reaches_back(tokens); });
  }

  /// Forgets all but the first tokens; scores of a next token are there after the next append().
  ///
  ///   Throws   SpecError where keys that would be seen again have been dropped
  void go_back(Index tokens) {
    if (!reaches_back(tokens))
      throw SpecError(detail::text("a session of ", tokens_, " tokens cannot go back to ", tokens, ": expected 0 to ",
                                   tokens_, ", and keys that have not been dropped"));
    keep(tokens);
    last_row_.resize(0, 0);
  }

  /// Numbers of keys and values held, over all layers.
  [[nodiscard]] Index held() const {
    Index numbers = 0;
    for (const KeyCache<Scalar>& cache : caches_) numbers += cache.keys().size() + cache.values().size();
    return numbers;
  }

  // --- for session_file.hpp ---

  /// A layer's keys and values each.
  [[nodiscard]] const std::vector<KeyCache<Scalar>>& caches() const { return caches_; }
  /// The sinks' keys before rotation, a layer each; where positions count in the cache.
  [[nodiscard]] const std::vector<Matrix<Scalar>>& unrotated() const { return unrotated_; }
  /// Of the last token, (1, width); no rows before the first.
  [[nodiscard]] const Matrix<Scalar>& last_row() const { return last_row_; }

  /// Takes the place of what the session holds; sizes must fit each other.
  void restore(Index tokens, std::vector<KeyCache<Scalar>> caches, std::vector<Matrix<Scalar>> unrotated,
               Matrix<Scalar> last_row) {
    TWOHEADS_ASSERT(caches.size() == caches_.size() && unrotated.size() == unrotated_.size());
    tokens_ = tokens;
    caches_ = std::move(caches);
    unrotated_ = std::move(unrotated);
    last_row_ = std::move(last_row);
  }

 private:
  /// Forgets all but the first tokens.
  void keep(Index tokens) {
    for (KeyCache<Scalar>& cache : caches_) cache.go_back(tokens);
    for (Matrix<Scalar>& keys : unrotated_)
      if (keys.rows() > tokens) keys.conservativeResize(tokens, Eigen::NoChange);
    tokens_ = tokens;
  }

  /// Keys of a window and its sinks, as far as 64 bits hold them.
  [[nodiscard]] static Index sum_of(const Mask& mask) {
    return mask.window + std::min(mask.sinks, std::numeric_limits<Index>::max() - mask.window);
  }

  void require_rotary() {
    if (!model_.body.spec.attention.rope)
      throw SpecError("positions that count the keys held are those of rotary positions: the model has none");
    for (const AttentionSpec& spec : specs_) {
      if (spec.mask.kind != MaskKind::sinks)
        throw SpecError(
            detail::text("positions that count the keys held need a mask of a window and sinks in each "
                         "layer, found ",
                         name(spec.mask.kind)));
      unrotated_.emplace_back(0, spec.kv_heads * spec.head_dim);
      fits_ = std::min(fits_, sum_of(spec.mask));
    }
  }

  /// Tokens of the next pass, of those that are left.
  [[nodiscard]] Index next_chunk(Index left) const {
    if (options_.positions == CachePositions::original) return std::min(left, options_.chunk);
    return tokens_ < fits_ ? std::min({left, options_.chunk, fits_ - tokens_}) : 1;
  }

  [[nodiscard]] Matrix<Scalar> pass(std::span<const int> ids) {
    const Model<Scalar>& body = model_.body;
    const ModelSpec& spec = body.spec;
    Matrix<Scalar> x = embed(model_, ids, tokens_);
    if (body.input_mlp) body.input_mlp(tokens_, span(x));
    for (Index index = 0; index < spec.layers; ++index) {
      const auto at = static_cast<std::size_t>(index);
      const LayerWeights<Scalar>& layer = body.layers[at];
      const AttentionSpec& a = specs_[at];
      KeyCache<Scalar>& cache = caches_[at];
      Matrix<Scalar> mixed(x.rows(), a.heads * a.value_dim);
      {
        const Matrix<Scalar> tokens = detail::attention_tokens(spec, layer, view(x));
        const Matrix<Scalar> q = queries_of(a, layer.attention, view(tokens), tokens_);
        append_keys(index, view(tokens));
        attend_(AttentionInput<Scalar>{a, index, view(q), cache.keys(), cache.values(), no_rows<Scalar>(),
                                       no_rows<Scalar>(), layer.attention, cache.held(tokens_), false,
                                       view(layer.attention.sinks)},
                span(mixed));
      }
      detail::finish_rows(spec, layer, std::move(mixed), tokens_, span(x));
    }
    detail::final_norm_in_place(body, x);
    tokens_ += x.rows();
    return x;
  }

  void append_keys(Index layer, const MatrixView<Scalar>& tokens) {
    const auto at = static_cast<std::size_t>(layer);
    const AttentionSpec& spec = specs_[at];
    const AttentionWeights<Scalar>& weights = model_.body.layers[at].attention;
    const Matrix<Scalar> v = values_of(spec, weights, tokens);
    if (options_.positions == CachePositions::original)
      return caches_[at].append(keys_of(spec, weights, tokens, tokens_), v);
    AttentionSpec plain = spec;
    plain.rope.reset();
    Matrix<Scalar> k = keys_of(plain, weights, tokens);
    Matrix<Scalar>& kept = unrotated_[at];
    const Index sinks = spec.mask.sinks;
    if (tokens_ < sinks) {
      const Index fresh = std::min(k.rows(), sinks - tokens_);
      kept.conservativeResize(tokens_ + fresh, Eigen::NoChange);
      kept.bottomRows(fresh) = k.topRows(fresh);
    }
    rotate(span(k), spec.head_dim, *spec.rope, tokens_);
    caches_[at].append(k, v);
    // Sinks follow the window at the distance that they have among the keys held: those of the window stay as they are.
    // After going back they must come back, too.
    const Index dropped = std::max<Index>(tokens_ + 1 - sum_of(spec.mask), 0);
    MatrixSpan<Scalar> rotated = caches_[at].first_keys(kept.rows());
    rotated = kept;
    rotate(rotated, spec.head_dim, *spec.rope, dropped);
  }

  const LanguageModel<Scalar>& model_;
  A& attend_;
  SessionOptions options_;
  std::vector<AttentionSpec> specs_;  ///< of the layers
  std::vector<KeyCache<Scalar>> caches_;
  std::vector<Matrix<Scalar>> unrotated_;  ///< keys of sinks before they rotate, where positions count what is held
  Index fits_ = std::numeric_limits<Index>::max();  ///< tokens of which nothing is dropped
  Index tokens_ = 0;
  Matrix<Scalar> last_row_;
};

}  // namespace twoheads
