// Sums of terms, accumulation into views, conversion between f32 and bf16.
#include "autograd/ops/add.h"
#include "autograd/ops/add_cpu.h"
#include "autograd/ops/cast.h"
#include "tests/support/op_cases.h"

namespace matvlm::testing {
namespace {

struct AddCase {
  int64_t rows, cols;
  int terms;
  std::string name() const { return cat("add ", terms, " terms ", rows, "x", cols); }
  std::vector<OpInput> inputs() const {
    std::vector<OpInput> all;
    for (int i = 0; i < terms; ++i) all.push_back(random_input(cat("x", i), {rows, cols}));
    return all;
  }
  Shape output() const { return {rows, cols}; }
  template <class T>
  std::vector<T> forward(const Values<T>& in) const {
    std::vector<const T*> pointers;
    for (int i = 0; i < terms; ++i) pointers.push_back(in.at(cat("x", i)).data());
    const std::vector<int64_t> strides(pointers.size(), cols);
    Guarded<T> y(rows * cols);
    add_cpu<T>(rows, cols, terms, pointers.data(), strides.data(), y.data(), cols);
    y.check("y");
    return y.values();
  }
  Values<double> backward(const Values<double>&, const std::vector<double>& dy) const {
    Values<double> grads;
    for (int i = 0; i < terms; ++i) grads[cat("x", i)] = dy;
    return grads;
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>&) const {
    std::vector<Var> all;
    for (int i = 0; i < terms; ++i) all.push_back(x.at(cat("x", i)));
    return add(g, all);
  }
};

const std::vector<AddCase> kCases = {{1, 20, 2},   {2, 48, 3},   {63, 72, 2},  {64, 80, 4},
                                     {65, 144, 3}, {300, 33, 2}, {7, 1151, 3}, {129, 320, 2}};

TEST(Add, AgainstDouble) {
  for (const AddCase& c : kCases) check_on_cpu(c);
  check_on_cpu(AddCase{3, 17, 6});
}

TEST(AddCuda, AgainstOracle) {
  const auto ctx = new_cuda();
  for (const AddCase& c : kCases) check_on_cuda(c, *ctx);
  check_graph(AddCase{3, 17, 6}, *ctx, DType::f32, 1e-6);  // more terms than one launch takes
}

// The same term twice: its gradient is twice the incoming one, and the buffers of different terms stay apart.
TEST(Add, SameTermTwiceAndSeparateBuffers) {
  Graph g(cpu());
  const Var x = g.input(Tensor::from(cpu(), std::vector<float>{1, 2}, {1, 2}));
  const Var z = g.input(Tensor::from(cpu(), std::vector<float>{5, 7}, {1, 2}));
  const Var y = add(g, {x, z, x});
  EXPECT_EQ(y.value().to_floats(cpu()), (std::vector<float>{7, 11}));
  g.backward(y, Tensor::from(cpu(), std::vector<float>{10, 20}, {1, 2}));
  EXPECT_EQ(x.grad().to_floats(cpu()), (std::vector<float>{20, 40}));
  EXPECT_EQ(z.grad().to_floats(cpu()), (std::vector<float>{10, 20}));
}

TEST(Add, OneTermOrAnotherShapeIsAnError) {
  Graph g(cpu());
  const Var x = g.constant(Tensor::zeros(cpu(), {2, 3}, DType::f32));
  const Var z = g.constant(Tensor::zeros(cpu(), {3, 2}, DType::f32));
  EXPECT_THROW(add(g, {x}), Error);
  try {
    add(g, {x, z});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[add] term: found [3, 2], expected [2, 3]");
  }
}

void check_add_into(Context& ctx, DType dtype) {
  for (const AddCase& c : kCases) {
    const OpInput a = random_input("a", {c.rows, c.cols});
    const OpInput b = random_input("b", {c.rows, c.cols});
    const Tensor wide = widened(ctx, b, dtype);
    const Tensor dst = wide.slice_cols(kPad, kPad + c.cols);
    const std::vector<float> before = dst.to_floats(ctx);
    const Tensor src = widened(ctx, a, dtype).slice_cols(kPad, kPad + c.cols);
    const std::vector<float> added = src.to_floats(ctx);
    add_into(ctx, src, dst);
    const std::vector<float> after = dst.to_floats(ctx);
    for (size_t i = 0; i < after.size(); ++i) {
      const float sum = before[i] + added[i];
      EXPECT_EQ(after[i], dtype == DType::bf16 ? static_cast<float>(bf16(sum)) : sum) << c.name() << " " << i;
    }
    const std::vector<float> all = wide.to_floats(ctx);
    for (size_t i = 0; i < all.size(); ++i) {
      const int64_t column = static_cast<int64_t>(i) % wide.cols();
      if (column < kPad || column >= kPad + c.cols) {
        EXPECT_TRUE(std::isnan(all[i])) << "outside the view";
      }
    }
  }
}

TEST(AddInto, ViewsOnTheCpu) {
  check_add_into(cpu(), DType::f32);
  check_add_into(cpu(), DType::bf16);
}

TEST(AddIntoCuda, Views) {
  const auto ctx = new_cuda();
  check_add_into(*ctx, DType::f32);
  check_add_into(*ctx, DType::bf16);
}

// Ties go to the even mantissa, overflow to infinity, NaN stays NaN.
const std::vector<float> kSpecial = {0.0F,
                                     -0.0F,
                                     1.0F,
                                     1.00390625F,  // halfway between 1 and the next bf16: down to even
                                     1.01171875F,  // halfway: up to even
                                     -1.00390625F,
                                     3.4028235e38F,  // largest float: rounds to infinity
                                     1e-40F,
                                     std::numeric_limits<float>::infinity(),
                                     -std::numeric_limits<float>::infinity()};
const std::vector<float> kSpecialRounded = {0.0F,
                                            -0.0F,
                                            1.0F,
                                            1.0F,
                                            1.015625F,
                                            -1.0F,
                                            std::numeric_limits<float>::infinity(),
                                            0x1p-133F,  // subnormals are kept
                                            std::numeric_limits<float>::infinity(),
                                            -std::numeric_limits<float>::infinity()};

void check_cast(Context& ctx) {
  const auto n = static_cast<int64_t>(kSpecial.size());
  const Tensor src = Tensor::from(ctx, kSpecial, {n});
  const Tensor half = Tensor::empty(ctx, {n}, DType::bf16);
  const Tensor back = Tensor::empty(ctx, {n}, DType::f32);
  cast_into(ctx, src, half);
  cast_into(ctx, half, back);
  const std::vector<float> found = back.to_floats(ctx);
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i], kSpecialRounded[i]) << i;
    EXPECT_EQ(std::signbit(found[i]), std::signbit(kSpecialRounded[i])) << i;
  }
  const Tensor nan = Tensor::from(ctx, std::vector<float>{std::nanf("")}, {1});
  const Tensor nan_half = Tensor::empty(ctx, {1}, DType::bf16);
  cast_into(ctx, nan, nan_half);
  EXPECT_TRUE(std::isnan(nan_half.to_floats(ctx)[0]));
  for (const int64_t size : {1, 255, 257, 100003}) {
    const auto values = convert<float>(random_values("cast", size));
    const Tensor rounded = Tensor::empty(ctx, {size}, DType::bf16);
    cast_into(ctx, Tensor::from(ctx, values, {size}), rounded);
    const std::vector<float> result = rounded.to_floats(ctx);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(result[i], static_cast<float>(bf16(values[i])));
  }
}

TEST(Cast, RoundsToNearestEven) { check_cast(cpu()); }
TEST(CastCuda, RoundsToNearestEven) { check_cast(*new_cuda()); }

TEST(Cast, ViewsAndOtherShapesAreErrors) {
  const Tensor a = Tensor::zeros(cpu(), {2, 4}, DType::f32);
  const Tensor b = Tensor::zeros(cpu(), {2, 2}, DType::bf16);
  EXPECT_THROW(cast_into(cpu(), a, b), Error);
  EXPECT_THROW(cast_into(cpu(), a.slice_cols(0, 2), b), Error);
}

}  // namespace
}  // namespace matvlm::testing
