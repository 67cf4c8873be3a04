#include <algorithm>
#include <span>

#include "data/image.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace matvlm;
  fuzz::expect_error_or_result([&] {
    const Image image = decode_image(std::span(data, size), "picture");
    // Padding makes a square of the longer side, which takes its time when every access is watched.
    if (image.width * image.height > 1 << 16 || std::max(image.width, image.height) > 1 << 10) return;
    std::vector<float> out(3 * 8 * 8);
    ImagePreprocess how;
    how.size = 8;
    how.aspect = size % 2 == 0 ? ImageAspect::pad : ImageAspect::square;
    preprocess_image(image, how, out.data());
  });
  return 0;
}
