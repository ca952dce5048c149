#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <istream>
#include <limits>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/write_file.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/model/input_file.hpp>
#include <twoheads/model/model_hash.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// The first bytes of a session file: "2heads-1", whose last byte is the version of its form.
constexpr std::uint64_t session_mark = 0x312d736461656832ULL;

/// Writes numbers and rows, and hashes them on their way.
class SessionWriter {
 public:
  explicit SessionWriter(std::ostream& out) : out_(out) {}

  void number(std::uint64_t value) { bytes(std::as_bytes(std::span(&value, 1))); }
  template <RealScalar Scalar>
  void rows(const MatrixView<Scalar>& rows) {
    number(static_cast<std::uint64_t>(rows.rows()));
    for (Index row = 0; row < rows.rows(); ++row)
      bytes(std::as_bytes(std::span(rows.data() + row * rows.outerStride(), static_cast<std::size_t>(rows.cols()))));
  }
  /// Ends the file with the hash of all before it.
  void finish() {
    const std::uint64_t hash = hash_.value();
    out_.write(reinterpret_cast<const char*>(&hash), sizeof(hash));
    if (!out_.flush()) throw FileError("writing a session failed: the stream takes no more bytes");
  }

 private:
  void bytes(std::span<const std::byte> data) {
    out_.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
    hash_.add(data);
  }

  std::ostream& out_;
  ByteHash hash_;
};

/// Reads the same again; lengths are held against the file's before memory is asked for.
class SessionReader {
 public:
  SessionReader(std::istream& in, std::uint64_t size, std::string name) : file_(in, size, std::move(name)) {}

  [[nodiscard]] std::uint64_t number() {
    const auto value = file_.read<std::uint64_t>();
    hash_.add(std::as_bytes(std::span(&value, 1)));
    return value;
  }
  /// The mark of a session file, of the version that is written here.
  void expect_mark() {
    const std::uint64_t found = number();
    constexpr std::uint64_t version = std::uint64_t{0xff} << 56U;
    if ((found & ~version) != (session_mark & ~version)) fail("not a session file");
    if (found == session_mark) return;
    const auto digit = [](std::uint64_t mark) { return static_cast<int>(mark >> 56U) - '0'; };
    fail(text("a session of version ", digit(found), ", expected ", digit(session_mark)));
  }
  /// A number that must be this one.
  void expect(std::uint64_t value, const char* what) {
    const std::uint64_t found = number();
    if (found != value) fail(text(what, " is ", found, ", expected ", value));
  }
  /// A count of at most `most`.
  [[nodiscard]] Index count(Index most, const char* what) {
    const std::uint64_t found = number();
    if (found > static_cast<std::uint64_t>(most)) fail(text(what, " is ", found, ", expected 0 to ", most));
    return static_cast<Index>(found);
  }
  /// So many rows of `cols` numbers.
  template <RealScalar Scalar>
  [[nodiscard]] Matrix<Scalar> rows(Index count, Index cols, const char* what) {
    expect(static_cast<std::uint64_t>(count), what);
    const std::uint64_t bytes =
        saturating_product(static_cast<std::uint64_t>(count), static_cast<std::uint64_t>(cols) * sizeof(Scalar));
    if (bytes > file_.remaining()) fail(text(what, ": ", bytes, " bytes are to follow, ", file_.remaining(), " do"));
    Matrix<Scalar> rows(count, cols);
    file_.read(rows.data(), static_cast<std::uint64_t>(rows.size()));
    // By rows, as they were written.
    for (Index row = 0; row < count; ++row)
      hash_.add(std::as_bytes(std::span(rows.data() + row * cols, static_cast<std::size_t>(cols))));
    if (const Index bad = first_row_not_finite(rows); bad >= 0) fail(text(what, ": row ", bad, " is NaN or infinite"));
    return rows;
  }
  void finish() {
    const std::uint64_t found = hash_.value();
    if (file_.read<std::uint64_t>() != found) fail("its bytes are not those that were written");
    if (file_.remaining() != 0) fail(text(file_.remaining(), " bytes follow its end"));
  }
  [[noreturn]] void fail(const std::string& why) const { throw FormatError(text(file_.name(), ": ", why)); }

 private:
  ByteReader file_;
  ByteHash hash_;
};

}  // namespace detail

/// Writes what a session holds.
///
///   Laws     restore_session() of it goes on with the same bits
///   Throws   FileError where the stream takes no more bytes
template <RealScalar Scalar, class A>
void save_session(std::ostream& out, const Session<Scalar, A>& session) {
  static_assert(!std::same_as<Scalar, long double>, "long double carries padding bytes without a meaning");
  detail::SessionWriter file(out);
  file.number(detail::session_mark);
  file.number(sizeof(Scalar));
  file.number(detail::digest_of(session.model()));
  file.number(static_cast<std::uint64_t>(session.options().positions));
  file.number(static_cast<std::uint64_t>(session.tokens()));
  for (const KeyCache<Scalar>& cache : session.caches()) {
    const HeldRows held = cache.held(0);
    file.number(static_cast<std::uint64_t>(held.sinks));
    file.number(static_cast<std::uint64_t>(held.first_key));
    file.rows(cache.keys());
    file.rows(cache.values());
  }
  for (const Matrix<Scalar>& keys : session.unrotated()) file.rows(view(keys));
  // None before the first token, or after going back.
  file.number(static_cast<std::uint64_t>(session.last_row().rows()));
  file.rows(view(session.last_row()));
  file.finish();
}

/// Makes a session what it was when it was saved; model, scalar and SessionOptions::positions must be the same.
///
///   Throws   FormatError that names the stream, what it holds and what was expected; the session is then as it was
template <RealScalar Scalar, class A>
void restore_session(std::istream& in, std::uint64_t size, Session<Scalar, A>& session,
                     std::string name = "session stream") {
  detail::SessionReader file(in, size, std::move(name));
  file.expect_mark();
  const std::uint64_t bytes = file.number();
  if (bytes != sizeof(Scalar))
    file.fail(detail::text("of another scalar: its numbers have ", bytes, " bytes, expected ", sizeof(Scalar)));
  if (file.number() != detail::digest_of(session.model()))
    file.fail("of another model, or of another window or other sinks, by the digest of all that");
  if (file.number() != static_cast<std::uint64_t>(session.options().positions))
    file.fail("its positions count otherwise: one of the session and its file has those of the keys held");
  const Index tokens = file.count(std::numeric_limits<Index>::max() / 2, "the number of tokens");
  const ModelSpec& spec = session.model().body.spec;
  std::vector<KeyCache<Scalar>> caches;
  for (Index layer = 0; layer < spec.layers; ++layer) {
    const AttentionSpec a = spec.attention_of(layer);
    const Index sinks = file.count(tokens, "the number of sinks");
    const Index first = file.count(tokens, "the position of the first key");
    // Of windows alone keys are dropped, and none that the next token sees.
    const std::optional<MaskReach> reach = a.mask.reach();
    const Index most = reach ? std::max<Index>(tokens - reach->left - 1, 0) : 0;
    if (first > most || sinks > first || (first > 0 && sinks != reach->sinks))
      file.fail(detail::text("layer ", layer, " holds ", sinks, " sinks and keys from ", first, " on of ", tokens,
                             " tokens: not what a session holds"));
    const Index rows = tokens - first + sinks;
    const Matrix<Scalar> k = file.template rows<Scalar>(rows, a.kv_heads * a.head_dim, "keys");
    const Matrix<Scalar> v = file.template rows<Scalar>(rows, a.kv_heads * a.value_dim, "values");
    caches.emplace_back(a, session.options().chunk);
    caches.back().restore(tokens, sinks, first, k, v);
  }
  std::vector<Matrix<Scalar>> unrotated;
  if (session.options().positions == CachePositions::in_cache)
    for (Index layer = 0; layer < spec.layers; ++layer) {
      const AttentionSpec a = spec.attention_of(layer);
      unrotated.push_back(file.template rows<Scalar>(std::min(tokens, a.mask.sinks), a.kv_heads * a.head_dim,
                                                     "keys of sinks before they rotate"));
    }
  const Index last = file.count(tokens > 0 ? 1 : 0, "the number of last rows");
  Matrix<Scalar> last_row = file.template rows<Scalar>(last, last == 0 ? 0 : spec.width, "the last row");
  file.finish();
  session.restore(tokens, std::move(caches), std::move(unrotated), std::move(last_row));
}

/// The same by files. A file is written beside its place and moved there, so that none is left half written.
///
///   Throws   FileError where it cannot be written
template <RealScalar Scalar, class A>
void save_session(const std::filesystem::path& path, const Session<Scalar, A>& session) {
  detail::write_file(path, [&](std::ostream& out) { save_session(out, session); });
}
/// The same from a file.
///
///   Throws   FileError where it cannot be read, and what the stream's overload throws
template <RealScalar Scalar, class A>
void restore_session(const std::filesystem::path& path, Session<Scalar, A>& session) {
  detail::InputFile file = detail::open_input(path);
  restore_session(file.stream, file.size, session, path.string());
}

}  // namespace twoheads
