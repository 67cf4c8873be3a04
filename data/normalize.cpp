#include "data/normalize.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "data/unicode_normalization.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

// Hangul (the Unicode Standard, section 3.12).
constexpr uint32_t kSyllables = 0xAC00, kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11A7;
constexpr uint32_t kLeadingCount = 19, kVowelCount = 21, kTrailingCount = 28;
constexpr uint32_t kSyllableCount = kLeadingCount * kVowelCount * kTrailingCount;

uint32_t combining_class(uint32_t code) {
  const auto ranges = combining_ranges();
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), code,
                                      [](uint32_t value, const CombiningRange& r) { return value < r.first; });
  return after != ranges.begin() && code <= std::prev(after)->last ? std::prev(after)->combining_class : 0;
}

using Pair = std::pair<uint32_t, uint32_t>;

// Pairs that compose and what they compose to, in rising order.
const std::vector<std::pair<Pair, uint32_t>>& compositions() {
  static const auto made = [] {
    std::vector<std::pair<Pair, uint32_t>> out;
    const auto excluded = composition_exclusions();
    for (const DecompositionPair& d : decomposition_pairs()) {
      if (!std::binary_search(excluded.begin(), excluded.end(), d.code)) out.push_back({{d.first, d.second}, d.code});
    }
    std::sort(out.begin(), out.end());
    return out;
  }();
  return made;
}

// Code points below 0x30000 that may change: those with a class, those that form C replaces, and those that may be the
// second of a pair.
class Unstable {
 public:
  Unstable() : bits_(0x30000) {
    for (const CombiningRange& r : combining_ranges()) {
      for (uint32_t code = r.first; code <= r.last; ++code) bits_[code] = true;
    }
    for (const auto& [pair, code] : compositions()) bits_[pair.second] = true;
    for (const uint32_t code : composition_exclusions()) bits_[code] = true;
    for (const SingleRun& run : single_runs()) {
      for (uint32_t i = 0; i < run.count; ++i) bits_[run.first + i] = true;
    }
    for (uint32_t i = 0; i < kVowelCount; ++i) bits_[kVowels + i] = true;
    for (uint32_t i = 1; i < kTrailingCount; ++i) bits_[kTrailing + i] = true;
  }
  bool holds(uint32_t code) const { return code < bits_.size() && bits_[code]; }

 private:
  std::vector<bool> bits_;
};

// The code point that `code` alone stands for, or 0.
uint32_t single_target(uint32_t code) {
  const auto runs = single_runs();
  const auto after = std::upper_bound(runs.begin(), runs.end(), code,
                                      [](uint32_t value, const SingleRun& r) { return value < r.first; });
  if (after == runs.begin()) return 0;
  const SingleRun& run = *std::prev(after);
  return code - run.first < run.count ? single_targets()[run.begin + (code - run.first)] : 0;
}

struct Point {
  uint32_t code;  // kInvalidCode: the bytes stand for themselves
  uint32_t combining;
  std::string_view bytes;
};

void decompose(uint32_t code, std::vector<Point>& out) {
  if (code >= kSyllables && code < kSyllables + kSyllableCount) {
    const uint32_t index = code - kSyllables;
    out.push_back({kLeading + index / (kVowelCount * kTrailingCount), 0, {}});
    out.push_back({kVowels + index / kTrailingCount % kVowelCount, 0, {}});
    if (index % kTrailingCount != 0) out.push_back({kTrailing + index % kTrailingCount, 0, {}});
    return;
  }
  if (const uint32_t target = single_target(code); target != 0) return decompose(target, out);
  const auto table = decomposition_pairs();
  const auto place = std::lower_bound(table.begin(), table.end(), code,
                                      [](const DecompositionPair& d, uint32_t value) { return d.code < value; });
  if (place == table.end() || place->code != code) {
    out.push_back({code, combining_class(code), {}});
    return;
  }
  decompose(place->first, out);
  decompose(place->second, out);
}

// The code point that stands for the pair, or 0.
uint32_t compose(uint32_t first, uint32_t second) {
  if (first >= kLeading && first < kLeading + kLeadingCount && second >= kVowels && second < kVowels + kVowelCount) {
    return kSyllables + ((first - kLeading) * kVowelCount + (second - kVowels)) * kTrailingCount;
  }
  const bool open =
      first >= kSyllables && first < kSyllables + kSyllableCount && (first - kSyllables) % kTrailingCount == 0;
  if (open && second > kTrailing && second < kTrailing + kTrailingCount) return first + (second - kTrailing);
  const auto& table = compositions();
  const Pair pair{first, second};
  const auto place = std::lower_bound(table.begin(), table.end(), pair,
                                      [](const auto& c, const Pair& value) { return c.first < value; });
  return place != table.end() && place->first == pair ? place->second : 0;
}

// Runs of points with a class in the order of the classes.
void order(std::vector<Point>& points) {
  for (auto begin = points.begin(); begin != points.end();) {
    if (begin->combining == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, points.end(), [](const Point& p) { return p.combining == 0; });
    std::stable_sort(begin, end, [](const Point& a, const Point& b) { return a.combining < b.combining; });
    begin = end;
  }
}

// Joins points to the last starter where nothing between them has the same class, or a higher one.
void compose_all(std::vector<Point>& points) {
  size_t kept = 0;
  int64_t starter = -1;
  uint32_t last = 0;  // class of the point before, of those kept since the starter
  for (const Point& point : points) {
    const bool blocked = starter >= 0 && static_cast<size_t>(starter) + 1 < kept && last >= point.combining;
    if (starter >= 0 && !blocked && point.code != kInvalidCode) {
      Point& base = points[static_cast<size_t>(starter)];
      if (const uint32_t code = compose(base.code, point.code); code != 0) {
        base.code = code;
        continue;
      }
    }
    if (point.combining == 0) starter = point.code == kInvalidCode ? -1 : static_cast<int64_t>(kept);
    last = point.combining;
    points[kept++] = point;
  }
  points.resize(kept);
}

}  // namespace

bool is_nfc_quick(std::string_view text) {
  static const Unstable unstable;
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t at = 0; at < size;) {
    // Everything below U+0300 is stable; its bytes are below 0xCC.
    if (static_cast<uint8_t>(text[static_cast<size_t>(at)]) < 0xCC) {
      ++at;
      continue;
    }
    const CodePoint point = code_point_at(text, at);
    if (unstable.holds(point.code)) return false;
    at += point.length;
  }
  return true;
}

std::string to_nfc(std::string_view text) {
  if (is_nfc_quick(text)) return std::string(text);
  std::vector<Point> points;
  points.reserve(text.size());
  for (int64_t at = 0; at < static_cast<int64_t>(text.size());) {
    const CodePoint point = code_point_at(text, at);
    if (point.code == kInvalidCode) {
      points.push_back({kInvalidCode, 0, text.substr(static_cast<size_t>(at), static_cast<size_t>(point.length))});
    } else if (point.code < 0xC0) {
      points.push_back({point.code, 0, {}});
    } else {
      decompose(point.code, points);
    }
    at += point.length;
  }
  order(points);
  compose_all(points);
  std::string out;
  out.reserve(text.size());
  for (const Point& point : points) {
    if (point.code == kInvalidCode) {
      out += point.bytes;
    } else {
      append_utf8(out, point.code);
    }
  }
  return out;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at = 0;;) {
    const size_t hit = text.find(from, at);
    out += text.substr(at, hit - at);
    if (hit == std::string_view::npos) return out;
    out += to;
    at = hit + from.size();
  }
}

bool TextNormalizer::keeps(std::string_view text) const {
  return std::all_of(steps_.begin(), steps_.end(),
                     [&](const Step& step) { return step.kind == Kind::nfc && is_nfc_quick(text); });
}

std::string TextNormalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (step.kind == Kind::nfc) {
      out = to_nfc(out);
    } else if (step.kind == Kind::replace) {
      out = replace_all(out, step.first, step.second);
    } else if (!out.empty()) {
      out = step.first + out;
    }
  }
  return out;
}

}  // namespace matvlm
