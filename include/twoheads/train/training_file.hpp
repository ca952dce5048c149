#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <limits>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/difference.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/write_file.hpp>
#include <twoheads/model/model_hash.hpp>
#include <twoheads/train/trainer.hpp>
#include <twoheads/train/training_state.hpp>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

static_assert(std::endian::native == std::endian::little, "training files hold numbers as they lie: little endian");

inline constexpr std::string_view training_magic = "2HEADSTR";
inline constexpr std::uint64_t training_version = 1;

/// What follows the magic bytes. Then come the key, the points of the curve, weights, first and second moments, and a
/// hash of all before.
struct TrainingHead {
  std::uint64_t version = training_version;
  std::uint64_t scalar_bytes = 0;
  std::uint64_t parameters = 0;
  std::uint64_t steps = 0;
  std::uint64_t points = 0;
  std::uint64_t key_bytes = 0;
};
static_assert(sizeof(TrainingHead) == 6 * sizeof(std::uint64_t));
static_assert(sizeof(TrainingPoint) == 5 * sizeof(std::uint64_t));

/// A file of training, read from the front. Nothing of its size is asked for before its bytes are known to be sound.
///
///   Throws   FileError where it cannot be opened or read; FormatError where it is no file of training
class TrainingReader {
 public:
  explicit TrainingReader(const std::filesystem::path& path) : name_(path.string()) {
    std::error_code failed;
    if (!std::filesystem::is_regular_file(path, failed))
      throw FileError(text(name_, failed ? ": cannot be opened: " : ": not a regular file",
                           failed ? failed.message() : std::string()));
    in_.open(path, std::ios::binary);
    if (!in_) throw FileError(name_ + ": cannot be opened");
    size_ = std::filesystem::file_size(path, failed);
    if (failed) throw FileError(text(name_, ": cannot be examined: ", failed.message()));
    // A file that begins otherwise may be of any size.
    std::array<char, training_magic.size()> magic{};
    if (size_ >= magic.size()) take(magic);
    if (std::string_view(magic.data(), magic.size()) != training_magic) throw damage("not a checkpoint of training");
  }

  template <class Numbers>
  void take(Numbers&& numbers) {
    const std::span<std::byte> to = std::as_writable_bytes(std::span(numbers));
    if (to.size() > left()) throw damage("is cut short");
    read(to);
  }

  [[nodiscard]] std::uint64_t left() const { return size_ - at_; }

  /// Whether the last word is the hash of all bytes before it, if there is a word; the place stays.
  [[nodiscard]] bool fits_its_hash() {
    const std::uint64_t place = at_;
    // Words of the hash lie in one piece each.
    std::vector<std::byte> piece(std::size_t{1} << 16);
    ByteHash found;
    std::uint64_t hash = 0;
    move_to(0);
    while (left() > sizeof(hash)) {
      const std::span<std::byte> bytes =
          std::span(piece).first(std::min<std::uint64_t>(piece.size(), left() - sizeof(hash)));
      read(bytes);
      found.add(bytes);
    }
    take(std::span(&hash, 1));
    move_to(place);
    return hash == found.value();
  }

  [[nodiscard]] FormatError damage(const std::string& what) const { return FormatError(text(name_, ": ", what)); }

 private:
  void move_to(std::uint64_t place) {
    in_.seekg(static_cast<std::streamoff>(place));
    at_ = place;
  }
  void read(std::span<std::byte> bytes) {
    in_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (static_cast<std::size_t>(in_.gcount()) != bytes.size()) throw FileError(name_ + ": cannot be read");
    at_ += bytes.size();
  }

  std::string name_;
  std::ifstream in_;
  std::uint64_t size_ = 0;
  std::uint64_t at_ = 0;
};

/// The words of a number, such that other numbers have other words.
[[nodiscard]] inline std::string exact_words(double value) {
  std::ostringstream out;
  out.precision(std::numeric_limits<double>::max_digits10);
  out << value;
  return out.str();
}

[[nodiscard]] inline std::string hex_words(std::uint64_t value) {
  std::ostringstream out;
  out << std::hex << value;
  return out.str();
}

}  // namespace detail

/// What defines a run, in words: the model that it begins with, how it is trained, and the caller's hash of the data.
template <RealScalar Scalar>
[[nodiscard]] std::string training_key(const LanguageModel<Scalar>& begin, const TrainingOptions& options,
                                       std::uint64_t data) {
  const auto words = detail::exact_words;
  const Schedule& s = options.schedule;
  const AdamWOptions& a = options.adamw;
  return detail::text("model ", detail::hex_words(detail::digest_of(begin)), "; data ", detail::hex_words(data),
                      "; steps ", s.steps, ", warm-up ", s.warm_up, ", rate ", words(s.peak), " to ", words(s.floor),
                      "; betas ", words(a.beta1), " ", words(a.beta2), ", epsilon ", words(a.epsilon), ", decay ",
                      words(a.decay), a.decays_embedding ? "" : " but for the embedding", "; clip ",
                      words(options.clip));
}

/// Writes the state of a run, so that a run that is killed, also while it writes, leaves the old file or the new one.
///
///   Corner   what a killed writer had written stays as path.partial-<number>
///   Throws   FileError that names the path, where it cannot be written
template <RealScalar Scalar>
void save_training(const std::filesystem::path& path, const std::string& key, const TrainingState<Scalar>& state) {
  std::string bytes(detail::training_magic);
  const auto add = [&](const void* from, std::size_t size) { bytes.append(static_cast<const char*>(from), size); };
  detail::TrainingHead head;
  head.scalar_bytes = sizeof(Scalar);
  head.parameters = static_cast<std::uint64_t>(state.weights.size());
  head.steps = static_cast<std::uint64_t>(state.steps);
  head.points = state.curve.size();
  head.key_bytes = key.size();
  add(&head, sizeof(head));
  add(key.data(), key.size());
  add(state.curve.data(), state.curve.size() * sizeof(TrainingPoint));
  for (const Vector<Scalar>* numbers : {&state.weights, &state.first, &state.second})
    add(numbers->data(), static_cast<std::size_t>(numbers->size()) * sizeof(Scalar));
  const std::uint64_t hash = detail::hash_of(std::as_bytes(std::span(bytes)), 0);
  add(&hash, sizeof(hash));
  detail::write_file(path,
                     [&](std::ostream& out) { out.write(bytes.data(), static_cast<std::streamsize>(bytes.size())); });
}

/// Reads the state of a run of the same key, scalar and number of parameters.
///
///   Laws     no size in the file is believed that the file does not have, and no memory is taken for what it holds
///            before all of it was found to fit its checksum
///   Throws   FileError where it cannot be opened or read; FormatError that says what is wrong with it
template <RealScalar Scalar>
[[nodiscard]] TrainingState<Scalar> read_training(const std::filesystem::path& path, const std::string& key,
                                                  Index parameters) {
  detail::TrainingReader in(path);
  detail::TrainingHead head;
  in.take(std::span(&head, 1));
  if (head.version != detail::training_version)
    throw in.damage(
        detail::text("a checkpoint of training of version ", head.version, ", expected ", detail::training_version));
  // Each part is compared with what is left, so that no product can overflow.
  std::uint64_t left = in.left();
  const auto part = [&](std::uint64_t count, std::uint64_t size) {
    if (count > left / size) throw in.damage("is cut short, or its header is damaged");
    left -= count * size;
  };
  if (head.scalar_bytes != 4 && head.scalar_bytes != 8) throw in.damage("its header is damaged");
  part(head.key_bytes, 1);
  part(head.points, sizeof(TrainingPoint));
  for (int i = 0; i < 3; ++i) part(head.parameters, head.scalar_bytes);
  if (left != sizeof(std::uint64_t))
    throw in.damage(left < sizeof(std::uint64_t) ? "is cut short" : "is longer than its header says");
  if (!in.fits_its_hash()) throw in.damage("is damaged: its bytes do not fit their checksum");

  std::string found(static_cast<std::size_t>(head.key_bytes), ' ');
  in.take(found);
  if (found != key) throw in.damage("of another run: " + detail::difference_of(found, key));
  if (head.scalar_bytes != sizeof(Scalar))
    throw in.damage(detail::text("holds numbers of ", head.scalar_bytes, " bytes, expected ", sizeof(Scalar)));
  if (head.parameters != static_cast<std::uint64_t>(parameters))
    throw in.damage(detail::text("holds ", head.parameters, " weights, expected ", parameters));
  if (head.steps > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) throw in.damage("is damaged");
  TrainingState<Scalar> state;
  state.steps = static_cast<Index>(head.steps);
  state.curve.resize(static_cast<std::size_t>(head.points));
  in.take(state.curve);
  for (Vector<Scalar>* numbers : {&state.weights, &state.first, &state.second}) {
    numbers->resize(parameters);
    in.take(std::span(numbers->data(), static_cast<std::size_t>(parameters)));
  }
  return state;
}

}  // namespace twoheads
