// Resize, padding and normalisation of pictures for the vision tower. The resize follows the arithmetic of PIL's 8-bit
// path, because published checkpoints were trained on its output: the columns first, as all its versions of their time
// did. Pillow 13 begins with the rows where that is less work, by which bytes of photographs differ by 1.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "data/image.h"

namespace matvlm {
namespace {

constexpr int kWeightBits = 22;  // 32 bits less 8 of the pixel and 2 of head room, as in PIL
constexpr int64_t kGroup = 2;    // inputs that one step of resize_columns takes

// Weights of every output position along one axis: position i reads `count[i]` inputs from `first[i]` on.
struct ResizeWeights {
  std::vector<int64_t> first;
  std::vector<int64_t> count;
  std::vector<int32_t> weight;  // out x longest, fixed point; zeros behind the first `count`
  int64_t longest = 0;          // a multiple of kGroup
};

// Sums of weights times pixels are 32-bit numbers.
constexpr int64_t kMostWeight = ((int64_t{1} << 31) - (int64_t{1} << kWeightBits)) / 255;

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

ResizeWeights resize_weights(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);  // antialias: the filter widens when the picture shrinks
  const double support = 2.0 * stretch;
  ResizeWeights table;
  table.longest = (static_cast<int64_t>(std::ceil(support)) * 2 + kGroup) / kGroup * kGroup;
  table.weight.assign(static_cast<size_t>(out * table.longest), 0);
  std::vector<double> row(static_cast<size_t>(table.longest));
  for (int64_t i = 0; i < out; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
    const int64_t last = std::min(in, static_cast<int64_t>(centre + support + 0.5));
    double sum = 0.0;
    for (int64_t k = 0; k < last - first; ++k) {
      row[static_cast<size_t>(k)] = bicubic((static_cast<double>(k + first) - centre + 0.5) * (1.0 / stretch));
      sum += row[static_cast<size_t>(k)];
    }
    int64_t magnitude = 0;
    for (int64_t k = 0; k < last - first; ++k) {
      const double fixed = row[static_cast<size_t>(k)] * (1.0 / sum) * (1 << kWeightBits);
      const auto weight = static_cast<int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
      table.weight[static_cast<size_t>(i * table.longest + k)] = weight;
      magnitude += std::abs(weight);
    }
    check(magnitude < kMostWeight, "[resize_bicubic] found weights of ", magnitude, ", expected less than ",
          kMostWeight);
    table.first.push_back(first);
    table.count.push_back(last - first);
  }
  return table;
}

constexpr int32_t kHalf = 1 << (kWeightBits - 1);

uint8_t to_byte(int32_t fixed) { return static_cast<uint8_t>(std::clamp(fixed >> kWeightBits, 0, 255)); }

// Numbers of a pixel in the rows that resize_columns reads, so that a vector holds whole ones.
constexpr size_t kPixel = 4;
constexpr size_t kLanes = kPixel * kGroup;
static_assert(kGroup == 2);

// Each weight once for every number of a pixel.
std::vector<int32_t> weights_of_lanes(const ResizeWeights& table) {
  std::vector<int32_t> weights;
  weights.reserve(kPixel * table.weight.size());
  for (const int32_t weight : table.weight) weights.insert(weights.end(), kPixel, weight);
  return weights;
}

// Vectors of GCC and Clang: left to itself the compiler keeps these sums in memory.
using LaneSums = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));

// One output pixel from kGroup inputs at a time, rounded and cut to bytes.
void resize_pixel(const int32_t* from, const int32_t* weight, int64_t count, uint8_t* to) {
  LaneSums sums = {};
  for (int64_t k = 0; k < count; k += kGroup, weight += kLanes, from += kLanes) {
    LaneSums values;
    LaneSums weights;
    std::memcpy(&values, from, sizeof(values));
    std::memcpy(&weights, weight, sizeof(weights));
    sums += weights * values;
  }
  for (size_t c = 0; c < 3; ++c) to[c] = to_byte(kHalf + sums[c] + sums[kPixel + c]);
}

Image resize_columns(const Image& image, int64_t width) {
  const ResizeWeights table = resize_weights(image.width, width);
  const std::vector<int32_t> weights = weights_of_lanes(table);
  Image out{width, image.height, std::vector<uint8_t>(static_cast<size_t>(width * image.height * 3))};
  const auto pixels = static_cast<size_t>(image.width);
  std::vector<int32_t> row(kPixel * pixels + kLanes);  // what the last group reads behind the row has weight 0
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* from = &image.rgb[static_cast<size_t>(y) * pixels * 3];
    for (size_t x = 0; x < pixels; ++x) {
      for (size_t c = 0; c < 3; ++c) row[kPixel * x + c] = from[3 * x + c];
    }
    uint8_t* to = &out.rgb[static_cast<size_t>(y * width * 3)];
    for (size_t x = 0; x < static_cast<size_t>(width); ++x, to += 3) {
      resize_pixel(&row[kPixel * static_cast<size_t>(table.first[x])],
                   &weights[kPixel * x * static_cast<size_t>(table.longest)], table.count[x], to);
    }
  }
  return out;
}

Image resize_rows(const Image& image, int64_t height) {
  const ResizeWeights table = resize_weights(image.height, height);
  const int64_t stride = image.width * 3;
  Image out{image.width, height, std::vector<uint8_t>(static_cast<size_t>(stride * height))};
  std::vector<int32_t> sum(static_cast<size_t>(stride));
  for (int64_t y = 0; y < height; ++y) {
    std::fill(sum.begin(), sum.end(), kHalf);
    for (int64_t k = 0; k < table.count[static_cast<size_t>(y)]; ++k) {
      const int32_t weight = table.weight[static_cast<size_t>(y * table.longest + k)];
      const uint8_t* from = &image.rgb[static_cast<size_t>((table.first[static_cast<size_t>(y)] + k) * stride)];
      for (int64_t i = 0; i < stride; ++i) sum[static_cast<size_t>(i)] += weight * from[i];
    }
    for (int64_t i = 0; i < stride; ++i) {
      out.rgb[static_cast<size_t>(y * stride + i)] = to_byte(sum[static_cast<size_t>(i)]);
    }
  }
  return out;
}

void check_image(const char* op, const Image& image) {
  check(image.width >= 1 && image.height >= 1, "[", op, "] the picture is ", image.width, " x ", image.height,
        "; expected at least 1 x 1");
  check(std::ssize(image.rgb) == image.width * image.height * 3, "[", op, "] ", image.rgb.size(),
        " bytes of pixels; expected ", image.width, " x ", image.height, " x 3");
}

}  // namespace

Image resize_bicubic(const Image& image, int64_t width, int64_t height) {
  check_image("resize_bicubic", image);
  check(width >= 1 && height >= 1, "[resize_bicubic] asked for ", width, " x ", height, "; expected at least 1 x 1");
  const Image columns = width == image.width ? image : resize_columns(image, width);
  return height == columns.height ? columns : resize_rows(columns, height);
}

Image pad_to_square(const Image& image, const std::array<uint8_t, 3>& colour) {
  check_image("pad_to_square", image);
  if (image.width == image.height) return image;
  const int64_t side = std::max(image.width, image.height);
  Image out{side, side, std::vector<uint8_t>(static_cast<size_t>(side * side * 3))};
  for (size_t i = 0; i < out.rgb.size(); ++i) out.rgb[i] = colour[i % 3];
  const int64_t left = (side - image.width) / 2;
  const int64_t top = (side - image.height) / 2;
  for (int64_t y = 0; y < image.height; ++y) {
    std::memcpy(&out.rgb[static_cast<size_t>(((top + y) * side + left) * 3)],
                &image.rgb[static_cast<size_t>(y * image.width * 3)], static_cast<size_t>(image.width * 3));
  }
  return out;
}

void preprocess_image(const Image& image, const ImagePreprocess& how, float* out) {
  check_image("preprocess_image", image);
  check(how.size >= 1, "[preprocess_image] size is ", how.size, "; expected at least 1");
  std::array<uint8_t, 3> background{};
  for (size_t c = 0; c < 3; ++c) {
    check(how.std[c] > 0.0F, "[preprocess_image] std of channel ", c, " is ", how.std[c], "; expected more than 0");
    check(how.mean[c] >= 0.0F && how.mean[c] <= 1.0F, "[preprocess_image] mean of channel ", c, " is ", how.mean[c],
          "; expected 0 to 1");
    background[c] = static_cast<uint8_t>(how.mean[c] * 255.0F);  // LLaVA cuts the fraction off
  }
  const Image resized = how.aspect == ImageAspect::pad
                            ? resize_bicubic(pad_to_square(image, background), how.size, how.size)
                            : resize_bicubic(image, how.size, how.size);
  const int64_t plane = how.size * how.size;
  for (int64_t c = 0; c < 3; ++c) {
    const float mean = how.mean[static_cast<size_t>(c)];
    const float deviation = how.std[static_cast<size_t>(c)];
    std::array<float, 256> normalised;
    for (size_t v = 0; v < normalised.size(); ++v) {
      normalised[v] = (static_cast<float>(v) / 255.0F - mean) / deviation;
    }
    for (int64_t i = 0; i < plane; ++i) out[c * plane + i] = normalised[resized.rgb[static_cast<size_t>(3 * i + c)]];
  }
}

}  // namespace matvlm
