#include "launch/inspect_tensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <iomanip>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/tensor.h"
#include "launch/metrics.h"

namespace matvlm {
namespace {

constexpr size_t kLongestMetadata = 200;

std::string value_stats(const std::vector<float>& values) {
  double low = 0;
  double high = 0;
  double sum = 0;
  int64_t finite = 0;
  int64_t nans = 0;
  for (const float value : values) {
    const double x = value;
    nans += std::isnan(x) ? 1 : 0;
    if (!std::isfinite(x)) continue;
    low = finite == 0 ? x : std::min(low, x);
    high = finite == 0 ? x : std::max(high, x);
    sum += x;
    ++finite;
  }
  const double count = finite > 0 ? static_cast<double>(finite) : 1.0;
  const double mean = sum / count;
  double squares = 0;  // of the distances from the mean: their difference would lose all digits of a narrow spread
  for (const float value : values) {
    const double distance = static_cast<double>(value) - mean;
    if (std::isfinite(value)) squares += distance * distance;
  }
  char text[200];
  std::snprintf(text, sizeof(text), "  min %.4g  max %.4g  mean %.4g  std %.4g  NaN %lld", low, high, mean,
                std::sqrt(squares / count), static_cast<long long>(nans));
  const int64_t infinite = static_cast<int64_t>(values.size()) - finite - nans;
  return cat(text, infinite > 0 ? cat("  infinite ", infinite) : "");
}

int name_width(const TensorSource& source) {
  size_t width = 0;
  for (const std::string& name : source.names()) width = std::max(width, name.size());
  return static_cast<int>(width) + 2;
}

struct Difference {
  int64_t elements = 0;
  double absolute = 0;
  double relative = 0;
};

Difference difference_of(const std::vector<float>& a, const std::vector<float>& b) {
  Difference d;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) == std::bit_cast<uint32_t>(b[i])) continue;
    ++d.elements;
    const double distance = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    const double scale = std::max(std::abs(static_cast<double>(a[i])), std::abs(static_cast<double>(b[i])));
    // A NaN on either side is the largest difference there is.
    d.absolute = std::isnan(distance) ? INFINITY : std::max(d.absolute, distance);
    d.relative = std::isnan(distance) ? INFINITY : std::max(d.relative, scale > 0 ? distance / scale : 0.0);
  }
  return d;
}

class Comparison {
 public:
  Comparison(std::ostream& out, const TensorSource& a, const TensorSource& b) : out_(out), a_(a), b_(b) {
    width_ = std::max(name_width(a), name_width(b));
  }

  bool run() {
    for (const std::string& name : a_.names()) {
      if (b_.has(name)) {
        compare(name);
      } else {
        differ(name, cat("only in ", a_.path()));
      }
    }
    for (const std::string& name : b_.names()) {
      if (!a_.has(name)) differ(name, cat("only in ", b_.path()));
    }
    out_ << same_bytes_ << " tensors with the same bytes, " << same_values_ << " with the same values in another type, "
         << different_ << " different\n";
    return different_ == 0;
  }

 private:
  void differ(const std::string& name, const std::string& what) {
    out_ << std::left << std::setw(width_) << name << what << "\n";
    ++different_;
  }

  void compare(const std::string& name) {
    const TensorInfo& a = a_.info(name);
    const TensorInfo& b = b_.info(name);
    const std::string types = cat(a.type, a.type == b.type ? "" : " against " + b.type, "  ");
    if (a.shape != b.shape) {
      return differ(name, cat(types, shape_string(a.shape), " against ", shape_string(b.shape)));
    }
    if (a.dtype && a.dtype == b.dtype && a_.read_bytes(name) == b_.read_bytes(name)) {
      ++same_bytes_;
      return;
    }
    if (!a.holds_floats() || !b.holds_floats()) return differ(name, types + "other bytes");
    const Difference d = difference_of(a_.read_floats(name), b_.read_floats(name));
    if (d.elements == 0) {
      ++same_values_;
      return;
    }
    char numbers[120];
    std::snprintf(numbers, sizeof(numbers), "%lld of %lld values, at most %.4g absolute, %.4g relative",
                  static_cast<long long>(d.elements), static_cast<long long>(a.numel), d.absolute, d.relative);
    differ(name, types + numbers);
  }

  std::ostream& out_;
  const TensorSource& a_;
  const TensorSource& b_;
  int width_ = 0;
  int64_t same_bytes_ = 0;
  int64_t same_values_ = 0;
  int64_t different_ = 0;
};

}  // namespace

void print_tensors(std::ostream& out, const TensorSource& source, bool stats) {
  const int width = name_width(source);
  int64_t values = 0;
  int64_t bytes = 0;
  for (const std::string& name : source.names()) {
    const TensorInfo& info = source.info(name);
    out << std::left << std::setw(width) << name << std::setw(6) << info.type << shape_string(info.shape);
    if (stats && info.holds_floats()) out << value_stats(source.read_floats(name));
    out << "\n";
    values += info.numel;
    bytes += info.end - info.begin;
  }
  for (const auto& [key, value] : source.metadata()) {
    const std::string line = Json::of(std::string_view(value)).dump();  // on one line, whatever is in it
    out << "metadata " << key << ": "
        << (line.size() > kLongestMetadata ? line.substr(0, kLongestMetadata) + "..." : line) << "\n";
  }
  for (const std::string& file : source.files()) out << "file " << file << "\n";
  out << source.names().size() << " tensors, " << values << " values, " << memory_text(bytes) << "\n";
}

bool compare_tensors(std::ostream& out, const TensorSource& a, const TensorSource& b) {
  return Comparison(out, a, b).run();
}

}  // namespace matvlm
