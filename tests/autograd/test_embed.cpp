// Spliced token embedding and patch embedding.
#include "autograd/ops/embed_splice.h"
#include "autograd/ops/embed_splice_cpu.h"
#include "autograd/ops/patch_embed.h"
#include "autograd/ops/patch_embed_cpu.h"
#include "tests/support/op_cases.h"

namespace matvlm::testing {
namespace {

struct SpliceCase {
  int64_t vocabulary, width, features;
  std::vector<int32_t> source;
  int64_t tokens() const { return static_cast<int64_t>(source.size()); }
  std::string name() const { return cat("embed_splice ", tokens(), "x", width, " features ", features); }
  std::vector<OpInput> inputs() const {
    std::vector<OpInput> all = {random_parameter("table", {vocabulary, width})};
    if (features > 0) all.push_back(random_input("features", {features, width}));
    return all;
  }
  Shape output() const { return {tokens(), width}; }
  template <class T>
  std::vector<T> forward(const Values<T>& in) const {
    Guarded<T> y(tokens() * width);
    embed_splice_forward_cpu<T>({.tokens = tokens(),
                                 .width = width,
                                 .table = in.at("table").data(),
                                 .features = features > 0 ? in.at("features").data() : nullptr,
                                 .features_stride = width,
                                 .source = source.data(),
                                 .y = y.data()});
    y.check("y");
    return y.values();
  }
  // By the definition, token by token: the op groups them.
  Values<double> backward(const Values<double>&, const std::vector<double>& dy) const {
    Values<double> grads;
    grads["table"].assign(static_cast<size_t>(vocabulary * width), 0.0);
    if (features > 0) grads["features"].assign(static_cast<size_t>(features * width), 0.0);
    for (int64_t t = 0; t < tokens(); ++t) {
      const int64_t s = source[static_cast<size_t>(t)];
      std::vector<double>& grad = grads[s >= 0 ? "table" : "features"];
      const int64_t row = s >= 0 ? s : -1 - s;
      for (int64_t c = 0; c < width; ++c) {
        grad[static_cast<size_t>(row * width + c)] += dy[static_cast<size_t>(t * width + c)];
      }
    }
    return grads;
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>& w) const {
    return embed_splice(g, w.at("table"), features > 0 ? x.at("features") : Var(), source);
  }
};

std::vector<SpliceCase> splice_cases() {
  std::vector<SpliceCase> cases = {{5, 20, 0, {3}},
                                   {5, 48, 0, {4, 0, 4, 4, 0}},
                                   {7, 72, 3, {6, -1, -2, -3, 6, 2}},
                                   {7, 80, 4, {-4, 1, -2}},  // rows 0 and 2 of the features unused
                                   {7, 33, 2, {-1, -2}}};
  SpliceCase large = {50, 144, 64, {}};
  const Rng rng{3, stream_of("splice")};
  for (uint64_t t = 0; t < 100; ++t) large.source.push_back(static_cast<int32_t>(rng.below(t, 50)));
  for (int32_t m = 0; m < 63; ++m) large.source.push_back(-1 - m);
  for (uint64_t t = 0; t < 137; ++t) large.source.push_back(static_cast<int32_t>(rng.below(1000 + t, 4)));
  cases.push_back(large);
  return cases;
}

TEST(EmbedSplice, AgainstDefinition) {
  for (const SpliceCase& c : splice_cases()) check_on_cpu(c);
}

TEST(EmbedSpliceCuda, AgainstDefinition) {
  const auto ctx = new_cuda();
  for (const SpliceCase& c : splice_cases()) check_on_cuda(c, *ctx);
}

std::string splice_error(const std::vector<int32_t>& source, bool gradient = true) {
  Graph g(cpu());
  const Weight table{Tensor::zeros(cpu(), {10, 4}, DType::f32), nullptr};
  const Tensor rows = Tensor::zeros(cpu(), {2, 4}, DType::f32);
  const Var features = gradient ? g.input(rows) : g.constant(rows);
  try {
    embed_splice(g, table, features, source);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(EmbedSplice, BadSourcesAreErrors) {
  EXPECT_EQ(splice_error({1, 10}), "[embed_splice] token 1: found id 10, expected less than 10");
  EXPECT_EQ(splice_error({1, -3}), "[embed_splice] token 1: found feature row 2, expected less than 2");
  EXPECT_EQ(splice_error({-1, 4, -1}), "[embed_splice] feature row 0 is used by tokens 0 and 2");
  EXPECT_EQ(splice_error({-1, 4, -1}, false), "no error");
  EXPECT_EQ(splice_error({-2, 4, -1}), "no error");
}

struct PatchCase {
  int64_t images, side, patch, width;
  int64_t patches() const { return (side / patch) * (side / patch); }
  std::string name() const { return cat("patch_embed ", images, "x", side, " patch ", patch, " -> ", width); }
  std::vector<OpInput> inputs() const {
    OpInput pixels = random_input("images", {images, 3, side, side});
    pixels.differentiable = false;
    return {pixels, random_parameter("w", {width, 3, patch, patch}, 0.1), random_parameter("bias", {width}),
            random_parameter("position", {patches(), width})};
  }
  Shape output() const { return {images * patches(), width}; }
  template <class T>
  std::vector<T> forward(const Values<T>& in) const {
    Guarded<T> columns(images * patches() * 3 * patch * patch), y(images * patches() * width);
    patch_embed_forward_cpu<T>({.images = images,
                                .side = side,
                                .patch = patch,
                                .width = width,
                                .pixels = in.at("images").data(),
                                .w = in.at("w").data(),
                                .bias = in.at("bias").data(),
                                .position = in.at("position").data(),
                                .columns = columns.data(),
                                .y = y.data()});
    columns.check("columns");
    y.check("y");
    return y.values();
  }
  Values<double> backward(const Values<double>& in, const std::vector<double>& dy) const {
    std::vector<double> columns(static_cast<size_t>(images * patches() * 3 * patch * patch));
    std::vector<double> dw(in.at("w").size()), dbias(in.at("bias").size()), dposition(in.at("position").size());
    patch_embed_backward_cpu<double>({.images = images,
                                      .side = side,
                                      .patch = patch,
                                      .width = width,
                                      .dy = dy.data(),
                                      .dy_stride = width,
                                      .pixels = in.at("images").data(),
                                      .columns = columns.data(),
                                      .dw = dw.data(),
                                      .dbias = dbias.data(),
                                      .dposition = dposition.data()});
    return {{"w", dw}, {"bias", dbias}, {"position", dposition}};
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>& w) const {
    return patch_embed(g, x.at("images").value(), w.at("w"), w.at("bias"), w.at("position"));
  }
};

// The last of each row of sides: a rest on the right and at the bottom that no patch covers.
const std::vector<PatchCase> kPatchCases = {{1, 8, 8, 20},   {2, 8, 4, 48},   {3, 17, 4, 33},
                                            {1, 45, 14, 72}, {2, 64, 16, 80}, {1, 98, 14, 144}};

TEST(PatchEmbed, AgainstDoubleAndComplexStep) {
  for (const PatchCase& c : kPatchCases) check_on_cpu(c);
}

// The product's bf16 result is rounded before bias and position are added, and once more after: both roundings are of
// the size of the oracle's one, so twice that bounds them; the slack covers float32 sums and that difference.
TEST(PatchEmbedCuda, AgainstOracle) {
  const auto ctx = new_cuda();
  for (const PatchCase& c : kPatchCases) check_on_cuda(c, *ctx, 2e-6, 1e-4);
}

// Against the convolution written out as its definition.
TEST(PatchEmbed, IsAConvolution) {
  const PatchCase c = {2, 9, 4, 5};
  const Values<double> in = double_values(c);
  const std::vector<double> y = c.forward<double>(in);
  const auto pixel = [&](int64_t k, int64_t ch, int64_t i, int64_t j) {
    return in.at("images")[static_cast<size_t>(((k * 3 + ch) * 9 + i) * 9 + j)];
  };
  for (int64_t k = 0; k < 2; ++k) {
    for (int64_t p = 0; p < 4; ++p) {
      for (int64_t d = 0; d < 5; ++d) {
        double sum = in.at("bias")[static_cast<size_t>(d)] + in.at("position")[static_cast<size_t>(p * 5 + d)];
        for (int64_t ch = 0; ch < 3; ++ch) {
          for (int64_t i = 0; i < 4; ++i) {
            for (int64_t j = 0; j < 4; ++j) {
              sum += in.at("w")[static_cast<size_t>(((d * 3 + ch) * 4 + i) * 4 + j)] *
                     pixel(k, ch, p / 2 * 4 + i, p % 2 * 4 + j);
            }
          }
        }
        EXPECT_NEAR(y[static_cast<size_t>((k * 4 + p) * 5 + d)], sum, 1e-12);
      }
    }
  }
}

TEST(PatchEmbed, WrongShapesAreErrors) {
  Graph g(cpu());
  const Weight w{Tensor::zeros(cpu(), {5, 3, 4, 4}, DType::f32), nullptr};
  const Weight bias{Tensor::zeros(cpu(), {5}, DType::f32), nullptr};
  const Weight position{Tensor::zeros(cpu(), {4, 5}, DType::f32), nullptr};
  EXPECT_NO_THROW(patch_embed(g, Tensor::zeros(cpu(), {1, 3, 9, 9}, DType::f32), w, bias, position));
  EXPECT_THROW(patch_embed(g, Tensor::zeros(cpu(), {1, 1, 9, 9}, DType::f32), w, bias, position), Error);
  try {
    patch_embed(g, Tensor::zeros(cpu(), {1, 3, 12, 12}, DType::f32), w, bias, position);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[patch_embed] position: found [4, 5], expected [9, 5]");
  }
}

}  // namespace
}  // namespace matvlm::testing
