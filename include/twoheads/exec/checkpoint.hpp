#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/parts.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/exec/checkpoint_file.hpp>
#include <twoheads/model/model_hash.hpp>

namespace twoheads {

/// Attention in parts that can be told that the next part is known already: skip_part(queries) in place of
/// attend(input, queries, out), after which the following part has the bits that it has otherwise.
template <class A>
concept SkipsParts = AttendInParts<A, typename A::Scalar> && requires(A& attend, Rows queries) {
  attend.skip_part(queries);
};

/// How attention with a checkpoint writes its file.
struct CheckpointOptions {
  Index rows = 1024;  ///< least queries of a part, where a layer would be evaluated as a whole
  bool sync = true;   ///< each part reaches the disk, not just the system, before the next one is begun
};

/// What attention with a checkpoint took from its file, and what not.
struct CheckpointCounts {
  Index taken = 0;      ///< parts from the file
  Index evaluated = 0;  ///< parts evaluated, and written to it
};

/// Attention that survives the end of its process: it evaluates a layer part by part, writes each finished part to a
/// file, and in a later run of the same computation takes from the file what is there. Hand it to forward().
///
/// `key` is to name whatever decides the bits beside queries, keys, values, tokens and mask, which are compared part by
/// part: the oracle and its limits, the options, the seed of samples, the version of the program. The layers of several
/// forward passes follow each other in one file, in the order of the run.
///
///   Laws     out has the bits of `attend` on the whole layer, where these do not depend on how it is cut in parts;
///            a resumed run has the bits of one that was not interrupted. Parts end where attend.part_end says.
///   Corner   a last record that is not whole is cut off, and its part evaluated again. Error bars and log weights are
///            not in the file. What `attend` counts are the parts that it evaluated,
///            but jobs and tiles of whole layers.
///   Throws   FormatError that names the file, if it holds anything but the beginning of this computation: other bytes,
///            another key, scalar, cut or input; FileError if another run has it open, or it cannot be written, for
///            example on a full disk: the file then holds what it held. SpecError for fewer than 1 row a part, and
///            at the end of a layer with parts from the file, if error bars or log weights of it were asked for
template <SkipsParts A>
class CheckpointedAttention {
 public:
  using Scalar = typename A::Scalar;
  static_assert(!std::same_as<Scalar, long double>, "long double carries padding bytes without a meaning");

  CheckpointedAttention(A& attend, const std::filesystem::path& path, const std::string& key,
                        const CheckpointOptions& options = {})
      : attend_(attend), options_(options), file_(path, key, sizeof(Scalar), rows_of(options), options.sync) {}

  void operator()(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
    require_shapes(input, out);
    begin_layer(input.spec, input.layer, input.query_positions(), input.key_positions(), input.sink_logits.size() > 0);
    const std::uint64_t keys = digest_of_keys(input);
    const Rows queries = input.query_positions();
    for (Index begin = queries.begin; begin < queries.end;) {
      const Rows part{begin, part_end(begin, options_.rows)};
      find(input, keys, part, block_span(out, input.held.query_place(part), 0, out.cols()));
      begin = part.end;
    }
    end_layer();
  }

  /// Part by part: see AttendInParts.
  void begin_layer(const AttentionSpec& spec, Index layer, Rows queries, Index keys, bool log_weights = false) {
    detail::begin_layer(attend_, spec, layer, queries, keys, log_weights);
    detail::ByteHash hash(detail::digest_of(spec));
    hash.add(static_cast<std::uint64_t>(queries.begin));
    hash.add(static_cast<std::uint64_t>(queries.end));
    hash.add(static_cast<std::uint64_t>(keys));
    layer_ = hash.value();
    ++turn_;
    taken_ = false;
  }

  /// As AttendInParts says.
  [[nodiscard]] Index part_end(Index first, Index least) const { return attend_.part_end(first, least); }

  void operator()(const AttentionInput<Scalar>& input, Rows queries, MatrixSpan<Scalar> out) {
    detail::require_shape("the output of a part", out, queries.size(), input.spec.heads * input.spec.value_dim);
    find(input, digest_of_keys(input), queries, out);
  }

  void end_layer() {
    attend_.end_layer();
    if (!taken_) return;
    const auto refuse = [&](const auto& found, const char* what) {
      if (found.size() > 0)
        throw SpecError(detail::text(what, " were asked for, but a checkpoint holds none: expected a run without it"));
    };
    if constexpr (requires { attend_.error_bars(); }) refuse(attend_.error_bars(), "error bars");
    if constexpr (requires { attend_.log_weights(); }) refuse(attend_.log_weights(), "log weights");
  }

  [[nodiscard]] const CheckpointCounts& counts() const { return counts_; }  ///< parts so far

 private:
  [[nodiscard]] static std::uint64_t rows_of(const CheckpointOptions& options) {
    if (options.rows < 1)
      throw SpecError(detail::text("the rows of a checkpoint's part are ", options.rows, ", expected 1 or more"));
    return static_cast<std::uint64_t>(options.rows);
  }

  [[nodiscard]] std::uint64_t digest_of_keys(const AttentionInput<Scalar>& input) const {
    detail::ByteHash hash(layer_);
    for (const Index number : {input.held.first_query, input.held.sinks, input.held.first_key,
                               Index{input.bias.by_head}, Index{input.bias.by_query}})
      hash.add(static_cast<std::uint64_t>(number));
    for (const MatrixView<Scalar>* rows : {&input.k, &input.v, &input.key_tokens, &input.sink_logits, &input.bias.rows})
      detail::add_rows(hash, *rows);
    return hash.value();
  }

  void find(const AttentionInput<Scalar>& input, std::uint64_t keys, Rows queries, MatrixSpan<Scalar> out) {
    const Rows place = input.held.query_place(queries);
    detail::ByteHash hash(keys);
    detail::add_rows(hash, block_view(input.q, place, 0, input.q.cols()));
    if (input.query_tokens.rows() > 0)
      detail::add_rows(hash, block_view(input.query_tokens, place, 0, input.query_tokens.cols()));
    const auto number = [](Index value) { return static_cast<std::uint64_t>(value); };
    const detail::PartRecord part{number(turn_),       number(input.layer), number(queries.begin),
                                  number(queries.end), number(out.cols()),  hash.value()};
    if (file_.at_end()) {
      attend_(input, queries, out);
      rows_ = out;
      file_.append(part, std::as_bytes(std::span(rows_.data(), static_cast<std::size_t>(rows_.size()))));
      ++counts_.evaluated;
    } else {
      rows_.resize(out.rows(), out.cols());
      file_.take(part, std::as_writable_bytes(std::span(rows_.data(), static_cast<std::size_t>(rows_.size()))));
      out = rows_;
      attend_.skip_part(queries);
      taken_ = true;
      ++counts_.taken;
    }
  }

  A& attend_;
  CheckpointOptions options_;
  detail::CheckpointFile file_;
  CheckpointCounts counts_;
  Index turn_ = 0;           ///< layers begun
  std::uint64_t layer_ = 0;  ///< digest of the spec and the lengths
  bool taken_ = false;       ///< parts of this layer came from the file
  Matrix<Scalar> rows_;
};

}  // namespace twoheads
