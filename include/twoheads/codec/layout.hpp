#pragma once

#include <twoheads/base/index.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/plan/anchor.hpp>

namespace twoheads {

/// What a call is to find out for the query rows of its tiles.
///
///   straight          values only; no synthetic key (short inputs)
///   state             values, r and p: value columns [V, 1 on real keys, 1 on the synthetic key]
///   state_with_keys   the same and the expected key, so that an unsafe tile can be repeated with a Gibbs anchor
///   values_and_keys   values and the expected key, no synthetic key: the first call of the Gibbs anchor
///   weight            r and p alone: its second call
///   Source   value columns [V, 1, e] replace the paper's r / (1 - r), which has no digits left from logits of about
///            16 in float (Lemma 3.1 computes A = r / (1 - r) from a value column of ones)
enum class CallKind { straight, state, state_with_keys, values_and_keys, weight };

/// The first call of a job, and the widest.
[[nodiscard]] constexpr CallKind first_call(bool straight, Anchor anchor) {
  if (straight) return CallKind::straight;
  if (anchor == Anchor::gibbs) return CallKind::values_and_keys;
  return anchor == Anchor::adaptive ? CallKind::state_with_keys : CallKind::state;
}

/// How the rows of a call are made from the tile's tokens.
///
///   projected   columns hold q, k and v; the oracle's weights select them (Theorem 4.2)
///   raw         columns hold the tokens before projection; the oracle's weights are blocks of the model's (Lemma 3.1)
enum class TokenEncoding { projected, raw };

/// The name as programs take it.
[[nodiscard]] constexpr const char* name(TokenEncoding encoding) {
  return encoding == TokenEncoding::projected ? "projected" : "raw";
}

/// Columns of one single-head instance in the rows of a call, and of its answer.
///
///   projected   [ q (m), a, u | k (m), e, w | answer columns ]          width 2 (m + |a| + |u|) + answer columns
///   raw         [ x of the query (d), a, u | x of the key (d), e, w, g ]      width 2 (d + |a| + |u|) + 1
///               a: the anchor of a query; e: 1 on the synthetic key; g: 1 on real keys; u, w: codes of queries and
///               keys, where several jobs share the rows. Tokens of 16 bits take two columns each for a and e.
///               Where terms are added to scores (ScoreTerms), q and k have columns for them after their own m.
///   answer      [ value (m_v) | r, p | expected key (m and terms) | checks ], as far as the kind has them
///   checks      two columns of a number of the call, the same on all rows, and the mean of all columns before
struct InstanceLayout {
  CallKind kind = CallKind::state;
  TokenEncoding encoding = TokenEncoding::projected;  ///< what a row carries
  Index head_dim = 1;                                 ///< columns of projected q and k
  Index value_dim = 1;                                ///< columns of projected v
  Index input_width = 1;  ///< columns of a token that one head's weights see; used by raw tokens
  Index code_cols = 0;    ///< columns of u, and of w
  Index anchor_cols = 1;  ///< columns of a, and of e
  Index term_cols = 0;    ///< columns of q and k for what is added to scores; projected tokens alone
  bool checked = false;   ///< whether answers have checks; projected tokens alone

  [[nodiscard]] bool has_values() const { return kind != CallKind::weight; }  ///< whether answers hold O
  /// Whether answers hold r and p.
  [[nodiscard]] bool has_state() const {
    return kind == CallKind::state || kind == CallKind::state_with_keys || kind == CallKind::weight;
  }
  /// Whether answers hold expected keys.
  [[nodiscard]] bool has_keys() const { return kind == CallKind::state_with_keys || kind == CallKind::values_and_keys; }
  /// The synthetic key competes for attention; otherwise rows without a key are dead.
  [[nodiscard]] bool has_synthetic() const { return has_state(); }

  // Columns of the answer.
  [[nodiscard]] Index r_at() const { return has_values() ? value_dim : 0; }       ///< where r stands
  [[nodiscard]] Index p_at() const { return r_at() + 1; }                         ///< where p stands
  [[nodiscard]] Index keys_at() const { return r_at() + (has_state() ? 2 : 0); }  ///< where the expected key begins
  [[nodiscard]] Index checks_at() const { return keys_at() + (has_keys() ? score_cols() : 0); }  ///< where checks begin
  [[nodiscard]] Index answer_cols() const { return checks_at() + (checked ? 3 : 0); }  ///< columns of an answer

  // Columns of the input.
  /// Columns of what a query carries of its token.
  [[nodiscard]] Index query_cols() const { return encoding == TokenEncoding::projected ? score_cols() : input_width; }
  /// Columns of projected q and k, with those of terms.
  [[nodiscard]] Index score_cols() const { return head_dim + term_cols; }
  [[nodiscard]] Index anchor_at() const { return query_cols(); }                   ///< where a begins
  [[nodiscard]] Index query_code_at() const { return anchor_at() + anchor_cols; }  ///< where u begins
  /// What is compared: the columns of q, a and u, and of k, e and w.
  [[nodiscard]] Index keyed_cols() const { return query_cols() + anchor_cols + code_cols; }
  [[nodiscard]] Index key_at() const { return keyed_cols(); }  ///< where the key's part begins
  /// Columns of a head's queries and keys: raw tokens are projected to them.
  [[nodiscard]] Index head_cols() const { return score_cols() + anchor_cols + code_cols; }
  [[nodiscard]] Index synthetic_at() const { return key_at() + query_cols(); }      ///< where e begins
  [[nodiscard]] Index key_code_at() const { return synthetic_at() + anchor_cols; }  ///< where w begins
  /// Where the value, or the flag g of a raw token, begins.
  [[nodiscard]] Index value_at() const { return key_at() + keyed_cols(); }
  /// Columns of an instance.
  [[nodiscard]] Index width() const { return value_at() + (encoding == TokenEncoding::projected ? answer_cols() : 1); }
};

}  // namespace twoheads
