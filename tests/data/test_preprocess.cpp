// The resize against PIL's bytes (tests/golden/image), padding and normalisation.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "data/image.h"

namespace matvlm {
namespace {

Image golden(const std::string& name) {
  const std::string text = read_file(std::string(MATVLM_SOURCE_DIR) + "/tests/golden/image/" + name);
  return decode_image({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, name);
}

TEST(Preprocess, ResizeGivesPilsBytes) {
  const Image source = golden("source.png");
  for (const auto& [width, height] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 40}, {7, 9}, {31, 12}, {48, 23}, {20, 50}}) {
    const Image expected = golden("source_" + std::to_string(width) + "x" + std::to_string(height) + ".png");
    const Image resized = resize_bicubic(source, width, height);
    ASSERT_EQ(resized.width, width);
    ASSERT_EQ(resized.height, height);
    EXPECT_EQ(resized.rgb, expected.rgb) << width << " x " << height;
  }
}

TEST(Preprocess, ResizeToTheSameSizeIsACopy) {
  const Image source = golden("source.png");
  EXPECT_EQ(resize_bicubic(source, source.width, source.height).rgb, source.rgb);
}

TEST(Preprocess, SquareNormalisesPilsBytes) {
  const Image source = golden("source.png");
  const Image square = resize_bicubic(source, 20, 20);
  ImagePreprocess how;
  how.size = 20;
  how.mean = {0.5F, 0.25F, 0.0F};
  how.std = {0.5F, 0.125F, 1.0F};
  std::vector<float> out(3 * 20 * 20 + 1, NAN);
  preprocess_image(source, how, out.data());
  EXPECT_TRUE(std::isnan(out.back()));
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < 400; ++i) {
      const double expected = (square.rgb[3 * i + c] / 255.0 - how.mean[c]) / how.std[c];
      ASSERT_NEAR(out[c * 400 + i], expected, 1e-6) << c << ", " << i;  // a few float32 roundings of values up to 6
    }
  }
}

TEST(Preprocess, PadCentresThePictureOnTheMean) {
  const Image wide{3, 1, {1, 2, 3, 4, 5, 6, 7, 8, 9}};
  const Image padded = pad_to_square(wide, {127, 63, 0});
  ASSERT_EQ(padded.width, 3);
  ASSERT_EQ(padded.height, 3);
  for (size_t x = 0; x < 3; ++x) {
    EXPECT_EQ(padded.rgb[3 * x], 127);
    EXPECT_EQ(padded.rgb[3 * x + 1], 63);
    EXPECT_EQ(padded.rgb[9 + 3 * x], 3 * x + 1);
    EXPECT_EQ(padded.rgb[18 + 3 * x + 2], 0);
  }
  // Uneven: the smaller half stands in front, as LLaVA's integer division has it.
  const Image tall{1, 2, {1, 1, 1, 2, 2, 2}};
  EXPECT_EQ(pad_to_square(tall, {9, 9, 9}).rgb, (std::vector<uint8_t>{1, 1, 1, 9, 9, 9, 2, 2, 2, 9, 9, 9}));

  ImagePreprocess how;
  how.size = 3;
  how.aspect = ImageAspect::pad;
  std::vector<float> out(27);
  preprocess_image(wide, how, out.data());
  EXPECT_NEAR(out[0], (127 / 255.0 - 0.5) / 0.5, 1e-6);  // int(0.5 * 255), not 0.5 itself
  EXPECT_NEAR(out[3], (1 / 255.0 - 0.5) / 0.5, 1e-6);
}

TEST(Preprocess, BadArguments) {
  const Image image{1, 1, {0, 0, 0}};
  float out[3];
  ImagePreprocess how;
  how.size = 0;
  EXPECT_THROW(preprocess_image(image, how, out), Error);
  how.size = 1;
  how.std = {0.5F, 0.0F, 0.5F};
  EXPECT_THROW(preprocess_image(image, how, out), Error);
  EXPECT_THROW(preprocess_image(Image{2, 1, {0, 0, 0}}, ImagePreprocess{}, out), Error);
  EXPECT_THROW(resize_bicubic(image, 0, 1), Error);
}

}  // namespace
}  // namespace matvlm
