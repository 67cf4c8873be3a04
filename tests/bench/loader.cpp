// The data's way at full size: photographs of about a megapixel (JPEG) to 384 x 384, packed from LLaVA JSON with text.
// Milliseconds a photograph on one core by stage, photographs/s by the number of threads, and which share of a run's
// time passes without waiting for data when a step takes 4 samples.
//   bench_loader [STEP_MS] [SECONDS] [MEGAPIXELS]      default: 136 20 1
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "data/bpe_trainer.h"
#include "data/dataset.h"
#include "data/image_dataset.h"
#include "data/image_formats.h"
#include "data/loader.h"
#include "data/pack.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kPictures = 16;
constexpr int64_t kSamples = 64;
constexpr int64_t kMicro = 4;  // samples of a step
constexpr int kQuality = 90;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Grain over smooth shapes: as hard to decode as a photograph of its size.
Image photograph(int64_t number, double megapixels) {
  const auto height = std::max<int64_t>(1, std::llround(std::sqrt(megapixels * 1e6 * 3 / 4)));
  Image image{height * 4 / 3, height, {}};
  image.rgb.reserve(static_cast<size_t>(image.width * image.height * 3));
  uint32_t state = static_cast<uint32_t>(number) * 2654435761U + 1U;
  const double phase = static_cast<double>(number);
  for (int64_t y = 0; y < image.height; ++y) {
    const double fy = static_cast<double>(y) / static_cast<double>(image.height);
    const double rows = 60 * std::cos(7 * fy - phase);
    for (int64_t x = 0; x < image.width; ++x) {
      const double fx = static_cast<double>(x) / static_cast<double>(image.width);
      const double smooth = rows * std::sin(9 * fx + phase) + 30 * std::sin(40 * fx * fy + phase);
      for (int c = 0; c < 3; ++c) {
        state = state * 1664525U + 1013904223U;
        const double grain = (static_cast<double>(state >> 24) - 127.5) / 10;
        image.rgb.push_back(static_cast<uint8_t>(std::clamp(128 + smooth * (1 - 0.2 * c) + grain, 0.0, 255.0)));
      }
    }
  }
  return image;
}

std::string make_pack(const testing::TempDir& dir, double megapixels) {
  const std::string answer =
      "The picture shows a broad landscape with soft light; in the foreground there are several people who walk along "
      "a path, and behind them one can see trees, a lake and low hills under a cloudy sky.";
  make_dataset_folders(dir.path());
  std::vector<LlavaSample> list;
  int64_t bytes = 0;
  for (int64_t i = 0; i < kPictures; ++i) {
    const std::vector<uint8_t> jpeg = encode_jpeg(photograph(i, megapixels), kQuality);
    bytes += std::ssize(jpeg);
    write_file_atomic(dir.file(cat("images/", i, ".jpg")), {reinterpret_cast<const char*>(jpeg.data()), jpeg.size()});
  }
  for (int64_t i = 0; i < kSamples; ++i) {
    LlavaSample sample{cat(i), cat(i % kPictures, ".jpg"), {}};
    for (int turn = 0; turn < 4; ++turn) sample.turns.push_back({"", "What else is in it?", cat(answer, " ", i, turn)});
    list.push_back(std::move(sample));
  }
  write_llava_json(dir.file("data.json"), list);
  BpeTrainerOptions bpe;
  bpe.vocab_size = 512;
  PackOptions options;
  options.json_path = dir.file("data.json");
  options.image_folder = dir.file("images");
  options.output = dir.file("data.h5");
  options.tokens_per_image = 728;
  const auto start = Clock::now();
  const PackReport report = pack_dataset(options, train_bpe({answer}, bpe));
  std::printf(
      "%lld samples, %lld photographs of %.0f kB, %.0f ids a sample; packed with verification at %.0f samples/s\n",
      static_cast<long long>(kSamples), static_cast<long long>(kPictures),
      static_cast<double>(bytes) / 1e3 / static_cast<double>(kPictures),
      static_cast<double>(report.tokens) / static_cast<double>(kSamples),
      static_cast<double>(kSamples) / seconds_since(start));
  return options.output;
}

void print_stages(const Dataset& data) {
  const ImagePreprocess how;
  std::vector<float> pixels(static_cast<size_t>(3 * how.size * how.size));
  double read = 0, decode = 0, preprocess = 0;
  for (int64_t i = 0; i < data.n_images(); ++i) {
    const auto begin = Clock::now();
    const std::vector<uint8_t> bytes = data.image_bytes(i);
    read += seconds_since(begin);
    const auto at_decode = Clock::now();
    const Image image = decode_image(bytes, "photograph");
    decode += seconds_since(at_decode);
    const auto at_preprocess = Clock::now();
    preprocess_image(image, how, pixels.data());
    preprocess += seconds_since(at_preprocess);
  }
  const double each = 1e3 / static_cast<double>(data.n_images());
  std::printf("one core, ms a photograph: read %.2f, decode %.2f, preprocess %.2f; %.0f photographs/s\n", read * each,
              decode * each, preprocess * each, 1e3 / ((read + decode + preprocess) * each));
}

LoaderOptions loader_options(int64_t threads) {
  LoaderOptions options;
  options.division = {kMicro, kMicro, 1};
  options.threads = threads;
  return options;  // no cache: every photograph is decoded each time, as in an epoch over many
}

// Photographs/s when nothing else is to be done.
double rate_of(const Dataset& data, int64_t threads, double limit) {
  Loader loader(data, loader_options(threads));
  loader.next();
  const auto start = Clock::now();
  int64_t steps = 0;
  for (; steps == 0 || seconds_since(start) < limit; ++steps) loader.next();
  return static_cast<double>(steps * kMicro) / seconds_since(start);
}

// Share of the time that passes without waiting for data.
double share_without_wait(const Dataset& data, int64_t threads, double step, double limit) {
  Loader loader(data, loader_options(threads));
  loader.next();  // the first one is waited for once in a run
  loader.take_wait_seconds();
  const auto start = Clock::now();
  for (int64_t i = 0; i < 10 || seconds_since(start) < limit; ++i) {
    std::this_thread::sleep_for(std::chrono::duration<double>(step));  // the GPU computes
    loader.next();
  }
  return 1 - loader.take_wait_seconds() / seconds_since(start);
}

int run(double step, double limit, double megapixels) {
  const auto start = Clock::now();
  const testing::TempDir dir;
  const Dataset data(make_pack(dir, megapixels));
  print_stages(data);
  std::printf("threads  photographs/s   time without data wait, steps of %.0f ms and %lld samples\n", step * 1e3,
              static_cast<long long>(kMicro));
  const int64_t cores = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 16);
  std::vector<int64_t> counts;
  for (int64_t threads = 1; threads <= cores; threads *= 2) counts.push_back(threads);
  const double each = std::max(0.0, limit - seconds_since(start)) / static_cast<double>(counts.size());
  for (const int64_t threads : counts) {
    const double rate = rate_of(data, threads, 0.25 * each);
    const double share = share_without_wait(data, threads, step, 0.7 * each);
    std::printf("%7lld %14.0f %23.1f %%\n", static_cast<long long>(threads), rate, 100 * share);
  }
  return 0;
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a run that is cut short has printed what it measured
  try {
    return matvlm::run((argc > 1 ? std::atof(argv[1]) : 136.0) / 1e3, argc > 2 ? std::atof(argv[2]) : 20.0,
                       argc > 3 ? std::atof(argv[3]) : 1.0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
