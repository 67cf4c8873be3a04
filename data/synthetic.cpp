// Drawing and questions of the generated data set. All in integers, so that every machine draws the same bytes.
#include "data/synthetic.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "data/image_dataset.h"

namespace matvlm {
namespace {

constexpr int64_t kTextEvery = 8;  // each eighth sample has no picture
constexpr int64_t kUnits = 8;      // drawing coordinates per pixel
constexpr int64_t kGrid = 4;       // antialiasing: kGrid x kGrid points in a pixel

using Colour = std::array<uint8_t, 3>;
struct NamedColour {
  const char* name;
  Colour rgb;
};
constexpr std::array<NamedColour, 8> kColours = {{{"red", {214, 39, 40}},
                                                  {"green", {44, 160, 44}},
                                                  {"blue", {31, 80, 200}},
                                                  {"yellow", {245, 215, 30}},
                                                  {"orange", {255, 127, 14}},
                                                  {"purple", {130, 60, 170}},
                                                  {"black", {20, 20, 20}},
                                                  {"gray", {140, 140, 140}}}};

// Whether (dx, dy), seen from the middle, is inside the shape of radius r.
struct NamedShape {
  const char* name;
  bool (*contains)(int64_t dx, int64_t dy, int64_t r);
};
constexpr std::array<NamedShape, 6> kShapes = {{
    {"circle", [](int64_t dx, int64_t dy, int64_t r) { return dx * dx + dy * dy <= r * r; }},
    {"square", [](int64_t dx, int64_t dy, int64_t r) { return std::max(std::abs(dx), std::abs(dy)) * 20 <= r * 17; }},
    {"triangle", [](int64_t dx, int64_t dy, int64_t r) { return dy * 4 <= r * 3 && std::abs(dx) * 7 <= (dy + r) * 4; }},
    {"diamond", [](int64_t dx, int64_t dy, int64_t r) { return std::abs(dx) + std::abs(dy) <= r; }},
    {"cross",
     [](int64_t dx, int64_t dy, int64_t r) {
       return std::max(std::abs(dx), std::abs(dy)) <= r && std::min(std::abs(dx), std::abs(dy)) * 10 <= r * 3;
     }},
    {"ring",
     [](int64_t dx, int64_t dy, int64_t r) {
       const int64_t distance = dx * dx + dy * dy;
       return distance <= r * r && distance * 25 >= r * r * 9;
     }},
}};

// A stream of choices of one sample.
class Choices {
 public:
  Choices(const std::string& id, uint64_t seed) : id_(id), seed_(seed) {}
  int64_t below(int64_t n) {
    return static_cast<int64_t>(stable_hash(cat(id_, '/', count_++), seed_) % static_cast<uint64_t>(n));
  }

 private:
  std::string id_;
  uint64_t seed_;
  int64_t count_ = 0;
};

struct Scene {
  size_t shape = 0;
  size_t colour = 0;
  int64_t count = 1;
};

// For each shape one colour is held out; 3 has no divisor in common with 8, so no colour is held out for two shapes.
bool is_held_out(size_t shape, size_t colour, uint64_t seed) {
  return colour == (stable_hash("held-out colour", seed) + 3 * shape) % kColours.size();
}

bool is_held_out_sum(int64_t a, int64_t b, uint64_t seed) { return stable_hash(cat(a, '+', b), seed) % 8 == 0; }

void draw_shape(Image& image, const Scene& scene, int64_t x, int64_t y, int64_t r) {
  const int64_t from_x = std::max<int64_t>(0, (x - r) / kUnits);
  const int64_t to_x = std::min(image.width - 1, (x + r) / kUnits);
  const int64_t from_y = std::max<int64_t>(0, (y - r) / kUnits);
  const int64_t to_y = std::min(image.height - 1, (y + r) / kUnits);
  constexpr int64_t step = kUnits / kGrid;
  for (int64_t py = from_y; py <= to_y; ++py) {
    for (int64_t px = from_x; px <= to_x; ++px) {
      int64_t inside = 0;
      for (int64_t k = 0; k < kGrid * kGrid; ++k) {
        const int64_t dx = px * kUnits + k % kGrid * step + step / 2 - x;
        const int64_t dy = py * kUnits + k / kGrid * step + step / 2 - y;
        inside += kShapes[scene.shape].contains(dx, dy, r) ? 1 : 0;
      }
      for (size_t c = 0; c < 3; ++c) {
        uint8_t& value = image.rgb[static_cast<size_t>((py * image.width + px) * 3) + c];
        const int64_t colour = kColours[scene.colour].rgb[c];
        constexpr int64_t all = kGrid * kGrid;
        value = static_cast<uint8_t>((value * (all - inside) + colour * inside + all / 2) / all);
      }
    }
  }
}

// Up to four equal shapes of their own sizes, each in its quarter of the picture and off its edge, so that they
// never touch.
Image draw(const Scene& scene, int64_t size, Choices& choices) {
  Image image{size, size, std::vector<uint8_t>(static_cast<size_t>(size * size * 3))};
  const auto background = static_cast<uint8_t>(225 + choices.below(31));
  std::fill(image.rgb.begin(), image.rgb.end(), background);
  std::array<int64_t, 4> quarters = {0, 1, 2, 3};
  for (int64_t i = 3; i > 0; --i) {
    std::swap(quarters[static_cast<size_t>(i)], quarters[static_cast<size_t>(choices.below(i + 1))]);
  }
  const int64_t half = size * kUnits / 2;
  for (int64_t i = 0; i < scene.count; ++i) {
    const int64_t r = half * (26 + choices.below(20)) / 100;
    const int64_t least = r + half / 32;
    const int64_t room = half - 2 * least;
    const int64_t quarter = quarters[static_cast<size_t>(i)];
    const int64_t x = quarter % 2 * half + least + choices.below(room + 1);
    const int64_t y = quarter / 2 * half + least + choices.below(room + 1);
    draw_shape(image, scene, x, y, r);
  }
  return image;
}

Scene choose_scene(bool held_out, Choices& choices, uint64_t seed) {
  Scene scene;
  do {
    scene.shape = static_cast<size_t>(choices.below(std::ssize(kShapes)));
    scene.colour = static_cast<size_t>(choices.below(std::ssize(kColours)));
  } while (is_held_out(scene.shape, scene.colour, seed) != held_out);
  scene.count = 1 + choices.below(4);
  return scene;
}

std::array<LlavaTurn, 3> scene_turns(const Scene& scene) {
  return {LlavaTurn{"shape", "What shape is this?", kShapes[scene.shape].name},
          LlavaTurn{"color", "What color is it?", kColours[scene.colour].name},
          LlavaTurn{"count", "How many are there?", std::to_string(scene.count)}};
}

LlavaTurn sum_turn(bool held_out, Choices& choices, uint64_t seed) {
  int64_t a = 0;
  int64_t b = 0;
  do {
    a = choices.below(10);
    b = choices.below(10);
  } while (is_held_out_sum(a, b, seed) != held_out);
  return {"text", cat("What is ", a, " plus ", b, "?"), std::to_string(a + b)};
}

std::vector<LlavaSample> make_samples(const SyntheticOptions& options, bool held_out, int64_t count,
                                      SyntheticReport& report) {
  std::vector<LlavaSample> samples;
  for (int64_t i = 0; i < count; ++i) {
    LlavaSample sample;
    sample.id = cat(held_out ? "heldout-" : "train-", i);
    Choices choices(sample.id, options.seed);
    if (i % kTextEvery == kTextEvery - 1) {
      sample.turns.push_back(sum_turn(held_out, choices, options.seed));
      ++report.text_only_samples;
    } else {
      const Scene scene = choose_scene(held_out, choices, options.seed);
      const std::array<LlavaTurn, 3> turns = scene_turns(scene);
      // One question, or one to three from a turning start: rows of unequal length on purpose.
      const int64_t questions = held_out ? 1 : 1 + choices.below(3);
      for (int64_t t = 0; t < questions; ++t) sample.turns.push_back(turns[static_cast<size_t>((i + t) % 3)]);
      sample.image = sample.id + ".png";
      write_picture(options.out + "/images/" + sample.image, draw(scene, options.image_size, choices));
      ++report.pictures;
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

}  // namespace

std::string SyntheticReport::text() const {
  std::ostringstream out;
  out << "train               " << train_samples << " samples\n"
      << "held out            " << held_out_samples << " samples\n"
      << "pictures            " << pictures << ", text only " << text_only_samples << "\n";
  return out.str();
}

SyntheticReport make_synthetic_dataset(const SyntheticOptions& options) {
  check(options.samples >= 1 && options.samples <= 10'000'000, "synthetic: ", options.samples,
        " samples; expected 1 to 10000000");
  check(options.image_size >= 16 && options.image_size <= 1024, "synthetic: image size ", options.image_size,
        "; expected 16 to 1024");
  make_dataset_folders(options.out);
  SyntheticReport report;
  const auto train = make_samples(options, false, options.samples, report);
  const auto held_out = make_samples(options, true, std::max<int64_t>(24, options.samples / 4), report);
  report.train_samples = std::ssize(train);
  report.held_out_samples = std::ssize(held_out);
  write_file_atomic(options.out + "/README.txt",
                    cat("Drawn shapes with questions, LLaVA JSON. Made by `matvlm data synthetic`; the same options ",
                        "make the same files.\n\nseed                ", options.seed, "\nimage size          ",
                        options.image_size, "\n", report.text()));
  write_llava_json(options.out + "/heldout.json", held_out);
  write_llava_json(options.out + "/train.json", train);
  return report;
}

}  // namespace matvlm
